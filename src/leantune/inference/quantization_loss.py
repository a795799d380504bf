"""What a model loses in fewer bits: the share of what it gains over the constant answer, with an interval."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leantune.tables.targets import TaskKind
from leantune.training.scoring import known_labels

RESAMPLES = 2000
CONFIDENCE = 0.95
_LEAST = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True)
class QuantizationLoss:
    """The loss of quality on n rows."""

    share: float
    """Lost share of the gain over the constant answer; negative where the quantized model is the better one, and
    infinite where the model itself gains nothing."""
    interval: tuple[float, float]
    """95% interval of `share`, by bootstrap over rows."""
    rows: int


def measure_loss(
    kind: TaskKind, targets: NDArray[Any], exact: NDArray[np.float64], quantized: NDArray[np.float64]
) -> QuantizationLoss:
    """Compare predictions [n, outputs] in all bits and in few, on the same rows.

    Regression: each target's squared errors in units of its variance, so that several targets count alike. Otherwise
    the log loss. The constant answer is the best one for these very rows, so that the gain is not flattered.
    """
    losses = _row_losses(kind, targets, exact)
    lost = _row_losses(kind, targets, quantized) - losses
    gained = _row_losses(kind, targets, _constant(kind, targets, exact.shape)) - losses
    total = gained.sum()
    share = float(lost.sum() / total) if total > 0 else np.inf
    draw = np.random.default_rng(0)
    shares = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        rows = draw.integers(len(lost), size=len(lost))
        gain = gained[rows].sum()
        shares[number] = lost[rows].sum() / gain if gain > 0 else np.inf
    edges = np.quantile(shares, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), method="nearest")
    return QuantizationLoss(share=share, interval=(float(edges[0]), float(edges[1])), rows=len(lost))


def _constant(kind: TaskKind, targets: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the constant answer that is best for these rows, [n, outputs]."""
    if kind in {"binary", "multiclass"}:
        answer = np.bincount(targets, minlength=shape[1]) / len(targets)
    elif kind == "multilabel":
        scored = known_labels(targets)
        answer = np.nan_to_num(targets).sum(axis=0) / np.maximum(scored.sum(axis=0), 1)
    else:
        answer = targets.mean(axis=0)
    return np.broadcast_to(answer, shape)


def _row_losses(kind: TaskKind, targets: NDArray[Any], predictions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's loss, [n]."""
    if kind == "regression":
        variances = targets.var(axis=0)
        squares = np.square(targets - predictions)
        return np.asarray((squares / np.where(variances > 0, variances, 1)).mean(axis=1))
    known = np.clip(predictions, _LEAST, 1 - _LEAST if kind == "multilabel" else 1)
    if kind == "multilabel":
        losses = -(targets * np.log(known) + (1 - targets) * np.log(1 - known))
        return np.asarray(np.where(known_labels(targets), losses, 0).mean(axis=1))
    if kind == "soft":
        return np.asarray(-(targets * np.log(known)).sum(axis=1))
    return np.asarray(-np.log(known[np.arange(len(targets)), targets]))
