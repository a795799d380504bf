"""What a recipe changed in one measure: pairs of runs become an estimate and a verdict, `inconclusive` unless sure.

The interval that is shown is the one that the verdict goes by (law 6). It holds for all recipes of a measure together.

    leaves out no difference           ->  better, worse
    lies within the tolerance          ->  as good, also where it leaves out no difference: too little to matter
    neither                            ->  inconclusive
"""

import bisect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from leantune.comparison import paired, pooled
from leantune.comparison.paired import Estimate, paired_estimate, ratio_estimate
from leantune.comparison.results import RunResult, seconds_to_reach, value_at
from leantune.training.metrics import LOWER_IS_BETTER, MetricName

Verdict = Literal["better", "worse", "as good", "inconclusive"]
MemoryOf = Literal["device", "process"]

WITHOUT_CHANCE = ("peak_bytes", "padding_fraction")
"""Measures that often are the same in every pair, to the byte: there the difference itself is the verdict."""
FROM_PAIRS = ("time_to_quality", "quality_at_equal_time")
"""Measures that a pair of runs has, and no run alone."""
OF_THE_METRIC = ("quality_best", "quality_last", "quality_at_equal_time")
"""Measures in the metric's unit, for which the tolerance is."""
OF_THE_MACHINE = ("train_seconds", "total_seconds", "peak_bytes", "tokens_per_second")
"""Measures whose scatter is the machine's, so that all recipes tell of it; the others have each recipe's own."""
MOST_MORE_SEEDS = 200
"""Seeds that somebody might still add; beyond, no number is told."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing that is compared."""

    name: str
    """quality_best, quality_last, train_seconds, total_seconds, peak_bytes, tokens_per_second, padding_fraction,
    time_to_quality or quality_at_equal_time."""
    label: str
    """For people: `best rmse`, `training time`."""
    unit: str
    """Of a run's own value: "" (a metric), "s", "bytes", "tokens/s" or "share" (0 to 1, shown in percent)."""
    kind: Literal["difference", "ratio"]
    """How a recipe is held against the baseline: recipe - baseline, or recipe / baseline."""
    lower_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one recipe changed in one measure, over all pairs."""

    measure: Measure
    estimate: Estimate | None
    """Of the difference, or of the ratio (already back from logarithms); None where no pair has both values."""
    verdict: Verdict
    reason: str
    """Why there is no verdict or no interval, and which pairs are left out; "" where there is nothing to explain."""
    seed_error: float | None = None
    """Standard error of the estimate over pairs of runs, on the scale of the estimate; for best quality only."""
    row_error: float | None = None
    """Standard error of the estimate over validation rows, for best quality only: what other rows would have said."""
    tolerance: float | None = None
    """Differences up to here do not matter; None where nothing is as good."""
    more_seeds: int | None = None
    """About how many more seeds would settle an inconclusive effect, if the difference and its scatter stay as they
    are; None where that cannot be told, or where it would take more than `MOST_MORE_SEEDS`."""
    each: tuple[float, ...] = ()
    """The difference or ratio in each pair that has both values, fold by fold, and in a fold seed by seed."""


def make_measures(metric: str) -> tuple[Measure, ...]:
    """Return everything that is compared, in the order of a report; raises ValueError for an unknown metric."""
    if metric not in get_args(MetricName):
        raise ValueError(f"found {metric!r}, expected one of {', '.join(get_args(MetricName))}")
    lower = metric in LOWER_IS_BETTER
    table: tuple[tuple[str, str, str, Literal["difference", "ratio"], bool], ...] = (
        ("quality_best", f"best {metric}", "", "difference", lower),
        ("quality_last", f"last {metric}", "", "difference", lower),
        ("train_seconds", "training time", "s", "ratio", True),
        ("total_seconds", "total time", "s", "ratio", True),
        ("peak_bytes", "peak memory", "bytes", "ratio", True),
        ("tokens_per_second", "tokens per second", "tokens/s", "ratio", False),
        ("padding_fraction", "padding", "share", "difference", True),
        ("time_to_quality", f"time to the baseline's final {metric}", "s", "ratio", True),
        ("quality_at_equal_time", f"{metric} at equal time", "", "difference", lower),
    )
    return tuple(
        Measure(name=name, label=label, unit=unit, kind=kind, lower_is_better=lower_is_better)
        for name, label, unit, kind, lower_is_better in table
    )


def value_of(measure: Measure, run: RunResult, memory_of: MemoryOf) -> float | None:
    """Return a run's own value; None where it is not defined, as those of `FROM_PAIRS` always are."""
    value: float | None
    match measure.name:
        case "quality_best" | "quality_last":
            value = run.scores[measure.name.removeprefix("quality_")][run.metric]
        case "total_seconds":
            value = run.overall["total_seconds"]
        case "peak_bytes":
            value = run.overall[f"peak_{memory_of}_bytes"]
        case "time_to_quality" | "quality_at_equal_time":
            value = None
        case name:
            value = run.scores[name]
    return value


def pair_values(
    measure: Measure, baseline: RunResult, recipe: RunResult, memory_of: MemoryOf
) -> tuple[float | None, float | None]:
    """Return the values that are held against each other, of two runs of the same fold and seed.

    time_to_quality: seconds until the first evaluation that is as good as the baseline's last one.
    quality_at_equal_time: at the latest evaluation within the training time of the faster run.
    """
    if measure.name == "time_to_quality":
        goal = baseline.evaluations[-1].value
        if goal is None:
            return None, None
        reach = partial(seconds_to_reach, goal=goal, lower_is_better=baseline.metric in LOWER_IS_BETTER)
        return reach(baseline), reach(recipe)
    if measure.name == "quality_at_equal_time":
        seconds = min(baseline.scores["train_seconds"], recipe.scores["train_seconds"])
        return value_at(baseline, seconds), value_at(recipe, seconds)
    return value_of(measure, baseline, memory_of), value_of(measure, recipe, memory_of)


def what_is_missing(measure: Measure, pairs: NDArray[np.float64], finished: int) -> str:
    """Say in how many of the `finished` pairs of runs a value is missing; "" where none is.

    `pairs`: [folds, seeds, 2], NaN where there is none, as where a run is not finished.
    """
    there = int(np.isfinite(pairs).all(axis=-1).sum())
    if finished == 0:
        return "no pair of finished runs"
    if measure.name == "time_to_quality" and (goals := int(np.isfinite(pairs[..., 0]).sum())) > there:
        return f"reached in {there} of {goals} pairs"
    if there == finished:
        return ""
    if measure.name == "quality_at_equal_time":
        return f"no evaluation by then in {finished - there} of {finished} pairs"
    return f"defined in {there} of {finished} pairs"


def judge(
    measure: Measure,
    pairs: Mapping[str, NDArray[np.float64]],
    *,
    rows_ratio: float,
    tolerance: float | None = None,
    looks: int = 1,
) -> dict[str, Effect]:
    """Return each recipe's effect on one measure, with intervals that hold for all of them together.

    `pairs`: recipe -> [folds, seeds, 2], the baseline's value and its own, NaN where there is none; `rows_ratio`:
    validation rows / training rows of a fold; `tolerance`: of a metric, in its unit; `looks`: how often the runs are
    judged on the way to these.
    """
    estimates = _estimates(measure, pairs, rows_ratio, recipes=1, looks=looks)
    tested = sum(estimate is not None and estimate.low is not None for estimate in estimates.values())
    if tested > 1:
        estimates = _estimates(measure, pairs, rows_ratio, recipes=tested, looks=looks)
    effects = {}
    for name, estimate in estimates.items():
        verdict, reason = _verdict(measure, estimate, tolerance)
        more = None
        if verdict == "inconclusive" and estimate is not None and estimate.low is not None:
            width = _width_with(measure, pairs[name], estimate, rows_ratio, recipes=tested, looks=looks)
            more = _more_seeds(_centre(measure, estimate), width, tolerance)
        effects[name] = Effect(
            measure=measure,
            estimate=estimate,
            verdict=verdict,
            reason=reason,
            tolerance=tolerance,
            more_seeds=more,
            each=_each(measure, pairs[name]),
        )
    return effects


def _each(measure: Measure, pairs: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the difference or ratio of each whole pair; `pairs`: [folds, seeds, 2]."""
    baseline, recipe = pairs[np.isfinite(pairs).all(axis=-1)].T
    return tuple((recipe / baseline if measure.kind == "ratio" else recipe - baseline).tolist())


def _estimates(
    measure: Measure, pairs: Mapping[str, NDArray[np.float64]], rows_ratio: float, *, recipes: int, looks: int
) -> dict[str, Estimate | None]:
    """Return each recipe's estimate, None without a pair; intervals as for so many recipes."""
    found: dict[str, Estimate | None] = dict.fromkeys(pairs)
    there = {name: values for name, values in pairs.items() if np.isfinite(values).all(axis=-1).any()}
    if measure.name in OF_THE_MACHINE and there:
        baseline = np.fmax.reduce([values[..., 0] for values in there.values()])  # one value a block, or NaN
        own = {name: values[..., 1] for name, values in there.items()}
        return found | pooled.pooled_estimates(own, baseline, recipes=recipes, looks=looks)
    for name, values in there.items():
        baseline, recipe = values[..., 0], values[..., 1]
        if measure.kind == "ratio":
            found[name] = ratio_estimate(baseline, recipe, rows_ratio=rows_ratio, recipes=recipes, looks=looks)
        else:
            found[name] = paired_estimate(recipe - baseline, rows_ratio=rows_ratio, recipes=recipes, looks=looks)
    return found


def _verdict(measure: Measure, estimate: Estimate | None, tolerance: float | None) -> tuple[Verdict, str]:
    """Return what the interval says, and why it says nothing; one that covers no difference says so itself."""
    if estimate is None:
        return "inconclusive", ""
    no_change = 1.0 if measure.kind == "ratio" else 0.0
    direction: Verdict = "better" if (estimate.value < no_change) == measure.lower_is_better else "worse"
    if estimate.low is None or estimate.high is None:
        if estimate.pairs == 1:
            return "inconclusive", "one pair has no interval"
        if measure.name in WITHOUT_CHANCE and estimate.value != no_change:
            return direction, f"the same in all {estimate.pairs} pairs"
        if estimate.value == 0.0 and tolerance is not None:
            return "as good", f"equal in all {estimate.pairs} pairs"
        return "inconclusive", "all pairs differ by the same amount: no spread to judge by"
    is_shown = not estimate.low <= no_change <= estimate.high
    if tolerance is not None and -tolerance <= estimate.low and estimate.high <= tolerance:
        return "as good", f"it is {direction}, by less than the tolerance" if is_shown else ""
    return (direction, "") if is_shown else ("inconclusive", "")


# How many more seeds


def _centre(measure: Measure, estimate: Estimate) -> float:
    """Return the estimate on the scale on which its interval is even on both sides."""
    return math.log(estimate.value) if measure.kind == "ratio" else estimate.value


def _width_with(
    measure: Measure,
    pairs: NDArray[np.float64],
    estimate: Estimate,
    rows_ratio: float,
    *,
    recipes: int,
    looks: int,
) -> Callable[[int], float | None]:
    """Return the function from a number of more seeds to half the interval that they would give."""
    if measure.name in OF_THE_MACHINE:
        assert estimate.low is not None
        half = _centre(measure, estimate) - math.log(max(estimate.low, sys.float_info.min))
        folds = int((np.isfinite(pairs).all(axis=-1).sum(axis=1) > 0).sum())
        return lambda more: pooled.half_width(
            half, recipes=recipes, blocks=estimate.pairs, more=folds * more, looks=looks
        )
    baseline, recipe = pairs[..., 0], pairs[..., 1]
    differences = np.log(recipe / baseline) if measure.kind == "ratio" else recipe - baseline
    seeds = paired.largest_complete_grid(differences).shape[1]
    return lambda more: paired.half_width(
        differences, seeds=seeds + more, rows_ratio=rows_ratio, recipes=recipes, looks=looks
    )


def _more_seeds(centre: float, width: Callable[[int], float | None], tolerance: float | None) -> int | None:
    """Return the least number of more seeds whose interval would leave out no difference, or lie in the tolerance."""
    enough = max(abs(centre), -math.inf if tolerance is None else tolerance - abs(centre))

    def is_settled(more: int) -> bool:
        half = width(more)
        return half is not None and half < enough

    if not is_settled(MOST_MORE_SEEDS):
        return None
    return bisect.bisect_left(range(1, MOST_MORE_SEEDS + 1), True, key=is_settled) + 1
