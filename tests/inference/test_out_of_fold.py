"""Predictions for validation rows are read back as the run wrote them, and of several runs only for the same rows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from leantune.inference.out_of_fold import read_out_of_fold, read_same_rows
from leantune.inference.trained_run import open_run
from leantune.system.errors import RunFolderError
from leantune.tables.targets import TaskKind
from leantune.training.scoring import compute_metrics
from small_runs import LABELS


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pq.read_table(path)
    changed = change(table.to_pandas())
    pq.write_table(table.from_pandas(changed, schema=table.schema, preserve_index=False), path)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    return lambda run: shutil.copytree(run, tmp_path / f"copy_of_{run.name}")


@pytest.mark.parametrize("kind", list(LABELS))
def test_what_is_read_has_the_metrics_of_the_run(kind: TaskKind, trained: Callable[..., Path]) -> None:
    run = open_run(trained(kind, fold="all", folds__count=2))
    found = read_out_of_fold(run)
    assert found.rows.tolist() == list(range(60))
    assert found.ids == tuple(f"{row:04d}" for row in range(60))
    assert sorted(set(found.folds.tolist())) == [0, 1]
    expected = run.metrics["overall"]["best"]
    for name, value in compute_metrics(kind, found.targets, found.predictions).items():
        assert value == pytest.approx(expected[name]), name


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_outputs_come_in_the_order_that_is_asked_for(kind: TaskKind, trained: Callable[..., Path]) -> None:
    run = open_run(trained(kind, fold="all", folds__count=2))
    own, other = read_out_of_fold(run), read_out_of_fold(run, run.task.labels[::-1])
    assert np.array_equal(other.predictions, own.predictions[:, ::-1])
    assert np.array_equal(other.targets, 2 - own.targets if kind == "multiclass" else own.targets[:, ::-1])


def test_a_run_that_no_rows_validated_is_refused(trained: Callable[..., Path]) -> None:
    with pytest.raises(RunFolderError, match="all rows trained"):
        read_out_of_fold(open_run(trained(fold="none")))


@pytest.mark.parametrize("damage", ["cut", "other labels", "removed"])
def test_a_damaged_file_is_refused(damage: str, trained: Callable[..., Path], copy_of: Callable[[Path], Path]) -> None:
    run = copy_of(trained("multiclass"))
    path = run / "fold_0" / "predictions.parquet"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "removed":
        path.unlink()
    else:
        pq.write_table(pq.read_table(path).replace_schema_metadata({"labels": '["x", "y", "z"]'}), path)
    with pytest.raises(RunFolderError, match=r"predictions\.parquet"):
        read_out_of_fold(open_run(run))


def test_runs_of_the_same_rows_are_read_together(trained: Callable[..., Path]) -> None:
    runs = [open_run(trained(fold="all", folds__count=2, seed=seed)) for seed in (0, 1)]
    one, two = read_same_rows(runs)
    assert np.array_equal(one.targets, two.targets)
    assert not np.array_equal(one.predictions, two.predictions)


def test_runs_of_other_rows_are_refused_by_name(trained: Callable[..., Path]) -> None:
    every, part = trained(fold="all", folds__count=2), trained(folds__count=3)
    with pytest.raises(RunFolderError) as caught:
        read_same_rows([open_run(every), open_run(part)])
    message = str(caught.value)
    assert f"{part}: was validated on 20 rows, and {every} on 60" in message
    assert f"only {every} has row" in message


def test_runs_of_other_targets_are_refused_by_name(
    trained: Callable[..., Path], copy_of: Callable[[Path], Path]
) -> None:
    run = trained()
    other = copy_of(run)

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[3, "target"] += 1
        return frame

    rewrite(other / "fold_0" / "predictions.parquet", change)
    with pytest.raises(RunFolderError, match=f"{other}: 1 of its validation rows have another target than in {run}"):
        read_same_rows([open_run(run), open_run(other)])
