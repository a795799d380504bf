"""What is unusual about targets is found, and nothing is where they are usual."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from leantune.inspection.target_checks import (
    constant_labels,
    correlated_targets,
    fold_differs,
    one_class_dominates,
    other_reading,
    outliers,
    rare_classes,
    rounded_scale,
    target_correlations,
    target_matrix,
)
from leantune.tables.folds import Folds
from leantune.tables.table import Table
from leantune.tables.targets import Targets


def numbers(*columns: Any) -> Targets:
    values = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    return Targets(kind="regression", columns=("a", "b", "c")[: len(columns)], classes=(), values=values, reason="")


def classes(*counts: int, names: tuple[str, ...] = ("x", "y", "z")) -> Targets:
    values = np.repeat(np.arange(len(counts)), counts)
    return Targets(kind="multiclass", columns=("c",), classes=names[: len(counts)], values=values, reason="")


def labels(values: Any) -> Targets:
    matrix = np.asarray(values, dtype=np.float64)
    names = ("l1", "l2", "l3")[: matrix.shape[1]]
    return Targets(kind="multilabel", columns=names, classes=names, values=matrix, reason="")


def table_of(count: int) -> Table:
    ids = pa.array(map(str, range(count)), pa.string())
    texts = (pa.array(["t"] * count, pa.large_string()),)
    return Table(path=Path("t.csv"), texts=texts, ids=ids, targets={}, groups=None, weights=None, folds=None)


def codes(found: Any) -> list[str]:
    return [finding.code for finding in found]


def test_few_rows_of_a_class_are_found_and_the_rarest_is_named_first() -> None:
    (finding,) = rare_classes(classes(50, 9, 3))
    assert finding.found == "2 of 3 classes have fewer than 10 rows: 'z' (3), 'y' (9)"
    assert not [*rare_classes(classes(50, 10))]


def test_a_class_that_nearly_all_rows_have_is_found() -> None:
    assert codes(one_class_dominates(classes(91, 9))) == ["LT303"]
    assert not [*one_class_dominates(classes(90, 10))]


def test_a_typing_error_is_an_outlier_and_a_normal_distribution_has_none() -> None:
    values = np.random.default_rng(1).normal(size=500)
    assert not [*outliers(table_of(500), numbers(values))]
    values[17] = 99
    (finding,) = outliers(table_of(500), numbers(values))
    assert finding.found == "1 row with values far from all others: a 99 in t.csv, row 18"


def test_steps_of_a_scale_are_found_and_numbers_of_all_kinds_are_not() -> None:
    assert codes(rounded_scale(numbers(np.random.default_rng(2).integers(0, 5, size=200)))) == ["LT305"]
    assert not [*rounded_scale(numbers(np.random.default_rng(3).normal(size=200)))]


def test_correlations_are_those_of_pandas() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 100))
    c = a + 0.1 * b
    found = target_correlations(numbers(a, b, c))
    expected = pd.DataFrame({"a": a, "b": b, "c": c}).corr()
    assert found == pytest.approx({pair: expected.loc[pair[0], pair[1]] for pair in found})
    (finding,) = correlated_targets(numbers(a, b, c))
    assert "a and c" in finding.found


def test_labels_that_are_the_same_in_every_row_are_found() -> None:
    (finding,) = constant_labels(labels([[0, 1, 1], [0, 0, 1]]))
    assert finding.found.startswith("2 of 3 labels are the same in every row: ")


def test_labels_that_were_not_scored_are_neither_values_nor_warnings() -> None:
    found = labels([[0, 1, np.nan], [1, 1, 0], [np.nan, 1, 1]])
    assert not np.isnan(target_matrix(found)).any()
    (finding,) = constant_labels(found)
    assert finding.found.startswith("1 of 3 labels are the same in every row: ")


def test_a_fold_with_other_targets_is_found_and_chance_is_not() -> None:
    values, of_row = np.random.default_rng(5).normal(size=600), np.random.default_rng(6).integers(0, 3, size=600)
    folds = Folds(of_row=of_row, kind="given")
    assert not [*fold_differs(numbers(values), folds, [0, 1, 2])]
    values[of_row == 1] += 1
    (finding,) = fold_differs(numbers(values), folds, [0, 1, 2])
    assert "fold 1: the mean of a is " in finding.found


@pytest.mark.parametrize(
    ("targets", "advised"),
    [
        (classes(5, 5, names=("1", "2")), "regression"),
        (classes(5, 5), None),
        (numbers(np.arange(30) % 25), "multiclass"),
        (numbers(np.random.default_rng(7).normal(size=30)), None),
        (labels([[1, 0], [0, 1]]), "soft"),
        (labels([[1, 1], [0, 1]]), None),
    ],
)
def test_another_reading_is_offered_where_there_is_one(targets: Targets, advised: str | None) -> None:
    found = [*other_reading(table_of(len(targets.values)), targets, "auto")]
    assert [f"set data.task to {advised}" in finding.advice for finding in found] == [True] * (advised is not None)
    assert not [*other_reading(table_of(len(targets.values)), targets, targets.kind)]
