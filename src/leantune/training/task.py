"""What is learned: how many outputs, the loss as a sum over rows, and predictions from logits."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leantune.tables.targets import Targets, TaskKind

PROBLEM_TYPES = {
    "regression": "regression",
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "soft": "single_label_classification",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """The kind of task and the names of its outputs."""

    kind: TaskKind
    labels: tuple[str, ...]
    """One name an output: target columns for regression, multilabel and soft, classes otherwise."""

    @property
    def outputs(self) -> int:
        """Width of the model's head."""
        return len(self.labels)

    @property
    def problem_type(self) -> str:
        """The task in transformers' words."""
        return PROBLEM_TYPES[self.kind]

    def row_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return one loss a row, [B] float32, from logits [B, outputs] of any precision.

        Regression: squared error, averaged over the targets. Binary and multiclass: cross-entropy; soft: the same
        against shares [B, outputs]. Multilabel: binary cross-entropy, averaged over the labels.
        """
        logits = logits.float()
        if self.kind == "regression":
            return (logits - targets).square().mean(dim=1)
        if self.kind == "multilabel":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
        return F.cross_entropy(logits, targets, reduction="none")

    def loss_sum(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the sum over rows of weight x loss, a scalar.

        A sum and not a mean: the step divides by the weight of all its rows, so that uneven micro-batches count right.
        """
        return (weights * self.row_losses(logits, targets)).sum()

    def predictions(self, logits: Tensor) -> Tensor:
        """Return [B, outputs] float32: values for regression, probabilities otherwise."""
        logits = logits.float()
        if self.kind == "regression":
            return logits
        return torch.sigmoid(logits) if self.kind == "multilabel" else torch.softmax(logits, dim=1)


def make_task(targets: Targets) -> Task:
    """Return the task that `targets` set."""
    return Task(kind=targets.kind, labels=targets.classes or targets.columns)
