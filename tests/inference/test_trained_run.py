"""A run's folder is opened with what predicting needs, or refused with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from leantune.inference.trained_run import TrainedRun, open_run
from leantune.system.errors import RunFolderError
from leantune.tables.targets import TaskKind
from small_runs import LABELS, run_all, tiny_config, write_table


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(write_table(folder / "table.csv"), tiny_encoder_dir("bert"), fold="all", folds__count=2)
    run_all(config, folder / "run")
    return folder / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_run_opens_with_its_folds_task_and_settings(finished: Path) -> None:
    run = open_run(finished)
    assert [fold.number for fold in run.folds] == [0, 1]
    assert (run.task.kind, run.task.labels) == ("regression", ("score",))
    assert run.config.tokens.max_length == 128
    assert [pq.read_table(fold.predictions).num_rows for fold in run.folds] == [30, 30]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "soft"])
def test_outputs_have_the_names_of_classes_or_columns(
    kind: TaskKind, tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    columns = ("label",) if kind in ("binary", "multiclass") else LABELS[kind]
    config = tiny_config(
        write_table(tmp_path / "table.csv", kind=kind),
        tiny_encoder_dir("bert"),
        data__target=list(columns),
        data__task=kind,
        optimizer__max_steps=1,
        optimizer__epochs=1,
    )
    run_all(config, tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert (run.task.kind, run.task.labels) == (kind, LABELS[kind])


def test_a_loaded_model_is_the_saved_one(finished: Path) -> None:
    run = open_run(finished)
    encoder = run.load(run.folds[1], "cpu")
    assert encoder.pooling is not None
    assert encoder.new_weights == ()
    saved = load_file(run.folds[1].model / "model.safetensors")
    weights = dict(encoder.model.named_parameters())
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)


def test_a_run_that_trained_on_all_rows_has_one_model_without_predictions(
    tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]
) -> None:
    config = tiny_config(write_table(tmp_path / "table.csv"), tiny_encoder_dir("bert"), fold="none")
    run_all(config, tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert [fold.number for fold in run.folds] == ["none"]
    assert not run.folds[0].predictions.exists()


def _without(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).unlink()


def _writing(name: str, content: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "found no folder, expected the folder of a run"),
        (_without("config.yaml"), "found no config.yaml"),
        (_without("metrics.json"), r"unfinished run .* --resume"),
        (_writing("metrics.json", "{"), "no whole JSON"),
        (_writing("metrics.json", "{}"), "no task and folds"),
        (_writing("metrics.json", json.dumps({"task": "regression", "folds": {"../x": {}}})), "found the fold '../x'"),
        (_without("fold_1/model/model.safetensors"), "fold_1/model: found no model.safetensors"),
        (_writing("fold_0/model/config.json", "{}"), "no names of the outputs"),
    ],
)
def test_what_is_no_finished_run_is_refused(copied: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copied)
    with pytest.raises(RunFolderError, match=message):
        open_run(copied)


def test_a_comparison_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(RunFolderError, match="found a comparison"):
        open_run(tmp_path)


def test_a_run_chosen_by_a_function_opens_without_it(copied: Path) -> None:
    config = (copied / "config.yaml").read_text()
    assert "metric: rmse" in config
    (copied / "config.yaml").write_text(config.replace("metric: rmse", "metric: pinball"))
    assert isinstance(open_run(copied), TrainedRun)
