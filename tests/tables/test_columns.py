"""Patterns and lists of targets become names of columns, and a column `id` names the rows."""

from pathlib import Path

import pandas as pd
import pytest

from leantune.system.errors import TableError
from leantune.tables.columns import resolve_targets
from leantune.tables.folds import FoldSettings, fold_table
from leantune.tables.memory import as_origin
from leantune.tables.table import DataSettings, read_table

FRAME = pd.DataFrame(
    {
        "text": [f"text {row}" for row in range(8)],
        "label_b": [0, 1] * 4,
        "label_a": [1, 0] * 4,
        "label_id": list("abcdefgh"),
        "other": [1, 1, 0, 0] * 2,
        "one,two": [1.5, 2.5] * 4,
    }
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def targets_of(path: object, *target: str, **more: object) -> tuple[str, ...]:
    return resolve_targets(DataSettings(path=as_origin(path), text="text", target=target, **more)).target


def test_a_pattern_stands_for_the_columns_that_fit_in_the_tables_order(path: Path) -> None:
    assert targets_of(path, "label_?") == ("label_b", "label_a")


def test_a_column_with_another_use_does_not_fit(path: Path) -> None:
    assert targets_of(path, "label_*", id="label_id") == ("label_b", "label_a")


def test_a_list_stands_for_its_names_and_patterns(path: Path) -> None:
    assert targets_of(path, "other, label_?", "label_a") == ("other", "label_b", "label_a")


def test_the_very_name_of_a_column_wins(path: Path) -> None:
    assert targets_of(path, "one,two") == ("one,two",)


def test_a_table_in_memory_has_patterns_too() -> None:
    assert targets_of(FRAME, "label_?") == ("label_b", "label_a")


def test_a_pattern_that_fits_nothing_is_refused_with_the_columns(path: Path) -> None:
    with pytest.raises(
        TableError, match=r"no column that fits 'lable_\*' \(data\.target\), expected some of 'label_b'"
    ):
        targets_of(path, "lable_*")


def test_a_list_with_a_column_of_another_use_is_refused(path: Path) -> None:
    with pytest.raises(TableError, match=r"data\.target names the column 'text', which has another use"):
        targets_of(path, "other,text")


def test_a_name_in_a_list_that_is_not_there_is_told_as_any_other(path: Path) -> None:
    settings = DataSettings(path=path, text="text", target="other,labels_a")
    with pytest.raises(TableError, match=r"found no column 'labels_a'.*did you mean 'label_a'"):
        fold_table(settings, FoldSettings(count=2))


def test_folds_are_made_of_the_columns_that_a_pattern_stands_for(path: Path) -> None:
    _, targets, _ = fold_table(DataSettings(path=path, text="text", target="label_?"), FoldSettings(count=2))

    assert targets.columns == ("label_b", "label_a")


def read_with_ids(folder: Path, ids: list[object], **more: object) -> tuple[list[str], str]:
    FRAME.assign(id=ids).to_csv(folder / "rows.csv", index=False)
    table = read_table(DataSettings(path=folder / "rows.csv", text="text", target="other", **more))
    return table.ids.to_pylist(), " ".join(table.notes)


def test_a_column_id_names_the_rows_and_it_is_said(tmp_path: Path) -> None:
    ids, said = read_with_ids(tmp_path, list("stuvwxyz"))

    assert ids == list("stuvwxyz")
    assert "the rows are named by the column 'id'" in said


@pytest.mark.parametrize(
    ("ids", "why"), [(list("sstuvwxy"), "cells that stand twice"), ([None, *"stuvwxy"], "missing cells")]
)
def test_a_column_id_that_does_not_tell_rows_apart_leaves_them_numbered(
    ids: list[object], why: str, tmp_path: Path
) -> None:
    found, said = read_with_ids(tmp_path, ids)

    assert found == [str(row) for row in range(8)]
    assert f"the column 'id' has {why}" in said


def test_a_named_column_of_ids_wins(tmp_path: Path) -> None:
    assert read_with_ids(tmp_path, list("stuvwxyz"), id="label_id")[0] == list("abcdefgh")


def test_a_column_id_with_another_use_names_no_rows(tmp_path: Path) -> None:
    assert read_with_ids(tmp_path, list("aabbccdd"), group="id")[0] == [str(row) for row in range(8)]


def test_ids_of_both_files_or_of_none(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "more.csv", index=False)

    ids, _ = read_with_ids(tmp_path, list("stuvwxyz"), validation=tmp_path / "more.csv")

    assert ids == [str(row) for row in range(8)] * 2
