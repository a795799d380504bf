"""Attention kernels of GPUs that take a packed row as it is: cumulative lengths say where its texts begin.

    query, key, value [T, H, D], cumulative lengths [B + 1]  ->  [T, H, D]

PyTorch has three ways to two kernels. `choose_kernel` picks one from facts alone, so that the choice is tested without
a GPU, and `kernel_of` compares it with the plain formula on the device that it is to run on, before it is trusted.
Where there is none, texts are padded in groups of like lengths (attention.py); a local window is computed in blocks of
the row (local_attention.py).

cuDNN's attention is never used: it makes a plan for each new shape, 23 to 37 ms each on a Hopper, and packed rows have
a new shape in nearly every micro-batch (docs/design/0013-gpus.md).
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from leantune.batches.packing import Bounds, Packing, make_packing
from leantune.system.device import compute_capability, is_out_of_memory, kernels_of

Kernel = Literal["varlen", "flash", "efficient", "groups"]
"""`varlen`: `torch.nn.attention.varlen.varlen_attn`, public, without dropout. `flash`: the same kernel by its private
name, which takes dropout and windows. `efficient`: the memory-efficient kernel, which older GPUs and float32 have, too,
but only without windows. `groups`: none of them."""

PROVEN_LENGTHS = (150, 70, 9, 1)
PROVEN_WINDOW = 17
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Largest error of outputs and gradients, relative to the largest value: a few roundings. A wrong text or a wrong
window is off by about 1."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the choice of a kernel goes by."""

    device: str
    """cuda, mps or cpu: whose kernels compute."""
    capability: tuple[int, int] | None
    """NVIDIA's compute capability; None for every other device."""
    dtype: torch.dtype
    head_width: int
    dropout: bool
    window: bool


def choose_kernel(facts: Facts) -> Kernel:
    """Return the fastest kernel that computes this: a pure function."""
    if facts.device != "cuda" or facts.capability is None or facts.dtype not in TOLERANCES:
        return "groups"
    is_ampere = facts.capability >= (8, 0)
    # Wider heads have a backward pass on some cards only.
    if facts.dtype.itemsize == 2 and is_ampere and facts.head_width % 8 == 0 and facts.head_width <= 192:
        return "flash" if facts.dropout or facts.window else "varlen"
    is_computed = facts.dtype is not torch.bfloat16 or is_ampere
    is_aligned = facts.head_width * facts.dtype.itemsize % 16 == 0
    # Its window reaches to the left only, for decoders.
    if is_computed and is_aligned and not facts.window and facts.capability >= (5, 0):
        return "efficient"
    return "groups"


def kernel_of(
    device: torch.device, dtype: torch.dtype, head_width: int, *, dropout: float, window: int | None = None
) -> Kernel:
    """Return the kernel for a call, proven on this device."""
    facts = Facts(
        device=kernels_of(device),
        capability=compute_capability(device),
        dtype=dtype,
        head_width=head_width,
        dropout=dropout > 0,
        window=window is not None,
    )
    kernel = choose_kernel(facts)
    if kernel == "groups" or device.type == "meta" or proves(kernel, facts, device):
        return kernel
    return "groups"


@cache
def proves(kernel: Kernel, facts: Facts, device: torch.device) -> bool:
    """Tell whether a kernel computes on this device what the formula says, outputs and gradients; waits for the device,
    once. A kernel that fails does not, but for a lack of memory."""
    try:
        return bool(kernel_error(kernel, facts, device) <= TOLERANCES[facts.dtype])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False


def kernel_error(kernel: Kernel, facts: Facts, device: torch.device) -> float:
    """Return by how much a kernel without dropout is off, relative to the largest value: outputs and gradients.

    What it drops can only be held against the formula on average, as the tests for GPUs do.
    """
    own = torch.Generator().manual_seed(0)  # the global one draws the dropout
    shape = (sum(PROVEN_LENGTHS), 2, facts.head_width)
    drawn = [torch.randn(shape, generator=own).to(facts.dtype).to(device) for _ in range(4)]
    packing, window = make_packing(list(PROVEN_LENGTHS), device), PROVEN_WINDOW if facts.window else None
    found: list[Tensor] = []
    expected: list[Tensor] = []
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for exact, results in ((False, found), (True, expected)):
            inputs = [x.double() if exact else x.clone() for x in drawn]
            query, key, value = (x.requires_grad_() for x in inputs[:3])
            scale: float = facts.head_width**-0.5
            if exact:
                out = _formula(query, key, value, window=window, scale=scale)
            else:
                out = attend_packed(kernel, query, key, value, packing, scale=scale, dropout=0.0, window=window)
            results += [out.detach(), *torch.autograd.grad(out, [query, key, value], inputs[3])]
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def _formula(query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scale: float) -> Tensor:
    parts, begin = [], 0
    for length in PROVEN_LENGTHS:
        q, k, v = (x[begin : begin + length].transpose(0, 1) for x in (query, key, value))
        scores = q @ k.transpose(1, 2) * scale
        if window is not None:
            place = torch.arange(length, device=query.device)
            scores = scores.masked_fill((place[:, None] - place).abs() >= window, -torch.inf)
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
        begin += length
    return torch.cat(parts)


def attend_packed(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    *,
    scale: float,
    dropout: float,
    window: int | None,
    only_first: bool = False,
) -> Tensor:
    """Attend within each text, [T, H, D] three times -> [T, H, D]; autograd knows how to go back.

    With `only_first` the first tokens' queries come, [B, H, D], and their results go out.
    """
    bounds = packing.to_firsts() if only_first else packing.to_all()
    if kernel == "varlen":
        out = varlen_attn(query, key, value, *bounds, scale=scale)
        assert isinstance(out, Tensor)  # a pair only where more is asked for
        return out
    return compute(kernel, query, key, value, bounds, scale=scale, dropout=dropout, window=window).out


class Computed(NamedTuple):
    """What a kernel made, and what its backward pass needs."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    logsumexp: Tensor
    seed: Tensor
    offset: Tensor


def compute(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Bounds,
    *,
    scale: float,
    dropout: float,
    window: int | None = None,
) -> Computed:
    """Run a kernel forward: [Q, H, D] and [T, H, D] twice -> [Q, H, D]."""
    if kernel == "efficient":
        out, logsumexp, seed, offset, *_ = torch.ops.aten._efficient_attention_forward(
            query[None], key[None], value[None], None, *bounds, dropout, 0, True, scale=scale
        )
        return Computed(query, key, value, out[0], logsumexp, seed, offset)
    reach = -1 if window is None else window - 1
    out, logsumexp, seed, offset, _ = torch.ops.aten._flash_attention_forward(
        *(query, key, value, *bounds, dropout, False, False),
        scale=scale,
        window_size_left=reach,
        window_size_right=reach,
    )
    return Computed(query, key, value, out, logsumexp, seed, offset)


def compute_backward(
    kernel: Kernel,
    grad: Tensor,
    computed: Computed,
    bounds: Bounds,
    *,
    scale: float,
    dropout: float,
    window: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value from that of the output, [Q, H, D].

    What no bounds enclose has no gradient: those places hold anything.
    """
    query, key, value, out, logsumexp, seed, offset = computed
    if kernel == "efficient":
        d_query, d_key, d_value, _ = torch.ops.aten._efficient_attention_backward(
            *(grad[None], query[None], key[None], value[None], None, out[None], *bounds, logsumexp),
            *(dropout, seed, offset, 0, False),
            scale=scale,
        )
        return d_query[0], d_key[0], d_value[0]
    reach = -1 if window is None else window - 1
    d_query, d_key, d_value = torch.ops.aten._flash_attention_backward(
        *(grad, query, key, value, out, logsumexp, *bounds, dropout, False, seed, offset),
        scale=scale,
        window_size_left=reach,
        window_size_right=reach,
    )
    return d_query, d_key, d_value


def without_cudnn(device: torch.device) -> AbstractContextManager[None]:
    """Keep PyTorch's own attention on a GPU from cuDNN during a block: it makes a plan for each new shape."""
    if device.type != "cuda":
        return nullcontext()
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    chosen: AbstractContextManager[None] = sdpa_kernel(kernels)
    return chosen
