"""Quotation marks in CSV that may not mean what the format says: they swallow rows, or hide a lost separator.

A text that begins with a quotation mark opens a quoted cell. If a later row happens to end one, all rows between them
are one text to every reader, without an error.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from leantune.system.errors import TableError

_MOST_SUSPECTS = 20
_MOST_VALUES = 1000
_ROWS_AT_ONCE = 4096


class QuoteWatch:
    """Looks at the raw lines of each record beside its fields, and judges them at the end of the file."""

    def __init__(self, delimiter: str, width: int, *, ask: bool) -> None:
        """Watch records of `width` fields; `ask` refuses cells that look like swallowed rows."""
        self.stray_rows: list[int] = []
        """First few rows, from 1, with a quotation mark in a cell that is not quoted."""
        self.stray_count = 0
        self._delimiter, self._width, self._ask = delimiter, width, ask
        mark = re.escape(delimiter)
        self._quoted = re.compile(rf'(?:^|(?<={mark}))"(?:[^"]|"")*"(?=$|{mark})')
        self._suspects: list[tuple[int, list[list[str]]]] = []
        self._values: dict[int, set[str]] = {place: set() for place in range(width)}
        self._numeric = set(range(width))
        self._profiled = 0
        self._waiting: list[list[str]] = []

    def look(self, row: int, lines: list[str], fields: list[str]) -> None:
        """Take note of row `row`, from 1, which the physical `lines` were read as."""
        if len(lines) == 1 and '"' not in lines[0]:
            self._profile(fields)
            return
        record = "".join(lines).strip("\r\n")
        if '"' in self._quoted.sub("", record):
            self.stray_count += 1
            if len(self.stray_rows) < 3:
                self.stray_rows.append(row)
        parts = [line for line in record.splitlines() if line]
        if self._ask and self._width > 1 and len(parts) > 1:
            split = list(csv.reader(parts, delimiter=self._delimiter, quoting=csv.QUOTE_NONE))
            if all(len(cells) == self._width for cells in split):
                self._suspects = [*self._suspects, (row, split)][:_MOST_SUSPECTS]
        self._profile(fields)

    def swallowed(self) -> tuple[int, int] | None:
        """Return the first row that looks like several, and how many lines it has; None where there is none.

        The lines of a text that an author broke can have as many delimiters as a record by chance. Its parts then do
        not fit the columns whose other cells are numbers or a few repeated values.
        """
        self._profile_waiting()
        for row, lines in self._suspects:
            if all(self._fits(place, cells[place]) for cells in lines for place in range(self._width)):
                return row, len(lines)
        return None

    def _profile(self, fields: list[str]) -> None:
        self._waiting.append(fields)
        if len(self._waiting) == _ROWS_AT_ONCE:
            self._profile_waiting()

    def _profile_waiting(self) -> None:
        """Remember which columns are numbers, and which have few values; a column that is neither costs nothing.

        Many rows at once: cell by cell it would take half of the time of reading.
        """
        self._profiled += len(self._waiting)
        for place in self._numeric | self._values.keys():
            cells = {fields[place] for fields in self._waiting}
            if place in self._values:
                self._values[place] |= cells
                if len(self._values[place]) > _MOST_VALUES:
                    del self._values[place]
            if place in self._numeric and not all(map(_is_number, cells)):
                self._numeric.discard(place)
        self._waiting.clear()

    def _fits(self, place: int, cell: str) -> bool:
        bare = cell.strip('"')
        if self._profiled and place in self._numeric:
            return _is_number(bare)
        values = self._values.get(place, set())
        return not 2 <= len(values) <= self._profiled / 4 or bare in values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def watched(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    """Yield the lines, and append each to `taken`."""
    for line in lines:
        taken.append(line)
        yield line


def swallowed_error(path: Path, row: int, lines: int) -> TableError:
    """Make the error for a record whose lines look like rows of their own."""
    return TableError(
        f"{path}, row {row}: found a quoted cell that holds {lines - 1} line break{'s' * (lines > 2)}, and each of its "
        f"{lines} lines by itself is a whole row; a text that begins with a quotation mark swallows the rows after it. "
        "Set data.quoting to none if quotation marks are parts of the texts, or to standard if this cell is one text "
        "of several lines"
    )
