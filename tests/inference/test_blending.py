"""Weights of runs, held against general solvers and trying many; and what they gain on rows that they did not see."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import expit, softmax

from leantune.inference.blending import blend, fit_blend, fit_weights
from leantune.tables.targets import TaskKind
from leantune.training.metrics import default_metric
from leantune.training.scoring import compute_metrics

KINDS: list[TaskKind] = ["regression", "binary", "multiclass", "multilabel", "soft"]


def runs_of(kind, seed, *, rows=60, errors=(0.5, 1.0, 2.0), outputs=3):
    """Targets, and the predictions of runs that err by so much."""
    random = np.random.default_rng(seed)
    outputs = 2 if kind == "binary" else outputs
    scores = random.normal(size=(rows, outputs)) * 2
    noisy = [scores + error * random.normal(size=scores.shape) for error in errors]
    if kind == "regression":
        return scores, noisy
    if kind == "multilabel":
        return (random.random(scores.shape) < expit(scores)).astype(np.float64), [expit(s) for s in noisy]
    shares, predictions = softmax(scores, axis=1), [softmax(s, axis=1) for s in noisy]
    if kind == "soft":
        return shares, predictions
    return (shares.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1), predictions


def score(kind, targets, predictions, weights):
    metric = "mse" if kind == "regression" else default_metric(kind)
    return compute_metrics(kind, targets, blend(predictions, weights))[metric]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 5))
@settings(max_examples=20)
def test_no_other_weights_are_better(kind, seed, count) -> None:
    random = np.random.default_rng(seed)
    targets, predictions = runs_of(kind, seed, rows=20, errors=random.uniform(0.2, 3, count))
    weights = fit_weights(kind, targets, predictions)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)
    found = score(kind, targets, predictions, weights)
    near = [0.999 * np.array(weights) + 0.001 * corner for corner in np.eye(count)]
    others = [*np.eye(count), *near, *random.dirichlet(np.ones(count), size=5)]
    assert all(found <= score(kind, targets, predictions, other) + 1e-8 for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_a_general_solver(kind) -> None:
    targets, predictions = runs_of(kind, 1, rows=200)
    expected = optimize.minimize(
        lambda w: score(kind, targets, predictions, w),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    found = fit_weights(kind, targets, predictions)
    assert found == pytest.approx(expected.x, abs=1e-4)
    assert score(kind, targets, predictions, found) <= expected.fun + 1e-9


def test_where_the_targets_zero_lies_changes_no_weights() -> None:
    targets, predictions = runs_of("regression", 0)
    moved = fit_weights("regression", targets + 1_000, [p + 1_000 for p in predictions])
    assert moved == pytest.approx(fit_weights("regression", targets, predictions), abs=1e-6)
    scaled = fit_weights("regression", targets * 1e-6, [p * 1e-6 for p in predictions])
    assert scaled == pytest.approx(fit_weights("regression", targets, predictions), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_right_gets_all_the_weight(kind) -> None:
    targets, predictions = runs_of(kind, 0)
    right = targets if kind in ("regression", "soft") else None
    if kind == "multilabel":
        right = targets
    elif right is None:
        right = np.eye(predictions[0].shape[1])[targets]
    if kind == "soft":
        predictions = [np.roll(p, 1, axis=0) for p in predictions]
    assert fit_weights(kind, targets, [*predictions, right])[-1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_predict_the_same_share_a_weight_that_is_as_good(kind) -> None:
    targets, predictions = runs_of(kind, 0, errors=(0.5, 1.0))
    alone = fit_weights(kind, targets, predictions)
    doubled = fit_weights(kind, targets, [*predictions, predictions[0]])
    assert doubled[0] + doubled[2] == pytest.approx(alone[0], abs=1e-4)


def test_runs_without_any_error_count_alike() -> None:
    targets = np.arange(6.0)[:, None]
    assert fit_weights("regression", targets, [targets, targets]) == (0.5, 0.5)


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_weights_of_runs_alike_flatter_themselves_and_the_cross_fitted_score_does_not(kind) -> None:
    flattered, honest = [], []
    for seed in range(40):
        targets, predictions = runs_of(kind, seed, rows=40, errors=(1.5,) * 6)
        found = fit_blend(kind, targets, predictions, seed=seed, resamples=50)
        fitted = compute_metrics(kind, targets, blend(predictions, found.weights))[found.metric]
        flattered.append(found.equal_score - fitted)
        honest.append(found.equal_score - found.score)
    # Equal weights are the best there are: whatever is gained on the rows of the fit is chance.
    assert np.mean(flattered) > 0
    assert np.mean(honest) < 0


def test_a_gain_that_is_there_is_shown() -> None:
    targets, predictions = runs_of("regression", 0, rows=500, errors=(0.3, 3.0))
    found = fit_blend("regression", targets, predictions, folds=np.arange(500) % 5)
    assert found.gain_interval[0] > 0
    assert found.weights[0] > 0.9
    assert found.run_scores[0] == compute_metrics("regression", targets, predictions[0])["rmse"]
    text = found.describe(["good", "bad"])
    assert "good 0.9" in text
    assert "no gain" not in text


def test_no_gain_is_said_to_be_none() -> None:
    targets, predictions = runs_of("binary", 3, rows=300, errors=(1.0, 1.5))
    found = fit_blend("binary", targets, predictions)
    assert found.gain_interval[0] < 0 < found.gain_interval[1]
    assert "no gain could be shown" in found.describe(["one", "other"])


def test_weights_that_are_worse_are_said_to_be() -> None:
    targets, predictions = runs_of("binary", 0, rows=80, errors=(1.0, 1.0))
    found = fit_blend("binary", targets, predictions)
    assert found.gain_interval[1] < 0
    assert "worse than equal weights" in found.describe(["one", "other"])


def test_weights_for_a_fold_never_saw_it() -> None:
    targets, predictions = runs_of("multilabel", 0, rows=90)
    folds = np.arange(90) % 3
    found = fit_blend("multilabel", targets, predictions, folds=folds)
    for fold in range(3):
        others = fit_weights("multilabel", targets[folds != fold], [p[folds != fold] for p in predictions])
        expected = blend([p[folds == fold] for p in predictions], others)
        assert np.array_equal(found.blended[folds == fold], expected)


def test_labels_that_were_not_scored_do_not_weigh_on_the_runs():
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 2, size=(50, 2)).astype(float)
    runs = [np.clip(targets * 0.4 + draw.uniform(0, 0.6, size=(50, 2)), 0.01, 0.99) for _ in range(2)]
    missing = np.full((30, 2), np.nan)
    longer = [np.vstack([run, draw.uniform(size=(30, 2))]) for run in runs]

    found = fit_weights("multilabel", np.vstack([targets, missing]), longer)

    assert found == pytest.approx(fit_weights("multilabel", targets, runs))
