"""Which runs may be held against each other (law 6), and what else differs between them that a reader must know."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from leantune.comparison.results import RunResult
from leantune.system.errors import RunFolderError


def check_comparable(runs: Sequence[RunResult]) -> None:
    """Raise `RunFolderError`, naming both folders, where two runs differ in task, metric, device, data, pretrained
    model, or the rows or targets that a fold validates on.

    A table may lie elsewhere, as long as its bytes are the same.
    """
    first_of_fold: dict[int, RunResult] = {}
    for run in runs:
        check_pair(runs[0], run)
        _check_rows(first_of_fold.setdefault(run.fold, run), run)


def variations(values: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield one sentence for each name whose value is not the same in all runs; `values`: run -> name -> value."""
    for name in dict.fromkeys(name for found in values.values() for name in found):
        runs_with: dict[str, list[str]] = {}
        for run, found in values.items():
            runs_with.setdefault(str(found.get(name, "none")), []).append(run)
        if len(runs_with) > 1:
            parts = (f"{value} in {_first(runs)}" for value, runs in runs_with.items())
            yield f"{name} is {', '.join(parts)}."


def _first(runs: list[str]) -> str:
    return runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"


def check_pair(one: RunResult, other: RunResult) -> None:
    """Raise `RunFolderError`, naming both folders, where two runs differ in task, metric, device or data, or
    in what they found under the same name of a model.
    """
    for what, a, b in (
        ("task", one.task, other.task),
        ("metric", one.metric, other.metric),
        ("device", _device(one), _device(other)),
        ("data_sha256", one.environment["data_sha256"], other.environment["data_sha256"]),
    ):
        if a != b:
            raise _refusal(one, other, f"the {what} {a} and {b}", f"one {what}")
    if _model(one) == _model(other):
        for what in ("model_sha256", "tokenizer_sha256"):
            a, b = one.environment.get(what), other.environment.get(what)
            if a != b:
                raise _refusal(one, other, f"the {what} {a} and {b} of one model.name", "one model")
    memory = [run.environment["device"].get("memory_bytes") for run in (one, other)]
    # The same card under another driver has a few megabytes more or less; twice the memory is another card.
    if all(isinstance(size, int) for size in memory) and not math.isclose(*memory, rel_tol=0.1):
        raise _refusal(one, other, f"devices with {memory[0]} and {memory[1]} bytes of memory", "one device")


def _model(run: RunResult) -> tuple[str, str | None]:
    """Name the pretrained model."""
    return run.config["model"]["name"], run.config["model"].get("revision")


def _device(run: RunResult) -> str:
    """Name the device; another number of threads is another one."""
    parts = {name: value for name, value in run.environment["device"].items() if name != "memory_bytes"}
    return "(" + ", ".join(f"{name} {value}" for name, value in sorted(parts.items(), reverse=True)) + ")"


def _check_rows(one: RunResult, other: RunResult) -> None:
    trained = one.scores["training_rows"], other.scores["training_rows"]
    if trained[0] != trained[1]:
        raise _refusal(one, other, f"{trained[0]} and {trained[1]} training rows of fold {one.fold}", "the same rows")
    a, b = one.validation_rows, other.validation_rows
    if len(a) != len(b):
        raise _refusal(one, other, f"{len(a)} and {len(b)} validation rows of fold {one.fold}", "the same rows")
    if not np.array_equal(a, b):
        place = int((a != b).argmax())
        raise _refusal(
            one,
            other,
            f"row {a[place]} and row {b[place]} among the validation rows of fold {one.fold}",
            "the same rows",
        )
    for row, x, y in zip(a, one.validation_targets, other.validation_targets, strict=True):
        if x != y:
            raise _refusal(one, other, f"the targets {x!r} and {y!r} of row {row}", "the same targets")


def _refusal(one: RunResult, other: RunResult, found: str, expected: str) -> RunFolderError:
    return RunFolderError(
        f"{one.folder} and {other.folder}: found {found}, expected {expected} in all runs: they must not be compared; "
        "move the one that is wrong away and run the same `leantune compare` again"
    )
