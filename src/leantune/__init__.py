"""Fine-tune text encoders without waste, and know what each trick bought you."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leantune.errors import LeantuneError

if TYPE_CHECKING:
    from leantune.experiment import Run, demo, train
    from leantune.folds import Folds, assign_folds

__all__ = ["Folds", "LeantuneError", "Run", "assign_folds", "demo", "train"]

_HOMES = {"Folds": "folds", "Run": "experiment", "assign_folds": "folds", "demo": "experiment", "train": "experiment"}


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `leantune --help` must not wait for them.
    if name in _HOMES:
        return getattr(import_module(f"leantune.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
