"""What metrics there are, which a task has, and which way is better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from leantune.system.errors import SettingsError
from leantune.tables.targets import TaskKind

MetricName = Literal[
    "mse",
    "rmse",
    "mae",
    "r2",
    "pearson",
    "spearman",
    "mcrmse",
    "accuracy",
    "f1_macro",
    "log_loss",
    "roc_auc",
    "mcc",
    "f1",
    "f1_micro",
    "f1_weighted",
    "balanced_accuracy",
    "average_precision",
    "qwk",
]
_OF_ALL_CLASSES: tuple[MetricName, ...] = ("accuracy", "f1_macro", "log_loss", "roc_auc", "mcc")
_OF_CLASSES_TOO: tuple[MetricName, ...] = ("f1_micro", "f1_weighted", "balanced_accuracy", "average_precision")
METRICS: dict[TaskKind, tuple[MetricName, ...]] = {
    "regression": ("mse", "rmse", "mae", "r2", "pearson", "spearman", "mcrmse", "qwk"),
    "binary": (*_OF_ALL_CLASSES, "f1", *_OF_CLASSES_TOO),
    "multiclass": (*_OF_ALL_CLASSES, *_OF_CLASSES_TOO, "qwk"),
    "multilabel": (*_OF_ALL_CLASSES, *_OF_CLASSES_TOO),
    "soft": ("log_loss", "accuracy", "mae", "rmse"),
}
"""Task -> its metrics, in the order in which they are shown."""
LOWER_IS_BETTER: frozenset[MetricName] = frozenset({"mse", "rmse", "mae", "mcrmse", "log_loss"})


MetricFunction = Callable[[NDArray[Any], NDArray[np.float64]], float | None]
"""Targets [n] (classes) or [n, K], predictions [n, K] -> the metric; None where it is not defined."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of your own, which chooses the best evaluation: `leantune.train(..., metric=Metric(...))`.

    Raises `SettingsError` for a name that is no word, or that a metric of leantune's has.
    """

    name: str
    """What it is called in `metrics.json`, in events and in `config.yaml`."""
    function: MetricFunction
    """Called with the targets and the predictions of all rows that are evaluated, in the table's units. Targets are
    [n, K] numbers, labels (0 or 1) or shares, or [n] classes, counted from 0 in their order. Predictions are [n, K]
    values, or probabilities. Returns a number; None or one that is not finite means that it is not defined."""
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SettingsError(
                f"metric: found the name {self.name!r}, expected a word such as pinball_loss; name the function with "
                "leantune.Metric(name=..., function=...)"
            )
        if self.name in (*get_args(MetricName), "auto", "step"):
            raise SettingsError(f"metric: {self.name} is a name of leantune's own; give your function another one")

    def score(self, targets: NDArray[np.generic], predictions: NDArray[np.float64]) -> float | None:
        """Return the function's value; raises `SettingsError` where it is no number."""
        value = self.function(targets.copy(), predictions.copy())  # its own, to change as it likes
        if value is None:
            return None
        if not isinstance(value, Real):
            raise SettingsError(f"metric: {self.name} returned {value!r:.60}, expected a number")
        return float(value)


def as_metric(metric: Metric | MetricFunction) -> Metric:
    """Return a metric of the caller's own; of a function alone, named after it, higher is better."""
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise SettingsError(f"metric: found {metric!r:.60}, expected a metric's name, a function or a leantune.Metric")
    return Metric(name=getattr(metric, "__name__", type(metric).__name__), function=metric)


def name_of(metric: MetricName | Metric) -> str:
    """Return the name under which a metric's values are recorded."""
    return metric.name if isinstance(metric, Metric) else metric


def metric_names(kind: TaskKind) -> tuple[MetricName, ...]:
    """Return the metrics that a task of this kind has."""
    return METRICS[kind]


def default_metric(kind: TaskKind) -> MetricName:
    """Return the metric that chooses the best evaluation: the task's loss, in units of the target for regression."""
    return "rmse" if kind == "regression" else "log_loss"


def loss_metric(metrics: Mapping[str, float | None]) -> MetricName:
    """Return which of a task's metrics is its loss."""
    return "log_loss" if "log_loss" in metrics else "mse"


def is_better(metric: MetricName | Metric, value: float | None, than: float | None) -> bool:
    """Tell whether `value` beats `than`; None, an undefined metric, beats nothing and is beaten by any number."""
    if value is None or than is None:
        return value is not None
    lower = metric.lower_is_better if isinstance(metric, Metric) else metric in LOWER_IS_BETTER
    return value < than if lower else value > than
