"""A table written block after block: CSV, TSV, JSON lines or Parquet, by the file's name; it appears whole or not."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from leantune.system.errors import SavingError, SettingsError
from leantune.system.files import remedy, replacing
from leantune.tables.readers import COMPRESSIONS, FORMATS, file_format

WriteBlock = Callable[[pa.Table], None]


def refuse_unwritable(path: Path, *, force: bool) -> None:
    """Raise `SettingsError` where no table can be written under that name, or, without `force`, a file is there."""
    if path.is_dir():
        raise SettingsError(f"--output: {path} is a folder; give the name of a file in it")
    kind, compression = file_format(path)
    if kind not in FORMATS.values() or compression == "zip":
        raise SettingsError(
            f"--output: found {str(path)!r}, expected a name that ends in {', '.join(FORMATS)}, which "
            f"{' or '.join(COMPRESSIONS)} may follow"
        )
    if kind == "parquet" and compression is not None:
        raise SettingsError(f"--output: {path}: Parquet is compressed inside; leave out {path.suffix}")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"--output: {path.parent} is no folder; make it, or give another name")
    if path.exists() and not force:
        raise SettingsError(f"--output: {path} is there already; give another name, or --force to write it anew")


@contextmanager
def writing_table(path: Path, schema: pa.Schema) -> Iterator[WriteBlock]:
    """Give a function that writes a block of rows of `schema`; the file appears at the end, whole.

    Floating-point numbers are written so that they are read as the same. Raises `SavingError` where the file cannot be
    written.
    """
    kind, compression = file_format(path)
    try:
        with replacing(path) as beside:
            if kind == "parquet":
                with pq.ParquetWriter(beside, schema) as parquet:
                    yield parquet.write_table
                return
            with (
                pa.output_stream(str(beside), compression=compression) as stream,
                io.TextIOWrapper(stream, encoding="utf-8", newline="") as text,
            ):
                if kind == "json":
                    yield lambda table: _write_json(text, table)
                else:
                    delimiter = "\t" if kind == "tsv" else ","
                    _write_rows(text, delimiter, [schema.names])
                    yield lambda table: _write_rows(text, delimiter, _rows_of(table))
    except OSError as error:
        raise SavingError(
            f"{path}: cannot be written: {error.strerror or error}; {remedy(error)}, then give the same command again"
        ) from None


def _write_json(text: io.TextIOWrapper, table: pa.Table) -> None:
    for row in table.to_pylist():
        text.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _rows_of(table: pa.Table) -> list[Any]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _write_rows(text: io.TextIOWrapper, delimiter: str, rows: Sequence[Sequence[object]]) -> None:
    # Before Python 3.13 the writer leaves a lone carriage return unquoted, which readers take for the end of a line.
    has_returns = any("\r" in cell for row in rows for cell in row if isinstance(cell, str))
    quoting: Literal[0, 1] = csv.QUOTE_ALL if has_returns else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting).writerows(rows)
