"""Dropout from cheap random bits, for CPUs, where PyTorch draws a random float for every value
(docs/design/0004-packed-rows.md has the times).
"""

from typing import Any

import torch
from torch import Tensor, nn

ALL = 2**16
"""Sixteen random bits decide over a value, four values a 64-bit word."""

WORDS = 2**17
"""Words that are drawn at once: few enough to stay in the cache."""

GOLDEN = -7046029254386353131
MIXERS = ((30, -4658895280553007687), (27, -7723592293110705685))
"""The constants of SplitMix64 (Steele, Lea and Flood, 2014, doi 10.1145/2660193.2660195), as signed numbers."""


def draw_kept(shape: torch.Size, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw which values are kept, int16 of `shape`, 1 or 0, with `probability`, above 0, of dropping.

    It is kept to within 1 / 131072, and `kept_scale` makes up for the rest. The bits come from SplitMix64, seeded by
    `generator`; None is torch's own.
    """
    count = shape.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64)
    for part in torch.split(words, WORDS):
        seed = torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        split_mix(int(seed), out=part)
    bits = words.view(torch.int16)[:count].view(shape)
    least = _threshold(probability) - ALL // 2
    return bits.clamp_(least - 1, least).sub_(least - 1)


def kept_scale(probability: float) -> float:
    """Return by what the values that `draw_kept` keeps are multiplied, so that the mean stays."""
    return ALL / (ALL - _threshold(probability)) if probability > 0 else 1.0


def _threshold(probability: float) -> int:
    return max(1, round(probability * ALL))


def split_mix(seed: int, out: Tensor) -> None:
    """Fill `out`, int64 [n], with the first n 64-bit numbers of SplitMix64 for a seed.

    Each is the same function of its place, so that all cores take part; PyTorch's generator for CPUs makes one number
    from the one before.
    """
    torch.arange(1, len(out) + 1, out=out)
    out.mul_(GOLDEN).add_(seed)
    shifted = torch.empty_like(out)
    for shift, factor in MIXERS:
        out.bitwise_xor_(_shift_right(out, shift, shifted)).mul_(factor)
    out.bitwise_xor_(_shift_right(out, 31, shifted))


def _shift_right(x: Tensor, bits: int, out: Tensor) -> Tensor:
    """Shift 64-bit numbers to the right, zeros coming in: torch repeats the sign."""
    return torch.bitwise_right_shift(x, bits, out=out).bitwise_and_(2 ** (64 - bits) - 1)


def drop(x: Tensor, kept: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return `x` with zeros where `kept`, int16 of its shape, is 0; written to `out`, which may be `x` itself.

    A product of bit patterns: PyTorch multiplies two types that differ many times more slowly than two that do not.
    """
    bits = {2: torch.int16, 4: torch.int32}.get(x.dtype.itemsize, x.dtype)
    if out is None:
        out = torch.empty_like(x)
    torch.mul(x.view(bits), kept.to(bits), out=out.view(bits))
    return out


class BitDropout(nn.Dropout):
    """`nn.Dropout` on a CPU, from `draw_kept`; has no weights, so it can stand in a model that was saved without it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as nn.Dropout has it
        """Drop values in training; return the input as it is otherwise."""
        if not self.training or self.p == 0:
            return input
        dropped: Tensor = _Drop.apply(input, self.p)  # type: ignore[no-untyped-call]
        return dropped


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        kept = draw_kept(x.shape, probability)
        ctx.save_for_backward(kept)
        ctx.scale = kept_scale(probability)
        return drop(x, kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return drop(gradients[0], kept).mul_(ctx.scale), None


def use_bit_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of a model in place."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p))
