"""Scores by relative position: what DeBERTa and MPNet add to the products of queries and keys.

    score of query i and key j  =  q_i k_j  +  q_i a_(i-j)  +  k_j b_(i-j)  +  c_(i-j)

DeBERTa has the second term (content to position) and the third (position to content), or one of them; its `a` and `b`
are projections of an embedding of distances, which share rows above a distance (log buckets). MPNet has the fourth, a
number a head and distance (He et al. 2021, arXiv 2006.03654; Song et al. 2020, arXiv 2004.09297). The queries, `b` and
the sum's scale are multiplied before.

The stock models gather the second and third term of each pair from the products with all rows of the embedding. Here
the products are made with the rows of the distances that a text has, in their order. Then the scores of a query lie
side by side, those of the next query begin one place further left, and a strided view of the products is what must be
added: nothing is gathered (docs/design/0014-relative-positions.md).

`N` texts of at most `L` tokens, `H` heads, `D` head width, `W` the largest `L` of a row, `R` rows of the embedding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Distances:
    """What all layers share of a packed row."""

    row_of: Tensor | None
    """[2W + 1] int64: the row of `embedding` of each distance i - j, from -W to W; None where there is none."""
    embedding: Tensor | None
    """[R, h]: the rows of the embedding of distances that are in reach; None where there is none."""
    bias: Tensor | None
    """[2W + 1, H]: what each head adds to a score, by the distance i - j from -W to W; None where it adds nothing."""


class Positions(NamedTuple):
    """The terms of one layer; each is None where the model does not have it."""

    row_of: Tensor | None
    """[2W + 1], as in `Distances`."""
    keys: Tensor | None
    """[R, H, D]: `a`, by row."""
    queries: Tensor | None
    """[R, H, D]: `b`, by row."""
    bias: Tensor | None
    """[2W + 1, H]: `c`, by distance."""

    def of_heads(self, heads: slice) -> "Positions":
        """Return the terms of some heads."""
        keys, queries, bias = (None if x is None else x[:, heads] for x in (self.keys, self.queries, self.bias))
        return Positions(self.row_of, keys, queries, bias)

    def zero_gradients(self) -> "Positions":
        """Return zeros in the shapes of the terms, in float32 at least, to add gradients to."""
        zeros = (
            None if x is None else torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
            for x in (self.keys, self.queries, self.bias)
        )
        return Positions(self.row_of, *zeros)


def positions_of(attention: Any, distances: Distances, *, heads: int, scale: float) -> Positions:
    """Return the terms of a layer from its module of attention; differentiable.

    The projections are made once for all texts of a packed row, of the rows in reach. `scale`: what the products of
    queries and keys are multiplied by.
    """
    keys = queries = None
    if distances.embedding is not None:
        embedding = attention.pos_dropout(distances.embedding)
        own = {"c2p": attention.key_proj, "p2c": attention.query_proj}
        if not attention.share_att_key:
            own = {
                name: getattr(attention, f"pos_{kind}_proj", None) for name, kind in (("c2p", "key"), ("p2c", "query"))
            }
        if "c2p" in attention.pos_att_type:
            keys = own["c2p"](embedding).unflatten(1, (heads, -1))
        if "p2c" in attention.pos_att_type:
            queries = own["p2c"](embedding).unflatten(1, (heads, -1)) * scale
    return Positions(distances.row_of, keys, queries, distances.bias)


def count_terms(attention: Any) -> int:
    """Return how many products with embeddings of distances a module of attention makes beside that of queries and
    keys: DeBERTa's make one or two."""
    if not getattr(attention, "relative_attention", False):
        return 0
    return sum(name in attention.pos_att_type for name in ("c2p", "p2c"))


def position_scores(positions: Positions, query: Tensor, key: Tensor) -> list[Tensor]:
    """Return what is to be added to the scores, each term [N or 1, H, Q, L]; differentiable.

    `query` [N, H, Q, D], where Q is L, or 1 where only first tokens attend; `key` [N, H, L, D].
    """
    terms, (queries, length) = [], (query.shape[2], key.shape[2])
    if positions.keys is not None:
        products = torch.einsum("nhqd,khd->nhqk", query, positions.keys[_key_rows(positions, queries, length)])
        terms.append(_skewed(products, length) if queries > 1 else products)
    if positions.queries is not None:
        rows = positions.queries[_query_rows(positions, queries, length)]
        if queries > 1:
            terms.append(_skewed(torch.einsum("nhkd,qhd->nhkq", key, rows), length).transpose(2, 3))
        else:
            terms.append(torch.einsum("nhkd,khd->nhk", key, rows)[:, :, None])
    if positions.bias is not None:
        bias = positions.bias[_places(positions.bias, queries, length)].t().to(query.dtype)
        # A window of L distances for each query, the first query's last.
        terms.append((bias.unfold(1, length, 1)[:, :length].flip(1) if queries > 1 else bias[:, None])[None])
    return terms


def add_position_gradients(
    d_scores: Tensor, positions: Positions, query: Tensor, key: Tensor, *, of: tuple[Tensor, Tensor, Positions]
) -> None:
    """Add to the gradients `of` query, key and positions what comes of `position_scores`.

    `d_scores` [N, H, Q, L] is the gradient of the scores; query, key and their gradients are as in `position_scores`.
    """
    d_query, d_key, gradients = of
    queries, length = query.shape[2], key.shape[2]
    if positions.keys is not None and gradients.keys is not None:
        places = _key_rows(positions, queries, length)
        d_products = _unskewed(d_scores, length) if queries > 1 else d_scores
        d_query += torch.einsum("nhqk,khd->nhqd", d_products, positions.keys[places])
        own = torch.einsum("nhqk,nhqd->khd", d_products, query)
        gradients.keys.index_add_(0, places, own.to(gradients.keys.dtype))
    if positions.queries is not None and gradients.queries is not None:
        places = _query_rows(positions, queries, length)
        if queries > 1:
            d_products = _unskewed(d_scores.transpose(2, 3), length)
            d_key += torch.einsum("nhkq,qhd->nhkd", d_products, positions.queries[places])
            own = torch.einsum("nhkq,nhkd->qhd", d_products, key)
        else:
            d_key += torch.einsum("nhk,khd->nhkd", d_scores[:, :, 0], positions.queries[places])
            own = torch.einsum("nhk,nhkd->khd", d_scores[:, :, 0], key)
        gradients.queries.index_add_(0, places, own.to(gradients.queries.dtype))
    if positions.bias is not None and gradients.bias is not None:
        own = d_scores.sum(0, dtype=gradients.bias.dtype)  # [H, Q, L]
        own = _unskewed(own, length).sum(1) if queries > 1 else own[:, 0]
        gradients.bias.index_add_(0, _places(positions.bias, queries, length), own.t())


def _key_rows(positions: Positions, queries: int, length: int) -> Tensor:
    assert positions.row_of is not None
    return positions.row_of[_places(positions.row_of, queries, length)]


def _places(table: Tensor, queries: int, length: int) -> Tensor:
    """Return where a table [2W + 1, ...] by distance holds those of query and key from far left to far right.

    [2L]: from L - 1 down to -L, of which the last one is there to make a whole row, and nobody's. For first tokens
    alone [L]: from 0 down to 1 - L.
    """
    middle = table.shape[0] // 2
    if queries == 1:
        return torch.arange(middle, middle - length, -1, device=table.device)
    return torch.arange(middle + length - 1, middle - length - 1, -1, device=table.device)


def _query_rows(positions: Positions, queries: int, length: int) -> Tensor:
    """Return the rows of `queries` for each key, by query from the first to the last: [2L] or [L], as `_places`."""
    assert positions.row_of is not None
    if queries == 1:
        return _key_rows(positions, queries, length)
    middle = positions.row_of.shape[0] // 2
    return positions.row_of[middle - length + 1 : middle + length + 1]


def _skewed(products: Tensor, length: int) -> Tensor:
    """[..., L, 2L] -> a view [..., L, L] of it: of row i what begins at L - 1 - i."""
    flat = products.flatten(-2)[..., length - 1 : length - 1 + length * (2 * length - 1)]
    rows: Tensor = torch.unflatten(flat, -1, (length, 2 * length - 1))
    return rows[..., :length]


def _unskewed(values: Tensor, length: int) -> Tensor:
    """[..., H, L, L] -> [..., H, L, 2L], zeros around: the reverse of `_skewed`."""
    *leading, heads = values.shape[:-2]
    # Heads come first in memory, for the products that follow are made head by head, all texts at once.
    spread = values.new_zeros(heads, *leading, length, 2 * length)
    _skewed(spread, length).copy_(values.movedim(-3, 0))
    return spread.movedim(0, -3)
