"""What trained models answer for some rows, as numbers, as classes and as columns of a table."""

from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.inference.thresholds import DecisionRule
from leantune.system.errors import SettingsError
from leantune.system.formatting import figure
from leantune.system.terminal import printable
from leantune.tables.targets import TaskKind

ROWS_SHOWN = 5
COLUMNS_SHOWN = 8
PROBABILITY = "probability_"
"""Stands before a class in the name of the column of its probabilities: a class may be called 1, or like the column of
the ids."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predictions for n rows, in the order in which the rows were given.

    Printed, or as the last line of a notebook's cell, it is a table of the first rows.
    """

    ids: pa.Array
    """string [n]."""
    kind: TaskKind
    labels: tuple[str, ...]
    """One name an output: target columns for regression, multilabel and soft, classes otherwise."""
    values: NDArray[np.float64]
    """[n, outputs]: numbers for regression, probabilities otherwise."""
    id_name: str = "id"
    """What the column of the ids is called."""
    models: tuple[str, ...] = ()
    """Names of the models whose mean the values are, where they were asked for one by one."""
    of_models: NDArray[np.float64] | None = None
    """[models, n, outputs]: the values of each model, where they were asked for."""
    rule: DecisionRule | None = None
    """Fitted thresholds that decide."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def decisions(self) -> pa.Array:
        """What is predicted for each row: the most probable class (a name), whether each label applies (a list of true
        and false: a probability of at least 0.5), or for regression the number, a list of them for several targets.
        Where thresholds were fitted, they decide: on the class, each label, or a whole number."""
        decided = self.values if self.rule is None else self.rule.decide(self.values)
        if self.kind == "regression":
            return _rows_of(decided if self.rule is None else decided.astype(np.int64))
        if self.kind == "multilabel":
            return _rows_of(decided >= 0.5)
        return pa.array(self.labels, pa.string()).take(pa.array(decided.argmax(axis=1)))

    def to_arrow(self) -> pa.Table:
        """Return the table that `leantune predict` writes: see `output_names`, with the ids before."""
        names = output_names(self.kind, self.labels, self.models)
        columns = output_columns(self.kind, self.labels, self.values, self.of_models, self.rule)
        if self.id_name in names:
            raise SettingsError(
                f"id: the column of the ids is called {self.id_name!r}, as a column of the predictions is; rename it"
            )
        return pa.table([self.ids, *columns], names=[self.id_name, *names])

    def __repr__(self) -> str:
        rows = self._shown()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, f"[{len(self):,} rows]"])

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""
        head, *rows = [[escape(cell) for cell in row] for row in self._shown()]
        lines = [f"<tr><th>{'</th><th>'.join(head)}</th></tr>"]
        lines += [f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows]
        return f"<table>{''.join(lines)}</table><p>{len(self):,} rows</p>"

    def _shown(self) -> list[list[str]]:
        """Return the first rows and columns as texts, the names first."""
        table = self.to_arrow()
        names = table.column_names[:COLUMNS_SHOWN]
        more = ["..."] * (len(table.column_names) > COLUMNS_SHOWN)
        rows = table.slice(0, ROWS_SHOWN).select(list(range(len(names)))).to_pylist()
        return [[*map(printable, names), *more], *([*map(_cell, row.values()), *more] for row in rows)]


def output_names(kind: TaskKind, labels: tuple[str, ...], models: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the columns that predictions are written in, without that of the ids.

    Regression: each target. Binary and multiclass: `prediction`, the class, and `probability_CLASS` for each class.
    Labels and shares: the probability of each label, under its name. With `models`, the values of each model under
    `COLUMN@MODEL`, and `COLUMN@spread`, their standard deviation, follow.
    """
    values = [f"{PROBABILITY}{label}" for label in labels] if kind in {"binary", "multiclass"} else list(labels)
    names = ["prediction", *values] if kind in {"binary", "multiclass"} else list(values)
    if models:
        names += [f"{name}@{model}" for model in (*models, "spread") for name in values]
    return names


def output_columns(
    kind: TaskKind,
    labels: tuple[str, ...],
    values: NDArray[np.float64],
    of_models: NDArray[np.float64] | None = None,
    rule: DecisionRule | None = None,
) -> list[pa.Array]:
    """Return the columns that `output_names` names; `values` [n, outputs], `of_models` [models, n, outputs].

    With a `rule`, `prediction` is the class that it decides on, and labels are 0 or 1 and numbers whole, as it decides.
    The probabilities of classes, and what each model says, stay as they are.
    """
    decided = values if rule is None else rule.decide(values)
    if kind in {"binary", "multiclass"}:
        columns = [pa.array(labels, pa.string()).take(pa.array(decided.argmax(axis=1))), *map(pa.array, values.T)]
    else:
        columns = [pa.array(column) for column in (decided if rule is None else decided.astype(np.int64)).T]
    if of_models is not None:
        for part in (*of_models, of_models.std(axis=0)):
            columns += [pa.array(column) for column in part.T]
    return columns


def _rows_of(values: NDArray[Any]) -> pa.Array:
    """Return values [n, outputs] as a column: a value a row where there is one output, else a list."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.shape[1] == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(pa.list_(flat.type))


def _cell(value: object) -> str:
    text = figure(value, 4) if isinstance(value, float) else printable(str(value))
    return "".join(islice(text, 40))
