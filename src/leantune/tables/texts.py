"""The text columns of some rows become the texts that a model reads: missing cells, and columns that are joined."""

from collections.abc import Sequence
from pathlib import Path
from string import Formatter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leantune.system.errors import TableError


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """Return the literal parts of a template, each with the column that follows it, or None at the end.

    Raises ValueError where it is no template: a brace that stands alone, or more than a name between two.
    """
    parts: list[tuple[str, str | None]] = []
    for literal, column, format_spec, conversion in Formatter().parse(template):
        if column == "" or format_spec or conversion:
            raise ValueError("names a column between braces in a way that is not {column}; write a brace itself twice")
        parts.append((literal, column))
    return parts


def renamed_template(template: str, names: dict[str, str]) -> str:
    """Return the template with other columns in the place of those that `names` maps."""
    escaped = str.maketrans({"{": "{{", "}": "}}"})
    return "".join(
        literal.translate(escaped) + ("" if column is None else f"{{{names[column]}}}")
        for literal, column in template_parts(template)
    )


def compose_texts(
    cells: Sequence[pa.Array], columns: Sequence[str], *, template: str | None, missing_text: str
) -> tuple[pa.Array, ...]:
    """Return the texts of rows: one array a column, or, with a template, a single one.

    Where `missing_text` is not `refuse`, a missing cell is an empty text.
    """
    if missing_text != "refuse":
        cells = [pc.fill_null(column, "") for column in cells]
    if template is None:
        return tuple(cells)
    if not len(cells[0]):
        return (cells[0],)
    kind = pa.large_string()
    of_name = dict(zip(columns, cells, strict=True))
    pieces = [
        piece
        for literal, column in template_parts(template)
        for piece in (pa.scalar(literal, kind), None if column is None else of_name[column])
        if piece is not None
    ]
    return (pc.binary_join_element_wise(*pieces, pa.scalar("", kind)),)


def refuse_missing_texts(path: Path | str, column: str, missing: npt.NDArray[np.bool_], first_row: int = 0) -> None:
    """Raise `TableError` where texts are missing, which says in how many rows; the first is row `first_row`, from 0."""
    if count := int(missing.sum()):
        row = first_row + int(missing.argmax()) + 1
        rows = "1 row" if count == 1 else f"{count:,} rows"
        raise TableError(
            f"{path}, row {row}, column {column!r}: found nothing, expected a text (it may be empty), and {rows} of "
            f"{len(missing):,} {'has' if count == 1 else 'have'} none; set data.missing_text to empty to read an empty "
            "text there, or to drop to leave these rows out"
        )
