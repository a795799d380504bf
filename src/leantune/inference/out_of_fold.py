"""The predictions of runs for their validation rows, read back: what weights and thresholds are fitted on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leantune.inference.trained_run import TrainedRun
from leantune.system.errors import RunFolderError
from leantune.system.files import unreadable
from leantune.tables.readers import listed


@dataclass(frozen=True, kw_only=True, eq=False)
class OutOfFold:
    """What a run predicted for the n rows that validated it, each by the model that did not train on it."""

    rows: NDArray[np.int64]
    """[n]: their places in the table, growing."""
    ids: tuple[str, ...]
    targets: NDArray[np.float64] | NDArray[np.int64]
    """As in `compute_metrics`: [n, K], or [n] classes by their place in the labels."""
    predictions: NDArray[np.float64]
    """[n, K] values or probabilities."""
    folds: NDArray[np.int64]
    """[n]: the fold in which each row validated."""


def read_out_of_fold(run: TrainedRun, labels: Sequence[str] | None = None) -> OutOfFold:
    """Read the predictions of all folds of a run, its outputs in the order of `labels` (its own, if nothing is said).

    Raises `RunFolderError` where no rows validated the run, and where a file is missing or is not what a run wrote.
    """
    wanted = tuple(run.task.labels if labels is None else labels)
    numbered = [(int(fold.number), fold.predictions) for fold in run.folds if fold.number != "none"]
    if not numbered:
        raise RunFolderError(
            f"{run.folder}: all rows trained (--fold none), expected rows that validated: weights and thresholds are "
            "fitted on them; train with --fold all"
        )
    parts = [_read(path, run.task.kind in {"binary", "multiclass"}, wanted) for _, path in numbered]
    rows, ids, targets, predictions = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    folds = np.repeat([number for number, _ in numbered], [len(part[0]) for part in parts])
    order = np.argsort(rows, kind="stable")
    return OutOfFold(
        rows=rows[order],
        ids=tuple(ids[order].tolist()),
        targets=targets[order],
        predictions=predictions[order],
        folds=folds[order],
    )


def read_same_rows(runs: Sequence[TrainedRun]) -> list[OutOfFold]:
    """Read the predictions of several runs for the same rows, all in the first run's order of outputs.

    Raises `RunFolderError`, naming both runs, where they were not validated on the same rows with the same targets.
    """
    first, *others = runs
    found = [read_out_of_fold(first)]
    for other in others:
        read = read_out_of_fold(other, first.task.labels)
        _refuse_other_rows(first, found[0], other, read)
        found.append(read)
    return found


def _refuse_other_rows(first: TrainedRun, one: OutOfFold, other: TrainedRun, two: OutOfFold) -> None:
    advice = "fitted weights need the same validation rows: train both with the same table, folds and --fold"
    rows = dict(zip(one.rows.tolist(), one.ids, strict=True)), dict(zip(two.rows.tolist(), two.ids, strict=True))
    if rows[0] != rows[1]:
        only = sorted(rows[1].items() - rows[0].items()) or sorted(rows[0].items() - rows[1].items())
        owner = other if rows[1].items() - rows[0].items() else first
        row, name = only[0]
        raise RunFolderError(
            f"{other.folder}: was validated on {len(two.rows):,} rows, and {first.folder} on {len(one.rows):,}, which "
            f"are not the same: only {owner.folder} has row {row + 1} (id {name!r:.60}); {advice}"
        )
    different = np.flatnonzero((one.targets != two.targets).reshape(len(one.rows), -1).any(axis=1))
    if len(different):
        raise RunFolderError(
            f"{other.folder}: {len(different):,} of its validation rows have another target than in {first.folder} "
            f"(the first: row {one.rows[different[0]] + 1}, id {one.ids[different[0]]!r:.60}); {advice}"
        )


def _read(path: Path, is_classes: bool, labels: tuple[str, ...]) -> tuple[NDArray[np.generic], ...]:
    """Return rows [n], ids [n], targets and predictions of one fold."""
    try:
        file = pq.ParquetFile(path)  # read_table would take a folder `a=b` above for a column
        table = file.read(columns=["row", "id", "target", "prediction"])
        names = json.loads((file.schema_arrow.metadata or {})[b"labels"])
        order = [names.index(label) for label in labels]
        predictions = _matrix(table["prediction"])[:, order]
        if is_classes:
            place = {label: number for number, label in enumerate(labels)}
            targets: NDArray[np.generic] = np.array([place[name] for name in table["target"].to_pylist()], np.int64)
        else:
            targets = _matrix(table["target"])[:, order]
    except OSError as error:
        raise unreadable(path, error) from None
    except (pa.ArrowException, ValueError, KeyError, TypeError, IndexError):
        raise RunFolderError(
            f"{path}: found no predictions for {listed(labels, 6)}, expected the file as the run wrote it; train it "
            "again"
        ) from None
    return (
        table["row"].to_numpy().astype(np.int64),
        np.array(table["id"].to_pylist(), dtype=object),
        targets,
        predictions,
    )


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of numbers, or of lists of as many numbers, as [n, K]."""
    joined = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    flat = joined.flatten() if pa.types.is_list(joined.type) else joined
    values: NDArray[np.float64] = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    return values.reshape(len(joined), -1) if len(joined) else values.reshape(0, 1)
