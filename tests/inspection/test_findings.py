"""What is known to go wrong is found, with its rows, and nothing is found where nothing is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.inspection.findings import Finding, duplicates_across_folds, unknown_tokens, untrained_classes
from leantune.tables.folds import Folds
from leantune.tables.table import Table
from leantune.tables.targets import Targets, TaskKind


def table_of(*columns: list[str], validating: int = 0, groups: bool = False) -> Table:
    """A table of texts, of which the last `validating` rows come from a second file."""
    count = len(columns[0])
    rows = pa.array(map(str, range(count)), pa.string())
    return Table(
        path=Path("train.csv"),
        texts=tuple(pa.array(column, pa.large_string()) for column in columns),
        ids=rows,
        targets={},
        groups=rows if groups else None,
        weights=None,
        folds=np.repeat([1, 0], [count - validating, validating]) if validating else None,
        holdout=validating > 0,
        validation_path=Path("valid.csv") if validating else None,
    )


def folds_of(*of_row: int, kind: Any = "random", holdout: bool = False) -> Folds:
    return Folds(of_row=np.array(of_row), kind=kind, holdout=holdout)


def classes_of(*names: str) -> Targets:
    classes = tuple(sorted(set(names)))
    return targets_of("multiclass", classes, np.array([classes.index(name) for name in names]))


def targets_of(kind: TaskKind, classes: tuple[str, ...], values: Any) -> Targets:
    return Targets(kind=kind, columns=classes, classes=classes, values=np.array(values), reason="")


def only(found: Any) -> Finding:
    (finding,) = found
    assert isinstance(finding, Finding)
    return finding


# Unknown tokens


def find_unknown(unknown: list[int], tokens: list[int], *, allowed: bool = False) -> list[Finding]:
    table = table_of([f"text {number}" for number in range(len(tokens))], validating=1)
    return list(unknown_tokens(table, np.array(unknown), np.array(tokens), model="bert", allowed=allowed))


@pytest.mark.parametrize(
    ("unknown", "allowed", "severity"),
    [(5, False, None), (6, False, "warning"), (90, False, "warning"), (91, False, "error"), (91, True, "warning")],
)
def test_unknown_tokens_are_warned_of_above_5_percent_and_refused_above_90(
    unknown: int, allowed: bool, severity: str | None
) -> None:
    found = find_unknown([0, unknown], [0, 100], allowed=allowed)
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])


def test_the_row_of_which_least_is_known_is_the_example() -> None:
    finding = only(find_unknown([3, 2, 2], [50, 10, 2]))
    assert finding.code == "LT201"
    assert finding.about == "tokens"
    assert finding.text.startswith(
        "11.3% of all tokens are unknown to the tokenizer of bert, for example 2 of 2 in valid.csv, row 1: 'text 2'."
    )


def test_what_is_refused_names_the_way_out() -> None:
    text = only(find_unknown([1, 1], [1, 1])).text
    assert text.startswith("100% of all tokens")
    assert "a model.name whose tokenizer knows the script of these texts" in text
    assert "tokens.unknown: allow" in text


def test_texts_without_tokens_have_no_unknown_ones() -> None:
    assert find_unknown([0, 0], [0, 0]) == []


# Duplicates


def test_a_text_that_trains_and_validates_is_found_with_both_rows() -> None:
    table = table_of(["a", " b\n", "c", "b", "d"])
    finding = only(duplicates_across_folds(table, folds_of(0, 0, 1, 1, 1), [0]))
    assert (finding.code, finding.severity, finding.about) == ("LT401", "warning", "folds")
    assert finding.text.startswith(
        "1 of 2 validation rows (50.0%) have a text that also trains, such as train.csv, row 2 (as row 4). "
    )
    assert "data.group" in finding.text


def test_copies_of_hardly_any_row_are_a_note() -> None:
    table = table_of(["a", *(f"text {number}" for number in range(200)), "a"])
    folds = folds_of(*[0] * 201, 1)
    assert only(duplicates_across_folds(table, folds, [0])).severity == "note"
    assert only(duplicates_across_folds(table, folds, [1])).severity == "warning"


def test_copies_on_one_side_of_the_split_are_no_finding() -> None:
    table = table_of(["a", "a", "b", "b"])
    assert list(duplicates_across_folds(table, folds_of(0, 0, 1, 1), [0, 1])) == []


def test_of_pairs_both_texts_must_be_the_same() -> None:
    table = table_of(["a", "a", "b", "a"], ["x", "y", "x", "x"])
    text = only(duplicates_across_folds(table, folds_of(0, 1, 1, 1), [0])).text
    assert (
        "1 of 1 validation rows (100%) have a pair of texts that also trains, such as train.csv, row 1 (as row 4)"
        in text
    )
    assert list(duplicates_across_folds(table, folds_of(1, 0, 1, 1), [0])) == []


def test_copies_in_all_trained_folds_are_counted_together_in_the_tables_order() -> None:
    table = table_of(["a", "b", "a", "b", "a", "c"])
    text = only(duplicates_across_folds(table, folds_of(2, 0, 1, 1, 0, 2), [0, 1, 2])).text
    assert "5 of 6 validation rows (83.3%)" in text
    assert "train.csv, row 1 (as row 3), train.csv, row 2 (as row 4), train.csv, row 3 (as row 1). " in text


def test_copies_in_a_validation_file_are_named_there() -> None:
    table = table_of(["a", "b", "b"], validating=1)
    text = only(duplicates_across_folds(table, folds_of(1, 1, 0, kind="given", holdout=True), [0])).text
    assert "such as valid.csv, row 1 (as train.csv, row 2)" in text
    assert "data.group" not in text


@pytest.mark.parametrize(
    ("kind", "groups", "advice"),
    [
        ("random", False, "name a column that is the same for all copies with data.group"),
        ("group", True, "give all copies the same group (data.group)"),
        ("given", False, "let all copies train or all copies validate"),
    ],
)
def test_the_advice_on_copies_fits_how_the_folds_were_made(kind: str, groups: bool, advice: str) -> None:
    table = table_of(["a", "a"], groups=groups)
    assert advice in only(duplicates_across_folds(table, folds_of(0, 1, kind=kind), [0])).text


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", " a", "b", "", "東"]), st.sampled_from("xy"), st.integers(0, 2)),
        min_size=1,
        max_size=30,
    ),
    pair=st.booleans(),
)
def test_the_copies_are_those_that_pandas_finds(rows: list[tuple[str, str, int]], pair: bool) -> None:
    rows = [*rows, ("only", "z", 0), ("alone", "z", 1), ("single", "z", 2)]
    one, other, of_row = (list(column) for column in zip(*rows, strict=True))
    frame = pd.DataFrame({"text": [text.strip() for text in one], "other": other if pair else "", "fold": of_row})
    expected = 0
    for fold in (0, 2):
        validating, training = frame[frame.fold == fold], frame[frame.fold != fold].drop_duplicates(["text", "other"])
        expected += len(validating.merge(training, on=["text", "other"]))
    table = table_of(one, other) if pair else table_of(one)
    found = list(duplicates_across_folds(table, folds_of(*of_row), [0, 2]))
    said = [finding.text.split(" of ")[0] for finding in found]
    assert said == ([str(expected)] if expected else [])


def test_a_share_is_neither_all_nor_nothing_where_it_is_not() -> None:
    texts = [f"text {number}" for number in range(2000)]
    few = folds_of(*[0] * 2000, *[1] * 2000)
    text = only(duplicates_across_folds(table_of([*texts, "text 7", *["other"] * 1999]), few, [0])).text
    assert "1 of 2,000 validation rows (less than 0.1%)" in text
    text = only(duplicates_across_folds(table_of([*texts, *texts[1:], "other"]), few, [0])).text
    assert "1,999 of 2,000 validation rows (99.9%)" in text


# Untrained classes


def test_validation_rows_of_a_class_that_never_trains_are_counted() -> None:
    targets = classes_of("a", "b", "c", "c", "a", "b")
    table = table_of(list("abcdef"), validating=4)
    finding = only(untrained_classes(table, targets, folds_of(1, 1, 0, 0, 0, 0, kind="given", holdout=True), [0]))
    assert (finding.code, finding.severity, finding.about) == ("LT301", "warning", "folds")
    assert finding.text.startswith(
        "2 rows (the first is valid.csv, row 1) validate with classes that no training row has: 'c' (2 rows). "
    )


def test_classes_of_several_folds_are_told_with_their_folds() -> None:
    targets = classes_of("a", "b", "a", "c", "a", "b", "b")
    folds = folds_of(0, 0, 1, 1, 2, 0, 0)
    text = only(untrained_classes(table_of(list("abcdefg")), targets, folds, [0, 1, 2])).text
    assert text.startswith(
        "4 rows (the first is train.csv, row 2) validate with classes that no training row of the same"
    )
    assert "'b' (3 rows in fold 0), 'c' (1 row in fold 1). " in text
    assert "'c'" not in only(untrained_classes(table_of(list("abcdefg")), targets, folds, [0])).text


def test_a_label_that_only_validates_is_found_and_a_row_with_two_counts_once() -> None:
    values = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    targets = targets_of("multilabel", ("joy", "fear", "love", "none"), values)
    text = only(untrained_classes(table_of(list("abcde")), targets, folds_of(1, 1, 0, 0, 0), [0])).text
    assert text.startswith("2 rows (the first is train.csv, row 3) validate with labels that no training row has")
    assert "'fear' (2 rows), 'love' (1 row). " in text
    assert "none" not in text


def test_a_long_list_of_classes_is_cut_short() -> None:
    names = [f"class {number}" for number in range(9)]
    targets = classes_of(*names, "z", "z")
    text = only(untrained_classes(table_of(list("abcdefghijk")), targets, folds_of(*[0] * 10, 1), [0])).text
    assert "'class 4' (1 row) and 4 more. " in text


def test_where_every_class_trains_and_where_there_are_none_nothing_is_found() -> None:
    table, folds = table_of(list("abcd")), folds_of(0, 0, 1, 1)
    assert list(untrained_classes(table, classes_of("a", "b", "b", "a"), folds, [0, 1])) == []
    regression = Targets(kind="regression", columns=("y",), classes=(), values=np.arange(4.0)[:, None], reason="")
    assert list(untrained_classes(table, regression, folds, [0, 1])) == []
