"""Intervals and p-values of paired differences, held against SciPy, formulas written out, and simulated experiments."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from leantune.comparison.paired import describe_method, paired_estimate, ratio_estimate

# Shares of a pair's variance: what a fold does to all seeds, a seed to all folds, and the rest.
EFFECTS = {
    "none": (0, 0, 1),
    "folds": (1, 0, 1),
    "strong folds": (10, 0, 1),
    "seeds": (0, 1, 1),
    "strong seeds": (0, 10, 1),
    "both": (1, 1, 1),
}
GRIDS = [(5, 1), (5, 2), (5, 3), (3, 3), (2, 2), (2, 5), (1, 2), (1, 3), (1, 5), (10, 1)]

eighths = st.integers(-80, 80).map(lambda n: n / 8)
ratios = st.sampled_from([1 / 9, 1 / 4, 1 / 2, 1.0])


def grids(most=4, elements=eighths):
    shapes = st.tuples(st.integers(1, most), st.integers(1, most))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=elements))


def vary(d):
    """Whether every mean square is well above rounding, so that formulas can be compared to many digits."""
    return np.ptp(d) > 0


def simulate(random, draws, folds, seeds, *, total_folds, effects="none", shared=1.0):
    """Draw differences [draws, folds, seeds] around 0, and what their intervals speak about, [draws].

    `total_folds`: of the whole cross-validation, of which `folds` have run. All pairs share what correlates them by
    1 / total_folds, times `shared`. One fold is spoken of as it is, and so is one seed.
    """
    fold, seed, rest = EFFECTS[effects]
    of_fold = fold**0.5 * random.standard_normal((draws, folds, 1))
    of_seed = seed**0.5 * random.standard_normal((draws, 1, seeds))
    of_pair = fold + rest + (seed if seeds > 1 else 0)
    common = shared * of_pair / (total_folds - 1)
    of_all = common**0.5 * random.standard_normal((draws, 1, 1))
    d = of_all + of_fold + of_seed + rest**0.5 * random.standard_normal((draws, folds, seeds))
    target = np.zeros(draws)
    if folds == 1:
        target = target + (of_all + of_fold)[:, 0, 0]
    if seeds == 1:
        target = target + of_seed[:, 0, 0]
    return d, target


def ours(d, rows_ratio):
    found = paired_estimate(d, rows_ratio=rows_ratio)
    return found.low, found.high


def coverage(method, folds, seeds, *, draws, random_seed=20261122, total_folds=None, **simulated):
    """Share of simulated experiments, of a planted difference of 0.5, whose interval holds it."""
    total_folds = total_folds or max(folds, 5)
    random = np.random.default_rng([random_seed, folds, seeds])
    drawn, target = simulate(random, draws, folds, seeds, total_folds=total_folds, **simulated)
    intervals = np.array([method(d + 0.5, 1 / (total_folds - 1)) for d in drawn])
    return float(np.mean((intervals[:, 0] <= target + 0.5) & (target + 0.5 <= intervals[:, 1])))


def fewest(draws):
    """The coverage that an interval of exactly 95% falls below once in a thousand times."""
    return stats.binom.ppf(0.001, draws, 0.95) / draws


def t_interval(mean, variance, degrees_of_freedom):
    return stats.t.interval(0.95, degrees_of_freedom, loc=mean, scale=math.sqrt(variance))


def plain_t(d, rows_ratio):
    return t_interval(d.mean(), d.var(ddof=1) / d.size, d.size - 1)


def nadeau_bengio(d, rows_ratio):
    """The corrected resampled t, as if every pair were a fold of its own."""
    return t_interval(d.mean(), (1 / d.size + rows_ratio) * d.var(ddof=1), d.size - 1)


def nadeau_bengio_of_seed_means(d, rows_ratio):
    return nadeau_bengio(d.mean(axis=1), rows_ratio)


def weighted_mean_squares(d, rows_ratio):
    """(weight x mean square, degrees of freedom) of folds, seeds and rest, from residuals of least-squares fits."""
    folds, seeds = d.shape
    ones, of_fold, of_seed = (
        np.ones((d.size, 1)),
        np.kron(np.eye(folds), np.ones((seeds, 1))),
        np.kron(np.ones((folds, 1)), np.eye(seeds)),
    )

    def left(*columns):
        design = np.hstack(columns)
        return np.sum((d.ravel() - design @ np.linalg.lstsq(design, d.ravel())[0]) ** 2)

    total, rest = left(ones), left(of_fold, of_seed)
    return [
        ((rows_ratio / seeds + 1 / d.size) * (total - left(of_fold)) / (folds - 1), folds - 1),
        ((rows_ratio / folds + 1 / d.size) * (total - left(of_seed)) / (seeds - 1), seeds - 1),
        (
            max(rows_ratio * (1 - 1 / seeds - 1 / folds) - 1 / d.size, 0) * rest / ((folds - 1) * (seeds - 1)),
            (folds - 1) * (seeds - 1),
        ),
    ]


def satterthwaite(d, rows_ratio):
    parts = weighted_mean_squares(d, rows_ratio)
    variance = sum(part for part, _ in parts)
    return t_interval(d.mean(), variance, variance**2 / sum(part**2 / freedom for part, freedom in parts))


# One fold, one seed, one pair


def test_one_fold_is_scipys_paired_t_over_its_seeds():
    baseline, recipe = np.random.default_rng(1).normal(size=(2, 1, 6))
    found = paired_estimate(recipe - baseline, rows_ratio=0.25)
    expected = stats.ttest_rel(recipe[0], baseline[0])
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.value, found.pairs) == (pytest.approx((recipe - baseline).mean()), 6)


def test_one_seed_is_the_corrected_resampled_t_over_its_folds():
    found = paired_estimate(np.array([[0.1], [0.4], [0.3], [0.2], [0.5]]), rows_ratio=0.25)
    # Mean 0.3, variance 0.025, so (1/5 + 1/4) x 0.025 = 0.01125; t with 4 degrees of freedom: 2.776445.
    half = 2.776445 * 0.01125**0.5
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-6)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.3 / 0.01125**0.5, 4))


def test_one_pair_has_a_value_and_no_interval():
    found = paired_estimate(np.array([[0.5]]), rows_ratio=0.25)
    assert (found.value, found.low, found.high, found.p_value, found.pairs) == (0.5, None, None, None, 1)


# Folds crossed with seeds


def test_two_folds_of_two_seeds_are_as_computed_by_hand():
    found = paired_estimate(np.array([[1.0, 2.0], [3.0, 6.0]]), rows_ratio=0.25)
    # Mean squares 9 (folds) and 4 (seeds), both weighted 0.25 / 2 + 1 / 4; the rest's weight, -0.25, counts as zero.
    # The least variance, (0.25 + 1 / 4) x 1 from the rest alone, is smaller.
    half = 12.706205 * (0.375 * (9 + 4)) ** 0.5
    assert (found.value, found.pairs) == (3.0, 4)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert found.p_value == pytest.approx(2 * stats.t.sf(3 / (0.375 * 13) ** 0.5, 1))


@pytest.mark.parametrize(("folds", "seeds", "rows_ratio"), [(3, 3, 0.5), (5, 3, 0.25), (5, 2, 0.25), (2, 5, 1.0)])
def test_a_grid_adds_up_its_weighted_mean_squares_each_with_its_own_t(folds, seeds, rows_ratio):
    d = np.random.default_rng(2).normal(0.3, 1, size=(folds, seeds))
    found = paired_estimate(d, rows_ratio=rows_ratio)
    half = sum(part * stats.t.isf(0.025, freedom) ** 2 for part, freedom in weighted_mean_squares(d, rows_ratio)) ** 0.5
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))


def test_an_interval_is_never_narrower_than_that_of_independent_pairs_with_the_spread_of_the_rest():
    found = paired_estimate(np.array([[1.0, 0.0], [0.0, 1.0]]), rows_ratio=0.25)
    # Means of folds and of seeds are all equal. The rest's mean square is 1, its weight 0.25 + 1 / 4.
    half = 12.706205 * 0.5**0.5
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-6)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.5 / 0.5**0.5, 1))


@given(arrays(np.float64, (4, 1), elements=eighths).filter(vary), ratios)
def test_a_seed_that_repeats_another_exactly_changes_nothing(d, rows_ratio):
    once, twice = paired_estimate(d, rows_ratio=rows_ratio), paired_estimate(np.hstack([d, d]), rows_ratio=rows_ratio)
    assert (twice.low, twice.high, twice.p_value) == pytest.approx((once.low, once.high, once.p_value))


@given(grids().filter(vary), ratios, st.randoms(use_true_random=False))
def test_the_order_of_folds_and_seeds_does_not_matter(d, rows_ratio, random):
    shuffled = d[random.sample(range(d.shape[0]), d.shape[0])][:, random.sample(range(d.shape[1]), d.shape[1])]
    found, expected = (paired_estimate(each, rows_ratio=rows_ratio) for each in (shuffled, d))
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert found.p_value == pytest.approx(expected.p_value, rel=1e-6)


@given(grids().filter(vary), ratios, st.sampled_from([-1.0, 1e6, 1e-200, 1e200]))
def test_other_units_change_the_interval_and_not_the_p_value(d, rows_ratio, factor):
    one, other = paired_estimate(d, rows_ratio=rows_ratio), paired_estimate(factor * d, rows_ratio=rows_ratio)
    unscaled = other.low / factor, other.high / factor
    assert sorted(unscaled) == pytest.approx([one.low, one.high])
    assert other.p_value == pytest.approx(one.p_value, rel=1e-6)


@given(grids().filter(vary), ratios)
def test_an_interval_that_ends_at_zero_has_a_p_value_of_one_in_twenty(d, rows_ratio):
    low = paired_estimate(d, rows_ratio=rows_ratio).low
    assert paired_estimate(d - low, rows_ratio=rows_ratio).p_value == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("folds", [1, 3])
def test_a_difference_far_beyond_its_spread_has_a_tiny_p_value(folds):
    d = 1 + 1e-8 * np.random.default_rng(3).normal(size=(folds, 3))
    assert 0 < paired_estimate(d, rows_ratio=0.5).p_value < 1e-12


def test_a_mean_of_zero_has_a_p_value_of_one():
    assert paired_estimate(np.array([[1.0, 2.0], [-2.0, -1.0]]), rows_ratio=0.25).p_value == 1


# Simulated experiments


@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize(("folds", "seeds"), GRIDS)
def test_intervals_cover_the_planted_difference_in_95_of_100_experiments(folds, seeds, effects):
    assert coverage(ours, folds, seeds, draws=200, effects=effects) >= fewest(200)


@pytest.mark.parametrize(("folds", "seeds"), [(5, 2), (3, 3), (2, 5)])
def test_intervals_of_some_folds_of_many_cover_too(folds, seeds):
    assert coverage(ours, folds, seeds, draws=200, total_folds=10) >= fewest(200)


@pytest.mark.parametrize(("folds", "seeds"), GRIDS)
def test_intervals_of_independent_pairs_cover_too(folds, seeds):
    assert coverage(ours, folds, seeds, draws=200, shared=0.0) >= fewest(200)


@pytest.mark.parametrize(("folds", "seeds"), [(5, 1), (10, 1), (1, 5)])
def test_intervals_of_one_seed_or_one_fold_are_no_wider_than_they_must_be(folds, seeds):
    assert fewest(1000) <= coverage(ours, folds, seeds, draws=1000) <= stats.binom.ppf(0.999, 1000, 0.95) / 1000


@pytest.mark.parametrize(
    ("method", "folds", "seeds", "effects"),
    [
        (plain_t, 5, 1, "none"),
        (plain_t, 5, 3, "none"),
        (nadeau_bengio, 5, 3, "strong folds"),
        (nadeau_bengio, 5, 2, "seeds"),
        (nadeau_bengio_of_seed_means, 5, 3, "none"),
        (satterthwaite, 2, 5, "strong folds"),
    ],
)
def test_the_same_experiments_find_out_methods_that_do_not_cover(method, folds, seeds, effects):
    assert coverage(method, folds, seeds, draws=400, effects=effects) < fewest(400)


def false_alarms(draws, folds, seeds, *, recipes, together):
    """Share of simulated experiments in which any of the recipes, each as good as the baseline, has p < 0.05."""
    random = np.random.default_rng([7, folds, seeds])
    runs, target = simulate(random, (1 + recipes) * draws, folds, seeds, total_folds=5)
    runs = (runs - target[:, None, None]).reshape(draws, 1 + recipes, folds, seeds)
    return np.mean(
        [min(paired_estimate(d, rows_ratio=0.25, recipes=together).p_value for d in e[1:] - e[0]) < 0.05 for e in runs]
    )


@pytest.mark.parametrize("recipes", [1, 5])
@pytest.mark.parametrize(("folds", "seeds"), [(5, 1), (1, 5), (5, 3)])
def test_recipes_that_change_nothing_are_told_from_the_baseline_in_5_of_100_experiments(folds, seeds, recipes):
    found = false_alarms(300, folds, seeds, recipes=recipes, together=recipes)
    assert found <= stats.binom.ppf(0.999, 300, 0.05) / 300


def test_each_alone_they_are_told_from_it_more_often():
    assert false_alarms(400, 5, 1, recipes=5, together=1) > stats.binom.ppf(0.999, 400, 0.05) / 400


@given(grids().filter(vary), ratios, st.integers(1, 6), st.integers(1, 3))
def test_an_interval_for_several_recipes_ends_at_zero_where_its_p_value_is_one_in_twenty(d, rows_ratio, recipes, looks):
    low = paired_estimate(d, rows_ratio=rows_ratio, recipes=recipes, looks=looks).low
    found = paired_estimate(d - low, rows_ratio=rows_ratio, recipes=recipes, looks=looks)
    assert found.p_value == pytest.approx(0.05, rel=1e-6)


# No spread


@pytest.mark.parametrize(
    "d",
    [
        np.zeros((5, 1)),
        np.full((1, 3), -0.05),
        np.array([[0.9 - 0.85], [0.8 - 0.75], [0.3 - 0.25]]),  # 0.05, but for rounding
        1e-12 * np.array([[0.9 - 0.85, 0.8 - 0.75]]),
        np.array([[0.25, np.nan], [0.25, 0.5]]),  # equal where the grid is complete
    ],
)
def test_equal_differences_have_a_value_and_no_interval(d):
    found = paired_estimate(d, rows_ratio=0.25)
    assert found.value == pytest.approx(d[0, 0])
    assert (found.low, found.high, found.p_value) == (None, None, None)
    assert found.pairs > 1


def test_small_differences_that_do_vary_have_an_interval():
    assert paired_estimate(np.array([[1e-12], [2e-12]]), rows_ratio=0.25).high is not None


# Missing runs


@pytest.mark.parametrize(
    ("missing", "kept"),
    [
        ([(0, 0)], np.ix_([1, 2, 3, 4], [0, 1, 2])),
        ([(0, 0), (1, 0), (2, 0)], np.ix_([0, 1, 2, 3, 4], [1, 2])),
        ([(0, 0), (1, 0), (2, 0), (3, 1)], np.ix_([0, 1, 2, 4], [1, 2])),
        ([(0, 0), (0, 1), (0, 2)], np.ix_([1, 2, 3, 4], [0, 1, 2])),
    ],
)
def test_a_missing_run_leaves_out_its_fold_or_its_seed_whichever_keeps_more_pairs(missing, kept):
    d = np.random.default_rng(4).normal(size=(5, 3))
    for pair in missing:
        d[pair] = np.nan
    assert paired_estimate(d, rows_ratio=0.25) == paired_estimate(d[kept], rows_ratio=0.25)


@pytest.mark.parametrize("turn", [np.asarray, np.transpose])
def test_a_long_grid_may_lack_many_runs(turn):
    d = np.ones((60, 3))
    d[:40, 1] = np.nan
    assert paired_estimate(turn(d), rows_ratio=0.25).pairs == 120


def test_of_equal_grids_the_one_with_more_folds_is_kept():
    found = paired_estimate(np.array([[1.0, 2.0], [4.0, np.nan]]), rows_ratio=1.0)
    assert (found.value, found.pairs) == (2.5, 2)


@given(grids(most=5, elements=st.sampled_from([1.0, np.nan])).filter(lambda d: not np.isnan(d).all()))
def test_no_complete_grid_holds_more_pairs_than_those_used(d):
    def sets(count):
        return [list(c) for n in range(1, count + 1) for c in itertools.combinations(range(count), n)]

    complete = [
        len(folds) * len(seeds)
        for folds, seeds in itertools.product(sets(d.shape[0]), sets(d.shape[1]))
        if not np.isnan(d[np.ix_(folds, seeds)]).any()
    ]
    assert paired_estimate(d, rows_ratio=0.25).pairs == max(complete)


# Ratios


def test_a_ratio_is_a_geometric_mean_and_its_interval_is_that_of_the_logarithms():
    baseline, recipe = np.exp(np.random.default_rng(5).normal(size=(2, 5, 3)))
    baseline[2, 1] = np.nan
    recipe[0, 0] = np.nan
    found, logs = (
        ratio_estimate(baseline, recipe, rows_ratio=0.25),
        paired_estimate(np.log(recipe) - np.log(baseline), rows_ratio=0.25),
    )
    expected = stats.gmean(recipe[[1, 3, 4]], axis=None) / stats.gmean(baseline[[1, 3, 4]], axis=None)
    assert (found.value, found.pairs) == (pytest.approx(expected), 9)
    assert (found.low, found.high) == pytest.approx((math.exp(logs.low), math.exp(logs.high)))
    assert found.p_value == pytest.approx(logs.p_value)


@pytest.mark.parametrize("ratio", [1.0, 1 / 3])
def test_ratios_that_are_equal_but_for_rounding_have_a_value_and_no_interval(ratio):
    baseline = np.arange(1.0, 41.0).reshape(10, 4)
    recipe = baseline * ratio
    recipe[0] = np.nextafter(recipe[0], np.inf)
    found = ratio_estimate(baseline, recipe, rows_ratio=0.25)
    assert (found.value, found.low, found.high, found.p_value) == (pytest.approx(ratio), None, None, None)


def test_ratios_that_say_nothing_have_an_interval_without_bounds():
    found = ratio_estimate(np.ones((2, 1)), np.array([[1e-100], [1e100]]), rows_ratio=1.0)
    assert (found.low, found.high) == (0.0, math.inf)


# Mistakes of the caller


@pytest.mark.parametrize(
    ("differences", "rows_ratio", "message"),
    [
        (np.full((2, 2), np.nan), 0.25, "no pair"),
        (np.zeros((0, 3)), 0.25, "no pair"),
        (np.array([[1.0, np.inf]]), 0.25, "infinite"),
        (np.zeros(3), 0.25, r"\[folds, seeds\]"),
        (np.zeros((2, 2)), 0.0, "rows_ratio"),
        (np.zeros((2, 2)), math.nan, "rows_ratio"),
    ],
)
def test_differences_that_cannot_be_estimated_are_refused(differences, rows_ratio, message):
    with pytest.raises(ValueError, match=message):
        paired_estimate(differences, rows_ratio=rows_ratio)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf])
@pytest.mark.parametrize("name", ["baseline", "recipe"])
def test_a_ratio_of_what_is_not_above_zero_is_refused(name, wrong):
    values = {"baseline": np.ones((1, 2)), "recipe": np.ones((1, 2))} | {name: np.array([[1.0, wrong]])}
    with pytest.raises(ValueError, match=f"{name} holds {wrong}"):
        ratio_estimate(**values, rows_ratio=0.25)


def test_a_ratio_of_unlike_shapes_is_refused():
    with pytest.raises(ValueError, match="same shape"):
        ratio_estimate(np.ones((1, 2)), np.ones((2, 2)), rows_ratio=0.25)


# The report's sentences


@pytest.mark.parametrize(
    ("folds", "seeds", "said", "unsaid"),
    [
        (1, 1, ["no interval"], ["Bonferroni"]),
        (1, 5, ["paired t over 5 seeds", "other seeds on this one fold, not about other rows"], ["Nadeau"]),
        (5, 1, ["over 5 folds", "Nadeau and Bengio 2003", "with this one seed"], ["Two seeds", "one fold"]),
        (5, 2, ["5 folds crossed with 2 seeds", "Nadeau and Bengio 2003", "Two seeds"], ["this one"]),
        (2, 3, ["Two folds"], ["Two seeds"]),
        (5, 3, ["Banerjee 1960", "all 3 hold together in 95% (Bonferroni)"], ["Two", "this one"]),
    ],
)
def test_a_report_names_the_method_of_its_grid(folds, seeds, said, unsaid):
    sentences = describe_method(folds, seeds, 3)
    assert 1 <= len(sentences) <= 3
    assert all(words in " ".join(sentences) for words in said)
    assert not any(words in " ".join(sentences) for words in unsaid)
