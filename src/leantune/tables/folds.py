"""Folds: which rows validate together.

    targets [N], groups [N] or none, settings -> of_row [N]: the number of the fold in which each row validates

Every fold has rows, every row has one fold, and the same seed gives the same folds everywhere: the random numbers come
from `numpy.random.RandomState`, whose stream numpy has frozen.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from leantune.system.errors import SettingsError, TableError
from leantune.system.settings import Section, check
from leantune.tables.columns import resolve_targets
from leantune.tables.memory import as_origin
from leantune.tables.table import DataSettings, Table, read_table
from leantune.tables.targets import Targets, TaskKind, parse_targets

IntArray = NDArray[np.int64]
FoldKind = Literal["sturges", "stratified", "group", "random", "multilabel", "given", "none"]
FoldNumber = int | Literal["none"]
"""The fold whose rows validate; `none` where all rows train."""

_KINDS_THAT_FIT: dict[TaskKind, tuple[FoldKind, ...]] = {
    "regression": ("sturges", "random"),
    "binary": ("stratified", "random"),
    "multiclass": ("stratified", "random"),
    "multilabel": ("multilabel", "random"),
    "soft": ("stratified", "random"),
}
"""Task -> kinds of folds for a table without groups; the first is what `auto` takes."""


def fold_number(name: str) -> FoldNumber:
    """Return the fold that files call `name`."""
    return "none" if name == "none" else int(name)


class FoldSettings(Section):
    """How rows are assigned to folds."""

    count: int = Field(default=5, ge=2)
    """Number of folds. With 5, each fold validates on about a fifth of the rows."""

    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed that shuffles the rows before they are assigned. It is not the seed of the training, so that runs with
    different training seeds validate on the same rows."""

    kind: Literal["auto", "sturges", "stratified", "group", "random", "multilabel"] = "auto"
    """How rows are assigned. `auto` is `group` where `data.group` is set. Otherwise it makes the target similar in
    every fold: its range (`sturges`), its classes (`stratified`; of shares, the most probable class) or its labels
    (`multilabel`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Folds:
    """The fold of each row: numbers from 0 without gaps, so every fold has rows."""

    of_row: IntArray
    """[N]: the fold in which a row validates."""

    kind: FoldKind
    """How the rows were assigned; never `auto`. `given`: by a column of the table, or by a validation file; `none`:
    they were not assigned."""

    notes: tuple[str, ...] = ()
    """What the user should know: one sentence each."""

    holdout: bool = False
    """Whether the rows were split by the user: those of fold 0 validate, and those of fold 1 only train."""

    @property
    def count(self) -> int:
        """Number of folds that validate."""
        return 1 if self.holdout else int(self.of_row.max()) + 1

    def all_numbers(self) -> list[int]:
        """Return the numbers of all folds; SettingsError where there is one split only, which is not all of a table."""
        if self.holdout:
            raise SettingsError(
                "fold: all trains one model a fold, and the data give one split into rows that train and rows that "
                "validate: set it to 0"
            )
        return list(range(self.count))

    def validation_rows(self, fold: FoldNumber) -> IntArray:
        """Return the numbers of the rows that validate in `fold`, ascending; SettingsError if there is no such fold."""
        if fold == "none":
            return np.empty(0, dtype=np.int64)
        self._check(fold)
        return np.flatnonzero(self.of_row == fold).astype(np.int64, copy=False)

    def training_rows(self, fold: FoldNumber) -> IntArray:
        """Return the numbers of all other rows, ascending; SettingsError if there is no such fold."""
        if fold == "none":
            return np.arange(len(self.of_row), dtype=np.int64)
        self._check(fold)
        return np.flatnonzero(self.of_row != fold).astype(np.int64, copy=False)

    def _check(self, fold: int) -> None:
        if self.holdout and fold != 0:
            raise SettingsError(
                f"There is no fold {fold}: the data say which rows train and which validate, and that is fold 0."
            )
        if not 0 <= fold < self.count:
            raise SettingsError(f"There is no fold {fold}: the folds are 0 to {self.count - 1}.")


def assign_folds(
    data: Any,
    *,
    target: str | list[str],
    count: int = 5,
    seed: int = 0,
    kind: str = "auto",
    group: str | None = None,
) -> Folds:
    """Deal the rows of a table into folds; the same as `leantune folds`.

    `data` is the path of a file, or a table in memory, as `leantune.train` takes it. The other arguments are the
    settings `data.target`, `folds.count` and so on. Raises `InputError` for what the
    caller must change.
    """
    columns = check(DataSettings, {"path": as_origin(data), "target": target, "group": group}, "data")
    settings = check(FoldSettings, {"count": count, "seed": seed, "kind": kind}, "folds")
    return fold_table(columns, settings)[2]


def fold_table(data: DataSettings, settings: FoldSettings | None) -> tuple[Table, Targets, Folds]:
    """Read a table, tell what its targets are, and assign its rows to folds, or take the folds that it gives.

    Without `settings` no row validates.

    Raises `TableError` and `SettingsError` as the functions that it calls.
    """
    table = read_table(resolve_targets(data))
    return table, *fold_rows(table, data, settings)


def fold_rows(table: Table, data: DataSettings, settings: FoldSettings | None) -> tuple[Targets, Folds]:
    """Do what `fold_table` does with a table that was read by the settings `data`."""
    targets = parse_targets(table, data.task)
    if settings is None:
        folds = Folds(of_row=np.zeros(len(table), dtype=np.int64), kind="none")
    elif table.folds is not None:
        folds = given_folds(table.folds, table.holdout)
    else:
        folds = make_folds(targets, table.groups, settings)
    return targets, folds


def make_folds(targets: Targets, groups: ArrayLike | None, settings: FoldSettings) -> Folds:
    """Deal the rows of a table into folds.

    - `sturges`: numeric targets. The table is shuffled, the target (the first, of several) is cut into
      floor(1 + log2 N) bins of equal width, and every fold gets its share of each bin.
    - `stratified`: the same with classes for bins; where classes have shares, with each row's most probable class.
    - `group`: rows of one group stay together; the bins or classes are spread as evenly as that allows. Takes about
      0.2 ms a group.
    - `multilabel`: every fold gets its share of each label.
    - `random`: folds of equal size, whatever the targets.

    `groups` are the names of the rows' groups, [N]. Raises SettingsError where the kind does not fit the task or the
    groups, and TableError where there are fewer rows, or groups, than folds.
    """
    kind = _resolve_kind(targets.kind, groups, settings.kind)
    row_count = len(targets.values)
    if row_count < settings.count:
        raise _too_few(row_count, "row", settings.count)
    if groups is not None:
        of_row, notes = _keep_groups(targets, groups, settings)
    elif kind == "random":
        of_row, notes = _cut_evenly(row_count, settings), []
    elif kind == "multilabel":
        labels = targets.values > 0.5
        of_row = _spread_labels(labels, settings)
        notes = _note_rare("label", targets.classes, labels.sum(axis=0), settings.count)
    else:
        strata, notes = _strata(targets, settings.count)
        of_row = _spread_strata(strata, settings)
    return Folds(of_row=of_row, kind=kind, notes=tuple(notes))


def given_folds(of_row: IntArray, holdout: bool = False) -> Folds:
    """Take the folds from a column of the table, [N]; with `holdout`, only fold 0 validates.

    Raises TableError unless they are numbered 0, 1, 2, ... without gaps. Two folds are enough: fold 0 for the rows that
    validate, fold 1 for all others.
    """
    numbers = np.unique(of_row)
    if len(numbers) < 2:
        raise TableError(
            f"All rows are in fold {numbers[0]}, expected at least two folds; the rows of another one are trained on."
            if len(numbers)
            else "The column of folds is empty."
        )
    if not np.array_equal(numbers, np.arange(len(numbers))):
        found = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
        raise TableError(
            f"The column of folds has the numbers {found}, expected 0 to {len(numbers) - 1}; "
            "number the folds from 0 without gaps."
        )
    return Folds(of_row=of_row, kind="given", holdout=holdout)


def _resolve_kind(task: TaskKind, groups: ArrayLike | None, kind: str) -> FoldKind:
    if groups is not None:
        if kind not in ("auto", "group"):
            raise SettingsError(
                f"folds.kind is {kind}, which would ignore the groups: use auto or group, or remove data.group."
            )
        return "group"
    fitting = _KINDS_THAT_FIT[task]
    if kind == "group":
        raise SettingsError(
            "folds.kind is group, but no column says which rows belong together: set data.group, "
            f"or use auto or {' or '.join(fitting)}."
        )
    for fit in fitting:
        if kind in ("auto", fit):
            return fit
    raise SettingsError(
        f"folds.kind is {kind}, which does not fit a {task} target: use auto or {' or '.join(fitting)}."
    )


def _strata(targets: Targets, count: int) -> tuple[IntArray, list[str]]:
    """Return the bin or class of each row [N], and what to say about rare ones.

    As long as one of them can be spread over all folds, rare ones are left as they are: each lands in as many folds as
    it has rows. Where none can, neighbours are joined.
    """
    if targets.kind == "regression":
        strata = _sturges_bins(targets.values[:, 0].astype(np.float64, copy=False))
        sizes = np.bincount(strata)
        notes = _note_rare_bins(sizes, count)
    elif targets.kind == "soft":
        strata = targets.values.argmax(axis=1)
        sizes = np.bincount(strata)
        notes = []  # a class that is seldom the most probable one has its shares in every fold
    else:
        strata = targets.values.astype(np.int64, copy=False)
        sizes = np.bincount(strata, minlength=len(targets.classes))
        notes = _note_rare("class", targets.classes, sizes, count)
    if sizes.max() < count:
        strata = _join_neighbours(strata, count)
        notes.append("Since each is as rare as that, neighbours were joined before they were spread over the folds.")
    return strata, notes


def _sturges_bins(values: NDArray[np.float64]) -> IntArray:
    """Return the number of each value's bin, of floor(1 + log2 N) bins of equal width, right edges included.

    The same bins as `pandas.cut(values, bins, labels=False)`. pandas moves its lowest edge down by 0.1 percent of the
    range, only to let the minimum in; without outer edges there is nothing to move.
    """
    bin_count = int(np.floor(1 + np.log2(len(values))))
    edges = np.linspace(values.min(), values.max(), bin_count + 1)
    return np.searchsorted(edges[1:-1], values, side="left").astype(np.int64, copy=False)


def _join_neighbours(strata: IntArray, count: int) -> IntArray:
    """Join strata with the next ones until each has at least `count` rows; the last may have fewer."""
    sizes = np.bincount(strata)
    joined = np.empty_like(strata, shape=len(sizes))
    complete, rows = 0, 0
    for stratum, size in enumerate(sizes):
        joined[stratum] = complete
        rows += size
        if rows >= count:
            complete, rows = complete + 1, 0
    return joined[strata]


def _spread_strata(strata: IntArray, settings: FoldSettings) -> IntArray:
    """Spread each stratum over the folds of a shuffled table.

    Row for row what `df.sample(frac=1, random_state=seed)` of pandas and scikit-learn's StratifiedKFold make of the
    table. Both would be a second of imports before every run.
    """
    order = np.random.RandomState(settings.seed).permutation(len(strata))
    random = np.random.RandomState(settings.seed)
    _, first, stratum_of = np.unique(strata[order], return_index=True, return_inverse=True)
    of_row = np.empty(len(strata), dtype=np.int64)
    dealt = 0
    for stratum in np.argsort(first):  # in the order in which they appear
        rows = order[stratum_of == stratum]
        folds = np.sort(np.arange(dealt, dealt + len(rows)) % settings.count)  # one row a fold in turn
        random.shuffle(folds)
        of_row[rows] = folds
        dealt += len(rows)
    return of_row


def _keep_groups(targets: Targets, groups: ArrayLike, settings: FoldSettings) -> tuple[IntArray, list[str]]:
    # Imported where there are groups: with all that scikit-learn imports, it is a second before the first step.
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold  # noqa: PLC0415

    names, of_group = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < settings.count:
        raise _too_few(len(names), "group", settings.count)
    whole_groups = GroupKFold(settings.count, shuffle=True, random_state=settings.seed)
    if targets.kind == "multilabel":
        return _fold_numbers(whole_groups, of_group, of_group), []
    strata, notes = _strata(targets, settings.count)
    splitter = StratifiedGroupKFold(settings.count, shuffle=True, random_state=settings.seed)
    of_row = _fold_numbers(splitter, strata, of_group)
    if np.bincount(of_row, minlength=settings.count).min() == 0:
        # Where two folds would do equally well, rounding errors decide; with few groups one may stay empty.
        of_row = _fold_numbers(whole_groups, strata, of_group)
        notes.append("There are too few groups to spread the target evenly: whole groups were assigned at random.")
    return of_row, notes


def _fold_numbers(splitter: Any, strata: IntArray, of_group: IntArray) -> IntArray:
    """Return the fold [N] that a scikit-learn splitter gives to each row."""
    of_row = np.full_like(strata, -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rare classes: said in the notes, in the user's words
        for fold, (_, rows) in enumerate(splitter.split(strata, strata, of_group)):
            of_row[rows] = fold
    return of_row


def _cut_evenly(row_count: int, settings: FoldSettings) -> IntArray:
    of_row = np.empty(row_count, dtype=np.int64)
    order = np.random.RandomState(settings.seed).permutation(row_count)
    of_row[order] = np.arange(row_count) * settings.count // row_count
    return of_row


def _spread_labels(labels: NDArray[np.bool_], settings: FoldSettings) -> IntArray:
    """Deal rows with labels [N, K] into folds that each have their share of every label.

    Iterative stratification: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD
    2011, algorithm 1. The label with the fewest rows left goes first; each of its rows goes to the fold that lacks the
    label most, then to the smallest fold, then to any. Folds here have equal shares, so the fold that lacks a label
    most is the one that has it least often. Of equally rare labels the first one goes first; the paper draws one.
    """
    random = np.random.RandomState(settings.seed)
    # One more label, which every row has: it counts the rows of a fold, and is the turn of rows without any other.
    labels = np.column_stack([labels, np.ones(len(labels), dtype=np.bool_)])
    of_row = np.full(len(labels), -1, dtype=np.int64)
    in_fold = np.zeros((settings.count, labels.shape[1]), dtype=np.int64)
    left = labels.sum(axis=0)
    while left.any():
        label = np.argmin(np.where(left > 0, left, len(labels) + 1))
        rows = np.flatnonzero(labels[:, label] & (of_row < 0))
        for row in random.permutation(rows):
            fold = np.lexsort((random.random_sample(settings.count), in_fold[:, -1], in_fold[:, label]))[0]
            of_row[row] = fold
            in_fold[fold] += labels[row]
        left -= labels[rows].sum(axis=0)
    return of_row


def _note_rare_bins(sizes: IntArray, count: int) -> list[str]:
    rare = np.sum((sizes > 0) & (sizes < count))
    if not rare:
        return []
    return [
        "Some folds validate without a bin of the target that has fewer rows than there are folds "
        f"({count}): {rare} of {np.sum(sizes > 0)} bins."
    ]


def _note_rare(what: str, names: Sequence[str], sizes: Iterable[int], count: int) -> list[str]:
    rare = [f"{name!r} ({size})" for name, size in zip(names, sizes, strict=True) if 0 < size < count]
    if not rare:
        return []
    shown = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
    return [
        f"Some folds validate without a {what} that has fewer rows than there are folds ({count}): {shown}. Their "
        f"metrics do not measure it, and a fold that validates all rows of a {what} never trains on it."
    ]


def _too_few(found: int, what: str, count: int) -> TableError:
    plural = what if found == 1 else f"{what}s"
    advice = f"set folds.count to {found} or less" if found >= 2 else f"folds need at least 2 {what}s"
    return TableError(f"{found} {plural} cannot be divided into {count} folds: {advice}.")
