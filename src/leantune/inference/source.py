"""The table whose rows are predicted: read block after block, and looked through once before anything is computed.

Looking through it finds everything that could end the work hours later: a text that is missing, an id that stands
twice, a row that is cut off. It also finds the rows that hold the same text, each of which is computed once.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from leantune.inference.trained_run import TrainedRun
from leantune.runs.config import assign, dump_config
from leantune.system.errors import SettingsError, TableError
from leantune.system.settings import check
from leantune.tables.readers import (
    LINE_FORMATS,
    ReadOptions,
    cell_error,
    check_columns,
    file_format,
    listed,
    read_blocks,
    read_column_names,
    refuse_cells,
    shown,
)
from leantune.tables.table import OWN_ID, DataSettings, read_options
from leantune.tables.texts import compose_texts, refuse_missing_texts, renamed_template

BLOCK_ROWS = 4096
"""Rows that are read, sorted by length, computed and kept together: what a killed command loses is at most one block
of them."""
OF_TRAINING = ("target", "group", "weight", "fold", "validation", "limit", "task")
"""Settings of the training's table that mean nothing for one to predict."""
IDS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of rows to predict, and what its columns are."""

    settings: DataSettings
    id: str | None
    """The column of the ids; None numbers the rows from 0."""
    id_is_found: bool = False
    """Whether nobody named that column: where its cells do not tell the rows apart, they are numbered."""

    @property
    def path(self) -> Path:
        """The file."""
        path = self.settings.path
        return path if isinstance(path, Path) else Path(path.name)  # no file is a table in memory

    @property
    def id_name(self) -> str:
        """What the column of the ids is called in the output."""
        return self.id or "id"

    def blocks(self, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        """Yield the number of each block's first row, from 0, and the block's columns, large_string [BLOCK_ROWS]."""
        start = 0
        for block in read_blocks(self.path, list(columns), options_of(self.settings), rows=BLOCK_ROWS):
            yield start, block
            start += len(next(iter(block.values())))

    def texts_of(self, block: dict[str, pa.Array]) -> tuple[pa.Array, ...]:
        """Return the texts of a block's rows, as the training composed them."""
        settings = self.settings
        return compose_texts(
            [block[name] for name in settings.text],
            settings.text,
            template=settings.template,
            missing_text=settings.missing_text,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What looking through a source found; N rows, of which U are computed since the others repeat their texts."""

    answers: NDArray[np.int64]
    """[N]: which of the computed rows each row's prediction is of, from 0."""
    is_computed: NDArray[np.bool_]
    """[N]: whether the row is the first with its texts."""
    ids: NDArray[np.bytes_] | None
    """[N] digests of the ids, where they were asked for."""
    sha256: str
    """Of all texts, in the order of the rows."""

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def computed(self) -> int:
        """How many rows are computed."""
        return int(self.is_computed.sum())


def open_source(
    path: Path,
    run: TrainedRun,
    *,
    text: tuple[str, ...] = (),
    id_column: str | None = None,
    assignments: Iterable[str] = (),
) -> Source:
    """Return the table in a file as a run reads it: `text` and `id_column` name other columns than the training's.

    `assignments` change how the file is read, such as `data.encoding=utf-8`. Raises `SettingsError` for a setting that
    it does not have, and `TableError` where the file or a column is not there.
    """
    settings = dump_config(run.config.data)
    for name in OF_TRAINING:
        settings.pop(name, None)
    trained = run.config.data.path
    here, there = file_format(path)[0], file_format(trained)[0] if isinstance(trained, Path) else None
    if here != there:  # what says how the one is written says nothing of the other
        for name in ("delimiter", "quoting", "sheet"):
            settings.pop(name, None)
    if here not in LINE_FORMATS:
        settings.pop("encoding", None)
    if settings.get("missing_text") == "drop":  # every row has a prediction
        settings["missing_text"] = "empty"
    settings |= {"path": path, "id": id_column}
    if text:
        if len(text) != len(run.config.data.text):
            raise SettingsError(
                f"--text: found {len(text)} columns, expected {len(run.config.data.text)}, as {run.folder} was trained "
                "on"
            )
        settings["text"] = list(text)
        if run.config.data.template is not None:
            names_now = dict(zip(run.config.data.text, text, strict=True))
            settings["template"] = renamed_template(run.config.data.template, names_now)
    nested = {"data": settings}
    for assignment in assignments:
        if not assignment.startswith("data."):
            raise SettingsError(f"--set: found {assignment!r}, expected a setting of the table, data.NAME=VALUE")
        assign(nested, assignment)
    checked = check(DataSettings, nested["data"], "data")
    source = Source(settings=checked, id=None)
    names = read_column_names(source.path, options_of(checked))
    known = run.config.data.id
    found = known is None and OWN_ID in names and OWN_ID not in checked.text
    own = checked.id or (OWN_ID if found else known if known in names else None)
    other_name = (
        "" if text else f" (the training's name; --text names a column that is called otherwise in {path.name})"
    )
    check_columns(source.path, names, checked.text, other_name)
    check_columns(source.path, names, [] if own is None else [own])
    return replace(source, id=own, id_is_found=found and checked.id is None)


def without_bad_id(source: Source) -> Source:
    """Return the source with its rows numbered, where it has a column of ids that nobody named and that is none."""
    if not source.id_is_found or source.id is None:
        return source
    digests = []
    for _, block in source.blocks([source.id]):
        cells = block[source.id]
        if pc.any(pc.or_kleene(pc.is_null(cells), pc.equal(pc.utf8_trim_whitespace(cells), ""))).as_py():
            return replace(source, id=None, id_is_found=False)
        digests.append(digests_of([cells]))
    if digests and len(np.unique(together := np.concatenate(digests))) < len(together):
        return replace(source, id=None, id_is_found=False)
    return source


def options_of(settings: DataSettings) -> ReadOptions:
    """Return how the file of a table is read."""
    return read_options(settings, setting="the name of the table")


def scan(source: Source, *, keep_ids: bool = False) -> Scan:
    """Look through a table, every row; what is kept is 9 bytes a row, and 16 more with `keep_ids`.

    Raises `TableError` where it has no row, a text or an id is missing, or an id stands twice.
    """
    text_digests, id_digests = [], []
    texts = source.settings.text
    columns = [*texts, *([source.id] if source.id and source.id not in texts else [])]
    for start, block in source.blocks(columns):
        for name in texts:
            if source.settings.missing_text == "refuse":
                missing = pc.is_null(block[name]).to_numpy(zero_copy_only=False)
                refuse_missing_texts(source.path, name, missing, first_row=start)
        text_digests.append(digests_of(list(source.texts_of(block))))
        if source.id is not None:
            _refuse_missing(source, start, source.id, block[source.id], expected="a value", empty_too=True)
            id_digests.append(digests_of([block[source.id]]))
    if not text_digests:
        raise TableError(f"{source.path}: found no rows, expected at least one; check that it is the right file")
    ids = None
    if source.id is not None:
        ids = np.concatenate(id_digests)
        _refuse_twice(source, ids)
        ids = ids if keep_ids else None
    digests = np.concatenate(text_digests)
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    first_row = first[inverse]
    is_computed = first_row == np.arange(len(digests))
    places = np.cumsum(is_computed) - 1
    return Scan(
        answers=places[first_row],
        is_computed=is_computed,
        ids=ids,
        sha256=hashlib.sha256(digests.tobytes()).hexdigest(),
    )


def digests_of(columns: list[pa.Array]) -> NDArray[np.bytes_]:
    """Return 16 bytes for each row [n] that tell its cells from those of every other row."""
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return np.frombuffer(b"".join(map(_digest, rows)), dtype="S16")


def _digest(cells: tuple[str, ...]) -> bytes:
    content = b"".join(len(cell).to_bytes(8, "little") + cell for cell in (text.encode() for text in cells))
    return hashlib.blake2b(content, digest_size=16).digest()


def find_rows(source: Source, scanned: Scan, like: Path) -> NDArray[np.int64]:
    """Return the row of the source for each row of the file `like`, by the ids.

    Raises `TableError` where an id of one is not in the other, or stands twice.
    """
    assert source.id is not None
    assert scanned.ids is not None
    other = Source(settings=source.settings.model_copy(update={"path": like, "delimiter": None}), id=source.id)
    wanted = np.concatenate([digests_of([block[source.id]]) for _, block in _ids_of(other)] or [np.empty(0, "S16")])
    _refuse_twice(other, wanted)
    order = np.argsort(scanned.ids, kind="stable")
    places = np.searchsorted(scanned.ids, wanted, sorter=order)
    rows: NDArray[np.int64] = order[np.minimum(places, len(order) - 1)]
    missing = scanned.ids[rows] != wanted
    left_over = np.ones(len(order), dtype=bool)
    left_over[rows[~missing]] = False
    if missing.any() or left_over.any():
        raise TableError(
            f"{like} and {source.path} do not have the same rows: "
            + " and ".join(
                f"{int(found.sum()):,} ids are only in {table.path} ({listed(_some_ids(table, found))})"
                for table, found in ((other, missing), (source, left_over))
                if found.any()
            )
            + f", by the column {source.id!r}; give the table that belongs to it, or name another column with --id"
        )
    return rows


def _ids_of(source: Source) -> Iterator[tuple[int, dict[str, pa.Array]]]:
    """Yield the ids of a table, block after block."""
    assert source.id is not None
    for start, block in source.blocks([source.id]):
        _refuse_missing(source, start, source.id, block[source.id], expected="a value", empty_too=True)
        yield start, block


def _some_ids(source: Source, rows: NDArray[np.bool_]) -> list[str]:
    """Return the first few ids among some rows."""
    assert source.id is not None
    found: list[str] = []
    for start, block in source.blocks([source.id]):
        cells = block[source.id]
        found += cells.filter(pa.array(rows[start : start + len(cells)])).to_pylist()[:IDS_SHOWN]
        if len(found) >= IDS_SHOWN:
            break
    return found[:IDS_SHOWN]


def _refuse_twice(source: Source, ids: NDArray[np.bytes_]) -> None:
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if not len(again):
        return
    place = again[order[again + 1].argmin()]
    row = int(order[place + 1])
    only = np.zeros(len(ids), dtype=bool)
    only[row] = True
    assert source.id is not None
    (name,) = _some_ids(source, only)
    raise cell_error(
        source.path, row, source.id, shown(name), expected=f"another id than that of row {order[place] + 1}"
    )


def _refuse_missing(
    source: Source, start: int, column: str, cells: pa.Array, *, expected: str, empty_too: bool = False
) -> None:
    missing: Any = pc.is_null(cells)
    if empty_too:
        missing = pc.or_kleene(missing, pc.equal(pc.utf8_trim_whitespace(cells), ""))
    refuse_cells(source.path, column, cells, missing.to_numpy(zero_copy_only=False), expected=expected, first_row=start)
