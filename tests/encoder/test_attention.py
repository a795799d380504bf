"""Attention within the texts of a packed row, against PyTorch's own on each text by itself."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.batches.packing import make_packing
from leantune.encoder.attention import packed_attention
from small_runs import CPU

HEADS, WIDTH = 3, 4


def draw(tokens: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    """Query, key and value [1, H, T, D]."""
    own = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, HEADS, tokens, WIDTH, generator=own, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    ]


def attend(lengths: list[int], tensors: list[torch.Tensor], **options: Any) -> torch.Tensor:
    """[T, H, D] of a packed row."""
    return packed_attention(torch.nn.Module(), *tensors, None, packing=make_packing(lengths, CPU), **options)[0][0]


def one_by_one(lengths: list[int], tensors: list[torch.Tensor], window: int | None = None) -> torch.Tensor:
    """[T, H, D]: each text cut out, and attended to by itself."""
    parts = []
    for begin, length in zip(torch.tensor([0, *lengths]).cumsum(0).tolist(), lengths, strict=False):
        place = torch.arange(length)
        mask = None if window is None else (place[:, None] - place).abs() < window
        own = (tensor[:, :, begin : begin + length] for tensor in tensors)
        parts.append(F.scaled_dot_product_attention(*own, attn_mask=mask)[0].transpose(0, 1))
    return torch.cat(parts)


def gradients(out: torch.Tensor, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad((out * weights).sum(), tensors)


texts = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@settings(max_examples=60)
@given(lengths=texts, window=st.none() | st.integers(1, 14), is_sorted=st.booleans())
def test_each_text_is_attended_to_as_if_it_were_alone(lengths: list[int], window: int | None, is_sorted: bool) -> None:
    lengths = sorted(lengths, reverse=True) if is_sorted else lengths
    tensors = draw(sum(lengths), torch.float64)
    out = attend(lengths, tensors, sliding_window=window)
    expected = one_by_one(lengths, tensors, window)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for one, other in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@settings(max_examples=40)
@given(lengths=texts, window=st.none() | st.integers(1, 14))
def test_bf16_on_a_cpu_is_the_same_within_its_rounding(lengths: list[int], window: int | None) -> None:
    tensors = draw(sum(lengths), torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out, expected = attend(lengths, tensors, sliding_window=window), one_by_one(lengths, exact, window)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0.03)
    for one, other in zip(gradients(out, tensors), gradients(expected, exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=0.15)


@pytest.mark.parametrize("lengths", [[5, 5], [6, 5, 1], [1], [9, 2, 2, 1]])
def test_the_backward_pass_is_the_forward_passs_derivative_with_dropped_weights(lengths: list[int]) -> None:
    def function(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)  # the same weights are dropped each time
        return attend(lengths, list(tensors), dropout=0.4)

    assert torch.autograd.gradcheck(function, draw(sum(lengths), torch.float64))


def test_dropped_weights_are_those_of_the_seed() -> None:
    tensors = draw(20)
    runs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        runs.append(attend([12, 8], tensors, dropout=0.5))
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_without_dropout_no_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    attend([12, 8], draw(20, torch.bfloat16))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_changing_one_text_moves_no_other(dropout: float) -> None:
    lengths, outs = [6, 5, 3], []
    tensors = draw(14, torch.bfloat16)
    changed = [tensor.detach().clone() for tensor in tensors]
    for tensor in changed:
        tensor[:, :, 6:11] += 1
    for each in (tensors, changed):
        torch.manual_seed(0)
        outs.append(attend(lengths, each, dropout=dropout))
    assert torch.equal(outs[0][:6], outs[1][:6])
    assert torch.equal(outs[0][11:], outs[1][11:])
    assert not torch.equal(outs[0][6:11], outs[1][6:11])


def test_texts_of_like_length_are_computed_together() -> None:
    groups = make_packing([100, 90, 80, 70, 20, 20, 16, 3], CPU).groups
    # 100² - 90² = 1,900 and 100² - 80² = 3,600 are computed for nothing; the next would make it 10,600, above 8,192.
    assert [group.lengths for group in groups] == [(100, 90, 80), (70, 20), (20, 16, 3)]
    assert [group.first for group in groups] == [0, 270, 360]
    assert [group.width for group in groups] == [112, 80, 32]
