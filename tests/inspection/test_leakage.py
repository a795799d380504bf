"""What tells the target that should not is found, and nothing where nothing does."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import r2_score

from leantune.inspection.leakage import (
    NearCopies,
    column_predicts_target,
    contradicting_targets,
    duplicates,
    explained,
    id_predicts_target,
    near_duplicates_across_folds,
    suggested_groups,
)
from leantune.tables.folds import Folds
from leantune.tables.table import Table
from leantune.tables.targets import Targets

NOISE = np.random.default_rng(1).normal(size=400)


def table_of(*texts: list[str]) -> Table:
    return Table(
        path=Path("t.csv"),
        texts=tuple(pa.array(column, pa.large_string()) for column in texts),
        ids=pa.array(map(str, range(len(texts[0]))), pa.string()),
        targets={},
        groups=None,
        weights=None,
        folds=None,
    )


def numbers(values: Any) -> Targets:
    matrix = np.asarray(values, dtype=np.float64)[:, None]
    return Targets(kind="regression", columns=("y",), classes=(), values=matrix, reason="")


def strings(values: Any) -> pa.Array:
    return pa.array([str(value) for value in values], pa.large_string())


def folds_of(*of_row: int) -> Folds:
    return Folds(of_row=np.array(of_row), kind="random")


NEAR = "the quick brown fox jumps over the lazy dog and runs away"


def test_a_near_copy_in_another_fold_is_found_and_named_with_its_row() -> None:
    table = table_of([NEAR, "something else entirely", NEAR.replace("lazy", "lady")])
    (finding,) = near_duplicates_across_folds(table, folds_of(0, 0, 1), [0, 1], NearCopies.find(table))
    assert finding.code == "LT402"
    assert "2 of 3 validation rows" in finding.found
    assert "t.csv, row 1" in finding.found
    assert "t.csv, row 3" in finding.found


@pytest.mark.parametrize(("texts", "of_row"), [([NEAR, NEAR + "s"], (0, 0)), ([NEAR, NEAR], (0, 1))])
def test_near_copies_in_one_fold_and_exact_copies_are_not_this_finding(texts: list[str], of_row: Any) -> None:
    table = table_of(texts)
    assert not [*near_duplicates_across_folds(table, folds_of(*of_row), sorted(set(of_row)), NearCopies.find(table))]


def test_an_example_of_pairs_has_both_texts() -> None:
    table = table_of([NEAR, "something else entirely", NEAR.replace("lazy", "lady")], ["one", "two", "one"])
    (near,) = near_duplicates_across_folds(table, folds_of(0, 0, 1), [0, 1], NearCopies.find(table))
    assert near.found.count("... | 'one')") == 2
    table = table_of(["a text", "b text", "a text"], ["one", "two", "one"])
    (copies,) = duplicates(table, NearCopies.find(table))
    assert "'a text' | 'one' (t.csv, row 1)" in copies.found


@pytest.mark.parametrize(("kind", "advice"), [("regression", "(the mean)"), ("binary", "(the most frequent class)")])
def test_rows_that_contradict_each_other_may_be_given_what_their_task_allows(kind: Any, advice: str) -> None:
    values = np.array([0, 1]) if kind == "binary" else np.array([[0.0], [1.0]])
    targets = Targets(
        kind=kind, columns=("y",), classes=("no", "yes")[: 2 * (kind == "binary")], values=values, reason=""
    )
    (finding,) = contradicting_targets(table_of(["a text", "a text"]), targets)
    assert finding.advice.endswith(advice)


def test_copies_within_the_table_are_counted() -> None:
    table = table_of(["one text", "two texts", "one text ", "three more texts"])
    (finding,) = duplicates(table, NearCopies.find(table))
    assert finding.code == "LT403"
    assert finding.found.startswith("2 rows share their text with another row; most often, 2 times, 'one text'")


def test_the_same_text_with_another_target_is_found_and_with_the_same_target_is_not() -> None:
    table = table_of(["a text", "b text", "a text", "b text"])
    (finding,) = contradicting_targets(table, numbers([1.0, 2.0, 5.0, 2.0]))
    assert finding.found.startswith("2 rows (50.0%) have the text of another row and another target, such as t.csv")
    assert "t.csv, row 1 (1) and t.csv, row 3 (5)" in finding.found
    assert not [*contradicting_targets(table, numbers([1.0, 2.0, 1.0, 2.0]))]


def test_a_column_that_tells_the_target_is_found_and_a_random_one_is_not() -> None:
    groups = np.random.default_rng(2).integers(0, 20, size=400)
    targets = numbers(groups + NOISE)
    columns = {"leak": strings(groups), "random": strings(np.random.default_rng(3).integers(0, 20, size=400))}
    (finding,) = column_predicts_target(columns, targets)
    assert finding.code == "LT407"
    assert finding.severity == "warning"
    assert "'leak' (20 values" in finding.found
    assert "random" not in finding.found


def test_a_column_of_many_random_values_does_not_tell_the_target_by_chance() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        columns = {"random": strings(random.integers(0, 150, size=400))}
        assert not [*column_predicts_target(columns, numbers(random.normal(size=400)))]


def test_ids_whose_order_tells_the_target_are_found_as_numbers_and_not_as_texts_of_them() -> None:
    ids = np.random.default_rng(4).permutation(400)
    (finding,) = id_predicts_target({"uid": strings(ids)}, numbers(ids / 100 + NOISE / 10))
    assert finding.code == "LT406"
    assert "'uid'" in finding.found
    assert not [*id_predicts_target({"uid": strings(ids)}, numbers(NOISE))]


def test_a_column_of_names_that_rows_share_and_a_beginning_of_ids_suggest_groups() -> None:
    columns = {
        "author": strings(f"author {number % 40}" for number in range(400)),
        "id": strings(f"doc{number % 50}_{number}" for number in range(400)),
        "year": strings(number % 40 for number in range(400)),
    }
    table = table_of([f"text {number}" for number in range(400)])
    (finding,) = suggested_groups(table, columns, numbers(NOISE), group=None)
    assert "author (40 values)" in finding.found
    assert "the beginning of id (50 values)" in finding.found
    assert "year" not in finding.found
    assert not [*suggested_groups(table, columns, numbers(NOISE), group="author")]


def test_the_explained_share_is_that_of_scikit_learn() -> None:
    truth, said = NOISE[:100, None], NOISE[100:200, None]
    assert explained(said, truth) == pytest.approx(r2_score(truth, said))
