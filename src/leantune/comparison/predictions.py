"""What a run predicted for the rows that validated it, read back without torch."""

import json
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leantune.comparison.results import RunResult
from leantune.tables.targets import TaskKind


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """One fold's n validation rows."""

    kind: TaskKind
    labels: tuple[str, ...]
    """Names of the outputs or classes, in their order."""
    rows: NDArray[np.int64]
    """[n]: their numbers in the table."""
    ids: tuple[str, ...]
    targets: NDArray[Any]
    """As `compute_metrics` takes them: [n, K], or [n] classes by their place in the labels."""
    values: NDArray[np.float64]
    """[n, K]: numbers or probabilities."""


def read_predictions(run: RunResult) -> Predictions | None:
    """Read the predictions of a run; None where they are not as this version writes them."""
    try:
        file = run.folder / f"fold_{run.fold}" / "predictions.parquet"
        with file.open("rb") as stream, pq.ParquetFile(stream) as parquet:
            table = parquet.read(columns=["row", "id", "target", "prediction"])
            labels = tuple(json.loads((parquet.schema_arrow.metadata or {}).get(b"labels", b"[]")))
        kind = next(kind for kind in get_args(TaskKind) if kind == run.task)
        values = _matrix(table["prediction"])
        if kind in ("binary", "multiclass"):
            places = {label: place for place, label in enumerate(labels)}
            classes = [places[str(target)] for target in table["target"].to_pylist()]
            targets: NDArray[Any] = np.array(classes, dtype=np.int64)
            if values.shape[1] != len(labels):
                return None
        else:
            targets = _matrix(table["target"])
            if values.shape != targets.shape:
                return None
        rows = table["row"].to_numpy().astype(np.int64)
        ids = tuple(map(str, table["id"].to_pylist()))
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, StopIteration):
        return None
    return Predictions(kind=kind, labels=labels, rows=rows, ids=ids, targets=targets, values=values)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of numbers, or of lists of as many numbers, as [n, K]; what is missing is NaN."""
    joined = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):  # without a chunk
        joined = pa.concat_arrays(joined.chunks) if joined.num_chunks else pa.array([], column.type)
    is_list = pa.types.is_list(joined.type) or pa.types.is_large_list(joined.type)
    flat = joined.flatten() if is_list else joined
    values: NDArray[np.float64] = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    return values.reshape(len(joined), -1) if len(joined) else values.reshape(0, 1)
