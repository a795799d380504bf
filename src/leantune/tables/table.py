"""A table, in a file or in memory, becomes a `Table`: texts, targets and whatever else each row carries, as written.

Nothing is guessed from a cell's looks: "NA", "null", "001" and "True" stay the texts they are.
"""

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, InstanceOf, ValidationInfo, field_validator, model_validator

from leantune.system.errors import SettingsError, TableError
from leantune.system.files import sha256_of
from leantune.system.settings import Section
from leantune.tables.containers import parts_of
from leantune.tables.memory import MEMORY, THE_TABLE, MemoryTable, content_sha256
from leantune.tables.readers import (
    Read,
    ReadOptions,
    cell_error,
    drain,
    file_format,
    listed,
    read_column_names,
    reading_cells,
    refuse_cells,
    shown,
)
from leantune.tables.texts import compose_texts, refuse_missing_texts, template_parts

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"

_BLANKS = "[ \u00a0\u202f]"  # also those that do not break a line

MISSING_MARKS = frozenset({"na", "n/a", "#n/a", "nan", "null", "none", "nil", "<na>", "-", "?"})
"""What stands for a missing value in tables, in lower case."""

_A_NUMBER = "a number such as 12, -1.5 or 2e-3"

OWN_ID = "id"
"""A column of this name whose cells all differ names the rows of a file, where `data.id` names no other."""

TRAINING_NAMES = ("train", "training")
VALIDATION_NAMES = ("valid", "validation", "val", "dev", "test")
"""What a column of folds may call the rows that train and those that validate, whatever the case."""

_Columns = Annotated[tuple[str, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)]


class DataSettings(Section):
    """Which file to read, and what its columns are."""

    path: Path | InstanceOf[MemoryTable]
    """CSV, TSV, JSON (lines, or one array), Parquet, Arrow or Excel, by its name: .csv, .tsv, .jsonl, .ndjson, .json,
    .parquet, .feather, .arrow or .xlsx (extra `excel`). All but .xlsx may be compressed: .gz, .zst or .zip follows the
    name. A folder of .parquet parts, or one that `Dataset.save_to_disk` wrote, is one table. The word `memory` stands
    for a table that a program gave to `leantune.train`, which must give it again."""

    validation: Path | InstanceOf[MemoryTable] | None = None
    """A second file, with the same columns, whose rows validate. Then all rows of `path` train, and no folds are made.
    Null makes folds from `path`."""

    text: _Columns = ()
    """Column of the texts, or two columns for pairs of texts. With `template`: the columns that it joins."""

    template: str | None = None
    """How several columns become one text, such as `{title}: {body}`: each column of `text` between braces. Null joins
    none."""

    missing_text: Literal["refuse", "empty", "drop"] = "refuse"
    """What to do with a row that has no text: stop with an error (`refuse`), read an empty text (`empty`), or leave the
    row out (`drop`). `drop` also leaves out rows whose text is empty, since CSV writes a missing text so. A finished
    run that predicts leaves no row out: there `drop` reads an empty text."""

    target: _Columns = ()
    """Column to predict, or several: several numbers, labels of 0 and 1, or shares of classes. `label_*` stands for all
    columns whose names fit it, and `a,b` for two columns, unless a column has exactly that name."""

    id: str | None = None
    """Column that names each row; no two rows of a file may have the same name. Null takes the column `id` if there is
    one and its cells all differ, and otherwise numbers the rows of each file from 0."""

    group: str | None = None
    """Column of groups, such as authors or articles. Rows of one group are always in the same fold. Null is no
    groups."""

    weight: str | None = None
    """Column of each row's weight in the loss: 0 or more, of any scale. Null is equal weights."""

    fold: str | None = None
    """Column with the fold in which each row validates: a whole number from 0. It may also hold two names: train (or
    training) and validation (or valid, val, dev, test). Null makes folds."""

    task: Literal["auto", "regression", "binary", "multiclass", "multilabel", "soft"] = "auto"
    """What the target is. auto decides by its values, and says why. auto never chooses `soft`: there the targets are
    the shares of classes, 0 or more, which add up to 1 in each row."""

    drop_missing: bool = False
    """Leave out the rows whose target is missing: empty, or a mark such as NA, nan or - ."""

    decimal: Literal[".", ","] = "."
    """Decimal separator of numbers in target and weight columns."""

    thousands: Literal[",", ".", " ", "'"] | None = None
    """Thousands separator of numbers in target and weight columns, as in `1,500`. Null allows none; but where `decimal`
    is a comma, it allows a point (`1.500,25`)."""

    class_case: Literal["distinct", "same"] | None = None
    """Whether classes that differ only in case (yes, Yes) are distinct or the same; null refuses them."""

    label_separator: str | None = None
    """What separates the labels in a cell of one target column, such as | in `joy|anger`. An empty cell has no label.
    Null looks for a separator, and says which one it found."""

    encoding: str = "utf-8"
    """Text encoding of CSV, TSV and JSON lines, by Python's names (cp932, latin-1, utf-16)."""

    delimiter: str | None = None
    """One ASCII character between the fields of CSV or TSV; null is a tab for .tsv and a comma for .csv."""

    quoting: Literal["standard", "none"] | None = None
    """For CSV and TSV: whether a quotation mark at the start of a cell begins a quoted cell (`standard`) or is a part
    of the text (`none`). Null is `standard`, but refuses a quoted cell whose lines look like rows."""

    sheet: str | None = None
    """For Excel: the sheet to read. Null takes the only one."""

    limit: int | None = Field(default=None, ge=1)
    """Read only the first rows of each file, this many, for a trial; null reads all."""

    @field_validator("path", "validation", mode="before")
    @classmethod
    def _from_memory(cls, value: Any, info: ValidationInfo) -> Any:
        if value != MEMORY if isinstance(value, str) else not isinstance(value, MemoryTable):
            return value
        data = value.data if isinstance(value, MemoryTable) else None
        name = THE_TABLE if info.field_name == "path" else "the validation table in memory"
        return MemoryTable(data=data, name=name, setting=f"data.{info.field_name}")

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
        if len(self.text) > 2 and self.template is None:
            joined = " ".join(f"{{{name}}}" for name in self.text)
            raise ValueError(
                f"text names {len(self.text)} columns, and a row has one text or a pair: name one or two, or set "
                f"template to {joined!r}, which joins them to one"
            )
        self._check_template()
        if self.thousands == self.decimal:
            raise ValueError(
                f"thousands and decimal are both {self.decimal!r}: set decimal to what separates the decimals"
            )
        if len(set(named)) < len(named):
            raise ValueError(f"text and target name a column twice ({listed(named)}): a column is one thing")
        kinds = {MEMORY if isinstance(path, MemoryTable) else file_format(path)[0] for path in self.files}
        names = " and ".join(path.name for path in self.files)
        found = f"the table is {names}" if MEMORY in kinds else f"the file is {names}"
        for name in ("delimiter", "quoting"):
            if getattr(self, name) is not None and not kinds & {"csv", "tsv", None}:
                raise ValueError(f"{name} is used only for CSV and TSV, and {found}: remove it")
        if self.sheet is not None and not kinds & {"excel", None}:
            raise ValueError(f"sheet is used only for Excel, and {found}: remove it")
        if self.encoding != "utf-8" and not kinds & {"csv", "tsv", "json", None}:
            unused = "a table in memory" if MEMORY in kinds else "Parquet, Arrow and Excel"
            raise ValueError(f"encoding is not used for {unused}, and {found}: remove it")
        if self.validation is not None and self.fold is not None:
            raise ValueError(
                f"validation: not used where fold ({self.fold!r}) gives every row's fold: remove one of them"
            )
        if self.validation is not None and self.group is not None:
            raise ValueError(
                f"group: not used where validation ({self.validation.name}) holds the rows that validate, since no "
                "folds are made: remove one of them"
            )
        return self

    def _check_template(self) -> None:
        if self.template is None:
            return
        try:
            parts = template_parts(self.template)
        except ValueError as error:
            raise ValueError(f"template: found {self.template!r}, which {error}") from None
        used = {column for _, column in parts if column is not None}
        for name in sorted(used.symmetric_difference(self.text)):
            where = "is in template and not in text" if name in used else "is in text and not in template"
            raise ValueError(f"template: the column {name!r} {where}: name the same columns in both")

    @property
    def text_count(self) -> int:
        """How many texts a row has: one, or two for pairs."""
        return 1 if self.template is not None else len(self.text)

    @property
    def files(self) -> tuple[Path | MemoryTable, ...]:
        """What to read: `path`, and `validation` where it is set."""
        return (self.path,) if self.validation is None else (self.path, self.validation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """N rows in the file's order, those of a validation file after all others.

    Targets are still text: what they mean is for `parse_targets` to say.
    """

    path: Path | str
    """Where the rows come from, for messages: a file, or what a table in memory is called there. The last ones come
    from `validation_path` where there is one."""
    texts: tuple[pa.Array, ...]
    """One large_string array (a column may exceed 2 GiB) [N] a text column, without nulls."""
    ids: pa.Array
    """string [N], no two of a file alike."""
    id_column: str | None = None
    """The column of the ids, or None where the rows are numbered."""
    targets: dict[str, pa.Array]
    """Column -> string [N]; never empty, but where `label_separator` is set."""
    groups: pa.Array | None
    """string [N], never empty."""
    weights: npt.NDArray[np.float64] | None
    """[N], finite, 0 or more, their sum positive."""
    folds: npt.NDArray[np.int64] | None
    """[N], 0 or more."""
    holdout: bool = False
    """Whether the folds are a split: fold 0 validates, and fold 1 only trains."""
    validation_path: Path | str | None = None
    """Where the rows that validate come from, as in `path`, or None where all rows come from `path`."""
    limit: int | None = None
    """Rows that were read of `path`, where these are as many as `data.limit` allows: it may have more."""
    kept: npt.NDArray[np.int64] | None = None
    """[N]: each row's number in its file, from 0, where rows were left out."""
    decimal: str = "."
    """What separates the decimals of numbers."""
    thousands: str | None = None
    """What separates thousands in numbers; None as in `DataSettings`."""
    class_case: str | None = None
    """Whether classes that differ only in case are `distinct` or the `same`; None refuses them."""
    label_separator: str | None = None
    """What separates the labels in a cell of one target column; None is for `parse_targets` to find."""
    notes: tuple[str, ...] = ()
    """What the user should know of the files: one or two sentences each."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def row_numbers(self) -> npt.NDArray[np.int64]:
        """[N]: each row's number in its file, from 0."""
        if self.kept is not None:
            return self.kept
        numbers = np.arange(len(self), dtype=np.int64)
        numbers[self._first_count :] -= self._first_count
        return numbers

    @property
    def _first_count(self) -> int:
        """How many rows come from `path`."""
        return len(self) if self.validation_path is None or self.folds is None else int((self.folds != 0).sum())

    def place(self, row: int) -> tuple[Path | str, int]:
        """Return the file of a row, and its number there, from 0."""
        number = row if self.kept is None else int(self.kept[row])
        if self.validation_path is None or row < self._first_count:
            return self.path, number
        return self.validation_path, number if self.kept is not None else number - self._first_count

    def describe_place(self, row: int) -> str:
        """Name a row for a message, which counts from 1: `train.csv, row 7`."""
        path, number = self.place(row)
        return f"{path}, row {number + 1}"

    def refuse_cells(self, column: str, bad: npt.NDArray[np.bool_], *, expected: str) -> None:
        """Raise `TableError` at the first cell of a target column where `bad` [N] is true."""
        if bad.any():
            row = int(bad.argmax())
            path, number = self.place(row)
            found = shown(self.targets[column][row].as_py())
            advice = "correct the cell or remove the row"
            if (count := int(bad.sum())) > max(1, len(bad) // 2):
                advice = (
                    f"{count:,} of {len(bad):,} cells are not: check that data.target is the right column, and write "
                    "the whole column as expected"
                )
            raise cell_error(path, number, column, found, expected=expected, advice=advice)

    def numbers_or_nan(self, cells: pa.Array) -> npt.NDArray[np.float64]:
        """Turn cells into numbers, written as in this table; NaN for one that is none."""
        return numbers_or_nan(cells, self.decimal, self.thousands)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Turn a target column into float64 [N]; raises `TableError` as `parse_numbers` does."""
        numbers = self.numbers_or_nan(self.targets[column])
        self.refuse_cells(column, np.isnan(numbers), expected=_A_NUMBER)
        return numbers


def read_table(settings: DataSettings) -> Table:
    """Read the columns that the settings name, of the table and, after its rows, of the validation file.

    Raises `TableError` where a file, a column or a cell is not what it must be, and `SettingsError` where no column is
    named.
    """
    return drain(reading_table(settings))


def reading_table(settings: DataSettings) -> Generator[Read, None, Table]:
    """Do what `read_table` does, and yield how far it has come in each file."""
    try:
        found = _own_id(settings)
        table = yield from _read_all(settings if found is None else found, id_is_found=found is not None)
    except _NoIdError as error:
        table = yield from _read_all(settings)
        table = replace(table, notes=(*table.notes, str(error)))
    if table.weights is not None and not table.weights.any():
        raise TableError(
            f"{table.path}, column {settings.weight!r}: found only weights of 0, expected a positive one; correct them"
        )
    return table


class _NoIdError(Exception):
    """A column `id` names no rows; the message says why."""


def _own_id(settings: DataSettings) -> DataSettings | None:
    """Return the settings with the column `id` for the ids, where all files have it and it has no other use."""
    used = (*settings.text, *_columns_beside_texts(settings))
    if settings.id is not None or OWN_ID in used:
        return None
    for path in settings.files:
        if isinstance(path, MemoryTable) or OWN_ID not in read_column_names(path.expanduser(), read_options(settings)):
            return None
    return settings.model_copy(update={"id": OWN_ID})


def _read_all(settings: DataSettings, *, id_is_found: bool = False) -> Generator[Read, None, Table]:
    table = yield from _read_one(settings, settings.path, "data.path", id_is_found=id_is_found)
    if settings.validation is not None:
        validation = yield from _read_one(settings, settings.validation, "data.validation", id_is_found=id_is_found)
        table = _join(table, validation)
    return table


def data_sha256(settings: DataSettings) -> str:
    """Return the SHA-256 of the table's file, or, with a validation file, of what tells both and their order.

    That is the SHA-256 of the two files' own, a line each: `sha256sum TRAIN FILE | cut -c -64 | sha256sum`. Of a table
    in memory it is that of the columns that are read (`content_sha256`).
    """
    digests = [
        content_sha256(_memory_cells(settings, path))
        if isinstance(path, MemoryTable)
        else table_sha256(path.expanduser())
        for path in settings.files
    ]
    return _sha256_of_all(digests)


def table_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or, of a folder of several, that of their own, a line each."""
    return _sha256_of_all([sha256_of(part) for part in parts_of(path)])


def _sha256_of_all(digests: list[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _memory_cells(settings: DataSettings, table: MemoryTable) -> dict[str, pa.Array]:
    return table.read(_columns_to_read(settings), texts=settings.text, lists=settings.target, limit=settings.limit)


def _columns_to_read(settings: DataSettings) -> list[str]:
    columns = list(dict.fromkeys((*settings.text, *_columns_beside_texts(settings))))
    if not columns:
        raise SettingsError("data.text and data.target name no column; set data.text to the column of the texts")
    return columns


def _columns_beside_texts(settings: DataSettings) -> tuple[str, ...]:
    others = (settings.id, settings.group, settings.weight, settings.fold)
    return (*settings.target, *(name for name in others if name is not None))


def _join(train: Table, validation: Table) -> Table:
    """Put the rows of the validation file after those that train."""

    def both(one: pa.Array, other: pa.Array) -> pa.Array:
        return pa.concat_arrays([one, other])

    weights = None
    if train.weights is not None and validation.weights is not None:
        weights = np.concatenate([train.weights, validation.weights])
    return Table(
        path=train.path,
        texts=tuple(both(one, other) for one, other in zip(train.texts, validation.texts, strict=True)),
        ids=both(train.ids, validation.ids),
        id_column=train.id_column,
        targets={name: both(cells, validation.targets[name]) for name, cells in train.targets.items()},
        groups=None,
        weights=weights,
        folds=np.repeat(np.array([1, 0], dtype=np.int64), [len(train), len(validation)]),
        holdout=True,
        validation_path=validation.path,
        limit=train.limit,
        kept=None
        if train.kept is None and validation.kept is None
        else np.concatenate([train.row_numbers, validation.row_numbers]),
        decimal=train.decimal,
        thousands=train.thousands,
        class_case=train.class_case,
        label_separator=train.label_separator,
        notes=train.notes + validation.notes,
    )


def _read_one(
    settings: DataSettings, origin: Path | MemoryTable, setting: str, *, id_is_found: bool = False
) -> Generator[Read, None, Table]:
    columns = _columns_to_read(settings)
    path: Path | str
    notes: list[str] = []
    if isinstance(origin, MemoryTable):
        path, header = origin.name, ""
        cells = _memory_cells(settings, origin)
    else:
        path, header = origin.expanduser(), " below the header; check that it is the right file"
        cells = yield from reading_cells(path, columns, read_options(settings, setting, tell=notes.append))
    row_count = len(cells[columns[0]])
    if not row_count:
        raise TableError(f"{path}: found no rows, expected at least one{header}")
    kept = _kept_rows(settings, path, cells, notes)
    if kept is not None:
        cells = {name: column.take(pa.array(kept)) for name, column in cells.items()}
    for column in columns:
        if column not in settings.text:
            if column in settings.target:
                # Of many labels, nothing may stand for none of them: `parse_targets` tells.
                if len(settings.target) == 1 and settings.label_separator is None:
                    refuse_missing_targets(path, column, cells[column], kept)
                continue
            if id_is_found and column == settings.id:
                _refuse_found_id(path, cells[column])
                notes.append(f"{path}: the rows are named by the column {column!r}.")
                continue
            refuse_missing(path, column, cells[column], empty_too=True, rows=kept)

    texts = compose_texts(
        [cells[name] for name in settings.text],
        settings.text,
        template=settings.template,
        missing_text=settings.missing_text,
    )
    strings = {name: cells[name].cast(pa.string()) for name in _columns_beside_texts(settings)}
    if settings.id is None:
        ids = pa.array(np.arange(row_count) if kept is None else kept).cast(pa.string())
    else:
        ids = strings[settings.id]
        refuse_duplicates(path, settings.id, ids)
    folds, holdout = None, False
    if settings.fold is not None:
        folds, holdout = _parse_folds(path, settings.fold, strings[settings.fold])
    weights = None
    if settings.weight is not None:
        weights = _parse_weights(path, settings, strings[settings.weight])
    return Table(
        path=path,
        texts=texts,
        ids=ids,
        id_column=settings.id,
        targets={name: strings[name] for name in settings.target},
        groups=None if settings.group is None else strings[settings.group],
        weights=weights,
        folds=folds,
        holdout=holdout,
        limit=settings.limit if settings.limit == row_count else None,
        kept=kept,
        decimal=settings.decimal,
        thousands=settings.thousands,
        class_case=settings.class_case,
        label_separator=settings.label_separator,
        notes=tuple(notes),
    )


def _refuse_found_id(path: Path | str, ids: pa.Array) -> None:
    """Raise `_NoIdError` where cells of a column that nobody named for the ids are missing, or not all different."""
    missing = pc.sum(pc.or_kleene(pc.is_null(ids), pc.equal(pc.utf8_trim_whitespace(ids), ""))).as_py()
    again = len(ids) - pc.count_distinct(ids, mode="all").as_py()
    if missing or again:
        what = "missing cells" if missing else "cells that stand twice"
        raise _NoIdError(
            f"{path}: the rows are numbered, since the column {OWN_ID!r} has {what}; set data.id if another column "
            "names the rows."
        )


def read_options(
    settings: DataSettings, setting: str = "data.path", tell: Callable[[str], None] | None = None
) -> ReadOptions:
    """Return how the file of a table is read."""
    return ReadOptions(
        encoding=settings.encoding,
        delimiter=settings.delimiter,
        limit=settings.limit,
        quoting=settings.quoting,
        sheet=settings.sheet,
        lists=settings.target,
        setting=setting,
        tell=tell,
    )


def is_missing_mark(cells: pa.Array) -> npt.NDArray[np.bool_]:
    """Tell which cells stand for a missing value [N]: nothing, blanks, or a mark such as NA."""
    marks = pa.array(["", *MISSING_MARKS], cells.type)
    found = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(cells)), marks)
    return np.asarray(pc.or_(pc.is_null(cells), found).to_numpy(zero_copy_only=False))


def _kept_rows(
    settings: DataSettings, path: Path | str, cells: dict[str, pa.Array], notes: list[str]
) -> npt.NDArray[np.int64] | None:
    """Return the rows that stay, or None for all; tell how many were left out, and how many texts are empty."""
    total = len(next(iter(cells.values())))
    left_out = np.zeros(total, dtype=bool)
    for name in settings.text:
        missing = pc.is_null(cells[name]).to_numpy(zero_copy_only=False)
        if settings.missing_text == "refuse":
            refuse_missing_texts(path, name, missing)
        empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(cells[name], ""))), 0)
        empty = empty.to_numpy(zero_copy_only=False)
        if settings.missing_text == "drop":
            left_out |= empty
        elif empty.any():
            rows = f"{int(empty.sum()):,} of {total:,} rows"
            advice = "; set data.missing_text to drop to leave them out"
            notes.append(
                f"{path}, column {name!r}: {rows} have an empty text, such as row {empty.argmax() + 1}{advice}."
            )
    if texts_left_out := int(left_out.sum()):
        notes.append(f"{path}: {texts_left_out:,} of {total:,} rows are left out, for they have no text.")
    if settings.drop_missing:
        for name in settings.target:
            left_out |= is_missing_mark(cells[name])
        if targets_left_out := int(left_out.sum()) - texts_left_out:
            notes.append(f"{path}: {targets_left_out:,} of {total:,} rows are left out, for they have no target.")
    if not left_out.any():
        return None
    if left_out.all():
        raise TableError(f"{path}: found no row with a text and a target, expected at least one; check the columns")
    return np.flatnonzero(~left_out).astype(np.int64, copy=False)


def parse_numbers(
    path: Path | str, column: str, values: pa.Array, decimal: str = ".", thousands: str | None = None
) -> npt.NDArray[np.float64]:
    """Turn a column of decimal literals into float64 [N].

    Raises `TableError` at the first cell that is anything else: "nan", "inf", "1_000", "1,5", "0x10", the empty text,
    or a number too large for float64.
    """
    numbers = numbers_or_nan(values, decimal, thousands)
    refuse_cells(path, column, values, np.isnan(numbers), expected=_A_NUMBER)
    return numbers


def numbers_or_nan(values: pa.Array, decimal: str = ".", thousands: str | None = None) -> npt.NDArray[np.float64]:
    """Give float64 [N] with NaN wherever a cell is not a finite decimal literal (whitespace around it is fine).

    With a decimal comma, a point separates thousands unless something else is said to: `1.500,25`. Separated thousands
    are groups of three digits.
    """
    trimmed = pc.utf8_trim_whitespace(values)
    between = thousands or ("." if decimal == "," else None)
    if between is not None:
        group, point = _BLANKS if between == " " else f"[{between}]", f"[{decimal}]"
        whole = f"([0-9]+|[0-9]{{1,3}}({group}[0-9]{{3}})+)"
        literal = f"^[+-]?({whole}({point}[0-9]*)?|{point}[0-9]+)([eE][+-]?[0-9]+)?$"
        fits = pc.match_substring_regex(trimmed, literal)
        plain = pc.replace_substring(pc.replace_substring_regex(trimmed, group, ""), decimal, ".")
        trimmed = pc.if_else(fits, plain, pa.scalar(None, trimmed.type))
    # The pattern alone decides what is a number: casting also accepts "nan", "inf" and whatever a later pyarrow adds.
    literals = pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, pa.scalar(None, trimmed.type))
    numbers = pc.utf8_ltrim(literals, characters="+").cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def refuse_missing(
    path: Path | str, column: str, values: pa.Array, *, empty_too: bool, rows: npt.NDArray[np.int64] | None = None
) -> None:
    """Raise `TableError` at the first cell that is missing, or, with `empty_too`, empty.

    `rows` are the rows' numbers in the file, where some were left out.
    """
    missing = pc.is_null(values)
    if empty_too:
        missing = pc.or_kleene(missing, pc.equal(pc.utf8_trim_whitespace(values), ""))
    expected = "a value" if empty_too else "a text (it may be empty)"
    bad = missing.to_numpy(zero_copy_only=False)
    if rows is not None and bad.any():
        row = int(bad.argmax())
        raise cell_error(path, int(rows[row]), column, shown(values[row].as_py()), expected=expected)
    refuse_cells(path, column, values, bad, expected=expected)


def refuse_missing_targets(
    path: Path | str, column: str, values: pa.Array, rows: npt.NDArray[np.int64] | None = None
) -> None:
    """Raise `TableError` where targets are missing or empty, which says how many; `rows` are as for refuse_missing."""
    missing = pc.or_kleene(pc.is_null(values), pc.equal(pc.utf8_trim_whitespace(values), ""))
    bad = missing.to_numpy(zero_copy_only=False)
    if count := int(bad.sum()):
        row = int(bad.argmax())
        number = row if rows is None else int(rows[row])
        advice = f"{missing_count(count, len(bad))}; set data.drop_missing to true (--drop-missing) to leave them out"
        raise cell_error(path, number, column, shown(values[row].as_py()), expected="a value", advice=advice)


def missing_count(count: int, total: int) -> str:
    """Say in how many rows a value is missing."""
    return "1 row has none" if count == 1 else f"{count:,} of {total:,} rows have none"


def refuse_duplicates(path: Path | str, column: str, ids: pa.Array) -> None:
    """Raise `TableError` at the first id that stood before."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    first: dict[str, int] = {}
    for row, name in enumerate(ids.to_pylist()):
        if name in first:
            raise cell_error(path, row, column, shown(name), expected=f"another id than that of row {first[name] + 1}")
        first[name] = row


def _parse_weights(path: Path | str, settings: DataSettings, values: pa.Array) -> npt.NDArray[np.float64]:
    column = str(settings.weight)
    weights = parse_numbers(path, column, values, settings.decimal, settings.thousands)
    refuse_cells(path, column, values, weights < 0, expected="a weight of 0 or more")
    return weights


def _parse_folds(path: Path | str, column: str, values: pa.Array) -> tuple[npt.NDArray[np.int64], bool]:
    """Return the fold of each row [N], and whether the column names the rows that train and those that validate."""
    numbers = numbers_or_nan(values)
    if np.isnan(numbers).all():
        return _parse_split(path, column, values), True
    # NaN is unequal to itself, too.
    bad = (numbers < 0) | (numbers != np.floor(numbers)) | (numbers >= 2**31)
    expected = "the number of a fold: a whole number from 0, as in other rows"
    refuse_cells(path, column, values, bad, expected=expected)
    return numbers.astype(np.int64), False


def _parse_split(path: Path | str, column: str, values: pa.Array) -> npt.NDArray[np.int64]:
    """Return 0 for the rows whose cell says that they validate, and 1 for those that train [N]."""
    cells = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    allowed = (
        f"{' or '.join(TRAINING_NAMES)} for rows that train and {_one_of(VALIDATION_NAMES)} for rows that validate"
    )
    trains, validates = (
        pc.is_in(cells, pa.array(names, cells.type)).to_numpy(zero_copy_only=False)
        for names in (TRAINING_NAMES, VALIDATION_NAMES)
    )
    expected = f"the number of a fold (a whole number from 0), or {allowed}"
    refuse_cells(path, column, values, ~(trains | validates), expected=expected)
    if len(found := sorted(pc.unique(cells).to_pylist())) != 2 or trains.all() or validates.all():
        raise TableError(
            f"{path}, column {column!r}: found {listed(found)}, expected two names: {allowed}; give all rows that "
            "train one name and all rows that validate another, and remove other rows"
        )
    return np.where(validates, 0, 1).astype(np.int64)


def _one_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
