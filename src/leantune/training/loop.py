"""The training loop of one fold, as a generator of events: the caller records, shows and saves."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from leantune.batches.batch import Batch, Rows, make_batch
from leantune.batches.plan import (
    EpochPlan,
    MicroBatch,
    Order,
    Padding,
    RowsPerMicroBatch,
    TokensPerMicroBatch,
    padded_tokens,
    plan_epoch,
    plan_evaluation,
)
from leantune.encoder.model import Encoder, FlopCount
from leantune.system.device import device_bytes, give_back_memory, is_out_of_memory
from leantune.system.errors import TrainingError
from leantune.system.settings import Section
from leantune.system.stopping import Stopped, check
from leantune.training.checkpoint import CheckpointSettings
from leantune.training.clock import PhaseClock, process_bytes
from leantune.training.events import Evaluation, FoldStart, Note, TrainStep
from leantune.training.metrics import MetricName, is_better
from leantune.training.optim import OptimizerSettings, learning_rate_at
from leantune.training.precision import Precision
from leantune.training.scoring import compute_metrics
from leantune.training.state import TrainState, random_states, set_random_states
from leantune.training.step import DoesNotFitError, StepResult, optimizer_step
from leantune.training.task import Task

MOST_SKIPPED_STEPS = 20  # in a row; a loss scale that is only too high is halved to a good one in fewer
MOST_NAMED_ROWS = 100  # of a step, in a message
SECONDS_BETWEEN_READINGS = 1.0  # of losses that wait on a GPU: each reading waits for all work that is queued


class EverySteps(Section):
    """Evaluate every so many optimizer steps."""

    steps: int = Field(ge=1)
    """Optimizer steps between evaluations."""


class EveryFraction(Section):
    """Evaluate several times an epoch."""

    fraction: float = Field(gt=0, le=1)
    """Share of an epoch between evaluations."""


class EvaluationSettings(Section):
    """When to look at the validation rows, and which metric chooses the best weights."""

    every: Literal["epoch"] | EverySteps | EveryFraction = "epoch"
    """`epoch`, `{steps: n}` or `{fraction: f}` of an epoch; the last step is always evaluated."""
    metric: Literal["auto"] | MetricName = "auto"
    """The metric that chooses the best evaluation; auto is rmse for regression and log_loss for classes and labels."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How rows become batches, with every `auto` resolved."""

    batch_size: int
    micro_batch: MicroBatch
    order: Order
    padding: Padding
    """What the rows of a micro-batch are padded to."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What one fold trains on and how; every setting is resolved."""

    number: int
    training_rows: NDArray[np.int64]
    validation_rows: NDArray[np.int64]
    batching: Batching
    optimizer: OptimizerSettings
    evaluation: EvaluationSettings
    metric: MetricName
    seed: int
    checkpoint: CheckpointSettings

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch; the last may have fewer rows than the others."""
        return -(-len(self.training_rows) // self.batching.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in all."""
        steps = self.steps_per_epoch * self.optimizer.epochs
        return steps if self.optimizer.max_steps is None else min(steps, self.optimizer.max_steps)

    def can_be_saved(self, event: object, state: TrainState) -> bool:
        """Tell whether everything until `state` was told, `event` being the latest, and no evaluation is about to
        follow."""
        is_latest = isinstance(event, TrainStep | Evaluation) and event.step == state.step
        return is_latest and (state.evaluated_step == state.step or not self.is_evaluated(state.step))

    def is_evaluated(self, step: int) -> bool:
        """Tell whether an evaluation follows step `step`, counted from 1."""
        every = self.evaluation.every
        if isinstance(every, EverySteps):
            interval: float = every.steps
        else:
            interval = self.steps_per_epoch * (every.fraction if isinstance(every, EveryFraction) else 1.0)
        return step == self.total_steps or int(step / interval) > int((step - 1) / interval)


def train_fold(
    encoder: Encoder,
    rows: Rows,
    fold: Fold,
    state: TrainState,
    *,
    task: Task,
    precision: Precision,
    clock: PhaseClock,
    seconds_before: float = 0.0,
) -> Iterator[FoldStart | TrainStep | Evaluation | Note]:
    """Fine-tune `encoder` in place on the training rows of `fold` from `state` on, yielding what happens.

    At an `Evaluation` with `is_best` the caller saves the encoder's weights before it goes on. Whenever an event of
    step `state.step` is yielded, encoder, state, precision and random numbers are those after that step and can be
    saved; so they are where `Stopped` is raised, unless it is `at_once`. `seconds_before` were spent in this fold's
    steps before `state`. Raises `TrainingError` where a loss, a gradient norm or a prediction is not finite.
    """
    readings = _Readings(fold, encoder.training_flops, precision, clock, seconds_before)
    if state.step == 0:
        yield FoldStart(
            fold=fold.number,
            training_rows=len(fold.training_rows),
            validation_rows=len(fold.validation_rows),
            total_steps=fold.total_steps,
        )
    clock.enter("train")
    plan: EpochPlan | None = None
    while True:
        if state.evaluated_step < state.step and fold.is_evaluated(state.step):
            notes: list[Note] = []
            with clock.during("evaluation"):
                predictions = predict_rows(encoder, rows, fold, task=task, precision=precision, notes=notes)
                metrics = compute_metrics(task.kind, rows.targets[fold.validation_rows], predictions)
            is_best, warnings = _judge(metrics[fold.metric], fold.metric, state)
            yield from (*notes, *warnings)
            yield Evaluation(
                fold=fold.number,
                step=state.step,
                epoch=state.step / fold.steps_per_epoch,
                metrics=metrics,
                is_best=is_best,
                predictions=predictions,
                rows=len(fold.validation_rows),
                train_seconds=readings.train_seconds(),
                evaluation_seconds=clock.seconds("evaluation"),
            )
        if state.step >= fold.total_steps:
            return
        epoch, index = divmod(state.step, fold.steps_per_epoch)
        if plan is None or index == 0:
            plan = _plan(rows, fold, epoch, _micro_batch(fold, state))
        if not encoder.model.training:  # loaded, or just evaluated
            encoder.model.train()
        planned = plan.step(index)
        learning_rate = learning_rate_at(state.schedule_step, fold.total_steps, fold.optimizer)
        numbers = [fold.training_rows[micro] for micro in planned.micro_batches]
        try:
            result = _attempt(
                encoder,
                rows,
                fold,
                state,
                numbers,
                total_weight=float(rows.weights[fold.training_rows[planned.rows]].sum()) or 1.0,
                task=task,
                precision=precision,
                learning_rate=learning_rate,
            )
        except Stopped:
            yield from readings.take()
            raise
        if isinstance(result, np.ndarray):
            smaller, note = _halve(result, rows, fold, _micro_batch(fold, state), precision.device)
            state.smaller_micro_batch = smaller.model_dump()
            plan = None
            yield note
            continue
        state.step += 1
        state.schedule_step += not result.skipped  # a step that fp16 skipped does not advance the schedule
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if result.skipped else 0
        if state.skipped_in_a_row == MOST_SKIPPED_STEPS:
            raise TrainingError(
                f"fp16 overflowed in {MOST_SKIPPED_STEPS} steps in a row, up to step {state.step} (fold "
                f"{fold.number}), and nothing was learned in them; training stopped. Set precision to bf16 or fp32."
            )
        readings.add(state.step, result, learning_rate, numbers, rows)
        is_saved = fold.checkpoint.is_due(state.step, fold.steps_per_epoch)
        if is_saved or fold.is_evaluated(state.step) or readings.are_due():
            yield from readings.take()


def _judge(value: float | None, metric: MetricName, state: TrainState) -> tuple[bool, list[Note]]:
    """Note that step `state.step` was evaluated; tell whether it is the best so far: the first is, perhaps with a
    warning."""
    is_best = state.best_step == 0 or is_better(metric, value, state.best_value)
    state.evaluated_step = state.step
    if not is_best:
        return False, []
    state.best_step, state.best_value = state.step, value
    text = f"{metric} is not defined on these validation rows: the first evaluation counts as best"
    return True, [Note(event="warning", about="evaluation", text=text)] if value is None else []


def _micro_batch(fold: Fold, state: TrainState) -> MicroBatch:
    """Return the limit of micro-batches, as it was set or as it had to become."""
    match state.smaller_micro_batch:
        case {"rows": rows}:
            return RowsPerMicroBatch(rows=rows)
        case {"tokens": tokens}:
            return TokensPerMicroBatch(tokens=tokens)
        case _:
            return fold.batching.micro_batch


def _attempt(
    encoder: Encoder,
    rows: Rows,
    fold: Fold,
    state: TrainState,
    numbers: list[NDArray[np.int64]],
    *,
    total_weight: float,
    task: Task,
    precision: Precision,
    learning_rate: float,
) -> StepResult | NDArray[np.int64]:
    """Take a step of the micro-batches `numbers`, or return the one for which there was no memory.

    In that case, and where `Stopped` is raised, all is as if the step had never begun.
    """
    random = random_states(precision.device)
    try:
        return optimizer_step(
            encoder,
            state.optimizer,
            _batches(encoder, rows, fold, numbers, precision.device),
            total_weight=total_weight,
            task=task,
            precision=precision,
            learning_rate=learning_rate,
            clip_norm=fold.optimizer.gradient_clip_norm,
        )
    except (Stopped, DoesNotFitError) as error:
        state.optimizer.zero_grad(set_to_none=True)
        set_random_states(random, precision.device)
        if isinstance(error, Stopped):
            raise
        return numbers[error.micro_batch]


def _halve(
    too_large: NDArray[np.int64], rows: Rows, fold: Fold, micro_batch: MicroBatch, device: torch.device
) -> tuple[MicroBatch, Note]:
    """Return a limit under which a micro-batch that did not fit has half the size, and what to tell of it.

    Raises `TrainingError` where it has a single row.
    """
    lengths = rows.sequences.lengths[too_large]
    if len(too_large) == 1:
        raise TrainingError(
            f"row {too_large[0] + 1}, with {lengths[0]} tokens, does not fit into the memory of {device} by itself "
            f"(fold {fold.number}). A smaller tokens.max_length, model.gradient_checkpointing: true, or a smaller "
            "model would help; a checkpoint that was saved before is still there."
        )
    give_back_memory(device)
    smaller: MicroBatch
    if isinstance(micro_batch, RowsPerMicroBatch):
        smaller = RowsPerMicroBatch(rows=len(too_large) // 2)
        told = f"{smaller.rows} rows"
    else:
        smaller = TokensPerMicroBatch(tokens=padded_tokens(lengths, fold.batching.padding) // 2)
        told = f"{smaller.tokens:,} tokens"
    return smaller, Note(
        event="warning",
        about="memory",
        text=f"{len(too_large)} rows at once, of up to {lengths.max()} tokens, did not fit into the memory of "
        f"{device}: begun again with micro-batches of up to {told}, which changes nothing that is learned",
    )


def _plan(rows: Rows, fold: Fold, epoch: int, micro_batch: MicroBatch) -> EpochPlan:
    return plan_epoch(
        rows.sequences.lengths[fold.training_rows],
        batch_size=fold.batching.batch_size,
        micro_batch=micro_batch,
        order=fold.batching.order,
        padding=fold.batching.padding,
        seed=fold.seed,
        epoch=epoch,
    )


def _batches(
    encoder: Encoder, rows: Rows, fold: Fold, micro_batches: Iterable[NDArray[np.int64]], device: torch.device
) -> Iterator[Batch]:
    """Yield the batches of row numbers [n] each; raises `Stopped` before one where that was asked for."""
    for numbers in micro_batches:
        check()
        yield _batch(encoder, rows, fold, numbers, device)


def _batch(encoder: Encoder, rows: Rows, fold: Fold, numbers: NDArray[np.int64], device: torch.device) -> Batch:
    return make_batch(rows, numbers, pad_id=encoder.pad_id, padding=fold.batching.padding, device=device)


def predict_rows(
    encoder: Encoder,
    rows: Rows,
    fold: Fold,
    *,
    task: Task,
    precision: Precision,
    notes: list[Note] | None = None,
) -> NDArray[np.float64]:
    """Return predictions [n, outputs] for the validation rows of `fold`, in their order (law 4).

    What does not fit into memory is computed in smaller micro-batches, and `notes` tells of it. Raises `TrainingError`
    where a row does not fit by itself or a prediction is not finite, and `Stopped` where that was asked for.
    """
    numbers, micro_batch = fold.validation_rows, fold.batching.micro_batch
    encoder.model.eval()
    while True:
        plan = plan_evaluation(rows.sequences.lengths[numbers], micro_batch=micro_batch, padding=fold.batching.padding)
        micro_batches = [numbers[micro] for micro in plan]
        outputs: list[Tensor] = []
        try:
            with torch.inference_mode(), precision.compute():
                for batch in _batches(encoder, rows, fold, micro_batches, precision.device):
                    outputs.append(task.predictions(encoder.logits(batch)))  # noqa: PERF401 - those until it fails
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        micro_batch, note = _halve(micro_batches[len(outputs)], rows, fold, micro_batch, precision.device)
        if notes is not None:
            notes.append(note)
    predictions = np.empty((len(numbers), task.outputs))
    predictions[plan.rows] = torch.cat(outputs).cpu().numpy()
    if not np.isfinite(predictions).all():
        row = numbers[np.flatnonzero(~np.isfinite(predictions).all(axis=1))[0]]
        raise TrainingError(
            f"the prediction for row {row + 1} (fold {fold.number}) is not finite; nothing more is written"
        )
    return predictions


class _Readings:
    """Losses and norms of steps that are done, kept on the device until it is time to read them.

    On a CPU that is at once. On a GPU a reading waits for the device, so it happens about once a second.
    """

    def __init__(
        self, fold: Fold, flops: FlopCount, precision: Precision, clock: PhaseClock, seconds_before: float
    ) -> None:
        self._fold, self._flops, self._device, self._clock = fold, flops, precision.device, clock
        self._before = clock.seconds("train") - seconds_before
        self._waiting: list[_Waiting] = []
        self._read_at = time.perf_counter()
        self._seconds_at = seconds_before

    def train_seconds(self) -> float:
        """Seconds in this fold's optimizer steps until now."""
        return self._clock.seconds("train") - self._before

    def add(
        self, step: int, result: StepResult, learning_rate: float, numbers: list[NDArray[np.int64]], rows: Rows
    ) -> None:
        """Remember a step; `numbers` are the rows of each micro-batch."""
        lengths = [rows.sequences.lengths[micro] for micro in numbers]
        self._waiting.append(
            _Waiting(step=step, result=result, learning_rate=learning_rate, numbers=numbers, lengths=lengths)
        )

    def are_due(self) -> bool:
        """Tell whether it is time to read."""
        return self._device.type == "cpu" or time.perf_counter() - self._read_at > SECONDS_BETWEEN_READINGS

    def take(self) -> Iterator[TrainStep]:
        """Read all steps that wait, in one transfer.

        Raises `TrainingError` at the first loss or gradient norm that is not finite.
        """
        if not self._waiting:
            return
        results = [waiting.result for waiting in self._waiting]
        pairs: Tensor = torch.stack([torch.stack((r.loss, r.gradient_norm.float())) for r in results])
        seconds = self.train_seconds()
        all_tokens = sum(int(micro.sum()) for waiting in self._waiting for micro in waiting.lengths)
        speed = all_tokens / max(seconds - self._seconds_at, 1e-9)
        memory = device_bytes(self._device)
        for waiting, (loss, norm) in zip(self._waiting, pairs.tolist(), strict=True):
            step, lengths, skipped = waiting.step, waiting.lengths, waiting.result.skipped
            for name, number in (("loss", loss), ("gradient norm", norm)):
                if not np.isfinite(number) and not skipped:
                    raise TrainingError(
                        f"the {name} of step {step} (fold {self._fold.number}) is {number}; training stopped. The best "
                        "weights and the checkpoint until then are kept. A smaller optimizer.learning_rate, or "
                        f"precision: fp32, may help. It learned from {_describe_rows(waiting.numbers)}"
                    )
            yield TrainStep(
                fold=self._fold.number,
                step=step,
                epoch=step / self._fold.steps_per_epoch,
                loss=loss if np.isfinite(loss) else None,
                learning_rate=waiting.learning_rate,
                gradient_norm=None if skipped else norm,
                skipped=skipped,
                rows=sum(len(micro) for micro in lengths),
                tokens=sum(int(micro.sum()) for micro in lengths),
                computed_tokens=sum(padded_tokens(micro, self._fold.batching.padding) for micro in lengths),
                tokens_per_second=speed,
                useful_flops=sum(self._flops(micro) for micro in lengths),
                memory=process_bytes() if memory is None else memory,
                train_seconds=seconds,
            )
        self._waiting.clear()
        self._read_at, self._seconds_at = time.perf_counter(), seconds


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A step whose loss was not read yet."""

    step: int
    result: StepResult
    learning_rate: float
    numbers: list[NDArray[np.int64]]
    """Rows of each micro-batch."""
    lengths: list[NDArray[np.int32]]
    """Their sequence lengths."""


def _describe_rows(numbers: list[NDArray[np.int64]]) -> str:
    """Name rows as tables do, from 1, in the table's order."""
    found = [str(number + 1) for number in sorted(np.concatenate(numbers).tolist())]
    more = f" and {len(found) - MOST_NAMED_ROWS} more" if len(found) > MOST_NAMED_ROWS else ""
    return f"the rows {', '.join(found[:MOST_NAMED_ROWS])}{more}"
