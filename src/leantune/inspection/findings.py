"""What is known to go wrong, found before training.

1. `unknown_tokens`: texts that the model's tokenizer cannot read
2. `duplicates_across_folds`: texts that stand in both training and validation rows
3. `untrained_classes`: validation rows of classes that no training row has

Each check is a function that yields at most one finding; `catalogue` has its code. All rows are
looked at in whole columns: 200,000 rows of 60 words take about a second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from leantune.inspection.catalogue import BY_CODE
from leantune.tables.folds import Folds
from leantune.tables.readers import shown
from leantune.tables.table import Table
from leantune.tables.targets import Targets

IntArray = NDArray[np.int64]

UNKNOWN_SHARE_TO_WARN = 0.05
"""Share of unknown tokens that a few emoji or names do not reach, and a second script in the texts does."""
UNKNOWN_SHARE_TO_REFUSE = 0.9
"""Share at which the model reads nearly nothing: the texts are in a script that its tokenizer does not have."""
FEW = 0.01
"""Share of rows that hardly move a metric."""
MOST_NAMED = 5
"""Classes that a text names."""
MOST_EXAMPLES = 3
"""Rows that a text names."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is known to go wrong, or worth a look."""

    code: str
    """Of the check, one of `catalogue.CHECKS`; it stays the same between versions."""
    severity: Literal["note", "warning", "error"]
    """`error`: training would be of no use, and is refused. `note`: nothing is wrong, but worth knowing."""
    found: str
    """What was found, in this table, and what follows from it."""
    advice: str
    """What to do."""

    @property
    def about(self) -> str:
        """The stage that it concerns: tokens, folds."""
        return BY_CODE[self.code].about

    @property
    def text(self) -> str:
        """What was found, what follows from it, and what to do."""
        return f"{self.found}: {self.advice}"

    def record(self) -> dict[str, str]:
        """Return everything that there is to say about it, as plain values."""
        check = BY_CODE[self.code]
        return {
            "code": self.code,
            "name": check.name,
            "severity": self.severity,
            "about": check.about,
            "found": self.found,
            "how": check.how,
            "why": check.why,
            "advice": self.advice,
        }


def unknown_tokens(
    table: Table, unknown: IntArray, tokens: IntArray, *, model: str, allowed: bool
) -> Iterator[Finding]:
    """Find texts that the tokenizer of `model` cannot read.

    `tokens` [N] are the tokens of each row, special tokens not counted, and `unknown` [N] how many of them stand for
    what the tokenizer does not know. A warning above 5 percent of all tokens, an error above 90 percent unless that is
    `allowed`.
    """
    total = int(tokens.sum())
    share = int(unknown.sum()) / max(1, total)
    if share <= UNKNOWN_SHARE_TO_WARN:
        return
    row = int((unknown / np.maximum(1, tokens)).argmax())
    texts = " and ".join(shown(column[row].as_py(), 40) for column in table.texts)
    found = (
        f"{percent(share)} of all tokens are unknown to the tokenizer of {model}, for example {unknown[row]:,} of "
        f"{tokens[row]:,} in {table.describe_place(row)}: {texts}. To the model all unknown tokens are the same"
    )
    advice = "choose a model.name whose tokenizer knows the script of these texts"
    if share > UNKNOWN_SHARE_TO_REFUSE and not allowed:
        advice += ", such as a multilingual one; tokens.unknown: allow trains all the same"
        yield Finding(code="LT201", severity="error", found=found, advice=advice)
    else:
        advice += ", if they matter"
        yield Finding(code="LT201", severity="warning", found=found, advice=advice)


def duplicates_across_folds(table: Table, folds: Folds, numbers: Sequence[int]) -> Iterator[Finding]:
    """Find validation rows of the folds `numbers` whose text a training row of the same fold has, too.

    Whitespace around a text does not count; of pairs, both texts must be the same.
    """
    codes = text_codes(table)
    copies: list[IntArray] = []
    originals: list[IntArray] = []
    validating = 0
    for number in numbers:
        rows, training = folds.validation_rows(number), folds.training_rows(number)
        first = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
        first[codes[training[::-1]]] = training[::-1]  # of equal texts the first row stays
        validating += len(rows)
        copies.append(rows[first[codes[rows]] >= 0])
        originals.append(first[codes[copies[-1]]])
    found, original = np.concatenate(copies), np.concatenate(originals)
    if not len(found):
        return
    first_few = np.argsort(found, kind="stable")[:MOST_EXAMPLES]
    examples = _examples(table, found[first_few], original[first_few])
    what = "pair of texts" if len(table.texts) > 1 else "text"
    advice = "name a column that is the same for all copies with data.group, which keeps them together, or remove them"
    if folds.holdout or folds.kind == "given":
        advice = "let all copies train or all copies validate, or remove them"
    elif table.groups is not None:
        advice = "give all copies the same group (data.group), which keeps them together, or remove them"
    share = len(found) / validating
    yield Finding(
        code="LT401",
        severity="warning" if share > FEW else "note",
        found=f"{len(found):,} of {validating:,} validation rows ({percent(share)}) have a {what} "
        f"that also trains, such as {examples}. The metrics are better than on new texts",
        advice=advice,
    )


def untrained_classes(table: Table, targets: Targets, folds: Folds, numbers: Sequence[int]) -> Iterator[Finding]:
    """Find validation rows of the folds `numbers` with a class, or a label, that no training row of the fold has."""
    if targets.kind not in {"binary", "multiclass", "multilabel"}:
        return
    rows_of: dict[str, dict[int, int]] = {}
    affected: list[IntArray] = []
    for number in numbers:
        rows = folds.validation_rows(number)
        counts = rows_of_classes(targets, rows)
        untrained = np.flatnonzero((counts > 0) & (rows_of_classes(targets, folds.training_rows(number)) == 0))
        for place in untrained:
            rows_of.setdefault(targets.classes[place], {})[number] = int(counts[place])
        affected.append(rows[_has_any(targets, rows, untrained)])
    if not rows_of:
        return
    found = np.sort(np.concatenate(affected))
    several = len(numbers) > 1
    parts = []
    for name, counted in list(rows_of.items())[:MOST_NAMED]:
        within = f" in fold{'s' * (len(counted) > 1)} {', '.join(map(str, counted))}" if several else ""
        parts.append(f"{shown(name, 40)} ({count_rows(sum(counted.values()))}{within})")
    more = f" and {len(rows_of) - MOST_NAMED} more" if len(rows_of) > MOST_NAMED else ""
    what, plural = ("label", "labels") if targets.kind == "multilabel" else ("class", "classes")
    yield Finding(
        code="LT301",
        severity="warning",
        found=f"{count_rows(len(found))} (the first is {table.describe_place(int(found[0]))}) validate with {plural} "
        f"that no training row{' of the same fold' if several else ''} has: {', '.join(parts)}{more}. A model "
        f"cannot learn a {what} that it never sees, and is measured on it",
        advice=f"let rows of each {what} train, merge {plural}, or remove these rows",
    )


def text_codes(table: Table) -> IntArray:
    """Return a number for each row [N], the same for rows with the same text or pair."""
    codes = np.zeros(len(table), dtype=np.int64)
    for column in table.texts:
        encoded = pc.dictionary_encode(pc.utf8_trim_whitespace(column))
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
    if len(table.texts) > 1:
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64, copy=False)
    return codes


def rows_of_classes(targets: Targets, rows: IntArray) -> IntArray:
    """Return how many of the rows have each of the K classes or labels [K]."""
    values = targets.values[rows]
    if targets.kind == "multilabel":
        return np.asarray((values > 0.5).sum(axis=0), dtype=np.int64)
    return np.bincount(values.astype(np.int64, copy=False), minlength=len(targets.classes))


def _has_any(targets: Targets, rows: IntArray, classes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which of the n rows have one of some classes or labels [n]."""
    values = targets.values[rows]
    if targets.kind == "multilabel":
        return np.asarray((values[:, classes] > 0.5).any(axis=1))
    return np.isin(values, classes)


def _examples(table: Table, copies: IntArray, originals: IntArray) -> str:
    """Name some rows, each with the row that it is a copy of."""
    said = []
    for row, original in zip(copies.tolist(), originals.tolist(), strict=True):
        path, number = table.place(original)
        is_beside = path == table.place(row)[0]
        said.append(f"{table.describe_place(row)} (as {'' if is_beside else f'{path}, '}row {number + 1})")
    return ", ".join(said)


def row_text(table: Table, row: int, characters: int = 50) -> str:
    """Return a row's text, shortened; of a pair both."""
    return " | ".join(shown(column[row].as_py(), characters) for column in table.texts)


def count_rows(count: int) -> str:
    """Return a number of rows in words: `1 row`, `2,000 rows`."""
    return f"{count:,} row{'s' * (count != 1)}"


def percent(share: float) -> str:
    """Return a share as a person reads it: what is not all is never 100%, and what is not none never 0%."""
    if share == 1:
        return "100%"
    return f"{min(share, 0.999):.1%}" if share >= 0.001 else "less than 0.1%"
