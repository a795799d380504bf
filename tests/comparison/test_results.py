"""A run folder read back: everything that a comparison needs, or one message that names the file."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leantune.comparison.results import EvaluationPoint, entry, read_run, seconds_to_reach, value_at
from leantune.runs.record import RunFolder
from leantune.system.errors import RunFolderError
from leantune.system.files import read_json
from leantune.training.events import Evaluation, FoldEnd, FoldStart, Note, TrainStep
from synthetic_experiments import ENVIRONMENT, write_run


def change_json(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def change_events(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    file = folder / "events.jsonl"
    events = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
    change(events)
    file.write_text("".join(json.dumps(event) + "\n" for event in events), "utf-8")


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def refusal(folder: Path, fold: int = 0) -> str:
    with pytest.raises(RunFolderError) as caught:
        read_run(folder, fold)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is read


def test_a_run_reads_back_as_it_was_written(tmp_path):
    folder = write_run(
        tmp_path / "run",
        fold=2,
        seed=7,
        curve=[(4.0, 0.9), (12.0, 0.5)],
        quality=0.4,
        quality_last=0.5,
        train_seconds=12.0,
        total_seconds=20.0,
        startup_seconds=5.0,
        steps=3,
        settings={"precision": "bf16"},
    )
    run = read_run(folder, 2)
    assert (run.folder, run.fold, run.task, run.metric) == (folder, 2, "regression", "rmse")
    assert (run.config["seed"], run.config["precision"], run.config["data"]["text"]) == (7, "bf16", ["excerpt"])
    assert run.environment == ENVIRONMENT
    assert (run.scores["best"]["rmse"], run.scores["last"]["rmse"], run.overall["total_seconds"]) == (0.4, 0.5, 20.0)
    assert run.evaluations == (
        EvaluationPoint(step=1, train_seconds=4.0, value=0.9),
        EvaluationPoint(step=3, train_seconds=12.0, value=0.5),
    )
    assert run.losses.tolist() == [1.0, 0.5, 1 / 3]
    assert run.memory_bytes.tolist() == [2**29 + 2**20, 2**29 + 2 * 2**20, 2**29 + 3 * 2**20]
    assert run.validation_rows.tolist() == [2, 7, 12, 17, 22]
    assert run.validation_targets == (0.25, 0.875, 1.5, 2.125, 2.75)


def test_memory_is_timed_from_the_beginning_of_the_process(tmp_path):
    run = read_run(write_run(tmp_path / "run", startup_seconds=5.0, train_seconds=12.0, steps=3), 0)
    assert run.memory_seconds == pytest.approx([9.0, 13.0, 17.0], abs=1e-5)


def test_what_the_recorder_writes_is_read(tmp_path):
    scores = {"best": {"step": 1, "rmse": 0.5}, "last": {"step": 1, "rmse": 0.5}, "padding_fraction": 0.0}
    scores |= {"training_rows": 8, "validation_rows": 2, "train_seconds": 0.6, "tokens_per_second": 1000.0}
    step = TrainStep(
        fold=0,
        step=1,
        epoch=1.0,
        loss=None,
        learning_rate=2e-5,
        gradient_norm=None,
        skipped=True,
        rows=8,
        tokens=600,
        computed_tokens=640,
        useful_flops=1e9,
        tokens_per_second=1000.0,
        memory=2**30,
        train_seconds=0.6,
    )
    evaluation = Evaluation(
        fold=0,
        step=1,
        epoch=1.0,
        metrics={"rmse": 0.5, "pearson": None},
        metric="rmse",
        is_best=True,
        predictions=np.zeros((2, 1)),
        rows=2,
        train_seconds=0.6,
        evaluation_seconds=0.5,
    )
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config({"precision": "fp32", "data": {"text": ["本文\u2028"]}})
        folder.write_environment(ENVIRONMENT)
        folder.write_event(Note(about="data", text="“東京”\u2028\x85\r\nand more"))
        folder.write_event(FoldStart(fold=0, training_rows=8, validation_rows=2, total_steps=1))
        folder.write_event(step)
        folder.write_event(evaluation)
        folder.write_event(FoldEnd(fold=0, metrics=scores))
        folder.write_predictions(
            0,
            rows=np.array([3, 7]),
            ids=pa.array(["a", "b"]),
            targets=[[1.0, 0.0], [0.0, 1.0]],
            predictions=np.zeros((2, 2)),
            labels=("x", "y"),
        )
        overall = {"total_seconds": 3.0, "peak_device_bytes": None, "peak_process_bytes": 2**30}
        folder.write_metrics({"task": "multilabel", "metric": "rmse", "folds": {"0": scores}, "overall": overall})
    run = read_run(tmp_path / "run", 0)
    assert run.evaluations == (EvaluationPoint(step=1, train_seconds=0.6, value=0.5),)
    assert math.isnan(run.losses[0])
    assert run.memory_seconds[0] == pytest.approx(3.0, abs=1.0)
    assert run.config["data"]["text"] == ["本文\u2028"]
    assert run.validation_targets == ([1.0, 0.0], [0.0, 1.0])


def test_of_several_folds_the_one_that_was_asked_for_is_read(tmp_path):
    folder, other = write_run(tmp_path / "run", fold=0, quality=0.5), write_run(tmp_path / "1", fold=1, quality=0.7)
    (other / "fold_1").rename(folder / "fold_1")
    events = [(path / "events.jsonl").read_text("utf-8") for path in (folder, other)]
    (folder / "events.jsonl").write_text("".join(events), "utf-8")
    scores = read_json(other / "metrics.json")["folds"]["1"]
    change_json(folder / "metrics.json", lambda metrics: metrics["folds"].update({"1": scores}))
    runs = [read_run(folder, fold) for fold in (0, 1)]
    assert [run.scores["best"]["rmse"] for run in runs] == [0.5, 0.7]
    assert [run.evaluations[-1].value for run in runs] == [0.5, 0.7]
    assert [(len(run.evaluations), len(run.losses)) for run in runs] == [(3, 6)] * 2
    assert [run.validation_rows[0] for run in runs] == [0, 1]


def test_a_metric_that_is_not_defined_is_none(tmp_path):
    folder = write_run(tmp_path / "run", metric="pearson", quality=None, curve=[(6.0, None), (12.0, 0.5)])
    run = read_run(folder, 0)
    assert run.scores["best"]["pearson"] is None
    assert [point.value for point in run.evaluations] == [None, 0.5]


# What is refused


def test_a_folder_without_metrics_is_not_a_finished_run(tmp_path):
    assert (
        refusal(tmp_path / "none")
        == f"{tmp_path / 'none'}: found no metrics.json, expected the folder of a finished run"
    )
    (write_run(tmp_path / "run") / "metrics.json").unlink()
    assert refusal(tmp_path / "run").startswith(f"{tmp_path / 'run'}: found no metrics.json")


def test_a_fold_that_was_not_trained_is_told_beside_those_that_were(tmp_path):
    folder = write_run(tmp_path / "run", fold=3)
    expected = f"{folder / 'metrics.json'}: found the trained folds 3, expected fold 0 among them"
    assert refusal(folder, 0) == expected


FILES = ("metrics.json", "config.yaml", "environment.json", "events.jsonl", "fold_0/predictions.parquet")


@pytest.mark.parametrize("name", FILES)
def test_half_a_file_is_refused_by_its_name(tmp_path, name):
    file = write_run(tmp_path / "run") / name
    # YAML that ends early may be whole YAML: cut within a list.
    half = file.read_bytes()[: file.read_bytes().find(b"- excerpt")] + b"- [" if name == "config.yaml" else None
    file.write_bytes(half or file.read_bytes()[: file.stat().st_size // 2])
    assert refusal(tmp_path / "run").startswith(str(file))


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path, name):
    file = write_run(tmp_path / "run") / name
    file.unlink()
    assert refusal(tmp_path / "run") == f"{file}: cannot be read: No such file or directory"


@pytest.mark.parametrize("name", FILES[:4])
def test_bytes_that_are_no_text_are_refused_by_the_files_name(tmp_path, name):
    file = write_run(tmp_path / "run") / name
    file.write_bytes(b'{"a": "\xff\xfe"}\n')
    assert refusal(tmp_path / "run").startswith(str(file))


@pytest.mark.parametrize("name", FILES[:4])
def test_a_file_that_is_no_mapping_is_refused_by_its_name(tmp_path, name):
    file = write_run(tmp_path / "run") / name
    file.write_text("[1]\n")
    assert refusal(tmp_path / "run").startswith(str(file))
    assert "found list, expected a " in refusal(tmp_path / "run")


def test_a_last_line_that_is_cut_is_refused_with_its_number(tmp_path):
    file = write_run(tmp_path / "run") / "events.jsonl"
    text = file.read_text("utf-8")
    file.write_text(text[:-20], "utf-8", newline="")
    last = text.count("\n")
    assert refusal(tmp_path / "run").startswith(f"{file}, line {last}: found no whole JSON")


def test_events_that_end_early_at_the_end_of_a_line_are_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    change_events(folder, lambda events: events.pop())
    assert refusal(folder) == (
        f"{folder / 'events.jsonl'}: found 6 steps, 3 evaluations and no end of fold 0, expected all of a finished "
        "run's: lines are missing"
    )


@pytest.mark.parametrize("kind", ["step", "evaluation"])
def test_events_without_steps_or_evaluations_are_refused(tmp_path, kind):
    folder = write_run(tmp_path / "run")
    file = folder / "events.jsonl"
    lines = file.read_text("utf-8").split("\n")
    file.write_text("\n".join(line for line in lines if f'"event": "{kind}"' not in line), "utf-8", newline="")
    assert f"found {'0 steps' if kind == 'step' else '6 steps, 0 evaluations'}" in refusal(folder)


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        ("step", "memory", "much", "memory: found 'much', expected a number"),
        ("step", "memory", None, "memory: found None, expected a number"),
        ("step", "loss", "nan", "loss: found 'nan', expected a number"),
        ("step", "loss", math.nan, "loss: found nan, expected a number"),
        ("step", "time", None, "time: found None, expected a number"),
        ("evaluation", "metrics", [], "metrics: found [], expected a mapping"),
        ("evaluation", "metrics", {"rmse": True}, "metrics.rmse: found True, expected a number"),
        ("evaluation", "step", 0.5, "step: found 0.5, expected a whole number"),
        ("evaluation", "train_seconds", 0, "train_seconds: found 0, expected a number above 0"),
    ],
)
def test_an_event_with_a_wrong_value_is_refused_with_its_line(tmp_path, kind, name, value, expected):
    folder = write_run(tmp_path / "run", steps=1, curve=[(12.0, 0.5)])
    change_events(folder, lambda events: of_kind(events, kind)[0].update({name: value}))
    line = {"step": 3, "evaluation": 4}[kind]
    assert refusal(folder) == f"{folder / 'events.jsonl'}, line {line}: {expected}"


@pytest.mark.parametrize(
    ("place", "name", "value", "expected"),
    [
        ("folds.0", "train_seconds", 0, "folds.0.train_seconds: found 0, expected a number above 0"),
        ("folds.0", "tokens_per_second", -1.0, "folds.0.tokens_per_second: found -1.0, expected a number above 0"),
        ("folds.0", "training_rows", 0, "folds.0.training_rows: found 0, expected a number above 0"),
        ("folds.0", "padding_fraction", None, "folds.0.padding_fraction: found None, expected a number"),
        ("folds.0", "best", {}, "found no folds.0.best.rmse, expected a number there"),
        ("folds.0.last", "rmse", "good", "folds.0.last.rmse: found 'good', expected a number"),
        ("overall", "total_seconds", True, "overall.total_seconds: found True, expected a number"),
        ("overall", "peak_process_bytes", None, "overall.peak_process_bytes: found None, expected a number"),
        ("overall", "peak_device_bytes", 0, "overall.peak_device_bytes: found 0, expected a number above 0"),
        ("", "metric", None, "metric: found None, expected a text"),
        ("", "task", 1, "task: found 1, expected a text"),
        ("", "folds", [], "folds: found [], expected a mapping"),
        ("", "overall", None, "overall: found None, expected a mapping"),
    ],
)
def test_a_metric_with_a_wrong_value_is_refused_by_its_name(tmp_path, place, name, value, expected):
    folder = write_run(tmp_path / "run")

    def change(metrics: dict[str, Any]) -> None:
        for part in filter(None, place.split(".")):
            metrics = metrics[part]
        metrics[name] = value

    change_json(folder / "metrics.json", change)
    assert refusal(folder) == f"{folder / 'metrics.json'}: {expected}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e.pop("data_sha256"), "found no data_sha256, expected a text there"),
        (lambda e: e.pop("started"), "found no started, expected a text there"),
        (lambda e: e.update(versions=None), "versions: found None, expected a mapping"),
        (lambda e: e.update(device="cpu"), "found no device.type, expected a text there"),
        (lambda e: e["device"].pop("name"), "found no device.name, expected a text there"),
    ],
)
def test_an_environment_without_what_a_comparison_needs_is_refused(tmp_path, change, expected):
    folder = write_run(tmp_path / "run")
    change_json(folder / "environment.json", change)
    assert refusal(folder) == f"{folder / 'environment.json'}: {expected}"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"row": [0, 5], "target": [1.0, 2.0]}, "found 2 rows numbered as int64, expected 5"),
        ({"row": ["0"] * 5, "target": [1.0] * 5}, "found 5 rows numbered as string, expected 5"),
        ({"row": [0, 1, 2, 3, 4]}, "found no column 'target', expected row, id, target and prediction"),
    ],
)
def test_predictions_of_another_shape_are_refused(tmp_path, columns, expected):
    folder = write_run(tmp_path / "run")
    file = folder / "fold_0" / "predictions.parquet"
    pq.write_table(pa.table(columns), file)
    assert refusal(folder).startswith(f"{file}: {expected}")


# Helpers


def test_an_entry_is_found_in_its_place_and_a_whole_number_is_a_number():
    content = {"recipes": {"a.b": {"folder": "x"}}, "seconds": 3}
    assert entry("here", content, str, "recipes", "a.b", "folder") == "x"
    assert entry("here", content, float, "seconds") == 3


def curve(tmp_path: Path, *points: tuple[float, float | None], metric: str = "rmse") -> Any:
    return read_run(write_run(tmp_path / "run", curve=points, metric=metric, train_seconds=12.0), 0)


def test_a_goal_is_reached_at_the_first_evaluation_that_is_as_good(tmp_path):
    run = curve(tmp_path, (2.0, None), (4.0, 0.9), (6.0, 0.7), (8.0, 0.8), (12.0, 0.6))
    reached = [seconds_to_reach(run, goal, lower_is_better=True) for goal in (0.95, 0.7, 0.75, 0.6, 0.5)]
    assert reached == [4.0, 6.0, 6.0, 12.0, None]
    reached = [seconds_to_reach(run, goal, lower_is_better=False) for goal in (0.5, 0.9, 0.95)]
    assert reached == [4.0, 4.0, None]


def test_the_value_at_a_time_is_that_of_the_latest_evaluation_until_then(tmp_path):
    run = curve(tmp_path, (4.0, 0.9), (8.0, 0.7), (12.0, None))
    assert [value_at(run, seconds) for seconds in (3.9, 4.0 - 1e-12, 7.9, 8.0, 11.0, 99.0)] == [
        None,
        0.9,
        0.9,
        0.7,
        0.7,
        None,
    ]
