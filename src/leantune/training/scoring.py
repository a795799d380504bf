"""How good predictions are: the metrics of each kind of task, computed by scikit-learn and SciPy."""

import math
import warnings
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from leantune.tables.targets import TaskKind


def compute_metrics(
    kind: TaskKind, targets: NDArray[np.generic], predictions: NDArray[np.float64]
) -> dict[str, float | None]:
    """Return every metric of the task; None where it is not defined (a correlation with a constant, one class only) or
    no finite number.

    `targets`: [n, K] for regression and multilabel, [n] classes otherwise. `predictions`: [n, K] values, or
    probabilities [n, classes]. Several targets or labels: each metric is the mean over the columns, but `rmse` is the
    root of that mean of squares, and multilabel `accuracy` is the share of rows with every label right. Labels are
    predicted at a probability of 0.5 and more.
    """
    compute = {"regression": _regression, "multilabel": _multilabel}.get(kind, _classes)
    with np.errstate(over="ignore", invalid="ignore"):  # squares of huge numbers: not finite, so None
        scores = compute(targets, predictions)
    return {name: score if score is not None and math.isfinite(score) else None for name, score in scores.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def _regression(targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> dict[str, float | None]:
    mse = float(sk.mean_squared_error(targets, predictions))
    columns = list(zip(targets.T.astype(np.float64), predictions.T, strict=True))
    return {
        "mse": mse,
        "rmse": mse**0.5,
        "mae": float(sk.mean_absolute_error(targets, predictions)),
        "r2": _mean(float(sk.r2_score(t, p)) if np.ptp(t) > 0 else None for t, p in columns),
        "pearson": _mean(_pearson(t, p) for t, p in columns),
        "spearman": _mean(_pearson(stats.rankdata(t), stats.rankdata(p)) for t, p in columns),
    }


def _pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Correlate two columns; None where one is constant, or so nearly that rounding errors decide."""
    if len(one) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", stats.DegenerateDataWarning)
        try:
            return float(stats.pearsonr(one, other).statistic)
        except stats.DegenerateDataWarning:
            return None


def _classes(targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> dict[str, float | None]:
    count = predictions.shape[1]
    chosen = predictions.argmax(axis=1)
    present = np.unique(targets)
    auc: float | None = None
    if count == 2 and len(present) == 2:
        auc = float(sk.roc_auc_score(targets, predictions[:, 1]))
    elif count > 2:  # one against the rest, over the classes that occur
        auc = _mean(_auc(targets == c, predictions[:, c]) for c in present)
    return {
        "accuracy": float(sk.accuracy_score(targets, chosen)),
        "f1_macro": float(sk.f1_score(targets, chosen, average="macro", zero_division=0)),
        "log_loss": _log_loss(predictions[np.arange(len(targets)), targets.astype(np.int64)]),
        "roc_auc": auc,
        "mcc": float(sk.matthews_corrcoef(targets, chosen)) if len(present) > 1 else None,
    }


def _multilabel(targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> dict[str, float | None]:
    chosen = (predictions >= 0.5).astype(np.int64)
    truth = targets.astype(np.int64)
    columns = range(truth.shape[1])
    return {
        "accuracy": float((chosen == truth).all(axis=1).mean()),
        "f1_macro": _mean(float(sk.f1_score(truth[:, c], chosen[:, c], zero_division=0)) for c in columns),
        "log_loss": _log_loss(np.where(truth == 1, predictions, 1 - predictions)),
        "roc_auc": _mean(_auc(truth[:, c], predictions[:, c]) for c in columns),
        "mcc": _mean(
            float(sk.matthews_corrcoef(truth[:, c], chosen[:, c])) if np.ptp(truth[:, c]) else None for c in columns
        ),
    }


def _auc(truth: NDArray[np.generic], score: NDArray[np.float64]) -> float | None:
    return float(sk.roc_auc_score(truth, score)) if len(np.unique(truth)) == 2 else None


def _log_loss(probability_of_truth: NDArray[np.float64]) -> float:
    """Mean of -log(probability); a probability of zero counts as float32's smallest step, as in scikit-learn."""
    return float(-np.log(np.clip(probability_of_truth, np.finfo(np.float32).eps, 1.0)).mean())
