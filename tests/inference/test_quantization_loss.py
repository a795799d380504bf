"""What few bits cost is told as a share of what the model gains over the constant answer."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, r2_score

from leantune.inference.quantization_loss import measure_loss

DRAW = np.random.default_rng(0)


def test_of_one_target_it_is_the_lost_share_of_r2() -> None:
    targets = DRAW.normal(5, 2, (300, 1))
    exact = targets + DRAW.normal(0, 1, targets.shape)
    rough = exact + DRAW.normal(0, 0.5, targets.shape)
    before, after = r2_score(targets, exact), r2_score(targets, rough)
    loss = measure_loss("regression", targets, exact, rough)
    assert loss.share == pytest.approx((before - after) / before)
    assert loss.interval[0] < loss.share < loss.interval[1]


def test_of_several_targets_the_unit_does_not_matter() -> None:
    targets = DRAW.normal(0, 1, (200, 2))
    exact, rough = (targets + DRAW.normal(0, size, targets.shape) for size in (0.5, 0.7))
    unit = np.array([1.0, 1000.0])
    one, other = (measure_loss("regression", targets * u, exact * u, rough * u) for u in (1.0, unit))
    assert one.share == pytest.approx(other.share)


def test_of_classes_it_is_the_lost_share_of_the_log_loss() -> None:
    targets = np.repeat([0, 1, 2], [50, 100, 50])
    exact, rough = (
        (s / s.sum(axis=1, keepdims=True)) for s in (DRAW.random((200, 3)) + k * np.eye(3)[targets] for k in (3, 2))
    )
    constant = np.tile([0.25, 0.5, 0.25], (200, 1))
    losses = [log_loss(targets, values) for values in (exact, rough, constant)]
    loss = measure_loss("multiclass", targets, exact, rough)
    assert loss.share == pytest.approx((losses[1] - losses[0]) / (losses[2] - losses[0]))


@pytest.mark.parametrize("kind", ["multilabel", "soft"])
def test_the_same_predictions_lose_nothing(kind) -> None:
    targets = (DRAW.random((50, 2)) > 0.5).astype(float) if kind == "multilabel" else DRAW.dirichlet([1, 1], 50)
    values = 0.8 * targets + 0.1
    loss = measure_loss(kind, targets, values, values)
    assert (loss.share, loss.interval) == (0, (0, 0))


def test_a_model_that_gains_nothing_can_lose_everything() -> None:
    targets = DRAW.normal(0, 1, (50, 1))
    assert measure_loss("regression", targets, 10 - targets, 10 - targets).share == np.inf


def test_what_is_as_bad_as_the_constant_answer_has_lost_all() -> None:
    targets = DRAW.normal(0, 1, (50, 1))
    loss = measure_loss("regression", targets, targets, np.full_like(targets, targets.mean()))
    assert loss.share == pytest.approx(1)


def test_labels_that_were_not_scored_lose_nothing():
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 2, size=(50, 2)).astype(float)
    exact = np.clip(targets * 0.6 + 0.2 + draw.normal(scale=0.05, size=(50, 2)), 0.01, 0.99)
    quantized = np.clip(exact + draw.normal(scale=0.02, size=(50, 2)), 0.01, 0.99)
    targets[::3, 1] = np.nan
    anything = np.where(np.isnan(targets), 0.5, quantized)

    found = measure_loss("multilabel", targets, exact, quantized)

    assert np.isfinite(found.share)
    assert found == measure_loss("multilabel", targets, exact, anything)
