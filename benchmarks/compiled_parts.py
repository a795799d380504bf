"""Would torch.compile make a layer's step faster, on this device?

    python benchmarks/compiled_parts.py --hidden 384 --tokens 672 2048

What a packed layer computes after its attention (the output's product, dropout, residual, norm, the feed-forward part),
forward and backward, once as `encoder_layer.py` does it and once as two functions that torch.compile turns into kernels
for any number of tokens. Dropout is 0.1. On a CPU the values to keep are drawn before, in both ways alike; on a GPU the
compiled function draws them itself. The ways take turns. Prints a table: medians over the rounds, and the range of the
ratio within a round; and first how far the two are from each other without dropout.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leantune.encoder.dropout import draw_kept, kept_scale
from leantune.encoder.encoder_layer import _add_dropped, _dropped_backward, _linear_gradients, _norm, _norm_backward
from leantune.system.device import resolve_device, synchronize
from leantune.training.precision import make_precision

aten = torch.ops.aten
Way = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, ...]]
"""Context [T, h], residual [T, h], gradient [T, h] and dropout; returns the result and all gradients."""


class Weights:
    """Of one layer, random."""

    def __init__(self, hidden: int, dtype: torch.dtype, device: torch.device) -> None:
        def draw(*shape: int) -> Tensor:
            return (torch.randn(*shape, device=device) * 0.02).to(dtype)

        self.out, self.out_bias = draw(hidden, hidden), draw(hidden)
        self.up, self.up_bias = draw(4 * hidden, hidden), draw(4 * hidden)
        self.down, self.down_bias = draw(hidden, 4 * hidden), draw(hidden)
        self.norms = [nn.LayerNorm(hidden, eps=1e-12, device=device) for _ in range(2)]


def as_it_is(w: Weights) -> Way:
    """Return what `encoder_layer.py` computes, operation by operation."""
    dtype = w.out.dtype

    def step(context: Tensor, x: Tensor, grad: Tensor, dropout: float) -> tuple[Tensor, ...]:
        first, kept_first = _add_dropped(x, F.linear(context, w.out, w.out_bias), dropout)
        y, *moments_first = _norm(first, w.norms[0])
        y16 = y.to(dtype)
        up = F.linear(y16, w.up, w.up_bias)
        activated = F.gelu(up)
        second, kept_second = _add_dropped(y, F.linear(activated, w.down, w.down_bias), dropout)
        result, *moments_second = _norm(second, w.norms[1])

        d_second, *d_norm_second = _norm_backward(grad, second, *moments_second, w.norms[1])
        d_down = _dropped_backward(d_second.to(dtype), kept_second, dropout)
        d_up = aten.gelu_backward(torch.mm(d_down, w.down), up)
        d_first, *d_norm_first = _norm_backward(d_second + torch.mm(d_up, w.up), first, *moments_first, w.norms[0])
        d_out = _dropped_backward(d_first.to(dtype), kept_first, dropout)
        products = (*_linear_gradients(d_out, context), *_linear_gradients(d_up, y16))
        products += _linear_gradients(d_down, activated)
        return result, torch.mm(d_out, w.out), d_first, *products, *d_norm_first, *d_norm_second

    return step


def compiled(w: Weights) -> Way:
    """Return the same as two compiled functions."""
    dtype, hidden = w.out.dtype, len(w.out)
    on_cpu = w.out.device.type == "cpu"

    def dropped(x: Tensor, kept: Tensor | None, dropout: float) -> tuple[Tensor, Tensor | None]:
        if dropout == 0:
            return x, None
        if kept is None:
            kept = torch.rand_like(x, dtype=torch.float32) >= dropout
        return x.float() * kept * (kept_scale(dropout) if on_cpu else 1 / (1 - dropout)), kept

    def forward(context: Tensor, x: Tensor, keep: list[Tensor | None], dropout: float, *p: Tensor) -> tuple[Any, ...]:
        out, out_bias, up_weight, up_bias, down, down_bias, *norms = p
        change, kept_first = dropped(F.linear(context, out, out_bias), keep[0], dropout)
        first = x + change
        y, *moments_first = torch.native_layer_norm(first, [hidden], norms[0], norms[1], 1e-12)
        y16 = y.to(dtype)
        up = F.linear(y16, up_weight, up_bias)
        activated = F.gelu(up)
        change, kept_second = dropped(F.linear(activated, down, down_bias), keep[1], dropout)
        second = y + change
        result, *moments_second = torch.native_layer_norm(second, [hidden], norms[2], norms[3], 1e-12)
        return result, first, moments_first, y16, up, activated, second, moments_second, [kept_first, kept_second]

    def backward(
        grad: Tensor, context: Tensor, kept: tuple[Any, ...], dropout: float, *p: Tensor
    ) -> tuple[Tensor, ...]:
        out, _, up_weight, _, down, _, *norms = p
        first, moments_first, y16, up, activated, second, moments_second, keep = kept
        every = [True, True, True]
        d_second, *d_norm_second = aten.native_layer_norm_backward(
            grad, second, [hidden], *moments_second, norms[2], norms[3], every
        )
        d_down = dropped(d_second, keep[1], dropout)[0].to(dtype)
        d_up = aten.gelu_backward(torch.mm(d_down, down), up)
        d_y = d_second + torch.mm(d_up, up_weight)
        d_first, *d_norm_first = aten.native_layer_norm_backward(
            d_y, first, [hidden], *moments_first, norms[0], norms[1], every
        )
        d_out = dropped(d_first, keep[0], dropout)[0].to(dtype)
        products = []
        for own, inputs in ((d_out, context), (d_up, y16), (d_down, activated)):
            products += [torch.mm(own.t(), inputs).float(), own.float().sum(0)]
        return torch.mm(d_out, out), d_first, *products, *d_norm_first, *d_norm_second

    fast_forward, fast_backward = (torch.compile(function, dynamic=True) for function in (forward, backward))
    norms = [p.detach() for norm in w.norms for p in (norm.weight, norm.bias)]
    parameters = (w.out, w.out_bias, w.up, w.up_bias, w.down, w.down_bias, *norms)

    def step(context: Tensor, x: Tensor, grad: Tensor, dropout: float) -> tuple[Tensor, ...]:
        drawn = on_cpu and dropout > 0
        keep = [draw_kept(x.shape, dropout) if drawn else None for _ in range(2)]
        result, *kept = fast_forward(context, x, keep, dropout, *parameters)
        return result, *fast_backward(grad, context, tuple(kept), dropout, *parameters)

    return step


@torch.no_grad()
def compare(ways: dict[str, Way], tokens: int, w: Weights, options: argparse.Namespace) -> None:
    """Print a row of the table for each way."""
    hidden, device = len(w.out), w.out.device

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        x, grad = (torch.randn(tokens, hidden, device=device) for _ in range(2))
        return torch.randn(tokens, hidden, device=device).to(w.out.dtype), x, grad

    given = draw()
    one, other = (way(*given, 0.0) for way in ways.values())
    furthest = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other, strict=True))
    print(f"{tokens} tokens: at most {furthest:.1e} of the largest number apart", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name in ways if number % 2 else reversed(ways):
            synchronize(device)
            began = time.perf_counter()
            for _ in range(options.steps):
                ways[name](*given, 0.1)
            synchronize(device)
            if number:
                seconds[name].append((time.perf_counter() - began) / options.steps)
    print("| | milliseconds | of what it is | range |\n|---|---|---|---|")
    base = seconds["as it is"]
    for name, own in seconds.items():
        shares = [a / b for a, b in zip(own, base, strict=True)]
        spread = f"{min(shares):.2f} to {max(shares):.2f}"
        print(
            f"| {name} | {1000 * statistics.median(own):.2f} | {statistics.median(shares):.2f} | {spread} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--tokens", type=int, nargs="+", default=[672, 2048])
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=10, help="in a row, a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.manual_seed(0)
    w = Weights(options.hidden, make_precision(options.precision, device).matrix_dtype, device)
    ways = {"as it is": as_it_is(w), "compiled": compiled(w)}
    for tokens in options.tokens:
        compare(ways, tokens, w, options)


if __name__ == "__main__":
    main()
