"""What the targets are like: how they are spread, and what about them makes learning or measuring hard.

Each check is a function that yields at most one finding, as in `findings`.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.inspection.findings import Finding, count_rows, percent, rows_of_classes
from leantune.tables.folds import Folds
from leantune.tables.readers import listed, shown
from leantune.tables.table import Table, numbers_or_nan
from leantune.tables.targets import Targets

FEW_ROWS = 10
DOMINATES = 0.9
FAR_AWAY = 12.0
"""Times the median distance from the median: 8 standard deviations of a normal distribution."""
MOST_STEPS = 30
"""Different values of a target that is a scale with steps."""
NEARLY_THE_SAME = 0.95
STANDARD_ERRORS = 4.0


def other_reading(table: Table, targets: Targets, task: str) -> Iterator[Finding]:
    """Find targets that could as well be read as another kind of task, where the user has not said which."""
    if task != "auto":
        return
    if targets.kind in {"binary", "multiclass"}:
        numbers = numbers_or_nan(pa.array(targets.classes))
        if np.isnan(numbers).any() or np.array_equal(numbers, (0, 1)):  # which hardly anybody means as a scale
            return
        other = "regression"
        why = f"{len(targets.classes)} whole numbers are read as classes"
    elif targets.kind == "regression" and len(targets.columns) == 1:
        values = targets.values[:, 0]
        if not np.array_equal(values, np.round(values)) or len(np.unique(values)) > 100:
            return
        other = "multiclass"
        why = f"{len(np.unique(values))} different whole numbers are read as a scale"
    elif targets.kind == "multilabel" and (targets.values.sum(axis=1) == 1).all():
        yield Finding(
            code="LT101",
            severity="note",
            found=f"each row has exactly one of the {len(targets.columns)} labels, so that they may be classes of "
            "which one is right",
            advice="set data.task to soft, which learns shares of classes that add up to 1, or put the name of the "
            "class into one column",
        )
        return
    else:
        return
    advice = f"set data.task to {other} if that is what they are"
    yield Finding(code="LT101", severity="note", found=f"column {targets.columns[0]!r}: {why}", advice=advice)


def rare_classes(targets: Targets) -> Iterator[Finding]:
    """Find classes or labels with few rows."""
    if not targets.classes or targets.kind == "soft":
        return
    counts = rows_of_classes(targets, np.arange(len(targets.values)))
    rare = [place for place in np.argsort(counts, kind="stable").tolist() if 0 < counts[place] < FEW_ROWS]
    if not rare:
        return
    named = ", ".join(f"{shown(targets.classes[place], 30)} ({counts[place]})" for place in rare[:5])
    more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
    yield Finding(
        code="LT302",
        severity="warning",
        found=f"{len(rare)} of {len(counts)} {'labels' if targets.kind == 'multilabel' else 'classes'} have fewer "
        f"than {FEW_ROWS} rows: {named}{more}",
        advice="add rows of them, merge them, or judge by a metric that does not depend on each of them (f1_weighted)",
    )


def one_class_dominates(targets: Targets) -> Iterator[Finding]:
    """Find one class that nearly all rows have."""
    if targets.kind not in {"binary", "multiclass"}:
        return
    counts = rows_of_classes(targets, np.arange(len(targets.values)))
    share = float(counts.max() / counts.sum())
    if share <= DOMINATES:
        return
    yield Finding(
        code="LT303",
        severity="warning",
        found=f"{percent(share)} of the rows have the class {shown(targets.classes[int(counts.argmax())], 40)}, so "
        f"that the constant answer has an accuracy of {percent(share)}",
        advice="judge by f1_macro, balanced_accuracy or average_precision (evaluation.metric), and try "
        "loss.class_weights: balanced",
    )


def outliers(table: Table, targets: Targets) -> Iterator[Finding]:
    """Find values far outside of all others."""
    if targets.kind != "regression":
        return
    far: list[tuple[float, int, int]] = []
    for column, values in enumerate(targets.values.T):
        distance = np.abs(values - np.median(values))
        usual = np.median(distance)
        if usual > 0:
            times = distance / usual
            far += [(float(times[row]), int(row), column) for row in np.flatnonzero(times > FAR_AWAY)]
    if not far:
        return
    far.sort(reverse=True)
    named = ", ".join(
        f"{targets.columns[column]} {targets.values[row, column]:.6g} in {table.describe_place(row)}"
        for _, row, column in far[:3]
    )
    yield Finding(
        code="LT304",
        severity="warning",
        found=f"{count_rows(len({row for _, row, _ in far}))} with values far from all others: {named}",
        advice="look at these rows, and correct or remove what is a typing error or a mark of a missing value",
    )


def rounded_scale(targets: Targets) -> Iterator[Finding]:
    """Find numbers that are steps of a scale."""
    if targets.kind != "regression":
        return
    steps = [(name, len(np.unique(v))) for name, v in zip(targets.columns, targets.values.T, strict=True)]
    few = [(name, count) for name, count in steps if count <= MOST_STEPS and count * 10 <= len(targets.values)]
    if few:
        named = ", ".join(f"{name} ({count} values)" for name, count in few[:5])
        yield Finding(
            code="LT305",
            severity="note",
            found=f"the targets are steps of a scale: {named}",
            advice="nothing, if the distance between predictions and targets counts; else judge by qwk "
            "(evaluation.metric) and decide with `leantune predict --decide qwk`",
        )


def correlated_targets(targets: Targets) -> Iterator[Finding]:
    """Find pairs of targets that are nearly the same."""
    same = [
        (name, other, r)
        for (name, other), r in target_correlations(targets).items()
        if abs(r) > NEARLY_THE_SAME and name != other
    ]
    if same:
        named = ", ".join(f"{name} and {other} ({r:.2f})" for name, other, r in same[:5])
        yield Finding(
            code="LT306",
            severity="note",
            found=f"targets that are nearly the same (correlation): {named}",
            advice="leave one of them out, or give it less weight, if they are the same thing",
        )


def target_correlations(targets: Targets) -> dict[tuple[str, str], float]:
    """Return Pearson's correlation of each pair of target columns that vary; {} for a single one."""
    if targets.kind not in {"regression", "multilabel"} or len(targets.columns) < 2:
        return {}
    values = target_matrix(targets)
    varying = np.flatnonzero(values.std(axis=0) > 0)
    if len(varying) < 2:
        return {}
    matrix = np.atleast_2d(np.corrcoef(values[:, varying], rowvar=False))
    names = [targets.columns[place] for place in varying]
    return {(names[i], names[j]): float(matrix[i, j]) for i, j in combinations(range(len(names)), 2)}


def constant_labels(targets: Targets) -> Iterator[Finding]:
    """Find labels that no row has, or that all have."""
    if targets.kind != "multilabel":
        return
    share: NDArray[np.float64] = np.asarray(np.nanmean(targets.values, axis=0))
    constant = [name for name, mean in zip(targets.classes, share, strict=True) if mean in (0, 1)]
    if constant:
        yield Finding(
            code="LT307",
            severity="warning",
            found=f"{len(constant)} of {len(share)} labels are the same in every row: {listed(constant, 5)}",
            advice="leave them out of data.target",
        )


def fold_differs(targets: Targets, folds: Folds, numbers: Sequence[int]) -> Iterator[Finding]:
    """Find folds whose targets differ from those of the rows that train."""
    matrix, names = target_matrix(targets), targets.classes or targets.columns
    found = []
    for number in numbers:
        inside, outside = matrix[folds.validation_rows(number)], matrix[folds.training_rows(number)]
        if min(len(inside), len(outside)) < FEW_ROWS:
            continue
        error = np.sqrt(inside.var(axis=0) / len(inside) + outside.var(axis=0) / len(outside))
        distance = np.abs(inside.mean(axis=0) - outside.mean(axis=0))
        apart = np.divide(distance, error, out=np.zeros_like(error), where=error > 0)
        worst = int(apart.argmax())
        if apart[worst] > STANDARD_ERRORS:
            means = inside[:, worst].mean(), outside[:, worst].mean()
            found.append(f"fold {number}: the mean of {names[worst]} is {means[0]:.3g}, and {means[1]:.3g} elsewhere")
    if found:
        yield Finding(
            code="LT308",
            severity="warning",
            found="; ".join(found[:3]),
            advice="nothing, if new rows will differ as much (a later time, other authors); else make other folds "
            "(folds.kind: auto)",
        )


def target_matrix(targets: Targets) -> NDArray[np.float64]:
    """Return the targets as numbers [N, outputs], of classes one column each.

    A label that was not scored (NaN) has the mean of those that were, so that it tells nothing.
    """
    if targets.values.ndim == 2:
        values = targets.values.astype(np.float64)
        known: NDArray[np.float64] = np.where(np.isnan(values), np.nanmean(values, axis=0), values)
        return known
    own: NDArray[np.float64] = np.eye(len(targets.classes))[targets.values.astype(np.int64)]
    return own
