"""What a recipe changed in one measure: pairs of runs become an estimate and a verdict, `inconclusive` unless sure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from leantune.comparison.paired import Estimate, holm, paired_estimate, ratio_estimate
from leantune.comparison.results import RunResult, seconds_to_reach, value_at
from leantune.training.metrics import LOWER_IS_BETTER, MetricName

Verdict = Literal["better", "worse", "inconclusive"]
MemoryOf = Literal["device", "process"]

SIGNIFICANCE = 0.05
WITHOUT_CHANCE = ("peak_bytes", "padding_fraction")
"""Measures that often are the same in every pair, to the byte: there the difference itself is the verdict."""
FROM_PAIRS = ("time_to_quality", "quality_at_equal_time")
"""Measures that a pair of runs has, and no run alone."""


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
    adjusted_p: float | None
    """Holm's p over the recipes, for this measure; None without an interval."""
    verdict: Verdict
    reason: str
    """Why there is no verdict or no interval, and which pairs are left out; "" where there is nothing to explain."""


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


def judge(measure: Measure, pairs: Mapping[str, NDArray[np.float64]], *, rows_ratio: float) -> dict[str, Effect]:
    """Return each recipe's effect on one measure: better or worse only where Holm's p is below 0.05, or where chance
    has no part in it.

    `pairs`: recipe -> [folds, seeds, 2], the baseline's value and its own, NaN where there is none; `rows_ratio`:
    validation rows / training rows of a fold.
    """
    estimates = {name: _estimate(measure, values, rows_ratio) for name, values in pairs.items()}
    tested = {name: e.p_value for name, e in estimates.items() if e is not None and e.p_value is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    effects = {}
    for name, estimate in estimates.items():
        verdict, reason = _verdict(measure, estimate, adjusted.get(name), recipes=len(tested))
        effects[name] = Effect(
            measure=measure, estimate=estimate, adjusted_p=adjusted.get(name), verdict=verdict, reason=reason
        )
    return effects


def _estimate(measure: Measure, pairs: NDArray[np.float64], rows_ratio: float) -> Estimate | None:
    baseline, recipe = pairs[..., 0], pairs[..., 1]
    if not np.isfinite(recipe - baseline).any():
        return None
    if measure.kind == "ratio":
        return ratio_estimate(baseline, recipe, rows_ratio=rows_ratio)
    return paired_estimate(recipe - baseline, rows_ratio=rows_ratio)


def _verdict(
    measure: Measure, estimate: Estimate | None, adjusted_p: float | None, *, recipes: int
) -> tuple[Verdict, str]:
    """Return the verdict, and why there is none; an interval that covers no difference says so itself."""
    if estimate is None:
        return "inconclusive", ""
    no_change = 1.0 if measure.kind == "ratio" else 0.0
    direction: Verdict = "better" if (estimate.value < no_change) == measure.lower_is_better else "worse"
    if estimate.low is None or estimate.high is None or adjusted_p is None:
        if estimate.pairs == 1:
            return "inconclusive", "one pair has no interval"
        if measure.name in WITHOUT_CHANCE and estimate.value != no_change:
            return direction, f"the same in all {estimate.pairs} pairs"
        return "inconclusive", "all pairs differ by the same amount: no spread to judge by"
    if adjusted_p < SIGNIFICANCE:
        return direction, ""
    if estimate.low <= no_change <= estimate.high:
        return "inconclusive", ""
    alone = "a ratio of 1" if measure.kind == "ratio" else "zero"
    return "inconclusive", f"its own 95% interval leaves out {alone}, but with {recipes} recipes that is not enough"
