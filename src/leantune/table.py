"""A file of rows becomes a `Table`: texts, targets and whatever else each row carries, exactly as written.

Nothing is guessed from a cell's looks: "NA", "null", "001" and "True" stay the texts they are. Whatever cannot be read
for certain is a `TableError` that names the file, the row and the column. Rows are numbered from 1 in messages; the
header and blank lines are not counted.
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
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field, field_validator, model_validator

from leantune.errors import SettingsError, TableError
from leantune.settings import Section

_FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet",
}  # fmt: skip
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_CHUNK_ROWS = 10_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"

_Columns = Annotated[tuple[str, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)]


class DataSettings(Section):
    """Which file to read, and what its columns are."""

    path: Path
    """CSV, TSV, JSON lines or Parquet, by its name: .csv, .tsv, .jsonl, .ndjson, .json or .parquet, or one of these
    followed by .gz or .zst."""

    text: _Columns = ()
    """Column of the texts, or two columns for pairs of texts."""

    target: _Columns = ()
    """Column to predict; several for several numbers, or for labels of 0 and 1. Empty for a table to predict on."""

    id: str | None = None
    """Column that names each row, no two alike; null numbers the rows from 0."""

    group: str | None = None
    """Column whose equal values must not be parted by the folds (author, article), or null."""

    weight: str | None = None
    """Column of each row's weight in the loss (0 or more, of any scale), or null for equal weights."""

    fold: str | None = None
    """Column of the fold in which each row validates (a whole number from 0), or null to make folds."""

    task: Literal["auto", "regression", "binary", "multiclass", "multilabel"] = "auto"
    """What the target is; auto decides by its values and says why."""

    encoding: str = "utf-8"
    """Text encoding of CSV, TSV and JSON lines, by Python's names (cp932, latin-1, utf-16)."""

    delimiter: str | None = None
    """One ASCII character between the fields of CSV or TSV; null is a tab for .tsv and a comma for .csv."""

    limit: int | None = Field(default=None, ge=1)
    """Read only the first rows, this many, for a trial; null reads all."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError(f"{encoding!r} is no text encoding that Python knows; try utf-8 or cp932") from None
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'):
            raise ValueError(f"found {delimiter!r}, expected one ASCII character, neither a quote nor a line break")
        return delimiter

    @model_validator(mode="after")
    def _settings_agree(self) -> "DataSettings":
        named = (*self.text, *self.target)
        if len(self.text) > 2:
            raise ValueError(f"text names {len(self.text)} columns, and a row has one text or a pair: name one or two")
        if len(set(named)) < len(named):
            raise ValueError(f"text and target name a column twice ({listed(named)}): a column is one thing")
        kind, _ = file_format(self.path)
        if self.delimiter is not None and kind in {"json", "parquet"}:
            raise ValueError(f"delimiter is used only for CSV and TSV, and the file is {self.path.name}: remove it")
        if self.encoding != "utf-8" and kind == "parquet":
            raise ValueError(f"encoding is not used for Parquet, and the file is {self.path.name}: remove it")
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """N rows in the file's order. Targets are still text: what they mean is for `parse_targets` to say."""

    path: Path
    """Where the rows come from, for messages."""
    texts: tuple[pa.Array, ...]
    """One large_string array (a column may exceed 2 GiB) [N] a text column, without nulls."""
    ids: pa.Array
    """string [N], no two alike."""
    targets: dict[str, pa.Array]
    """Column -> string [N], never empty."""
    groups: pa.Array | None
    """string [N], never empty."""
    weights: npt.NDArray[np.float64] | None
    """[N], finite, 0 or more, their sum positive."""
    folds: npt.NDArray[np.int64] | None
    """[N], 0 or more."""

    def __len__(self) -> int:
        return len(self.ids)


def read_table(settings: DataSettings) -> Table:
    """Read the columns that the settings name.

    Raises `TableError` where the file, a column or a cell is not what it must be, and `SettingsError` where no column
    is named.
    """
    path = settings.path.expanduser()
    others = [name for name in (settings.id, settings.group, settings.weight, settings.fold) if name is not None]
    columns = list(dict.fromkeys([*settings.text, *settings.target, *others]))
    if not columns:
        raise SettingsError("data.text and data.target name no column; set data.text to the column of the texts")

    cells = _read_cells(path, columns, settings)
    if not len(cells[columns[0]]):
        raise TableError(
            f"{path}: found no rows, expected at least one below the header; check that it is the right file"
        )
    for column in columns:
        _refuse_missing(path, column, cells[column], empty_too=column not in settings.text)

    texts = tuple(cells[name] for name in settings.text)
    strings = {name: cells[name].cast(pa.string()) for name in (*settings.target, *others)}
    if settings.id is None:
        ids = pa.array(np.arange(len(cells[columns[0]]))).cast(pa.string())
    else:
        ids = strings[settings.id]
        _refuse_duplicates(path, settings.id, ids)
    return Table(
        path=path,
        texts=texts,
        ids=ids,
        targets={name: strings[name] for name in settings.target},
        groups=None if settings.group is None else strings[settings.group],
        weights=None if settings.weight is None else _parse_weights(path, settings.weight, strings[settings.weight]),
        folds=None if settings.fold is None else _parse_folds(path, settings.fold, strings[settings.fold]),
    )


def parse_numbers(path: Path, column: str, values: pa.Array) -> npt.NDArray[np.float64]:
    """Turn a column of decimal literals into float64 [N].

    Raises `TableError` at the first cell that is anything else: "nan", "inf", "1_000", "1,5", "0x10", the empty text,
    or a number too large for float64.
    """
    numbers = numbers_or_nan(values)
    refuse_cells(path, column, values, np.isnan(numbers), expected="a number such as 12, -1.5 or 2e-3")
    return numbers


def numbers_or_nan(values: pa.Array) -> npt.NDArray[np.float64]:
    """Give float64 [N] with NaN wherever a cell is not a finite decimal literal (whitespace around it is fine)."""
    trimmed = pc.utf8_trim_whitespace(values)
    # The pattern alone decides what is a number: casting also accepts "nan", "inf" and whatever a later pyarrow adds.
    literals = pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, pa.scalar(None, trimmed.type))
    numbers = pc.utf8_ltrim(literals, characters="+").cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def file_format(path: Path) -> tuple[str | None, str | None]:
    """Give the format (csv, tsv, json, parquet or None) and compression (gzip, zstd or None) that a name stands for."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    name = path.with_suffix("") if compression else path
    return _FORMATS.get(name.suffix.lower()), compression


def refuse_cells(path: Path, column: str, values: pa.Array, bad: npt.NDArray[np.bool_], *, expected: str) -> None:
    """Raise `TableError` at the first cell where `bad` [N] is true."""
    if bad.any():
        row = int(bad.argmax())
        raise _cell_error(path, row, column, shown(values[row].as_py()), expected=expected)


def shown(value: str | None, length: int = 60) -> str:
    """Quote a cell for a message, cut to `length` characters."""
    if value is None:
        return "nothing"
    return repr(value) if len(value) <= length else f"{value[:length]!r}..."


def listed(names: Sequence[str], count: int = 40) -> str:
    """Quote names for a message, the first `count` of them."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more


def _read_cells(path: Path, columns: list[str], settings: DataSettings) -> dict[str, pa.Array]:
    """Read the columns as large_string arrays [N]; a null is a cell that is not there."""
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise TableError(f"{path}: found a folder, expected a file; set data.path to the table in it")
    except OSError as error:
        raise TableError(f"{path}: found no readable file ({error.strerror}); correct data.path") from None
    kind, _ = file_format(path)
    if kind is None:
        raise TableError(
            f"{path}: found the file name extension {path.suffix!r}, expected one of {', '.join(_FORMATS)}, "
            f"which {' or '.join(_COMPRESSIONS)} may follow; rename or convert the file"
        )
    return (_read_parquet if kind == "parquet" else _read_lines)(path, columns, settings)


def _read_lines(path: Path, columns: list[str], settings: DataSettings) -> dict[str, pa.Array]:
    """Read CSV or JSON lines, a chunk of rows at a time.

    Bytes that do not fit the encoding become lone surrogates, which no arrow array takes: so only those in a needed
    column are an error, and it knows its row.
    """
    kind, compression = file_format(path)
    encoding = "utf-8-sig" if codecs.lookup(settings.encoding).name == "utf-8" else settings.encoding
    chunks: dict[str, list[pa.Array]] = {name: [] for name in columns}
    count = 0
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            newline = "\n" if kind == "json" else ""
            lines = io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)
            rows = (_json_rows if kind == "json" else _csv_rows)(lines, path, columns, settings)
            rows = islice(rows, settings.limit)
            while chunk := list(islice(rows, _CHUNK_ROWS)):
                for name, cells in zip(columns, zip(*chunk, strict=True), strict=True):
                    chunks[name].append(_strings(cells, path, name, count, settings.encoding))
                count += len(chunk)
    except UnicodeError:
        raise _undecodable(path, f"after row {count}", settings.encoding) from None
    except OSError as error:
        what = f"a whole {compression} file; copy or compress it again" if compression else "a file that can be read"
        raise TableError(f"{path}: found {_one_line(error)}, expected {what}") from None
    return {name: pa.chunked_array(parts, pa.large_string()).combine_chunks() for name, parts in chunks.items()}


def _csv_rows(
    lines: Iterable[str], path: Path, columns: list[str], settings: DataSettings
) -> Iterator[Sequence[str | None]]:
    """Yield the needed cells of each row.

    The standard library's reader, for in strict mode it is the one that refuses a stray quote: to pyarrow and pandas,
    a quote at the start of a text opens a cell that swallows all rows up to the next quote, without a word.
    """
    delimiter = settings.delimiter or ("\t" if file_format(path)[0] == "tsv" else ",")
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
        if any(_SURROGATE.search(name) or "\0" in name for name in header):
            hint = f" (the header is not {settings.encoding}: set data.encoding)"
        elif len(header) == 1:
            hint = f" (set data.delimiter if the fields are not separated by {delimiter!r})"
        _check_columns(path, header, columns, hint)
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
    lines: Iterable[str], path: Path, columns: list[str], settings: DataSettings
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
            why = f" ({_one_line(error)})"
        if not isinstance(record, dict):
            if _SURROGATE.search(line):  # the usual reason: the second byte of many cp932 characters is a backslash
                raise _undecodable(path, f"row {row + 1}", settings.encoding)
            raise TableError(
                f"{path}, row {row + 1}: found {shown(line)}{why}, expected one JSON object on a line of its own; "
                "correct the line, or write the table as JSON lines"
            )
        if row == 0:
            _check_columns(path, list(record), columns)
        cells = [record.get(name) for name in columns]
        for place, cell in enumerate(cells):
            if isinstance(cell, list | dict):
                found = "a list" if isinstance(cell, list) else "an object"
                raise _cell_error(path, row, columns[place], found, expected="a text, a number, true or false")
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
        row = next(row for row, cell in enumerate(cells) if cell and _SURROGATE.search(cell))
        where = f"row {first_row + row + 1}, column {column!r}"
        raise _undecodable(path, where, encoding, found=shown(cells[row])) from None


def _read_parquet(path: Path, columns: list[str], settings: DataSettings) -> dict[str, pa.Array]:
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
            _check_columns(path, schema.names, columns)
            for name in columns:
                if pa.types.is_nested(schema.field(name).type):
                    raise TableError(
                        f"{path}, column {name!r}: found the type {schema.field(name).type}, expected a text or a "
                        "number in each row; write the column as text"
                    )
            for batch in file.iter_batches(columns=columns):
                for name in columns:
                    chunks[name].append(_as_text(batch.column(name)))
                count += len(batch)
                if settings.limit is not None and count >= settings.limit:
                    break
    except (pa.ArrowException, OSError) as error:
        what = f"Parquet in a whole {compression} file" if compression else "a whole Parquet file of texts and numbers"
        raise TableError(f"{path}: found {_one_line(error)}, expected {what}; write it again") from None
    cells = {name: pa.chunked_array(parts, pa.large_string()).combine_chunks() for name, parts in chunks.items()}
    return {name: values[: settings.limit] for name, values in cells.items()}


def _as_text(values: pa.Array) -> pa.Array:
    """Write scalars as text; NaN becomes null, for both stand for a missing number."""
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


def _check_columns(path: Path, there: list[str], needed: Iterable[str], hint: str = "") -> None:
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


def _refuse_missing(path: Path, column: str, values: pa.Array, *, empty_too: bool) -> None:
    missing = pc.is_null(values)
    if empty_too:
        missing = pc.or_kleene(missing, pc.equal(pc.utf8_trim_whitespace(values), ""))
    expected = "a value" if empty_too else "a text (it may be empty)"
    refuse_cells(path, column, values, missing.to_numpy(zero_copy_only=False), expected=expected)


def _refuse_duplicates(path: Path, column: str, ids: pa.Array) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    first: dict[str, int] = {}
    for row, name in enumerate(ids.to_pylist()):
        if name in first:
            raise _cell_error(path, row, column, shown(name), expected=f"another id than that of row {first[name] + 1}")
        first[name] = row


def _parse_weights(path: Path, column: str, values: pa.Array) -> npt.NDArray[np.float64]:
    weights = parse_numbers(path, column, values)
    refuse_cells(path, column, values, weights < 0, expected="a weight of 0 or more")
    if not weights.any():
        raise TableError(f"{path}, column {column!r}: found only weights of 0, expected a positive one; correct them")
    return weights


def _parse_folds(path: Path, column: str, values: pa.Array) -> npt.NDArray[np.int64]:
    numbers = parse_numbers(path, column, values)
    bad = (numbers < 0) | (numbers != np.floor(numbers)) | (numbers >= 2**31)
    refuse_cells(path, column, values, bad, expected="the number of a fold: a whole number from 0")
    return numbers.astype(np.int64)


def _cell_error(path: Path, row: int, column: str, found: str, *, expected: str) -> TableError:
    """Make the error for one cell; `row` is an index from 0, and the message counts from 1."""
    return TableError(
        f"{path}, row {row + 1}, column {column!r}: found {found}, expected {expected}; "
        "correct the cell or remove the row"
    )


def _one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split()).rstrip(".")
