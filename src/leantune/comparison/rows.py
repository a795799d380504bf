"""What other validation rows would have said: the scatter of a difference over rows, which seeds cannot tell.

    predictions of each run  ->  the metric without each tenth, twentieth, ... of the rows  ->  a standard error

Recipes predict the same rows, so rows that are hard for both cancel. The metric is computed again without each group
of rows (the grouped jackknife; Quenouille 1956, Miller 1974): a bootstrap of the rows tells the same, for fifty times
the work.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from leantune.comparison.predictions import read_predictions
from leantune.comparison.results import RunResult
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
    found = read_predictions(run)
    if found is None:
        return None
    kind, targets, predictions = found.kind, found.targets, found.values
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
