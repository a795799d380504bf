"""What any model must beat: the constant answer, and a linear model on n-grams, scored on the same validation rows.

    texts, targets, weights of the training rows  ->  predictions [n, outputs] for the validation rows, twice

1. The targets become a matrix [rows, outputs]: numbers, labels, or one column a class.
2. The constant answer is its weighted mean over the training rows.
3. The linear model learns from n-grams of words and characters (`linear_model`).
4. Both depend on nothing else than those rows, so they are remembered in the cache folder for other runs on them.
"""

import hashlib
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from leantune.tables.targets import TaskKind
from leantune.tokens.cache import make_room, mark_used, yardstick_folder
from leantune.training.metrics import Metric, MetricName
from leantune.training.scoring import compute_metrics

Floats = NDArray[np.float64]

METHOD = 1
"""Of the linear model, to be raised with every change of what it predicts: predictions that were remembered under
another number are not used."""
CACHE_BYTES = 10**8
ROWS_A_CHUNK = 4_096
"""Rows whose texts are read at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Yardsticks:
    """What the constant answer and the linear model predict for some validation rows."""

    constant: Floats
    """[n, outputs]: values, or probabilities."""
    linear: Floats | None
    """[n, outputs]; None where there is no linear model."""
    reason: str
    """Why there is no linear model; "" where there is one."""
    training_rows: int
    """Rows that the linear model learned from."""
    seconds: float
    """What both took to compute, in this run or in the one that remembered them."""

    def scores(
        self, kind: TaskKind, truth: NDArray[np.generic], metric: MetricName | Metric | None = None
    ) -> dict[str, Any]:
        """Return the metrics of both as `metrics.json` has them; `truth` are the targets of the validation rows.

        `metric` as in `compute_metrics`.
        """
        return {
            "constant": compute_metrics(kind, truth, self.constant, metric),
            "linear": None if self.linear is None else compute_metrics(kind, truth, self.linear, metric),
            "reason": self.reason,
            "training_rows": self.training_rows,
            "seconds": self.seconds,
        }


def join(parts: list[Yardsticks]) -> Yardsticks:
    """Return the yardsticks of several folds as one, whose rows are those of the folds, one after the other."""
    linear = [part.linear for part in parts if part.linear is not None]
    return Yardsticks(
        constant=np.concatenate([part.constant for part in parts]),
        linear=np.concatenate(linear) if len(linear) == len(parts) else None,
        reason=next((part.reason for part in parts if part.reason), ""),
        training_rows=sum(part.training_rows for part in parts),
        seconds=sum(part.seconds for part in parts),
    )


def measure_yardsticks(
    kind: TaskKind,
    *,
    texts: tuple[pa.Array, ...],
    targets: NDArray[np.generic],
    weights: Floats,
    training_rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
    outputs: int,
    cache_dir: Path | None = None,
) -> Yardsticks:
    """Predict the validation rows from the training rows, by the constant answer and by a linear model.

    `texts`: one array [N] a text of a row; `targets` [N, K], or [N] classes; `weights` [N], 0 or more. Remembered below
    `cache_dir` (None is the user's cache); a cache that cannot be read or written is no error.
    """
    matrix = _matrix(targets, outputs)
    constant = _average(matrix[training_rows], weights[training_rows])
    constants = np.tile(constant, (len(validation_rows), 1))
    rows_of = {"training_rows": training_rows, "validation_rows": validation_rows}
    key = _key(kind, texts, matrix=matrix, weights=weights, **rows_of)
    path = yardstick_folder(cache_dir) / f"{key}.arrow"
    remembered = _recall(path, constants)
    if remembered is not None:
        return remembered
    from leantune.training import linear_model  # noqa: PLC0415 - scikit-learn takes a second

    began = time.perf_counter()
    rows = linear_model.chosen_rows(texts, weights, training_rows, outputs)
    linear: Floats | None = None
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # what does not converge is a yardstick all the same
        warnings.simplefilter("ignore")
        try:
            relative = weights / weights[rows].mean()
            linear = linear_model.predict(
                kind, texts, matrix=matrix, weights=relative, rows=rows, validation_rows=validation_rows
            )
            reason = ""
        except linear_model.CannotLearnError as error:
            reason = str(error)
    made = Yardsticks(
        constant=constants,
        linear=linear,
        reason=reason,
        training_rows=0 if linear is None else len(rows),
        seconds=time.perf_counter() - began,
    )
    with suppress(OSError):
        _remember(path, made)
    return made


def _average(matrix: Floats, weights: Floats) -> Floats:
    """Return the mean of each column over the rows that have a value [outputs]; 0.5 for a label that none has."""
    known = ~np.isnan(matrix)
    if known.all():
        return np.asarray(np.average(matrix, axis=0, weights=weights))
    total = known.T.astype(np.float64) @ weights
    means: Floats = np.divide(np.nan_to_num(matrix).T @ weights, total, out=np.full(len(total), 0.5), where=total > 0)
    return means


def _matrix(targets: NDArray[np.generic], outputs: int) -> Floats:
    """Return the targets as [N, outputs]: one column a class, 1 for the row's own."""
    if targets.ndim == 2:
        return targets.astype(np.float64)
    own: Floats = np.eye(outputs)[targets.astype(np.int64)]
    return own


# The cache


def _key(
    kind: TaskKind,
    texts: tuple[pa.Array, ...],
    *,
    matrix: Floats,
    weights: Floats,
    training_rows: NDArray[np.int64],
    validation_rows: NDArray[np.int64],
) -> str:
    """Return a digest of everything that the predictions depend on."""
    digest = hashlib.sha256()
    versions = f"{version('scikit-learn')} {version('scipy')} {version('numpy')}"
    head = (METHOD, versions, kind, matrix.shape[1], len(texts), len(training_rows), len(validation_rows))
    digest.update(repr(head).encode())
    digest.update(matrix[training_rows].tobytes())
    digest.update(weights[training_rows].tobytes())
    for rows in (training_rows, validation_rows):
        for part in _texts_of(texts, rows):
            digest.update(part)
    return digest.hexdigest()


def _texts_of(texts: tuple[pa.Array, ...], rows: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield lengths and bytes of the texts of some rows, few at a time."""
    for column in texts:
        for start in range(0, len(rows), ROWS_A_CHUNK):
            chunk = column.take(pa.array(rows[start : start + ROWS_A_CHUNK]))
            yield pc.binary_length(chunk).to_numpy().astype(np.int64).tobytes()
            yield "".join(chunk.to_pylist()).encode("utf-8", errors="surrogatepass")


def _remember(path: Path, made: Yardsticks) -> None:
    """Write what was computed, at once, and remove what was used least recently where all takes too much room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    linear = [] if made.linear is None else list(made.linear.astype(np.float32).T)
    told = {"reason": made.reason, "training_rows": str(made.training_rows), "seconds": repr(made.seconds)}
    columns = {str(number): pa.array(column) for number, column in enumerate(linear)}
    table = pa.table(columns).replace_schema_metadata(told)
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    make_room(path.parent, CACHE_BYTES, in_use=path)


def _recall(path: Path, constants: Floats) -> Yardsticks | None:
    """Return what was computed before; None where there is nothing, or a file that is damaged."""
    try:
        with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
        told = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        columns = [column.to_numpy() for column in table.columns]
        linear = np.stack(columns, axis=1).astype(np.float64) if columns else None
        found = Yardsticks(
            constant=constants,
            linear=linear,
            reason=told["reason"],
            training_rows=int(told["training_rows"]),
            seconds=float(told["seconds"]),
        )
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    if found.linear is not None and (found.linear.shape != constants.shape or not np.isfinite(found.linear).all()):
        return None
    if (found.linear is None) == (not found.reason):
        return None
    mark_used(path)
    return found
