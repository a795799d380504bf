"""Everything before training, from a file to rows and a loaded encoder: every stage is known, every `auto` resolved."""

import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leantune.batches.batch import Rows
from leantune.batches.plan import MicroBatch, Padding, RowsPerMicroBatch, TokensPerMicroBatch
from leantune.encoder.embedding import train_rows_in_use
from leantune.encoder.model import Encoder, load_encoder, model_path
from leantune.runs.config import Config
from leantune.system.device import available_bytes
from leantune.system.errors import DeviceError, SettingsError, TableError
from leantune.tables.folds import Folds, fold_table
from leantune.tables.table import Table
from leantune.tables.targets import Targets, TaskKind
from leantune.tokens.tokens import TokenizedTexts, check_tokenizer, load_tokenizer, tokenize, tokenizer_fingerprint
from leantune.tokens.truncation import Sequences, discover_template, truncate
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


def prepare(config: Config, precision: Precision) -> Generator[Event, None, tuple[Prepared, Encoder]]:
    """Do everything before training, the quick checks first; return what the folds share, and a loaded encoder."""
    table, targets, folds = fold_table(config.data, config.folds)
    task = make_task(targets)
    metric = _resolve_metric(config, targets.kind)
    weights = np.ones(len(table)) if table.weights is None else table.weights / table.weights.mean()
    for number in range(folds.count) if config.fold == "all" else [config.fold]:
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
    check_tokenizer(tokenizer, encoder.vocabulary_size)
    tokenized = yield from _tokenize(table, tokenizer)
    template = discover_template(tokenizer, pair=len(table.texts) == 2)
    limit = encoder.position_limit or min(tokenizer.model_max_length, sys.maxsize)
    sequences = truncate(tokenized, template, config.tokens, limit)
    if not sequences.lengths.all():
        row = int(sequences.lengths.argmin()) + 1
        raise TableError(
            f"{table.path}, row {row}: found an empty text, expected at least one token, since this model's tokenizer "
            "adds no special tokens; remove the row"
        )
    tokenizer.model_max_length = sequences.max_length  # the saved copy cuts where training cut
    tokenizer.truncation_side = "left" if config.tokens.truncation == "tail" else "right"
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side  # or else `save_pretrained` forgets it

    used = np.union1d(sequences.used_ids(encoder.vocabulary_size), [encoder.pad_id])
    train_rows_in_use(encoder.model, used)
    if precision.device.type == "cpu":
        _refuse_what_cannot_fit(encoder)

    def load_again() -> Encoder:
        again = load()
        train_rows_in_use(again.model, used)
        return again

    batching, layout = _resolve_batching(config, sequences, precision, packs=encoder.pooling is not None)
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
        batching=batching,
        metric=metric,
        precision=precision,
        load=load_again,
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


def _refuse_what_cannot_fit(encoder: Encoder) -> None:
    """Refuse a model that training would need more memory for than there is: the system would kill the process.

    A lower bound: a gradient and two moments for every weight. Activations come on top, but a lack of memory for these
    can be met with smaller micro-batches.
    """
    needed = sum(3 * p.numel() * p.element_size() for p in encoder.model.parameters() if p.requires_grad)
    available = available_bytes()
    if needed > available:
        raise DeviceError(
            f"model.name: training {encoder.model.config.model_type} takes at least {needed / 2**30:.1f} GiB of memory "
            f"for gradients and optimizer, and {available / 2**30:.1f} GiB are free; choose a smaller model"
        )


def _tokenize(table: Table, tokenizer: Any) -> Generator[Event, None, TokenizedTexts]:
    progress = tokenize(table.texts, tokenizer)
    while True:
        try:
            reached = next(progress)
        except StopIteration as end:
            tokenized: TokenizedTexts = end.value
            return tokenized
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
    config: Config, sequences: Sequences, precision: Precision, *, packs: bool
) -> tuple[Batching, str]:
    settings = config.batching
    layout = ("packed" if packs else "dynamic") if settings.layout == "auto" else settings.layout
    paddings: dict[str, Padding] = {"fixed": int(sequences.lengths.max()), "dynamic": "longest", "packed": "none"}
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
    yield Note(
        about="batching",
        text=f"steps of {config.batching.batch_size} rows, {effective.batching.order} order, {layout}, micro-batches "
        f"of up to {_describe_limit(batching.micro_batch)}",
    )


def _describe_limit(limit: MicroBatch) -> str:
    return f"{limit.rows} rows" if isinstance(limit, RowsPerMicroBatch) else f"{limit.tokens:,} tokens"
