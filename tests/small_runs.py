"""What the tests of training share: rows and tiny encoders ready to train, and small tables to run on."""

import csv
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from leantune.batches.batch import Rows
from leantune.encoder.loading import load_encoder
from leantune.encoder.model import Encoder, ModelSettings
from leantune.runs.config import Config, parse_config
from leantune.runs.run import run
from leantune.tables.targets import TaskKind
from leantune.tokens.tokens import load_tokenizer, tokenize
from leantune.tokens.truncation import TokenSettings, discover_template, truncate
from leantune.training.optim import ResolvedOptimizer
from leantune.training.precision import Precision
from leantune.training.task import Task
from tiny_encoders import make_texts

CPU = torch.device("cpu")
FP32 = Precision(name="fp32", device=CPU)
LABELS = {
    "regression": ("score",),
    "binary": ("no", "yes"),
    "multiclass": ("bad", "fair", "good"),
    "multilabel": ("joy", "fear", "love"),
    "soft": ("calm", "tense", "glad"),
}


def finish(generator: Generator[Any, None, Any]) -> Any:
    """Run a generator to its end; what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def make_task_of(kind: TaskKind) -> Task:
    return Task(kind=kind, labels=LABELS[kind])


def optimizer_settings(**settings: Any) -> ResolvedOptimizer:
    """Settings with nothing left to choose."""
    return ResolvedOptimizer(**({"learning_rate": 2e-5, "epochs": 3} | settings))


def random_targets(kind: TaskKind, count: int, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    width = len(LABELS[kind])
    if kind == "regression":
        return draw.normal(loc=2.0, size=(count, 1))  # off zero: gradients that cancel out are all rounding
    if kind == "multilabel":
        return draw.integers(0, 2, size=(count, width)).astype(np.float64)
    if kind == "soft":
        return draw.dirichlet(np.ones(width), size=count)
    return np.arange(count) % width


def make_rows(
    folder: Path,
    kind: TaskKind = "regression",
    *,
    texts: list[str],
    pair: bool = False,
    tokens: TokenSettings | None = None,
) -> Rows:
    """Rows of `texts` (their second texts the same, reversed) with random targets and weights from 0.5 to 2."""
    tokenizer = load_tokenizer(str(folder))
    columns = (pa.array(texts), pa.array(texts[::-1]))[: 1 + pair]
    return Rows(
        sequences=truncate(
            finish(tokenize(columns, tokenizer)),
            discover_template(tokenizer, pair),
            tokens or TokenSettings(max_length=96),
            128,
        ),
        targets=random_targets(kind, len(texts)),
        weights=np.random.default_rng(1).uniform(0.5, 2.0, len(texts)),
    )


def load_tiny(
    folder: Path, kind: TaskKind = "regression", *, dropout: float | None = 0.0, packed: bool = False
) -> Encoder:
    settings = ModelSettings(name=str(folder), dropout=dropout, attention_dropout=dropout)
    task = make_task_of(kind)
    return load_encoder(settings, labels=task.labels, problem_type=task.problem_type, device=CPU, seed=0, packed=packed)


def write_table(
    path: Path, *, rows: int = 60, kind: TaskKind = "regression", texts: Iterable[str] | None = None, seed: int = 0
) -> Path:
    """A CSV file with the columns name, text, other, and one target, or three for multilabel and soft."""
    texts = list(texts or make_texts(rows, most_words=20, seed=seed))
    values = random_targets(kind, len(texts), seed)
    if kind in ("binary", "multiclass"):
        columns, cells = ["label"], [[LABELS[kind][value]] for value in values]
    else:
        columns = list(LABELS[kind])
        form = {"regression": ".3f", "multilabel": ".0f", "soft": ".5f"}[kind]
        cells = [[f"{value:{form}}" for value in row] for row in values]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "text", "other", *columns])
        for i, (text, cell) in enumerate(zip(texts, cells, strict=True)):
            writer.writerow([f"{i:04d}", text, texts[-1 - i], *cell])
    return path


def tiny_config(path: Path, encoder: Path, /, **settings: Any) -> Config:
    """Settings of a run of seconds; `settings` are dotted names with __ for dots."""
    nested: dict[str, Any] = {
        "data": {"path": str(path), "text": "text", "target": "score", "id": "name"},
        "model": {"name": str(encoder), "dropout": None, "attention_dropout": None},  # which draws random numbers
        "optimizer": {"epochs": 2, "learning_rate": 1e-3},
        "batching": {"batch_size": 8},
        "precision": "fp32",
        "device": "cpu",
    }
    for name, value in settings.items():
        *parents, last = name.split("__")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return parse_config(nested)


def run_all(config: Config, output: Path) -> list[Any]:
    """Every event of a run."""
    return list(run(config, output))
