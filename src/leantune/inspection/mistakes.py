"""How predictions err, whoever asks: one run (`leantune inspect RUN`) or the recipes of a comparison.

    targets, predictions  ->  confusions, calibration, slope, and each row's answer in words

Targets and predictions are as `compute_metrics` takes them: [n, K], or [n] classes by their place in the labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leantune.tables.targets import TaskKind

Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]

CLASSES = ("binary", "multiclass")
"""Tasks that have one class a row."""
BINS = 10
ROWS_A_BIN = 30
"""With fewer, chance alone would look like an error."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """What was predicted, and what came true, in bins of about equal size."""

    said: Floats
    """[bins]: mean prediction."""
    was: Floats
    """[bins]: mean of what came true: a share, or the mean target."""
    error: float
    """Mean distance of both over all rows; of probabilities the expected calibration error."""


def class_probabilities(predictions: Floats, classes: int) -> Floats:
    """Return probabilities [n, classes], of a binary task with one output, too."""
    one_output = predictions.shape[1] == 1 < classes
    return np.concatenate([1 - predictions, predictions], axis=1) if one_output else predictions


def confusion_matrix(targets: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Return how many rows of each class (lines) were predicted as each (columns)."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (targets, predicted), 1)
    return matrix


def most_confused(matrix: NDArray[Any], most: int) -> list[tuple[int, int]]:
    """Return the pairs (class, predicted class) of the most wrong rows, the most first; none without a row."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(int(place) // len(matrix), int(place) % len(matrix)) for place in order]
    return [(target, said) for target, said in pairs if wrong[target, said]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCounts:
    """Rows of each label [labels] at a threshold of 0.5, without those that were not scored."""

    targets: IntArray
    predicted: IntArray
    right: IntArray

    @property
    def precision(self) -> Floats:
        """[labels]; 0 where the label is never predicted."""
        return np.asarray(self.right / np.maximum(1, self.predicted))

    @property
    def recall(self) -> Floats:
        """[labels]; 0 where the label never occurs."""
        return np.asarray(self.right / np.maximum(1, self.targets))


def count_labels(targets: NDArray[Any], predictions: Floats) -> LabelCounts:
    """Count labels that are there, that are predicted, and that are both."""
    there = targets > 0.5
    said = (predictions > 0.5) & ~np.isnan(targets)
    return LabelCounts(targets=there.sum(axis=0), predicted=said.sum(axis=0), right=(there & said).sum(axis=0))


def slope(targets: Floats, predictions: Floats) -> float | None:
    """Return the slope of the targets over the predictions [n]; None where all predictions are the same.

    Below 1 the predictions are too far apart, above 1 too close together.
    """
    variance = float(predictions.var())
    if variance == 0:
        return None
    return float(((predictions - predictions.mean()) * (targets - targets.mean())).mean() / variance)


def outcomes(kind: TaskKind, targets: NDArray[Any], predictions: Floats, classes: int) -> tuple[Floats, Floats]:
    """Return what was predicted and what came true [m]: the predicted class's probability and whether it was right;
    of labels, shares and numbers, every value that was scored."""
    if kind in CLASSES:
        values = class_probabilities(predictions, classes)
        return values.max(axis=1), (values.argmax(axis=1) == targets).astype(np.float64)
    scored = ~np.isnan(targets)
    was = targets[scored].astype(np.float64)
    return predictions[scored], (was > 0.5).astype(np.float64) if kind == "multilabel" else was


def reliability(said: Floats, was: Floats) -> Reliability:
    """Hold predictions [m] against what came true [m], in bins of about equal size."""
    bins = min(BINS, max(1, len(said) // ROWS_A_BIN))
    edges = np.unique(np.quantile(said, np.linspace(0, 1, bins + 1)))[1:-1]
    which = np.searchsorted(edges, said, side="right")  # equal predictions are in one bin
    parts = [np.flatnonzero(which == place) for place in np.unique(which)]
    means = np.array([said[part].mean() for part in parts])
    shares = np.array([was[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    error = float((np.abs(means - shares) * sizes).sum() / sizes.sum())
    return Reliability(said=means, was=shares, error=error)


def truth_text(kind: TaskKind, labels: Sequence[str], target: Any) -> str:
    """Return a row's target in words."""
    return labels[int(target)] if kind in CLASSES else _values_text(kind, labels, np.atleast_1d(target))


def answer_text(kind: TaskKind, labels: Sequence[str], prediction: Floats) -> str:
    """Return a row's prediction [K] in words: numbers, the most probable class, or all labels that are there."""
    if kind in CLASSES:
        values = class_probabilities(prediction[None], len(labels))[0]
        return f"{labels[int(values.argmax())]} ({values.max():.2f})"
    return _values_text(kind, labels, prediction)


def _values_text(kind: TaskKind, labels: Sequence[str], values: Floats) -> str:
    if kind == "regression":
        return ", ".join(f"{number:.4g}" for number in values)
    if kind == "multilabel":
        return ", ".join(name for name, share in zip(labels, values, strict=True) if share > 0.5) or "none"
    place = int(values.argmax())
    return f"{labels[place]} ({values[place]:.2f})"
