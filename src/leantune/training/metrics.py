"""What metrics there are, which a task has, and which way is better."""

from collections.abc import Mapping
from typing import Literal

from leantune.tables.targets import TaskKind

MetricName = Literal[
    "mse", "rmse", "mae", "r2", "pearson", "spearman", "accuracy", "f1_macro", "log_loss", "roc_auc", "mcc"
]
REGRESSION_METRICS: tuple[MetricName, ...] = ("mse", "rmse", "mae", "r2", "pearson", "spearman")
CLASS_METRICS: tuple[MetricName, ...] = ("accuracy", "f1_macro", "log_loss", "roc_auc", "mcc")
LOWER_IS_BETTER: frozenset[MetricName] = frozenset({"mse", "rmse", "mae", "log_loss"})


def metric_names(kind: TaskKind) -> tuple[MetricName, ...]:
    """Return the metrics that a task of this kind has."""
    return REGRESSION_METRICS if kind == "regression" else CLASS_METRICS


def default_metric(kind: TaskKind) -> MetricName:
    """Return the metric that chooses the best evaluation: the task's loss, in units of the target for regression."""
    return "rmse" if kind == "regression" else "log_loss"


def loss_metric(metrics: Mapping[str, float | None]) -> MetricName:
    """Return which of a task's metrics is its loss."""
    return "log_loss" if "log_loss" in metrics else "mse"


def is_better(metric: MetricName, value: float | None, than: float | None) -> bool:
    """Tell whether `value` beats `than`; None, an undefined metric, beats nothing and is beaten by any number."""
    if value is None or than is None:
        return value is not None
    return value < than if metric in LOWER_IS_BETTER else value > than
