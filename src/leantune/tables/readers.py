"""The cells of a file, column by column, exactly as written: CSV, TSV, JSON lines and Parquet, also compressed.

Whatever cannot be read for certain is a `TableError` that names the file, the row and the column. Rows are numbered
from 1 in messages; the header and blank lines are not counted.
"""

import codecs
import csv
import difflib
import io
import json
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leantune.system.errors import TableError

_FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet",
}  # fmt: skip
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_CHUNK_ROWS = 10_000
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a file is read."""

    encoding: str = "utf-8"
    delimiter: str | None = None
    """Of CSV and TSV; None is a tab for .tsv and a comma for .csv."""
    limit: int | None = None
    """Most rows to read; None reads all."""
    setting: str = "data.path"
    """The setting that names the file, for messages."""


def read_cells(path: Path, columns: list[str], options: ReadOptions) -> dict[str, pa.Array]:
    """Read the columns of a file as large_string arrays [N]; a null is a cell that is not there.

    Raises `TableError` where the file or a row is not what it must be, or a column is not there.
    """
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise TableError(f"{path}: found a folder, expected a file; set {options.setting} to the table in it")
    except OSError as error:
        raise TableError(f"{path}: found no readable file ({error.strerror}); correct {options.setting}") from None
    kind, _ = file_format(path)
    if kind is None:
        raise TableError(
            f"{path}: found the file name extension {path.suffix!r}, expected one of {', '.join(_FORMATS)}, "
            f"which {' or '.join(_COMPRESSIONS)} may follow; rename or convert the file"
        )
    return (_read_parquet if kind == "parquet" else _read_lines)(path, columns, options)


def _read_lines(path: Path, columns: list[str], options: ReadOptions) -> dict[str, pa.Array]:
    """Read CSV or JSON lines, a chunk of rows at a time.

    Bytes that do not fit the encoding become lone surrogates, which no arrow array takes: so only those in a needed
    column are an error, and it knows its row.
    """
    kind, compression = file_format(path)
    encoding = "utf-8-sig" if codecs.lookup(options.encoding).name == "utf-8" else options.encoding
    chunks: dict[str, list[pa.Array]] = {name: [] for name in columns}
    count = 0
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            newline = "\n" if kind == "json" else ""
            lines = io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)
            rows = (_json_rows if kind == "json" else _csv_rows)(lines, path, columns, options)
            rows = islice(rows, options.limit)
            while chunk := list(islice(rows, _CHUNK_ROWS)):
                for name, cells in zip(columns, zip(*chunk, strict=True), strict=True):
                    chunks[name].append(_strings(cells, path, name, count, options.encoding))
                count += len(chunk)
    except UnicodeError:
        raise _undecodable(path, f"after row {count}", options.encoding) from None
    except OSError as error:
        what = f"a whole {compression} file; copy or compress it again" if compression else "a file that can be read"
        raise TableError(f"{path}: found {one_line(error)}, expected {what}") from None
    return {name: pa.chunked_array(parts, pa.large_string()).combine_chunks() for name, parts in chunks.items()}


def _csv_rows(
    lines: Iterable[str], path: Path, columns: list[str], options: ReadOptions
) -> Iterator[Sequence[str | None]]:
    """Yield the needed cells of each row.

    The standard library's reader, for in strict mode it is the one that refuses a stray quote: to pyarrow and pandas,
    a quote at the start of a text opens a cell that swallows all rows up to the next quote, without a word.
    """
    delimiter = options.delimiter or ("\t" if file_format(path)[0] == "tsv" else ",")
    # Its limit is one for the whole process, 131,072 characters by default: less than a long document.
    csv.field_size_limit(2**31 - 1)
    records = filter(None, csv.reader(lines, delimiter=delimiter, strict=True))
    row = 0
    try:
        header = next(records, None)
        if header is None:
            raise TableError(
                f"{path}: found an empty file, expected a header and rows; check that it is the right file"
            )
        hint = ""
        if any(SURROGATE.search(name) or "\0" in name for name in header):
            hint = f" (the header is not {options.encoding}: set data.encoding)"
        elif len(header) == 1:
            hint = f" (set data.delimiter if the fields are not separated by {delimiter!r})"
        check_columns(path, header, columns, hint)
        places = [header.index(name) for name in columns]
        row = 1
        for fields in records:
            if len(fields) != len(header):
                raise TableError(
                    f"{path}, row {row}: found {len(fields)} field{'s' * (len(fields) > 1)} ({listed(fields, 3)}), "
                    f"expected {len(header)} as in the header; quote a text that holds the delimiter or a line break"
                )
            yield [fields[place] for place in places]
            row += 1
    except csv.Error as error:
        where = f"row {row}" if row else "header"
        found = "a quote that is never closed" if "end of data" in str(error) else f"a stray quote ({error})"
        raise TableError(
            f"{path}, {where}: found {found}, expected a quoted field to end with its second quote; where a quote is "
            'part of the text, quote the whole text and write that quote twice ("say ""hello"" to")'
        ) from None


def _json_rows(
    lines: Iterable[str], path: Path, columns: list[str], options: ReadOptions
) -> Iterator[Sequence[str | None]]:
    """Yield the needed cells of each object: numbers as written, and none for null, NaN and a key that is not there.

    The standard library's reader, for pyarrow.json crashes the process on deep nesting.
    """
    decoder = json.JSONDecoder(
        object_pairs_hook=_unique_keys, parse_int=str, parse_float=str, parse_constant=lambda _: None
    )
    for row, line in enumerate(filter(str.strip, lines)):
        record, why = None, ""
        try:
            record = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            why = f" ({one_line(error)})"
        if not isinstance(record, dict):
            if SURROGATE.search(line):  # the usual reason: the second byte of many cp932 characters is a backslash
                raise _undecodable(path, f"row {row + 1}", options.encoding)
            raise TableError(
                f"{path}, row {row + 1}: found {shown(line)}{why}, expected one JSON object on a line of its own; "
                "correct the line, or write the table as JSON lines"
            )
        if row == 0:
            check_columns(path, list(record), columns)
        cells = [record.get(name) for name in columns]
        for place, cell in enumerate(cells):
            if isinstance(cell, list | dict):
                found = "a list" if isinstance(cell, list) else "an object"
                raise cell_error(path, row, columns[place], found, expected="a text, a number, true or false")
            if isinstance(cell, bool):
                cells[place] = str(cell).lower()
        yield cells


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} stands twice in an object")
    return record


def _strings(cells: Sequence[str | None], path: Path, column: str, first_row: int, encoding: str) -> pa.Array:
    try:
        return pa.array(cells, pa.large_string())
    except UnicodeEncodeError:
        row = next(row for row, cell in enumerate(cells) if cell and SURROGATE.search(cell))
        where = f"row {first_row + row + 1}, column {column!r}"
        raise _undecodable(path, where, encoding, found=shown(cells[row])) from None


def _read_parquet(path: Path, columns: list[str], options: ReadOptions) -> dict[str, pa.Array]:
    compression = file_format(path)[1]
    chunks: dict[str, list[pa.Array]] = {name: [] for name in columns}
    count = 0
    try:
        with (
            pa.input_stream(str(path), compression=compression) as stream,
            # Parquet is read from its end, and a compressed stream has none until it is unpacked.
            pq.ParquetFile(pa.BufferReader(stream.read()) if compression else stream) as file,
        ):
            schema = file.schema_arrow
            check_columns(path, schema.names, columns)
            for name in columns:
                if pa.types.is_nested(schema.field(name).type):
                    raise TableError(
                        f"{path}, column {name!r}: found the type {schema.field(name).type}, expected a text or a "
                        "number in each row; write the column as text"
                    )
            for batch in file.iter_batches(columns=columns):
                for name in columns:
                    chunks[name].append(as_text(batch.column(name)))
                count += len(batch)
                if options.limit is not None and count >= options.limit:
                    break
    except (pa.ArrowException, OSError) as error:
        what = f"Parquet in a whole {compression} file" if compression else "a whole Parquet file of texts and numbers"
        raise TableError(f"{path}: found {one_line(error)}, expected {what}; write it again") from None
    cells = {name: pa.chunked_array(parts, pa.large_string()).combine_chunks() for name, parts in chunks.items()}
    return {name: values[: options.limit] for name, values in cells.items()}


def as_text(values: pa.Array) -> pa.Array:
    """Write scalars as text; NaN becomes null, for both stand for a missing number."""
    if pa.types.is_dictionary(values.type):
        return as_text(values.dictionary).take(values.indices)
    if not pa.types.is_floating(values.type):
        return values.cast(pa.large_string())
    missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    # numpy writes 1.0 as "1.0", pyarrow as "1", which would pass for the number of a class.
    return pa.array(values.to_numpy(zero_copy_only=False).astype(str), pa.large_string(), mask=missing)


def _undecodable(path: Path, where: str, encoding: str, found: str = "bytes") -> TableError:
    return TableError(
        f"{path}, {where}: found {found}, expected text in {encoding}; set data.encoding to the file's own (cp932, "
        "latin-1, utf-16), or save it as UTF-8"
    )


def check_columns(path: Path | str, there: list[str], needed: Iterable[str], hint: str = "") -> None:
    """Raise `TableError` where one of the `needed` columns is not among those that are `there`, or is there twice."""
    for name in needed:
        if there.count(name) > 1:
            raise TableError(
                f"{path}: found {there.count(name)} columns named {name!r}, expected one; rename all but one of them"
            )
        if name not in there:
            folded = {column.strip().casefold(): column for column in there}
            nearest = difflib.get_close_matches(name.strip().casefold(), folded, n=1)
            advice = f"did you mean {folded[nearest[0]]!r}?" if nearest else "correct the name in the settings"
            raise TableError(f"{path}: found no column {name!r}, expected one of {listed(there)}; {advice}{hint}")


def file_format(path: Path) -> tuple[str | None, str | None]:
    """Give the format (csv, tsv, json, parquet or None) and compression (gzip, zstd or None) that a name stands for."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    name = path.with_suffix("") if compression else path
    return _FORMATS.get(name.suffix.lower()), compression


def refuse_cells(path: Path | str, column: str, values: pa.Array, bad: npt.NDArray[np.bool_], *, expected: str) -> None:
    """Raise `TableError` at the first cell where `bad` [N] is true."""
    if bad.any():
        row = int(bad.argmax())
        raise cell_error(path, row, column, shown(values[row].as_py()), expected=expected)


def cell_error(path: Path | str, row: int, column: str, found: str, *, expected: str) -> TableError:
    """Make the error for one cell; `row` is an index from 0, and the message counts from 1.

    `path` is a file, or what messages call a table that is none.
    """
    return TableError(
        f"{path}, row {row + 1}, column {column!r}: found {found}, expected {expected}; "
        "correct the cell or remove the row"
    )


def shown(value: str | None, length: int = 60) -> str:
    """Quote a cell for a message, cut to `length` characters."""
    if value is None:
        return "nothing"
    return repr(value) if len(value) <= length else f"{value[:length]!r}..."


def listed(names: Sequence[str], count: int = 40) -> str:
    """Quote names for a message, the first `count` of them."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more


def one_line(error: BaseException | str) -> str:
    """Return what an error says as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")
