"""Paired differences over folds and seeds: an estimate, its interval, and Holm's correction. SciPy and numpy only.

    differences [folds, seeds]  ->  largest complete grid  ->  variance of the mean, in parts  ->  Estimate

Folds share training rows, so their differences move together, and their spread alone says too little of how far the
mean can be off: Nadeau and Bengio (2003) add what cannot be seen. `docs/design/0003-paired-intervals.md` has the model
for folds crossed with seeds, and what simulation says of it.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

_ROUNDING = 1e-9
"""Differences that lie this close together, as a share of the largest, are equal: metrics near 1 that differ by a
millionth have differences rounded to about 1e-10 of themselves."""
_SMALLEST_P = 1e-250
"""Where the search for a p-value ends; SciPy's t distribution is exact that far."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean of paired differences, or a geometric mean of paired ratios, and how sure it is."""

    value: float
    low: float | None
    """95% interval; None where there is none: `pairs` is 1, or else all pairs are equal, which says nothing of their
    spread (an accuracy on 20 rows moves in steps)."""
    high: float | None
    p_value: float | None
    """Two-sided, of no difference (a ratio of 1); None without an interval. Below 0.05 exactly where the interval
    leaves out no difference."""
    grid: tuple[int, int]
    """Folds and seeds that were used: the largest complete grid of pairs."""

    @property
    def pairs(self) -> int:
        """Pairs that were used."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of the mean's variance, estimated by a mean square of its own."""

    variance: float
    degrees_of_freedom: int


def paired_estimate(differences: NDArray[np.float64], *, rows_ratio: float) -> Estimate:
    """Estimate the mean of the differences, recipe - baseline, with a 95% interval and a p-value.

    `differences`: [folds, seeds], in the measure's unit, NaN where a run is missing; then the folds or the seeds that
    lack one are left out, whichever keeps more pairs. `rows_ratio`: validation rows / training rows of a fold.

    One fold: paired t over its seeds, which speaks about that fold. Several folds, one seed: the corrected resampled t
    (Nadeau and Bengio 2003, Machine Learning 52), which speaks about that seed. Several of both: the same correction
    for the crossed grid. Raises ValueError where there is no pair, a difference is infinite, `differences` has no two
    axes, or `rows_ratio` is not above 0.
    """
    return _estimate(differences, rows_ratio=rows_ratio, equal_within=0.0)


def ratio_estimate(baseline: NDArray[np.float64], recipe: NDArray[np.float64], *, rows_ratio: float) -> Estimate:
    """Estimate the geometric mean of recipe / baseline: `paired_estimate` of its logarithm, transformed back.

    `baseline`, `recipe`: [folds, seeds] in the same unit (seconds, bytes), NaN where a run is missing. Raises
    ValueError as `paired_estimate` does, for shapes that differ, and for a value that is not above 0.
    """
    if baseline.shape != recipe.shape:
        raise ValueError(f"baseline is {baseline.shape} and recipe {recipe.shape}: they must have the same shape")
    for name, values in (("baseline", baseline), ("recipe", recipe)):
        wrong = values[~np.isnan(values) & ~((values > 0) & (values < np.inf))]
        if wrong.size:
            raise ValueError(f"{name} holds {wrong[0]}: a ratio needs finite values above 0")
    # The logarithm of a ratio near 1 has the ratio's own rounding error, however small the logarithm is.
    logs = _estimate(np.log(recipe / baseline), rows_ratio=rows_ratio, equal_within=4 * float(np.finfo(np.float64).eps))
    with np.errstate(over="ignore"):  # an interval without a bound that a float can hold: infinity says so
        return replace(
            logs,
            value=float(np.exp(logs.value)),
            low=None if logs.low is None else float(np.exp(logs.low)),
            high=None if logs.high is None else float(np.exp(logs.high)),
        )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the same order.

    With no difference anywhere, at most 5 in 100 such families hold a p below 0.05, however the p-values depend on each
    other, as those of recipes that share a baseline do (Holm 1979, Scandinavian Journal of Statistics 6). Raises
    ValueError for a number outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie between 0 and 1, found {p[~((p >= 0) & (p <= 1))][0]}")
    order = np.argsort(p)
    still_open = np.arange(len(p), 0, -1)  # hypotheses not rejected before this one
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * still_open), 1.0)
    return [float(value) for value in adjusted]


def describe_method(folds: int, seeds: int) -> tuple[str, ...]:
    """Return sentences for a report: how the intervals of such a grid are made, and what they speak about."""
    ratios = "Times and memory are compared as ratios: the mean and its interval are those of log(recipe / baseline)."
    adjusted = "p-values are adjusted over the recipes, for each measure by itself (Holm 1979)."
    one_fold = "These intervals speak about this one fold only, not about other splits."
    if folds == 1 and seeds == 1:
        return "One pair of runs a recipe, in one fold with one seed: no interval and no p-value.", ratios
    if folds == 1:
        return f"95% intervals: paired t over {seeds} seeds.", one_fold, ratios, adjusted
    if seeds == 1:
        return (
            f"95% intervals: corrected resampled t over {folds} folds, as these share training rows "
            "(Nadeau and Bengio 2003).",
            "These intervals speak about this one seed: what a seed does to all folds alike cannot be seen.",
            ratios,
            adjusted,
        )
    method = (
        f"95% intervals: corrected resampled t (Nadeau and Bengio 2003) for {folds} folds crossed with {seeds} seeds, "
        "the spread of folds, of seeds and of the rest each with its own t (Banerjee 1960)."
    )
    if min(folds, seeds) > 2:
        return method, ratios, adjusted
    few = "folds" if folds == 2 else "seeds"
    return (
        method,
        f"Two {few} say little of how {few} differ, which makes intervals wide; three say far more.",
        ratios,
        adjusted,
    )


def _estimate(differences: NDArray[np.float64], *, rows_ratio: float, equal_within: float) -> Estimate:
    if differences.ndim != 2:
        raise ValueError(f"differences must be [folds, seeds], found {differences.ndim} axes")
    if np.isinf(differences).any():
        raise ValueError("differences must be finite, or NaN where a run is missing; found an infinite one")
    if not 0 < rows_ratio < math.inf:
        raise ValueError(f"rows_ratio is validation rows / training rows, a number above 0; found {rows_ratio}")
    d = _largest_complete_grid(differences)
    if d.size == 0:
        raise ValueError("there is no pair: every difference is missing")
    mean, largest, grid = float(d.mean()), float(np.abs(d).max()), (d.shape[0], d.shape[1])
    if np.ptp(d) <= max(equal_within, _ROUNDING * largest):  # also one pair
        return Estimate(value=mean, low=None, high=None, p_value=None, grid=grid)
    variances = _variances_of_mean(d / largest, rows_ratio)  # a unit in which no square is too large or too small
    half = largest * max(_half_width(parts, 0.05) for parts in variances)
    p_value = max(_p_value(mean / largest, parts) for parts in variances)
    return Estimate(value=mean, low=mean - half, high=mean + half, p_value=p_value, grid=grid)


def _largest_complete_grid(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out folds and seeds until nothing is missing and as many pairs as possible are left; of equals, more folds.

    Tries every set of the folds that lack a pair, or of the seeds that do, whichever are fewer: 2^n tries, a tenth of a
    second for 12. A fold or seed that lacks nothing always stays, since it takes nothing from the other axis.
    """
    missing = np.isnan(d)
    lacking_folds, lacking_seeds = missing.sum(axis=1) > 0, missing.sum(axis=0) > 0
    if lacking_folds.sum() < lacking_seeds.sum():
        grids = [(folds, missing[folds].sum(axis=0) == 0) for folds in _keeping_some(lacking_folds)]
    else:
        grids = [(missing[:, seeds].sum(axis=1) == 0, seeds) for seeds in _keeping_some(lacking_seeds)]
    folds, seeds = max(grids, key=lambda grid: (grid[0].sum() * grid[1].sum(), grid[0].sum()))
    return d[folds][:, seeds]


def _keeping_some(lacking: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Yield every way to keep all lines but some of those that lack a pair."""
    for kept in itertools.product((True, False), repeat=int(lacking.sum())):
        lines = ~lacking
        lines[lacking] = kept
        yield lines


def _variances_of_mean(d: NDArray[np.float64], rows_ratio: float) -> list[list[_Part]]:
    """Estimate the variance of the mean of a complete grid [folds, seeds]; where there are two ways, the wider counts.

    d = delta + shared + fold + seed + rest. The variance of what all pairs share is `rows_ratio` times that of a pair
    (fold + seed + rest), so that pairs correlate by n_test / (n_test + n_train), as Nadeau and Bengio have it. It is
    not seen in the spread, and is left out for one fold, about which alone the estimate then speaks.

    In a crossed grid each mean square of the two-way analysis of variance is a part. By chance those of folds and seeds
    can be next to nothing, and the interval with them, so a second way takes the rest for all there is: the least that
    the variance can be.
    """
    folds, seeds = d.shape
    if folds == 1:
        return [[_Part(variance=float(d.var(ddof=1)) / seeds, degrees_of_freedom=seeds - 1)]]
    if seeds == 1:
        return [[_Part(variance=float(d.var(ddof=1)) * (1 / folds + rows_ratio), degrees_of_freedom=folds - 1)]]
    of_folds, of_seeds = d.mean(axis=1, keepdims=True), d.mean(axis=0, keepdims=True)
    freedom = (folds - 1) * (seeds - 1)
    fold_square = seeds * float(of_folds.var(ddof=1))
    seed_square = folds * float(of_seeds.var(ddof=1))
    rest_square = float(np.square(d - of_folds - of_seeds + d.mean()).sum()) / freedom
    rest_weight = rows_ratio * (1 - 1 / seeds - 1 / folds) - 1 / d.size
    parts = [
        _Part(variance=(rows_ratio / seeds + 1 / d.size) * fold_square, degrees_of_freedom=folds - 1),
        _Part(variance=(rows_ratio / folds + 1 / d.size) * seed_square, degrees_of_freedom=seeds - 1),
        _Part(variance=rest_weight * rest_square, degrees_of_freedom=freedom),
    ]
    least = [_Part(variance=(rows_ratio + 1 / d.size) * rest_square, degrees_of_freedom=freedom)]
    # A weight below 0 is left out: the interval is then rather too wide.
    return [seen for way in (parts, least) if (seen := [part for part in way if part.variance > 0])]


def _half_width(parts: list[_Part], p: float) -> float:
    """Half the width of the 1 - `p` interval: each part's variance times the square of its own t, added up.

    Banerjee (1960, Sankhya 22): it covers in at least 1 - `p` of all cases, whatever the true sizes of the parts. One
    part: the t interval.
    """
    return math.hypot(*(math.sqrt(s.variance) * -float(special.stdtrit(s.degrees_of_freedom, p / 2)) for s in parts))


def _p_value(mean: float, parts: list[_Part]) -> float:
    """Return the p of the interval that just reaches zero."""
    t = abs(mean) / math.sqrt(sum(s.variance for s in parts))
    alone = [2 * float(special.stdtr(s.degrees_of_freedom, -t)) for s in parts]
    if len(parts) == 1:
        return alone[0]
    lowest = max(min(alone) / 2, _SMALLEST_P)  # below the p of the part with the most degrees of freedom
    if _half_width(parts, lowest) <= abs(mean):
        return lowest
    log_p = optimize.brentq(lambda log_p: _half_width(parts, math.exp(log_p)) - abs(mean), math.log(lowest), 0.0)
    return math.exp(log_p)
