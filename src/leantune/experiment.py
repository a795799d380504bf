"""A run from its settings to its folder: the one module that knows every stage."""

import hashlib
import platform
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leantune.batch import Rows
from leantune.batch_plan import MicroBatch, RowsPerMicroBatch, TokensPerMicroBatch
from leantune.clock import Phase, PhaseClock, peak_process_bytes
from leantune.config import Config, dump_config, load_config
from leantune.device import describe_device, matrix_rate, peak_device_bytes, processor_name, resolve_device, synchronize
from leantune.display import Display
from leantune.errors import SettingsError
from leantune.events import Checkpoint, Evaluation, Event, FoldEnd, Note, Progress, RunEnd, TrainStep
from leantune.folds import Folds, given_folds, make_folds
from leantune.loop import Batching, Fold, predict_rows, train_fold
from leantune.metrics import MetricName, compute_metrics, default_metric, metric_names
from leantune.model import Encoder, load_encoder, load_weights, model_path, save_model
from leantune.precision import Precision, make_precision, supported_precisions
from leantune.record import RunFolder, code_revision, refuse_taken
from leantune.table import Table, read_table
from leantune.tally import Tally
from leantune.targets import Targets, TaskKind, parse_targets
from leantune.task import Task, make_task
from leantune.tokens import TokenizedTexts, check_tokenizer, load_tokenizer, tokenize, tokenizer_fingerprint
from leantune.truncation import Sequences, discover_template, truncate

# Positions (rows x padded length) that are computed at once where micro_batch is auto. On a CPU few of them stay in the
# cache and pad less (benchmarks/micro_batch.py); a GPU wants all that fits.
AUTO_TOKENS = {"cpu": 1024, "mps": 8192, "cuda": 16384}

VERSIONED = ("leantune", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "pyarrow", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]
    """The content of `metrics.json`."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that the folds of a run share."""

    config: Config
    """Effective settings: with what every `auto` came to."""
    table: Table
    targets: Targets
    task: Task
    folds: Folds
    tokenizer: Any
    tokenizer_fingerprint: str
    rows: Rows
    batching: Batching
    metric: MetricName
    precision: Precision
    load: Callable[[], Encoder]
    """Loads the pretrained encoder anew, with the same head every time."""
    notes: tuple[Note, ...]

    @property
    def fold_numbers(self) -> list[int]:
        """The folds to train."""
        return list(range(self.folds.count)) if self.config.fold == "all" else [self.config.fold]


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
    device = resolve_device(config.device)
    clock = PhaseClock(started_at, partial(synchronize, device))
    precision = make_precision(config.precision, device)
    refuse_taken(output)
    prepared, encoder = yield from _prepare(config, precision)
    rate, rate_of = matrix_rate(device, precision.matrix_dtype)

    with RunFolder(output) as folder:
        folder.write_config(dump_config(prepared.config))
        folder.write_environment(_environment(device, config.data.path, prepared.tokenizer_fingerprint))
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
            yield FoldEnd(fold=number, metrics=results[number].metrics)
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


def _prepare(config: Config, precision: Precision) -> Generator[Event, None, tuple[Prepared, Encoder]]:
    """Do everything before training, the quick checks first; return what the folds share, and a loaded encoder."""
    table = read_table(config.data)
    targets = parse_targets(table, config.data.task)
    task = make_task(targets)
    metric = _resolve_metric(config, targets.kind)
    folds = make_folds(targets, table.groups, config.folds) if table.folds is None else given_folds(table.folds)
    if config.fold != "all":
        folds.validation_rows(config.fold)  # raises where there is no such fold

    name = model_path(config.model.name)
    tokenizer = load_tokenizer(name, config.model.revision)
    fingerprint = tokenizer_fingerprint(tokenizer)
    load = partial(
        load_encoder,
        config.model,
        labels=task.labels,
        problem_type=task.problem_type,
        device=precision.device,
        seed=config.seed,
    )
    encoder = load()
    check_tokenizer(tokenizer, encoder.vocabulary_size)
    tokenized = yield from _tokenize(table, tokenizer)
    template = discover_template(tokenizer, pair=len(table.texts) == 2)
    limit = min(encoder.position_limit or sys.maxsize, tokenizer.model_max_length)
    sequences = truncate(tokenized, template, config.tokens, limit)
    tokenizer.model_max_length = sequences.max_length  # the saved copy cuts where training cut
    tokenizer.truncation_side = "left" if config.tokens.truncation == "tail" else "right"

    batching, layout = _resolve_batching(config, sequences, precision)
    effective = config.model_copy(
        update={
            "data": config.data.model_copy(update={"task": targets.kind}),
            "folds": config.folds if folds.kind == "given" else config.folds.model_copy(update={"kind": folds.kind}),
            "tokens": config.tokens.model_copy(update={"max_length": sequences.max_length}),
            "batching": config.batching.model_copy(update={"micro_batch": batching.micro_batch, "layout": layout}),
            "precision": precision.name,
            "evaluation": config.evaluation.model_copy(update={"metric": metric}),
            "device": str(precision.device),
        }
    )
    weights = np.ones(len(table)) if table.weights is None else table.weights
    return Prepared(
        config=effective,
        table=table,
        targets=targets,
        task=task,
        folds=folds,
        tokenizer=tokenizer,
        tokenizer_fingerprint=fingerprint,
        rows=Rows(sequences=sequences, targets=targets.values, weights=weights),
        batching=batching,
        metric=metric,
        precision=precision,
        load=load,
        notes=tuple(
            _notes(
                config,
                effective,
                targets=targets,
                folds=folds,
                batching=batching,
                sequences=sequences,
                encoder=encoder,
                precision=precision,
            )
        ),
    ), encoder


def _tokenize(table: Table, tokenizer: Any) -> Generator[Event, None, TokenizedTexts]:
    progress = tokenize(table.texts, tokenizer)
    while True:
        try:
            reached = next(progress)
        except StopIteration as end:
            tokenized: TokenizedTexts = end.value
            return tokenized
        yield Progress(stage="tokenize", done=reached.rows_done, total=reached.rows)


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
    model_folder = folder.fold(number) / "model"
    tally = Tally()
    for event in train_fold(encoder, rows, fold, task=task, precision=prepared.precision, clock=clock):
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
    if prepared.precision.name != "fp32":
        # What is saved are float32 weights, and what is reported are their predictions, not a 16-bit shadow of them.
        exact = make_precision("fp32", prepared.precision.device)
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
        ids=prepared.table.ids.take(fold.validation_rows),
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
    events = run(loaded, Path(output))
    if display:
        events = Display.over(events)
    *_, end = events
    assert isinstance(end, RunEnd)
    return Run(folder=Path(output), metrics=end.metrics)


def _resolve_metric(config: Config, kind: TaskKind) -> MetricName:
    if config.evaluation.metric == "auto":
        return default_metric(kind)
    names = metric_names(kind)
    if config.evaluation.metric not in names:
        raise SettingsError(
            f"evaluation.metric: {config.evaluation.metric} is not defined for {kind}, which has {', '.join(names)}"
        )
    return config.evaluation.metric


def _resolve_batching(config: Config, sequences: Sequences, precision: Precision) -> tuple[Batching, str]:
    settings = config.batching
    layout = "dynamic" if settings.layout == "auto" else settings.layout
    limit = settings.micro_batch
    return Batching(
        batch_size=settings.batch_size,
        micro_batch=TokensPerMicroBatch(tokens=AUTO_TOKENS[precision.device.type]) if limit == "auto" else limit,
        order=settings.order,
        fixed_length=int(sequences.lengths.max()) if layout == "fixed" else None,
    ), layout


def _notes(
    config: Config,
    effective: Config,
    *,
    targets: Targets,
    folds: Folds,
    batching: Batching,
    sequences: Sequences,
    encoder: Encoder,
    precision: Precision,
) -> Iterator[Note]:
    """Tell up front what was chosen and why, and what is cut."""
    rows = len(sequences.lengths)
    yield Note(about="data", text=f"{rows:,} rows of {config.data.path}")
    yield Note(about="task", text=targets.reason)
    yield Note(about="folds", text=f"{folds.count} folds ({folds.kind}), trained: {config.fold}")
    for text in folds.notes:
        yield Note(about="folds", text=text)
    origin = "the model's limit" if config.tokens.max_length == "auto" else "as set"
    yield Note(
        about="tokens",
        text=f"{sequences.truncated_rows:,} of {rows:,} rows are longer than {sequences.max_length} tokens ({origin}) "
        f"and lose {sequences.cut_share:.1%} of all tokens; kept: {config.tokens.truncation.replace('_', ' and ')}"
        if sequences.truncated_rows
        else f"nothing is cut: up to {sequences.max_length} tokens fit ({origin}), the longest row has "
        f"{int(sequences.lengths.max())}",
    )
    if encoder.new_weights:
        yield Note(about="model", text=f"new weights, drawn from the seed: {', '.join(encoder.new_weights)}")
    reason = "as set"
    if config.precision == "auto":
        reason = f"this device computes {', '.join(supported_precisions(precision.device))}"
    yield Note(about="precision", text=f"{precision.name} on {precision.device} ({reason})")
    yield Note(
        about="batching",
        text=f"steps of {config.batching.batch_size} rows, {effective.batching.order} order, "
        f"{effective.batching.layout} padding, micro-batches of up to {_describe_limit(batching.micro_batch)}",
    )


def _describe_limit(limit: MicroBatch) -> str:
    return f"{limit.rows} rows" if isinstance(limit, RowsPerMicroBatch) else f"{limit.tokens:,} tokens"


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
