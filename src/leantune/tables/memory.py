"""A table that a program holds, read as a file would be: the same cells, as text, and the same refusals.

Taken are pandas and polars frames and series, Arrow tables and whatever else has Arrow's stream interface
(https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html), `datasets.Dataset`, dicts of columns,
lists of dicts, NumPy arrays, and lists of texts or of pairs of texts. None of these libraries needs to be installed.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leantune.system.errors import SettingsError, TableError
from leantune.tables.containers import one_line
from leantune.tables.readers import SURROGATE, as_text, cell_error, check_columns, is_plain_list, listed, shown

MEMORY = "memory"
"""What stands for a table from memory where settings are written: no file that can be read has this name."""

THE_TABLE = "the table in memory"
"""What messages call it, where it has no other name."""

_TAKEN = (
    "a pandas or polars frame, an Arrow table, a datasets.Dataset, a dict of columns, a NumPy array, or a list of "
    "texts or of pairs of texts"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryTable:
    """A table that a program gave in the place of a file."""

    data: Any = None
    """Any of the above; None where settings were read back from a file, which cannot hold it."""
    name: str = THE_TABLE
    """What messages call it."""
    setting: str = "data.path"
    """The setting in whose place it stands, for messages."""
    _cells: dict[tuple[str, ...], dict[str, pa.Array]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{self.name}: {type(self.data).__name__}>"

    def read(
        self,
        columns: Sequence[str],
        *,
        texts: Sequence[str] = (),
        lists: Sequence[str] = (),
        limit: int | None = None,
    ) -> dict[str, pa.Array]:
        """Return what `columns_of` does, of the first `limit` rows; what was read once is kept.

        Raises `SettingsError` where only the settings are left of the run that had the table.
        """
        if self.data is None:
            argument = "data" if self.setting == "data.path" else "validation"
            raise SettingsError(
                f"{self.setting}: {MEMORY}: the table was given from memory, and no file holds it; give it again from "
                f"Python, as leantune.train({argument}=TABLE, config=...), or name a file"
            )
        key = tuple(columns)
        if key not in self._cells:
            self._cells[key] = columns_of(self.data, columns, texts=texts, lists=lists, name=self.name)
        return {name: cells[:limit] for name, cells in self._cells[key].items()}


def as_origin(data: Any) -> Path | MemoryTable:
    """Return where rows come from: a file where `data` is its path, else a table in memory."""
    return Path(data) if isinstance(data, str | os.PathLike) else MemoryTable(data=data)


def columns_of(
    data: Any, columns: Sequence[str], *, texts: Sequence[str] = (), lists: Sequence[str] = (), name: str = THE_TABLE
) -> dict[str, pa.Array]:
    """Return columns of a table in memory as large_string arrays [N]; a null is a cell that is missing.

    A cell is written as a Parquet file's is: numbers as Python writes them, true and false, NaN as null. `texts` are
    the names of the columns where `data` has none, in their order: a list of texts has one column, a list of pairs
    two. Cells of the columns `lists` may be lists, which are written as JSON. Rows count from 1 in messages.
    Raises `TableError`, which calls the table `name`, where it is of another type,
    lacks a column, or a cell is neither a text nor a number.
    """
    source = _open(data, name)
    names = source.names
    if names is None:
        names = _given_names(texts, source.width, name)
    check_columns(name, names, columns)
    cells = {column: _texts_of(source.column(names.index(column)), name, column, column in lists) for column in columns}
    lengths = {column: len(values) for column, values in cells.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(
            f"{name}: found columns of different lengths ("
            + ", ".join(f"{shown(column)}: {length:,}" for column, length in lengths.items())
            + "), expected a cell in each row; correct the shorter ones"
        )
    return cells


def describe_columns(data: Any, *, name: str = THE_TABLE) -> tuple[list[str] | None, int | None]:
    """Return the names of a table's columns (None where it has none, such as a list of texts), and their number.

    The number is None where a list has no row to tell it. Raises `TableError` for a type that is not taken.
    """
    source = _open(data, name)
    return source.names, source.width


def content_sha256(cells: Mapping[str, pa.Array]) -> str:
    """Return the SHA-256 of columns of texts, in hexadecimal; how the table was held does not matter.

    Of each column, in the order of the names: the name in UTF-8 and a zero byte, the number of rows, each cell's length
    in bytes (-1 for a null), all these as 64-bit little-endian numbers, and the cells' bytes, one after the other.
    """
    digest = hashlib.sha256()
    for name in sorted(cells):
        lengths = pc.binary_length(cells[name]).cast(pa.int64()).fill_null(-1)
        digest.update(name.encode() + b"\0")
        digest.update(np.int64(len(lengths)).astype("<i8").tobytes())
        digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        if len(lengths):
            whole = pc.fill_null(cells[name], "")
            _, offsets, content = whole.cast(pa.large_binary()).buffers()
            ends = np.frombuffer(offsets, np.int64)[whole.offset :]
            if ends[len(whole)] > ends[0]:
                digest.update(memoryview(content)[ends[0] : ends[len(whole)]])
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The columns of a table, none of them read yet."""

    names: list[str] | None
    """None where they have none."""
    width: int | None
    """How many there are; None where there is no row to tell."""
    column: Callable[[int], Any]
    """Place of a column -> its values."""


def _open(data: Any, name: str) -> _Source:
    """Tell what kind of table it is; raises `TableError` where it is none."""
    if (pandas := sys.modules.get("pandas")) is not None:
        if isinstance(data, pandas.DataFrame):
            return _named(list(map(str, data.columns)), lambda place: data.iloc[:, place])
        if isinstance(data, pandas.Series | pandas.Index):
            return _Source(names=None, width=1, column=lambda _: data)
    dataset: Any = getattr(sys.modules.get("datasets"), "Dataset", ())
    if isinstance(data, dataset):
        arrow = data.with_format("arrow")  # rows that were chosen or shuffled come in their order
        return _named(data.column_names, lambda place: arrow.select_columns(data.column_names[place])[:].column(0))
    if isinstance(data, Mapping):
        if inner := [key for key, values in data.items() if hasattr(values, "column_names")]:
            raise TableError(
                f"{name}: found tables ({listed(list(map(str, inner)))}), expected one table; "
                f"give one of them, such as data[{inner[0]!r}]"
            )
        values = list(data.values())
        return _named(list(map(str, data)), values.__getitem__)
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return _Source(names=None, width=1, column=lambda _: data)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        return _open_stream(data)
    if hasattr(data, "__array__"):
        return _open_array(np.asanyarray(data), name)
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _open_list(list(data), name)
    found = "one text" if isinstance(data, str) else type(data).__name__
    raise TableError(f"{name}: found {found}, expected {_TAKEN}")


def _named(names: list[str], column: Callable[[int], Any]) -> _Source:
    return _Source(names=names, width=len(names), column=column)


def _open_stream(data: Any) -> _Source:
    try:
        table = pa.table(data)
    except (pa.ArrowException, TypeError, ValueError):  # a series: its stream has one column, without a name
        series = pa.chunked_array(data)
        return _Source(names=None, width=1, column=lambda _: series)
    return _named(table.column_names, table.column)


def _open_list(data: list[Any], name: str) -> _Source:
    if not data:
        return _Source(names=None, width=None, column=lambda _: [])
    if isinstance(data[0], Mapping):
        keys = list(data[0])
        _check_rows(data, [isinstance(cells, Mapping) for cells in data], "a dict", name)
        return _named(list(map(str, keys)), lambda place: [cells.get(keys[place]) for cells in data])
    if isinstance(data[0], _CELLS):
        width = len(data[0])
        whole = [isinstance(cells, _CELLS) and len(cells) == width for cells in data]
        _check_rows(data, whole, f"{width} cells", name)
        return _Source(names=None, width=width, column=lambda place: [cells[place] for cells in data])
    return _Source(names=None, width=1, column=lambda _: data)


_CELLS = (list, tuple, np.ndarray)
"""What a row of several cells may be."""


def _check_rows(data: list[Any], good: list[bool], expected: str, name: str) -> None:
    if not all(good):
        row = good.index(False)
        raise TableError(
            f"{name}, row {row + 1}: found {shown(repr(data[row]))}, expected {expected}, as in the first row; correct "
            "the row"
        )


def _open_array(data: np.ndarray[Any, Any], name: str) -> _Source:
    if data.ndim == 1:
        return _Source(names=None, width=1, column=lambda _: data)
    if data.ndim == 2:
        return _Source(names=None, width=data.shape[1], column=lambda place: data[:, place])
    raise TableError(f"{name}: found an array of {data.ndim} dimensions, expected 1 (texts) or 2 (rows of columns)")


def _given_names(texts: Sequence[str], width: int | None, name: str) -> list[str]:
    if not texts:
        raise TableError(
            f"{name}: found rows without names of columns, expected named ones; give a frame, an Arrow table, a "
            "datasets.Dataset or a dict of columns"
        )
    if width not in (None, len(texts)):
        columns = f"{width} column{'s' * (width != 1)} without names"
        raise TableError(f"{name}: found {columns}, expected {len(texts)} ({listed(texts)}), in this order")
    return list(texts)


def _texts_of(values: Any, name: str, column: str, lists: bool) -> pa.Array:
    """Turn one column into texts, as a whole where it is of one type, else cell by cell."""
    try:
        parts = _arrow(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return _cell_texts(list(values), name, column)
    kind = parts[0].type if parts else pa.large_string()
    if pa.types.is_nested(kind) and not (lists and is_plain_list(kind)):
        raise TableError(
            f"{name}, column {column!r}: found the type {kind}, expected a text or a number in each row; write the "
            "column as text"
        )
    try:
        return pa.chunked_array([as_text(part) for part in parts], pa.large_string()).combine_chunks()
    except pa.ArrowException as error:
        raise TableError(
            f"{name}, column {column!r}: found {one_line(error)}, expected texts or numbers; write the column as text"
        ) from None


def _arrow(values: Any) -> list[pa.Array]:
    """Return a column as Arrow arrays, one after the other; raises one of Arrow's errors where its cells are mixed."""
    if isinstance(values, pa.Array):
        return [values]
    if not isinstance(values, pa.ChunkedArray):
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise TypeError
        is_stream = hasattr(values, "__arrow_c_stream__") and not hasattr(values, "iloc")  # pandas: NaN is missing
        values = pa.chunked_array(values) if is_stream else pa.array(values, from_pandas=True)
    return list(values.chunks) if isinstance(values, pa.ChunkedArray) else [values]


def _cell_texts(cells: list[Any], name: str, column: str) -> pa.Array:
    texts: list[str | None] = []
    for row, cell in enumerate(cells):
        try:
            texts.append(cell if isinstance(cell, str) else _cell_text(cell))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            expected = "a text, a number, true or false"
            raise cell_error(name, row, column, type(cell).__name__, expected=expected) from None
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        row = next(row for row, text in enumerate(texts) if text and SURROGATE.search(text))
        expected = "a text of whole characters (half of a surrogate pair is none)"
        raise cell_error(name, row, column, shown(texts[row]), expected=expected) from None


def _cell_text(cell: Any) -> str | None:
    """Write one cell that is no text; raises TypeError or one of Arrow's errors where it is no scalar."""
    if type(cell) is int:  # of any size, which no type of Arrow holds
        return str(cell)
    (part,) = _arrow([cell])
    if pa.types.is_nested(part.type):
        raise TypeError
    text: str | None = as_text(part)[0].as_py()
    return text
