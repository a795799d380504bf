"""Labels as tables have them: many in one cell (`joy|anger`, `["joy", "anger"]`), or a column a label."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leantune.system.errors import SettingsError
from leantune.tables.readers import listed
from leantune.tables.table import Table

_SEPARATORS = ("|", ";", ",")
"""What is looked for where `data.label_separator` is not set, in this order."""
_LIST = r"^\s*[\[(].*[\])]\s*$"
_YES = ("1", "1.0", "true", "yes", "y", "x")
_NO = ("0", "0.0", "false", "no", "n")
_NOT_SCORED = ("-1", "-1.0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Which labels each row has."""

    names: tuple[str, ...]
    """The K labels, sorted; of lists of 0 and 1, the column's name with each place."""
    values: npt.NDArray[np.float64]
    """[N, K], 0 or 1."""
    how: str
    """How they were found, as a part of a sentence."""


def read_labels(table: Table, column: str, names: Sequence[str] | None = None) -> Labels | None:
    """Return the labels in the cells of one column, or None where its cells hold one value each.

    `names` are the labels that are known: others are an error. Raises `TableError` at a cell that cannot be read, where
    the other cells are lists or a separator is set.
    """
    encoded = table.targets[column].dictionary_encode()
    cells = [cell or "" for cell in encoded.dictionary.to_pylist()]
    if table.label_separator is not None:
        parts, how = [_split(cell, table.label_separator) for cell in cells], "data.label_separator is set"
    elif _are_lists(encoded.dictionary):
        parsed = [_as_list(cell) for cell in cells]
        _refuse(table, column, encoded, [part is None for part in parsed], "a list of labels, as in other rows")
        parts, how = [part or [] for part in parsed], "its cells are lists"
    else:
        separator = _known_separator(cells, names) if names is not None else _find_separator(cells)
        if separator is None:
            return None
        parts = [_split(cell, separator) for cell in cells]
        how = f"its cells share labels that {separator!r} separates"
    values_of_cells, found = _indicators(parts, column, names)
    unknown = [names is not None and not set(part) <= set(names) and not _is_indicator(part) for part in parts]
    if names is not None:
        expected = f"labels of the training ({listed(list(names), 6)}), the only ones that it can predict"
        _refuse(table, column, encoded, unknown, expected)
    indices = encoded.indices.fill_null(_place_of_empty(cells)) if encoded.indices.null_count else encoded.indices
    return Labels(names=found, values=values_of_cells[indices.to_numpy()], how=how)


def label_matrix(table: Table, columns: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return columns of labels as [N, K] of 0 and 1, NaN where a label was not scored (-1), or None for other cells.

    Yes and no, true and false count as 1 and 0; so do 1 (or x) and an empty cell where no cell says no.
    """
    arrays = [pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(table.targets[name], ""))) for name in columns]
    distinct = set().union(*(pc.unique(cells).to_pylist() for cells in arrays))
    if not distinct <= {"", *_YES, *_NO, *_NOT_SCORED} or ("" in distinct and distinct & {*_NO, *_NOT_SCORED}):
        return None
    if distinct <= {""}:
        return None
    values = []
    for cells in arrays:
        yes, not_scored = (
            pc.is_in(cells, pa.array(words, cells.type)).to_numpy(zero_copy_only=False) for words in (_YES, _NOT_SCORED)
        )
        values.append(np.where(not_scored, np.nan, yes.astype(np.float64)))
    return np.stack(values, axis=1)


def _split(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator) if part.strip()]


def _are_lists(cells: pa.Array) -> bool:
    present = cells.drop_null()
    return bool(len(present)) and bool(pc.all(pc.match_substring_regex(present, _LIST)).as_py())


def _as_list(cell: str) -> list[str] | None:
    parsed: Any = None
    try:
        parsed = json.loads(cell)
    except ValueError:
        try:
            parsed = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if not isinstance(parsed, list | tuple):
        parsed = [parsed]
    if any(isinstance(label, list | dict | tuple) or label is None for label in parsed):
        return None
    return [str(int(label)) if isinstance(label, bool) else str(label).strip() for label in parsed]


def _find_separator(cells: Sequence[str]) -> str | None:
    """Return what separates labels that cells share: with it there are fewer labels than cells, most of them shared."""
    for separator in _SEPARATORS:
        split = [set(_split(cell, separator)) for cell in cells]
        several = [part for part in split if len(part) > 1]
        if not several or any(len(label) > 60 for part in several for label in part):
            continue
        everywhere: dict[str, int] = {}
        for part in split:
            for label in part:
                everywhere[label] = everywhere.get(label, 0) + 1
        shared = set().union(*several)
        if len(everywhere) < len(cells) and sum(everywhere[label] > 1 for label in shared) >= len(shared) / 2:
            return separator
    return None


def _known_separator(cells: Sequence[str], names: Sequence[str]) -> str | None:
    known = set(names)
    for separator in _SEPARATORS:
        if all(known.issuperset(_split(cell, separator)) for cell in cells):
            return separator
    return _find_separator(cells) or _SEPARATORS[0]


def _is_indicator(parts: Sequence[str]) -> bool:
    return len(parts) > 1 and set(parts) <= {"0", "1", "0.0", "1.0"}


def _indicators(
    parts: Sequence[Sequence[str]], column: str, names: Sequence[str] | None
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Return the labels [cells, K] of each different cell, and their names."""
    widths = {len(part) for part in parts}
    if len(widths) == 1 and all(map(_is_indicator, parts)):
        (width,) = widths
        own = tuple(f"{column}_{place}" for place in range(width))
        if names is None or len(names) == width:
            return np.array([[float(cell) for cell in part] for part in parts]), tuple(names or own)
    found = tuple(names) if names is not None else tuple(sorted({label for part in parts for label in part}, key=_key))
    place_of = {name: place for place, name in enumerate(found)}
    values = np.zeros((len(parts), len(found)))
    for row, part in enumerate(parts):
        values[row, [place_of[label] for label in part if label in place_of]] = 1
    return values, found


def _key(label: str) -> tuple[int, int, str]:
    """Sort whole numbers by their size, before other labels."""
    return (0, int(label), label) if label.isascii() and label.isdigit() else (1, 0, label)


def _place_of_empty(cells: Sequence[str]) -> int:
    if "" not in cells:
        raise SettingsError("data.label_separator: found a missing cell, expected a list of labels or an empty one")
    return cells.index("")


def _refuse(table: Table, column: str, encoded: pa.DictionaryArray, bad: Sequence[bool], expected: str) -> None:
    if any(bad):
        marked = np.append(np.array(bad, dtype=bool), False)
        indices = encoded.indices.fill_null(len(bad)).to_numpy()
        table.refuse_cells(column, marked[indices], expected=expected)
