"""Attention for packed rows: texts stand in one row [1, T], and none sees another.

    query, key, value [1, H, T, D]  ->  groups of texts of like length, padded inside attention only  ->  [1, T, H, D]

`T` tokens of all texts, `H` heads, `D` head width; in a group `N` texts of at most `L` tokens.

On a CPU the products, the softmax and the dropout are an autograd function of our own: PyTorch's kernel falls back to
its slow path there as soon as attention weights are dropped (docs/design/0004-packed-rows.md). Elsewhere it is
PyTorch's scaled dot product attention.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from leantune.dropout import draw_kept

NAME = "leantune_packed"
"""What transformers calls this attention."""

LEAST_FULL = 0.75
"""A text joins a group while it is at least this long, as a share of the group's longest: a quarter of the scores'
rows and columns is then padding at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Consecutive texts of a packed row that are computed at once."""

    first: int
    """Where they begin in the packed row."""
    lengths: tuple[int, ...]
    """Tokens of each text, N of them."""
    gather: Tensor | None
    """[N x L]: which token of the packed row stands where, a text's first token where it is padded; None where all
    have L tokens, so that the packed row itself is [N, L]."""
    scatter: Tensor | None
    """[tokens]: where each of the group's tokens stands in [N x L]; None as above."""
    padded: Tensor | None
    """[N, 1, 1, L] bool, true where there is no token; None as above."""

    @property
    def width(self) -> int:
        """Tokens of the longest text, L."""
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all its texts."""
        return sum(self.lengths)


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """Where the texts of a packed row stand."""

    starts: Tensor
    """[B]: the place of each text's first token, on the device."""
    lengths: Tensor
    """[B]: tokens of each text, on the device."""
    text: Tensor
    """[T]: the number of the text that each token belongs to, on the device."""
    groups: tuple[Group, ...]


def make_packing(lengths: list[int], device: torch.device) -> Packing:
    """Plan the attention of texts that stand one after the other; `lengths` has B numbers, best the longest first."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    groups, begin = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] < LEAST_FULL * lengths[begin]:
            groups.append(_make_group(starts[begin], tuple(lengths[begin:end]), device))
            begin = end
    return Packing(
        starts=torch.tensor(starts[:-1]).to(device),
        lengths=torch.tensor(lengths).to(device),
        text=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device),
        groups=tuple(groups),
    )


def _make_group(first: int, lengths: tuple[int, ...], device: torch.device) -> Group:
    width = max(lengths)
    if min(lengths) == width:
        return Group(first=first, lengths=lengths, gather=None, scatter=None, padded=None)
    count = torch.tensor(lengths)
    column = torch.arange(width)
    there = column < count[:, None]  # [N, L]
    begin = first + count.cumsum(0) - count
    gather = begin[:, None] + torch.where(there, column, 0)
    return Group(
        first=first,
        lengths=lengths,
        gather=gather.flatten().to(device),
        scatter=there.flatten().nonzero().flatten().to(device),
        padded=~there[:, None, None, :].to(device),
    )


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each text of a packed row; called by transformers' models, whose arguments these are.

    `query`, `key`, `value`: [1, H, T, D]. `sliding_window`: a token sees those that are fewer than so many places away.
    Returns [1, T, H, D].
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cpu" and (dropout > 0 or query.dtype is torch.bfloat16):
        arguments = (query[0], key[0], value[0], packing, scale, dropout, sliding_window)
        own: Tensor = _CpuAttention.apply(*arguments)  # type: ignore[no-untyped-call]
        return own[None], None
    parts = []
    for group in packing.groups:
        hidden = _hidden(group, sliding_window, query.device)
        q, k, v = (_unpack(x[0], group) for x in (query, key, value))
        mask = None if hidden is None else ~hidden
        parts.append(
            _pack(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale), group)
        )
    return torch.cat(parts)[None], None


AttentionInterface.register(NAME, packed_attention)


def _hidden(group: Group, window: int | None, device: torch.device) -> Tensor | None:
    """Return which keys a query does not see, [N or 1, 1, L or 1, L]; None where it sees all."""
    if window is None or group.width <= window:
        return group.padded
    place = torch.arange(group.width, device=device)
    far = ((place[:, None] - place).abs() >= window)[None, None]
    if group.padded is None:
        return far
    # What is padded sees all tokens, for nothing but padding within its window would make its weights NaN.
    return (far & ~group.padded.transpose(2, 3)) | group.padded


def _unpack(x: Tensor, group: Group) -> Tensor:
    """[H, T, D] -> [N, H, L, D]; what is padded holds a copy of some token, which nobody must see."""
    if group.gather is None:
        own = x[:, group.first : group.first + group.tokens]
        return own.view(own.shape[0], len(group.lengths), group.width, own.shape[2]).transpose(0, 1)
    taken = x.transpose(0, 1).index_select(0, group.gather)  # [N x L, H, D]
    return taken.view(len(group.lengths), group.width, *taken.shape[1:]).transpose(1, 2)


def _pack(x: Tensor, group: Group) -> Tensor:
    """[N, H, L, D] -> [tokens of the group, H, D]."""
    flat = x.transpose(1, 2).flatten(0, 1)
    return flat if group.scatter is None else flat.index_select(0, group.scatter)


class _CpuAttention(torch.autograd.Function):
    """softmax(q k' scale) v with dropped weights, in each group; keeps the weights for the backward pass.

    P = softmax(S), R = P x kept / (1 - p), O = R V. Then dV = R' dO, dR = dO V', dP = dR x kept / (1 - p),
    dS = P x (dP - rowsum(dO x O)), dQ = dS K scale, dK = dS' Q scale.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd's functions take their arguments in order
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        packing: Packing,
        scale: float,
        dropout: float,
        window: int | None,
    ) -> Tensor:
        heads, tokens, width = query.shape
        result = query.new_empty(tokens, heads, width)
        saved: list[Tensor | None] = []
        for group in packing.groups:
            q, k, v = (_unpack(x, group).contiguous() for x in (query, key, value))  # [N, H, L, D]
            scores = _wide(torch.matmul(q, k.transpose(2, 3))).mul_(scale)
            hidden = _hidden(group, window, query.device)
            if hidden is not None:
                scores.masked_fill_(hidden, -math.inf)
            weights = torch.softmax(scores, dim=-1).to(q.dtype)
            kept, ctx.kept_scale = draw_kept(weights.shape, dropout) if dropout > 0 else (None, 1.0)
            out = torch.matmul(_drop(weights, kept, ctx.kept_scale), v)
            result[group.first : group.first + group.tokens] = _pack(out, group)
            saved += [q, k, v, weights, out, kept]
        ctx.save_for_backward(*saved)
        ctx.packing, ctx.scale = packing, scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # taken once: where activations are computed again, a second time would be refused
        gradients = [torch.empty_like(grad, dtype=saved[0].dtype) for _ in range(3)]  # [T, H, D]
        for i, group in enumerate(ctx.packing.groups):
            q, k, v, weights, out, kept = saved[6 * i : 6 * i + 6]
            place = slice(group.first, group.first + group.tokens)
            d_out = _unpack_gradient(grad[place].to(q.dtype), group)  # [N, H, L, D]
            d_value = torch.matmul(_drop(weights, kept, ctx.kept_scale).transpose(2, 3), d_out)
            d_weights = torch.matmul(d_out, v.transpose(2, 3))
            if kept is not None:
                d_weights.mul_(kept).mul_(ctx.kept_scale)
            d_weights.sub_((_wide(d_out) * _wide(out)).sum(dim=-1, keepdim=True).to(d_weights.dtype))
            d_scores = d_weights.mul_(weights).mul_(ctx.scale)
            d_query, d_key = torch.matmul(d_scores, k), torch.matmul(d_scores.transpose(2, 3), q)
            for whole, part in zip(gradients, (d_query, d_key, d_value), strict=True):
                whole[place] = _pack(part, group)
        return (*(whole.transpose(0, 1) for whole in gradients), None, None, None, None)


def _drop(weights: Tensor, kept: Tensor | None, kept_scale: float) -> Tensor:
    return weights if kept is None else (weights * kept).mul_(kept_scale)


def _wide(x: Tensor) -> Tensor:
    """16-bit numbers in 32 bits: sums over a text lose too much otherwise."""
    return x.float() if x.dtype.itemsize == 2 else x


def _unpack_gradient(grad: Tensor, group: Group) -> Tensor:
    """[tokens of the group, H, D] -> [N, H, L, D], zero where it is padded."""
    count, width = len(group.lengths), group.width
    if group.scatter is not None:
        padded = grad.new_zeros(count * width, *grad.shape[1:])
        grad = padded.index_copy_(0, group.scatter, grad)
    return grad.reshape(count, width, *grad.shape[1:]).transpose(1, 2).contiguous()
