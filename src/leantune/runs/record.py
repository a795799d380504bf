"""The run folder: everything a run leaves behind, in files that are stable and that anybody can read.

RUN/config.yaml                  effective settings
RUN/environment.json             versions, device, fingerprints of data and tokenizer
RUN/events.jsonl                 one line a step, evaluation, checkpoint, warning
RUN/fold_0/predictions.parquet   row, id, target, prediction of the validation rows, at the best evaluation
RUN/fold_0/model/                the best weights, as transformers loads them
RUN/predictions.parquet          the same of all folds, with the fold: out-of-fold predictions
RUN/metrics.json                 written last: a folder that has it is a finished run
"""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leantune.system.errors import RunFolderError
from leantune.system.files import (
    ESCAPE,
    locked,
    replacing,
    saving,
    strict_json,
    sync,
    sync_tree,
    unwritable,
    write_json,
    write_text,
    write_yaml,
)
from leantune.tables.folds import FoldNumber
from leantune.tables.targets import column_of
from leantune.training.events import Recorded

LOCK = ".lock"
"""Held by the process that writes a run folder; the system frees it however that process ends."""

CHUNK_BYTES = 2**24
"""Of the events that a resumed run copies, at most so many are in memory."""

FOLD = re.compile(r"fold_(\d+|none)")
"""The folders of the folds."""


def refuse_taken(path: Path) -> None:
    """Raise `RunFolderError` where `path` is there already and is not an empty folder: no run overwrites another."""
    if path.exists() and (not path.is_dir() or any(inner.name != LOCK for inner in path.iterdir())):
        is_unfinished = (path / "config.yaml").is_file() and not (path / "metrics.json").is_file()
        raise RunFolderError(
            f"{path}: there already, and not an empty folder; "
            + ("go on with the unfinished run in it by --resume, " if is_unfinished else "")
            + "give another --output, or move this one away"
        )


def refuse_foreign(path: Path) -> None:
    """Raise `RunFolderError` where `path` holds anything and is not the folder of a run."""
    names = sorted(inner.name for inner in path.iterdir() if inner.name != LOCK) if path.is_dir() else []
    if (path.exists() and not path.is_dir()) or (names and "events.jsonl" not in names):  # a run's first file
        found = names[0] if names else "a file"
        raise RunFolderError(
            f"{path}: found {found}, expected the folder of a run to go on with; give another --output"
        )


def clear_unfinished(path: Path) -> None:
    """Remove what a run wrote that was interrupted before its first checkpoint.

    Raises `RunFolderError`, and removes nothing, where there is anything that no run writes.
    """
    files = {"config.yaml", "environment.json", "events.jsonl", "predictions.parquet"}
    folds = [inner for inner in path.iterdir() if FOLD.fullmatch(inner.name) and not inner.is_symlink()]
    for inner in path.iterdir():
        if inner not in folds and inner.name not in files and not inner.name.startswith("."):
            raise RunFolderError(f"{path}: found {inner.name}, which is no run's; move it, or give another --output")
    for name in files:
        (path / name).unlink(missing_ok=True)
    for fold in folds:
        shutil.rmtree(fold)


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Have a run folder, made if need be, to oneself; the lock's file goes once the run in it is finished.

    Raises `RunFolderError` where another process has it: one that was killed has it no longer.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    with locked(path / LOCK, taken="another process is training here"):
        try:
            yield
        finally:
            if (path / "metrics.json").is_file():
                # While it is held: whoever opened the file just before sees that it is gone, and holds nothing. Windows
                # refuses to remove a file that is open; there, the lock removes its file itself, after its release.
                with suppress(PermissionError):
                    (path / LOCK).unlink(missing_ok=True)


class RunFolder:
    """Writes one run's files; a context manager, since `events.jsonl` stays open while the run goes.

    `go_on_at` is the size of the events that are kept, in bytes; None is a new run. Raises `RunFolderError` as
    `refuse_taken` does for a new run.
    """

    def __init__(self, path: Path, *, go_on_at: int | None = None) -> None:
        if go_on_at is None:
            refuse_taken(path)
        self.path = path
        events = path / "events.jsonl"
        try:
            path.mkdir(parents=True, exist_ok=True)
            if go_on_at is not None:
                # A new file in its place, which whoever follows the run takes for one; and no part of a line is left.
                size = events.stat().st_size
                if size < go_on_at:
                    raise RunFolderError(
                        f"{events}: found {size:,} bytes, expected at least the {go_on_at:,} that were there when "
                        "the run was saved: it cannot go on without its records; give another --output"
                    )
                with replacing(events) as beside, events.open("rb") as kept, beside.open("xb") as file:
                    for done in range(0, go_on_at, CHUNK_BYTES):
                        file.write(kept.read(min(CHUNK_BYTES, go_on_at - done)))
            # A line at a time reaches the disk.
            self._events = events.open("a", encoding="utf-8", errors=ESCAPE, buffering=1)
        except OSError as error:
            raise unwritable(path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._events.close()
        except OSError:  # the end of a line that there was no room for, which was told
            if error is None:
                raise

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write the effective settings."""
        write_yaml(self.path / "config.yaml", settings)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Write what the run ran on."""
        write_json(self.path / "environment.json", environment)

    def write_event(self, event: Recorded) -> None:
        """Append one line to `events.jsonl`."""
        names = [field.name for field in dataclasses.fields(event) if field.name != "predictions"]
        fields = {"event": event.event, "time": time.time()} | {name: getattr(event, name) for name in names}
        line = strict_json(fields) + "\n"
        with saving(self.path / "events.jsonl", len(line)):
            self._events.write(line)

    def sync_events(self) -> int:
        """Wait until all events so far are on the disk; return their size in bytes."""
        descriptor = self._events.fileno()
        size = os.fstat(descriptor).st_size
        with saving(self.path / "events.jsonl", size):
            sync(descriptor)
        return size

    def fold(self, number: FoldNumber) -> Path:
        """Return the folder of one fold, made if need be."""
        path = self.path / f"fold_{number}"
        path.mkdir(exist_ok=True)
        return path

    def write_predictions(
        self,
        fold: FoldNumber,
        *,
        rows: NDArray[np.int64],
        ids: pa.Array,
        targets: Iterable[Any],
        predictions: NDArray[np.float64],
        labels: tuple[str, ...],
    ) -> None:
        """Write the validation rows' predictions [n, outputs], in the table's row order.

        One output gives a number a row; several give a list, whose order the file's metadata tell under `labels`: the
        target columns, or the classes that the probabilities belong to.
        """
        table = pa.table(
            {"row": pa.array(rows), "id": ids, "target": pa.array(targets), "prediction": column_of(predictions)}
        )
        table = table.replace_schema_metadata({"labels": json.dumps(labels, ensure_ascii=False)})
        path = self.fold(fold) / "predictions.parquet"
        with saving(path, table.nbytes), replacing(path) as beside:
            pq.write_table(table, beside)

    def write_all_predictions(self, folds: Iterable[FoldNumber]) -> None:
        """Write the predictions of several folds, which are written already, as one file, with a column of the fold.

        Rows are in the table's order. Nothing is written where no rows validate.
        """
        parts = []
        for number in folds:
            path = self.fold(number) / "predictions.parquet"
            if path.is_file():
                part = pq.ParquetFile(path).read()  # read_table would take a folder `a=b` above for a column
                parts.append(part.append_column("fold", pa.array([number] * len(part), pa.int64())))
        if not parts:
            return
        table = pa.concat_tables(parts).sort_by("row")
        path = self.path / "predictions.parquet"
        with saving(path, table.nbytes), replacing(path) as beside:
            pq.write_table(table, beside)

    def sync_model(self, fold: FoldNumber) -> None:
        """Wait until a fold's model is on the disk: what it could be made from again is about to be removed."""
        with saving(self.fold(fold) / "model", 0):
            sync_tree(self.fold(fold) / "model")

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`, which says that the run is finished."""
        self.sync_events()
        write_json(self.path / "metrics.json", metrics)


FORMULA = re.compile(r"[=+\-@＝＋－＠\t\r\n]")
"""What a cell begins with that a spreadsheet runs as a formula."""
_NUMBER = re.compile(r"[+-]?[0-9.,]+([eE][+-]?[0-9]+)?")


def write_folds(path: Path, ids: pa.Array, folds: NDArray[np.int64]) -> None:
    """Write a CSV file of id,fold: the fold in which each row validates.

    Ids are written exactly as the table has them, formulas too: the file is there to be joined with the table, and an
    id with a quote before it would find no row. `note_formulas` says so where a spreadsheet must be warned of.
    """
    names = ids.to_pylist()
    # Before Python 3.13 the writer leaves a lone carriage return unquoted, which readers take for the end of a line.
    quote_all = any("\r" in name for name in names)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerow(("id", "fold"))
    writer.writerows(zip(names, folds.tolist(), strict=True))
    write_text(path, text.getvalue())


def note_formulas(ids: pa.Array) -> list[str]:
    """Return a warning where a spreadsheet would run some of the ids as formulas; numbers are none."""
    found = [(row, name) for row, name in enumerate(ids.to_pylist()) if FORMULA.match(name)]
    found = [(row, name) for row, name in found if not _NUMBER.fullmatch(name)]
    if not found:
        return []
    row, name = found[0]
    return [
        f"{len(found):,} of {len(ids):,} ids would run as formulas in a spreadsheet (the first in row {row + 1}: "
        f"{name!r:.60}); they are written as they are, so that they can be joined: open the file as text"
    ]


def code_revision() -> str | None:
    """Return the git commit of leantune's own source, `-dirty` if it was changed; None for an installed package."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # a package inside somebody else's checkout has no commit here
        return git("describe", "--always", "--dirty", "--abbrev=40", "--match=")
    except (OSError, subprocess.SubprocessError):
        return None
