"""Fine-tune text encoders without waste, and know what each trick bought you."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leantune.system.errors import LeantuneError

if TYPE_CHECKING:
    from leantune.comparison import Comparison
    from leantune.experiments.experiment import compare, demo
    from leantune.runs.run import Run, train
    from leantune.tables.folds import Folds, assign_folds

__all__ = ["Comparison", "Folds", "LeantuneError", "Run", "assign_folds", "compare", "demo", "train"]

_HOMES = {
    "Comparison": "comparison",
    "Folds": "tables.folds",
    "Run": "runs.run",
    "assign_folds": "tables.folds",
    "compare": "experiments.experiment",
    "demo": "experiments.experiment",
    "train": "runs.run",
}


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `leantune --help` must not wait for them.
    if name in _HOMES:
        return getattr(import_module(f"leantune.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
