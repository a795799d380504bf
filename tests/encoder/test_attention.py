"""Attention within the texts of a packed row, against PyTorch's own on each text by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from leantune.batches.packing import make_packing
from leantune.encoder import attention
from leantune.encoder.attention import packed_attention
from leantune.encoder.dropout import kept_scale
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


@contextmanager
def small_blocks(long: int = 6) -> Iterator[None]:
    """Texts of more than `long` tokens are computed in blocks of a few queries."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LONG", long), ("SCORES", 40), ("FEWEST_QUERIES", 4)):
            patch.setattr(attention, name, value)
        yield


def own_attention(lengths: list[int], tensors: list[torch.Tensor], **options: Any) -> torch.Tensor:
    """What `attend` does, also where PyTorch's own attention would be used; [T, H, D]."""
    qkv = torch.stack([x[0].transpose(0, 1) for x in tensors], dim=1)
    fixed = (make_packing(lengths, CPU), WIDTH**-0.5, options.get("dropout", 0.0), options.get("window"))
    return attention._CpuAttention.apply(qkv, *fixed)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 30),
    long=st.sampled_from([0, 16, 32]),
)
def test_a_long_text_is_attended_to_in_blocks_as_if_it_were_computed_at_once(
    lengths: list[int], window: int | None, long: int
) -> None:
    tensors = draw(sum(lengths), torch.float64)
    with small_blocks(long):
        out = own_attention(lengths, tensors, window=window)
        found = gradients(out, tensors)
    expected = one_by_one(lengths, tensors, window)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for one, other in zip(found, gradients(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [attention.LONG, attention.LONG + 1, 3 * attention.LONG + 5])
def test_texts_at_and_above_the_length_of_blocks_are_those_of_pytorch(
    length: int, dtype: torch.dtype, window: int | None
) -> None:
    lengths = [length, length, 30]
    tensors = draw(sum(lengths), dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out, expected = own_attention(lengths, tensors, window=window), one_by_one(lengths, exact, window)
    small = dtype is torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6 if small else 0.03)
    for one, other in zip(gradients(out, tensors), gradients(expected, exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5 if small else 0.15)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("lengths", [[20, 20], [20, 18, 7], [9]])
def test_the_backward_pass_in_blocks_drops_what_the_forward_pass_dropped(
    lengths: list[int], window: int | None
) -> None:
    """With one value a place, 1 there and 0 elsewhere, attention returns its weights, which shows what was dropped."""
    width, dropout, total = max(lengths), 0.4, sum(lengths)
    own = torch.Generator().manual_seed(0)
    query, key, shown = (torch.randn(total, HEADS, width, generator=own, dtype=torch.float64) for _ in range(3))
    ones = torch.cat([torch.eye(width, dtype=torch.float64)[:length] for length in lengths])
    ones = ones[:, None].expand(total, HEADS, width)

    def attend_to(value: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)  # the same weights are dropped each time
        qkv = torch.stack([query, key, value], dim=1).requires_grad_()
        inputs.append(qkv)
        return attention._CpuAttention.apply(qkv, make_packing(lengths, CPU), width**-0.5, dropout, window)

    inputs: list[torch.Tensor] = []
    with small_blocks():
        weights = attend_to(ones).detach()
        out = attend_to(shown)
        found = gradients(out, [inputs[1]])[0]
    exact = torch.stack([query, key, shown], dim=1).requires_grad_()
    parts, begin, seen = [], 0, 0
    for length in lengths:
        q, k, v = exact[begin : begin + length].permute(1, 2, 0, 3)
        place = torch.arange(length)
        far = (place[:, None] - place).abs() >= (window or length)
        softmax = (q @ k.transpose(1, 2) * width**-0.5).masked_fill(far, -torch.inf).softmax(-1)
        shown_weights = weights[begin : begin + length, :, :length].transpose(0, 1)
        kept = shown_weights != 0
        torch.testing.assert_close(shown_weights, softmax.detach() * kept * kept_scale(dropout), rtol=0, atol=1e-12)
        seen += int((kept & ~far).sum())
        parts.append(((softmax * kept * kept_scale(dropout)) @ v).transpose(0, 1))
        begin += length
    visible = sum(((torch.arange(n)[:, None] - torch.arange(n)).abs() < (window or n)).sum() for n in lengths) * HEADS
    assert abs(seen / int(visible) - (1 - dropout)) < 0.1
    expected = torch.cat(parts)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, gradients(expected, [exact])[0], rtol=0, atol=1e-11)


def test_dropped_weights_of_a_long_text_are_those_of_the_seed() -> None:
    tensors = draw(40)
    runs = []
    with small_blocks():
        for seed in (7, 7, 8):
            torch.manual_seed(seed)
            runs.append(attend([40], tensors, dropout=0.5))
            runs.append(attend([40], tensors, dropout=0.5))
    assert torch.equal(runs[0], runs[2])
    assert torch.equal(runs[1], runs[3])
    for other in (runs[1], runs[4]):
        assert not torch.allclose(runs[0], other)


def bytes_kept(length: int, dtype: torch.dtype, **options: Any) -> int:
    """Bytes that attention to one text keeps for its backward pass, each storage once."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tensors = draw(length, dtype)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attend([length], tensors, **options)
    return sum(kept.values())


@pytest.mark.parametrize(
    "options", [{}, {"dropout": 0.1}, {"sliding_window": 65}, {"dropout": 0.1, "sliding_window": 65}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_for_the_backward_pass_grows_with_the_length_and_not_with_its_square(
    dtype: torch.dtype, options: dict[str, Any]
) -> None:
    short, long = (bytes_kept(length, dtype, **options) for length in (1024, 2048))
    assert long <= 4 * 3 * HEADS * 2048 * WIDTH * dtype.itemsize
    assert long < 2.01 * short


class Largest(TorchDispatchMode):
    """Notes the number of values of the largest tensor that is made."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return out


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"sliding_window": 65}, {"dropout": 0.1, "sliding_window": 65}])
def test_no_tensor_of_length_times_length_is_ever_made_for_a_long_text(options: dict[str, Any]) -> None:
    length = 2048
    with Largest() as largest:  # autograd computes the backward pass of a CPU in this thread, too
        tensors = draw(length)
        gradients(attend([length], tensors, **options), tensors)
    assert 3 * HEADS * length * WIDTH <= largest.values <= attention.SCORES < length**2


def test_a_local_window_costs_its_band() -> None:
    counts = []
    for length in (1024, 2048):
        tensors = draw(length)
        with FlopCounterMode(display=False) as counter:
            gradients(attend([length], tensors, sliding_window=65), tensors)
        counts.append(counter.get_total_flops())
    # Queries of a block see a band of twice the window before and after it at most: 7 products of 2 x D operations.
    assert counts[1] <= 7 * 2 * WIDTH * HEADS * 2048 * 4 * 65
    assert counts[1] < 2.1 * counts[0]
