"""Law 5: a run that was interrupted anywhere and goes on equals the uninterrupted run, bit for bit."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interruptions import RowTrace, differing, events_of, outcome, run_with_copies
from leantune.run import run
from small_runs import tiny_config, write_table

MODES = list(itertools.product(("random", "uniform_length"), ("fixed", "dynamic", "packed"), (1, 3)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_table(tmp_path / "train.csv", rows=45)  # 36 rows train in steps of 8: the fifth has 4


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def every_step(data: Path, bert: Path, **changes: Any) -> Any:
    """Two epochs of 5 steps, evaluated in the middle of them, saved after every step; dropout draws random numbers."""
    settings: dict[str, Any] = {
        "checkpoint": {"every": {"steps": 1}, "keep": True},
        "evaluation": {"every": {"fraction": 0.4}},
        "optimizer": {"epochs": 2, "learning_rate": 2e-2, "schedule": "cosine", "warmup_fraction": 0.3},
    }
    return tiny_config(data, bert, **(settings | changes))


def resume_all(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Callable[[int], bool]) -> int:
    """Do a run, then go on from a copy of it at each checkpoint that is to be tried; the number that were."""
    trace = RowTrace(monkeypatch)
    *copies, (whole, _, rows) = run_with_copies(config, tmp_path / "whole", trace, tmp_path / "copies")
    expected = outcome(whole)
    tried = 0
    for number, (folder, step, before) in enumerate(copies):
        if keep(number):
            run_all_resumed(config, folder)
            assert differing(outcome(folder), expected) == [], f"from step {step}"
            # 0 repeated, 0 skipped; but the best weights are predicted with once more where they are older.
            after = trace.take()
            assert [*before, *after][: len(rows)] == rows, f"from step {step}"
            assert [event["step"] for event in events_of(folder, "resume")] == [step]
            tried += 1
    return tried


def run_all_resumed(config: Any, folder: Path, **options: Any) -> list[Any]:
    return list(run(config, folder, resume=True, **options))


@pytest.mark.parametrize(
    ("order", "layout", "rows", "keep"),
    [("random", "packed", 3, lambda n: n % 3 == 0), ("uniform_length", "dynamic", 1, lambda n: n % 5 == 2)],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    data: Path,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    layout: str,
    rows: int,
    keep: Callable[[int], bool],
) -> None:
    batching = {"batch_size": 8, "order": order, "layout": layout, "micro_batch": {"rows": rows}}
    config = every_step(data, bert, batching=batching)
    assert resume_all(config, tmp_path, monkeypatch, keep) in (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "layout", "rows"), MODES)
def test_a_resumed_run_is_the_uninterrupted_one_from_every_step_in_every_mode(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, layout: str, rows: int
) -> None:
    batching = {"batch_size": 8, "order": order, "layout": layout, "micro_batch": {"rows": rows}}
    assert resume_all(every_step(data, bert, batching=batching), tmp_path, monkeypatch, lambda _: True) == 10
