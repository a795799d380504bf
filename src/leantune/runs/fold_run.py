"""One fold of a run, from its rows to its files: trained, saved on the way, predicted and written."""

import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from leantune.encoder.embedding import whole_embedding
from leantune.encoder.head import answers_in_units
from leantune.encoder.model import Encoder
from leantune.encoder.saving import load_weights, read_saved, save_model
from leantune.runs.lesson import Lesson, begin_head, make_lesson
from leantune.runs.preparation import Prepared
from leantune.runs.record import RunFolder
from leantune.runs.session import Session
from leantune.runs.totals import Totals
from leantune.system.device import is_out_of_memory
from leantune.system.errors import RunFolderError, TrainingError
from leantune.system.files import saving, sha256_of
from leantune.system.stopping import Stopped
from leantune.tables.folds import FoldNumber
from leantune.training.checkpoint import SavedState, Timer
from leantune.training.clock import Phase
from leantune.training.events import Checkpoint, Evaluation, Event, FoldEnd, Note, TrainStep
from leantune.training.loop import Fold, evaluation_limit, train_fold
from leantune.training.optim import make_optimizer
from leantune.training.precision import Precision, make_precision
from leantune.training.prediction import predict_rows
from leantune.training.scoring import compute_metrics
from leantune.training.state import TrainState, load_tensors, pack_state, unpack_state, weights_of
from leantune.training.yardsticks import Yardsticks, measure_yardsticks

WEIGHTS = "model.safetensors"
MOST_DIFFERENCE = 1e-4
"""Between a prediction of the run and of the saved model, relative to the largest: what rounding leaves."""
PHASES: tuple[Phase, ...] = ("train", "evaluation", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """What one trained fold gave."""

    totals: Totals
    best: NDArray[np.float64] | None
    """Predictions [n, outputs] for the fold's validation rows, from the weights of the best evaluation; None where no
    rows validate."""
    last: NDArray[np.float64] | None
    yardsticks: Yardsticks | None
    """None where computing them failed, where no rows validate, and for a fold that was trained before there were any.
    """
    metrics: dict[str, Any]
    """The fold's part of `metrics.json`."""


def run_fold(
    number: FoldNumber,
    prepared: Prepared,
    session: Session,
    *,
    encoder: Encoder,
    folder: RunFolder,
    rate: float,
    saved: SavedState | None,
) -> Generator[Event, None, FoldResult]:
    """Train one fold, from a checkpoint of it if there is one, and write its files.

    Where `Stopped` is raised, what is done was saved before, unless it is `at_once`.
    """
    lesson = make_lesson(number, prepared, encoder)
    fold = lesson.fold
    # Its own for each fold: the loss scaler of fp16 learns, and a fold must not depend on the folds before it.
    precision = make_precision(prepared.precision.name, prepared.precision.device)
    keeper = _Keeper(lesson, prepared, session, encoder=encoder, precision=precision, folder=folder, saved=saved)
    state, clock = keeper.state, session.clock
    best = last = None
    try:
        for event in train_fold(
            encoder,
            lesson.rows,
            fold,
            state,
            task=lesson.task,
            precision=precision,
            clock=clock,
            seconds_before=clock.seconds("train") - keeper.began["train"],
        ):
            folder.write_event(event)
            yield event
            if isinstance(event, TrainStep):
                keeper.totals.add(event)
            if isinstance(event, Evaluation):
                last = event.predictions
            if isinstance(event, Evaluation) and event.is_best:
                best = event.predictions
                yield keeper.save_best()
            if keeper.is_due(event):
                yield keeper.save()
        if not len(fold.validation_rows):  # nothing to choose by: the last weights are the run's
            yield keeper.save_best()
        if fold.checkpoint.keep and not fold.checkpoint.is_due(state.step, fold.steps_per_epoch):
            yield keeper.save()
        clock.enter("evaluation")
        yardsticks: Yardsticks | None = None
        if len(fold.validation_rows):
            best, last = _exact_predictions(
                encoder,
                prepared,
                fold,
                state,
                precision=precision,
                model_folder=keeper.model_folder,
                best=best,
                last=last,
            )
            yardsticks = yield from _measure_yardsticks(prepared, fold, session, folder)
        own = _sample_predictions(encoder, prepared, fold, state, precision=precision, best=best)
        clock.enter("checkpoint")
        yield from _prove_saved(keeper.model_folder, prepared, fold, own)
    except Stopped as stopped:
        if state.step and not stopped.at_once:
            text = f"{stopped.name}: saving a checkpoint; --resume continues from it; stop once more to leave at once"
            yield Note(about="stop", text=text)
            yield keeper.save()
        raise

    result = _write_results(keeper, prepared, best=best, last=last, yardsticks=yardsticks, rate=rate)
    done = FoldEnd(fold=number, metrics=result.metrics)
    folder.write_event(done)
    yield done
    if len(prepared.fold_numbers) > 1:
        _save_result(result, session, folder, number, state.step)
    return result


class _Keeper:
    """Writes what must outlive this process: the best weights, and checkpoints.

    Begins at a checkpoint, if there is one: then the encoder's weights, the loss scale and the random numbers are those
    of the checkpoint.
    """

    def __init__(
        self,
        lesson: Lesson,
        prepared: Prepared,
        session: Session,
        *,
        encoder: Encoder,
        precision: Precision,
        folder: RunFolder,
        saved: SavedState | None,
    ) -> None:
        self.fold = fold = lesson.fold
        self.session, self.folder = session, folder
        self._encoder, self._tokenizer, self._precision = encoder, prepared.tokenizer, precision
        self.model_folder = folder.fold(fold.number) / "model"
        with whole_embedding(encoder.model):  # as it is saved
            self._model_bytes = 4 * sum(parameter.numel() for parameter in encoder.model.parameters())
        optimizer = make_optimizer(encoder.model, fold.optimizer)
        if saved is None:
            begin_head(encoder, lesson)
            self.state, self.totals = TrainState(optimizer=optimizer), Totals()
            self.began = {phase: session.clock.seconds(phase) for phase in PHASES}
        else:
            self._restore_best(saved)
            self.state = unpack_state(saved, encoder, optimizer, precision)
            if self.state.step > fold.total_steps:  # forced
                raise RunFolderError(
                    f"{saved.path}: {self.state.step} steps are done, and the run now ends after {fold.total_steps}: "
                    "--force cannot go back; give another --output"
                )
            self.totals, self.began = Totals(**saved.state["totals"]), saved.state["began"]
        self._timer = Timer(fold.checkpoint, expected_bytes=4 * self._model_bytes)

    def is_due(self, event: Event) -> bool:
        """Tell whether to save now, `event` being the latest."""
        if not self.fold.can_be_saved(event, self.state):
            return False
        return self.fold.checkpoint.is_due(self.state.step, self.fold.steps_per_epoch) or self._timer.is_due()

    def save_best(self) -> Checkpoint:
        """Write the weights, which are the best so far, where transformers can load them."""
        with self.session.clock.during("checkpoint"), answers_in_units(self._encoder.output_layer, self.fold.scale):
            self._save_model()
        event = Checkpoint(
            fold=self.fold.number,
            step=self.state.step,
            path=self.model_folder.relative_to(self.folder.path).as_posix(),
            checkpoint_seconds=self.session.clock.seconds("checkpoint"),
        )
        self.folder.write_event(event)
        return event

    def save(self) -> Checkpoint:
        """Write a checkpoint."""
        start, state = time.monotonic(), self.state
        tensors, values = pack_state(state, self._encoder, self._precision)
        own = {"total_steps": self.fold.total_steps, "totals": asdict(self.totals), "began": self.began}
        event = self.session.write_checkpoint(
            self.folder,
            self.fold.number,
            state.step,
            suffix="-evaluated" if state.evaluated_step == state.step else "",
            tensors=tensors,
            copies={f"best/{WEIGHTS}": self.model_folder / WEIGHTS} if state.best_step else {},
            state=values | own,
        )
        self._timer.saved(time.monotonic() - start)
        self.folder.write_event(event)
        return event

    def _restore_best(self, saved: SavedState) -> None:
        """Bring the best weights of the time of a checkpoint back to where the run keeps them: those that lie there may
        be from after it, or half-written."""
        best, there = saved.path / "best", self.model_folder / WEIGHTS
        if best.is_dir() and not (there.is_file() and sha256_of(there) == sha256_of(best / WEIGHTS)):
            load_weights(self._encoder, best)  # which answers in the table's units as it is
            self._save_model()

    def _save_model(self) -> None:
        with saving(self.model_folder, self._model_bytes, others=(SafetensorError,)):
            save_model(self._encoder, self._tokenizer, self.model_folder)


def _measure_yardsticks(
    prepared: Prepared, fold: Fold, session: Session, folder: RunFolder
) -> Generator[Note, None, Yardsticks | None]:
    """Return what the constant answer and a linear model predict for the validation rows; None, with a warning, where
    that fails: a trained model is not lost for it."""
    try:
        with session.apart():
            return measure_yardsticks(
                prepared.task.kind,
                texts=prepared.texts,
                targets=prepared.rows.targets,
                weights=prepared.rows.weights,
                training_rows=fold.training_rows,
                validation_rows=fold.validation_rows,
                outputs=prepared.task.outputs,
            )
    except Exception as error:
        text = (
            f"fold {fold.number}: the constant answer and the linear model could not be computed "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); the run itself is not affected. Please "
            "report this."
        )
    note = Note(event="warning", about="yardsticks", text=text)
    folder.write_event(note)
    yield note
    return None


def _write_results(
    keeper: _Keeper,
    prepared: Prepared,
    *,
    best: NDArray[np.float64] | None,
    last: NDArray[np.float64] | None,
    yardsticks: Yardsticks | None,
    rate: float,
) -> FoldResult:
    """Write the predictions of a fold that is trained; return what it gave."""
    fold, task, clock = keeper.fold, prepared.task, keeper.session.clock
    scores: dict[str, Any] = {"best": None, "last": None, "yardsticks": None}
    clock.enter("checkpoint")
    if best is not None and last is not None:
        truth = prepared.rows.targets[fold.validation_rows]
        scores = {
            "best": {"step": keeper.state.best_step} | compute_metrics(task.kind, truth, best, fold.metric),
            "last": {"step": keeper.state.step} | compute_metrics(task.kind, truth, last, fold.metric),
            "yardsticks": None if yardsticks is None else yardsticks.scores(task.kind, truth, fold.metric),
        }
        keeper.folder.write_predictions(
            fold.number,
            rows=prepared.row_numbers[fold.validation_rows],
            ids=prepared.ids.take(fold.validation_rows),
            targets=prepared.targets.readable(fold.validation_rows),
            predictions=best,
            labels=task.labels,
        )
    keeper.folder.sync_model(fold.number)
    seconds = {phase: clock.seconds(phase) - keeper.began[phase] for phase in PHASES}
    metrics = (
        scores
        | {"training_rows": len(fold.training_rows), "validation_rows": len(fold.validation_rows)}
        | keeper.totals.summary(train_seconds=seconds["train"], matrix_rate=rate)
        | {"evaluation_seconds": seconds["evaluation"], "checkpoint_seconds": seconds["checkpoint"]}
    )
    return FoldResult(totals=keeper.totals, best=best, last=last, yardsticks=yardsticks, metrics=metrics)


def _exact_predictions(
    encoder: Encoder,
    prepared: Prepared,
    fold: Fold,
    state: TrainState,
    *,
    precision: Precision,
    model_folder: Path,
    best: NDArray[np.float64] | None,
    last: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the validation rows' predictions from the best and from the last weights, in float32.

    What is saved are float32 weights, and what is reported are their predictions, not a 16-bit shadow of them. `best`
    and `last` are those of the evaluations in training, None where a process before this one made them.
    """

    def predict() -> NDArray[np.float64]:
        return _predict_exactly(encoder, prepared, fold, state, fold.validation_rows, device=precision.device)

    if precision.name != "fp32":
        best = last = None
    if last is None:
        with answers_in_units(encoder.output_layer, fold.scale):
            last = predict()
    if best is None and state.best_step == state.step:
        best = last
    if best is None:
        own = weights_of(encoder.model)
        kept = {name: tensor.clone() for name, tensor in own.items()}  # no larger than the gradients, which are gone
        try:
            load_weights(encoder, model_folder)  # which answers in the table's units as it is
            best = predict()
        finally:
            load_tensors(own, kept)  # a checkpoint that is written when this is stopped has the last weights
    return best, last


def _predict_exactly(
    encoder: Encoder,
    prepared: Prepared,
    fold: Fold,
    state: TrainState,
    rows: NDArray[np.int64],
    *,
    device: torch.device,
) -> NDArray[np.float64]:
    """Predict rows in float32."""
    return predict_rows(
        encoder,
        prepared.rows.sequences,
        rows,
        task=prepared.task,
        micro_batch=evaluation_limit(fold, state),
        padding=fold.batching.padding,
        precision=make_precision("fp32", device),
    ).values


def _sample_predictions(
    encoder: Encoder,
    prepared: Prepared,
    fold: Fold,
    state: TrainState,
    *,
    precision: Precision,
    best: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return the run's own predictions for the rows on which its saved model is tried."""
    sample = prepared.samples[fold.number]
    if best is not None:
        return best[np.searchsorted(fold.validation_rows, sample.rows)]
    with answers_in_units(encoder.output_layer, fold.scale):
        return _predict_exactly(encoder, prepared, fold, state, sample.rows, device=precision.device)


def _prove_saved(folder: Path, prepared: Prepared, fold: Fold, own: NDArray[np.float64]) -> Iterator[Note]:
    """Hold the saved model, loaded by plain transformers, against the run's own predictions (laws 8 and 10).

    `own` are those of the fold's sample of rows, [n, outputs].

    Raises `TrainingError` where they differ: whoever used the model would get other answers than those that the metrics
    are of.
    """
    sample, device = prepared.samples[fold.number], prepared.precision.device
    if not len(sample.rows):
        return
    try:
        with make_precision("fp32", device).compute():
            saved = prepared.task.predictions(read_saved(folder, sample.texts, device)).cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        text = f"no memory to load {folder} and to try it: whether it repeats the predictions is not known"
        yield Note(event="warning", about="model", text=text)
        return
    differences = np.abs(saved - own) if saved.shape == own.shape else np.full_like(own, np.inf)
    if (differences > MOST_DIFFERENCE * np.abs(own).max()).any():
        place = int(differences.max(axis=1).argmax())
        row = prepared.row_numbers[sample.rows[place]] + 1
        raise TrainingError(
            f"{folder}: plain transformers gives {_listed(saved[place])} for row {row} with the saved model, and this "
            f"run gave {_listed(own[place])}: it would not do what the metrics say, so the run is not finished. "
            f"Please report this model ({prepared.config.model.name}); another model.name will do."
        )


def _listed(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.5g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")


def _save_result(result: FoldResult, session: Session, folder: RunFolder, number: FoldNumber, step: int) -> None:
    """Write a trained fold's result where a run that goes on with the next fold will find it."""
    predictions = {"best": result.best, "last": result.last}
    if result.yardsticks is not None:
        predictions["constant"] = result.yardsticks.constant
        if result.yardsticks.linear is not None:
            predictions["linear"] = result.yardsticks.linear
    there = {name: values for name, values in predictions.items() if values is not None}
    session.write_checkpoint(
        folder,
        number,
        step,
        suffix="-finished",
        tensors={"predictions": {name: torch.from_numpy(values) for name, values in there.items()}},
        copies={},
        state={"total_steps": step, "finished": {"totals": asdict(result.totals), "metrics": result.metrics}},
    )


def read_result(saved: SavedState) -> FoldResult:
    """Return the result of a fold that was trained before."""
    predictions = {name: tensor.numpy() for name, tensor in saved.tensors("predictions").items()}
    finished = saved.state["finished"]
    yardsticks = None
    if "constant" in predictions:
        told = {name: finished["metrics"]["yardsticks"][name] for name in ("reason", "training_rows", "seconds")}
        yardsticks = Yardsticks(constant=predictions["constant"], linear=predictions.get("linear"), **told)
    return FoldResult(
        totals=Totals(**finished["totals"]),
        best=predictions.get("best"),
        last=predictions.get("last"),
        yardsticks=yardsticks,
        metrics=finished["metrics"],
    )
