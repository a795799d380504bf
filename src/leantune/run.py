"""A run from its prepared rows to its folder, and the Python interface to it."""

import hashlib
import platform
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leantune.clock import Phase, PhaseClock, peak_process_bytes
from leantune.config import Config, dump_config, load_config
from leantune.device import (
    describe_device,
    forget_peak,
    matrix_rate,
    peak_device_bytes,
    processor_name,
    resolve_device,
    synchronize,
)
from leantune.display import Display
from leantune.events import Checkpoint, Evaluation, Event, FoldEnd, RunEnd, TrainStep
from leantune.loop import Fold, predict_rows, train_fold
from leantune.model import Encoder, load_weights, save_model
from leantune.precision import make_precision
from leantune.preparation import Prepared, prepare
from leantune.record import RunFolder, code_revision, refuse_taken
from leantune.scoring import compute_metrics
from leantune.tally import Tally

VERSIONED = ("leantune", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "pyarrow", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]
    """The content of `metrics.json`."""


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """What one trained fold gave."""

    tally: Tally
    best: NDArray[np.float64]
    """Predictions [n, outputs] for the fold's validation rows, from the weights of the best evaluation."""
    last: NDArray[np.float64]
    metrics: dict[str, Any]
    """The fold's part of `metrics.json`."""


def run(config: Config, output: Path, *, started_at: float | None = None) -> Iterator[Event]:
    """Do one run, write its folder, and yield what happens; the last event is a `RunEnd`.

    `started_at` is the Unix time at which the measured span began, such as the process's creation; None is now. Raises
    `InputError` for what the user must change, before anything is written, and `TrainingError` where training cannot
    go on.
    """
    output = output.expanduser()
    device = resolve_device(config.device)
    clock = PhaseClock(started_at, partial(synchronize, device))
    precision = make_precision(config.precision, device)
    refuse_taken(output)
    prepared, encoder = yield from prepare(config, precision)
    with precision.compute():  # a TF32 run is held against TF32 products
        rate, rate_of = matrix_rate(device, precision.matrix_dtype)
    forget_peak(device)  # of those products, and of what ran before in this process

    with RunFolder(output) as folder:
        folder.write_config(dump_config(prepared.config))
        folder.write_environment(_environment(device, prepared.data, prepared.tokenizer_fingerprint))
        for note in prepared.notes:
            folder.write_event(note)
            yield note
        results: dict[int, FoldResult] = {}
        for number in prepared.fold_numbers:
            if results:  # every fold starts from the pretrained weights and the same seed
                clock.enter("startup")
                encoder = prepared.load()
            results[number] = yield from _run_fold(
                number, prepared, encoder=encoder, folder=folder, clock=clock, rate=rate
            )
            done = FoldEnd(fold=number, metrics=results[number].metrics)
            folder.write_event(done)
            yield done
        clock.enter("checkpoint")
        metrics = {
            "task": prepared.task.kind,
            "metric": prepared.metric,
            "folds": {str(number): result.metrics for number, result in results.items()},
            "overall": _overall(prepared, results, clock, rate)
            | {
                "peak_device_bytes": peak_device_bytes(device),
                "peak_process_bytes": peak_process_bytes(),
                "matrix_rate": {"flops_per_second": rate, "measured_on": rate_of},
            },
        }
        folder.write_metrics(metrics)
    yield RunEnd(metrics=metrics)


def _run_fold(
    number: int, prepared: Prepared, *, encoder: Encoder, folder: RunFolder, clock: PhaseClock, rate: float
) -> Generator[Event, None, FoldResult]:
    """Train one fold and write its files."""
    task, rows = prepared.task, prepared.rows
    fold = Fold(
        number=number,
        training_rows=prepared.folds.training_rows(number),
        validation_rows=prepared.folds.validation_rows(number),
        batching=prepared.batching,
        optimizer=prepared.config.optimizer,
        evaluation=prepared.config.evaluation,
        metric=prepared.metric,
        seed=prepared.config.seed,
    )
    phases: tuple[Phase, ...] = ("train", "evaluation", "checkpoint")
    before = {phase: clock.seconds(phase) for phase in phases}
    # Its own for each fold: the loss scaler of fp16 learns, and a fold must not depend on the folds before it.
    precision = make_precision(prepared.precision.name, prepared.precision.device)
    model_folder = folder.fold(number) / "model"
    tally = Tally()
    for event in train_fold(encoder, rows, fold, task=task, precision=precision, clock=clock):
        folder.write_event(event)
        yield event
        if isinstance(event, TrainStep):
            tally.add(event)
        if isinstance(event, Evaluation):
            last_evaluation = event
            if event.is_best:
                best_evaluation = event
                with clock.during("checkpoint"):
                    save_model(encoder, prepared.tokenizer, model_folder)
                saved = Checkpoint(
                    fold=number,
                    step=event.step,
                    path=model_folder.relative_to(folder.path).as_posix(),
                    checkpoint_seconds=clock.seconds("checkpoint"),
                )
                folder.write_event(saved)
                yield saved

    clock.enter("evaluation")
    best, last = best_evaluation.predictions, last_evaluation.predictions
    if precision.name != "fp32":
        # What is saved are float32 weights, and what is reported are their predictions, not a 16-bit shadow of them.
        exact = make_precision("fp32", precision.device)
        best = last = predict_rows(encoder, rows, fold, task=task, precision=exact)
        if best_evaluation is not last_evaluation:
            load_weights(encoder, model_folder)
            best = predict_rows(encoder, rows, fold, task=task, precision=exact)
    truth = rows.targets[fold.validation_rows]
    scores = {
        "best": {"step": best_evaluation.step} | compute_metrics(task.kind, truth, best),
        "last": {"step": last_evaluation.step} | compute_metrics(task.kind, truth, last),
    }
    clock.enter("checkpoint")
    folder.write_predictions(
        number,
        rows=fold.validation_rows,
        ids=prepared.ids.take(fold.validation_rows),
        targets=prepared.targets.readable(fold.validation_rows),
        predictions=best,
        labels=task.labels,
    )
    seconds = {phase: clock.seconds(phase) - before[phase] for phase in before}
    return FoldResult(
        tally=tally,
        best=best,
        last=last,
        metrics=scores
        | {"training_rows": len(fold.training_rows), "validation_rows": len(fold.validation_rows)}
        | tally.summary(train_seconds=seconds["train"], matrix_rate=rate)
        | {"evaluation_seconds": seconds["evaluation"], "checkpoint_seconds": seconds["checkpoint"]},
    )


def _overall(prepared: Prepared, results: dict[int, FoldResult], clock: PhaseClock, rate: float) -> dict[str, Any]:
    """Return the metrics of all trained folds together: every row is predicted by the model that did not see it."""
    truth = np.concatenate([prepared.rows.targets[prepared.folds.validation_rows(number)] for number in results])
    tally = Tally()
    for result in results.values():
        tally += result.tally
    kind = prepared.task.kind
    return (
        {
            "best": compute_metrics(kind, truth, np.concatenate([result.best for result in results.values()])),
            "last": compute_metrics(kind, truth, np.concatenate([result.last for result in results.values()])),
        }
        | tally.summary(train_seconds=clock.seconds("train"), matrix_rate=rate)
        | {
            "startup_seconds": clock.seconds("startup"),
            "evaluation_seconds": clock.seconds("evaluation"),
            "checkpoint_seconds": clock.seconds("checkpoint"),
            "total_seconds": clock.total(),
        }
    )


def train(
    data: str | Path | None = None,
    *,
    output: str | Path,
    text: str | list[str] | None = None,
    target: str | list[str] | None = None,
    model: str | None = None,
    fold: int | str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    display: bool = True,
) -> Run:
    """Fine-tune an encoder on a table of texts; the same as `leantune train`.

    `data`, `text`, `target`, `model` and `fold` are the settings `data.path`, `data.text`, `data.target`, `model.name`
    and `fold`; `settings` holds any others by their dotted names, such as `{"optimizer.epochs": 1}`; `config` is a YAML
    file that all of these override. Writes the run folder `output` and, with `display`, shows progress. Raises
    `InputError` for what the caller must change, and `TrainingError` where training cannot go on.
    """
    flags = {"data.path": data, "data.text": text, "data.target": target, "model.name": model, "fold": fold}
    given = {name: value for name, value in flags.items() if value is not None}
    loaded = load_config(None if config is None else Path(config), given | dict(settings or {}))
    return _finish(run(loaded, Path(output)), Path(output), display)


def _finish(events: Iterator[Event], folder: Path, display: bool) -> Run:
    metrics: dict[str, Any] = {}
    for event in Display.over(events) if display else events:
        if isinstance(event, RunEnd):
            metrics = event.metrics
    return Run(folder=folder.expanduser(), metrics=metrics)


def _environment(device: torch.device, data: Path, tokenizer: str) -> dict[str, Any]:
    """Return what a reader needs in order to repeat the run and to judge its times."""
    with data.open("rb") as file:
        data_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONED},
        "platform": platform.platform(),
        "processor": processor_name(),
        "device": describe_device(device),
        "code_revision": code_revision(),
        "data_sha256": data_sha256,
        "tokenizer_sha256": tokenizer,
    }
