"""Dunnett's critical values, held against his tables and SciPy."""

import numpy as np
import pytest
from scipy import stats

from leantune.comparison.dunnett import _all_within, adjusted_p, critical_value


@pytest.mark.parametrize(
    ("recipes", "degrees_of_freedom", "published"),
    # Dunnett (1964, Biometrics 20), table II, two-sided, 95%.
    [(1, 5, 2.57), (2, 5, 3.03), (3, 5, 3.29), (4, 5, 3.48), (6, 10, 3.07), (9, 20, 2.95), (3, 60, 2.41)],
)
def test_critical_values_are_those_of_dunnetts_tables(recipes, degrees_of_freedom, published):
    assert critical_value(recipes, degrees_of_freedom) == pytest.approx(published, abs=0.0051)


@pytest.mark.parametrize(("recipes", "runs"), [(2, 3), (3, 2), (6, 4)])
def test_p_values_are_scipys(recipes, runs):
    samples = np.random.default_rng(recipes).normal(size=(1 + recipes, runs))
    samples[1] += 1.5
    found = stats.dunnett(*samples[1:], control=samples[0], rng=np.random.default_rng(0))
    ours = [adjusted_p(t, recipes, (1 + recipes) * (runs - 1)) for t in found.statistic]
    assert ours == pytest.approx(list(found.pvalue), abs=2e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.05 / 3])
@pytest.mark.parametrize("degrees_of_freedom", [1, 3, 40, 2000])
@pytest.mark.parametrize("recipes", [1, 2, 3, 12])
def test_the_p_of_a_critical_value_is_its_alpha(recipes, degrees_of_freedom, alpha):
    t = critical_value(recipes, degrees_of_freedom, alpha)
    assert adjusted_p(t, recipes, degrees_of_freedom) == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("degrees_of_freedom", [1, 4, 30])
def test_one_recipe_is_students_t_also_by_the_integral(degrees_of_freedom):
    expected = stats.t.sf(2.0, degrees_of_freedom) * 2
    assert 1 - _all_within(2.0, 1, degrees_of_freedom) == pytest.approx(expected, rel=1e-8)
