"""What metrics there are, which a task has, and which way is better."""

from typing import Literal

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


def metric_names(kind: TaskKind) -> tuple[MetricName, ...]:
    """Return the metrics that a task of this kind has."""
    return METRICS[kind]


def default_metric(kind: TaskKind) -> MetricName:
    """Return the metric that chooses the best evaluation: the task's loss, in units of the target for regression."""
    return "rmse" if kind == "regression" else "log_loss"


def is_better(metric: MetricName, value: float | None, than: float | None) -> bool:
    """Tell whether `value` beats `than`; None, an undefined metric, beats nothing and is beaten by any number."""
    if value is None or than is None:
        return value is not None
    return value < than if metric in LOWER_IS_BETTER else value > than
