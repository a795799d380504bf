"""Attention within a local window in blocks of a packed row, against the formula on each text by itself."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from leantune.batches.packing import make_packing
from leantune.encoder import attention, local_attention
from leantune.encoder.attention import packed_attention
from leantune.encoder.local_attention import attend_locally
from small_runs import CPU

HEADS, WIDTH, SCALE = 2, 4, 0.3
REAL = F.scaled_dot_product_attention


def draw(tokens: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Query, key and value [T, H, D]."""
    own = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, HEADS, WIDTH, generator=own).to(dtype).requires_grad_() for _ in range(3)]


def one_by_one(lengths: list[int], tensors: list[torch.Tensor], window: int) -> torch.Tensor:
    """[tokens, H, D] by the formula."""
    parts, begin = [], 0
    for length in lengths:
        q, k, v = (x[begin : begin + length].transpose(0, 1) for x in tensors)
        place = torch.arange(length)
        scores = (q @ k.transpose(1, 2) * SCALE).masked_fill((place[:, None] - place).abs() >= window, -torch.inf)
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
        begin += length
    return torch.cat(parts)


@settings(max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    rest=st.integers(0, 15),
    window=st.integers(1, 12),
    queries=st.integers(1, 20),
)
def test_each_token_sees_those_of_its_text_within_its_window(
    lengths: list[int], rest: int, window: int, queries: int
) -> None:
    tokens = sum(lengths)
    tensors = draw(tokens + rest)
    packing = make_packing(lengths, CPU, row=tokens + rest)
    with patch.object(local_attention, "QUERIES", queries):
        out = attend_locally(*tensors, packing, window=window, scale=SCALE, dropout=0.0)
    assert out.shape == tensors[0].shape
    assert out.isfinite().all()
    expected = one_by_one(lengths, tensors, window)
    torch.testing.assert_close(out[:tokens], expected, rtol=0, atol=1e-12)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, wanted = (torch.autograd.grad((x * weights).sum(), tensors) for x in (out[:tokens], expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_dropped_weights_are_those_of_the_seed_and_change_nothing_on_average() -> None:
    lengths, draws = [90, 30], 400
    tensors, packing = draw(120, torch.float32), make_packing([90, 30], CPU)

    def attend(dropout: float) -> torch.Tensor:
        return attend_locally(*tensors, packing, window=20, scale=SCALE, dropout=dropout).detach()

    torch.manual_seed(0)
    found = torch.stack([attend(0.3) for _ in range(draws)])
    torch.manual_seed(0)
    assert torch.equal(attend(0.3), found[0])
    error = found.std(dim=0) / draws**0.5
    far = (found.mean(dim=0) - one_by_one(lengths, tensors, 20)).abs() > 5 * error + 0.01
    assert float(error.mean()) > 1e-4
    assert not far.any()


def scores_of(lengths: list[int], window: int) -> tuple[int, list[int]]:
    """Return how many scores a head has, and the shape of the mask, by what PyTorch's attention is given."""
    given: dict[str, Any] = {}

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        given.update(scores=len(q) * q.shape[2] * k.shape[2], mask=list(options["attn_mask"].shape))
        return REAL(q, k, v, **options)

    device = torch.device("meta")
    q, k, v = (torch.empty(1, HEADS, sum(lengths), 64, device=device) for _ in range(3))
    with patch.object(F, "scaled_dot_product_attention", spy):
        packed_attention(torch.nn.Module(), q, k, v, None, packing=make_packing(lengths, device), sliding_window=window)
    return given["scores"], given["mask"]


def test_the_mask_grows_with_the_tokens_and_not_with_the_square_of_a_length() -> None:
    """In float32 no kernel of a GPU has a window: the meta device stands for one."""
    for length in (1024, 2048, 8192):
        scores, mask = scores_of([length, 40], 65)
        blocks = -(-(length + 40) // 128)
        assert mask == [blocks, 1, 128, 256]
        assert scores == blocks * 128 * 256


@pytest.mark.parametrize(("lengths", "is_cut"), [([66, 3], True), ([65, 65], False)])
def test_texts_that_are_not_longer_than_the_window_need_none(lengths: list[int], is_cut: bool) -> None:
    asked = []

    def choose(*_: Any, window: int | None, **__: Any) -> str:
        asked.append(window)
        return "groups"

    q, k, v = (torch.randn(1, HEADS, sum(lengths), WIDTH) for _ in range(3))
    with patch.object(attention, "kernel_of", choose):
        packed_attention(torch.nn.Module(), q, k, v, None, packing=make_packing(lengths, CPU), sliding_window=65)
    assert asked == [65 if is_cut else None]
