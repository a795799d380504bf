"""Decisions from probabilities and values: thresholds fitted for a metric, and what they really gain.

    out-of-fold predictions -> DecisionRule (thresholds fitted on all rows) -> decided labels, classes, numbers
                           `-> thresholds for each fold, fitted on the others -> score, gain and its interval

A threshold that was fitted on the rows that score it flatters itself. So the score that is told is cross-fitted: the
thresholds for the rows of a fold never saw them. `docs/design/0009-decisions.md` has the searches and the simulations.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leantune.inference.crossfit import cross_fitting_folds
from leantune.inference.intervals import Interval, bootstrap_differences
from leantune.system.errors import SettingsError
from leantune.system.formatting import figure
from leantune.tables.targets import TaskKind
from leantune.training.metrics import MetricName
from leantune.training.scoring import compute_metrics, known_labels

Values = NDArray[np.float64]

DECIDED: dict[TaskKind, tuple[MetricName, ...]] = {
    "binary": ("f1", "f1_macro", "f1_weighted", "accuracy", "balanced_accuracy", "mcc"),
    "multilabel": ("f1_macro", "f1_micro", "f1_weighted", "balanced_accuracy", "mcc"),
    "multiclass": ("qwk",),
    "regression": ("qwk",),
    "soft": (),
}
"""Task -> the metrics that thresholds can be fitted for; for others the most probable class is the best decision, or
no decision is scored."""

_MOST_LEVELS = 1_000


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """What is decided, by thresholds."""

    kind: TaskKind
    metric: MetricName
    thresholds: tuple[tuple[float, ...], ...]
    """From each threshold on, the next higher decision. Binary: one, for the probability of the second class.
    Multilabel: one for each label. Multiclass: between neighbouring classes, for the expected place of the class in
    their order, counted from 0. Regression: between neighbouring whole numbers, for each target."""
    lowest: tuple[int, ...] = ()
    """Regression: the number below the first threshold, for each target."""

    def decide(self, predictions: Values) -> Values:
        """Return the decisions, in the shape of the predictions: 1 for the class or label, 0 otherwise; or numbers."""
        if self.kind == "regression":
            levels = [np.searchsorted(t, p, side="right") for t, p in zip(self.thresholds, predictions.T, strict=True)]
            return np.stack(levels, axis=1) + np.asarray(self.lowest, dtype=np.float64)
        if self.kind == "multilabel":
            return (predictions >= np.concatenate(self.thresholds)).astype(np.float64)
        scores = predictions[:, 1] if self.kind == "binary" else _expected_places(predictions)
        chosen = np.searchsorted(self.thresholds[0], scores, side="right")
        return np.eye(predictions.shape[1])[chosen]


@dataclass(frozen=True, kw_only=True)
class FittedDecisions:
    """A decision rule, and what it gains over the most probable class, labels from 0.5 on, or rounding."""

    rule: DecisionRule
    """Fitted on all rows: for new rows."""
    score: float | None
    """Its metric, cross-fitted."""
    plain_score: float | None
    """The metric without fitted thresholds, on the same rows."""
    gain_interval: Interval | None
    """95% interval of `score` - `plain_score`, by bootstrap over rows (or groups), with the thresholds as they are: a
    little too narrow, as other rows would have given others."""
    flattered_score: float | None
    """The metric of `rule` on the rows that it was fitted on: what not to believe."""

    @property
    def gain(self) -> float | None:
        """`score` - `plain_score`; None where one is not defined."""
        return None if self.score is None or self.plain_score is None else self.score - self.plain_score

    def describe(self) -> str:
        """Return one sentence for people: what the thresholds gain."""
        metric = self.rule.metric
        if self.score is None or self.plain_score is None or self.gain is None:
            return f"{metric} is not defined on the run's validation rows, so no gain could be shown"
        scores = f"{metric} {figure(self.score, 4)} with fitted thresholds, {figure(self.plain_score, 4)} without"
        if self.gain_interval is None:
            return f"{scores} (cross-fitted); no gain could be shown"
        low, high = self.gain_interval
        interval = f"{self.gain:+.4f}, 95% interval {low:+.4f} to {high:+.4f}"
        if low > 0:
            return f"{scores} (cross-fitted; gain {interval})"
        if high < 0:
            return f"{scores} (cross-fitted; difference {interval}): the fitted thresholds are worse"
        return f"{scores} (cross-fitted; difference {interval}): no gain could be shown"


def fit_decisions(
    kind: TaskKind,
    metric: MetricName,
    targets: NDArray[np.generic],
    predictions: Values,
    *,
    folds: NDArray[np.generic] | None = None,
    groups: NDArray[np.generic] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> FittedDecisions:
    """Fit a decision rule on out-of-fold predictions, and tell what it gains on rows that it did not see.

    Targets and predictions as in `compute_metrics`. `folds` [n]: the fold of each row; where there are fewer than two,
    the rows are split into five at random (by `seed`), rows of one of the `groups` [n] together. Raises `SettingsError`
    as `fit_rule` does.
    """
    rule = fit_rule(kind, metric, targets, predictions)
    folds = cross_fitting_folds(len(targets), folds=folds, groups=groups, seed=seed)
    decided = np.empty(predictions.shape)
    for fold in np.unique(folds):
        inside = folds == fold
        of_others = _fit(kind, metric, targets[~inside], predictions[~inside], _lowest_and_highest(kind, targets))
        decided[inside] = of_others.decide(predictions[inside])
    intervals = bootstrap_differences(
        kind, targets, decided, predictions, metrics=[metric], groups=groups, seed=seed, resamples=resamples
    )
    return FittedDecisions(
        rule=rule,
        score=compute_metrics(kind, targets, decided)[metric],
        plain_score=compute_metrics(kind, targets, predictions)[metric],
        gain_interval=intervals[metric],
        flattered_score=compute_metrics(kind, targets, rule.decide(predictions))[metric],
    )


def fit_rule(kind: TaskKind, metric: MetricName, targets: NDArray[np.generic], predictions: Values) -> DecisionRule:
    """Return the rule of the highest metric on these rows, among all thresholds; of equals the nearest to the usual.

    Binary and labels: every cut between two scores is tried (`f1`: thresholds are what maximises it, and each label of
    `f1_macro` by itself: Lipton, Elkan and Naryanaswamy 2014, ECML PKDD; for the other metrics Koyejo et al. 2014,
    NIPS). `f1_micro` has one threshold for all labels. `qwk`: see `_fit_cut_points`.

    Raises `SettingsError` for a metric that thresholds do not change or that the task has not, and for `qwk` of targets
    that are not whole numbers.
    """
    refuse_metric(kind, metric)
    return _fit(kind, metric, targets, predictions, _lowest_and_highest(kind, targets))


def refuse_metric(kind: TaskKind, metric: MetricName) -> None:
    """Raise `SettingsError` for a metric that the task has not, or that thresholds do not serve."""
    if metric in DECIDED[kind]:
        return
    known = DECIDED[kind]
    expected = "no metric: there is nothing to decide; leave it out"
    if kind == "multiclass":
        expected = "qwk, for classes that have an order; without it the most probable class is taken"
    elif known:
        expected = " or ".join([", ".join(known[:-1]), known[-1]] if len(known) > 1 else known)
    raise SettingsError(f"decide: found {metric} for a run of the kind {kind}, expected {expected}")


def _lowest_and_highest(kind: TaskKind, targets: NDArray[np.generic]) -> list[tuple[int, int]]:
    """Return the range of each target of a regression, which must be whole numbers; of other tasks nothing."""
    if kind != "regression":
        return []
    if not (targets == np.rint(targets.astype(np.float64))).all():
        raise SettingsError("decide: found targets with a decimal part, expected whole numbers for qwk; leave it out")
    ranges = [(int(column.min()), int(column.max())) for column in targets.T.astype(np.float64)]
    if any(highest - lowest >= _MOST_LEVELS for lowest, highest in ranges):
        raise SettingsError(
            f"decide: found targets in a range of more than {_MOST_LEVELS:,} whole numbers, expected a scale of fewer "
            "for qwk; leave it out"
        )
    return ranges


def _fit(
    kind: TaskKind,
    metric: MetricName,
    targets: NDArray[np.generic],
    predictions: Values,
    ranges: list[tuple[int, int]],
) -> DecisionRule:
    if kind == "regression":
        columns = zip(targets.T.astype(np.float64), predictions.T, ranges, strict=True)
        thresholds = tuple(_fit_cut_points(t, p, *bounds) for t, p, bounds in columns)
        return DecisionRule(kind=kind, metric=metric, thresholds=thresholds, lowest=tuple(low for low, _ in ranges))
    if kind == "multiclass":
        places = _expected_places(predictions)
        cuts = _fit_cut_points(targets.astype(np.float64), places, 0, predictions.shape[1] - 1)
        return DecisionRule(kind=kind, metric=metric, thresholds=(cuts,))
    if kind == "binary":
        threshold = _fit_threshold(metric, targets == 1, predictions[:, 1])
        return DecisionRule(kind=kind, metric=metric, thresholds=((threshold,),))
    truth, known, count = targets == 1, known_labels(targets), predictions.shape[1]
    if metric == "f1_micro":
        one = _fit_threshold("f1", truth[known], predictions[known])
        return DecisionRule(kind=kind, metric=metric, thresholds=((one,),) * count)
    # A mean over labels is highest where each is: what the labels weigh does not depend on the thresholds.
    of_label: MetricName = "f1" if metric in {"f1_macro", "f1_weighted"} else metric
    labels = zip(truth.T, predictions.T, known.T, strict=True)
    found = (_fit_threshold(of_label, t[k], p[k]) for t, p, k in labels)
    return DecisionRule(kind=kind, metric=metric, thresholds=tuple((threshold,) for threshold in found))


def _expected_places(probabilities: Values) -> Values:
    """Return the expected place of the class in the order of the classes, [n], from probabilities [n, classes]."""
    places: Values = probabilities @ np.arange(probabilities.shape[1], dtype=np.float64)
    return places


def _fit_threshold(metric: MetricName, truth: NDArray[np.bool_], scores: Values) -> float:
    """Return from which score on "yes" has the highest metric, [n] each: O(n log n), exact."""
    if not len(scores):  # a label that no row has a score of
        return 0.5
    levels, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, weights=truth, minlength=len(levels))
    rows = np.bincount(place, minlength=len(levels))
    # Cut k says "no" to the levels before k: from no level to all of them.
    misses = np.concatenate([[0.0], np.cumsum(positive)])
    rest = np.concatenate([[0.0], np.cumsum(rows - positive)])
    values = _of_counts(metric, hits=misses[-1] - misses, false_alarms=rest[-1] - rest, misses=misses, rest=rest)
    if not np.isfinite(values).any():
        return 0.5
    best = np.flatnonzero(values >= np.nanmax(values) - 1e-12)
    edges = np.concatenate([[-np.inf], levels, [np.inf]])
    cuts = [_cut(edges[k], edges[k + 1], 0.5) for k in best]
    return min(cuts, key=lambda cut: (abs(cut - 0.5), cut))


def _of_counts(metric: MetricName, *, hits: Values, false_alarms: Values, misses: Values, rest: Values) -> Values:
    """Return a metric of two classes for many cuts, as `compute_metrics` has it; NaN where it is not defined."""
    count, others, total = hits + misses, rest + false_alarms, hits + false_alarms + misses + rest
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = 2 * hits / (2 * hits + false_alarms + misses)
        f1_of_rest = 2 * rest / (2 * rest + false_alarms + misses)
        product = count * others * (hits + false_alarms) * (rest + misses)
        mcc = np.nan_to_num((hits * rest - false_alarms * misses) / np.sqrt(product))
        found: dict[str, Values] = {
            "f1": np.nan_to_num(f1),
            "f1_macro": np.nanmean([f1, f1_of_rest], axis=0),  # a class neither there nor said is NaN
            "f1_weighted": (np.nan_to_num(f1) * count + np.nan_to_num(f1_of_rest) * others) / total,
            "accuracy": (hits + rest) / total,
            "balanced_accuracy": np.nanmean([hits / count, rest / others], axis=0),
            "mcc": np.where(count * others > 0, mcc, np.nan),
        }
    return found[metric]


def _fit_cut_points(targets: Values, scores: Values, lowest: int, highest: int) -> tuple[float, ...]:
    """Return the cut points of the highest quadratic weighted kappa, [n] each; exact, O(n log n).

    For decisions d of targets y, kappa is 2 cov(y, d) / (var(y) + var(d) + (mean(y) - mean(d))^2). A ratio is highest
    where A(d) - kappa B(d) is, with kappa its highest value, which is found by repeating from any start (Dinkelbach
    1967, Management Science 13). Both are sums over rows here, and the difference is, but for what no d changes,
    -kappa x the sum of (z - d)^2 with z = mean(y) + (y - mean(y)) / kappa. Cut points are all the d that grow with the
    score, so the best d is the isotonic regression of z, rounded (least squares over a chain, cut at each half: Best,
    Chakravarti and Ubhaya 2000, SIAM Journal on Optimization 10), and that of z is that of y, stretched. So it is
    fitted once.
    """
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - scikit-learn takes a second

    levels, place, rows = np.unique(scores, return_inverse=True, return_counts=True)
    mean = targets.mean()
    means = np.bincount(place, weights=targets) / rows
    fitted = IsotonicRegression().fit_transform(np.arange(len(levels)), means, sample_weight=rows)
    away = np.where(np.abs(fitted - mean) > 1e-9 * (highest - lowest + 1), fitted - mean, 0.0)

    def decisions(kappa: float) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            stretched = np.where(away == 0, 0.0, away / kappa)
        decided: Values = np.clip(np.rint(mean + stretched), lowest, highest)
        return decided

    def kappa_of(decided: Values) -> float:
        d = decided[place]
        by_chance = targets.var() + d.var() + (mean - d.mean()) ** 2
        return float(1 - np.square(targets - d).mean() / by_chance) if by_chance > 0 else 0.0

    kappa, best = 0.0, decisions(0.0)
    while (higher := kappa_of(best)) > kappa + 1e-12:
        kappa, best = higher, decisions(higher)
    firsts = np.searchsorted(best, np.arange(lowest + 1, highest + 1), side="left")
    edges = np.concatenate([[-np.inf], levels, [np.inf]])
    usual = np.arange(lowest, highest) + 0.5
    return tuple(_cut(edges[k], edges[k + 1], default) for k, default in zip(firsts, usual, strict=True))


def _cut(below: float, above: float, usual: float) -> float:
    """Return a cut with `below` under it and `above` not: the usual one where it is one, else in the middle."""
    if below < usual <= above:
        return float(usual)
    if np.isinf(above):
        return float(np.nextafter(below, np.inf))
    if np.isinf(below):
        return float(above)
    middle = below + (above - below) / 2
    return float(middle if middle > below else above)
