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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leantune.system.errors import TableError
from leantune.tables.containers import (
    Reached,
    checked_folder,
    likely_encoding,
    one_line,
    open_arrow,
    opened_bytes,
    recognised,
    zip_member,
)
from leantune.tables.quotes import QuoteWatch, swallowed_error, watched

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet",
}  # fmt: skip
READABLE = {**FORMATS, ".feather": "arrow", ".arrow": "arrow", ".xlsx": "excel"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LINE_FORMATS = ("csv", "tsv", "json")
_CHUNK_ROWS = 10_000
Result = TypeVar("Result")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a file is read."""

    encoding: str = "utf-8"
    delimiter: str | None = None
    """Of CSV and TSV; None is a tab for .tsv and a comma for .csv."""
    limit: int | None = None
    """Most rows to read; None reads all."""
    quoting: Literal["standard", "none"] | None = None
    """Of CSV and TSV: whether a quotation mark at the start of a cell quotes it. None is standard, and refuses a cell
    whose lines look like rows."""
    lists: tuple[str, ...] = ()
    """Columns whose cells may be lists, which are given as JSON."""
    sheet: str | None = None
    """Of Excel: the sheet; None takes the only one."""
    setting: str = "data.path"
    """The setting that names the file, for messages."""
    tell: Callable[[str], None] | None = None
    """Called with what the user should know of the file, one or two sentences each."""
    reached: Reached | None = None
    """Follows how far lines have been read."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """How far the reading of a file has come."""

    rows: int
    share: float
    """Of the file's bytes, from 0 to 1; 0 where that is not known."""


def read_cells(path: Path, columns: list[str], options: ReadOptions) -> dict[str, pa.Array]:
    """Read the columns of a file as large_string arrays [N]; a null is a cell that is not there.

    Raises `TableError` where the file or a row is not what it must be, or a column is not there.
    """
    return drain(reading_cells(path, columns, options))


def reading_cells(path: Path, columns: list[str], options: ReadOptions) -> Generator[Read, None, dict[str, pa.Array]]:
    """Do what `read_cells` does, and yield how far it has come.

    No column is ever a list of Python's strings: 10,000 rows are, and then they are Arrow's. Each column is joined by
    itself and its parts dropped, so that the most memory is that of all columns and once more that of the largest.
    """
    reached = Reached()
    chunks: dict[str, list[pa.Array]] = {name: [] for name in columns}
    rows = 0
    for block in read_blocks(path, columns, replace(options, reached=reached), rows=_CHUNK_ROWS):
        for name in columns:
            chunks[name].append(block[name])
        rows += len(block[columns[0]])
        yield Read(rows=rows, share=reached.share)
    return {name: pa.chunked_array(chunks.pop(name), pa.large_string()).combine_chunks() for name in columns}


def drain(steps: Generator[Any, None, Result]) -> Result:
    """Return what a generator returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def read_blocks(path: Path, columns: list[str], options: ReadOptions, *, rows: int) -> Iterator[dict[str, pa.Array]]:
    """Yield the columns of a file as `read_cells` reads them, `rows` rows at a time; the last block may have fewer.

    A block is read when it is asked for, so that memory does not grow with the file. Raises as `read_cells` does, at
    the block where it meets what is wrong.
    """
    kind = _checked_kind(path, options)
    count = 0
    blocks = (_line_blocks if kind in LINE_FORMATS else _arrow_blocks)(path, columns, options, rows)
    for block in blocks:  # lines end at the limit by themselves, when their quotes were judged
        left = None if options.limit is None else options.limit - count
        if left is not None and left <= 0:
            return
        count += len(block[columns[0]])
        yield {name: cells[:left] for name, cells in block.items()}


def read_column_names(path: Path, options: ReadOptions) -> list[str]:
    """Return the names of a file's columns in their order: of JSON lines, the keys of the first object.

    Raises `TableError` where the file is not what it must be.
    """
    kind = _checked_kind(path, options)
    if kind not in LINE_FORMATS:
        with open_arrow(path, kind, options.sheet, options.setting) as source:
            return list(source.schema.names)
    with _opened_lines(path, options, lambda: "header") as lines:
        if kind in {"csv", "tsv"}:
            _, header = next(_csv_records(lines, path, options))
            return header
        _, record = next(_json_records(lines, path, options), (0, {}))
        return list(record)


def _checked_kind(path: Path, options: ReadOptions) -> str:
    """Return the format of a file or folder that is there; raises `TableError` for one that is not, or is none."""
    try:
        path.stat()
    except OSError as error:
        raise TableError(
            f"{path}: found no readable file ({error.strerror}); correct the path ({options.setting})"
        ) from None
    kind, compression = file_format(path)
    if path.is_dir():
        return checked_folder(path, options.setting)
    if compression == "zip":
        zip_member(path)
    if kind is None:
        raise TableError(
            f"{path}: found the file name extension {path.suffix!r}, expected one of {', '.join(READABLE)}, "
            f"which {', '.join(COMPRESSIONS)} or .zip may follow; rename or convert the file"
        )
    if compression is None and (other := recognised(path, kind)) is not None:
        raise TableError(f"{path}: found {other[0]}, expected {kind}, as the name says; {other[1]}")
    return kind


@contextmanager
def _opened_lines(path: Path, options: ReadOptions, place: Callable[[], str]) -> Iterator[io.TextIOWrapper]:
    """Open CSV or JSON lines, whose errors in the block become a `TableError`; `place` says how far reading has come.

    Bytes that do not fit the encoding become lone surrogates, which no arrow array takes: so only those in a needed
    column are an error, and it knows its row.
    """
    kind, compression = file_format(path)
    encoding = "utf-8-sig" if codecs.lookup(options.encoding).name == "utf-8" else options.encoding
    try:
        with opened_bytes(path, compression, options.reached) as stream:
            newline = "\n" if kind == "json" else ""
            yield io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)
    except UnicodeError:
        raise _undecodable(path, place(), options.encoding) from None
    except OSError as error:
        what = f"a whole {compression} file; copy or compress it again" if compression else "a file that can be read"
        raise TableError(f"{path}: found {one_line(error)}, expected {what}") from None


def _line_blocks(path: Path, columns: list[str], options: ReadOptions, rows: int) -> Iterator[dict[str, pa.Array]]:
    """Yield blocks of CSV or JSON lines."""
    count = 0
    with _opened_lines(path, options, lambda: f"after row {count}") as lines:
        cells: Iterator[Sequence[str | None]]
        if file_format(path)[0] == "json":
            cells = islice(_json_rows(lines, path, columns, options), options.limit)
        else:
            cells = _csv_rows(lines, path, columns, options)
        while chunk := list(islice(cells, rows)):
            yield {
                name: _strings(column, path, name, count, options.encoding)
                for name, column in zip(columns, zip(*chunk, strict=True), strict=True)
            }
            count += len(chunk)


def _csv_rows(
    lines: Iterable[str], path: Path, columns: list[str], options: ReadOptions
) -> Iterator[Sequence[str | None]]:
    """Yield the needed cells of each row."""
    records = _csv_records(lines, path, options)
    delimiter, header = next(records)
    hint = ""
    if any(SURROGATE.search(name) or "\0" in name for name in header):
        with suppress(OSError, TableError):
            likely = likely_encoding(path, file_format(path)[1])
            to = f" to {likely}, as it looks like" if likely not in (None, options.encoding) else ""
            hint = f" (the header is not {options.encoding}: set data.encoding{to})"
    elif len(header) == 1:
        likely = next((mark for mark in ";\t|," if mark in header[0]), None)
        if likely is not None and not set(columns) <= set(header):
            raise TableError(
                f"{path}: found a single column {header[0]!r}, expected {listed(columns)}; set data.delimiter to "
                f"{likely!r} (--delimiter), which seems to separate the fields"
            )
        hint = f" (set data.delimiter if the fields are not separated by {delimiter!r})"
    elif sum(map(_looks_like_data, header)) > len(header) / 3:
        hint = (
            " (the first line looks like a row: if the file has no header, write a line with the columns' names above)"
        )
    check_columns(path, header, columns, hint)
    places = [header.index(name) for name in columns]
    for _, fields in records:
        yield [fields[place] for place in places]


def _csv_records(lines: Iterable[str], path: Path, options: ReadOptions) -> Iterator[tuple[str, list[str]]]:
    """Yield the delimiter and the fields of the header, then of each row: as many as the header has.

    The standard library's reader, for in strict mode it is the one that refuses a stray quote: to pyarrow and pandas,
    a quote at the start of a text opens a cell that swallows all rows up to the next quote, without a word.
    """
    delimiter = options.delimiter or ("\t" if file_format(path)[0] == "tsv" else ",")
    # Its limit is one for the whole process, 131,072 characters by default: less than a long document.
    csv.field_size_limit(2**31 - 1)
    taken: list[str] = []
    quoting: Literal[0, 3] = csv.QUOTE_NONE if options.quoting == "none" else csv.QUOTE_MINIMAL
    records = filter(None, csv.reader(watched(lines, taken), delimiter=delimiter, strict=True, quoting=quoting))
    row = 0
    try:
        header = next(records, None)
        if header is None:
            raise TableError(
                f"{path}: found an empty file, expected a header and rows; check that it is the right file"
            )
        _refuse_no_header(path, header, options)
        yield delimiter, header
        row = 1
        watch = QuoteWatch(delimiter, len(header), ask=options.quoting is None)
        taken.clear()
        for fields in records:
            if len(fields) != len(header):
                raise TableError(
                    f"{path}, row {row}: found {len(fields)} field{'s' * (len(fields) > 1)} ({listed(fields, 3)}), "
                    f"expected {len(header)} as in the header; quote a text that holds the delimiter or a line break"
                )
            if len(header) > 1 and fields == header:
                raise TableError(
                    f"{path}, row {row}: found the header again, expected a row; remove this line (files that were "
                    "joined have one each)"
                )
            if quoting != csv.QUOTE_NONE:
                watch.look(row, taken, fields)
            taken.clear()
            yield delimiter, fields
            row += 1
            if row - 1 == options.limit:
                break
        _judge_quotes(path, watch, options)
    except csv.Error as error:
        where = f"row {row}" if row else "header"
        found = "a quote that is never closed" if "end of data" in str(error) else f"a stray quote ({error})"
        raise TableError(
            f"{path}, {where}: found {found}, expected a quoted field to end with its second quote; where a quote is "
            'part of the text, quote the whole text and write that quote twice ("say ""hello"" to"), or set '
            "data.quoting to none if no cell of the file is quoted"
        ) from None


def _looks_like_data(name: str) -> bool:
    """Whether a cell of the first line is a number, or too long for a name."""
    return len(name) > 40 or re.fullmatch(r"\s*[+-]?[0-9]+([.,][0-9]+)?\s*", name) is not None


def _judge_quotes(path: Path, watch: QuoteWatch, options: ReadOptions) -> None:
    """Refuse rows that a quotation mark swallowed, and tell of marks in cells that are not quoted."""
    if (found := watch.swallowed()) is not None:
        raise swallowed_error(path, *found)
    if watch.stray_count and options.tell is not None:
        rows = ", ".join(map(str, watch.stray_rows))
        options.tell(
            f"{path}: {watch.stray_count:,} row{'s have' if watch.stray_count > 1 else ' has'} a quotation mark in a "
            f"cell that is not quoted (such as row {rows}), which was read as a part of the text. If a delimiter is "
            "missing there, correct the row; if no cell of the file is quoted, set data.quoting to none"
        )


def _refuse_no_header(path: Path, header: list[str], options: ReadOptions) -> None:
    if header[0].lower().startswith("sep="):
        raise TableError(
            f"{path}: found the line {shown(header[0])} before the header, which Excel writes; remove this line, and "
            f"set data.delimiter to {(header[0][4:] or ',')!r}"
        )


def _json_rows(
    lines: Iterable[str], path: Path, columns: list[str], options: ReadOptions
) -> Iterator[Sequence[str | None]]:
    """Yield the needed cells of each object: numbers as written, and none for null, NaN and a key that is not there."""
    for row, record in _json_records(lines, path, options):
        if row == 0:
            check_columns(path, list(record), columns)
        cells = [record.get(name) for name in columns]
        for place, cell in enumerate(cells):
            if isinstance(cell, dict) or (isinstance(cell, list) and columns[place] not in options.lists):
                found = "a list" if isinstance(cell, list) else "an object"
                raise cell_error(path, row, columns[place], found, expected="a text, a number, true or false")
            if isinstance(cell, list):
                cells[place] = json.dumps(cell, ensure_ascii=False)
            if isinstance(cell, bool):
                cells[place] = str(cell).lower()
        yield cells


def _json_records(lines: Iterable[str], path: Path, options: ReadOptions) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each object, from 0, and the object.

    The standard library's reader, for pyarrow.json crashes the process on deep nesting.
    """
    decoder = json.JSONDecoder(
        object_pairs_hook=_unique_keys, parse_int=str, parse_float=str, parse_constant=lambda _: None
    )
    filled = filter(str.strip, lines)
    first = next(filled, "")
    if first.lstrip().startswith("["):
        yield from _json_array(first, filled, path, decoder)
        return
    for row, line in enumerate(chain([first] if first else [], filled)):
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
        if row == 0 and record and all(isinstance(cells, list | dict) for cells in record.values()):
            raise TableError(
                f"{path}: found one object whose keys are the columns ({listed(list(record), 3)}), expected one object "
                'a row; write it again, in pandas with to_json(path, orient="records", lines=True)'
            )
        yield row, record


def _json_array(
    first: str, lines: Iterable[str], path: Path, decoder: json.JSONDecoder
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of one JSON array, which is held as text; its objects are parsed one after the other."""
    text = first + "".join(lines)
    blank = re.compile(r"[ \t\r\n]*")

    def skip(place: int) -> int:
        found = blank.match(text, place)
        return found.end() if found else place

    place, row = skip(text.index("[") + 1), 0
    while place < len(text) and text[place] != "]":
        record, why = None, ""
        try:
            record, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            why = f" ({one_line(error)})"
        place = skip(place)
        end = text[place : place + 1]
        if not isinstance(record, dict) or end not in (",", "]"):
            raise TableError(
                f"{path}, row {row + 1}: found {shown(text[place : place + 80])}{why}, expected a JSON array of one "
                "object a row; correct it, or write the table as JSON lines"
            )
        yield row, record
        row += 1
        place = skip(place + 1) if end == "," else place
    if place >= len(text) or text[place + 1 :].strip():
        raise TableError(
            f"{path}, after row {row}: found {'no end of the array' if place >= len(text) else 'more text'}, expected "
            "one whole JSON array; write the file again"
        )


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


def _arrow_blocks(path: Path, columns: list[str], options: ReadOptions, rows: int) -> Iterator[dict[str, pa.Array]]:
    """Yield blocks of a file or folder that has types: Parquet, Arrow, Excel."""
    kind = _checked_kind(path, options)
    with open_arrow(path, kind, options.sheet, options.setting) as source:
        check_columns(path, source.schema.names, columns)
        for name in columns:
            kind_of = source.schema.field(name).type
            if pa.types.is_nested(kind_of) and not (name in options.lists and is_plain_list(kind_of)):
                raise TableError(
                    f"{path}, column {name!r}: found the type {kind_of}, expected a text or a "
                    "number in each row; write the column as text"
                )
        size = rows if options.limit is None else min(rows, options.limit)
        rest: list[pa.RecordBatch] = []  # batches end where the file's row groups do
        for batch in source.batches(columns, size):
            rest.append(batch)
            while sum(map(len, rest)) >= rows:
                table = pa.Table.from_batches(rest)
                yield _cells_of(table.slice(0, rows), columns)
                rest = table.slice(rows).to_batches()
        if sum(map(len, rest)):
            yield _cells_of(pa.Table.from_batches(rest), columns)


def is_plain_list(kind: pa.DataType) -> bool:
    """Whether each cell of a column is a list of scalars."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and not pa.types.is_nested(kind.value_type))


def _cells_of(table: pa.Table, columns: list[str]) -> dict[str, pa.Array]:
    return {name: as_text(table.column(name).combine_chunks()) for name in columns}


def as_text(values: pa.Array) -> pa.Array:
    """Write scalars as text, and lists as JSON; NaN becomes null, for both stand for a missing number."""
    if is_plain_list(values.type):
        lists = values.to_pylist()
        texts = [None if cells is None else json.dumps(cells, ensure_ascii=False, default=str) for cells in lists]
        return pa.array(texts, pa.large_string())
    if pa.types.is_dictionary(values.type):
        return as_text(values.dictionary).take(values.indices)
    if not pa.types.is_floating(values.type):
        return values.cast(pa.large_string())
    missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    # numpy writes 1.0 as "1.0", pyarrow as "1", which would pass for the number of a class.
    return pa.array(values.to_numpy(zero_copy_only=False).astype(str), pa.large_string(), mask=missing)


def _undecodable(path: Path, where: str, encoding: str, found: str = "bytes") -> TableError:
    likely = None
    with suppress(OSError, TableError):
        likely = likely_encoding(path, file_format(path)[1])
    advice = "set data.encoding to the file's own (cp932, latin-1, utf-16), or save it as UTF-8"
    if likely is not None and likely != encoding:
        advice = f"it looks like {likely}: set data.encoding to {likely}, or to the file's own, or save it as UTF-8"
    return TableError(f"{path}, {where}: found {found}, expected text in {encoding}; {advice}")


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
            advice = f"did you mean {folded[nearest[0]]!r}?" if nearest else "correct the name"
            raise TableError(f"{path}: found no column {name!r}, expected one of {listed(there)}; {advice}{hint}")


def file_format(path: Path) -> tuple[str | None, str | None]:
    """Give the format that a name stands for, and its compression.

    The format is csv, tsv, json, parquet, arrow, excel or None; the compression is gzip, zstd, zip or None. Of
    `data.zip` the format is that of its only member; of a folder it is parquet or dataset.
    """
    compression = "zip" if path.suffix.lower() == ".zip" else COMPRESSIONS.get(path.suffix.lower())
    name = path.with_suffix("") if compression else path
    kind = READABLE.get(name.suffix.lower())
    if compression == "zip" and kind is None and path.is_file():
        with suppress(TableError):  # it is said where the file is read
            kind = READABLE.get(Path(zip_member(path)).suffix.lower())
    if kind is None and path.is_dir():
        kind = "dataset" if (path / "state.json").is_file() else "parquet"
    return kind, compression


def refuse_cells(
    path: Path | str, column: str, values: pa.Array, bad: npt.NDArray[np.bool_], *, expected: str, first_row: int = 0
) -> None:
    """Raise `TableError` at the first cell where `bad` [N] is true; the values begin with those of row `first_row`."""
    if bad.any():
        row = int(bad.argmax())
        raise cell_error(path, first_row + row, column, shown(values[row].as_py()), expected=expected)


def cell_error(
    path: Path | str,
    row: int,
    column: str,
    found: str,
    *,
    expected: str,
    advice: str = "correct the cell or remove the row",
) -> TableError:
    """Make the error for one cell; `row` is an index from 0, and the message counts from 1.

    `path` is a file, or what messages call a table that is none.
    """
    return TableError(f"{path}, row {row + 1}, column {column!r}: found {found}, expected {expected}; {advice}")


def shown(value: str | None, length: int = 60) -> str:
    """Quote a cell for a message, cut to `length` characters."""
    if value is None:
        return "nothing"
    return repr(value) if len(value) <= length else f"{value[:length]!r}..."


def listed(names: Sequence[str], count: int = 40) -> str:
    """Quote names for a message, the first `count` of them."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more
