"""Rows on which an exported model is tried: those that validated the run, or those of another table."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leantune.inference.trained_run import TrainedFold, TrainedRun
from leantune.system.errors import RunFolderError, SettingsError, TableError
from leantune.system.files import read_json, unreadable
from leantune.tables.memory import MemoryTable
from leantune.tables.readers import listed
from leantune.tables.table import DataSettings, Table, data_sha256, read_table, table_sha256
from leantune.tables.targets import parse_known_targets


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationRows:
    """N rows of a table, in its order."""

    texts: tuple[pa.Array, ...]
    """One large_string array [N] a text of a row."""
    targets: NDArray[Any] | None
    """[N, K] numbers, or [N] classes; None for rows that the model was trained on, which cannot show how good it is."""
    predictions: NDArray[np.float64] | None
    """[N, outputs]: the run's own predictions; None where it has none of these rows."""
    row_numbers: NDArray[np.int64]
    """[N]: each row's number in its file, from 0."""
    path: Path | str
    """The file, or the name of a table in memory, for messages."""

    def __len__(self) -> int:
        return len(self.row_numbers)

    def take(self, places: NDArray[np.int64]) -> "ValidationRows":
        """Return some of the rows."""
        return ValidationRows(
            texts=tuple(column.take(pa.array(places)) for column in self.texts),
            targets=None if self.targets is None else self.targets[places],
            predictions=None if self.predictions is None else self.predictions[places],
            row_numbers=self.row_numbers[places],
            path=self.path,
        )

    def describe_place(self, row: int) -> str:
        """Name a row for a message, which counts from 1."""
        return f"{self.path}, row {self.row_numbers[row] + 1}"


class RowSource:
    """Where the rows of a run come from: the table that it read, or `data`, another place of it or another table."""

    def __init__(self, run: TrainedRun, data: Path | None) -> None:
        self._run = run
        self._own_sha256 = read_json(run.folder / "environment.json").get("data_sha256")
        self._settings, self._is_own = self._find(None if data is None else data.expanduser())

    def rows(self, fold: TrainedFold) -> ValidationRows:
        """Return the rows that validated a fold; of the fold `none` the rows that trained it; or those of another
        table.

        Raises `TableError` where the table has not what the run needs.
        """
        table, everything, task = self._table, self._table.row_numbers, self._run.task
        if self._is_own and fold.number != "none":
            return self._validated(fold)
        return ValidationRows(
            texts=table.texts,
            targets=None if self._is_own else parse_known_targets(table, task.kind, task.labels),
            predictions=None,
            row_numbers=everything,
            path=table.path,
        )

    @cached_property
    def _table(self) -> Table:
        return read_table(self._settings)

    def _validated(self, fold: TrainedFold) -> ValidationRows:
        try:
            stored = pq.read_table(fold.predictions, columns=["row", "target", "prediction"])
        except (OSError, pa.ArrowException) as error:
            raise unreadable(fold.predictions, error) from None
        rows = stored["row"].to_numpy()
        there = self._table.row_numbers  # ascending; rows may have been left out
        places = np.minimum(np.searchsorted(there, rows), len(there) - 1)
        if (lost := there[places] != rows).any():
            raise RunFolderError(
                f"{fold.predictions}: found row {rows[lost][0] + 1}, which {self._table.path} does not have "
                f"({len(there):,} rows)"
            )
        task = self._run.task
        targets = stored["target"].to_pylist()
        if task.kind in {"binary", "multiclass"}:
            index = {label: number for number, label in enumerate(task.labels)}
            parsed = np.array([index[label] for label in targets])
        else:
            parsed = np.array(targets, dtype=np.float64).reshape(len(rows), -1)
        return ValidationRows(
            texts=tuple(column.take(pa.array(places)) for column in self._table.texts),
            targets=parsed,
            predictions=np.array(stored["prediction"].to_pylist(), dtype=np.float64).reshape(len(rows), -1),
            row_numbers=rows,
            path=self._table.path,
        )

    def _find(self, data: Path | None) -> tuple[DataSettings, bool]:
        """Return how to read the rows, and whether they are the run's own."""
        own = self._run.config.data
        if data is not None:
            if not data.exists():
                raise SettingsError(f"--data: {data} is no file")
            settings = _only(own, data)
            if own.validation is None and table_sha256(data) == self._own_sha256:
                return settings, True
            return settings.model_copy(update={"limit": None}), False
        for path in own.files:
            if isinstance(path, MemoryTable):
                raise SettingsError(
                    f"{self._run.folder}: it was trained on a table in memory, which is not there any more; write the "
                    "table to a file, and name it with --data FILE"
                )
            if not path.expanduser().exists():
                raise SettingsError(
                    f"{self._run.folder}: the table that it was trained on is not there any more ({path}); name it, or "
                    "another table with the same columns, with --data FILE"
                )
        if data_sha256(own) != self._own_sha256:
            raise TableError(
                f"{listed([str(path) for path in own.files])}: changed since the run {self._run.folder}; give the "
                "table as it was, or another one with the same columns, with --data FILE"
            )
        return _only(own, own.validation or own.path), True


def _only(own: DataSettings, path: Path | MemoryTable) -> DataSettings:
    """Return the settings that read a single file, whose rows count as they stand there."""
    alone = {"path": path, "validation": None, "id": None, "group": None, "weight": None, "fold": None}
    return own.model_copy(update=alone)
