"""What a run tells while it goes: training yields these, and the caller records, shows or drops them."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from leantune.tables.folds import FoldNumber

logger = logging.getLogger(__name__)

Told = TypeVar("Told")


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something the user should know: what `auto` chose and why, what is truncated, a warning."""

    event: Literal["note", "warning"] = "note"
    about: str
    """The setting or stage that it is about, such as `tokens`."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage other than training is, for the display only."""

    stage: str
    done: int
    total: int
    rows_per_second: float | None = None
    """How fast it goes, where it may take long."""


@dataclass(frozen=True, kw_only=True)
class FoldStart:
    """Training of one fold is about to begin."""

    event: Literal["fold"] = "fold"
    fold: FoldNumber
    training_rows: int
    validation_rows: int
    total_steps: int


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """One optimizer step."""

    event: Literal["step"] = "step"
    fold: FoldNumber
    step: int
    """Steps done in this fold, this one included."""
    epoch: float
    """Epochs done, as a fraction."""
    loss: float | None
    """Weighted mean over the step's rows; None where it was not measured."""
    learning_rate: float
    gradient_norm: float | None
    """Before clipping; None for a step that fp16 scaling skipped."""
    skipped: bool
    """True where fp16 overflowed and the weights stayed as they were."""
    rows: int
    tokens: int
    """Tokens of the texts, special tokens included, padding not."""
    computed_tokens: int
    """Positions that the encoder computed, padding included."""
    useful_flops: float | None
    """Floating-point operations that the texts need, forward and backward, without padding; None where this
    architecture's could not be counted."""
    tokens_per_second: float
    memory: int
    """Bytes: of tensors on the device, or on a CPU the process's resident memory."""
    train_seconds: float
    """Seconds in optimizer steps until now, in this fold."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One pass over the validation rows, in the run's precision."""

    event: Literal["evaluation"] = "evaluation"
    fold: FoldNumber
    step: int
    epoch: float
    metrics: dict[str, float | None]
    metric: str
    """The one of them that chooses the best evaluation."""
    is_best: bool
    """Better than every evaluation of this fold before it."""
    predictions: NDArray[np.float64]
    """[n, outputs] for the fold's validation rows, in the table's order; not recorded."""
    rows: int
    train_seconds: float
    evaluation_seconds: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The best weights so far were written, or everything that is needed in order to go on."""

    event: Literal["checkpoint"] = "checkpoint"
    fold: FoldNumber
    step: int
    path: str
    checkpoint_seconds: float


@dataclass(frozen=True, kw_only=True)
class Resume:
    """An interrupted run goes on from a checkpoint; what it had done after that is gone, also from the records."""

    event: Literal["resume"] = "resume"
    fold: FoldNumber
    step: int
    """Steps done in this fold."""
    total_steps: int
    path: str
    """The checkpoint, within the run folder."""
    seconds_before: float
    """Of the run, until the checkpoint; the time between that and the interruption is lost, and counts nowhere."""


@dataclass(frozen=True, kw_only=True)
class FoldEnd:
    """One fold is trained."""

    event: Literal["fold_end"] = "fold_end"
    fold: FoldNumber
    metrics: dict[str, Any]
    """As in `metrics.json`."""


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """Everything is done and written."""

    event: Literal["run_end"] = "run_end"
    metrics: dict[str, Any]
    """The content of `metrics.json`."""


Recorded = Note | FoldStart | TrainStep | Evaluation | Checkpoint | Resume | FoldEnd
"""What the run folder keeps, a line each."""

Event = Recorded | Progress | RunEnd


# What a comparison tells, beside the files that its runs write.


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A few steps of a recipe are about to be timed, before the plan."""

    recipe: str
    number: int
    """From 1."""
    total: int


@dataclass(frozen=True, kw_only=True)
class PlannedRecipe:
    """One line of the plan."""

    name: str
    differs: dict[str, Any]
    """Setting -> this recipe's value, where it is not the baseline's; empty for the baseline."""
    runs: int
    finished: int
    """Runs that are kept from before."""
    seconds: float | None
    """Estimate for one whole run; None where it was not tried, or failed."""
    step_seconds: float | None
    error: str
    """Why the trial failed; "" otherwise."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is about to run."""

    title: str
    baseline: str
    recipes: tuple[PlannedRecipe, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    rows: int
    note: str = ""
    """What else a person should know of it."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Another comparison uses the device: this one waits until it is free."""

    device: str
    holder: str = ""
    """Its folder and process; "" where that is not known."""


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """A run's process was started."""

    recipe: str
    fold: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """How far the run is."""

    recipe: str
    step: int
    total_steps: int
    """0 while it is starting up."""


@dataclass(frozen=True, kw_only=True)
class RunDone:
    """A run has ended, well or not."""

    recipe: str
    fold: int
    seed: int
    seconds: float
    metric: str
    metrics: dict[str, Any] | None
    """`overall` of its metrics.json; None for a failed run."""
    error: str
    """Why it failed; "" otherwise."""


ComparisonEvent = Trial | Plan | Waiting | RunStart | RunProgress | RunDone


def heard(events: Iterable[Told], listen: Callable[[Told], None], name: str) -> Iterator[Told]:
    """Hand events on, each told to `listen` first: a display, or whatever else may follow a run without ruling it.

    A listener that raises is dropped, with one warning that calls it `name`, and the events go on: a terminal that has
    gone away, or a service that does not answer, is no reason to lose a training.
    """
    listening = True
    for event in events:
        if listening:
            try:
                listen(event)
            except Exception as error:
                listening = False
                with suppress(Exception):  # where the terminal is what is broken, this cannot be printed either
                    logger.warning("%s has failed and is left out from here on (%r)", name, error)
        yield event
