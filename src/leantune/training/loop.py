"""The training loop of one fold, as a generator of events: the caller records, shows and saves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from leantune.batches.batch import Rows, TrainingBatch, make_training_batch
from leantune.batches.plan import EpochPlan, MicroBatch, Order, Padding, WindowsRead, plan_epoch
from leantune.encoder.head import answers_in_units
from leantune.encoder.model import Encoder
from leantune.system.errors import TrainingError
from leantune.system.stopping import Stopped, check
from leantune.tables.folds import FoldNumber
from leantune.tables.scale import Scale
from leantune.training.checkpoint import CheckpointSettings
from leantune.training.clock import PhaseClock
from leantune.training.evaluation import EvaluationSettings
from leantune.training.events import Evaluation, FoldStart, Note, TrainStep
from leantune.training.memory import halve, set_limit
from leantune.training.metrics import Metric, MetricName, is_better, loss_metric, name_of
from leantune.training.optim import ResolvedOptimizer, learning_rate_at
from leantune.training.precision import Precision
from leantune.training.prediction import predict_rows
from leantune.training.readings import Readings
from leantune.training.scoring import compute_metrics
from leantune.training.state import TrainState, random_states, set_random_states
from leantune.training.step import DoesNotFitError, StepResult, optimizer_step
from leantune.training.task import Task

MOST_SKIPPED_STEPS = 20  # in a row; a loss scale that is only too high is halved to a good one in fewer


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

    number: FoldNumber
    training_rows: NDArray[np.int64]
    validation_rows: NDArray[np.int64]
    batching: Batching
    optimizer: ResolvedOptimizer
    evaluation: EvaluationSettings
    metric: MetricName | Metric
    seed: int
    checkpoint: CheckpointSettings
    windows_read: WindowsRead = "one"
    """What an epoch reads of a row that is read in several windows."""
    scale: Scale | None = None
    """Of the training rows' targets, in units of which they are learned; None where they are learned as they are."""

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

    def is_over(self, state: TrainState) -> bool:
        """Tell whether all steps are done, or the last evaluations brought nothing better."""
        patience = self.evaluation.patience
        return state.step >= self.total_steps or (patience is not None and state.evaluations_since_best >= patience)

    def is_evaluated(self, step: int) -> bool:
        """Tell whether an evaluation follows step `step`, counted from 1."""
        if not len(self.validation_rows):
            return False
        return self.evaluation.is_due(step, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps)


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
    readings = Readings(
        fold=fold.number,
        steps_per_epoch=fold.steps_per_epoch,
        padding=fold.batching.padding,
        scale=fold.scale,
        flops=encoder.training_flops,
        device=precision.device,
        clock=clock,
        seconds_before=seconds_before,
    )
    if state.step == 0:
        yield FoldStart(
            fold=fold.number,
            training_rows=len(fold.training_rows),
            validation_rows=len(fold.validation_rows),
            total_steps=fold.total_steps,
        )
    clock.enter("train")
    measured = rows  # whose targets are in the table's units, and whose weights are those of whole rows
    if fold.windows_read == "all":  # each window has its share of the row's weight
        rows = replace(rows, weights=rows.weights / rows.sequences.windows)
    if fold.scale is not None:
        rows = replace(rows, targets=fold.scale.standardize(rows.targets))
    plan: EpochPlan | None = None
    latest: StepResult | None = None

    def learning_rate() -> float:
        _settle(state, latest, fold)
        return learning_rate_at(state.schedule_step, fold.total_steps, fold.optimizer)

    while True:
        if state.evaluated_step < state.step and fold.is_evaluated(state.step):
            yield from _evaluate(
                encoder, measured, fold, state, task=task, precision=precision, clock=clock, at=readings
            )
        if fold.is_over(state):
            _settle(state, latest, fold)
            yield from readings.take()
            if state.step < fold.total_steps:
                text = f"no better evaluation in the last {fold.evaluation.patience}: ended at step {state.step}"
                yield Note(about="patience", text=f"{text} of {fold.total_steps}")
            return
        epoch, index = divmod(state.step, fold.steps_per_epoch)
        limit = set_limit(fold.batching.micro_batch, state.smaller_micro_batch)
        if plan is None or index == 0:
            plan = _plan(rows, fold, epoch, limit)
        planned = plan.step(index)
        numbers = [fold.training_rows[micro] for micro in planned.micro_batches]
        total_weight = float(measured.weights[fold.training_rows[planned.rows]].sum()) or 1.0
        if not encoder.model.training:  # loaded, or just evaluated
            encoder.model.train()
        try:
            result = _attempt(
                encoder,
                rows,
                fold,
                state,
                numbers,
                windows=planned.windows,
                total_weight=total_weight,
                task=task,
                precision=precision,
                learning_rate=learning_rate,
            )
        except Stopped:
            _settle(state, latest, fold)
            yield from readings.take()
            raise
        if isinstance(result, np.ndarray):  # the rows of a micro-batch that did not fit
            smaller, note = halve(result, rows.sequences, limit, fold.batching.padding, precision.device)
            state.smaller_micro_batch = smaller.model_dump()
            plan = None
            yield note
            continue
        state.step, latest = state.step + 1, result
        readings.add(state.step, result, numbers, rows)
        is_saved = fold.checkpoint.is_due(state.step, fold.steps_per_epoch)
        if is_saved or fold.is_evaluated(state.step) or readings.are_due():
            _settle(state, latest, fold)
            yield from readings.take()


def _settle(state: TrainState, latest: StepResult | None, fold: Fold) -> None:
    """Count the `latest` step for the schedule, once; raises `TrainingError` where fp16 has skipped too many in a row.

    Only under fp16 this waits for the device, until that step is done: see `optimizer_step`.
    """
    if latest is None or state.settled_step == state.step:
        return
    state.settled_step = state.step
    is_skipped = latest.skipped is not None and bool(latest.skipped)
    state.schedule_step += not is_skipped  # a step that fp16 skipped does not advance the schedule
    state.skipped_in_a_row = state.skipped_in_a_row + 1 if is_skipped else 0
    if state.skipped_in_a_row == MOST_SKIPPED_STEPS:
        raise TrainingError(
            f"fp16 overflowed in {MOST_SKIPPED_STEPS} steps in a row, up to step {state.step} (fold {fold.number}), "
            "and nothing was learned in them; training stopped. Set precision to bf16 or fp32."
        )


def _evaluate(
    encoder: Encoder,
    rows: Rows,
    fold: Fold,
    state: TrainState,
    *,
    task: Task,
    precision: Precision,
    clock: PhaseClock,
    at: Readings,
) -> Iterator[Note | Evaluation]:
    """Predict and score the validation rows, and note in `state` whether these weights are the best."""
    with clock.during("evaluation"), answers_in_units(encoder.output_layer, fold.scale):
        predicted = predict_rows(
            encoder,
            rows.sequences,
            fold.validation_rows,
            task=task,
            micro_batch=evaluation_limit(fold, state),
            padding=fold.batching.padding,
            precision=precision,
        )
        metrics = compute_metrics(task.kind, rows.targets[fold.validation_rows], predicted.values, fold.metric)
    if predicted.notes:  # the next evaluation need not find it out again
        state.smaller_evaluation = predicted.micro_batch.model_dump()
    is_best, warnings = _judge(metrics, fold.metric, state)
    yield from (*predicted.notes, *warnings)
    yield Evaluation(
        fold=fold.number,
        step=state.step,
        epoch=state.step / fold.steps_per_epoch,
        metrics=metrics,
        metric=name_of(fold.metric),
        is_best=is_best,
        predictions=predicted.values,
        rows=len(fold.validation_rows),
        train_seconds=at.train_seconds(),
        evaluation_seconds=clock.seconds("evaluation"),
    )


def evaluation_limit(fold: Fold, state: TrainState) -> MicroBatch:
    """Return the limit of micro-batches that are evaluated: what fitted before, and no more than fits in training."""
    return set_limit(fold.batching.micro_batch, state.smaller_evaluation or state.smaller_micro_batch)


def _judge(metrics: dict[str, float | None], metric: MetricName | Metric, state: TrainState) -> tuple[bool, list[Note]]:
    """Note that step `state.step` was evaluated; tell whether it is the best so far: the first is, perhaps with a
    warning.

    Of two evaluations with the same metric, as often happens with accuracy, the one with the smaller loss is better.
    """
    value, loss_name = metrics[name_of(metric)], loss_metric(metrics)
    loss = metrics[loss_name]
    is_best = state.best_step == 0 or is_better(metric, value, state.best_value)
    if value is not None and value == state.best_value:
        is_best = is_better(loss_name, loss, state.best_loss)
    state.evaluated_step = state.step
    state.evaluations_since_best = 0 if is_best else state.evaluations_since_best + 1
    if not is_best:
        return False, []
    state.best_step, state.best_value, state.best_loss = state.step, value, loss
    text = f"{name_of(metric)} is not defined on these validation rows: the first evaluation counts as best"
    return True, [Note(event="warning", about="evaluation", text=text)] if value is None else []


def _attempt(
    encoder: Encoder,
    rows: Rows,
    fold: Fold,
    state: TrainState,
    numbers: list[NDArray[np.int64]],
    *,
    windows: Sequence[NDArray[np.int64]] | None,
    total_weight: float,
    task: Task,
    precision: Precision,
    learning_rate: Callable[[], float],
) -> StepResult | NDArray[np.int64]:
    """Take a step of the micro-batches `numbers`, of which `windows` are read, or return the one for which there was no
    memory.

    In that case, and where `Stopped` is raised, all is as if the step had never begun.
    """
    random = random_states(precision.device)
    try:
        return optimizer_step(
            encoder,
            state.optimizer,
            _batches(encoder, rows, fold, numbers, windows=windows, precision=precision),
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


def _plan(rows: Rows, fold: Fold, epoch: int, micro_batch: MicroBatch) -> EpochPlan:
    windows = rows.sequences.windows[fold.training_rows]
    return plan_epoch(
        rows.sequences.lengths[fold.training_rows],
        batch_size=fold.batching.batch_size,
        micro_batch=micro_batch,
        order=fold.batching.order,
        padding=fold.batching.padding,
        seed=fold.seed,
        epoch=epoch,
        windows=windows if (windows > 1).any() else None,
        windows_read=fold.windows_read,
    )


def _batches(
    encoder: Encoder,
    rows: Rows,
    fold: Fold,
    micro_batches: list[NDArray[np.int64]],
    *,
    windows: Sequence[NDArray[np.int64]] | None,
    precision: Precision,
) -> Iterator[TrainingBatch]:
    """Yield the batches of row numbers [n] each; raises `Stopped` before one where that was asked for."""
    for numbers, read in zip(micro_batches, repeat(None) if windows is None else windows, strict=False):
        check()
        yield make_training_batch(
            rows,
            numbers,
            windows=read,
            pad_id=encoder.pad_id,
            padding=fold.batching.padding,
            device=precision.device,
        )
