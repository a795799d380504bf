"""Scores of weighted rows are those of `compute_metrics` on the rows repeated."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax

from leantune.inference.resampled_scores import make_scorer
from leantune.tables.targets import TaskKind
from leantune.training.metrics import metric_names
from leantune.training.scoring import compute_metrics

KINDS = get_args(TaskKind)
# Few levels, so that scores tie often; eighths, so that what is equal is exactly equal.
levels = st.integers(-6, 6).map(lambda n: n / 2)


@st.composite
def predicted(draw, kind):
    """Targets, predictions and weights [n, R] of a task; the rows with the outermost targets are in every resample."""
    rows, resamples = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    count = 2 if kind == "binary" else draw(st.integers(2, 4) if kind != "regression" else st.integers(1, 3))
    scores = draw(arrays(np.float64, (rows, count), elements=levels))
    if kind == "regression":
        elements = draw(st.sampled_from([levels, st.integers(0, 4).map(float)]))
        targets = draw(arrays(np.float64, (rows, count), elements=elements))
    elif kind == "multilabel":
        elements = st.sampled_from(draw(st.sampled_from([[0.0, 1.0], [0.0, 1.0, np.nan]])))  # NaN: not scored
        targets = draw(arrays(np.float64, (rows, count), elements=elements))
    elif kind == "soft":
        targets = softmax(draw(arrays(np.float64, (rows, count), elements=levels)), axis=1)
    else:
        targets = draw(arrays(np.int64, rows, elements=st.integers(0, count - 1)))
    predictions = {"regression": lambda s: s, "multilabel": expit}.get(kind, lambda s: softmax(s, axis=1))(scores)
    weights = draw(arrays(np.float64, (rows, resamples), elements=st.integers(0, 3).map(float)))
    if kind == "regression":
        weights[[*targets.argmin(axis=0), *targets.argmax(axis=0)]] += 1
    weights[0] += weights.sum(axis=0) == 0
    return targets, predictions, weights


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_weights_are_repetitions_of_rows(kind: TaskKind, data: st.DataObject) -> None:
    targets, predictions, weights = data.draw(predicted(kind))
    found = make_scorer(kind, targets, predictions)(weights)
    for column, repeats in enumerate(weights.T.astype(np.int64)):
        rows = np.repeat(np.arange(len(targets)), repeats)
        expected = compute_metrics(kind, targets[rows], predictions[rows])
        assert list(found) == list(expected)
        if kind == "regression" and (targets != np.rint(targets)).any():
            del expected["qwk"]  # undefined, whether or not the resample has whole numbers only
        for name, value in expected.items():
            assert found[name][column] == pytest.approx(np.nan if value is None else value, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_alone_is_the_same_as_among_all(kind: TaskKind) -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(30, 2))
    if kind in ("binary", "multiclass"):
        targets, predictions = random.integers(2, size=30), softmax(scores, axis=1)
    else:
        targets, predictions = np.eye(2)[random.integers(2, size=30)], expit(scores)
    weights = random.integers(3, size=(30, 4)).astype(np.float64)
    together = make_scorer(kind, targets, predictions)(weights)
    for name in metric_names(kind):
        alone = make_scorer(kind, targets, predictions, [name])(weights)
        assert list(alone) == [name]
        assert np.array_equal(alone[name], together[name], equal_nan=True)
        assert np.isfinite(alone[name]).all()


def test_a_variance_keeps_its_digits_far_from_zero() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1))
    weights = np.ones((50, 1))
    near = make_scorer("regression", values, values + 0.1)(weights)
    far = make_scorer("regression", values + 1e6, values + 1e6 + 0.1)(weights)
    for name in ("r2", "pearson", "spearman"):
        assert far[name][0] == pytest.approx(near[name][0], abs=1e-6)
