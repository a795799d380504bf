"""Scores by relative position, against a gather of each pair's distance."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.batches.packing import make_packing
from leantune.encoder import attention, relative
from leantune.encoder.attention import attend, attend_backward, attend_first, attend_first_backward, attend_with_bias
from leantune.encoder.relative import Positions
from small_runs import CPU

HEADS, WIDTH, ROWS = 2, 3, 9


def draw(lengths: list[int], terms: tuple[bool, bool, bool], seed: int = 0) -> tuple[torch.Tensor, Positions]:
    """Query, key and value [T, 3, H, D], and terms with ever the same row for several distances."""
    own = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=own, dtype=torch.float64).requires_grad_()

    width = max(group.width for group in make_packing(lengths, CPU).groups)
    row_of = torch.randint(0, ROWS, (2 * width + 1,), generator=own)
    shapes = ((ROWS, HEADS, WIDTH), (ROWS, HEADS, WIDTH), (2 * width + 1, HEADS))
    made = [random(*shape) if there else None for shape, there in zip(shapes, terms, strict=True)]
    return random(sum(lengths), 3, HEADS, WIDTH), Positions(row_of, *made)


def one_by_one(lengths: list[int], qkv: torch.Tensor, positions: Positions) -> torch.Tensor:
    """[T, H, D]: each text by itself, pair by pair."""
    parts, middle = [], (len(positions.row_of) - 1) // 2
    for begin, length in zip(torch.tensor([0, *lengths]).cumsum(0).tolist(), lengths, strict=False):
        query, key, value = qkv[begin : begin + length].unbind(1)
        place = torch.arange(length)
        distance = place[:, None] - place + middle
        row = positions.row_of[distance]
        scores = torch.einsum("ihd,jhd->hij", query, key)
        if positions.keys is not None:
            scores = scores + torch.einsum("ihd,ijhd->hij", query, positions.keys[row])
        if positions.queries is not None:
            scores = scores + torch.einsum("jhd,ijhd->hij", key, positions.queries[row])
        if positions.bias is not None:
            scores = scores + positions.bias[distance].permute(2, 0, 1)
        parts.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), value))
    return torch.cat(parts)


class Own(torch.autograd.Function):
    """`attend` with terms, or what it does of first tokens, as autograd knows it."""

    @staticmethod
    def forward(ctx: Any, packing: Any, dropout: float, only_first: bool, qkv: torch.Tensor, *positions: Any) -> Any:
        ctx.fixed, ctx.qkv = (packing, dropout, only_first), qkv
        ctx.positions = Positions(*positions)
        if only_first:
            query = qkv[packing.starts, 0]
            out, ctx.saved = attend_first(query, qkv[:, 1:], packing, dropout=dropout, positions=ctx.positions)
        else:
            out, ctx.saved = attend(qkv, packing, dropout=dropout, positions=ctx.positions)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        packing, dropout, only_first = ctx.fixed
        own = ctx.positions.zero_gradients()
        fixed = {"dropout": dropout, "positions": ctx.positions, "gradients": own}
        if only_first:
            d_qkv = torch.zeros_like(ctx.qkv)
            tokens = len(ctx.qkv)
            d_first, d_qkv[:, 1:] = attend_first_backward(grad, ctx.saved, packing, tokens=tokens, **fixed)
            d_qkv[packing.starts, 0] = d_first
        else:
            d_qkv = attend_backward(grad, ctx.saved, packing, **fixed)
        return (None, None, None, d_qkv, None, *own[1:])


def gradients(out: torch.Tensor, qkv: torch.Tensor, positions: Positions) -> tuple[torch.Tensor, ...]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad((out * weights).sum(), [qkv, *(x for x in positions[1:] if x is not None)])


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    terms=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    way=st.sampled_from(["at once", "in blocks", "first tokens", "PyTorch's"]),
    part=st.integers(1, 50),
)
def test_scores_are_those_of_each_pairs_distance(
    lengths: list[int], terms: tuple[bool, bool, bool], way: str, part: int
) -> None:
    qkv, positions = draw(lengths, terms)
    packing = make_packing(lengths, CPU)
    expected = one_by_one(lengths, qkv, positions)
    with pytest.MonkeyPatch.context() as patch:
        if way == "in blocks":
            patch.setattr(attention, "LONG_WITH_TERMS", 0)
            patch.setattr(attention, "SCORES", 300)
        patch.setattr(relative, "PART", part)
        if way == "PyTorch's":
            out = attend_with_bias(qkv, packing, positions, dropout=0.0)
        else:
            out = Own.apply(packing, 0.0, way == "first tokens", qkv, *positions)
        found = gradients(out, qkv, positions)
    if way == "first tokens":
        expected = expected[packing.starts]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for one, other in zip(found, gradients(expected, qkv, positions), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("only_first", [False, True])
@pytest.mark.parametrize("lengths", [[5, 5], [6, 5, 1], [1]])
def test_the_backward_pass_is_the_forward_passs_derivative_with_dropped_weights(
    lengths: list[int], only_first: bool
) -> None:
    qkv, positions = draw(lengths, (True, True, True))

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)  # the same weights are dropped each time
        return Own.apply(make_packing(lengths, CPU), 0.4, only_first, tensors[0], positions.row_of, *tensors[1:])

    assert torch.autograd.gradcheck(function, [qkv, *positions[1:]])
