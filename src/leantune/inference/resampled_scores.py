"""The metrics of many resamples of the same rows at once.

A resample is how often it holds each row: a column of `weights` [n, R]. Nothing is sorted or copied again for each
resample: every metric is a function of sums over rows, and the sums over all resamples are one product or one addition
of rows of R numbers. 1,000 resamples of 20,000 rows of 77 classes would take `compute_metrics` minutes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy  # whose submodules are imported when they are used
from numpy.typing import NDArray

from leantune.tables.targets import TaskKind
from leantune.training.metrics import MetricName, metric_names
from leantune.training.scoring import known_labels, probability_logarithms

Weights = NDArray[np.float64]
"""[n, R]: how often each of R resamples holds each of n rows."""
Scores = NDArray[np.float64]
"""[R]: a metric of each resample, NaN where it is not defined."""
Scorer = Callable[[Weights], dict[MetricName, Scores]]

RANKED: frozenset[MetricName] = frozenset({"roc_auc", "average_precision"})
"""Metrics that need the scores of each class or label in order: most of the time goes into them."""
_ROUNDING = 1e-12
"""A variance that is this share of the mean square is zero but for rounding."""


def make_scorer(
    kind: TaskKind,
    targets: NDArray[np.generic],
    predictions: NDArray[np.float64],
    metrics: Iterable[MetricName] | None = None,
) -> Scorer:
    """Return the function from resamples of these rows to their metrics, each as `compute_metrics` has it.

    Targets and predictions as there; the function's weights are whole numbers, and every resample holds a row. One
    thing differs: for `qwk` of a regression, all rows' targets say whether they are whole numbers and in which range,
    since the scale is no matter of chance.
    """
    names = tuple(metric_names(kind) if metrics is None else dict.fromkeys(metrics))
    make = {"regression": _regression, "multilabel": _multilabel, "soft": _soft}.get(kind, _classes)
    score = make(targets, predictions, frozenset(names))

    def scores_of(weights: Weights) -> dict[MetricName, Scores]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # not a finite number: not defined
            found = score(weights)
        return {name: np.where(np.isfinite(found[name]), found[name], np.nan) for name in names}

    return scores_of


def _mean_of_defined(values: NDArray[np.float64]) -> Scores:
    """Return the mean over the K defined values [K, R] of each resample."""
    defined = np.isfinite(values)
    mean: Scores = np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)
    return mean


def _mean(weights: Weights, *columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each column [n] in each resample: [columns, R]."""
    means: NDArray[np.float64] = np.stack(columns) @ weights / weights.sum(axis=0)
    return means


def _regression(targets: NDArray[np.generic], predictions: NDArray[np.float64], names: frozenset[MetricName]) -> Scorer:
    columns = list(zip(targets.T.astype(np.float64), predictions.T, strict=True))
    is_whole = all((t == np.rint(t)).all() for t, _ in columns)
    ranks = [(_Ranks(t), _Ranks(p)) for t, p in columns] if "spearman" in names else []

    def score(weights: Weights) -> dict[MetricName, Scores]:
        squares = np.stack([_mean(weights, np.square(t - p))[0] for t, p in columns])
        mse = squares.mean(axis=0)
        missing = np.full(weights.shape[1], np.nan)
        return {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": np.mean([_mean(weights, np.abs(t - p))[0] for t, p in columns], axis=0),
            "r2": _mean_of_defined(
                np.stack([1 - s / _variance(weights, t) for s, (t, _) in zip(squares, columns, strict=True)])
            ),
            "pearson": _mean_of_defined(np.stack([_correlation(weights, t, p) for t, p in columns])),
            "spearman": _mean_of_defined(
                np.stack([_correlation(weights, t.of(weights), p.of(weights)) for t, p in ranks])
            )
            if ranks
            else missing,
            "mcrmse": np.sqrt(squares).mean(axis=0),
            "qwk": _mean_of_defined(
                np.stack([_kappa(weights, t, np.clip(np.rint(p), t.min(), t.max())) for t, p in columns])
            )
            if is_whole
            else missing,
        }

    return score


def _variance(weights: Weights, values: NDArray[np.float64]) -> Scores:
    """Return the variance of values [n] in each resample, NaN where they are all one."""
    centred = values - values.mean()
    mean, square = _mean(weights, centred, np.square(centred))
    variance = square - np.square(mean)
    return np.where(variance > _ROUNDING * square, variance, np.nan)


def _correlation(weights: Weights, one: NDArray[np.float64], other: NDArray[np.float64]) -> Scores:
    """Correlate two columns, [n], or [n, R] where each resample has its own; NaN where one is constant."""
    total = weights.sum(axis=0)
    if one.ndim == 1:
        one, other = (one - one.mean())[:, None], (other - other.mean())[:, None]
        x, y, xx, yy, xy = _mean(weights, *(v[:, 0] for v in (one, other, one * one, other * other, one * other)))
    else:
        x, y, xx, yy, xy = (
            np.einsum("nr,nr->r", weights, v) / total for v in (one, other, one * one, other * other, one * other)
        )
    of_x, of_y = xx - x * x, yy - y * y
    varied = (of_x > _ROUNDING * xx) & (of_y > _ROUNDING * yy)
    return np.where(varied, np.clip((xy - x * y) / np.sqrt(of_x * of_y), -1, 1), np.nan)


def _kappa(weights: Weights, one: NDArray[np.float64], other: NDArray[np.float64]) -> Scores:
    """Return Cohen's kappa with quadratic weights of whole numbers [n], NaN where both are one and the same."""
    centre = np.rint(one.mean())  # whole, so that sums are exact
    one, other = one - centre, other - centre
    x, y, xx, yy, difference = _mean(weights, one, other, one * one, other * other, np.square(one - other))
    by_chance = (xx - x * x) + (yy - y * y) + np.square(x - y)
    return np.where(by_chance > _ROUNDING * (xx + yy), 1 - difference / by_chance, np.nan)


class _Ranks:
    """Ranks of values [n] within each resample, ties at their mean; sorted once."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._distinct, self._place = np.unique(values, return_inverse=True)
        self._sums = _sums_by(self._place, len(self._distinct))

    def of(self, weights: Weights) -> NDArray[np.float64]:
        """Return [n, R] ranks less half the rows of the resample: near 0, so that squares lose no digits."""
        tied = self._sums @ weights
        ranks = np.cumsum(tied, axis=0) - tied / 2 - weights.sum(axis=0) / 2
        of_rows: NDArray[np.float64] = ranks[self._place]
        return of_rows


def _sums_by(groups: NDArray[np.int64], count: int) -> "scipy.sparse.csr_array":
    """Return the matrix [count, n] that sums n rows by their group; rows of a group -1 are in none."""
    rows = np.flatnonzero(groups >= 0)
    shape = (count, len(groups))
    return scipy.sparse.csr_array((np.ones(len(rows)), (groups[rows], rows)), shape=shape)


@dataclass(frozen=True, kw_only=True)
class _Areas:
    """The ROC curve and precision of one class or label, at the scores of its rows; sorted once."""

    all_rows: "scipy.sparse.csr_array"
    """Sums rows by the part of the scores that they are in: below the first of the m scores that the class's rows have,
    at it, between it and the second, ...: [2 m + 1, n]."""
    of_class: "scipy.sparse.csr_array"
    """Sums the rows of the class by their score: [m, n]."""

    def of(self, weights: Weights) -> tuple[Scores, Scores]:
        """Return ROC AUC and average precision of each resample, NaN where it holds no row of the class or no other."""
        rows, positive = self.all_rows @ weights, self.of_class @ weights
        up_to, positive_up_to = np.cumsum(rows, axis=0), np.cumsum(positive, axis=0)
        total, count = up_to[-1], positive_up_to[-1]
        others_below = up_to[0:-1:2] - (positive_up_to - positive)
        others_tied = rows[1::2] - positive
        pairs_in_order = (positive * (others_below + others_tied / 2)).sum(axis=0)
        kept = count - positive_up_to + positive
        precision = np.divide(kept, total - up_to[0:-1:2], out=np.zeros_like(kept), where=positive > 0)
        return pairs_in_order / (count * (total - count)), (positive * precision).sum(axis=0) / count


def _make_areas(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], known: NDArray[np.bool_] | None = None
) -> _Areas | None:
    """Prepare one class or label, `truth` and `scores` [n]; None without a row of it. Only `known` rows [n] count."""
    if not truth.any():
        return None
    levels = np.unique(scores[truth])
    below, up_to = np.searchsorted(levels, scores, "left"), np.searchsorted(levels, scores, "right")
    part = below + up_to if known is None else np.where(known, below + up_to, -1)
    return _Areas(
        all_rows=_sums_by(part, 2 * len(levels) + 1),
        of_class=_sums_by(np.where(truth, below, -1), len(levels)),
    )


def _ranked(areas: list[_Areas | None], weights: Weights) -> tuple[Scores, Scores]:
    """Return ROC AUC and average precision, each the mean over the classes or labels where it is defined."""
    found = [area.of(weights) for area in areas if area is not None]
    if not found:
        missing = np.full(weights.shape[1], np.nan)
        return missing, missing
    roc, precision = zip(*found, strict=True)
    return _mean_of_defined(np.stack(roc)), _mean_of_defined(np.stack(precision))


def _classes(targets: NDArray[np.generic], predictions: NDArray[np.float64], names: frozenset[MetricName]) -> Scorer:
    truth = targets.astype(np.int64)
    chosen, count = predictions.argmax(axis=1), predictions.shape[1]
    losses = -probability_logarithms(predictions[np.arange(len(truth)), truth])
    true_rows, chosen_rows = _sums_by(truth, count), _sums_by(chosen, count)
    hit_rows = _sums_by(np.where(truth == chosen, truth, -1), count)
    ranked = ([1] if count == 2 else range(count)) if names & RANKED else []
    areas = [_make_areas(truth == c, predictions[:, c]) for c in ranked]

    def score(weights: Weights) -> dict[MetricName, Scores]:
        total = weights.sum(axis=0)
        of_class, of_chosen, hits = true_rows @ weights, chosen_rows @ weights, hit_rows @ weights
        occurs, present = of_class + of_chosen > 0, of_class > 0
        f1 = _divide(2 * hits, of_class + of_chosen)
        accuracy = hits.sum(axis=0) / total
        expected = (of_class * of_chosen).sum(axis=0)
        spreads = (total**2 - np.square(of_chosen).sum(axis=0)) * (total**2 - np.square(of_class).sum(axis=0))
        roc, precision = _ranked(areas, weights)
        return {
            "accuracy": accuracy,
            "f1_macro": f1.sum(axis=0) / occurs.sum(axis=0),
            "log_loss": _mean(weights, losses)[0],
            "roc_auc": roc,
            "mcc": np.where(
                present.sum(axis=0) > 1, _divide(hits.sum(axis=0) * total - expected, np.sqrt(spreads)), np.nan
            ),
            "f1": np.where(occurs[1], f1[1], np.nan),
            "f1_micro": accuracy,
            "f1_weighted": (f1 * of_class).sum(axis=0) / total,
            "balanced_accuracy": _divide(hits, of_class).sum(axis=0) / present.sum(axis=0),
            "average_precision": precision,
            "qwk": _kappa(weights, truth.astype(np.float64), chosen.astype(np.float64)),
        }

    return score


def _multilabel(targets: NDArray[np.generic], predictions: NDArray[np.float64], names: frozenset[MetricName]) -> Scorer:
    known = known_labels(targets)
    truth, chosen = targets == 1, (predictions >= 0.5) & known
    losses = (-probability_logarithms(np.where(truth, predictions, 1 - predictions)) * known).sum(axis=1)
    scored, scored_of_row = known.T.astype(np.float64), known.sum(axis=1).astype(np.float64)
    has_known = known.any(axis=1).astype(np.float64)
    all_right = (truth == chosen).all(axis=1) * has_known
    truths, choices, both = (m.T.astype(np.float64) for m in (truth, chosen, truth & chosen))
    ranked = zip(truth.T, predictions.T, known.T, strict=True) if names & RANKED else []
    areas = [_make_areas(*label) for label in ranked]

    def score(weights: Weights) -> dict[MetricName, Scores]:
        total = scored @ weights
        rows, chosen_rows, hits = truths @ weights, choices @ weights, both @ weights
        rest = total - rows - chosen_rows + hits
        f1 = _divide(2 * hits, rows + chosen_rows)
        varied = (rows > 0) & (rows < total)
        product = rows * (total - rows) * chosen_rows * (total - chosen_rows)
        mcc = _divide(hits * rest - (chosen_rows - hits) * (rows - hits), np.sqrt(product))
        balanced = (_divide(hits, rows) + _divide(rest, total - rows)) / 2
        roc, precision = _ranked(areas, weights)
        return {
            "accuracy": (all_right @ weights) / (has_known @ weights),
            "f1_macro": _mean_of_defined(np.where(total > 0, f1, np.nan)),
            "log_loss": (losses @ weights) / (scored_of_row @ weights),
            "roc_auc": roc,
            "mcc": _mean_of_defined(np.where(varied, mcc, np.nan)),
            "f1_micro": 2 * hits.sum(axis=0) / (rows.sum(axis=0) + chosen_rows.sum(axis=0)),
            "f1_weighted": (f1 * rows).sum(axis=0) / rows.sum(axis=0),
            "balanced_accuracy": _mean_of_defined(np.where(varied, balanced, np.nan)),
            "average_precision": precision,
        }

    return score


def _soft(targets: NDArray[np.generic], predictions: NDArray[np.float64], _: frozenset[MetricName]) -> Scorer:
    shares = targets.astype(np.float64)
    losses = (shares * -probability_logarithms(predictions)).sum(axis=1)
    hits = (shares.argmax(axis=1) == predictions.argmax(axis=1)).astype(np.float64)
    errors, squares = np.abs(shares - predictions).mean(axis=1), np.square(shares - predictions).mean(axis=1)

    def score(weights: Weights) -> dict[MetricName, Scores]:
        log_loss, accuracy, mae, mse = _mean(weights, losses, hits, errors, squares)
        return {"log_loss": log_loss, "accuracy": accuracy, "mae": mae, "rmse": np.sqrt(mse)}

    return score


def _divide(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one / other; 0 where other is 0, as scikit-learn has it."""
    return np.divide(one, other, out=np.zeros_like(one), where=other != 0)
