"""The models of one run or of several as one answer: which they are, and what each counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leantune.inference.trained_run import TrainedFold, TrainedRun, open_run
from leantune.system.errors import RunFolderError, SettingsError
from leantune.tables.readers import listed
from leantune.tables.targets import TaskKind


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One of the models."""

    name: str
    """`fold_0`, or `RUN/fold_0` where there are several runs."""
    run: TrainedRun
    fold: TrainedFold
    weight: float
    """What it counts in the mean; those of all members add up to 1."""
    order: NDArray[np.int64]
    """[outputs]: which of its own outputs is each of the ensemble's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Models that predict the same: one answer is the weighted mean of theirs."""

    members: tuple[Member, ...]
    kind: TaskKind
    labels: tuple[str, ...]
    """One name an output, in the order of the first run."""

    @property
    def first(self) -> TrainedRun:
        """The first run, whose settings say how a table is read."""
        return self.members[0].run

    @property
    def text(self) -> tuple[str, ...]:
        """The columns of the texts in the table of the training."""
        return self.first.config.data.text

    def mean(self, values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the weighted mean [n, outputs] of what the members predict, each [n, outputs] in the shared order."""
        if len(values) == 1:
            return values[0]
        total = np.zeros_like(values[0])
        for member, part in zip(self.members, values, strict=True):
            total += member.weight * part
        return total


def open_ensemble(runs: Sequence[Path], weights: Sequence[float] | None = None) -> Ensemble:
    """Open finished runs as one ensemble: every run counts alike, or by `weights`, and so do the folds of a run.

    Raises `RunFolderError` where a folder is no finished run, or the runs do not predict the same from the same number
    of texts, and `SettingsError` for weights that are not one number of 0 or more for each run.
    """
    if not runs:
        raise SettingsError("runs: found none, expected the folder of at least one run")
    if len({path.expanduser().resolve() for path in runs}) < len(runs):
        raise SettingsError(f"runs: found a run twice ({listed([str(path) for path in runs])}); give each once")
    opened = [open_run(path) for path in runs]
    first = opened[0]
    for other in opened[1:]:
        _refuse_other_task(first, other)
    shares = _shares(len(opened), weights)
    names = _names(opened)
    members = [
        Member(
            name=f"{name}/fold_{fold.number}" if len(opened) > 1 else f"fold_{fold.number}",
            run=run,
            fold=fold,
            weight=share / len(run.folds),
            order=np.array([run.task.labels.index(label) for label in first.task.labels]),
        )
        for run, share, name in zip(opened, shares, names, strict=True)
        for fold in run.folds
    ]
    return Ensemble(members=tuple(members), kind=first.task.kind, labels=first.task.labels)


def _refuse_other_task(first: TrainedRun, other: TrainedRun) -> None:
    for what, one, two in (
        ("task", first.task.kind, other.task.kind),
        ("outputs", listed(sorted(first.task.labels), 6), listed(sorted(other.task.labels), 6)),
        ("texts of a row", len(first.config.data.text), len(other.config.data.text)),
    ):
        if one != two:
            raise RunFolderError(
                f"{other.folder}: found the {what} {two}, expected {one} as {first.folder} has; only runs that predict "
                "the same can be averaged"
            )
    if sorted(first.task.labels) != sorted(other.task.labels):
        missing = sorted({*first.task.labels} ^ {*other.task.labels})
        raise RunFolderError(
            f"{other.folder}: its outputs are not those of {first.folder}: only one of the two has "
            f"{listed(missing, 6)}; only runs that predict the same can be averaged"
        )


def _shares(runs: int, weights: Sequence[float] | None) -> list[float]:
    """Return what each run counts, 1 together."""
    if weights is None:
        return [1 / runs] * runs
    if len(weights) != runs:
        raise SettingsError(f"weights: found {len(weights)}, expected one for each of the {runs} runs")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise SettingsError(f"weights: found {list(weights)}, expected numbers of 0 or more, not all of them 0")
    return [weight / sum(weights) for weight in weights]


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    """Return a name for each run: its folder's, with as many folders above it as tell the runs apart."""
    folders = [run.folder.resolve().parts for run in runs]
    count = 1
    while len({parts[-count:] for parts in folders}) < len(folders):
        count += 1
    return ["/".join(parts[-count:]) for parts in folders]
