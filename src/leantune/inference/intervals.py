"""How far off a metric on so many rows can be: bootstrap over rows, or over groups of rows that belong together.

An interval speaks about other rows of the same kind, predicted by the same model. It says nothing of what another seed
or another split of the rows would have made of the model (`comparison/paired.py`). `docs/design/0008-intervals.md` has
the simulations.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import scipy  # whose submodules are imported when they are used
from numpy.typing import NDArray

from leantune.inference.resampled_scores import RANKED, Scores, Weights, make_scorer
from leantune.tables.targets import TaskKind
from leantune.training.metrics import MetricName, metric_names

Interval = tuple[float, float]

_MOST_UNDEFINED = 0.05
"""A metric that is not defined in more than this share of the resamples has no interval: it would speak about the
others only."""
_NUMBERS_AT_ONCE = 2**22
"""Resamples are scored in parts of at most this many numbers: 32 MiB."""
_MOST_SCORES_RANKED = 2**22
_MOST_LEFT_OUT = 400
"""The skewness of a metric is estimated by leaving out one row at a time, or one of this many parts of the rows."""


def bootstrap_intervals(
    kind: TaskKind,
    targets: NDArray[np.generic],
    predictions: NDArray[np.float64],
    *,
    metrics: Iterable[MetricName] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
) -> dict[MetricName, Interval | None]:
    """Return an interval for each metric of these rows: by default for all that `compute_metrics` has for the task.

    Targets and predictions as there. `groups` [n]: rows of one group are drawn together; they are as many independent
    observations as there are groups. The same seed gives the same intervals.

    None where there is no interval: one row or group only, a metric that is not defined in more than 1 of 20 resamples,
    and one that all resamples agree on (no error in 30 rows says little about how rare errors are). Also for `roc_auc`
    and `average_precision` of more than 4 million scores (rows x classes or labels), unless `metrics` names them: they
    would take minutes. All metrics of 20,000 rows and 77 classes take seconds.

    Bias-corrected and accelerated (BCa; Efron 1987, Journal of the American Statistical Association 82): percentiles
    of the resamples, shifted by the estimate's bias and skewness. Metrics are skewed near their bound, which is where
    good models are: of 50 rows with a `roc_auc` of 0.97, BCa held the truth in 96 cases of 100, percentiles in 89.
    """
    names = metric_names(kind) if metrics is None else tuple(metrics)
    slow = RANKED if metrics is None and predictions.size > _MOST_SCORES_RANKED else frozenset()
    score = make_scorer(kind, targets, predictions, [name for name in names if name not in slow])
    found = _intervals(score, len(targets), confidence=confidence, resamples=resamples, seed=seed, groups=groups)
    return {name: found.get(name) for name in names}


def bootstrap_differences(
    kind: TaskKind,
    targets: NDArray[np.generic],
    predictions: NDArray[np.float64],
    baseline: NDArray[np.float64],
    *,
    metrics: Iterable[MetricName] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    groups: NDArray[np.generic] | None = None,
) -> dict[MetricName, Interval | None]:
    """Return an interval for each metric of `predictions` less that of `baseline`, on the same rows.

    Every resample scores both, so what makes rows hard for both drops out. Otherwise as `bootstrap_intervals`.
    Decisions are given as predictions: 1 for the decided class or label and 0 for the others, or the decided number.
    """
    names = None if metrics is None else tuple(metrics)
    of_one = make_scorer(kind, targets, predictions, names)
    of_other = make_scorer(kind, targets, baseline, names)

    def score(weights: Weights) -> dict[MetricName, Scores]:
        one, other = of_one(weights), of_other(weights)
        return {name: one[name] - other[name] for name in one}

    return _intervals(score, len(targets), confidence=confidence, resamples=resamples, seed=seed, groups=groups)


def _intervals(
    score: Callable[[Weights], dict[MetricName, Scores]],
    rows: int,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    groups: NDArray[np.generic] | None,
) -> dict[MetricName, Interval | None]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")
    if groups is not None and len(groups) != rows:
        raise ValueError(f"groups has {len(groups)} rows, and targets {rows}: they must be the same rows")
    units = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1 if rows else 0
    values = score(np.ones((rows, 1))) if rows else {}
    if count < 2:
        return dict.fromkeys(score(np.ones((1, 1))) if rows == 0 else values)
    drawn = _gather(score, _drawn(units, count, resamples, np.random.default_rng([seed, 0])))
    left = _gather(score, _left_out(units, count, np.random.default_rng([seed, 1])))
    return {name: _bca(float(values[name][0]), drawn[name], left[name], confidence) for name in values}


def _gather(score: Callable[[Weights], dict[MetricName, Scores]], parts: Iterable[Weights]) -> dict[MetricName, Scores]:
    found = [score(part) for part in parts]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _parts(columns: int, rows: int) -> Iterator[int]:
    """Yield how many columns of `rows` numbers to make at once."""
    most = max(1, _NUMBERS_AT_ONCE // rows)
    for done in range(0, columns, most):
        yield min(most, columns - done)


def _drawn(units: NDArray[np.int64], count: int, resamples: int, random: np.random.Generator) -> Iterator[Weights]:
    """Yield resamples of the units with replacement, as weights of the rows [n, R]."""
    for size in _parts(resamples, len(units)):
        weights = np.empty((count, size))
        for column in range(size):
            weights[:, column] = np.bincount(random.integers(count, size=count), minlength=count)
        yield weights[units] if len(units) != count else weights


def _left_out(units: NDArray[np.int64], count: int, random: np.random.Generator) -> Iterator[Weights]:
    """Yield the rows without one unit each, or without one of many parts of them, as weights [n, R]."""
    parts = min(count, _MOST_LEFT_OUT)
    of_unit = random.permutation(count) % parts
    done = 0
    for size in _parts(parts, len(units)):
        yield (of_unit[units][:, None] != np.arange(done, done + size)).astype(np.float64)
        done += size


def _bca(value: float, drawn: Scores, left: Scores, confidence: float) -> Interval | None:
    """Return the interval of one metric from its value, its resamples, and the values with a part left out."""
    defined, left = drawn[np.isfinite(drawn)], left[np.isfinite(left)]
    if len(defined) < (1 - _MOST_UNDEFINED) * len(drawn) or not np.isfinite(value) or np.ptp(defined) == 0:
        return None
    below = ((defined < value).mean() + (defined <= value).mean()) / 2  # ties count half: an accuracy moves in steps
    edge = 0.5 / len(defined)
    bias = scipy.special.ndtri(np.clip(below, edge, 1 - edge))
    influence = left.mean() - left if len(left) else np.zeros(1)
    spread = np.square(influence).sum()
    acceleration = np.power(influence, 3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + scipy.special.ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    shares = scipy.special.ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-3))
    low, high = np.quantile(defined, shares)
    return float(low), float(high)
