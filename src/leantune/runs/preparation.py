"""Everything before training, from a file to rows and a loaded encoder: every stage is known, every `auto` resolved."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.batches.batch import Rows
from leantune.batches.plan import MicroBatch, RowsPerMicroBatch
from leantune.encoder.loading import load_encoder, model_path, resolve_dropout, train_rows_in_use
from leantune.encoder.memory import least_training_bytes
from leantune.encoder.model import Encoder
from leantune.inspection.findings import duplicates_across_folds, unknown_tokens, untrained_classes
from leantune.runs.config import Config
from leantune.system.device import available_bytes, count_gpus, counts_memory
from leantune.system.errors import DeviceError, ModelError, SettingsError, TableError
from leantune.system.formatting import duration
from leantune.tables.columns import resolve_targets
from leantune.tables.folds import FoldNumber, Folds, fold_rows
from leantune.tables.table import DataSettings, Table, reading_table
from leantune.tables.targets import Targets, TaskKind
from leantune.tokens.sequences import count_unknown, cut_alike, make_sequences
from leantune.tokens.tokens import load_tokenizer, tokenizer_fingerprint
from leantune.tokens.truncation import Sequences
from leantune.training.defaults import default_epochs, default_learning_rate, layer_parameters
from leantune.training.device_memory import measure_micro_batch
from leantune.training.events import Event, Note, Progress
from leantune.training.layout import Layout, choose_layout
from leantune.training.loop import Batching
from leantune.training.metrics import Metric, MetricName, default_metric, metric_names, name_of
from leantune.training.optim import ResolvedOptimizer
from leantune.training.precision import Precision, supported_precisions
from leantune.training.task import Task, make_task


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A few rows that are not cut, with their texts as the table has them: validation rows where a fold has any."""

    rows: NDArray[np.int64]
    """[n]: their numbers, ascending."""
    texts: tuple[list[str], ...]
    """[n] each; one list a text of a row."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that the folds of a run share."""

    config: Config
    """Effective settings: with what every `auto` came to."""
    ids: pa.Array
    """string [N]."""
    row_numbers: NDArray[np.int64]
    """[N]: each row's number in its file, from 0."""
    targets: Targets
    task: Task
    folds: Folds
    tokenizer: Any
    tokenizer_fingerprint: str
    rows: Rows
    texts: tuple[pa.Array, ...]
    """One large_string array [N] a text of a row: the table's own, for the yardsticks."""
    batching: Batching
    metric: MetricName | Metric
    precision: Precision
    optimizer: ResolvedOptimizer
    load: Callable[[], Encoder]
    """Loads the pretrained encoder anew, with the same head every time."""
    samples: Mapping[FoldNumber, Sample]
    """Rows of each trained fold on which its saved model is tried."""
    fold_numbers: list[FoldNumber]
    """The folds to train."""
    notes: tuple[Note, ...]
    """What was told on the way, for the record."""
    startup: Mapping[str, float]
    """Seconds of each part of the preparation: `table`, `model` (loading, and proving what it can), `tokens`, `layout`
    (measuring how many tokens fit into a micro-batch, where that is done)."""


class _Parts:
    """Where the time of the preparation goes: each part ends where the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def end(self, name: str) -> float:
        """End a part, add its seconds to those under its name, and return them."""
        now = time.perf_counter()
        took, self._began = now - self._began, now
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        return took


def prepare(
    config: Config, precision: Precision, own_metric: Metric | None = None
) -> Generator[Event, None, tuple[Prepared, Encoder]]:
    """Do everything before training, the quick checks first, and tell what is found as soon as it is; return what the
    folds share, and a loaded encoder.

    `own_metric` chooses the best evaluation, if there is one, whatever the settings say.
    """
    parts, notes = _Parts(), list[Note]()
    config = config.model_copy(update={"data": resolve_targets(config.data)})
    table = yield from _read(config.data)
    targets, folds = fold_rows(table, config.data, None if config.fold == "none" else config.folds)
    task = make_task(targets, config.loss)
    metric = own_metric or _resolve_metric(config, targets.kind)
    weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
    fold_numbers: list[FoldNumber] = [*folds.all_numbers()] if config.fold == "all" else [config.fold]
    for number in fold_numbers:
        if not weights[folds.training_rows(number)].any():  # raises, too, where there is no such fold
            raise TableError(
                f"{table.path}: all rows that train in fold {number} have the weight 0; nothing can be learned"
            )

    parts.end("table")
    notes += _notes_on_table(config, table, targets, folds)
    yield from notes

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
        packed=config.batching.layout in ("auto", "packed"),
    )
    encoder = load()
    if config.batching.layout == "packed" and encoder.pooling is None:
        raise SettingsError(
            f"batching.layout: packed is not possible with {encoder.model.config.model_type}, whose attention cannot "
            "be told where one text ends and the next begins; set it to auto or dynamic"
        )
    if config.batching.layout == "fixed" and not encoder.takes_padding:
        raise SettingsError(
            f"batching.layout: fixed is not possible with {encoder.model.config.model_type}: padding changes what it "
            "computes for a text; set it to auto or dynamic, with which only rows of equal length share a micro-batch"
        )
    loading = parts.end("model")
    notes.append(Note(about="model", text=f"{config.model.name}; {encoder.head_reason}; loaded in {duration(loading)}"))
    yield notes[-1]
    sequences = yield from _sequences(table, tokenizer, encoder, config)
    findings = _inspect(config, table, targets, folds, fold_numbers, tokenizer=tokenizer, sequences=sequences)
    cut_alike(tokenizer, sequences, config.tokens)

    used = np.union1d(sequences.used_ids(encoder.vocabulary_size), [encoder.pad_id])
    train_rows_in_use(encoder, used)

    def load_again() -> Encoder:
        again = load()
        train_rows_in_use(again, used)
        return again

    rows = Rows(sequences=sequences, targets=targets.values, weights=weights)
    parts.end("tokens")
    layout, micro_batch_reason = _resolve_layout(config, encoder, rows, task=task, precision=precision)
    parts.end("layout")
    batching = Batching(
        batch_size=config.batching.batch_size,
        micro_batch=layout.micro_batch,
        order=config.batching.order,
        padding=layout.padding,
    )
    optimizer = _resolve_optimizer(config, encoder, min(len(folds.training_rows(number)) for number in fold_numbers))
    if precision.device.type == "cpu":
        _refuse_what_cannot_fit(encoder, int(sequences.lengths.max()), precision, packed=layout.name == "packed")
    effective = config.model_copy(
        update={
            "data": config.data.model_copy(update={"task": targets.kind, "id": table.id_column}),
            "folds": config.folds
            if folds.kind in ("given", "none")
            else config.folds.model_copy(update={"kind": folds.kind}),
            "tokens": config.tokens.model_copy(
                update={"max_length": sequences.max_length, "stride": sequences.stride or "auto"}
            ),
            "batching": config.batching.model_copy(update={"micro_batch": batching.micro_batch, "layout": layout.name}),
            "model": config.model.model_copy(
                update={name: resolve_dropout(getattr(config.model, name)) for name in ("dropout", "attention_dropout")}
                | {"head": "new" if encoder.head_is_new else "keep"}
            ),
            "precision": precision.name,
            "optimizer": optimizer,
            "evaluation": config.evaluation.model_copy(update={"metric": name_of(metric)}),
            "device": str(precision.device),
        }
    )
    parts.end("tokens")
    chosen = _notes_on_choices(
        config,
        effective,
        targets=targets,
        batching=batching,
        micro_batch_reason=micro_batch_reason,
        sequences=sequences,
        encoder=encoder,
        precision=precision,
    )
    rest = [*chosen, *findings]
    yield from rest
    return Prepared(
        config=effective,
        ids=table.ids,
        row_numbers=table.row_numbers,
        targets=targets,
        task=task,
        folds=folds,
        tokenizer=tokenizer,
        tokenizer_fingerprint=fingerprint,
        rows=rows,
        texts=table.texts,
        batching=batching,
        metric=metric,
        precision=precision,
        optimizer=optimizer,
        load=load_again,
        samples={
            number: _sample(
                table, sequences, folds.training_rows(number) if number == "none" else folds.validation_rows(number)
            )
            for number in fold_numbers
        },
        fold_numbers=fold_numbers,
        notes=(*notes, *rest),
        startup=parts.seconds,
    ), encoder


def _sample(table: Table, sequences: Sequences, rows: NDArray[np.int64]) -> Sample:
    """Choose the shortest, the middle and the longest of the rows that are not cut."""
    uncut = np.flatnonzero(sequences.lengths[rows] == sequences.full_lengths[rows])
    by_length = uncut[np.argsort(sequences.lengths[rows[uncut]], kind="stable")]
    chosen = rows[np.unique(by_length[[0, len(uncut) // 2, -1]]) if len(uncut) else uncut]
    return Sample(rows=chosen, texts=tuple(column.take(chosen).to_pylist() for column in table.texts))


def _refuse_what_cannot_fit(encoder: Encoder, longest: int, precision: Precision, *, packed: bool) -> None:
    """Refuse training that would need more memory than there is: the system would kill the process.

    Of the activations those of the longest row, of `longest` tokens, are counted: micro-batches can be made no smaller.
    """
    needed = least_training_bytes(encoder, tokens=longest, packed=packed, dtype=precision.matrix_dtype)
    available = available_bytes()
    if needed > available:
        raise DeviceError(
            f"model.name: training {encoder.model.config.model_type} takes at least {needed / 2**30:.1f} GiB of memory "
            f"for gradients, optimizer and the longest row ({longest:,} tokens), and {available / 2**30:.1f} GiB are "
            "free; choose a smaller model, or shorten the rows with tokens.max_length"
        )


def _read(data: DataSettings) -> Generator[Event, None, Table]:
    steps = reading_table(data)
    while True:
        try:
            reached = next(steps)
        except StopIteration as end:
            table: Table = end.value
            return table
        if reached.share:
            yield Progress(stage="read", done=reached.rows, total=round(reached.rows / reached.share))


def _sequences(table: Table, tokenizer: Any, encoder: Encoder, config: Config) -> Generator[Event, None, Sequences]:
    progress = make_sequences(
        table.texts,
        tokenizer,
        config.tokens,
        vocabulary_size=encoder.vocabulary_size,
        position_limit=encoder.position_limit,
        describe_place=table.describe_place,
    )
    while True:
        try:
            reached = next(progress)
        except StopIteration as end:
            sequences: Sequences = end.value
            return sequences
        yield Progress(stage="tokenize", done=reached.rows_done, total=reached.rows)


def _inspect(
    config: Config,
    table: Table,
    targets: Targets,
    folds: Folds,
    numbers: list[FoldNumber],
    *,
    tokenizer: Any,
    sequences: Sequences,
) -> list[Note]:
    """Return warnings of what is known to go wrong; raises `ModelError` where training would be of no use."""
    unknown, tokens = count_unknown(tokenizer, sequences.tokenized)
    findings = [
        *unknown_tokens(table, unknown, tokens, model=config.model.name, allowed=config.tokens.unknown == "allow")
    ]
    if validating := [number for number in numbers if number != "none"]:
        findings += [
            *duplicates_across_folds(table, folds, validating),
            *untrained_classes(table, targets, folds, validating),
        ]
    for finding in findings:
        if finding.severity == "error":
            raise ModelError(f"{finding.about}: {finding.text} [{finding.code}]")
    return [Note(event="warning", about=finding.about, text=f"{finding.text} [{finding.code}]") for finding in findings]


def _resolve_metric(config: Config, kind: TaskKind) -> MetricName:
    if config.evaluation.metric == "auto":
        return default_metric(kind)
    names = metric_names(kind)
    if config.evaluation.metric not in names:
        raise SettingsError(
            f"evaluation.metric: {config.evaluation.metric} is not defined for {kind}, which has {', '.join(names)}"
        )
    return config.evaluation.metric


def _resolve_layout(
    config: Config, encoder: Encoder, rows: Rows, *, task: Task, precision: Precision
) -> tuple[Layout, str | None]:
    """Return the layout with nothing left to choose, and why its micro-batch is what it is, where that was measured."""
    layout = choose_layout(config.batching, encoder, precision.device, longest=int(rows.sequences.lengths.max()))
    if config.batching.micro_batch != "auto" or not counts_memory(precision.device):
        return layout, None
    measured = measure_micro_batch(
        encoder,
        rows,
        batch_size=config.batching.batch_size,
        padding=layout.padding,
        task=task,
        precision=precision,
    )
    return replace(layout, micro_batch=measured.micro_batch), measured.reason


def _resolve_optimizer(config: Config, encoder: Encoder, training_rows: int) -> ResolvedOptimizer:
    settings = config.optimizer
    steps_per_epoch = -(-training_rows // config.batching.batch_size)
    return ResolvedOptimizer(
        **settings.model_dump()
        | {
            "learning_rate": default_learning_rate(encoder.model)
            if settings.learning_rate == "auto"
            else settings.learning_rate,
            "epochs": default_epochs(steps_per_epoch, encoder.model.config.num_labels)
            if settings.epochs == "auto"
            else settings.epochs,
        }
    )


def _notes_on_table(config: Config, table: Table, targets: Targets, folds: Folds) -> Iterator[Note]:
    """Tell what the table is read as."""
    yield from (Note(about="data", text=text) for text in table.notes)
    yield Note(about="data", text=f"{len(table):,} rows of {' and '.join(map(str, config.data.files))}")
    yield Note(about="task", text=targets.reason)
    yield Note(about="folds", text=_describe_folds(config, folds))
    for text in folds.notes:
        yield Note(about="folds", text=text)


def _notes_on_choices(
    config: Config,
    effective: Config,
    *,
    targets: Targets,
    batching: Batching,
    micro_batch_reason: str | None,
    sequences: Sequences,
    encoder: Encoder,
    precision: Precision,
) -> Iterator[Note]:
    """Tell what was chosen and why, and what is cut."""
    yield Note(about="tokens", text=_describe_lengths(config, sequences))
    if targets.kind == "regression" and config.loss.standardize and encoder.output_layer is None:
        text = "its last layer cannot take the targets' scale: they are learned in the table's units"
        yield Note(about="loss", text=text)
    yield Note(about="optimizer", text=_describe_optimizer(config, effective, encoder))
    reason = "as set"
    if config.precision == "auto":
        reason = f"this device computes {', '.join(supported_precisions(precision.device))}"
    yield Note(about="precision", text=f"{precision.name} on {precision.device} ({reason})")
    if precision.device.type == "cuda" and (count := count_gpus()) > 1:
        text = (
            f"of {count} GPUs one is used, {precision.device}: a run trains on a single device. Other folds or seeds "
            "can train on the others at the same time, each a run with its own `device`"
        )
        yield Note(about="device", text=text)
    layouts = {"fixed": "fixed padding", "dynamic": "dynamic padding", "packed": "packed rows"}
    layout = layouts[effective.batching.layout]
    if config.batching.layout == "auto" and encoder.pooling is None:
        layout += f" ({encoder.model.config.model_type} cannot take packed rows)"
    if batching.padding == "equal":
        layout = (
            f"rows of equal length in a micro-batch (padding changes what {encoder.model.config.model_type} computes)"
        )
    limit = _describe_limit(batching.micro_batch)
    if micro_batch_reason is not None:
        limit += f" ({micro_batch_reason})"
    yield Note(
        about="batching",
        text=f"steps of {config.batching.batch_size} rows, {effective.batching.order} order, {layout}, micro-batches "
        f"of up to {limit}",
    )


def _describe_lengths(config: Config, sequences: Sequences) -> str:
    """Say how many rows are too long, and what is read of them."""
    rows, limit = len(sequences.lengths), sequences.max_length
    origin = "the model's limit" if config.tokens.max_length == "auto" else "as set"
    if sequences.windowed_rows:
        return (
            f"nothing is cut: {sequences.windowed_rows:,} of {rows:,} rows are longer than {limit} tokens ({origin}) "
            f"and are read in up to {sequences.windows.max():,} windows, one every {sequences.stride:,} tokens; an "
            f"epoch reads {config.tokens.training_windows} of a row's windows, and its prediction is the "
            f"{config.tokens.window_pooling} of all"
        )
    if sequences.truncated_rows:
        return (
            f"{sequences.truncated_rows:,} of {rows:,} rows are longer than {limit} tokens ({origin}) and lose "
            f"{sequences.cut_share:.1%} of all tokens; kept: {config.tokens.truncation.replace('_', ' and ')}"
        )
    return f"nothing is cut: up to {limit} tokens fit ({origin}), the longest row has {int(sequences.lengths.max())}"


def _describe_optimizer(config: Config, effective: Config, encoder: Encoder) -> str:
    """Say how fast, how long and with which dropout training learns, and what of it `auto` has chosen, and why."""
    chosen = effective.optimizer
    millions = layer_parameters(encoder.model) / 1e6
    rate, epochs = f"learning rate {chosen.learning_rate:g}", f"{chosen.epochs} epoch{'s' * (chosen.epochs != 1)}"
    if config.optimizer.learning_rate == "auto":
        rate += f" (auto: {millions:,.0f} million parameters outside the embeddings)"
    if config.optimizer.epochs == "auto":
        epochs += " (auto)"
    if chosen.max_steps is not None:
        epochs += f", at most {chosen.max_steps:,} steps"
    drops: dict[Any, str] = {None: "the model's own dropout", 0.0: "no dropout"}
    return f"{rate}, {epochs}, {drops.get(effective.model.dropout, f'dropout {effective.model.dropout}')}"


def _describe_folds(config: Config, folds: Folds) -> str:
    if folds.kind == "none":
        return "all rows train, none validate"
    if not folds.holdout:
        trained = (
            "each validates one model" if config.fold == "all" else f"fold {config.fold} validates, the others train"
        )
        return f"{folds.count} folds ({folds.kind}); {trained}"
    where = f"column {config.data.fold!r} says so" if config.data.validation is None else str(config.data.validation)
    counts = [len(rows(0)) for rows in (folds.training_rows, folds.validation_rows)]
    return f"no folds are made: {counts[0]:,} rows train, {counts[1]:,} validate ({where})"


def _describe_limit(limit: MicroBatch) -> str:
    return f"{limit.rows} rows" if isinstance(limit, RowsPerMicroBatch) else f"{limit.tokens:,} tokens"
