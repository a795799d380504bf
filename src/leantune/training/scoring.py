"""How good predictions are: the metrics of each kind of task, as scikit-learn and SciPy define them.

Every evaluation computes all of them. What scikit-learn would count again for each metric and class is counted once
here: 20,000 rows of 150 classes would take it seconds. All of it is numpy's: importing the two takes a second, in every
process that trains.
"""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leantune.tables.targets import TaskKind
from leantune.training.metrics import Metric, MetricName, metric_names

NEARLY_CONSTANT = float(np.finfo(np.float64).eps ** 0.75)
"""A column whose deviations are smaller, relative to its mean, is taken for constant, as in SciPy."""

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def compute_metrics(
    kind: TaskKind,
    targets: NDArray[np.generic],
    predictions: NDArray[np.float64],
    metric: MetricName | Metric | None = None,
) -> dict[str, float | None]:
    """Return every metric of the task, and `metric` if it is the caller's own; None where it is not defined (a
    correlation with a constant, one class only) or no finite number.

    `targets`: [n, K] for regression, multilabel and soft, [n] classes otherwise. `predictions`: [n, K] values, or
    probabilities [n, classes]. The most probable class is predicted, and every label of a probability of 0.5 and more.
    A label of NaN was not scored: it counts in no metric, nor does a row or a label of which nothing was scored.

    Several targets or labels: each metric is the mean over the columns where it is defined, with these exceptions.
    `rmse` is the root of the mean of squares, and `mcrmse` the mean of the columns' roots. `qwk` is defined where all
    targets are whole numbers; values are rounded and cut to the range of the targets. `accuracy` of labels is the share
    of rows with every label right; `f1_micro` counts all labels together, and `f1_weighted` by how often each occurs.

    Shares of classes (soft): `log_loss` is the mean cross-entropy against the shares, `accuracy` is of their most
    probable class, and `mae` and `rmse` are of the differences of the shares.
    """
    compute = {"regression": _regression, "multilabel": _multilabel, "soft": _soft}.get(kind, _classes)
    with np.errstate(over="ignore", invalid="ignore"):  # squares of huge numbers: not finite, so None
        scores = compute(targets, predictions)
    own = {metric.name: metric.score(targets, predictions)} if isinstance(metric, Metric) else {}
    return {name: _finite(score) for name, score in ({name: scores[name] for name in metric_names(kind)} | own).items()}


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def _regression(targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> dict[str, float | None]:
    truth = targets.astype(np.float64)
    squares = ((truth - predictions) ** 2).mean(axis=0)
    mse = float(squares.mean())
    columns = list(zip(truth.T, predictions.T, strict=True))
    is_whole = all((t == np.rint(t)).all() for t, _ in columns)
    return {
        "mse": mse,
        "rmse": mse**0.5,
        "mae": _absolute_error(truth, predictions),
        "r2": _mean(_r2(t, p) for t, p in columns),
        "pearson": _mean(_pearson(t, p) for t, p in columns),
        "spearman": _mean(_pearson(_ranks(t), _ranks(p)) for t, p in columns),
        "mcrmse": float(np.sqrt(squares).mean()),
        "qwk": _mean(_kappa(t, np.clip(np.rint(p), t.min(), t.max())) for t, p in columns) if is_whole else None,
    }


def _absolute_error(truth: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    return float(np.abs(truth - predictions).mean(axis=0).mean())


def _r2(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float | None:
    """Return the share of the variance that is explained; None where there is none."""
    variation = ((truth - truth.mean()) ** 2).sum()
    if np.ptp(truth) == 0 or variation == 0:
        return None
    return float(1 - ((truth - predicted) ** 2).sum() / variation)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each value's rank, from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Correlate two columns; None where one is constant, or so nearly that rounding errors decide."""
    directions = list[NDArray[np.float64]]()
    for column in (one, other):
        if np.ptp(column) == 0:
            return None
        deviations = column - column.mean()
        largest = np.abs(deviations).max()
        length = largest * np.linalg.norm(deviations / largest, axis=0)  # squares of large numbers would overflow
        if length < NEARLY_CONSTANT * abs(column.mean()):
            return None
        directions.append(deviations / length)
    cosine = float(np.clip(directions[0] @ directions[1], -1, 1))
    return cosine if len(one) > 2 else float(round(cosine))  # that of two rows is 1 or -1 but for rounding errors


def _kappa(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Return Cohen's kappa with quadratic weights of whole numbers; None where both are one and the same number.

    1 - mean square of the differences / the same of all pairs of a row of one with a row of the other, which is the sum
    of their variances and the squared difference of their means: without the matrix of all numbers in the range, which
    has no bound.
    """
    by_chance = one.var() + other.var() + (one.mean() - other.mean()) ** 2
    return None if by_chance == 0 else float(1 - np.square(one - other).mean() / by_chance)


def _classes(targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> dict[str, float | None]:
    truth, chosen = targets.astype(np.int64), predictions.argmax(axis=1)
    labels = np.union1d(truth, chosen)
    hits, rows, answers = (_count(numbers, labels) for numbers in (truth[truth == chosen], truth, chosen))
    recall, f1 = _divide(hits, rows), _divide(2 * hits, rows + answers)
    accuracy = float((truth == chosen).mean())
    present = labels[rows > 0]
    ranked = [1] if predictions.shape[1] == 2 else present.tolist()  # more than two: each that occurs against the rest
    areas = [_areas(truth == c, predictions[:, c]) for c in ranked]
    return {
        "accuracy": accuracy,
        "f1_macro": float(f1.mean()),
        "log_loss": _log_loss(predictions[np.arange(len(truth)), truth]),
        "roc_auc": _mean(roc for roc, _ in areas),
        "mcc": _matthews(hits, rows, answers) if len(present) > 1 else None,
        "f1": float(f1[labels == 1][0]) if 1 in labels else None,
        "f1_micro": accuracy,  # a wrong row is a miss of one class and a false alarm of another
        "f1_weighted": float(np.average(f1, weights=rows)),
        "balanced_accuracy": float(recall[rows > 0].mean()),
        "average_precision": _mean(precision for _, precision in areas),
        "qwk": _kappa(truth.astype(np.float64), chosen.astype(np.float64)),
    }


def _count(numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many of the numbers are each of the labels, which are ascending."""
    return np.bincount(numbers, minlength=int(labels[-1]) + 1)[labels].astype(np.float64)


def _matthews(hits: NDArray[np.float64], rows: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    """Correlate the classes of the rows with those that were predicted, for any number of classes (Gorodkin, 2004)."""
    count = rows.sum()
    variations = (count**2 - answers @ answers) * (count**2 - rows @ rows)
    return float((hits.sum() * count - rows @ answers) / np.sqrt(variations)) if variations else 0.0


def _multilabel(targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> dict[str, float | None]:
    known = known_labels(targets)
    if not known.any():
        return dict.fromkeys(metric_names("multilabel"))
    chosen, truth = (predictions >= 0.5) & known, targets == 1
    counts = (truth & chosen, ~truth & chosen, truth & ~chosen, ~truth & ~chosen & known)
    hits, false_alarms, misses, rest = (count.sum(axis=0).astype(np.float64) for count in counts)
    rows = hits + misses
    f1 = _divide(2 * hits, 2 * hits + false_alarms + misses)
    varied = (rows > 0) & (rows < known.sum(axis=0))
    product = rows * (rest + false_alarms) * (hits + false_alarms) * (rest + misses)
    mcc = _divide(hits * rest - false_alarms * misses, np.sqrt(product))
    balanced = (_divide(hits, rows) + _divide(rest, rest + false_alarms)) / 2
    areas = [_areas(t[k], p[k]) for t, p, k in zip(truth.T, predictions.T, known.T, strict=True)]
    return {
        "accuracy": float((chosen == truth)[known.any(axis=1)].all(axis=1).mean()),
        "f1_macro": float(f1[known.any(axis=0)].mean()),
        "log_loss": _log_loss(np.where(truth, predictions, 1 - predictions)[known]),
        "roc_auc": _mean(roc for roc, _ in areas),
        "mcc": _mean(mcc[varied]),
        "f1_micro": float(2 * hits.sum() / (truth.sum() + chosen.sum())) if truth.any() or chosen.any() else None,
        "f1_weighted": float(np.average(f1, weights=rows)) if rows.any() else None,
        "balanced_accuracy": _mean(balanced[varied]),
        "average_precision": _mean(precision for _, precision in areas),
    }


def known_labels(targets: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Tell which labels [n, K] were scored."""
    return ~np.isnan(targets.astype(np.float64))


def _soft(targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> dict[str, float | None]:
    shares = targets.astype(np.float64)
    return {
        "log_loss": float((shares * -probability_logarithms(predictions)).sum(axis=1).mean()),
        "accuracy": float((shares.argmax(axis=1) == predictions.argmax(axis=1)).mean()),
        "mae": _absolute_error(shares, predictions),
        "rmse": float(((shares - predictions) ** 2).mean(axis=0).mean()) ** 0.5,
    }


def _divide(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one / other; 0 where other is 0, as scikit-learn has it."""
    return np.divide(one, other, out=np.zeros_like(one), where=other != 0)


def _areas(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return the area under the ROC curve, and the average precision, of one class or label; `truth`, `scores`: [n].

    None without a row of the class, the first also without another row. Both are read off one sorting of the scores.
    """
    in_order, positive = np.sort(scores), np.sort(scores[truth])
    count, others = len(positive), len(scores) - len(positive)
    if count == 0:
        return None, None
    below, up_to = (np.searchsorted(in_order, positive, side) for side in _SIDES)
    positive_below, positive_up_to = (np.searchsorted(positive, positive, side) for side in _SIDES)
    precision = float(((count - positive_below) / (len(scores) - below)).mean())
    if others == 0:
        return None, precision
    # The share of the pairs of a row of the class and another in which the former has the higher score, ties half.
    pairs_in_order = ((below - positive_below) + (up_to - positive_up_to)).sum() / 2
    return float(pairs_in_order / (count * others)), precision


def _log_loss(probability_of_truth: NDArray[np.float64]) -> float:
    return float(-probability_logarithms(probability_of_truth).mean())


def probability_logarithms(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return their logarithms; a probability of zero counts as float32's smallest step, as in scikit-learn."""
    logarithms: NDArray[np.float64] = np.log(np.clip(probabilities, np.finfo(np.float32).eps, 1.0))
    return logarithms
