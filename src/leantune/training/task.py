"""What is learned: how many outputs, the loss as a sum over rows, and predictions from logits."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from leantune.system.device import send
from leantune.system.errors import SettingsError
from leantune.system.settings import Section
from leantune.tables.targets import Targets, TaskKind

PROBLEM_TYPES = {
    "regression": "regression",
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "soft": "single_label_classification",
}


class LossSettings(Section):
    """What is minimised."""

    standardize: bool = True
    """Regression: subtract from each target its mean over the training rows, and divide by its standard deviation. The
    unit of a target then does not matter, and several targets count alike. Metrics, predictions and the saved model
    stay in the table's units."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs rows so that each class counts alike in the loss, however rare it is. For labels: the rows that
    have a label count as much in all as the rows that do not have it."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing: this share of the target probability is spread evenly over all classes. For labels, the target
    0 or 1 moves by this share towards one half."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The kind of task, the names of its outputs, and its loss."""

    kind: TaskKind
    labels: tuple[str, ...]
    """One name an output: target columns for regression, multilabel and soft, classes otherwise."""
    label_smoothing: float = 0.0
    label_weights: tuple[tuple[float, float], ...] | None = None
    """Multilabel: what the rows without a label and those with it count in its loss; None counts all alike."""

    @property
    def outputs(self) -> int:
        """Width of the model's head."""
        return len(self.labels)

    @property
    def problem_type(self) -> str:
        """The task in transformers' words."""
        return PROBLEM_TYPES[self.kind]

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return float32 losses [B, K] from logits [B, outputs] of any precision; a row's loss is their mean.

        Regression: squared errors of the K targets. Multilabel: binary cross-entropies of the K labels, 0 for one
        that was not scored (NaN). Such a label keeps its share of the row, 1 / K: a known label counts alike in every
        row, however many others are known there. Binary and multiclass: the cross-entropy, K = 1; soft: the same
        against shares [B, outputs].
        """
        logits = logits.float()
        if self.kind == "regression":
            return (logits - targets).square()
        if self.kind == "multilabel":
            known = ~torch.isnan(targets)
            targets = torch.nan_to_num(targets, nan=0.0)  # before the loss: a product with NaN has no gradient
            asked = targets + self.label_smoothing * (0.5 - targets)
            losses = F.binary_cross_entropy_with_logits(logits, asked, reduction="none")
            if self.label_weights is not None:
                without, having = send(torch.tensor(self.label_weights), logits.device).T
                losses = losses * torch.where(targets > 0.5, having, without)
            return losses * known
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)[:, None]

    def loss_sums(self, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum over rows of weight x loss, a scalar to minimise, and the same of each of the K losses, [K].

        Sums and not means: the step divides by the weight of all its rows, so that uneven micro-batches count right.
        The K sums are there to be told, and have no gradient.
        """
        losses = self.losses(logits, targets)
        return (weights * losses.mean(dim=1)).sum(), (weights[:, None] * losses.detach()).sum(dim=0)

    def constant_logits(self, targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits [outputs] of the answer that is best without reading a text, for rows of weights [n].

        `targets` are [n, K], or [n] classes. Regression: the mean. Classes: the logarithm of their shares, or of the
        mean of given shares. Labels: their log odds. Half a row more of everything keeps them finite.
        """
        if self.kind == "regression":
            return np.asarray(np.average(targets, axis=0, weights=weights))
        total = weights.sum()
        row = total / np.count_nonzero(weights)
        if self.kind == "multilabel":
            known = ~np.isnan(targets)
            having, scored = np.nan_to_num(targets).T @ weights, known.T.astype(np.float64) @ weights
            return np.asarray(np.log((having + row / 2) / (scored - having + row / 2)))
        if self.kind == "soft":
            sizes: NDArray[np.float64] = targets.T @ weights
        else:
            sizes = np.bincount(targets, weights=weights, minlength=self.outputs).astype(np.float64)
        return np.asarray(np.log((sizes + row / 2) / (total + row / 2 * self.outputs)))

    def predictions(self, logits: Tensor) -> Tensor:
        """Return [B, outputs] float32: values for regression, probabilities otherwise."""
        logits = logits.float()
        if self.kind == "regression":
            return logits
        return torch.sigmoid(logits) if self.kind == "multilabel" else torch.softmax(logits, dim=1)


def make_task(targets: Targets, settings: LossSettings) -> Task:
    """Return the task that `targets` set; raises `SettingsError` for a setting of the loss that it does not have."""
    if targets.kind == "regression":
        for name in ("class_weights", "label_smoothing"):
            if getattr(settings, name) != LossSettings.model_fields[name].default:
                raise SettingsError(f"loss.{name}: used only for classes and labels, and this is regression: remove it")
    elif targets.kind == "soft" and settings.class_weights != "none":
        raise SettingsError("loss.class_weights: used only for classes and labels, and data.task is soft: remove it")
    elif not settings.standardize:
        raise SettingsError(f"loss.standardize: used only for regression, and this is {targets.kind}: remove it")
    return Task(kind=targets.kind, labels=targets.classes or targets.columns, label_smoothing=settings.label_smoothing)
