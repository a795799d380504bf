"""Times and memory of several recipes on one machine: ratios to the baseline, all held to what all runs scatter by.

    values [recipes, folds, seeds]  ->  logarithms, two-way (recipe, and fold x seed as blocks)  ->  Estimates

Runs of one fold and seed follow each other on one machine, and what scatters is the machine, so that every recipe tells
something of the scatter of every other. With two seeds a pair of recipes has one degree of freedom, and four recipes
together have three. `docs/design/0012-verdicts.md` has the reasons, and what simulation says of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leantune.comparison.dunnett import adjusted_p, critical_value
from leantune.comparison.paired import ALPHA, Estimate

Floats = NDArray[np.float64]

EQUAL_WITHIN = 4 * float(np.finfo(np.float64).eps)
"""The logarithm of a ratio near 1 has the ratio's own rounding error, however small the logarithm is."""
CAUTION = 22.0
"""The larger, the less the critical value is raised against a baseline that scatters more than the recipes: found by
simulation, so that all intervals together hold in 93% and more where one recipe scatters three times as much."""


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """How far a recipe's mean can be off, and what it takes to be sure."""

    standard_error: float
    """Of the mean logarithm of the ratio."""
    critical: float
    degrees_of_freedom: int
    raised: float
    """By how many times the critical value is larger than Dunnett's."""


def pooled_estimates(
    values: Mapping[str, Floats], baseline: Floats, *, recipes: int, looks: int = 1
) -> dict[str, Estimate]:
    """Return each recipe's geometric mean of recipe / baseline, with an interval for all of them together.

    `values`: recipe -> [folds, seeds], above 0, NaN where a run is missing, as `baseline` is; `recipes`: how many are
    told apart from it, `looks`: how often. A recipe is estimated from the blocks that it shares with the baseline, and
    the scatter from all recipes that have those. One pair, and ratios that are all equal, have no interval. Raises
    ValueError for a value that is not above 0, and for a recipe without a pair.
    """
    base = _logarithms("baseline", baseline)
    logs = {name: _logarithms(name, own) for name, own in values.items()}
    found = {}
    for name, own in logs.items():
        blocks = np.isfinite(base) & np.isfinite(own)
        if not blocks.any():
            raise ValueError(f"{name} shares no run with the baseline")
        ratios = np.log(values[name][blocks] / baseline[blocks])
        value, pairs = float(np.exp(ratios.mean())), int(blocks.sum())
        if np.ptp(ratios) <= EQUAL_WITHIN:
            found[name] = Estimate(value=value, low=None, high=None, p_value=None, pairs=pairs)
            continue
        others = [o[blocks] for o in logs.values() if o is not own and _has_spread(o[blocks] - base[blocks])]
        table = np.stack([base[blocks], own[blocks], *others])
        scatter = scatter_of(table, recipes=recipes, looks=looks)[0]
        half = scatter.critical * scatter.standard_error
        t = abs(float(ratios.mean())) / scatter.standard_error / scatter.raised
        p_value = min(1.0, looks * adjusted_p(t, recipes, scatter.degrees_of_freedom))
        with np.errstate(over="ignore"):  # an interval without a bound that a float can hold: infinity says so
            low, high = (float(np.exp(ratios.mean() + end)) for end in (-half, half))
        found[name] = Estimate(value=value, low=low, high=high, p_value=p_value, pairs=pairs)
    return found


def scatter_of(table: Floats, *, recipes: int, looks: int = 1) -> list[Scatter]:
    """Return the scatter of each recipe's mean difference from the first row of `table` [1 + recipes, blocks]."""
    errors, freedom = standard_errors(table)
    raised = caution(recipes, table.shape[-1])
    critical = raised * critical_value(recipes, freedom, ALPHA / looks)
    return [
        Scatter(standard_error=float(error), critical=critical, degrees_of_freedom=freedom, raised=raised)
        for error in errors
    ]


def standard_errors(table: Floats) -> tuple[Floats, int]:
    """Return the standard error of each recipe's mean difference [..., recipes], and its degrees of freedom.

    `table`: [..., 1 + recipes, blocks], logarithms, the baseline first. The error is the largest of three: the pooled
    one of the two-way analysis, that of the recipe's own differences, and the mean of all recipes' own. Where recipes
    scatter alike the three are close; a recipe that scatters more than the others has its own, and a baseline that does
    raises everybody's.
    """
    blocks, count = table.shape[-1], table.shape[-2]
    freedom = (count - 1) * (blocks - 1)
    rest = table - table.mean(axis=-1, keepdims=True)
    rest = rest - rest.mean(axis=-2, keepdims=True)
    pooled = 2 * np.square(rest).sum(axis=(-1, -2)) / freedom
    own = (table[..., 1:, :] - table[..., :1, :]).var(axis=-1, ddof=1)
    largest = np.maximum(np.maximum(pooled, own.mean(axis=-1))[..., None], own)
    return np.sqrt(largest / blocks), freedom


def caution(recipes: int, blocks: int) -> float:
    """Return by how many times the critical value is raised: few blocks cannot show that scatter is unequal."""
    return 1 + (recipes - 1) / (CAUTION * (blocks - 1))


def half_width(half: float, *, recipes: int, blocks: int, more: int, looks: int = 1) -> float:
    """Return half the interval that `more` blocks would give, if runs go on to scatter as in these `blocks`.

    `half`: half the interval of these, of the logarithm.
    """

    def size(count: int) -> float:
        critical = critical_value(recipes, recipes * (count - 1), ALPHA / looks)
        return caution(recipes, count) * critical / math.sqrt(count)

    return half * size(blocks + more) / size(blocks)


def describe_pooled(recipes: Sequence[str]) -> tuple[str, ...]:
    """Return sentences for a report: how the intervals of ratios are made."""
    return (
        "Times, speed and memory are compared as ratios: the estimate is the geometric mean of recipe / baseline over "
        "the pairs. The runs of one fold and seed follow each other on one machine, so the scatter is estimated from "
        "all recipes together (two-way analysis of the logarithms), and the intervals hold for all recipes together "
        "(Dunnett 1955). Where a recipe, or all of them against the baseline, scatter more than that, the larger "
        "scatter counts, and few runs make the critical value a little larger."
        if len(recipes) > 1
        else "Times, speed and memory are compared as ratios: the estimate is the geometric mean of recipe / baseline "
        "over the pairs, with a t interval of the logarithms.",
        "They speak about this machine.",
    )


def _logarithms(name: str, values: Floats) -> Floats:
    wrong = values[~np.isnan(values) & ~((values > 0) & (values < np.inf))]
    if wrong.size:
        raise ValueError(f"{name} holds {wrong[0]}: a ratio needs finite values above 0")
    return np.log(values)


def _has_spread(ratios: Floats) -> bool:
    """Tell whether a recipe has every block, and ratios that are not all equal."""
    return bool(np.isfinite(ratios).all() and np.ptp(ratios) > EQUAL_WITHIN)
