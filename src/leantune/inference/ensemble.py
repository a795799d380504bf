"""The models of one run or of several as one answer: which they are, what each counts, and what is decided."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leantune.inference.blending import FittedWeights, blend, fit_blend
from leantune.inference.out_of_fold import OutOfFold, read_same_rows
from leantune.inference.thresholds import DecisionRule, FittedDecisions, fit_decisions, refuse_metric
from leantune.inference.trained_run import TrainedFold, TrainedRun, open_run
from leantune.system.errors import RunFolderError, SettingsError
from leantune.tables.readers import listed
from leantune.tables.targets import TaskKind
from leantune.training.metrics import MetricName

Weights = Sequence[float] | Literal["fitted"] | None
"""What each run counts; `fitted` finds it out on their out-of-fold predictions, and None counts all alike."""


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
    fitted_weights: FittedWeights | None = None
    """How the weights were found, where they are fitted."""
    fitted_decisions: FittedDecisions | None = None
    """How thresholds were found, where they are fitted."""

    @property
    def rule(self) -> DecisionRule | None:
        """The fitted thresholds; None is the most probable class, labels from 0.5 on, and numbers as they are."""
        return None if self.fitted_decisions is None else self.fitted_decisions.rule

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


def open_ensemble(runs: Sequence[Path], weights: Weights = None, *, decide: MetricName | None = None) -> Ensemble:
    """Open finished runs as one ensemble: every run counts alike, or by `weights`, and so do the folds of a run.

    `decide` names the metric that thresholds are fitted for, on the runs' out-of-fold predictions, weighted as the
    runs are.

    Raises `RunFolderError` where a folder is no finished run, the runs do not predict the same from the same number of
    texts, or what is fitted needs validation rows that they do not have or do not share; and `SettingsError` for
    weights that are not one number of 0 or more for each run, and for a metric that has no thresholds.
    """
    if not runs:
        raise SettingsError("runs: found none, expected the folder of at least one run")
    if len({path.expanduser().resolve() for path in runs}) < len(runs):
        raise SettingsError(f"runs: found a run twice ({listed([str(path) for path in runs])}); give each once")
    opened = [open_run(path) for path in runs]
    first = opened[0]
    for other in opened[1:]:
        _refuse_other_task(first, other)
    is_fitted = isinstance(weights, str)
    if is_fitted and len(opened) == 1:
        raise SettingsError("weights: found fitted for one run, expected at least two to weigh; leave it out")
    if decide is not None:
        refuse_metric(first.task.kind, decide)
    read = read_same_rows(opened) if decide is not None or is_fitted else []
    blended = _fit_weights(first.task.kind, read) if is_fitted else None
    given = weights if not isinstance(weights, str) else None
    shares = _shares(len(opened), given if blended is None else blended.weights)
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
    ensemble = Ensemble(members=tuple(members), kind=first.task.kind, labels=first.task.labels, fitted_weights=blended)
    if decide is None:
        return ensemble
    # Of fitted weights the cross-fitted ones, so that no row is decided with the help of its own target.
    values = blend([one.predictions for one in read], shares) if blended is None else blended.blended
    decisions = fit_decisions(ensemble.kind, decide, read[0].targets, values, folds=read[0].folds)
    return replace(ensemble, fitted_decisions=decisions)


def describe_fits(ensemble: Ensemble) -> Iterator[tuple[str, str]]:
    """Yield what was fitted and what it gains, for people: what it is about, and a sentence."""
    if ensemble.fitted_weights is not None:
        runs = list({member.run.folder: member.run for member in ensemble.members}.values())
        yield "weights", ensemble.fitted_weights.describe(_names(runs))
    if ensemble.fitted_decisions is not None:
        yield "decide", ensemble.fitted_decisions.describe()


def _fit_weights(kind: TaskKind, read: Sequence[OutOfFold]) -> FittedWeights:
    return fit_blend(kind, read[0].targets, [one.predictions for one in read], folds=read[0].folds)


def _refuse_other_task(first: TrainedRun, other: TrainedRun) -> None:
    for what, one, two in (
        ("task", first.task.kind, other.task.kind),
        ("outputs", listed(sorted(first.task.labels), 6), listed(sorted(other.task.labels), 6)),
        ("texts of a row", first.config.data.text_count, other.config.data.text_count),
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
