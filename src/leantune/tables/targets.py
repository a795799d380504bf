"""The target columns become numbers: what kind of task they are, its classes, and one value or class a row.

The kind follows from the set of cells alone, so that shuffling the rows never changes it.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leantune.system.errors import SettingsError, TableError
from leantune.tables.labels import Labels, label_matrix, read_labels
from leantune.tables.readers import cell_error, listed, shown
from leantune.tables.table import (
    MISSING_MARKS,
    Table,
    is_missing_mark,
    missing_count,
    numbers_or_nan,
    refuse_missing_targets,
)

TaskKind = Literal["regression", "binary", "multiclass", "multilabel", "soft"]

_MOST_WHOLE_NUMBER_CLASSES = 20
_SHARES_TOLERANCE = 1e-3
_MOSTLY_NUMBERS = 0.9  # share of numbers from which a cell that is none is a mistake, not a class name
_COMMA_THOUSANDS = "thousands that a comma separates"
_DECIMAL_COMMA = "a decimal comma"
_BLANK_GROUPS = r"^[+-]?[1-9][0-9]{0,2}([ \x{a0}\x{202f}][0-9]{3})+"
_OTHER_NUMBERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (_COMMA_THOUSANDS, r"^[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?$", ("data.thousands to ','",)),
    (_DECIMAL_COMMA, r"^[+-]?[0-9]+,[0-9]+$", ("data.decimal to ','",)),
    ("thousands that a blank separates", _BLANK_GROUPS + r"(\.[0-9]+)?$", ("data.thousands to ' '",)),
    (
        "thousands that a blank separates and a decimal comma",
        _BLANK_GROUPS + ",[0-9]+$",
        ("data.thousands to ' '", "data.decimal to ','"),
    ),
    ("a percent sign", r"^[+-]?[0-9][0-9.,]*\s*%$", ()),
    ("a currency sign", r"^[+-]?[$€£¥]\s*[0-9][0-9.,]*$|^[+-]?[0-9][0-9.,]*\s*[$€£¥]$", ()),
)
"""How else numbers are written: in words, the pattern of such a cell, and the settings that read it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What N rows are trained to predict."""

    kind: TaskKind
    columns: tuple[str, ...]
    """The K target columns."""
    classes: tuple[str, ...]
    """Names of the classes as written: the labels (sorted as numbers if all are whole numbers, else as text), for
    multilabel and soft the columns, and none for regression."""
    values: npt.NDArray[np.float64] | npt.NDArray[np.int64]
    """float64 [N, K] for regression, multilabel (0 or 1; NaN for a label that was not scored) and soft (shares that add
    up to 1 in each row), int64 [N] index into `classes` otherwise."""
    reason: str
    """One sentence for the user: how the kind was chosen."""

    def readable(self, rows: npt.NDArray[np.int64]) -> pa.Array:
        """Return the targets of some rows as the table has them: numbers, class names, or a list a row for several."""
        if self.kind in {"binary", "multiclass"}:
            return pa.array(self.classes).take(pa.array(self.values[rows]))
        if self.kind == "multilabel":
            return column_of(self.values[rows], nan_is_missing=True)
        return column_of(self.values[rows])

    def describe(self, rows: npt.NDArray[np.int64]) -> str:
        """Return how the targets of some rows are spread, in a few words for the user."""
        if self.kind in {"binary", "multiclass"}:
            counts = np.bincount(self.values[rows].astype(np.int64), minlength=len(self.classes))
            said = ", ".join(f"{name}: {count:,}" for name, count in zip(self.classes[:6], counts, strict=False))
            return said + _more(len(self.classes) - 6)
        values = self.values[rows]
        known = ~np.isnan(values)
        means = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        names = self.classes or self.columns
        said = ", ".join(f"{name} {mean:.3g}" for name, mean in zip(names[:6], means, strict=False))
        return f"mean {said}{_more(len(names) - 6)}"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def column_of(values: npt.NDArray[np.float64] | npt.NDArray[np.int64], *, nan_is_missing: bool = False) -> pa.Array:
    """Return values [n, K] as a column of n rows: a number each where K is 1, else a list of K."""
    flat = pa.array(values.reshape(-1), from_pandas=nan_is_missing)
    if values.shape[1] == 1:
        return flat
    # Straight from one array to the other: Python's own lists would take seven times the memory.
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(pa.list_(flat.type))


def parse_targets(table: Table, task: Literal["auto"] | TaskKind) -> Targets:
    """Infer what the targets are, or check that they are what the user set.

    With `auto`, several columns are labels if every cell is 0 or 1, else numbers; that they are shares of classes
    (soft) is for the user to say. One column is

    - binary for the numbers 0 and 1,
    - binary or multiclass for at most 20 different whole numbers, none written with a decimal point,
    - regression for other numbers,
    - an error if at least 90 % of the cells are numbers, or all but the usual marks of a missing value ("NA"),
    - binary or multiclass for other texts, unless nearly every row has one of its own.

    Raises `TableError` at the first cell that does not fit, or if there is nothing to tell apart (one value only), and
    `SettingsError` where the task does not fit the number of columns.
    """
    columns = tuple(table.targets)
    if not columns:
        raise SettingsError("data.target names no column, expected at least one to train on; set data.target")
    if len(columns) == 1 and task == "soft":
        raise SettingsError(
            f"data.task is soft, and data.target names one column ({listed(columns)}), expected one column of shares a "
            "class, at least two; name the others, or set data.task to regression"
        )
    if table.label_separator is not None and (len(columns) > 1 or task not in ("auto", "multilabel")):
        raise SettingsError(
            "data.label_separator: used only for one target column of labels (data.task auto or multilabel); remove it"
        )
    if len(columns) == 1 and task in ("auto", "multilabel"):
        if task == "auto" and table.label_separator is None:
            _refuse_other_numbers(table, columns[0], task)
        labels = read_labels(table, columns[0])
        if labels is not None:
            return _parse_labels(table, columns[0], labels)
    matrix = label_matrix(table, columns) if len(columns) > 1 else None
    if matrix is not None and task in ("auto", "multilabel"):
        return _parse_scored(table, columns, matrix, task)
    if len(columns) > 1:
        if task in {"binary", "multiclass"}:
            return _parse_one_hot(table, columns, matrix, task)
        for column in columns:
            refuse_missing_targets(table.path, column, table.targets[column], table.kept)
    if task == "auto":
        kind, reason = _infer_columns(table) if len(columns) > 1 else _infer_column(table, columns[0])
    else:
        kind, reason = task, f"{task}: data.task is set."
    if kind in {"binary", "multiclass"}:
        return _parse_classes(table, columns[0], kind, reason)
    if kind == "regression":
        for column in columns:
            _refuse_other_numbers(table, column, "regression")
    return _parse_matrix(table, columns, kind, reason)


def _parse_labels(table: Table, column: str, labels: Labels) -> Targets:
    if len(labels.names) < 2:
        raise TableError(
            f"{table.path}, column {column!r}: found {len(labels.names)} label ({listed(labels.names)}) in all cells, "
            "expected at least two; check that data.target is the right column"
        )
    reason = (
        f"multilabel: column {column!r} holds {len(labels.names)} different labels; {labels.how}. Set data.task to "
        "multiclass if each cell is one class."
    )
    return Targets(kind="multilabel", columns=(column,), classes=labels.names, values=labels.values, reason=reason)


def _parse_scored(
    table: Table, columns: tuple[str, ...], values: npt.NDArray[np.float64], task: Literal["auto"] | TaskKind
) -> Targets:
    """Return the targets of columns of 0 and 1, of which -1 stands for a label that was not scored."""
    reason = f"multilabel: every cell of the {len(columns)} target columns is 0 or 1."
    if task != "auto":
        reason = "multilabel: data.task is set."
    elif (values.sum(axis=1) == 1).all():
        reason += (
            " Each row has exactly one 1: set data.task to multiclass if the columns are classes, of which each row "
            "has one."
        )
    not_scored = np.isnan(values)
    if not_scored.any():
        reason += f" {int(not_scored.sum()):,} cells are -1, not scored: they count neither in the loss nor in metrics."
    for name, bad in zip(columns, not_scored.T, strict=True):
        if bad.all():
            raise TableError(
                f"{table.path}, column {name!r}: found -1 (not scored) in every row, expected 0 or 1 in some; leave "
                "the column out"
            )
    if all(np.nanmin(column) == np.nanmax(column) for column in values.T):
        raise _one_value(table, columns[0])
    return Targets(kind="multilabel", columns=columns, classes=columns, values=values, reason=reason)


def _parse_one_hot(
    table: Table, columns: tuple[str, ...], values: npt.NDArray[np.float64] | None, kind: TaskKind
) -> Targets:
    if kind == "binary" and len(columns) > 2:
        raise SettingsError(
            f"data.task is binary, and data.target names {len(columns)} columns ({listed(columns)}); name one column, "
            "or set data.task to multiclass, multilabel, soft or regression"
        )
    places = _one_hot(table, columns, values, kind)
    if len(np.unique(places)) == 1:
        raise _one_value(table, columns[0])
    reason = f"{kind}: data.task is set, and each of the {len(columns)} target columns is a class."
    return Targets(kind=kind, columns=columns, classes=columns, values=places, reason=reason)


def _one_hot(
    table: Table, columns: tuple[str, ...], values: npt.NDArray[np.float64] | None, kind: TaskKind
) -> npt.NDArray[np.int64]:
    """Return the class of each row [N], whose columns hold 0 and one 1."""
    if values is None:
        raise SettingsError(
            f"data.task is {kind}, and data.target names {len(columns)} columns ({listed(columns)}) whose cells are "
            "not 0 and 1; name one column, or set data.task to multilabel, soft or regression"
        )
    wrong = (np.nan_to_num(values, nan=2).sum(axis=1) != 1) | np.isnan(values).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise TableError(
            f"{table.describe_place(row)}, columns {listed(columns, 6)}: found {int(np.nansum(values[row]))} cells "
            f"that are 1, expected exactly one, as data.task is {kind}; {int(wrong.sum()):,} of {len(wrong):,} rows "
            "are like that: correct them, or set data.task to multilabel"
        )
    places: npt.NDArray[np.int64] = values.argmax(axis=1)
    return places


def _refuse_other_numbers(table: Table, column: str, task: Literal["auto"] | TaskKind) -> None:
    """Refuse a column of numbers that are written in another way: each would be the name of a class.

    A cell is of the first of the ways that it fits, so that `1,500` is never taken for 1.5: where other cells have a
    decimal comma for certain, the column can be read in two ways, and neither is offered.
    """
    cells = pc.utf8_trim_whitespace(pc.unique(table.targets[column]).drop_null())
    cells = cells.filter(pa.array(~is_missing_mark(cells)))
    explained = ~np.isnan(table.numbers_or_nan(cells))
    seen: dict[str, tuple[str, tuple[str, ...]]] = {}
    for what, pattern, remedy in _OTHER_NUMBERS:
        fits = pc.match_substring_regex(cells, pattern).to_numpy(zero_copy_only=False) & ~explained
        if fits.any():
            seen[what] = cells[int(fits.argmax())].as_py(), remedy
        explained |= fits
    if not seen or explained.mean() < _MOSTLY_NUMBERS:
        return
    found = " and ".join(f"numbers with {what} ({example!r})" for what, (example, _) in seen.items())
    ways = ["write the column as plain numbers"]
    needed = sorted({setting for _, settings in seen.values() for setting in settings}, reverse=True)
    if all(settings for _, settings in seen.values()) and not (_COMMA_THOUSANDS in seen and len(seen) > 1):
        ways.insert(0, f"set {' and '.join(needed)}")
    if task == "auto":
        if _DECIMAL_COMMA in seen:
            ways.append("set data.label_separator to ',' if the cells are labels")
        ways.append("set data.task to multiclass if they are class names")
    raise TableError(
        f"{table.path}, column {column!r}: found {found}, expected numbers such as 12, -1.5 or 2e-3; "
        + ", or ".join(ways)
    )


def parse_known_targets(
    table: Table, kind: TaskKind, classes: tuple[str, ...]
) -> npt.NDArray[np.float64] | npt.NDArray[np.int64]:
    """Return the targets of a table, as `Targets.values`, where a model's task and its `classes` are known.

    One value only in all rows is no error here. Raises `TableError` at the first cell that does not fit: a class that
    the training never saw, a text among numbers.
    """
    columns = tuple(table.targets)
    if len(columns) > 1:
        scored = label_matrix(table, columns) if kind in {"binary", "multiclass", "multilabel"} else None
        if kind == "multilabel" and scored is not None:
            return scored
        if kind in {"binary", "multiclass"}:
            return _one_hot(table, columns, scored, kind)
        for column in columns:
            refuse_missing_targets(table.path, column, table.targets[column], table.kept)
    if kind == "multilabel" and len(columns) == 1 and len(classes) > 1:
        known = read_labels(table, columns[0], classes)
        assert known is not None  # a separator is always found where labels are known
        return known.values
    if kind not in {"binary", "multiclass"}:
        return _matrix(table, columns, kind)
    cells = table.targets[columns[0]].dictionary_encode()
    labels = [label.strip() for label in cells.dictionary.to_pylist()]
    numbers = numbers_or_nan(pa.array([*classes, *labels]))
    whole = bool((numbers[: len(classes)] == np.floor(numbers[: len(classes)])).all())
    index: dict[Decimal | str, int] = {}
    for place, name in enumerate(classes):
        index[Decimal(name) if whole else _folded(name, table.class_case)] = place
    places = np.array(
        [
            index.get(Decimal(label) if whole and not np.isnan(number) else _folded(label, table.class_case), -1)
            for label, number in zip(labels, numbers[len(classes) :], strict=True)
        ],
        dtype=np.int64,
    )
    values: npt.NDArray[np.int64] = places[cells.indices.to_numpy()]
    expected = f"one of the {len(classes)} classes of the training ({listed(classes, 6)}), the only ones it can predict"
    table.refuse_cells(columns[0], values < 0, expected=expected)
    return values


def _infer_columns(table: Table) -> tuple[TaskKind, str]:
    """Infer the kind of several columns; cells that are no numbers are left to the strict parser of regression."""
    count = len(table.targets)
    if all(np.isin(numbers_or_nan(cells), (0, 1)).all() for cells in table.targets.values()):
        return "multilabel", f"multilabel: every cell of the {count} target columns is 0 or 1."
    return "regression", f"regression with {count} targets: the target columns hold numbers other than 0 and 1."


def _infer_column(table: Table, column: str) -> tuple[TaskKind, str]:
    cells = table.targets[column]
    numbers = table.numbers_or_nan(cells)
    is_number = ~np.isnan(numbers)
    if not is_number.all():
        _refuse_stray_texts(table, column, is_number)
        _refuse_missing_marks(table, column)
        classes, _ = _encode(cells, table.class_case)
        if len(classes) > _MOST_WHOLE_NUMBER_CLASSES and len(classes) > len(cells) / 2:
            raise TableError(
                f"{table.path}, column {column!r}: found {len(classes)} different texts in {len(cells)} rows "
                f"({listed(classes, 3)}), expected classes that rows share; check that data.target is the right "
                "column, or set data.task to multiclass if it is"
            )
        kind = _kind_of(classes)
        return kind, f"{kind}: column {column!r} holds {len(classes)} different texts."
    if np.array_equal(np.unique(numbers), (0, 1)):
        return "binary", f"binary: column {column!r} holds the numbers 0 and 1."
    if not pc.all(pc.match_substring_regex(cells, r"^\s*[+-]?[0-9]+\s*$")).as_py():
        if len(np.unique(numbers)) <= _MOST_WHOLE_NUMBER_CLASSES and (numbers == np.floor(numbers)).all():
            example = min(cell for cell in pc.unique(cells).to_pylist() if not cell.strip().strip("+-").isdigit())
            return "regression", (
                f"regression: column {column!r} holds {len(np.unique(numbers))} different whole numbers that are "
                f"written with decimals ({shown(example)}); set data.task to "
                f"{'binary' if len(np.unique(numbers)) == 2 else 'multiclass'} if they are class codes."
            )
        return "regression", f"regression: column {column!r} holds numbers with a decimal point or exponent."
    classes, _ = _encode(cells)
    zeros = ", some with leading zeros" if any(len(name) > 1 and name.strip("+-")[0] == "0" for name in classes) else ""
    if len(classes) > _MOST_WHOLE_NUMBER_CLASSES:
        return "regression", (
            f"regression: column {column!r} holds {len(classes)} different whole numbers{zeros}, more than "
            f"{_MOST_WHOLE_NUMBER_CLASSES}; set data.task to multiclass if they are class codes."
        )
    kind = _kind_of(classes)
    return kind, (
        f"{kind}: column {column!r} holds {len(classes)} different whole numbers{zeros}; set data.task to regression "
        "if the numbers are a scale."
    )


def _kind_of(classes: tuple[str, ...]) -> TaskKind:
    return "binary" if len(classes) == 2 else "multiclass"


def _refuse_stray_texts(table: Table, column: str, is_number: npt.NDArray[np.bool_]) -> None:
    """Refuse a few texts among numbers: taken as class names they would turn every number into a class."""
    if not is_number.any():
        return
    cells = table.targets[column]
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(cells.filter(pa.array(~is_number))))
    if MISSING_MARKS.issuperset(texts.unique().to_pylist()):
        _refuse_missing_marks(table, column)
    if is_number.mean() >= _MOSTLY_NUMBERS:
        expected = "a number, as in most rows (set data.task to multiclass if these are class names)"
        table.refuse_cells(column, ~is_number, expected=expected)


def _refuse_missing_marks(table: Table, column: str) -> None:
    """Refuse marks of a missing value among classes, of which each would be a class."""
    cells = table.targets[column]
    missing = is_missing_mark(cells)
    if not missing.any():
        return
    row = int(missing.argmax())
    path, number = table.place(row)
    raise cell_error(
        path,
        number,
        column,
        shown(cells[row].as_py()),
        expected="a value",
        advice=f"{missing_count(int(missing.sum()), len(cells))}; set data.drop_missing to true (--drop-missing) to "
        "leave them out, or data.task to multiclass if this is the name of a class",
    )


def _parse_matrix(table: Table, columns: tuple[str, ...], kind: TaskKind, reason: str) -> Targets:
    values = _matrix(table, columns, kind)
    constant = [name for name, numbers in zip(columns, values.T, strict=True) if numbers.min() == numbers.max()]
    # A label or a class that no row has is usual in a part of a table, and does no harm beside others.
    if constant and (kind == "regression" or len(constant) == len(columns)):
        raise _one_value(table, constant[0])
    classes = () if kind == "regression" else columns
    return Targets(kind=kind, columns=columns, classes=classes, values=values, reason=reason)


def _matrix(table: Table, columns: tuple[str, ...], kind: TaskKind) -> npt.NDArray[np.float64]:
    """Return the cells of several columns as numbers [N, K], as the kind of task asks for."""
    values: npt.NDArray[np.float64] = np.stack([table.numbers(name) for name in columns], axis=1)
    if kind == "multilabel":
        for name, numbers in zip(columns, values.T, strict=True):
            outside = (numbers != 0) & (numbers != 1)
            table.refuse_cells(name, outside, expected="0 or 1, as data.task is multilabel")
    if kind == "soft":
        values = _normalise_shares(table, columns, values)
    return values


def _normalise_shares(
    table: Table, columns: tuple[str, ...], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the shares [N, K] divided by their sum in each row, which may differ from 1 by what rounding leaves."""
    for name, numbers in zip(columns, values.T, strict=True):
        expected = "a share of 0 or more, as data.task is soft"
        table.refuse_cells(name, numbers < 0, expected=expected)
    with np.errstate(over="ignore"):  # not 1 either
        sums = values.sum(axis=1)
    wrong = np.abs(sums - 1) > _SHARES_TOLERANCE + 1e-12  # 0.999 is within it, and 1 - 0.999 is more than 0.001
    if wrong.any():
        row = int(wrong.argmax())
        cells = listed([table.targets[name][row].as_py() for name in columns], 6)
        raise TableError(
            f"{table.describe_place(row)}, columns {listed(columns, 6)}: found shares that add up to {sums[row]:.6g} "
            f"({cells}), expected 1 (within {_SHARES_TOLERANCE:g}), as data.task is soft; correct the cells or remove "
            "the row"
        )
    shares: npt.NDArray[np.float64] = values / sums[:, np.newaxis]
    return shares


def _parse_classes(table: Table, column: str, kind: TaskKind, reason: str) -> Targets:
    classes, values = _encode(table.targets[column], table.class_case)
    _refuse_case(table, column, classes)
    if len(classes) == 1:
        raise _one_value(table, column)
    if kind == "binary" and len(classes) > 2:
        raise TableError(
            f"{table.path}, column {column!r}: found {len(classes)} classes ({listed(classes)}), expected 2, as "
            "data.task is binary; set data.task to multiclass, or remove the rows of the others"
        )
    return Targets(kind=kind, columns=(column,), classes=classes, values=values, reason=reason)


def _refuse_case(table: Table, column: str, classes: tuple[str, ...]) -> None:
    """Refuse classes that differ only in case or blanks, unless the user said what they are."""
    if table.class_case is not None:
        return
    forms: dict[str, list[str]] = {}
    for name in classes:
        forms.setdefault(_folded(name, "same"), []).append(name)
    alike = [name for names in forms.values() if len(names) > 1 for name in names]
    if alike:
        raise TableError(
            f"{table.path}, column {column!r}: found classes that differ only in case or blanks ({listed(alike, 6)}), "
            "expected one form of each; set data.class_case to same to make them one class, or to distinct to keep them"
        )


def _folded(label: str, case: str | None) -> str:
    return " ".join(label.casefold().split()) if case == "same" else label


def _encode(cells: pa.Array, case: str | None = None) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Give the sorted classes, and each row's index into them as int64 [N].

    Whitespace around a label does not count. If all labels are whole numbers, "1", "01" and "1.0" are one class, named
    by the shortest of the forms that occur: a code that is always written "001" keeps its zeros.
    """
    encoded = cells.dictionary_encode()
    labels = [label.strip() for label in encoded.dictionary.to_pylist()]
    numbers = numbers_or_nan(encoded.dictionary)
    all_whole = bool((numbers == np.floor(numbers)).all())
    keys = [Decimal(label) if all_whole else _folded(label, case) for label in labels]
    names: dict[Decimal | str, str] = {}
    for key, label in zip(keys, labels, strict=True):
        names[key] = min(names.get(key, label), label, key=lambda form: (len(form), form))
    index = {key: number for number, key in enumerate(sorted(names))}
    values = np.array([index[key] for key in keys], dtype=np.int64)[encoded.indices.to_numpy()]
    return tuple(names[key] for key in index), values


def _one_value(table: Table, column: str) -> TableError:
    advice = "check that data.target is the right column"
    if table.limit is not None:
        advice = (
            f"data.limit reads only the first {table.limit:,} rows, and a table that is sorted by its target begins "
            "with one value: raise or remove data.limit, or shuffle the rows of the file"
        )
    return TableError(
        f"{table.path}, column {column!r}: found {shown(table.targets[column][0].as_py())} in every row, expected at "
        f"least two different values; {advice}"
    )
