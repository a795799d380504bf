"""The rows on which an export is tried are those that validated the run, or all of another table."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from leantune.inference.trained_run import open_run
from leantune.inference.validation_rows import RowSource
from leantune.system.errors import TableError
from small_runs import run_all, tiny_config, write_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_table(folder / "train.csv", rows=30, kind="multiclass")
    write_table(folder / "valid.csv", rows=9, kind="multiclass", seed=1)
    config = tiny_config(
        folder / "train.csv",
        tiny_encoder_dir("bert"),
        data__target="label",
        data__validation=str(folder / "valid.csv"),
        optimizer__max_steps=1,
        optimizer__epochs=1,
    )
    run_all(config, folder / "run")
    return folder / "run"


def test_with_a_validation_file_its_rows_come_from_there(run: Path) -> None:
    opened = open_run(run)
    rows = RowSource(opened, None).rows(opened.folds[0])
    stored = pq.read_table(opened.folds[0].predictions)
    assert rows.path.name == "valid.csv"
    assert [opened.task.labels[target] for target in rows.targets] == stored["target"].to_pylist()
    np.testing.assert_array_equal(rows.predictions, stored["prediction"].to_pylist())
    with (run.parent / "valid.csv").open(newline="", encoding="utf-8") as file:
        assert rows.texts[0].to_pylist() == [row["text"] for row in csv.DictReader(file)]


def test_another_table_gives_all_of_its_rows_with_the_runs_classes(run: Path) -> None:
    opened = open_run(run)
    (run.parent / "few.csv").write_text("text,label\nBako,good\nLemi,bad\nNura,good\n")
    rows = RowSource(opened, run.parent / "few.csv").rows(opened.folds[0])
    assert rows.predictions is None
    assert [opened.task.labels[target] for target in rows.targets] == ["good", "bad", "good"]


def test_a_class_that_the_run_does_not_have_is_refused(run: Path) -> None:
    opened = open_run(run)
    (run.parent / "new.csv").write_text("text,label\nBako,good\nLemi,awful\n")
    with pytest.raises(TableError, match=r"row 2, column 'label': found 'awful', expected one of the 3 classes"):
        RowSource(opened, run.parent / "new.csv").rows(opened.folds[0])
