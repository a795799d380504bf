"""Fine-tune text encoders without waste, and know what each trick bought you."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leantune.errors import LeantuneError

if TYPE_CHECKING:
    from leantune.comparison import Comparison
    from leantune.experiment import compare, demo
    from leantune.folds import Folds, assign_folds
    from leantune.run import Run, train

__all__ = ["Comparison", "Folds", "LeantuneError", "Run", "assign_folds", "compare", "demo", "train"]

_HOMES = {
    "Comparison": "comparison",
    "Folds": "folds",
    "Run": "run",
    "assign_folds": "folds",
    "compare": "experiment",
    "demo": "experiment",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `leantune --help` must not wait for them.
    if name in _HOMES:
        return getattr(import_module(f"leantune.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
