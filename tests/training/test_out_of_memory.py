"""A lack of memory, injected at each micro-batch as the allocator's own error: the step is repeated in pieces."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from test_loop import TEXTS, begin, make_fold, predict, steps_of

from leantune.batches.plan import RowsPerMicroBatch, TokensPerMicroBatch
from leantune.encoder.memory import least_training_bytes
from leantune.encoder.model import Encoder
from leantune.system.device import available_bytes, is_out_of_memory
from leantune.system.errors import DeviceError, TrainingError
from leantune.training.clock import PhaseClock
from leantune.training.events import Evaluation, Note
from leantune.training.loop import train_fold
from leantune.training.optim import make_optimizer
from leantune.training.state import TrainState, pack_state
from small_runs import FP32, load_tiny, make_rows, make_task_of, run_all, tiny_config, write_table

REGRESSION = make_task_of("regression")


@contextmanager
def memory_for(encoder: Encoder, most_rows: int, *, fails_at: int | None = None) -> Iterator[list[int]]:
    """Let the allocator itself fail where more than `most_rows` rows are computed at once: at every such forward pass
    in training, or only at number `fails_at`. Yields the sizes that were tried."""
    tried: list[int] = []

    def forward(self: Encoder, batch: Any, real: Callable[..., Any] = Encoder.logits) -> Any:
        rows = len(batch.packing.starts if batch.packing else batch.input_ids)
        tried.append(rows)
        if rows > most_rows and fails_at in (None, len(tried) - 1):
            torch.empty(2**62, dtype=torch.uint8)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "logits", forward)
        yield tried


def learn(bert: Path, fold: Any, *, most_rows: int, fails_at: int | None = None) -> tuple[Encoder, list[Any]]:
    encoder = load_tiny(bert, packed=fold.batching.padding == "none")
    with memory_for(encoder, most_rows, fails_at=fails_at):
        return encoder, list(begin(encoder, make_rows(bert, texts=TEXTS), fold, task=REGRESSION))


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def test_the_allocators_own_error_is_known_and_no_other() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(raised.value)


@pytest.mark.parametrize("padding", ["longest", "none"])
@pytest.mark.parametrize("fails_at", range(8))
def test_a_step_is_repeated_with_the_same_rows_and_learns_the_same(bert: Path, padding: Any, fails_at: int) -> None:
    fold = make_fold(padding=padding, micro_batch=RowsPerMicroBatch(rows=3))  # 8 rows a step: 3, 3, 2
    plain, expected = learn(bert, fold, most_rows=8)
    encoder, events = learn(bert, fold, most_rows=1, fails_at=fails_at)
    (note,) = [event for event in events if isinstance(event, Note)]
    assert (note.event, note.about) == ("warning", "memory")
    assert "begun again with micro-batches of up to 1 rows" in note.text
    assert [event.step for event in steps_of(events)] == list(range(1, 11))
    assert [event.rows for event in steps_of(events)] == [event.rows for event in steps_of(expected)]
    losses = [[event.loss for event in steps_of(run)] for run in (expected, events)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for a, b in zip(plain.model.parameters(), encoder.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)


def test_halving_goes_on_until_it_fits_and_stays(bert: Path) -> None:
    fold = make_fold(padding="none", micro_batch=TokensPerMicroBatch(tokens=10_000))
    encoder = load_tiny(bert, packed=True)
    with memory_for(encoder, 3) as tried:
        events = list(begin(encoder, make_rows(bert, texts=TEXTS), fold, task=REGRESSION))
    told = [event.text for event in events if isinstance(event, Note)]
    assert len([text for text in told if "8 rows at once" in text]) == 1  # in training; evaluations have 10
    assert max(tried[-20:]) <= 10
    assert len(steps_of(events)) == 10
    assert all(event.loss is not None for event in steps_of(events))


def test_what_fitted_is_what_a_checkpoint_goes_on_with(bert: Path) -> None:
    fold = make_fold(padding="none", micro_batch=RowsPerMicroBatch(rows=8))
    encoder = load_tiny(bert, packed=True)
    state = TrainState(optimizer=make_optimizer(encoder.model, fold.optimizer))
    rows = make_rows(bert, texts=TEXTS)
    options: dict[str, Any] = {"task": REGRESSION, "precision": FP32, "clock": PhaseClock()}
    with memory_for(encoder, 3):
        training = train_fold(encoder, rows, fold, state, **options)
        while state.step < 3:
            next(training)
        training.close()
    _, plain = pack_state(state, encoder, FP32)
    again = TrainState(optimizer=state.optimizer, **json.loads(json.dumps(plain["train"])))
    with memory_for(encoder, 8) as tried:
        training = train_fold(encoder, rows, fold, again, **options)
        while again.step < 4:
            next(training)
        training.close()
    assert tried == [2, 2, 2, 2]


def test_dropout_draws_again_what_it_drew(bert: Path) -> None:
    """The random numbers of a repeated step are those of one that had single rows from the start."""
    runs = []
    for limit, fails_at in ((1, None), (2, 1)):
        encoder = load_tiny(bert, dropout=0.3, packed=True)
        torch.manual_seed(5)
        fold = make_fold(padding="none", micro_batch=RowsPerMicroBatch(rows=limit))
        with memory_for(encoder, 1 if fails_at is not None else 8, fails_at=fails_at):
            events = begin(encoder, make_rows(bert, texts=TEXTS), fold, task=REGRESSION)
            runs.append([event.loss for event in steps_of(events)])
    assert runs[0] == runs[1]


def test_an_evaluation_is_repeated_too(bert: Path) -> None:
    rows, fold = make_rows(bert, texts=TEXTS), make_fold(padding="none", micro_batch=RowsPerMicroBatch(rows=10))
    encoder = load_tiny(bert, packed=True)
    expected = predict(encoder, rows, fold, task=REGRESSION)
    with memory_for(encoder, 3) as tried:
        predicted = predict(encoder, rows, fold, task=REGRESSION)
    np.testing.assert_allclose(predicted.values, expected.values, rtol=0, atol=1e-6)
    assert tried[:3] == [10, 5, 2]
    assert len(predicted.notes) == 2
    assert predicted.micro_batch == RowsPerMicroBatch(rows=2)


def test_an_evaluation_does_not_run_out_of_memory_where_one_before_it_did(bert: Path) -> None:
    fold = make_fold(padding="none", micro_batch=RowsPerMicroBatch(rows=10))
    _, events = learn(bert, fold, most_rows=8)  # steps of 8 rows fit, and the 10 validation rows do not
    assert [event.about for event in events if isinstance(event, Note)] == ["memory"]
    assert len([event for event in events if isinstance(event, Evaluation)]) == 2


def test_a_row_that_does_not_fit_alone_is_named(bert: Path) -> None:
    fold = make_fold(padding="none")
    rows = make_rows(bert, texts=TEXTS)
    with pytest.raises(TrainingError, match=r"row \d+, with \d+ tokens, does not fit into the memory of cpu by itself"):
        learn(bert, fold, most_rows=0)
    with pytest.raises(TrainingError) as raised, memory_for(encoder := load_tiny(bert, packed=True), 0):
        predict(encoder, rows, fold, task=REGRESSION)
    longest = max(fold.validation_rows, key=lambda row: rows.sequences.lengths[row])
    assert f"row {longest + 1}, with {rows.sequences.lengths[longest]} tokens" in str(raised.value)


def test_a_model_that_cannot_be_trained_in_the_memory_there_is_is_refused(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2**20 < available_bytes() <= psutil.virtual_memory().total
    config = tiny_config(write_table(tmp_path / "table.csv"), bert)
    monkeypatch.setattr("leantune.runs.preparation.available_bytes", lambda: 1000)
    with pytest.raises(DeviceError, match=r"takes at least 0\.0 GiB of memory .* choose a smaller model"):
        run_all(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_row_that_cannot_be_trained_in_the_memory_there_is_is_refused(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 90 tokens or so; the weights alone would fit."""
    needed = []

    def count(encoder: Any, **named: Any) -> int:
        needed.extend(least_training_bytes(encoder, **named | {"tokens": n}) for n in (0, named["tokens"]))
        return needed[-1]

    monkeypatch.setattr("leantune.runs.preparation.least_training_bytes", count)
    monkeypatch.setattr("leantune.runs.preparation.available_bytes", lambda: sum(needed) // 2)
    config = tiny_config(write_table(tmp_path / "table.csv"), bert)
    with pytest.raises(DeviceError, match=r"the longest row \(\d+ tokens\), .* free; .* tokens\.max_length"):
        run_all(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
