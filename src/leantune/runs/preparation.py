"""Everything before training, from a file to rows and a loaded encoder: every stage is known, every `auto` resolved."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.batches.batch import Rows
from leantune.batches.plan import MicroBatch, Padding, RowsPerMicroBatch, TokensPerMicroBatch
from leantune.encoder.loading import load_encoder, model_path, train_rows_in_use
from leantune.encoder.memory import least_training_bytes
from leantune.encoder.model import Encoder
from leantune.runs.config import Config
from leantune.system.device import available_bytes
from leantune.system.errors import DeviceError, SettingsError, TableError
from leantune.tables.folds import Folds, fold_table
from leantune.tables.table import Table
from leantune.tables.targets import Targets, TaskKind
from leantune.tokens.sequences import cut_alike, make_sequences
from leantune.tokens.tokens import load_tokenizer, tokenizer_fingerprint
from leantune.tokens.truncation import Sequences
from leantune.training.events import Event, Note, Progress
from leantune.training.loop import Batching
from leantune.training.metrics import MetricName, default_metric, metric_names
from leantune.training.precision import Precision, supported_precisions
from leantune.training.task import Task, make_task

# Positions that are computed at once where micro_batch is auto. On a CPU few of them stay in the cache, and where rows
# are padded fewer pad less (benchmarks/micro_batch.py, docs/design/0002-micro-batches.md); a GPU wants all that fits.
AUTO_TOKENS = {
    "packed": {"cpu": 2048, "mps": 8192, "cuda": 16384},
    "padded": {"cpu": 1024, "mps": 8192, "cuda": 16384},
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A few validation rows that are not cut, with their texts as the table has them."""

    places: NDArray[np.intp]
    """[n]: where they stand among the fold's validation rows."""
    texts: tuple[list[str], ...]
    """[n] each; one list a text of a row."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that the folds of a run share."""

    config: Config
    """Effective settings: with what every `auto` came to."""
    data: Path
    ids: pa.Array
    """string [N]."""
    targets: Targets
    task: Task
    folds: Folds
    tokenizer: Any
    tokenizer_fingerprint: str
    rows: Rows
    texts: tuple[pa.Array, ...]
    """One large_string array [N] a text of a row: the table's own, for the yardsticks."""
    batching: Batching
    metric: MetricName
    precision: Precision
    load: Callable[[], Encoder]
    """Loads the pretrained encoder anew, with the same head every time."""
    samples: Mapping[int, Sample]
    """Rows of each trained fold on which its saved model is tried."""
    fold_numbers: list[int]
    """The folds to train."""
    notes: tuple[Note, ...]


def prepare(config: Config, precision: Precision) -> Generator[Event, None, tuple[Prepared, Encoder]]:
    """Do everything before training, the quick checks first; return what the folds share, and a loaded encoder."""
    table, targets, folds = fold_table(config.data, config.folds)
    task = make_task(targets)
    metric = _resolve_metric(config, targets.kind)
    weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
    fold_numbers = list(range(folds.count)) if config.fold == "all" else [config.fold]
    for number in fold_numbers:
        if not weights[folds.training_rows(number)].any():  # raises, too, where there is no such fold
            raise TableError(
                f"{table.path}: all rows that train in fold {number} have the weight 0; nothing can be learned"
            )

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
    sequences = yield from _sequences(table, tokenizer, encoder, config)
    cut_alike(tokenizer, sequences, config.tokens)

    used = np.union1d(sequences.used_ids(encoder.vocabulary_size), [encoder.pad_id])
    train_rows_in_use(encoder, used)

    def load_again() -> Encoder:
        again = load()
        train_rows_in_use(again, used)
        return again

    batching, layout = _resolve_batching(config, sequences, precision, encoder)
    if precision.device.type == "cpu":
        _refuse_what_cannot_fit(encoder, int(sequences.lengths.max()), precision, packed=layout == "packed")
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
    return Prepared(
        config=effective,
        data=table.path,
        ids=table.ids,
        targets=targets,
        task=task,
        folds=folds,
        tokenizer=tokenizer,
        tokenizer_fingerprint=fingerprint,
        rows=Rows(sequences=sequences, targets=targets.values, weights=weights),
        texts=table.texts,
        batching=batching,
        metric=metric,
        precision=precision,
        load=load_again,
        samples={number: _sample(table, sequences, folds.validation_rows(number)) for number in fold_numbers},
        fold_numbers=fold_numbers,
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


def _sample(table: Table, sequences: Sequences, rows: NDArray[np.int64]) -> Sample:
    """Choose the shortest, the middle and the longest of the rows that are not cut."""
    uncut = np.flatnonzero(sequences.lengths[rows] == sequences.full_lengths[rows])
    by_length = uncut[np.argsort(sequences.lengths[rows[uncut]], kind="stable")]
    places = np.unique(by_length[[0, len(uncut) // 2, -1]]) if len(uncut) else uncut
    return Sample(places=places, texts=tuple(column.take(rows[places]).to_pylist() for column in table.texts))


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


def _sequences(table: Table, tokenizer: Any, encoder: Encoder, config: Config) -> Generator[Event, None, Sequences]:
    progress = make_sequences(
        table.texts,
        tokenizer,
        config.tokens,
        vocabulary_size=encoder.vocabulary_size,
        position_limit=encoder.position_limit,
        source=table.path,
    )
    while True:
        try:
            reached = next(progress)
        except StopIteration as end:
            sequences: Sequences = end.value
            return sequences
        yield Progress(stage="tokenize", done=reached.rows_done, total=reached.rows)


def _resolve_metric(config: Config, kind: TaskKind) -> MetricName:
    if config.evaluation.metric == "auto":
        return default_metric(kind)
    names = metric_names(kind)
    if config.evaluation.metric not in names:
        raise SettingsError(
            f"evaluation.metric: {config.evaluation.metric} is not defined for {kind}, which has {', '.join(names)}"
        )
    return config.evaluation.metric


def _resolve_batching(
    config: Config, sequences: Sequences, precision: Precision, encoder: Encoder
) -> tuple[Batching, str]:
    settings = config.batching
    layout: str = settings.layout
    if layout == "auto":
        layout = "packed" if encoder.pooling is not None else "dynamic"
    paddings: dict[str, Padding] = {
        "fixed": int(sequences.lengths.max()),
        "dynamic": "longest" if encoder.takes_padding else "equal",
        "packed": "none",
    }
    limit = settings.micro_batch
    if limit == "auto":
        by_device = AUTO_TOKENS["packed" if layout == "packed" else "padded"]
        limit = TokensPerMicroBatch(tokens=by_device[precision.device.type])
    return Batching(
        batch_size=settings.batch_size,
        micro_batch=limit,
        order=settings.order,
        padding=paddings[layout],
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
    new = f"new weights, drawn from the seed: {', '.join(encoder.new_weights)}"
    yield Note(about="model", text=new if encoder.new_weights else "the checkpoint's own head is trained on")
    reason = "as set"
    if config.precision == "auto":
        reason = f"this device computes {', '.join(supported_precisions(precision.device))}"
    yield Note(about="precision", text=f"{precision.name} on {precision.device} ({reason})")
    layouts = {"fixed": "fixed padding", "dynamic": "dynamic padding", "packed": "packed rows"}
    layout = layouts[effective.batching.layout]
    if config.batching.layout == "auto" and encoder.pooling is None:
        layout += f" ({encoder.model.config.model_type} cannot take packed rows)"
    if batching.padding == "equal":
        layout = (
            f"rows of equal length in a micro-batch (padding changes what {encoder.model.config.model_type} computes)"
        )
    yield Note(
        about="batching",
        text=f"steps of {config.batching.batch_size} rows, {effective.batching.order} order, {layout}, micro-batches "
        f"of up to {_describe_limit(batching.micro_batch)}",
    )


def _describe_limit(limit: MicroBatch) -> str:
    return f"{limit.rows} rows" if isinstance(limit, RowsPerMicroBatch) else f"{limit.tokens:,} tokens"
