"""What the tests of interrupted runs share: runs that are cut off at a checkpoint, and what must come out the same."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import leantune.training.loop
from leantune.batches.batch import make_training_batch
from leantune.runs.config import Config
from leantune.runs.run import run
from leantune.training.events import Checkpoint

TIMES = ("time", "seconds", "tokens_per_second", "memory", "bytes", "utilization", "matrix_rate", "startup", "sessions")


class RowTrace:
    """The rows of every micro-batch that is trained on, in their order; of windows, which, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[list[Any]] = []

        def watched(rows: Any, numbers: Any, *, windows: Any, **options: Any) -> Any:
            if torch.is_grad_enabled():
                read = numbers if windows is None else np.column_stack([numbers, windows])
                self.rows.append(read.tolist())
            return make_training_batch(rows, numbers, windows=windows, **options)

        monkeypatch.setattr(leantune.training.loop, "make_training_batch", watched)

    def take(self) -> list[list[Any]]:
        taken, self.rows = self.rows, []
        return taken


def run_with_copies(
    config: Config, output: Path, trace: RowTrace, copies: Path
) -> list[tuple[Path, int, list[list[int]]]]:
    """Do a run, and keep a copy of its folder as a kill after each checkpoint would leave it: folder, steps done, and
    the rows until then; the last entry is the whole run."""
    made: list[tuple[Path, int, list[list[int]]]] = []
    step = 0
    for event in run(config, output):
        if isinstance(event, Checkpoint) and "checkpoint" in event.path:
            copy = copies / f"{len(made):03d}"
            shutil.copytree(output, copy)
            made.append((copy, event.step, list(trace.rows)))
            step = event.step
    return [*made, (output, step, trace.take())]


def cut_off(config: Config, output: Path, checkpoints: int, **options: Any) -> None:
    """Leave a run right after so many checkpoints, as a kill does: nothing more is written."""
    with closing(run(config, output, **options)) as events:  # type: ignore[type-var]
        for event in events:
            checkpoints -= isinstance(event, Checkpoint) and "checkpoint" in event.path
            if checkpoints == 0:
                return
    raise AssertionError("the run has not so many checkpoints")


def events_of(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if not kinds or event["event"] in kinds]


def without_times(value: Any) -> Any:
    """Records without what the clock and the memory say."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if not any(word in key for word in TIMES)}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must be equal, bit for bit, whether a run was interrupted or not."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in ("fold_*/model/*", "fold_*/predictions.parquet", "fold_*/checkpoint/*/*.safetensors")
        for path in sorted(folder.glob(pattern))
    }
    assert any(name.endswith("model.safetensors") for name in files)
    return files | {
        "metrics": without_times(json.loads((folder / "metrics.json").read_text())),
        "events": without_times(events_of(folder, "fold", "step", "evaluation", "fold_end")),
        "config": (folder / "config.yaml").read_text(),
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not equal."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
