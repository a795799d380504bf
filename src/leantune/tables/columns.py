"""Which columns of a table are targets: patterns and lists become names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from leantune.system.errors import TableError
from leantune.tables.memory import MemoryTable, describe_columns
from leantune.tables.readers import listed, read_column_names
from leantune.tables.table import DataSettings, read_options

_PATTERN = ("*", "?")


def resolve_targets(settings: DataSettings) -> DataSettings:
    """Return the settings with the names of the target columns that patterns and lists stand for.

    `label_*` stands for all columns that fit it, in the table's order and without those that have another use, and
    `a,b` for two; the name of a column stands for itself. Raises `TableError` where nothing fits.
    """
    if not any(mark in name for name in settings.target for mark in (*_PATTERN, ",")):
        return settings
    there = _column_names(settings)
    if there is None or set(settings.target) <= set(there):
        return settings
    others = {*settings.text, settings.id, settings.group, settings.weight, settings.fold}
    found: dict[str, None] = {}
    for given in settings.target:
        parts = [given] if given in there else [part.strip() for part in given.split(",")]
        for part in filter(None, parts):
            found |= dict.fromkeys(_matching(settings, part, there, others))
    return settings.model_copy(update={"target": tuple(found)})


def _matching(settings: DataSettings, part: str, there: Sequence[str], others: set[str | None]) -> list[str]:
    if part in others:
        raise TableError(
            f"{settings.path}: data.target names the column {part!r}, which has another use: a column is one thing"
        )
    if part in there or not any(mark in part for mark in _PATTERN):
        return [part]  # one that is not there is told where the table is read
    fitting = [name for name in there if fnmatchcase(name, part) and name not in others]
    if not fitting:
        raise TableError(
            f"{settings.path}: found no column that fits {part!r} (data.target), expected some of "
            f"{listed([name for name in there if name not in others])}; correct the pattern"
        )
    return fitting


def _column_names(settings: DataSettings) -> list[str] | None:
    """Return the names of the table's columns; None where it has none, or is not at hand."""
    if isinstance(settings.path, MemoryTable):
        return None if settings.path.data is None else describe_columns(settings.path.data)[0]
    return read_column_names(settings.path.expanduser(), read_options(settings))
