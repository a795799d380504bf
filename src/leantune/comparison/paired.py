"""Paired differences over folds and seeds: an estimate and its interval, for several recipes. SciPy and numpy only.

    differences [folds, seeds]  ->  largest complete grid  ->  variance of the mean, in parts  ->  Estimate

Folds share training rows, so their differences move together, and their spread alone says too little of how far the
mean can be off: Nadeau and Bengio (2003) add what cannot be seen. `docs/design/0003-paired-intervals.md` has the model
for folds crossed with seeds, and what simulation says of it.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

ALPHA = 0.05
"""Of all intervals of one measure together: in 95 of 100 experiments every one of them holds what it estimates."""
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
    """Interval that holds in 95% for all recipes together; None where there is none: `pairs` is 1, or else all pairs
    are equal, which says nothing of their spread (an accuracy on 20 rows moves in steps)."""
    high: float | None
    p_value: float | None
    """Two-sided, of no difference (a ratio of 1), adjusted for the number of recipes; None without an interval. Below
    0.05 exactly where the interval leaves out no difference."""
    pairs: int
    """Pairs that were used."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of the mean's variance, estimated by a mean square of its own."""

    variance: float
    degrees_of_freedom: int


def paired_estimate(
    differences: NDArray[np.float64], *, rows_ratio: float, recipes: int = 1, looks: int = 1
) -> Estimate:
    """Estimate the mean of the differences, recipe - baseline, with an interval and a p-value.

    The interval is that of one of so many `recipes`, looked at so many times (`looks`): Bonferroni's, so that all of
    them together hold in at least 95%, however they depend on each other and however unlike their scatter is.

    `differences`: [folds, seeds], in the measure's unit, NaN where a run is missing; then the folds or the seeds that
    lack one are left out, whichever keeps more pairs. `rows_ratio`: validation rows / training rows of a fold.

    One fold: paired t over its seeds, which speaks about that fold. Several folds, one seed: the corrected resampled t
    (Nadeau and Bengio 2003, Machine Learning 52), which speaks about that seed. Several of both: the same correction
    for the crossed grid. Raises ValueError where there is no pair, a difference is infinite, `differences` has no two
    axes, or `rows_ratio` is not above 0.
    """
    return _estimate(differences, rows_ratio=rows_ratio, equal_within=0.0, shares=recipes * looks)


def ratio_estimate(
    baseline: NDArray[np.float64], recipe: NDArray[np.float64], *, rows_ratio: float, recipes: int = 1, looks: int = 1
) -> Estimate:
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
    rounding = 4 * float(np.finfo(np.float64).eps)
    ratios = np.log(recipe / baseline)
    logs = _estimate(ratios, rows_ratio=rows_ratio, equal_within=rounding, shares=recipes * looks)
    with np.errstate(over="ignore"):  # an interval without a bound that a float can hold: infinity says so
        return replace(
            logs,
            value=float(np.exp(logs.value)),
            low=None if logs.low is None else float(np.exp(logs.low)),
            high=None if logs.high is None else float(np.exp(logs.high)),
        )


def half_width(
    differences: NDArray[np.float64], *, seeds: int, rows_ratio: float, recipes: int, looks: int = 1
) -> float | None:
    """Return half the interval that so many seeds would give, if runs go on to scatter as these did.

    None where that cannot be told: one seed does not say how seeds differ.
    """
    d = largest_complete_grid(differences)
    if d.size == 0 or d.shape[1] < 2 or (largest := float(np.abs(d).max())) == 0:
        return None
    parts = _parts(_expected(_mean_squares(d / largest), d.shape, seeds), (d.shape[0], seeds), rows_ratio)
    return largest * max(_half_width(way, ALPHA / (recipes * looks)) for way in parts)


def describe_method(folds: int, seeds: int, recipes: int) -> tuple[str, ...]:
    """Return sentences for a report: how the intervals of a metric's differences are made, and of what they speak."""
    if folds == 1 and seeds == 1:
        return ("One pair of runs a recipe, in one fold with one seed: no interval and no verdict.",)
    if folds == 1:
        method = f"Intervals of a metric's differences: paired t over {seeds} seeds"
        about = "They speak about other seeds on this one fold, not about other rows."
    elif seeds == 1:
        method = (
            f"Intervals of a metric's differences: corrected resampled t over {folds} folds, as these share training "
            "rows (Nadeau and Bengio 2003)"
        )
        about = "They speak about other splits with this one seed: what a seed does to all folds alike cannot be seen."
    else:
        method = (
            f"Intervals of a metric's differences: corrected resampled t (Nadeau and Bengio 2003) for {folds} folds "
            f"crossed with {seeds} seeds, the spread of folds, of seeds and of the rest each with its own t (Banerjee "
            "1960)"
        )
        about = "They speak about other splits and other seeds."
    together = f", each at 1 - 0.05 / {recipes}, so that all {recipes} hold together in 95% (Bonferroni)."
    sentences = [method + (together if recipes > 1 else ", at 95%."), about]
    if folds > 1 and seeds > 1 and 2 in (folds, seeds):
        few = "folds" if folds == 2 else "seeds"
        sentences.append(f"Two {few} say little of how {few} differ, which makes intervals wide; three say far more.")
    return tuple(sentences)


def _estimate(differences: NDArray[np.float64], *, rows_ratio: float, equal_within: float, shares: int) -> Estimate:
    if differences.ndim != 2:
        raise ValueError(f"differences must be [folds, seeds], found {differences.ndim} axes")
    if np.isinf(differences).any():
        raise ValueError("differences must be finite, or NaN where a run is missing; found an infinite one")
    if not 0 < rows_ratio < math.inf:
        raise ValueError(f"rows_ratio is validation rows / training rows, a number above 0; found {rows_ratio}")
    d = largest_complete_grid(differences)
    if d.size == 0:
        raise ValueError("there is no pair: every difference is missing")
    mean, largest, pairs = float(d.mean()), float(np.abs(d).max()), d.size
    if np.ptp(d) <= max(equal_within, _ROUNDING * largest):  # also one pair
        return Estimate(value=mean, low=None, high=None, p_value=None, pairs=pairs)
    variances = _variances_of_mean(d / largest, rows_ratio)  # a unit in which no square is too large or too small
    half = largest * max(_half_width(parts, ALPHA / shares) for parts in variances)
    p_value = min(1.0, shares * max(_p_value(mean / largest, parts) for parts in variances))
    return Estimate(value=mean, low=mean - half, high=mean + half, p_value=p_value, pairs=pairs)


def largest_complete_grid(d: NDArray[np.float64]) -> NDArray[np.float64]:
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
    return _parts(_mean_squares(d), (d.shape[0], d.shape[1]), rows_ratio)


def _mean_squares(d: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean squares of folds, seeds and the rest; of one fold or one seed the variance of a pair, thrice."""
    folds, seeds = d.shape
    if folds == 1 or seeds == 1:
        return (float(d.var(ddof=1)),) * 3
    of_folds, of_seeds = d.mean(axis=1, keepdims=True), d.mean(axis=0, keepdims=True)
    rest = float(np.square(d - of_folds - of_seeds + d.mean()).sum()) / ((folds - 1) * (seeds - 1))
    return seeds * float(of_folds.var(ddof=1)), folds * float(of_seeds.var(ddof=1)), rest


def _expected(squares: tuple[float, float, float], grid: tuple[int, ...], seeds: int) -> tuple[float, float, float]:
    """Return the mean squares to be expected with another number of seeds: that of the folds holds a fold's own
    variance once for each seed.
    """
    of_folds, of_seeds, rest = squares
    return rest + max(0.0, of_folds - rest) * seeds / grid[1], of_seeds, rest


def _parts(squares: tuple[float, float, float], grid: tuple[int, int], rows_ratio: float) -> list[list[_Part]]:
    """Return the parts of the mean's variance, in two ways where folds are crossed with seeds."""
    (fold_square, seed_square, rest_square), (folds, seeds) = squares, grid
    if folds == 1:
        return [[_Part(variance=rest_square / seeds, degrees_of_freedom=seeds - 1)]]
    if seeds == 1:
        return [[_Part(variance=rest_square * (1 / folds + rows_ratio), degrees_of_freedom=folds - 1)]]
    freedom, pairs = (folds - 1) * (seeds - 1), folds * seeds
    rest_weight = rows_ratio * (1 - 1 / seeds - 1 / folds) - 1 / pairs
    parts = [
        _Part(variance=(rows_ratio / seeds + 1 / pairs) * fold_square, degrees_of_freedom=folds - 1),
        _Part(variance=(rows_ratio / folds + 1 / pairs) * seed_square, degrees_of_freedom=seeds - 1),
        _Part(variance=rest_weight * rest_square, degrees_of_freedom=freedom),
    ]
    least = [_Part(variance=(rows_ratio + 1 / pairs) * rest_square, degrees_of_freedom=freedom)]
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
