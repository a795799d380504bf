"""A few real optimizer steps of some settings: how long an epoch takes with them, and how much memory.

    settings -> rows, encoder, fold (as training makes them) -> steps for some seconds -> seconds an epoch

The steps are those with which training begins: drawn at random, so that they are a sample of the epoch. Their time a
position that the encoder computes, times the positions that the planner counts in the whole epoch, is the epoch's time.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from leantune.batches.plan import padded_tokens, plan_epoch
from leantune.encoder.model import Encoder
from leantune.runs.config import Config
from leantune.runs.lesson import begin_head, make_lesson
from leantune.runs.preparation import Prepared, prepare
from leantune.system.device import forget_peak, peak_device_bytes, resolve_device, synchronize
from leantune.training.clock import PhaseClock, forget_process_peak, peak_process_bytes
from leantune.training.events import TrainStep
from leantune.training.loop import Fold, train_fold
from leantune.training.optim import make_optimizer
from leantune.training.precision import make_precision
from leantune.training.state import TrainState

SECONDS = 8.0
"""Of optimizer steps, for each candidate: with fewer, the first steps and chance would weigh too much."""
LEAST_STEPS, MOST_STEPS = 8, 200
FEWEST_LONG_STEPS = 3
"""Where a step takes seconds, so many are enough: each is a sample of 32 rows by itself."""
WARM_UP = 1
"""Steps that are not counted: kernels are made and memory is claimed in the first."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What settings cost on this machine."""

    seconds_per_epoch: float
    steps_per_epoch: int
    epochs: int
    total_steps: int
    steps: int
    """That were measured."""
    scatter: float
    """Standard error of the time, as a share of it, from the scatter between the steps."""
    processor_seconds_per_epoch: float | None
    """Of all threads of this process; None on another device. Other programs hardly change it."""
    peak_bytes: int
    memory_of: str
    """`device` or `process`."""

    @property
    def train_seconds(self) -> float:
        """What all of the training's steps take."""
        return self.seconds_per_epoch * self.total_steps / self.steps_per_epoch


def finish(generator: Generator[Any, None, Any]) -> Any:
    """Run a generator to its end, and return what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def prepare_quietly(config: Config) -> tuple[Prepared, Encoder]:
    """Prepare a table as training does, without its messages."""
    prepared: tuple[Prepared, Encoder] = finish(
        prepare(config, make_precision(config.precision, resolve_device(config.device)))
    )
    return prepared


def measure(prepared: Prepared, encoder: Encoder, *, seconds: float = SECONDS) -> Measured:
    """Take the first steps of a training, and tell what all of it would take. The encoder is changed by it."""
    device = prepared.precision.device
    forget_process_peak()
    forget_peak(device)
    lesson = make_lesson(prepared.fold_numbers[0], prepared, encoder)
    begin_head(encoder, lesson)
    fold = replace(lesson.fold, validation_rows=np.empty(0, dtype=np.int64))
    positions = _epoch_positions(prepared, fold)
    state = TrainState(optimizer=make_optimizer(encoder.model, fold.optimizer))
    clock = PhaseClock(None, partial(synchronize, device))
    precision = make_precision(prepared.precision.name, device)
    readings: list[tuple[float, float, int]] = []  # seconds, processor seconds, positions since the last reading
    at, busy, computed, steps = 0.0, time.process_time(), 0, 0
    events = train_fold(encoder, lesson.rows, fold, state, task=lesson.task, precision=precision, clock=clock)
    for event in events:
        if not isinstance(event, TrainStep):
            continue
        steps, computed = steps + 1, computed + event.computed_tokens
        if event.train_seconds > at:
            now = time.process_time()
            if steps > WARM_UP:
                readings.append((event.train_seconds - at, now - busy, computed))
            at, busy, computed = event.train_seconds, now, 0
        is_long = at >= 3 * seconds and len(readings) >= FEWEST_LONG_STEPS
        if steps >= MOST_STEPS or is_long or (at >= seconds and steps >= LEAST_STEPS + WARM_UP):
            break
    spent, processor, counted = np.array(readings or [(at, at, max(1, computed))]).T
    rate = spent.sum() / counted.sum()
    scatter = float(np.std(spent - rate * counted) * np.sqrt(len(spent)) / spent.sum())
    on_device = peak_device_bytes(device)
    return Measured(
        seconds_per_epoch=float(rate * positions),
        steps_per_epoch=fold.steps_per_epoch,
        epochs=fold.optimizer.epochs,
        total_steps=fold.total_steps,
        steps=len(readings),
        scatter=scatter,
        peak_bytes=peak_process_bytes() if on_device is None else on_device,
        processor_seconds_per_epoch=float(processor.sum() / counted.sum() * positions)
        if device.type == "cpu"
        else None,
        memory_of="process" if on_device is None else "device",
    )


def _epoch_positions(prepared: Prepared, fold: Fold) -> int:
    """Count the positions that the first epoch computes."""
    lengths = prepared.rows.sequences.lengths[fold.training_rows]
    windows = prepared.rows.sequences.windows[fold.training_rows]
    plan = plan_epoch(
        lengths,
        batch_size=fold.batching.batch_size,
        micro_batch=fold.batching.micro_batch,
        order=fold.batching.order,
        padding=fold.batching.padding,
        seed=fold.seed,
        epoch=0,
        windows=windows if (windows > 1).any() else None,
        windows_read=fold.windows_read,
    )
    return sum(padded_tokens(lengths[micro], fold.batching.padding) for micro in plan.micro_batches)
