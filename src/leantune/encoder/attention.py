"""Attention for packed rows: texts stand in one row [1, T], and none sees another.

    query, key, value [1, H, T, D]  ->  groups of texts of like length, padded inside attention only  ->  [1, T, H, D]

`T` tokens of all texts, `H` heads, `D` head width; in a group `N` texts of at most `L` tokens.

On a CPU the products, the softmax and the dropout are our own, forward and backward: PyTorch's kernel falls back to its
slow path there as soon as attention weights are dropped (docs/design/0004-packed-rows.md). On a GPU, packed_kernels.py
has kernels that take the row as it is; where they do not compute what is asked for, it is PyTorch's scaled dot product
attention, in groups, or for a local window in blocks of the row (local_attention.py).

The attention weights of short texts are kept for the backward pass. Those of long ones, whose number grows with the
square of the length, are computed in blocks and not kept: the backward pass computes them again, as FlashAttention does
(Dao et al. 2022, arXiv 2205.14135). Unlike there, a block has all keys that its queries see, so the softmax keeps
nothing either.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from leantune.batches.packing import Group, Packing
from leantune.encoder.dropout import draw_kept, drop, kept_scale
from leantune.encoder.local_attention import attend_locally
from leantune.encoder.packed_kernels import attend_packed, kernel_of, without_cudnn
from leantune.encoder.relative import (
    Positions,
    Terms,
    add_gradients,
    add_position_gradients,
    add_position_scores,
    terms_of,
)

NAME = "leantune_packed"
"""What transformers calls this attention."""

LONG = 256
"""Tokens of a text above which its attention is computed in blocks on a CPU."""

LONG_WITH_TERMS = 512
"""The same where scores have terms by relative position, which would all be computed again in the backward pass."""

SCORES = 2**19
"""Scores that are computed at once in a block."""

FEWEST_QUERIES = 64
"""Queries of a block, whatever the length."""


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
    window = _needed(sliding_window, packing)
    kernel = kernel_of(query.device, query.dtype, query.shape[-1], dropout=dropout, window=window)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if kernel != "groups":
        return attend_packed(kernel, q, k, v, packing, scale=scale, dropout=dropout, window=window)[None], None
    if window is not None and query.device.type != "cpu":
        return attend_locally(q, k, v, packing, window=window, scale=scale, dropout=dropout)[None], None
    qkv = torch.stack([q, k, v], dim=1)
    # For a local window PyTorch's kernel takes a mask of L x L, and computes what lies outside of the window, too.
    long_window = window is not None and any(group.width > LONG for group in packing.groups)
    if query.device.type == "cpu" and (dropout > 0 or query.dtype is torch.bfloat16 or long_window):
        own: Tensor = _CpuAttention.apply(qkv, packing, scale, dropout, window)  # type: ignore[no-untyped-call]
        return own[None], None
    parts = []
    for group in packing.groups:
        hidden = _hidden(group, window, query.device)
        mask = None if hidden is None else ~hidden
        q, k, v = _unpack(qkv, group)
        with without_cudnn(query.device):
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        parts.append(_pack(attended[None], group)[:, 0])
    parts.append(torch.zeros_like(qkv[packing.tokens :, 0]))
    return torch.cat(parts)[None], None


def _needed(window: int | None, packing: Packing) -> int | None:
    """Return a local window, or None where no text is longer than it."""
    return None if window is None or max(packing.each) <= window else window


def attend_with_bias(qkv: Tensor, packing: Packing, positions: Positions, *, dropout: float) -> Tensor:
    """Compute attention with scores by relative position, by PyTorch's scaled dot product attention; differentiable.

    `qkv` [T, 3, H, D], the query already scaled. Returns [T, H, D].
    """
    parts = []
    for group in packing.groups:
        q, k, v = _unpack(qkv, group)
        terms = terms_of(positions, group.width)
        assert terms is not None
        # A number a head and distance is the same for all texts.
        texts = 1 if terms.keys is terms.queries is None else len(group.lengths)
        bias = q.new_zeros(texts, q.shape[1], group.width, group.width)
        add_position_scores(bias, terms, q, k)
        if group.padded is not None:
            bias = bias.masked_fill(group.padded, -math.inf)
        with without_cudnn(q.device):
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0)
        parts.append(_pack(attended[None], group)[:, 0])
    parts.append(torch.zeros_like(qkv[packing.tokens :, 0]))
    return torch.cat(parts)


def attend_first_packed(
    query: Tensor, key_value: Tensor, packing: Packing, *, scale: float, dropout: float, window: int | None
) -> Tensor:
    """Compute what `packed_attention` does for the first token of each text only; differentiable.

    `query` [B, H, D]; `key_value` [T, 2, H, D]. Returns [B, H, D].
    """
    window = _needed(window, packing)
    kernel = kernel_of(query.device, query.dtype, query.shape[-1], dropout=dropout, window=window)
    if kernel != "groups" and window is None:  # a kernel's window ends where the last key meets the last query
        # What follows the texts is left out: those bounds do not enclose it, so its gradient would be anything.
        key, value = key_value[: packing.tokens].unbind(1)
        drawn: dict[str, Any] = {"scale": scale, "dropout": dropout, "window": None}
        return attend_packed(kernel, query, key, value, packing, **drawn, only_first=True)
    parts, text = [], 0
    for group in packing.groups:
        texts = slice(text, text + len(group.lengths))
        key, value = _unpack(key_value, group)
        there = None if group.padded is None else ~group.padded
        if window is not None and group.width > window:
            near = torch.arange(group.width, device=query.device) < window
            there = near.expand(1, 1, 1, -1) if there is None else there & near
        first = query[texts, :, None]
        with without_cudnn(query.device):
            attended = F.scaled_dot_product_attention(
                first, key, value, attn_mask=there, dropout_p=dropout, scale=scale
            )
        parts.append(attended[:, :, 0])
        text = texts.stop
    return torch.cat(parts)


AttentionInterface.register(NAME, packed_attention)


class _Block(NamedTuple):
    """A part of a group's scores."""

    texts: slice
    heads: slice
    queries: slice
    keys: slice


WHOLE = _Block(slice(None), slice(None), slice(None), slice(None))


def _blocks(shape: torch.Size, window: int | None, *, whole: bool = False) -> Iterator[_Block]:
    """Cut the scores of a query [N, H, L, D] into blocks that hold all keys that their queries see.

    `whole`: a block has all queries of a text, as relative positions take them.
    """
    texts, heads, length, _ = shape
    reach = length if window is None else window - 1
    # As many queries as half of the keys that they see: few more would be computed for nothing.
    wanted = max(2 * reach, 1)
    rows = max(min(wanted, length, SCORES // min(wanted + 2 * reach, length)), FEWEST_QUERIES)
    rows = length if whole else rows
    # Many queries of few heads rather than few of many: gradients of keys are summed up over the blocks of queries.
    together = max(SCORES // (rows * min(rows + 2 * reach, length)), 1)
    for text in range(texts):
        for head in range(0, heads, together):
            for row in range(0, length, rows):
                yield _Block(
                    texts=slice(text, text + 1),
                    heads=slice(head, head + together),
                    queries=slice(row, row + rows),
                    keys=slice(max(row - reach, 0), row + rows + reach),
                )


def _hidden(group: Group, window: int | None, device: torch.device, block: _Block = WHOLE) -> Tensor | None:
    """Return which keys a query does not see, [N or 1, 1, Q or 1, keys] of a block; None where it sees all."""
    padded = None if group.padded is None else group.padded[block.texts]
    if window is None or group.width <= window:
        return None if padded is None else padded[..., block.keys]
    place = torch.arange(group.width, device=device)
    far = ((place[block.queries, None] - place[block.keys]).abs() >= window)[None, None]
    if padded is None:
        return far
    # What is padded sees all, for nothing but padding within its window would make its weights NaN.
    return (far | padded[..., block.keys]) & ~padded[..., block.queries].transpose(2, 3)


def _unpack(x: Tensor, group: Group) -> Tensor:
    """[T, C, H, D] -> [C, N, H, L, D]; what is padded holds a copy of some token, which nobody must see."""
    taken = x[group.first : group.first + group.tokens] if group.gather is None else x.index_select(0, group.gather)
    return taken.view(len(group.lengths), group.width, *x.shape[1:]).permute(2, 0, 3, 1, 4).contiguous()


def _pack(x: Tensor, group: Group) -> Tensor:
    """[C, N, H, L, D] -> [tokens of the group, C, H, D]."""
    flat = x.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return flat if group.scatter is None else flat.index_select(0, group.scatter)


def _unpack_gradient(grad: Tensor, group: Group) -> Tensor:
    """[tokens of the group, H, D] -> [N, H, L, D], zero where it is padded."""
    count, width = len(group.lengths), group.width
    if group.scatter is not None:
        padded = grad.new_zeros(count * width, *grad.shape[1:])
        grad = padded.index_copy_(0, group.scatter, grad)
    return grad.reshape(count, width, *grad.shape[1:]).transpose(1, 2).contiguous()


class Attended(NamedTuple):
    """What the backward pass needs of one group; Q is L, or 1 where only first tokens attend."""

    query: Tensor
    """[N, H, Q, D]"""
    key: Tensor
    value: Tensor
    """[N, H, L, D] each."""
    weights: Tensor | None
    """[N, H, Q, L], before any is dropped; None where they are computed again in blocks."""
    kept: Tensor | None
    """[N, H, Q, L] int16, 1 or 0; None without dropout, and where it is drawn again in blocks."""
    seed: Tensor | None
    """[] int64, from which `kept` is drawn again; None where it need not be."""


def attend(
    qkv: Tensor,
    packing: Packing,
    *,
    scale: float = 1.0,
    dropout: float = 0.0,
    window: int | None = None,
    positions: Positions | None = None,
) -> tuple[Tensor, list[Attended]]:
    """Compute softmax(q k' scale) v with dropped weights in each group, on a CPU.

    `qkv` [T, 3, H, D]. `positions` adds scores by relative position; the query is then already scaled. Returns
    [T, H, D], and what `attend_backward` needs.
    """
    tokens, _, heads, width = qkv.shape
    result = qkv.new_empty(tokens, heads, width)
    result[packing.tokens :] = 0
    saved = []
    for group in packing.groups:
        query, key, value = _unpack(qkv, group)
        terms = terms_of(positions, group.width)
        if group.width > (LONG if terms is None else LONG_WITH_TERMS):
            out, attended = _attend_in_blocks(
                query, key, value, group, window, scale=scale, dropout=dropout, terms=terms
            )
        else:
            hidden = _hidden(group, window, qkv.device)
            out, attended = _attend(query, key, value, hidden, scale=scale, dropout=dropout, terms=terms)
        result[group.first : group.first + group.tokens] = _pack(out[None], group)[:, 0]
        saved.append(attended)
    return result, saved


def attend_backward(
    grad: Tensor,
    saved: list[Attended],
    packing: Packing,
    *,
    scale: float = 1.0,
    dropout: float = 0.0,
    window: int | None = None,
    positions: Positions | None = None,
    gradients: Positions | None = None,
) -> Tensor:
    """Return the gradient of `attend`'s `qkv`, [T, 3, H, D], from that of its result, `grad` [T, H, D].

    That of its `positions` is added to `gradients`.
    """
    fixed: dict[str, Any] = {"scale": scale, "dropout": dropout}
    result = grad.new_empty(grad.shape[0], 3, *grad.shape[1:])
    result[packing.tokens :] = 0
    for group, attended in zip(packing.groups, saved, strict=True):
        place = slice(group.first, group.first + group.tokens)
        d_out = _unpack_gradient(grad[place], group)
        with _terms_and_gradients(positions, gradients, group) as (terms, d_terms):
            if attended.weights is None:
                own = _attend_backward_in_blocks(d_out, attended, group, window, terms=terms, d_terms=d_terms, **fixed)
            else:
                own = _attend_backward(d_out, attended, terms=terms, d_terms=d_terms, **fixed)
        result[place] = _pack(torch.stack(own), group)
    return result


@contextmanager
def _terms_and_gradients(
    positions: Positions | None, gradients: Positions | None, group: Group, *, of_firsts: bool = False
) -> Iterator[tuple[Terms | None, Terms | None]]:
    """Give a group's terms and zeros for their gradients, and add up in `gradients` what has come to them."""
    terms = terms_of(positions, group.width, of_firsts=of_firsts)
    d_terms = None if terms is None else terms.zero_gradients()
    yield terms, d_terms
    if d_terms is not None and gradients is not None:
        add_gradients(gradients, d_terms, group.width)


def attend_first(
    query: Tensor, key_value: Tensor, packing: Packing, *, dropout: float = 0.0, positions: Positions | None = None
) -> tuple[Tensor, list[Attended]]:
    """Compute what `attend` does for the first token of each text only.

    `query` [B, H, D], already scaled; `key_value` [T, 2, H, D]. Returns [B, H, D], and what `attend_first_backward`
    needs.
    """
    result, saved, text = torch.empty_like(query), [], 0
    for group in packing.groups:
        texts = slice(text, text + len(group.lengths))
        key, value = _unpack(key_value, group)
        first = query[texts, :, None]
        terms = terms_of(positions, group.width, of_firsts=True)
        out, attended = _attend(first, key, value, group.padded, scale=1.0, dropout=dropout, terms=terms)
        result[texts] = out[:, :, 0]
        saved.append(attended)
        text = texts.stop
    return result, saved


def attend_first_backward(
    grad: Tensor,
    saved: list[Attended],
    packing: Packing,
    *,
    tokens: int,
    dropout: float = 0.0,
    positions: Positions | None = None,
    gradients: Positions | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `attend_first`'s arguments, [B, H, D] and [T, 2, H, D], from that of its result.

    `tokens` is T. The gradient of its `positions` is added to `gradients`.
    """
    d_query, text = torch.empty_like(grad), 0
    d_key_value = grad.new_empty(tokens, 2, *grad.shape[1:])
    d_key_value[packing.tokens :] = 0
    for group, attended in zip(packing.groups, saved, strict=True):
        texts = slice(text, text + len(group.lengths))
        with _terms_and_gradients(positions, gradients, group, of_firsts=True) as (terms, d_terms):
            d_first, *others = _attend_backward(
                grad[texts, :, None], attended, scale=1.0, dropout=dropout, terms=terms, d_terms=d_terms
            )
        d_query[texts] = d_first[:, :, 0]
        d_key_value[group.first : group.first + group.tokens] = _pack(torch.stack(others), group)
        text = texts.stop
    return d_query, d_key_value


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor | None,
    *,
    scale: float,
    dropout: float,
    terms: Terms | None,
) -> tuple[Tensor, Attended]:
    """[N, H, Q, D], [N, H, L, D] twice -> [N, H, Q, D]; `hidden`: which keys a query does not see, as `_hidden`."""
    weights = _weigh(query, key, hidden, scale=scale, terms=terms)
    kept = draw_kept(weights.shape, dropout) if dropout > 0 else None
    attended = Attended(query, key, value, weights, kept, None)
    return _sum_values(attended, dropout), attended


def _weigh(query: Tensor, key: Tensor, hidden: Tensor | None, *, scale: float, terms: Terms | None) -> Tensor:
    """Return the weights, [N, H, Q, L], before any is dropped."""
    scores = torch.matmul(query, key.transpose(2, 3))
    if terms is not None:
        add_position_scores(scores, terms, query, key)
    if scale != 1.0:
        scores.mul_(scale)
    if hidden is not None:  # added, since filling by a mask is several times slower
        scores.add_(torch.zeros_like(hidden, dtype=scores.dtype).masked_fill_(hidden, -math.inf))
    return torch.softmax(scores, dim=-1)  # in 32 bits inside, whatever comes in and goes out


def _sum_values(attended: Attended, dropout: float) -> Tensor:
    """Return the sums of the values by their weights, [N, H, Q, D]."""
    weights, kept = attended.weights, attended.kept
    assert weights is not None
    out = torch.matmul(weights if kept is None else drop(weights, kept), attended.value)
    return out if kept is None else out.mul_(kept_scale(dropout))


def _attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Group,
    window: int | None,
    *,
    scale: float,
    dropout: float,
    terms: Terms | None,
) -> tuple[Tensor, Attended]:
    """Compute what `_attend` does with much less memory; [N, H, L, D] three times -> [N, H, L, D]."""
    seed = torch.empty((), dtype=torch.int64).random_() if dropout > 0 else None
    saved, out = Attended(query, key, value, None, None, seed), torch.empty_like(query)
    for block, attended in _weigh_in_blocks(saved, group, window, scale=scale, dropout=dropout, terms=terms):
        out[block.texts, block.heads, block.queries] = _sum_values(attended, dropout)
    return out, saved


def _weigh_in_blocks(
    saved: Attended, group: Group, window: int | None, *, scale: float, dropout: float, terms: Terms | None
) -> Iterator[tuple[_Block, Attended]]:
    """Compute the weights block by block, and draw which of them are kept: every time the same ones."""
    own = None if saved.seed is None else torch.Generator().manual_seed(int(saved.seed))
    for block in _blocks(saved.query.shape, window, whole=terms is not None):
        query = saved.query[block.texts, block.heads, block.queries]
        key, value = (x[block.texts, block.heads, block.keys] for x in (saved.key, saved.value))
        hidden = _hidden(group, window, query.device, block)
        own_terms = None if terms is None else terms.of_heads(block.heads)
        weights = _weigh(query, key, hidden, scale=scale, terms=own_terms)
        kept = None if own is None else draw_kept(weights.shape, dropout, own)
        yield block, Attended(query, key, value, weights, kept, None)


def _attend_backward(
    d_out: Tensor,
    saved: Attended,
    *,
    scale: float,
    dropout: float,
    terms: Terms | None,
    d_terms: Terms | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value; that of `terms` is added to `d_terms`.

    With P = softmax(S) and R = P x kept / (1 - p), so that O = R V: dV = R' dO, dR = dO V', dP = dR x kept / (1 - p),
    dS = P x (dP - rowsum(P x dP)), dQ = dS K scale, dK = dS' Q scale.
    """
    query, key, value, weights, kept, _ = saved
    assert weights is not None
    if kept is not None:
        d_out = d_out * kept_scale(dropout)
    d_value = torch.matmul((weights if kept is None else drop(weights, kept)).transpose(2, 3), d_out)
    d_weights = torch.matmul(d_out, value.transpose(2, 3))
    if kept is not None:
        drop(d_weights, kept, out=d_weights)
    d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    if scale != 1.0:
        d_scores.mul_(scale)
    d_query, d_key = torch.matmul(d_scores, key), torch.matmul(d_scores.transpose(2, 3), query)
    if terms is not None and d_terms is not None:
        add_position_gradients(d_scores, terms, query, key, of=(d_query, d_key, d_terms))
    return d_query, d_key, d_value


def _attend_backward_in_blocks(
    d_out: Tensor,
    saved: Attended,
    group: Group,
    window: int | None,
    *,
    scale: float,
    dropout: float,
    terms: Terms | None,
    d_terms: Terms | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_attend_backward` does, for `_attend_in_blocks`."""
    exact = torch.promote_types(d_out.dtype, torch.float32)  # sums of 16 bits would lose some at each block
    d_query = torch.empty_like(saved.query)
    d_key, d_value = (torch.zeros_like(x, dtype=exact) for x in (saved.key, saved.value))
    for block, attended in _weigh_in_blocks(saved, group, window, scale=scale, dropout=dropout, terms=terms):
        of_block = [None if x is None else x.of_heads(block.heads) for x in (terms, d_terms)]
        fixed: dict[str, Any] = {"scale": scale, "dropout": dropout, "terms": of_block[0], "d_terms": of_block[1]}
        queries, keys = (block.texts, block.heads, block.queries), (block.texts, block.heads, block.keys)
        d_query[queries], own_key, own_value = _attend_backward(d_out[queries], attended, **fixed)
        d_key[keys] += own_key
        d_value[keys] += own_value
    return d_query, d_key.to(d_out.dtype), d_value.to(d_out.dtype)


class _CpuAttention(torch.autograd.Function):
    """`attend` as autograd knows it."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd's functions take their arguments in order
        ctx: Any, qkv: Tensor, packing: Packing, scale: float, dropout: float, window: int | None
    ) -> Tensor:
        result, saved = attend(qkv, packing, scale=scale, dropout=dropout, window=window)
        ctx.save_for_backward(*chain.from_iterable(saved))
        ctx.packing, ctx.fixed = packing, {"scale": scale, "dropout": dropout, "window": window}
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = restore(ctx.saved_tensors)
        d_qkv = attend_backward(grad, saved, ctx.packing, **ctx.fixed)
        return d_qkv, None, None, None, None


def restore(tensors: Sequence[Any]) -> list[Attended]:
    """Return what `attend` saved from its tensors, one after the other."""
    size = len(Attended._fields)
    return [Attended(*tensors[at : at + size]) for at in range(0, len(tensors), size)]
