"""The texts of rows, where the table that a run read is still there and has not changed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from leantune.comparison.results import RunResult
from leantune.system.errors import InputError
from leantune.system.settings import check
from leantune.tables.containers import parts_of
from leantune.tables.table import DataSettings, data_sha256, read_table

MOST_BYTES = 500_000_000
"""Of a larger table no text is looked up: a report is written within seconds."""


def read_texts(run: RunResult, rows: Sequence[int]) -> list[tuple[str, ...]] | None:
    """Return the texts of rows, by their numbers in the file that has the run's validation rows.

    None where the table is not where the settings say, is not the one that the run read, by its SHA-256, or is large.
    """
    try:
        settings = check(DataSettings, run.config.get("data") or {}, "data")
        files = [Path(path).expanduser() for path in settings.files if isinstance(path, Path)]
        if not all(file.is_file() or file.is_dir() for file in files):  # no device, no pipe
            return None
        if sum(part.stat().st_size for file in files for part in parts_of(file)) > MOST_BYTES:
            return None
        if data_sha256(settings) != run.environment["data_sha256"]:
            return None
        table = read_table(_alone(settings))
    except (InputError, OSError, pa.ArrowException):
        return None
    there = table.row_numbers  # ascending; rows may have been left out
    places = np.minimum(np.searchsorted(there, rows), max(0, len(there) - 1))
    if not len(there) or not np.array_equal(there[places], rows):
        return None
    found = [column.take(pa.array(places)).to_pylist() for column in table.texts]
    return list(zip(*found, strict=True))


def _alone(settings: DataSettings) -> DataSettings:
    """Return the settings that read the one file in which the rows are counted."""
    changes = {"path": settings.validation or settings.path, "validation": None}
    changes |= dict.fromkeys(("id", "group", "weight", "fold"))
    return settings.model_copy(update=changes | ({"limit": None} if settings.validation else {}))
