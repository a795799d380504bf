"""Ratios whose scatter all recipes tell of: known answers, and simulated machines."""

import numpy as np
import pytest
from scipy import stats

from leantune.comparison.dunnett import critical_value
from leantune.comparison.paired import ratio_estimate
from leantune.comparison.pooled import caution, half_width, pooled_estimates, standard_errors
from leantune.experiments.recipes import order_of

# Training seconds of a demo that the project has shown: four recipes, two seeds.
PLAIN = np.array([[22.7, 22.7]])
DEMO = {
    "mixed precision": np.array([[15.4, 14.0]]),
    "dynamic padding": np.array([[16.4, 17.2]]),
    "leantune": np.array([[5.7, 5.6]]),
}


def test_two_seeds_of_four_recipes_are_enough_for_large_differences():
    found = pooled_estimates(DEMO, PLAIN, recipes=3)
    said = {name: (round(e.value, 2), round(e.low, 2), round(e.high, 2)) for name, e in found.items()}
    assert said == {
        "mixed precision": (0.65, 0.52, 0.81),
        "dynamic padding": (0.74, 0.61, 0.90),
        "leantune": (0.25, 0.20, 0.30),
    }
    assert all(e.p_value < 0.05 and e.pairs == 2 for e in found.values())


def test_where_recipes_scatter_alike_it_is_dunnetts_test_of_the_two_way_analysis():
    logs = np.log(np.concatenate([PLAIN, *DEMO.values()]))
    rest = logs - logs.mean(axis=1, keepdims=True) - logs.mean(axis=0) + logs.mean()
    half = critical_value(3, 3) * (2 * np.square(rest).sum() / 3 / 2) ** 0.5
    ratios = np.exp(logs.mean(axis=1)[1:] - logs.mean(axis=1)[0])
    assert [f"{r:.2f} [{r / np.exp(half):.2f}, {r * np.exp(half):.2f}]" for r in ratios] == [
        "0.65 [0.54, 0.77]",
        "0.74 [0.62, 0.89]",
        "0.25 [0.21, 0.30]",
    ]
    # Two of three recipes have no more scatter of their own: only the caution of two blocks is added.
    found = pooled_estimates(DEMO, PLAIN, recipes=3)["leantune"]
    assert 1 - 1e-9 <= np.log(found.high / found.value) / (caution(3, 2) * half) < 1.02


def test_one_recipe_is_the_paired_t_of_the_logarithms():
    baseline, recipe = np.exp(np.random.default_rng(1).normal(size=(2, 1, 6)))
    found = pooled_estimates({"other": recipe}, baseline, recipes=1)["other"]
    expected = ratio_estimate(baseline, recipe, rows_ratio=0.25)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert found.p_value == pytest.approx(expected.p_value)


def test_the_pooled_error_is_that_of_a_least_squares_fit():
    table = np.random.default_rng(2).normal(size=(4, 6))
    design = np.hstack([np.kron(np.eye(4), np.ones((6, 1))), np.kron(np.ones((4, 1)), np.eye(6))])
    rest = np.square(table.ravel() - design @ np.linalg.lstsq(design, table.ravel())[0]).sum()
    errors, freedom = standard_errors(table)
    assert freedom == 15
    assert errors.min() >= (2 * rest / 15 / 6) ** 0.5 - 1e-12


def test_a_recipe_that_lacks_a_run_keeps_its_other_pairs_and_takes_none_from_the_others():
    lacking = {**DEMO, "leantune": np.array([[5.7, np.nan]])}
    found = pooled_estimates(lacking, PLAIN, recipes=2)
    assert (found["leantune"].pairs, found["leantune"].low) == (1, None)
    assert found["leantune"].value == pytest.approx(5.7 / 22.7)
    others = {name: DEMO[name] for name in ("mixed precision", "dynamic padding")}
    assert found["mixed precision"] == pooled_estimates(others, PLAIN, recipes=2)["mixed precision"]


def test_what_is_alike_in_all_pairs_has_no_interval_and_tells_nothing_of_the_others():
    baseline = np.array([[4.0, 5.0, 6.0]])
    noisy = np.array([[2.0, 2.6, 2.9]])
    found = pooled_estimates({"alike": baseline / 4, "noisy": noisy}, baseline, recipes=1)
    assert (found["alike"].value, found["alike"].low, found["alike"].p_value) == (0.25, None, None)
    assert found["noisy"] == pooled_estimates({"noisy": noisy}, baseline, recipes=1)["noisy"]


def test_the_interval_ends_at_one_where_p_is_one_in_twenty():
    for looks in (1, 3):
        found = pooled_estimates(DEMO, PLAIN, recipes=3, looks=looks)["leantune"]
        turned = DEMO | {"leantune": DEMO["leantune"] / found.high}
        again = pooled_estimates(turned, PLAIN, recipes=3, looks=looks)["leantune"]
        assert (again.high, again.p_value) == (pytest.approx(1.0), pytest.approx(0.05, rel=1e-5))


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.inf])
def test_a_ratio_of_what_is_not_above_zero_is_refused(wrong):
    with pytest.raises(ValueError, match=f"other holds {wrong}"):
        pooled_estimates({"other": np.array([[wrong, 1.0]])}, np.ones((1, 2)), recipes=1)


def test_a_recipe_without_a_pair_is_refused():
    with pytest.raises(ValueError, match="other shares no run"):
        pooled_estimates({"other": np.array([[np.nan, 1.0]])}, np.array([[1.0, np.nan]]), recipes=1)


def test_more_blocks_make_the_interval_narrower_as_those_of_so_many_blocks_are():
    assert half_width(0.3, recipes=3, blocks=2, more=0) == pytest.approx(0.3)
    table = np.random.default_rng(3).normal(size=(20_000, 4, 5))
    errors, freedom = standard_errors(table)
    few, few_freedom = standard_errors(table[..., :2])
    halves = [
        caution(3, count) * critical_value(3, free) * np.sqrt(np.square(e).mean())
        for count, free, e in ((2, few_freedom, few), (5, freedom, errors))
    ]
    assert half_width(halves[0], recipes=3, blocks=2, more=3) == pytest.approx(halves[1], rel=0.1)


# Simulated machines


def logs(case, *, recipes, blocks, draws, seed=20261126):
    """Draw logarithms [draws, 1 + recipes, blocks] of recipes that change nothing, and shift what a machine shifts."""
    random = np.random.default_rng([seed, recipes, blocks])
    scatter = np.ones(1 + recipes)
    noisy = {"baseline": [0], "one recipe": [1], "half": range(0, 1 + recipes, 2), "all but one": range(1, 1 + recipes)}
    scatter[list(noisy.get(case, []))] = 3
    found = scatter[:, None] * random.standard_normal((draws, 1 + recipes, blocks))
    if case == "outlier":  # one run of all takes far longer
        where = random.integers((1 + recipes) * blocks, size=draws)
        found.reshape(draws, -1)[np.arange(draws), where] += 10
    if case == "drift":  # the machine gets slower from run to run, in the order in which runs are made
        for block in range(blocks):
            for place, recipe in enumerate(order_of(1 + recipes, block)):
                found[:, recipe, block] += 0.5 * (block * (1 + recipes) + place)
    return found


def coverage(case, *, recipes, blocks, draws):
    """Share of simulated comparisons in which every interval holds a ratio of 1."""
    drawn = logs(case, recipes=recipes, blocks=blocks, draws=draws)
    errors, freedom = standard_errors(drawn)
    t = np.abs((drawn[:, 1:] - drawn[:, :1]).mean(axis=-1)) / errors
    return float((t <= caution(recipes, blocks) * critical_value(recipes, freedom)).all(axis=-1).mean())


CASES = ("alike", "baseline", "one recipe", "half", "all but one", "outlier", "drift")


@pytest.mark.parametrize("blocks", [2, 3, 5, 10])
@pytest.mark.parametrize("recipes", [1, 3, 6])
@pytest.mark.parametrize("case", CASES)
def test_all_intervals_together_hold_in_93_of_100_comparisons(case, recipes, blocks):
    assert coverage(case, recipes=recipes, blocks=blocks, draws=4000) >= stats.binom.ppf(0.001, 4000, 0.93) / 4000


def test_scatter_that_is_unequal_is_not_covered_by_the_pooled_error_alone():
    drawn = logs("baseline", recipes=6, blocks=3, draws=4000)
    rest = drawn - drawn.mean(axis=-1, keepdims=True) - drawn.mean(axis=-2, keepdims=True)
    rest += drawn.mean(axis=(-1, -2), keepdims=True)
    error = np.sqrt(2 * np.square(rest).sum(axis=(-1, -2)) / 12 / 3)
    t = np.abs((drawn[:, 1:] - drawn[:, :1]).mean(axis=-1)) / error[:, None]
    assert (t <= critical_value(6, 12)).all(axis=-1).mean() < 0.86
