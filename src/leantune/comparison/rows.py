"""What other validation rows would have said: the scatter of a difference over rows, which seeds cannot tell.

    predictions of each run  ->  the metric without each tenth, twentieth, ... of the rows  ->  a standard error

Recipes predict the same rows, so rows that are hard for both cancel. The metric is computed again without each group
of rows (the grouped jackknife; Quenouille 1956, Miller 1974): a bootstrap of the rows tells the same, for fifty times
the work.
"""

import json
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leantune.comparison.results import RunResult
from leantune.tables.targets import TaskKind
from leantune.training.scoring import compute_metrics

Floats = NDArray[np.float64]

GROUPS = 25
"""Groups that the rows are left out in; with fewer rows each is a group."""
MOST_CELLS = 100_000
"""Predicted numbers that are looked at in a run: of more rows or classes, a sample of the rows says how far all of them
scatter. It keeps a report of twenty runs within seconds."""
FEWEST_ROWS = 10


def row_errors(pairs: Mapping[str, Sequence[tuple[RunResult, RunResult]]]) -> dict[str, float]:
    """Return, for each recipe, the standard error over validation rows of its mean difference in the metric.

    `pairs`: recipe -> pairs of runs (baseline, recipe) of the same fold and seed. A recipe whose predictions cannot be
    read, or whose metric is not defined without some of the rows, is left out.
    """
    known: dict[int, Floats | None] = {}

    def without_groups(run: RunResult) -> Floats | None:
        if id(run) not in known:
            known[id(run)] = _without_each_group(run)
        return known[id(run)]

    errors = {}
    for name, runs in pairs.items():
        by_fold: dict[int, list[Floats]] = {}
        for baseline, recipe in runs:
            a, b = without_groups(baseline), without_groups(recipe)
            if a is None or b is None:
                break
            by_fold.setdefault(baseline.fold, []).append(b - a)
        else:
            if by_fold:
                # Each fold has other rows; the seeds of a fold have the same.
                squares = [_squared_error(np.mean(found, axis=0)) for found in by_fold.values()]
                errors[name] = float(np.sqrt(np.sum(squares))) / len(squares)
    return errors


def _squared_error(without: Floats) -> float:
    """Return the squared standard error of a value, from the values [groups] without each group of rows."""
    count = len(without)
    return float((count - 1) / count * np.square(without - without.mean()).sum())


def _without_each_group(run: RunResult) -> Floats | None:
    """Return the metric without each group of rows [groups], scaled to all rows where only some are looked at.

    None where it is not defined, or where predictions are not as this version writes them.
    """
    found = _read(run)
    if found is None:
        return None
    kind, targets, predictions = found
    count = len(targets)
    if count < FEWEST_ROWS:
        return None
    order = np.random.default_rng(0).permutation(count)  # the same in every run of the fold
    looked_at = order[: max(FEWEST_ROWS, MOST_CELLS // max(1, predictions[0].size))]
    values = []
    for group in range(groups := min(GROUPS, len(looked_at))):
        kept = np.delete(looked_at, np.s_[group::groups])
        value = compute_metrics(kind, targets[kept], predictions[kept]).get(run.metric)
        if value is None:
            return None
        values.append(value)
    scaled: Floats = np.array(values) * (len(looked_at) / count) ** 0.5
    return scaled


def _read(run: RunResult) -> tuple[TaskKind, NDArray[np.generic], Floats] | None:
    """Return the task, targets and predictions as metrics take them."""
    try:
        table = pq.read_table(run.folder / f"fold_{run.fold}" / "predictions.parquet", columns=["target", "prediction"])
        labels = json.loads((table.schema.metadata or {}).get(b"labels", b"[]"))
        predictions = np.array(table["prediction"].to_pylist(), dtype=np.float64)
        kind = next(kind for kind in get_args(TaskKind) if kind == run.task)
        if kind in ("binary", "multiclass"):
            places = {label: place for place, label in enumerate(labels)}
            classes = [places[str(target)] for target in table["target"].to_pylist()]
            targets: NDArray[np.generic] = np.array(classes, dtype=np.int64)
            if predictions.ndim != 2 or predictions.shape[1] != len(labels):
                return None
            return kind, targets, predictions
        targets = np.array(table["target"].to_pylist(), dtype=np.float64)
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, StopIteration):
        return None
    rows = len(targets)
    targets, predictions = targets.reshape(rows, -1), predictions.reshape(rows, -1)
    return (kind, targets, predictions) if targets.shape == predictions.shape else None
