"""How many tokens a GPU trains at once: the arithmetic with made-up numbers, and measuring on a made-up device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leantune.batches.plan import Padding
from leantune.encoder.model import Encoder
from leantune.training import device_memory
from leantune.training.device_memory import MeasuredLimit, Pass, measure_micro_batch, tokens_that_fit
from small_runs import FP32, load_tiny, make_rows, make_task_of

MIB, GIB = 2**20, 2**30
TEXTS = ["ba di", "ba", " ".join(["ba"] * 60)]


def passes(per_token: float, beside: int = GIB) -> tuple[Pass, Pass]:
    one, other = (Pass(tokens=tokens, peak_bytes=round(beside + tokens * per_token)) for tokens in (2048, 4096))
    return one, other


@pytest.mark.parametrize(
    ("per_token", "free", "moments", "expected"),
    [
        (0.25 * MIB, 14 * GIB, GIB, 16384),  # 43,417 would fit, and no more is of use
        (1.7 * MIB, 14 * GIB, GIB, 4096),  # 6,384 fit
        (1.7 * MIB, 14 * GIB, 5 * GIB, 2048),  # 3,975
        (1.7 * MIB, 4 * GIB, GIB, 512),  # 963
        (1.7 * MIB, 3 * GIB, GIB, 300),  # 421 fit, and the power of two is less than the longest row
        (1.7 * MIB, GIB, GIB, 300),  # nothing
    ],
)
def test_a_power_of_two_of_tokens_fits_or_all_that_are_of_use(
    per_token: float, free: int, moments: int, expected: int
) -> None:
    found = tokens_that_fit(*passes(per_token), room_bytes=free, moment_bytes=moments, longest=300, most=16384)
    assert found == expected


@given(free=st.integers(0, 2**37), more=st.integers(0, 2**37), per_token=st.integers(1, 2**22))
def test_more_memory_never_holds_less_and_what_fits_fits(free: int, more: int, per_token: int) -> None:
    one, other = passes(per_token)
    found, with_more = (
        tokens_that_fit(one, other, room_bytes=f, moment_bytes=MIB, longest=256, most=20_000)
        for f in (free, free + more)
    )
    assert 256 <= found <= with_more <= 20_000
    assert found == 256 or GIB + MIB + found * per_token <= 0.9 * free + 1


def test_passes_that_take_the_same_memory_are_no_division_by_zero() -> None:
    same = Pass(tokens=2048, peak_bytes=GIB), Pass(tokens=4096, peak_bytes=GIB)
    assert tokens_that_fit(*same, room_bytes=4 * GIB, moment_bytes=0, longest=256, most=16384) == 16384


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def measure(
    monkeypatch: pytest.MonkeyPatch, bert: Path, *, padding: Padding, free: int, batch_size: int = 8, room: int = 10**9
) -> tuple[MeasuredLimit, list[int], Encoder]:
    """Measure on a device whose passes take 5,000 bytes and 70 a token, and fail with more than `room` tokens.

    Return what came of it, and the tokens of each pass.
    """
    computed: list[int] = []

    def logits(self: Encoder, batch: Any, real: Callable[..., Any] = Encoder.logits) -> Any:
        computed.append(batch.input_ids.numel())
        if computed[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    monkeypatch.setattr(Encoder, "logits", logits)
    monkeypatch.setattr(device_memory, "PROBED_TOKENS", 200)
    monkeypatch.setattr(device_memory, "device_bytes", lambda _: 900)
    monkeypatch.setattr(device_memory, "peak_device_bytes", lambda _: 900 + 5000 + 70 * computed[-1])
    monkeypatch.setattr(device_memory, "free_device_bytes", lambda _: free)
    encoder = load_tiny(bert, dropout=0.3, packed=padding == "none")
    found = measure_micro_batch(
        encoder,
        make_rows(bert, texts=TEXTS),
        batch_size=batch_size,
        padding=padding,
        task=make_task_of("regression"),
        precision=FP32,
    )
    return found, computed, encoder


def moments_of(encoder: Encoder) -> int:
    return sum(8 * p.numel() for p in encoder.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("padding", ["none", "longest"])
def test_two_passes_over_the_longest_row_say_what_a_token_takes(
    monkeypatch: pytest.MonkeyPatch, bert: Path, padding: Padding
) -> None:
    weights = 900
    free = round((weights + moments_of(load_tiny(bert)) + 5000 + 70 * 1100) / 0.9) - weights
    found, computed, _ = measure(monkeypatch, bert, padding=padding, free=free)
    longest = int(make_rows(bert, texts=TEXTS).sequences.lengths.max())
    each = 200 // longest
    wanted = [
        -(-copies * longest // 16) * 16 if padding == "none" else copies * longest for copies in (each, each, 2 * each)
    ]
    assert computed == wanted
    assert found.micro_batch.tokens == 1024
    assert "measured: a token takes 0.00 MiB" in found.reason


@pytest.mark.parametrize(
    ("padding", "batch_size", "most"), [("none", 8, 16384), ("none", 400, None), ("longest", 400, 16384)]
)
def test_with_much_memory_it_is_a_whole_step_of_packed_rows_or_what_keeps_a_gpu_busy(
    monkeypatch: pytest.MonkeyPatch, bert: Path, padding: Padding, batch_size: int, most: int | None
) -> None:
    found, _, _ = measure(monkeypatch, bert, padding=padding, free=2**40, batch_size=batch_size)
    longest = int(make_rows(bert, texts=TEXTS).sequences.lengths.max())
    assert found.micro_batch.tokens == (most or -(-batch_size * longest // 16) * 16)


@pytest.mark.parametrize(("room", "fitted"), [(300, "the smaller pass"), (100, "the longest row")])
def test_what_did_not_fit_while_measuring_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, bert: Path, room: int, fitted: str
) -> None:
    found, computed, encoder = measure(monkeypatch, bert, padding="longest", free=2**40, room=room)
    longest = int(make_rows(bert, texts=TEXTS).sequences.lengths.max())
    assert found.micro_batch.tokens == (computed[0] if fitted == "the smaller pass" else longest)
    assert "do not fit into the memory of cpu" in found.reason
    assert all(p.grad is None for p in encoder.model.parameters())


@pytest.mark.parametrize("room", [10**9, 100])
def test_measuring_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, bert: Path, room: int) -> None:
    untouched = load_tiny(bert, dropout=0.3, packed=True)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    _, _, encoder = measure(monkeypatch, bert, padding="none", free=2**40, room=room)
    assert encoder.model.training == untouched.model.training
    for one, other in zip(encoder.model.parameters(), untouched.model.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.grad is None
    torch.manual_seed(3)
    load_tiny(bert, dropout=0.3, packed=True)
    expected = torch.get_rng_state()
    torch.set_rng_state(before)
    measure(monkeypatch, bert, padding="none", free=2**40, room=room)
    assert torch.equal(torch.get_rng_state(), expected)
