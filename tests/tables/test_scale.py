"""The scale of targets, as NumPy computes it."""

import numpy as np
import pytest

from leantune.tables.scale import measure_scale


def test_mean_and_deviation_are_those_of_the_rows_repeated_by_their_weights() -> None:
    draw = np.random.default_rng(0)
    values, weights = draw.normal(loc=(5.0, -1e6), scale=(0.1, 300.0), size=(50, 2)), draw.integers(0, 4, 50)
    repeated = np.repeat(values, weights, axis=0)
    scale = measure_scale(values, weights.astype(float))
    assert scale.mean == pytest.approx(repeated.mean(axis=0), rel=1e-12)
    assert scale.deviation == pytest.approx(repeated.std(axis=0), rel=1e-9)
    standardized = scale.standardize(repeated)
    assert standardized.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert standardized.std(axis=0) == pytest.approx([1, 1])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9])
def test_a_column_that_does_not_vary_is_only_moved(constant: float) -> None:
    scale = measure_scale(np.full((7, 1), constant), np.full(7, 0.3))
    assert scale.deviation.tolist() == [1.0]
    assert scale.standardize(np.array([[constant + 2]])) == pytest.approx(2)
