"""What tells the target that should not, and rows that know each other: copies, groups, ids, other columns.

Each check is a function that yields at most one finding, as in `findings`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from leantune.inspection.findings import FEW, Finding, count_rows, percent, row_text, text_codes
from leantune.inspection.similarity import MOST_TEXTS, alike_pairs, chosen_rows
from leantune.inspection.target_checks import target_matrix
from leantune.tables.folds import Folds
from leantune.tables.table import Table, numbers_or_nan
from leantune.tables.targets import Targets

IntArray = NDArray[np.int64]

TELLS = 0.05
"""R² from which a column tells the target: by chance, that of other rows is below 0."""
BEGINNING = "the beginning of "
NEIGHBOURS = 5
"""On each side, in the order of ids."""
ONE_TARGET = {
    "binary": "the most frequent class",
    "multiclass": "the most frequent class",
    "multilabel": "the labels that most of them have",
}
"""What rows that contradict each other may be given, by task; of numbers and shares the mean."""
LEAST_GROUPS = 10
LEAST_ROWS = 50
"""Of fewer rows nothing is said: chance would say it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NearCopies:
    """Pairs of rows whose texts are nearly the same."""

    pairs: IntArray
    """[P, 2]."""
    similarity: NDArray[np.float64]
    """[P]: Jaccard, 0.8 to 1."""
    compared: int
    """Rows that were compared."""

    @classmethod
    def find(cls, table: Table) -> "NearCopies":
        """Compare the texts of all rows, or of a large table those of some."""
        rows = chosen_rows(len(table))
        pairs, similarity = alike_pairs(tuple(column.take(pa.array(rows)) for column in table.texts))
        return cls(pairs=rows[pairs], similarity=similarity, compared=len(rows))


def near_duplicates_across_folds(
    table: Table, folds: Folds, numbers: Sequence[int], copies: NearCopies
) -> Iterator[Finding]:
    """Find validation rows whose text is nearly that of a training row of the same fold, but not the same."""
    codes = text_codes(table)
    one, other = copies.pairs.T
    parted = (codes[one] != codes[other]) & (folds.of_row[one] != folds.of_row[other])
    pairs, similarity = copies.pairs[parted], copies.similarity[parted]
    validating = np.concatenate([folds.validation_rows(number) for number in numbers])
    found = np.intersect1d(pairs.ravel(), validating)
    if not len(found):
        return
    best = int(similarity.argmax())
    one_row, other_row = (int(row) for row in pairs[best])
    share = len(found) / len(validating)
    yield Finding(
        code="LT402",
        severity="warning" if share > FEW else "note",
        found=f"{len(found):,} of {len(validating):,} validation rows ({percent(share)}) have nearly the text of a "
        f"training row, such as {table.describe_place(one_row)} ({row_text(table, one_row)}) and "
        f"{table.describe_place(other_row)} ({row_text(table, other_row)}); the metrics are better than on new texts",
        advice="keep such rows together with data.group, or remove one of each pair",
    )


def duplicates(table: Table, copies: NearCopies) -> Iterator[Finding]:
    """Find texts that stand in several rows."""
    codes = text_codes(table)
    counts = np.bincount(codes)
    repeated = int((counts[codes] > 1).sum())
    one, other = copies.pairs.T
    near = len(np.unique(copies.pairs[codes[one] != codes[other]]))
    if not repeated and not near:
        return
    parts = []
    if repeated:
        code = int(counts.argmax())
        row = int((codes == code).argmax())
        parts.append(
            f"{count_rows(repeated)} share their text with another row; most often, {counts[code]} times, "
            f"{row_text(table, row)} ({table.describe_place(row)})"
        )
    if near:
        parts.append(f"{count_rows(near)} share 80% or more of their text with another row")
    if copies.compared < len(table):
        parts.append(f"near copies were looked for among {copies.compared:,} rows (at most {MOST_TEXTS:,})")
    yield Finding(
        code="LT403", severity="note", found="; ".join(parts), advice="remove the copies, unless they should count more"
    )


def contradicting_targets(table: Table, targets: Targets) -> Iterator[Finding]:
    """Find rows with the same text and another target."""
    codes, matrix = text_codes(table), target_matrix(targets)
    known = matrix if targets.values.ndim == 1 else targets.values.astype(np.float64)
    counts = np.bincount(codes)
    low = np.full((len(counts), matrix.shape[1]), np.inf)
    high = np.full_like(low, -np.inf)
    np.fmin.at(low, codes, known)  # which pass over labels that were not scored
    np.fmax.at(high, codes, known)
    spread = (high - low).max(axis=1)
    found = np.flatnonzero(spread[codes] > 0)
    if not len(found):
        return
    worst = int(spread.argmax())
    rows = np.flatnonzero(codes == worst)
    rows = rows[np.argsort(matrix[rows, int((high - low)[worst].argmax())], kind="stable")][[0, -1]]
    cells = [readable_target(targets, int(row)) for row in rows]
    what = f"{table.describe_place(int(rows[0]))} ({cells[0]}) and {table.describe_place(int(rows[1]))} ({cells[1]})"
    yield Finding(
        code="LT404",
        severity="warning" if len(found) > FEW * len(table) else "note",
        found=f"{count_rows(len(found))} ({percent(len(found) / len(table))}) have the text of another row and another "
        f"target, such as {what}: {row_text(table, int(rows[0]))}",
        advice=f"correct them, or give such rows one target ({ONE_TARGET.get(targets.kind, 'the mean')})",
    )


def readable_target(targets: Targets, row: int) -> str:
    """Return a row's target in words: its class, the names of its labels, or its numbers."""
    if targets.kind == "multilabel":
        return ", ".join(np.array(targets.classes)[targets.values[row] > 0.5]) or "no label"
    cell = targets.readable(np.array([row]))[0].as_py()
    return cell if isinstance(cell, str) else ", ".join(f"{number:.6g}" for number in np.atleast_1d(cell))


def suggested_groups(
    table: Table, columns: Mapping[str, pa.Array], targets: Targets, *, group: str | None
) -> Iterator[Finding]:
    """Find columns, or beginnings of ids, that several rows share, where no group is set."""
    if group is not None or table.holdout:
        return
    found, best = [], ""
    for name, cells in {**columns, **_prefixes(columns)}.items():
        codes, count = _codes(cells)
        is_text = not numbers_or_nan(cells.drop_null()).size or np.isnan(numbers_or_nan(cells.fill_null(""))).any()
        if is_text and LEAST_GROUPS <= count <= len(codes) / 2:
            told = explained(_others_mean(codes, target_matrix(targets)), target_matrix(targets))
            said = f", and tells the target (R² {told:.2f})" if told > TELLS else ""
            found.append((told, f"{name} ({count:,} values{said})"))
            best = best or name
    if found:
        found.sort(key=lambda item: -item[0])
        yield Finding(
            code="LT405",
            severity="warning" if found[0][0] > TELLS else "note",
            found=f"rows may belong together: {'; '.join(text for _, text in found[:4])}",
            advice="name the column with data.group (--group) if new texts will come from other groups; folds then "
            "keep the rows of a group together"
            + ("; the beginning of an id needs a column of its own" if any(BEGINNING in t for _, t in found) else ""),
        )


def id_predicts_target(columns: Mapping[str, pa.Array], targets: Targets) -> Iterator[Finding]:
    """Find columns of ids whose order tells the target."""
    matrix = target_matrix(targets)
    found = []
    for name, cells in columns.items():
        codes, count = _codes(cells)
        if count < 0.95 * len(codes) or len(codes) < LEAST_ROWS:
            continue
        numbers = numbers_or_nan(cells.fill_null(""))
        order = np.argsort(codes if np.isnan(numbers).any() else numbers, kind="stable")
        told = explained(_neighbours_mean(matrix[order]), matrix[order])
        if told > TELLS:
            found.append(f"column {name!r} (R² {told:.2f})")
    if found:
        yield Finding(
            code="LT406",
            severity="warning",
            found=f"the order of the ids tells the target: {'; '.join(found)}; neighbours were collected together",
            advice="find out what neighbours share, and keep them together with data.group",
        )


def column_predicts_target(columns: Mapping[str, pa.Array], targets: Targets) -> Iterator[Finding]:
    """Find columns with few values that tell the target."""
    matrix = target_matrix(targets)
    found = []
    for name, cells in columns.items():
        codes, count = _codes(cells)
        if not 2 <= count <= len(codes) / 2 or len(codes) < LEAST_ROWS:
            continue
        told = explained(_others_mean(codes, matrix), matrix)
        if told > TELLS:
            found.append((told, f"column {name!r} ({count:,} values, R² {told:.2f})"))
    if found:
        found.sort(key=lambda item: -item[0])
        yield Finding(
            code="LT407",
            severity="warning" if found[0][0] > 0.5 else "note",
            found=f"columns beside the texts tell the target: {'; '.join(text for _, text in found[:4])}",
            advice="make sure that no such cell is copied into the texts if it follows from the target; if it is "
            "known for new texts, it may help to write it into the text",
        )


def explained(predicted: NDArray[np.float64], matrix: NDArray[np.float64]) -> float:
    """Return R² over all outputs together: the share of the variance that predictions [N, K] explain."""
    total = float(((matrix - matrix.mean(axis=0)) ** 2).sum())
    return 1 - float(((matrix - predicted) ** 2).sum()) / total if total > 0 else 0.0


def _codes(cells: pa.Array) -> tuple[IntArray, int]:
    """Return a number for each cell [N], in the order of the texts, and how many different there are."""
    encoded = cells.fill_null("").dictionary_encode()
    order = pc.rank(encoded.dictionary, tiebreaker="dense").to_numpy().astype(np.int64) - 1
    return order[encoded.indices.to_numpy(zero_copy_only=False)], len(encoded.dictionary)


def _others_mean(codes: IntArray, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the mean of the other rows with its code, drawn to the mean of all by one row's weight."""
    counts = np.bincount(codes)
    sums = np.stack([np.bincount(codes, weights=column) for column in matrix.T], axis=1)
    others = (sums[codes] - matrix + matrix.mean(axis=0)) / counts[codes][:, None]
    return np.asarray(others)


def _neighbours_mean(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the mean of the rows beside it."""
    padded = np.concatenate([np.zeros((1, matrix.shape[1])), matrix.cumsum(axis=0)])
    rows = np.arange(len(matrix))
    low, high = np.maximum(0, rows - NEIGHBOURS), np.minimum(len(matrix), rows + NEIGHBOURS + 1)
    return np.asarray((padded[high] - padded[low] - matrix) / (high - low - 1)[:, None])


def _prefixes(columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """Return the part of each id before its first separator, for columns of which no two cells are alike."""
    found = {}
    for name, cells in columns.items():
        if _codes(cells)[1] == len(cells):
            begun = pc.extract_regex(cells.fill_null(""), r"^(?P<prefix>[^_\-./: ]+)[_\-./: ]")
            prefix = pc.struct_field(begun, "prefix")
            if prefix.null_count < len(cells) / 10:
                found[f"{BEGINNING}{name}"] = prefix
    return found
