"""A file of rows becomes a `Table`: texts, targets and whatever else each row carries, exactly as written.

Nothing is guessed from a cell's looks: "NA", "null", "001" and "True" stay the texts they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, field_validator, model_validator

from leantune.system.errors import SettingsError, TableError
from leantune.system.settings import Section
from leantune.tables.readers import ReadOptions, cell_error, file_format, listed, read_cells, refuse_cells, shown

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
    """Column to predict; several for several numbers, for labels of 0 and 1, or for shares of classes."""

    id: str | None = None
    """Column that names each row, no two alike; null numbers the rows from 0."""

    group: str | None = None
    """Column whose equal values must not be parted by the folds (author, article), or null."""

    weight: str | None = None
    """Column of each row's weight in the loss (0 or more, of any scale), or null for equal weights."""

    fold: str | None = None
    """Column of the fold in which each row validates (a whole number from 0), or null to make folds."""

    task: Literal["auto", "regression", "binary", "multiclass", "multilabel", "soft"] = "auto"
    """What the target is; auto decides by its values and says why. `soft`, which auto never takes: the targets are the
    shares of classes, 0 or more, which add up to 1 in each row."""

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

    options = ReadOptions(encoding=settings.encoding, delimiter=settings.delimiter, limit=settings.limit)
    cells = read_cells(path, columns, options)
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
            raise cell_error(path, row, column, shown(name), expected=f"another id than that of row {first[name] + 1}")
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
