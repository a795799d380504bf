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

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

PART = 256
"""Tokens of each text that are multiplied with embeddings of distances at once, on a CPU."""


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

    def zero_gradients(self) -> "Positions":
        """Return zeros in the shapes of the terms, in float32 at least, to add gradients to."""
        return Positions(self.row_of, *map(_exact_zeros, self[1:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """The terms of one layer as texts of at most L tokens need them: a row for each distance, side by side.

    K is 2L, the distances from one end of a text to the other, of which the last is nobody's and makes a whole row; or
    L where only first tokens attend.
    """

    of_firsts: bool
    keys: Tensor | None = None
    """[H, D, K]: `a`, from L - 1 down to -L; of first tokens from 0 down to 1 - L."""
    queries: Tensor | None = None
    """[H, D, K]: `b`, from 1 - L up to L; of first tokens from 0 down to 1 - L."""
    bias: Tensor | None = None
    """[H, K]: `c`, in the order of `keys`."""
    spread: dict[tuple[torch.Size, torch.dtype], Tensor] = field(default_factory=dict)
    """Zeros by shape, into which `_unskewed` writes ever the same places."""

    def of_heads(self, heads: slice) -> "Terms":
        """Return the terms of some heads, views of these."""
        keys, queries, bias = (None if x is None else x[heads] for x in (self.keys, self.queries, self.bias))
        return replace(self, keys=keys, queries=queries, bias=bias)

    def zero_gradients(self) -> "Terms":
        """Return zeros in the shapes of the terms, in float32 at least, to add gradients to."""
        keys, queries, bias = map(_exact_zeros, (self.keys, self.queries, self.bias))
        return Terms(of_firsts=self.of_firsts, keys=keys, queries=queries, bias=bias)


def _exact_zeros(x: Tensor | None) -> Tensor | None:
    return None if x is None else torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


def terms_of(positions: Positions | None, length: int, *, of_firsts: bool = False) -> Terms | None:
    """Return the terms for texts of at most `length` tokens; differentiable."""
    if positions is None:
        return None
    taken: dict[str, Any] = {
        name: None if term is None else term[rows].movedim(0, -1).contiguous()
        for name, term, rows in _rows(positions, length, of_firsts=of_firsts)
    }
    return Terms(of_firsts=of_firsts, **taken)


def add_gradients(gradients: Positions, of: Terms, length: int) -> None:
    """Add the gradients of `terms_of` a length to those of the layer's terms."""
    for name, gradient, rows in _rows(gradients, length, of_firsts=of.of_firsts):
        own = getattr(of, name)
        if gradient is not None and own is not None:
            gradient.index_add_(0, rows, own.movedim(-1, 0))


def _rows(positions: Positions, length: int, *, of_firsts: bool) -> Iterator[tuple[str, Tensor | None, Any]]:
    """Yield the name of each term, the term, and which of its rows stands in which of the K places of `Terms`."""
    table = positions.row_of if positions.bias is None else positions.bias
    if table is None:
        return
    middle, device = table.shape[0] // 2, table.device
    ends = (middle, middle - length) if of_firsts else (middle + length - 1, middle - length - 1)
    falling = torch.arange(*ends, -1, device=device)
    rising = falling if of_firsts else torch.arange(middle - length + 1, middle + length + 1, device=device)
    row_of = falling if positions.row_of is None else positions.row_of
    yield "keys", positions.keys, row_of[falling] if positions.keys is not None else None
    yield "queries", positions.queries, row_of[rising] if positions.queries is not None else None
    yield "bias", positions.bias, falling


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


def add_position_scores(scores: Tensor, terms: Terms, query: Tensor, key: Tensor) -> None:
    """Add the terms to scores [N, H, Q, L]; differentiable.

    `query` [N, H, Q, D], where Q is L, or 1 where only first tokens attend; `key` [N, H, L, D].
    """
    if terms.of_firsts:
        if terms.keys is not None:
            scores.add_(_products(query, terms.keys))
        if terms.queries is not None:
            scores.add_((key * terms.queries.transpose(1, 2)).sum(3)[:, :, None])
        if terms.bias is not None:
            scores.add_(terms.bias[:, None])
        return
    length = key.shape[2]
    for part, rows in _parts(length, scores.device):
        if terms.keys is not None:
            products = _products(query[:, :, part], terms.keys[..., rows])
            scores[:, :, part].add_(_skewed(products, length))
        if terms.queries is not None:
            term = _skewed(_products(key[:, :, part], terms.queries[..., rows]), length).transpose(2, 3)
            # Copied first: adding what does not stand side by side is several times as slow.
            scores[..., part].add_(term.contiguous())
    if terms.bias is not None:  # a window of L distances for each query, the first query's last
        scores.add_(terms.bias.unfold(1, length, 1)[:, :length].flip(1))


def add_position_gradients(
    d_scores: Tensor, terms: Terms, query: Tensor, key: Tensor, *, of: tuple[Tensor, Tensor, Terms]
) -> None:
    """Add to the gradients `of` query, key and terms what comes of `add_position_scores`.

    `d_scores` [N, H, Q, L] is the gradient of the scores; query, key and their gradients are as there.
    """
    d_query, d_key, gradients = of
    if terms.of_firsts:
        if terms.keys is not None and gradients.keys is not None:
            _add_product_gradients(d_scores, query, terms.keys, of=(d_query, gradients.keys))
        if terms.queries is not None and gradients.queries is not None:
            d_sums = d_scores[:, :, 0, :, None]
            d_key.add_(d_sums * terms.queries.transpose(1, 2))
            gradients.queries.add_((d_sums * key).sum(0, dtype=gradients.queries.dtype).transpose(1, 2))
        if gradients.bias is not None:
            gradients.bias.add_(d_scores.sum((0, 2), dtype=gradients.bias.dtype))
        return
    length = key.shape[2]
    for part, rows in _parts(length, d_scores.device):
        if terms.keys is not None and gradients.keys is not None:
            d_products = _unskewed(d_scores[:, :, part], terms)
            own = (d_query[:, :, part], gradients.keys[..., rows])
            _add_product_gradients(d_products, query[:, :, part], terms.keys[..., rows], of=own)
        if terms.queries is not None and gradients.queries is not None:
            d_products = _unskewed(d_scores[..., part].transpose(2, 3), terms)
            own = (d_key[:, :, part], gradients.queries[..., rows])
            _add_product_gradients(d_products, key[:, :, part], terms.queries[..., rows], of=own)
    if gradients.bias is not None:
        own_bias = d_scores.sum(0, keepdim=True, dtype=gradients.bias.dtype)
        gradients.bias.add_(_unskewed(own_bias, terms)[0].sum(1))


def _parts(length: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield which tokens of each text are multiplied with embeddings at once, and those of which of the 2L places.

    Fewer tokens are at fewer distances from all others: L + P of them for P tokens.
    """
    step = PART if device.type == "cpu" else length
    for begin in range(0, length, step):
        end = min(begin + step, length)
        yield slice(begin, end), slice(length - end, 2 * length - begin)


def _products(x: Tensor, rows: Tensor) -> Tensor:
    """[N, H, L, D], [H, D, K] -> [N, H, L, K], a view of [H, N, L, K]: one product a head, all texts at once."""
    return _by_text(torch.bmm(_by_head(x), rows), x.shape[0])


def _add_product_gradients(d_products: Tensor, x: Tensor, rows: Tensor, *, of: tuple[Tensor, Tensor]) -> None:
    """Add to the gradients `of` what comes of `_products`."""
    d_x, d_rows = of
    by_head = _by_head(d_products)
    d_x += _by_text(torch.bmm(by_head, rows.transpose(1, 2)), x.shape[0])
    d_rows += torch.bmm(_by_head(x).transpose(1, 2), by_head)


def _by_head(x: Tensor) -> Tensor:
    """[N, H, L, D] -> [H, N x L, D]"""
    return x.transpose(0, 1).flatten(1, 2)


def _by_text(x: Tensor, texts: int) -> Tensor:
    """[H, N x L, D] -> [N, H, L, D]"""
    return x.view(len(x), texts, -1, x.shape[2]).transpose(0, 1)


def _skewed(products: Tensor, length: int) -> Tensor:
    """[..., P, L + P] -> a view [..., P, L] of it: of row i what begins at P - 1 - i."""
    count, places = products.shape[-2:]
    flat = products.flatten(-2)[..., count - 1 : count - 1 + count * (places - 1)]
    rows: Tensor = torch.unflatten(flat, -1, (count, places - 1))
    return rows[..., :length]


def _unskewed(values: Tensor, terms: Terms) -> Tensor:
    """[N, H, P, L] -> [N, H, P, L + P], zeros around: the reverse of `_skewed`; a view of [H, N, P, L + P].

    Until it is called again: the memory is the same for all values of a shape.
    """
    texts, heads, count, length = values.shape
    shape = torch.Size((heads, texts, count, length + count))
    if (shape, values.dtype) not in terms.spread:
        terms.spread[shape, values.dtype] = values.new_zeros(shape)
    spread = terms.spread[shape, values.dtype]
    _skewed(spread, length).copy_(values.transpose(0, 1))
    return spread.transpose(0, 1)
