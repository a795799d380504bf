"""What each of several runs counts in their mean: weights fitted on out-of-fold predictions, and what they really gain.

Weights are a share of 1 for each run and none is negative, so a blend of runs that agree is what they agree on, lies
between them elsewhere, and does not depend on where the targets' scale has its zero. Weights that add up to 1 are the
ordinary case of stacking too (Breiman 1996, Machine Learning 24: non-negative weights came to about 1 by themselves).

As with thresholds, the score that is told is cross-fitted: the weights for the rows of a fold never saw them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # whose submodules are imported when they are used
from numpy.typing import NDArray

from leantune.inference.crossfit import cross_fitting_folds
from leantune.inference.intervals import Interval, bootstrap_differences
from leantune.system.formatting import figure
from leantune.tables.targets import TaskKind
from leantune.training.metrics import MetricName, default_metric, is_better
from leantune.training.scoring import compute_metrics, known_labels

Values = NDArray[np.float64]

_SMALLEST = float(np.finfo(np.float32).eps)
"""What a probability of 0 counts as in the log loss, as in `compute_metrics`."""
_NEAR_ENOUGH = 1e-9
"""How far the mean log loss may lie above the lowest; its bound is known exactly."""
_MOST_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class FittedWeights:
    """Weights of several runs, and what they gain over equal ones."""

    weights: tuple[float, ...]
    """One for each run, of all rows: for new rows. They add up to 1."""
    metric: MetricName
    """What they minimise: `rmse` of a regression, else `log_loss`."""
    score: float | None
    """The metric of the blend, cross-fitted."""
    equal_score: float | None
    """Of the runs' plain mean."""
    run_scores: tuple[float | None, ...]
    """Of each run alone. The best of several is flattered by being chosen, the more so the more alike they are."""
    gain_interval: Interval | None
    """95% interval of `equal_score` - `score` (above 0 the fitted weights are better), by bootstrap over rows."""
    blended: Values
    """The cross-fitted blend of each row, [n, K]: what thresholds are fitted on."""

    def describe(self, names: Sequence[str]) -> str:
        """Return a sentence for people: the weights of the runs of these names, and what they gain."""
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in zip(names, self.weights, strict=True))
        if self.score is None or self.equal_score is None:
            return f"fitted weights: {weights}; {self.metric} is not defined on the validation rows"
        best: float | None = None
        for score in self.run_scores:
            best = score if is_better(self.metric, score, best) else best
        alone = "" if best is None else f", {figure(best, 4)} for the best run alone"
        scores = (
            f"{self.metric} {figure(self.score, 4)} with them (cross-fitted), {figure(self.equal_score, 4)} with equal "
            f"weights{alone}"
        )
        if self.gain_interval is None:
            return f"fitted weights: {weights}; {scores}; no gain over equal weights could be shown"
        low, high = self.gain_interval
        lower = f"{self.metric} lower by {self.equal_score - self.score:.4f}, 95% interval {low:.4f} to {high:.4f}"
        verdict = "" if low > 0 else "; they are worse than equal weights" if high < 0 else "; no gain could be shown"
        return f"fitted weights: {weights}; {scores} ({lower}){verdict}"


def blend(predictions: Sequence[Values], weights: Sequence[float]) -> Values:
    """Return the weighted sum of the runs' predictions, [n, K] each."""
    total: Values = np.tensordot(np.asarray(weights, dtype=np.float64), np.stack(predictions), axes=1)
    return total


def fit_blend(
    kind: TaskKind,
    targets: NDArray[np.generic],
    predictions: Sequence[Values],
    *,
    folds: NDArray[np.generic] | None = None,
    groups: NDArray[np.generic] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> FittedWeights:
    """Fit the weights of runs on their out-of-fold predictions of the same rows, and tell what they gain.

    Targets, and the predictions of each run, as in `compute_metrics`; `folds` and `groups` as in `fit_decisions`.
    """
    metric = default_metric(kind)
    parts = cross_fitting_folds(len(targets), folds=folds, groups=groups, seed=seed)
    blended = np.empty(predictions[0].shape)
    for part in np.unique(parts):
        inside = parts == part
        weights = fit_weights(kind, targets[~inside], [p[~inside] for p in predictions])
        blended[inside] = blend([p[inside] for p in predictions], weights)
    equal = blend(predictions, [1 / len(predictions)] * len(predictions))
    gain = bootstrap_differences(
        kind, targets, equal, blended, metrics=[metric], groups=groups, seed=seed, resamples=resamples
    )
    return FittedWeights(
        weights=fit_weights(kind, targets, predictions),
        metric=metric,
        score=compute_metrics(kind, targets, blended)[metric],
        equal_score=compute_metrics(kind, targets, equal)[metric],
        run_scores=tuple(compute_metrics(kind, targets, p)[metric] for p in predictions),
        gain_interval=gain[metric],
        blended=blended,
    )


def fit_weights(kind: TaskKind, targets: NDArray[np.generic], predictions: Sequence[Values]) -> tuple[float, ...]:
    """Return the weights, none negative and adding up to 1, of the lowest mean squared error or log loss.

    Both problems are convex. Where runs predict the same, any split of their weight is as good, and one is taken.
    """
    if kind == "regression":
        return _least_squares(targets.astype(np.float64), predictions)
    rows = np.arange(len(targets))
    if kind == "soft":
        shares = targets.astype(np.float64)
        return _lowest_log_loss([p.ravel() for p in predictions], shares.ravel())
    if kind == "multilabel":
        known = known_labels(targets)
        of_truth = [np.where(targets == 1, p, 1 - p)[known] for p in predictions]
    else:
        of_truth = [p[rows, targets.astype(np.int64)] for p in predictions]
    return _lowest_log_loss(of_truth, np.ones(len(of_truth[0])))


def _least_squares(targets: Values, predictions: Sequence[Values]) -> tuple[float, ...]:
    """Return the weights of the least sum of squares.

    As they add up to 1, the error of the blend is the blend of the errors E [n, runs]. Non-negative least squares for
    |E w|^2 + (sum of w - 1)^2 finds the direction of the least |E v|^2 among all v that add up to 1: for w = s v the
    sum is s^2 q + (s - 1)^2 with q = |E v|^2, and at the best s that is q / (1 + q), which grows with q (Haskell and
    Hanson 1981, Mathematical Programming 21, weight such a row).
    """
    errors = np.stack([(p - targets).ravel() for p in predictions], axis=1)
    scale = np.abs(errors).max()
    if scale == 0:
        return (1 / len(predictions),) * len(predictions)
    errors = errors / (scale * len(errors) ** 0.5)
    triangle = np.linalg.qr(errors, mode="r") if len(errors) > errors.shape[1] else errors
    rows = np.vstack([triangle, np.ones(errors.shape[1])])
    weights, _ = scipy.optimize.nnls(rows, np.append(np.zeros(len(triangle)), 1.0))
    return _shares(weights)


def _lowest_log_loss(of_truth: Sequence[Values], counts: Values) -> tuple[float, ...]:
    """Return the weights of the lowest mean log loss, from the truth's probability in each run, [m], and its count.

    Newton's steps on -mean(log(P w)) + sum(w) over w >= 0, whose lowest point adds up to 1 by itself; each step is a
    non-negative least squares problem (Kim, Carbonetto, Stephens and Anitescu 2020, Journal of Computational and
    Graphical Statistics 29: mixsqp). Ends when no weights can be better by more than `_NEAR_ENOUGH`: by convexity the
    lowest loss is at least that of w less log(max of P'(1 / P w) / m).
    """
    probabilities = np.clip(np.stack(of_truth, axis=1), _SMALLEST, 1.0)
    share = counts / counts.sum()
    count = probabilities.shape[1]
    weights = np.full(count, 1 / count)

    def loss(w: Values) -> float:
        blended = probabilities @ w
        return float(-(share @ np.log(blended)) + w.sum()) if (blended > 0).all() else np.inf

    for _ in range(_MOST_STEPS):
        ratios = probabilities / (probabilities @ weights)[:, None]
        pull = share @ ratios  # minus the gradient of the first part
        if pull.max() - 1 <= _NEAR_ENOUGH:
            break
        # The quadratic model in the new weights z is |root z|^2 / 2 - (2 pull - 1) z, but for a constant: the second
        # derivative times the weights is `pull`. The little that is added keeps runs that predict the same apart.
        curvature = (ratios * share[:, None]).T @ ratios
        root = np.linalg.cholesky(curvature + 1e-10 * np.trace(curvature) * np.eye(count)).T
        aim, _ = scipy.optimize.nnls(root, np.linalg.solve(root.T, 2 * pull - 1))
        step, now = 1.0, loss(weights)
        slope = float((1 - pull) @ (aim - weights))
        while step > 1e-10 and loss(weights + step * (aim - weights)) > now + 0.01 * step * slope:
            step /= 2
        weights = weights + step * (aim - weights)
        weights = weights / weights.sum()  # never a higher loss: the best multiple of any weights
    return _shares(weights)


def _shares(weights: Values) -> tuple[float, ...]:
    return tuple(float(weight) for weight in weights / weights.sum())
