"""How often do the verdicts of a comparison err? Simulated experiments whose truth is known.

    .venv/bin/python benchmarks/verdicts.py            all tables, as docs/design/0012-verdicts.md shows them
    .venv/bin/python benchmarks/verdicts.py --draws 2000 ratios

Nothing is trained: numbers are drawn, and judged by the code that judges runs.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from leantune.comparison.dunnett import critical_value
from leantune.comparison.effects import judge, make_measures
from leantune.comparison.paired import ALPHA, paired_estimate
from leantune.comparison.pooled import caution, standard_errors
from leantune.experiments.recipes import order_of
from leantune.experiments.runner import looks_of

Floats = NDArray[np.float64]

SEEDS, FOLDS, RECIPES = (2, 3, 5, 10), (1, 5), (1, 3, 6)
RMSE = make_measures("rmse")[0]
CASES = ("alike", "baseline", "one recipe", "half", "all but one", "outlier", "drift")
"""Runs of the times: whose scatter is three times as large, one run that takes e^(10 standard deviations) times as
long, and a machine that gets slower by half a standard deviation from run to run."""


def machine(case: str, random: np.random.Generator, *, recipes: int, blocks: int, draws: int) -> Floats:
    """Draw logarithms [draws, 1 + recipes, blocks] of recipes that change nothing."""
    scatter = np.ones(1 + recipes)
    noisy = {"baseline": [0], "one recipe": [1], "half": range(0, 1 + recipes, 2), "all but one": range(1, 1 + recipes)}
    scatter[list(noisy.get(case, []))] = 3
    found: Floats = scatter[:, None] * random.standard_normal((draws, 1 + recipes, blocks))
    if case == "outlier":
        found.reshape(draws, -1)[np.arange(draws), random.integers((1 + recipes) * blocks, size=draws)] += 10
    if case == "drift":
        for block in range(blocks):
            for place, recipe in enumerate(order_of(1 + recipes, block)):
                found[:, recipe, block] += 0.5 * (block * (1 + recipes) + place)
    return found


def ratios(draws: int) -> Iterator[list[str]]:
    """Yield, for each grid, how often all intervals of a ratio hold together, in each case."""
    yield ["recipes", "folds x seeds", *CASES, "width"]
    for recipes in RECIPES:
        for folds in FOLDS:
            for seeds in SEEDS:
                blocks = folds * seeds
                cells, width = [], 0.0
                for case in CASES:
                    random = np.random.default_rng([2026, recipes, blocks])
                    drawn = machine(case, random, recipes=recipes, blocks=blocks, draws=draws)
                    errors, freedom = standard_errors(drawn)
                    half = errors * caution(recipes, blocks) * critical_value(recipes, freedom)
                    means = (drawn[:, 1:] - drawn[:, :1]).mean(axis=-1)
                    cells.append(f"{100 * (np.abs(means) <= half).all(axis=-1).mean():.1f}")
                    width = float(np.median(half)) if case == "alike" else width
                yield [str(recipes), f"{folds} x {seeds}", *cells, f"{width:.2f}"]


def metric(draws: int, *, recipes: int, folds: int, seeds: int, uneven: bool, seed: int = 0) -> tuple[Floats, Floats]:
    """Draw a metric's differences [draws, recipes, folds, seeds] around 0, and what their intervals speak of.

    Each pair has what moves a fold, a seed, all pairs (as folds share rows), and the rest. One fold is spoken of as it
    is. `uneven`: the first recipe scatters three times as much.
    """
    random = np.random.default_rng([seed, recipes, folds, seeds])
    shape = (draws, 1 + recipes)
    of_fold = random.standard_normal((*shape, folds, 1)) / 2
    of_seed = random.standard_normal((*shape, 1, seeds)) / 2
    rest = random.standard_normal((*shape, folds, seeds))
    shared = (1.5 / 4) ** 0.5 * random.standard_normal((*shape, 1, 1)) if folds > 1 else np.zeros((*shape, 1, 1))
    runs = shared + of_fold + of_seed + rest
    truth = of_fold[:, :, 0, 0] if folds == 1 else np.zeros(shape)
    if uneven:
        runs[:, 1] *= 3
        truth[:, 1] *= 3
    return runs[:, 1:] - runs[:, :1], truth[:, 1:] - truth[:, :1]


def differences(draws: int) -> Iterator[list[str]]:
    """Yield how often all intervals of a metric's difference hold together, and how often a false verdict is given."""
    yield ["recipes", "folds x seeds", "alike", "one scatters 3x", "width"]
    for recipes in RECIPES:
        for folds in FOLDS:
            for seeds in SEEDS:
                cells, width = [], 0.0
                for uneven in (False, True):
                    some = draws if folds == 1 else max(500, draws // 10)
                    d, truth = metric(some, recipes=recipes, folds=folds, seeds=seeds, uneven=uneven)
                    half = _half_widths(d, recipes)
                    means = d.mean(axis=(-1, -2))
                    cells.append(f"{100 * (np.abs(means - truth) <= half).all(axis=-1).mean():.1f}")
                    width = width or float(np.median(half))
                yield [str(recipes), f"{folds} x {seeds}", *cells, f"{width:.2f}"]


def _half_widths(d: Floats, recipes: int, looks: int = 1) -> Floats:
    """Return half of each interval [draws, recipes] of differences [draws, recipes, folds, seeds]."""
    if d.shape[2] == 1:  # the paired t, for many at once
        error = d[:, :, 0].std(axis=-1, ddof=1) / d.shape[3] ** 0.5
        return error * critical_value(1, d.shape[3] - 1, ALPHA / (recipes * looks))
    found = [[paired_estimate(own, rows_ratio=0.25, recipes=recipes, looks=looks) for own in each] for each in d]
    return np.array([[((e.high or 0.0) - (e.low or 0.0)) / 2 for e in each] for each in found])


def as_good(draws: int) -> Iterator[list[str]]:
    """Yield how often a recipe that is worse by 1.05 tolerances is called as good, at the scatter where it is most."""
    yield ["recipes", "folds x seeds", "as good, truly worse", "as good, truly equal (same scatter)", "a tenth of it"]
    for recipes in RECIPES:
        for folds in FOLDS:
            for seeds in SEEDS:
                some = draws if folds == 1 else max(500, draws // 10)
                d, truth = metric(some, recipes=recipes, folds=folds, seeds=seeds, uneven=False, seed=1)
                d = d - truth[..., None, None]
                half, means = _half_widths(d, recipes), d.mean(axis=(-1, -2))
                found = []
                for scale in np.geomspace(0.001, 1, 30):  # of a pair's scatter, in tolerances
                    shares = [
                        float(((np.abs(scale * means + shift) + scale * half) <= 1).mean()) for shift in (1.05, 0.0)
                    ]
                    found.append((shares[0], scale, shares[1]))
                worst, scale, right = max(found)
                tenth = float(((np.abs(scale / 10 * means) + scale / 10 * half) <= 1).mean())
                yield [str(recipes), f"{folds} x {seeds}", *(f"{100 * x:.1f}" for x in (worst, right, tenth))]


def settle(draws: int) -> Iterator[list[str]]:
    """Yield how often a false verdict is given on the way to N seeds, by intervals that know of the looks or not."""
    yield ["recipes", "looks (seeds)", "metric", "metric, not told of the looks", "time", "time, not told"]
    for recipes in RECIPES:
        for first, most in ((2, 8), (3, 12), (5, 20)):
            looks = looks_of(first, most)
            d, truth = metric(draws, recipes=recipes, folds=1, seeds=most, uneven=False, seed=2)
            d = d - truth[..., None, None]
            times = machine("alike", np.random.default_rng(3), recipes=recipes, blocks=most, draws=draws)
            cells = []
            for judged in (_metric_errs, _time_errs):
                values = d if judged is _metric_errs else times
                for told in (len(looks), 1):
                    wrong = np.zeros(draws, bool)
                    for count in looks:
                        wrong |= judged(values[..., :count], recipes, told)
                    cells.append(f"{100 * wrong.mean():.1f}")
            yield [str(recipes), ", ".join(map(str, looks)), *cells]


def _metric_errs(d: Floats, recipes: int, looks: int) -> NDArray[np.bool_]:
    wrong: NDArray[np.bool_] = (np.abs(d.mean(axis=(-1, -2))) > _half_widths(d, recipes, looks)).any(axis=-1)
    return wrong


def _time_errs(times: Floats, recipes: int, looks: int) -> NDArray[np.bool_]:
    errors, freedom = standard_errors(times)
    half = errors * caution(recipes, times.shape[-1]) * critical_value(recipes, freedom, ALPHA / looks)
    wrong: NDArray[np.bool_] = (np.abs((times[:, 1:] - times[:, :1]).mean(axis=-1)) > half).any(axis=-1)
    return wrong


def more_seeds(draws: int) -> Iterator[list[str]]:
    """Yield how often so many more seeds as are told really settle it, and how many that are."""
    yield ["true difference, in scatter of a pair", "seeds", "told", "settled then", "settled with twice as many"]
    random = np.random.default_rng(5)
    for difference in (0.5, 1.0, 2.0):
        for seeds in (3, 5):
            told, settled = [], []
            for _ in range(max(200, draws // 50)):
                d = difference + random.standard_normal((1, seeds + 400))
                first = judge(RMSE, {"a": _pairs(d[:, :seeds])}, rows_ratio=0.25)["a"]
                if first.more_seeds is not None:
                    told.append(first.more_seeds)
                    later = [
                        judge(RMSE, {"a": _pairs(d[:, : seeds + times * first.more_seeds])}, rows_ratio=0.25)["a"]
                        for times in (1, 2)
                    ]
                    settled.append([effect.verdict != "inconclusive" for effect in later])
            once, twice = np.mean(settled, axis=0)
            yield [str(difference), str(seeds), f"{np.median(told):.0f}", f"{100 * once:.0f}", f"{100 * twice:.0f}"]


def _pairs(d: Floats) -> Floats:
    return np.stack([np.zeros_like(d), d], axis=-1)


TABLES: dict[str, Callable[[int], Iterator[list[str]]]] = {
    "ratios": ratios,
    "differences": differences,
    "as_good": as_good,
    "settle": settle,
    "more_seeds": more_seeds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=list(TABLES), help=", ".join(TABLES))
    parser.add_argument("--draws", type=int, default=20_000)
    asked = parser.parse_args()
    for name in asked.tables:
        print(f"\n{(TABLES[name].__doc__ or '').split(chr(10))[0]}\n")
        for number, line in enumerate(TABLES[name](asked.draws)):
            print(f"| {' | '.join(line)} |")
            if number == 0:
                print("|" + "---|" * len(line))


if __name__ == "__main__":
    main()
