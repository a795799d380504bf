"""The loss against PyTorch's own, and the constant answer against what minimises the loss."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leantune.system.errors import SettingsError
from leantune.tables.targets import Targets
from leantune.training.task import LossSettings, Task, make_task
from small_runs import make_task_of, random_targets

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32))


def tensor(targets: Any) -> torch.Tensor:
    found = torch.from_numpy(targets)
    return found if found.ndim == 1 else found.float()


def test_label_smoothing_is_pytorchs() -> None:
    targets = tensor(random_targets("multiclass", 12))
    task = replace(make_task_of("multiclass"), label_smoothing=0.2)
    expected = F.cross_entropy(LOGITS, targets, reduction="none", label_smoothing=0.2)
    assert torch.equal(task.losses(LOGITS, targets)[:, 0], expected)


def test_smoothed_labels_come_nearer_to_one_half() -> None:
    targets = tensor(random_targets("multilabel", 12))
    task = replace(make_task_of("multilabel"), label_smoothing=0.2)
    expected = F.binary_cross_entropy_with_logits(LOGITS, targets * 0.8 + 0.1, reduction="none")
    assert torch.allclose(task.losses(LOGITS, targets), expected)


def test_weights_of_labels_are_pytorchs_positive_weight() -> None:
    targets = tensor(random_targets("multilabel", 12))
    task = replace(make_task_of("multilabel"), label_weights=((1.0, 5.0), (1.0, 2.0), (1.0, 0.5)))
    positive = torch.tensor([5.0, 2.0, 0.5])
    expected = F.binary_cross_entropy_with_logits(LOGITS, targets, reduction="none", pos_weight=positive)
    assert torch.allclose(task.losses(LOGITS, targets), expected)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass", "multilabel", "soft"])
def test_no_other_constant_has_a_smaller_loss(kind: Any) -> None:
    """At the constant answer, the gradient of the loss is what half a row more of everything makes of zero."""
    count = 40_000
    task, targets = make_task_of(kind), random_targets(kind, count)
    weights = np.random.default_rng(1).uniform(0.0, 2.0, count)
    answer = torch.from_numpy(task.constant_logits(targets, weights)).float().requires_grad_()
    loss, losses = task.loss_sums(answer.expand(count, -1), tensor(targets), torch.from_numpy(weights).float())
    assert losses.mean().item() == pytest.approx(loss.item(), rel=1e-5)
    (loss / weights.sum()).backward()  # type: ignore[no-untyped-call]
    assert answer.grad is not None
    assert answer.grad.abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_what_never_occurs_has_a_finite_answer(kind: Any) -> None:
    targets = random_targets(kind, 4) * 0
    assert np.isfinite(make_task_of(kind).constant_logits(targets, np.array([0.0, 1.0, 1.0, 3.0]))).all()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("regression", {"class_weights": "balanced"}, "loss.class_weights: used only for classes"),
        ("regression", {"label_smoothing": 0.1}, "loss.label_smoothing: used only for classes"),
        ("binary", {"standardize": False}, "loss.standardize: used only for regression"),
        ("soft", {"class_weights": "balanced"}, "loss.class_weights: used only for classes"),
    ],
)
def test_a_setting_that_the_task_does_not_have_is_refused(kind: Any, settings: Any, message: str) -> None:
    targets = Targets(kind=kind, columns=("a",), classes=("x", "y"), values=np.zeros((1, 1)), reason="")
    with pytest.raises(SettingsError, match=message):
        make_task(targets, LossSettings(**settings))


def test_the_settings_reach_the_task() -> None:
    targets = Targets(kind="binary", columns=("a",), classes=("x", "y"), values=np.zeros(1), reason="")
    assert make_task(targets, LossSettings(label_smoothing=0.1)) == Task(
        kind="binary", labels=("x", "y"), label_smoothing=0.1
    )


def not_scored(targets: torch.Tensor) -> torch.Tensor:
    masked = targets.clone()
    masked[::3, 0] = torch.nan
    masked[1::4, 2] = torch.nan
    masked[5] = torch.nan
    return masked


@pytest.mark.parametrize("label_weights", [None, ((1.0, 5.0), (1.0, 2.0), (1.0, 0.5))])
def test_a_label_that_was_not_scored_has_no_loss_and_the_others_are_as_they_were(label_weights: Any) -> None:
    targets = tensor(random_targets("multilabel", 12))
    task = replace(make_task_of("multilabel"), label_weights=label_weights, label_smoothing=0.1)
    known = ~torch.isnan(not_scored(targets))

    losses = task.losses(LOGITS, not_scored(targets))

    assert torch.equal(losses, task.losses(LOGITS, targets) * known)


def test_a_label_that_was_not_scored_has_no_gradient() -> None:
    targets = not_scored(tensor(random_targets("multilabel", 12)))
    logits = LOGITS.clone().requires_grad_()
    loss, _ = make_task_of("multilabel").loss_sums(logits, targets, torch.ones(12))
    loss.backward()  # type: ignore[no-untyped-call]

    expected = torch.where(torch.isnan(targets), 0.0, (torch.sigmoid(LOGITS) - targets) / 3)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)


def test_the_head_begins_at_the_log_odds_of_the_known_labels() -> None:
    targets = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, 1.0], [1.0, 0.0]])
    task = Task(kind="multilabel", labels=("a", "b"))

    answer = task.constant_logits(targets, np.ones(4))

    assert answer == pytest.approx(np.log([2.5 / 1.5, 1.5 / 1.5]))
