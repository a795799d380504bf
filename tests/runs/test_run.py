"""Whole runs, from a file to a run folder."""

import csv
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import leantune
import leantune.runs.fold_run
from leantune.runs.config import Config, load_config
from leantune.runs.display import summary
from leantune.runs.result import read_warnings
from leantune.runs.run import run
from leantune.system.device import resolve_device
from leantune.system.errors import DeviceError, InputError, ModelError, SettingsError, TableError
from leantune.system.settings import Section
from leantune.training.clock import peak_process_bytes
from leantune.training.events import Evaluation, FoldStart, Note, RunEnd, TrainStep
from leantune.training.metrics import metric_names
from leantune.training.precision import supported_precisions
from leantune.training.scoring import compute_metrics
from small_runs import LABELS, run_all, tiny_config, write_table
from tiny_encoders import NAMES, make_texts

QUALITY = ("best", "last", "optimizer_steps", "skipped_steps", "rows", "tokens", "padding_fraction")
needs_bf16 = pytest.mark.skipif(
    "bf16" not in supported_precisions(resolve_device("cpu")), reason="this processor does not compute bf16"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_table(tmp_path / "train.csv")


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def metrics_of(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def defined(scores: dict[str, float | None]) -> dict[str, float]:
    """The metrics that are numbers: `pytest.approx` with a tolerance takes no others."""
    return {name: score for name, score in scores.items() if score is not None}


def predictions_of(run: Path, fold: int = 0) -> Any:
    return pq.read_table(run / f"fold_{fold}" / "predictions.parquet").to_pydict()


def test_a_run_writes_the_folder_of_the_contract(data: Path, bert: Path, tmp_path: Path) -> None:
    events = run_all(tiny_config(data, bert), tmp_path / "run")
    assert isinstance(events[-1], RunEnd)
    files = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml",
        "environment.json",
        "events.jsonl",
        "metrics.json",
        "fold_0/predictions.parquet",
        "fold_0/model/config.json",
        "fold_0/model/model.safetensors",
        "fold_0/model/tokenizer.json",
    }
    assert not any("tmp" in name for name in files)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"versions", "device", "processor", "code_revision", "data_sha256", "tokenizer_sha256"} <= set(environment)
    overall = metrics_of(tmp_path / "run")["overall"]
    expected = "best last optimizer_steps rows tokens padding_fraction tokens_per_second model_flops_utilization "
    expected += "train_seconds startup_seconds evaluation_seconds checkpoint_seconds total_seconds "
    expected += "peak_device_bytes peak_process_bytes"
    assert set(expected.split()) <= set(overall)
    assert tuple(overall["best"]) == metric_names("regression")


def test_the_parts_of_the_time_add_up_to_the_whole(data: Path, bert: Path, tmp_path: Path) -> None:
    overall = run_all(tiny_config(data, bert), tmp_path / "run")[-1].metrics["overall"]
    parts = sum(overall[f"{phase}_seconds"] for phase in ("train", "startup", "evaluation", "checkpoint"))
    assert parts == pytest.approx(overall["total_seconds"], rel=0.02)
    assert all(overall[f"{phase}_seconds"] > 0 for phase in ("train", "startup", "evaluation", "checkpoint"))


def test_every_run_has_yardsticks_on_its_own_validation_rows(data: Path, bert: Path, tmp_path: Path) -> None:
    config = tiny_config(data, bert, fold="all", folds__count=3, data__fold=None)
    run_all(config, tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    targets = [np.array(predictions_of(tmp_path / "run", fold)["target"]) for fold in range(3)]
    means = [np.concatenate([t for n, t in enumerate(targets) if n != fold]).mean() for fold in range(3)]
    for fold in range(3):
        told = metrics["folds"][str(fold)]["yardsticks"]
        assert set(told) == {"constant", "linear", "reason", "training_rows", "seconds"}
        assert told["constant"]["rmse"] == pytest.approx(np.mean((targets[fold] - means[fold]) ** 2) ** 0.5)
        assert told["training_rows"] == 60 - len(targets[fold])
        assert set(told["linear"]) == set(told["constant"]) == set(metrics["overall"]["best"])
    squares = np.concatenate([(t - mean) ** 2 for t, mean in zip(targets, means, strict=True)])
    told = metrics["overall"]["yardsticks"]
    assert told["constant"]["rmse"] == pytest.approx(squares.mean() ** 0.5)
    of_folds = [metrics["folds"][str(fold)]["yardsticks"]["linear"]["mse"] for fold in range(3)]
    sizes = [len(t) for t in targets]
    assert told["linear"]["mse"] == pytest.approx(np.average(of_folds, weights=sizes))


def test_the_memory_of_the_yardsticks_is_not_the_runs(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leantune.runs.fold_run.measure_yardsticks

    def large(*given: Any, **named: Any) -> Any:
        assert np.ones(2**27).sum() == 2**27  # 1 GiB, given back at once
        return real(*given, **named)

    before = run_all(tiny_config(data, bert), tmp_path / "one")[-1].metrics["overall"]["peak_process_bytes"]
    monkeypatch.setattr(leantune.runs.fold_run, "measure_yardsticks", large)
    after = run_all(tiny_config(data, bert), tmp_path / "other")[-1].metrics["overall"]["peak_process_bytes"]
    assert after < before + 2**29


def test_yardsticks_that_fail_cost_a_warning_and_no_training(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: Any, **_named: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(leantune.runs.fold_run, "measure_yardsticks", fail)
    events = run_all(tiny_config(data, bert, fold="all", folds__count=2, data__fold=None), tmp_path / "run")
    warnings = [event.text for event in events if isinstance(event, Note) and event.about == "yardsticks"]
    assert len(warnings) == 2
    assert (
        "fold 0: the constant answer and the linear model could not be computed (MemoryError: no room)" in warnings[0]
    )
    metrics = metrics_of(tmp_path / "run")
    assert metrics["folds"]["1"]["yardsticks"] is None
    assert metrics["overall"]["yardsticks"] is None
    assert "linear" not in "".join(head for head, _ in summary(metrics))


def test_where_one_fold_has_no_yardsticks_the_run_has_none(
    data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = leantune.runs.fold_run.measure_yardsticks, iter(range(2))

    def fail_once(*given: Any, **named: Any) -> Any:
        if next(calls) == 0:
            raise ValueError("odd")
        return real(*given, **named)

    monkeypatch.setattr(leantune.runs.fold_run, "measure_yardsticks", fail_once)
    run_all(tiny_config(data, bert, fold="all", folds__count=2, data__fold=None), tmp_path / "run")
    metrics = metrics_of(tmp_path / "run")
    assert metrics["folds"]["0"]["yardsticks"] is None
    assert metrics["folds"]["1"]["yardsticks"]["linear"] is not None
    assert metrics["overall"]["yardsticks"] is None


def test_predictions_are_the_validation_rows_in_the_tables_order(data: Path, bert: Path, tmp_path: Path) -> None:
    run_all(tiny_config(data, bert, data__fold=None), tmp_path / "run")
    predictions = predictions_of(tmp_path / "run")
    lines = data.read_text(encoding="utf-8").splitlines()[1:]
    assert predictions["row"] == sorted(predictions["row"])
    assert predictions["id"] == [f"{row:04d}" for row in predictions["row"]]
    assert predictions["target"] == [float(lines[row].rsplit(",", 1)[1]) for row in predictions["row"]]
    scores = compute_metrics(
        "regression", np.array(predictions["target"])[:, None], np.array(predictions["prediction"])[:, None]
    )
    best = metrics_of(tmp_path / "run")["overall"]["best"]
    assert best == pytest.approx(scores)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_repeats_the_predictions(
    data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, name: str, precision: str
) -> None:
    settings = {"precision": precision, "optimizer__epochs": 1, "tokens__max_length": 128}
    run_all(tiny_config(data, tiny_encoder_dir(name), **settings), tmp_path / "run")
    predictions = predictions_of(tmp_path / "run")
    assert repeat_predictions(tmp_path / "run", data) == pytest.approx(predictions["prediction"], abs=1e-5)
    assert np.std(predictions["prediction"]) > 1e-3


def repeat_predictions(run: Path, data: Path) -> list[float]:
    """What plain transformers predicts for the validation rows of a run's fold 0."""
    return plain_logits(run, data)[:, 0].tolist()


def plain_logits(run: Path, data: Path) -> torch.Tensor:
    """Logits [n, outputs] of plain transformers for the validation rows of a run's fold 0."""
    model = AutoModelForSequenceClassification.from_pretrained(run / "fold_0" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "fold_0" / "model")
    texts = read_texts(data, predictions_of(run)["row"])
    with torch.inference_mode():
        logits: torch.Tensor = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
    return logits


def read_texts(data: Path, rows: list[int]) -> list[str]:
    with data.open(newline="", encoding="utf-8") as file:
        texts = [line["text"] for line in csv.DictReader(file)]
    return [texts[row] for row in rows]


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_plain_transformers_repeats_the_predictions_for_texts_that_were_cut(
    data: Path, bert: Path, tmp_path: Path, truncation: str
) -> None:
    config = tiny_config(data, bert, tokens={"max_length": 16, "truncation": truncation}, optimizer__epochs=1)
    run_all(config, tmp_path / "run")
    assert repeat_predictions(tmp_path / "run", data) == pytest.approx(
        predictions_of(tmp_path / "run")["prediction"], abs=1e-5
    )


def test_a_runs_own_model_can_be_trained_on_with_longer_texts(data: Path, bert: Path, tmp_path: Path) -> None:
    run_all(tiny_config(data, bert, tokens__max_length=16, optimizer__epochs=1), tmp_path / "short")
    model = tmp_path / "short" / "fold_0" / "model"
    run_all(tiny_config(data, model, optimizer__epochs=1), tmp_path / "long")
    assert "max_length: 128" in (tmp_path / "long" / "config.yaml").read_text()


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_classes_and_labels_are_trained_with_probabilities_to_show(bert: Path, tmp_path: Path, kind: Any) -> None:
    data = write_table(tmp_path / "train.csv", kind=kind)
    target = list(LABELS[kind]) if kind == "multilabel" else ["label"]
    metrics = run_all(tiny_config(data, bert, data__target=target), tmp_path / "run")[-1].metrics
    assert metrics["task"] == kind
    assert tuple(metrics["overall"]["best"]) == metric_names(kind)
    predictions = predictions_of(tmp_path / "run")
    probabilities = np.array(predictions["prediction"])
    assert probabilities.shape == (12, len(LABELS[kind]))
    if kind == "multilabel":
        assert {value for row in predictions["target"] for value in row} <= {0.0, 1.0}
    else:
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert set(predictions["target"]) <= set(LABELS[kind])
    config = json.loads((tmp_path / "run" / "fold_0" / "model" / "config.json").read_text())
    assert tuple(config["id2label"].values()) == tuple(sorted(LABELS[kind]) if kind != "multilabel" else LABELS[kind])


def test_shares_of_classes_are_trained_and_plain_transformers_repeats_them(bert: Path, tmp_path: Path) -> None:
    data = write_table(tmp_path / "train.csv", kind="soft")
    config = tiny_config(data, bert, data__target=list(LABELS["soft"]), data__task="soft")
    metrics = run_all(config, tmp_path / "run")[-1].metrics
    assert (metrics["task"], metrics["metric"]) == ("soft", "log_loss")
    predictions = predictions_of(tmp_path / "run")
    shares, found = np.array(predictions["target"]), np.array(predictions["prediction"])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert compute_metrics("soft", shares, found) == metrics["overall"]["best"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "fold_0" / "model").eval()
    assert model.config.problem_type == "single_label_classification"
    assert tuple(model.config.id2label.values()) == LABELS["soft"]
    logits = plain_logits(tmp_path / "run", data)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), found, atol=1e-5)
    assert found.std(axis=0).min() > 1e-4


def spread(targets: Any, predictions: Any) -> float:
    """A metric of one's own."""
    return float(predictions.std())


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_a_function_chooses_the_best_evaluation(data: Path, bert: Path, tmp_path: Path, lower_is_better: bool) -> None:
    options: dict[str, Any] = {"text": "text", "target": "score", "model": str(bert), "display": False}
    settings = {"optimizer.epochs": 3, "optimizer.learning_rate": 1e-3, "precision": "fp32", "device": "cpu"}
    metric = leantune.Metric(name="spread", function=spread, lower_is_better=True) if lower_is_better else spread
    done = leantune.train(data, settings=settings, metric=metric, output=tmp_path / "run", **options)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    values = [event["metrics"]["spread"] for event in events if event["event"] == "evaluation"]
    assert len(set(values)) == 3
    assert done.metrics["metric"] == "spread"
    for scores in (done.metrics["overall"], done.metrics["folds"]["0"]):
        assert scores["best"]["spread"] == (min if lower_is_better else max)(values)
        assert scores["last"]["spread"] == values[-1]
    assert "  spread  " in repr(done)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["evaluation"]["metric"] == "spread"
    # The settings repeat the run, where the function is given again.
    config = tmp_path / "run" / "config.yaml"
    again = leantune.train(config=config, metric=metric, output=tmp_path / "again", display=False)
    assert again.metrics["overall"]["best"] == done.metrics["overall"]["best"]


def test_a_metric_may_be_given_by_its_name_and_not_twice(data: Path, bert: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"text": "text", "target": "score", "model": str(bert), "display": False}
    with pytest.raises(SettingsError, match=r"evaluation.metric: accuracy is not defined for regression"):
        leantune.train(data, metric="accuracy", output=tmp_path / "run", **options)
    with pytest.raises(SettingsError, match=r"evaluation.metric: found mae, and the argument metric is .* spread"):
        leantune.train(data, metric=spread, settings={"evaluation.metric": "mae"}, output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_pairs_several_targets_weights_and_groups_train(bert: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    texts = make_texts(40)
    draw = np.random.default_rng(0)
    rows = [
        {
            "a": text,
            "b": texts[-1 - i],
            "x": float(draw.normal()),
            "y": float(draw.normal()),
            "w": 1 + i % 2,
            "g": i // 4,
        }
        for i, text in enumerate(texts)
    ]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = tiny_config(
        data, bert, data={"path": str(data), "text": ["a", "b"], "target": ["x", "y"], "weight": "w", "group": "g"}
    )
    run_all(config, tmp_path / "run")
    predictions = predictions_of(tmp_path / "run")
    assert np.array(predictions["prediction"]).shape == (len(predictions["row"]), 2)
    groups = {row // 4 for row in predictions["row"]}
    assert sorted(predictions["row"]) == sorted(4 * group + i for group in groups for i in range(4))


def test_all_folds_predict_every_row_once(data: Path, bert: Path, tmp_path: Path) -> None:
    settings = {"fold": "all", "folds__count": 3, "optimizer__epochs": 1}
    metrics = run_all(tiny_config(data, bert, **settings), tmp_path / "run")[-1].metrics
    rows = [row for fold in range(3) for row in predictions_of(tmp_path / "run", fold)["row"]]
    assert sorted(rows) == list(range(60))
    assert list(metrics["folds"]) == ["0", "1", "2"]
    assert metrics["overall"]["optimizer_steps"] == sum(f["optimizer_steps"] for f in metrics["folds"].values())
    assert metrics["overall"]["train_seconds"] == pytest.approx(
        sum(f["train_seconds"] for f in metrics["folds"].values()), rel=0.01
    )


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    return write_table(tmp_path / "valid.csv", rows=14, seed=1)


def test_the_rows_of_a_validation_file_validate_and_predictions_name_its_rows(
    data: Path, valid: Path, bert: Path, tmp_path: Path
) -> None:
    events = run_all(tiny_config(data, bert, data__validation=str(valid)), tmp_path / "run")
    fold = events[-1].metrics["folds"]["0"]
    assert (fold["training_rows"], fold["validation_rows"]) == (60, 14)
    predictions = predictions_of(tmp_path / "run")
    with valid.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert predictions["row"] == list(range(14))
    assert predictions["id"] == [line["name"] for line in lines]
    assert predictions["target"] == [float(line["score"]) for line in lines]
    assert repeat_predictions(tmp_path / "run", valid) == pytest.approx(predictions["prediction"], abs=1e-5)
    (said,) = [event.text for event in events if isinstance(event, Note) and event.about == "folds"]
    assert said == f"no folds are made: 60 rows train, 14 validate ({valid})"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    digests = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in (data, valid))
    assert environment["data_sha256"] == hashlib.sha256(digests.encode()).hexdigest()
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["data"]["validation"] == str(valid)
    assert "folds" not in settings


def test_where_all_rows_train_and_all_are_cut_there_is_none_to_try_the_saved_model_on(
    bert: Path, tmp_path: Path
) -> None:
    data = write_table(tmp_path / "train.csv", texts=[f"{text} and more of it" for text in make_texts(20)])
    events = run_all(tiny_config(data, bert, fold="none", tokens__max_length=4), tmp_path / "run")
    assert isinstance(events[-1], RunEnd)
    assert any("20 of 20 rows are longer than 4 tokens" in event.text for event in events if isinstance(event, Note))


def train_tiny(data: Any, bert: Path, output: Path, **options: Any) -> leantune.Run:
    """A run of a table in memory by the public function, with the settings of `tiny_config`."""
    settings = {
        "data.id": "name",
        "model.dropout": None,
        "model.attention_dropout": None,
        "optimizer.epochs": 2,
        "optimizer.learning_rate": 1e-3,
        "batching.batch_size": 8,
        "precision": "fp32",
        "device": "cpu",
    }
    given = {"text": "text", "target": "score", "model": str(bert), "settings": settings, "display": False} | options
    return leantune.train(data, output=output, **given)


def test_a_table_in_memory_gives_the_run_that_its_file_gives(
    data: Path, valid: Path, bert: Path, tmp_path: Path
) -> None:
    frames = [pd.read_csv(path, dtype={"name": str}) for path in (data, valid)]
    run_all(tiny_config(data, bert, data__validation=str(valid)), tmp_path / "file")
    train_tiny(frames[0], bert, tmp_path / "memory", validation=frames[1].to_dict("list"))
    assert predictions_of(tmp_path / "memory") == predictions_of(tmp_path / "file")
    settings = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("file", "memory")]
    assert settings[1]["data"] == settings[0]["data"] | {"path": "memory", "validation": "memory"}


def test_the_settings_of_a_run_from_memory_ask_for_its_table_and_repeat_the_run_with_it(
    data: Path, bert: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(data)
    train_tiny(frame, bert, tmp_path / "a")
    config = tmp_path / "a" / "config.yaml"
    with pytest.raises(SettingsError, match=r"data\.path: memory: .* give it again from Python"):
        run_all(load_config(config, {}), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    leantune.train(frame, config=config, output=tmp_path / "b", display=False)
    assert predictions_of(tmp_path / "a") == predictions_of(tmp_path / "b")
    assert config.read_text() == (tmp_path / "b" / "config.yaml").read_text()
    hashes = [json.loads((tmp_path / run / "environment.json").read_text())["data_sha256"] for run in "ab"]
    assert hashes[0] == hashes[1]


def test_a_wrong_cell_of_a_table_in_memory_is_refused_before_anything_is_written(
    data: Path, bert: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(data)
    frame.loc[6, "text"] = None
    with pytest.raises(TableError, match=r"^the table in memory, row 7, column 'text': found nothing, expected a text"):
        train_tiny(frame, bert, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_column_of_names_may_say_which_rows_validate(data: Path, bert: Path, tmp_path: Path) -> None:
    header, *rows = data.read_text(encoding="utf-8").splitlines()
    lines = [f"{row},{'dev' if number % 4 == 1 else 'Train'}" for number, row in enumerate(rows)]
    split = tmp_path / "split.csv"
    split.write_text("\n".join([f"{header},split", *lines]), encoding="utf-8")
    events = run_all(tiny_config(split, bert, data__fold="split"), tmp_path / "run")
    assert events[-1].metrics["folds"]["0"]["training_rows"] == 45
    assert predictions_of(tmp_path / "run")["row"] == list(range(1, 60, 4))
    (said,) = [event.text for event in events if isinstance(event, Note) and event.about == "folds"]
    assert said == "no folds are made: 45 rows train, 15 validate (column 'split' says so)"
    with pytest.raises(SettingsError, match="fold: all trains one model a fold"):
        run_all(tiny_config(split, bert, data__fold="split", fold="all"), tmp_path / "all")


def test_a_fold_is_the_same_alone_and_among_all(data: Path, bert: Path, tmp_path: Path) -> None:
    run_all(tiny_config(data, bert, fold="all", folds__count=3), tmp_path / "all")
    run_all(tiny_config(data, bert, fold=2, folds__count=3), tmp_path / "one")
    assert predictions_of(tmp_path / "all", 2) == predictions_of(tmp_path / "one", 2)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_the_same_settings_twice_give_identical_predictions_and_metrics(
    data: Path, bert: Path, tmp_path: Path, precision: str
) -> None:
    config = tiny_config(data, bert, precision=precision, model={"name": str(bert), "dropout": 0.1})
    first, second = (run_all(config, tmp_path / name)[-1].metrics["overall"] for name in ("a", "b"))
    assert {key: first[key] for key in QUALITY} == {key: second[key] for key in QUALITY}
    files = [tmp_path / name / "fold_0" / "predictions.parquet" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    weights = [tmp_path / name / "fold_0" / "model" / "model.safetensors" for name in ("a", "b")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_deterministic_algorithms_are_asked_for_during_the_run_only_and_change_nothing_on_a_cpu(
    data: Path, bert: Path, tmp_path: Path
) -> None:
    files = []
    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        for _ in run(tiny_config(data, bert, deterministic=wanted), folder):
            assert torch.are_deterministic_algorithms_enabled() == wanted
        assert not torch.are_deterministic_algorithms_enabled()
        files.append((folder / "fold_0" / "model" / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_the_effective_settings_repeat_the_run(data: Path, bert: Path, tmp_path: Path) -> None:
    config = tiny_config(data, bert, precision="auto", batching__layout="auto", tokens__max_length="auto")
    run_all(config, tmp_path / "a")
    text = (tmp_path / "a" / "config.yaml").read_text()
    effective = yaml.safe_load(text)
    assert "auto" not in text
    assert effective["tokens"]["max_length"] == 128
    assert effective["data"]["task"] == "regression"
    run_all(load_config(tmp_path / "a" / "config.yaml", {}), tmp_path / "b")
    assert predictions_of(tmp_path / "a") == predictions_of(tmp_path / "b")
    assert (tmp_path / "b" / "config.yaml").read_text() == text


def test_the_best_weights_are_kept_when_later_ones_are_worse(data: Path, bert: Path, tmp_path: Path) -> None:
    config = tiny_config(
        data,
        bert,
        optimizer={"epochs": 8, "learning_rate": 0.02, "schedule": "constant"},
        evaluation__every={"steps": 3},
    )
    events = run_all(config, tmp_path / "run")
    scores = {event.step: event.metrics["rmse"] for event in events if isinstance(event, Evaluation)}
    result = metrics_of(tmp_path / "run")["folds"]["0"]
    assert result["best"]["step"] == min(scores, key=lambda step: scores[step])
    assert result["best"]["step"] < result["last"]["step"]
    assert result["best"]["rmse"] == pytest.approx(min(scores.values()))
    predictions = predictions_of(tmp_path / "run")
    assert repeat_predictions(tmp_path / "run", data) == pytest.approx(predictions["prediction"], abs=1e-5)


@needs_bf16
def test_a_16_bit_runs_metrics_are_those_of_the_saved_float32_weights(data: Path, bert: Path, tmp_path: Path) -> None:
    config = tiny_config(
        data,
        bert,
        precision="bf16",
        optimizer={"epochs": 8, "learning_rate": 0.02, "schedule": "constant"},
        evaluation__every={"steps": 3},
        seed=1,  # whose best evaluation is not the last
    )
    run_all(config, tmp_path / "run")
    result = metrics_of(tmp_path / "run")["folds"]["0"]
    assert result["best"]["step"] < result["last"]["step"]
    predictions = predictions_of(tmp_path / "run")
    assert repeat_predictions(tmp_path / "run", data) == pytest.approx(predictions["prediction"], abs=1e-5)


def test_what_is_cut_is_told_before_training(data: Path, bert: Path, tmp_path: Path) -> None:
    events = run_all(tiny_config(data, bert, tokens__max_length=16), tmp_path / "run")
    notes = {event.about: event.text for event in events if isinstance(event, Note)}
    assert "longer than 16 tokens (as set)" in notes["tokens"]
    assert "% of all tokens" in notes["tokens"]
    assert "regression" in notes["task"]


WINDOWS = {"max_length": 16, "truncation": "windows"}


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> tuple[Path, Any]:
    """A run that reads all windows of 60 rows, and its events; two steps of 24 rows an epoch."""
    folder = tmp_path_factory.mktemp("windowed")
    config = tiny_config(
        write_table(folder / "train.csv"),
        tiny_encoder_dir("bert"),
        tokens=WINDOWS | {"training_windows": "all"},
        batching__batch_size=24,
    )
    return folder, run_all(config, folder / "run")


def windows_of(texts: list[str], folder: Path) -> list[Any]:
    """The windows of each text, as the saved tokenizer puts tokens together: 14 tokens, a window every 7."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        last = max(len(ids) - 16, 0)
        found.append([[*ids[:1], *ids[1 + s : -1][:14], *ids[-1:]] for s in [*range(0, last, 7), last]])
    return found


def test_the_saved_model_repeats_the_predictions_of_rows_that_are_read_in_windows(windowed: tuple[Path, Any]) -> None:
    folder, _ = windowed
    told = predictions_of(folder / "run")
    assert told["row"] == sorted(set(told["row"]))
    assert len(told["row"]) == metrics_of(folder / "run")["folds"]["0"]["validation_rows"]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "run" / "fold_0" / "model").eval()
    windows = windows_of(read_texts(folder / "train.csv", told["row"]), folder / "run" / "fold_0" / "model")
    assert max(map(len, windows)) > 3
    with torch.inference_mode():
        means = [model(torch.tensor(of_row)).logits.mean().item() for of_row in windows]
    assert means == pytest.approx(told["prediction"], abs=1e-5)


def test_a_row_is_one_row_in_all_counts_and_tokens_are_those_of_its_windows(windowed: tuple[Path, Any]) -> None:
    folder, events = windowed
    texts = read_texts(folder / "train.csv", list(range(60)))
    windows = windows_of(texts, folder / "run" / "fold_0" / "model")
    training = sorted(set(range(60)) - set(predictions_of(folder / "run")["row"]))
    tokens = sum(len(window) for row in training for window in windows[row])
    overall = metrics_of(folder / "run")["overall"]
    assert (overall["rows"], overall["tokens"]) == (2 * len(training), 2 * tokens)
    steps = [event for event in events if isinstance(event, TrainStep)]
    assert [step.rows for step in steps] == [24, 24] * 2
    assert all(0 <= step.computed_tokens - step.tokens <= step.computed_tokens * 0.3 for step in steps)
    assert [event.rows for event in events if isinstance(event, Evaluation)] == [12, 12]


def test_what_is_read_in_windows_is_told_before_training(windowed: tuple[Path, Any]) -> None:
    folder, events = windowed
    windows = windows_of(read_texts(folder / "train.csv", list(range(60))), folder / "run" / "fold_0" / "model")
    counts = list(map(len, windows))
    (note,) = [event.text for event in events if isinstance(event, Note) and event.about == "tokens"]
    assert note == (
        f"nothing is cut: {sum(count > 1 for count in counts)} of 60 rows are longer than 16 tokens (as set) and are "
        f"read in up to {max(counts)} windows, one every 7 tokens; an epoch reads all of a row's windows, and its "
        "prediction is the mean of all"
    )


def test_the_effective_settings_have_the_stride_and_repeat_a_run_with_windows(
    windowed: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = windowed
    text = (folder / "run" / "config.yaml").read_text()
    assert yaml.safe_load(text)["tokens"] == WINDOWS | {
        "stride": 7,
        "window_pooling": "mean",
        "training_windows": "all",
        "unknown": "refuse",
    }
    run_all(load_config(folder / "run" / "config.yaml", {}), tmp_path / "again")
    assert predictions_of(folder / "run") == predictions_of(tmp_path / "again")
    assert (tmp_path / "again" / "config.yaml").read_text() == text


def test_by_default_an_epoch_reads_one_window_of_each_row(bert: Path, tmp_path: Path) -> None:
    data = write_table(tmp_path / "train.csv")
    run_all(tiny_config(data, bert, tokens=WINDOWS), tmp_path / "run")
    windows = windows_of(read_texts(data, list(range(60))), tmp_path / "run" / "fold_0" / "model")
    training = sorted(set(range(60)) - set(predictions_of(tmp_path / "run")["row"]))
    assert max(len(windows[row]) for row in training) > 1
    tokens = sum(len(windows[row][0]) for row in training)  # the windows of a row are of one length
    assert metrics_of(tmp_path / "run")["overall"]["tokens"] == 2 * tokens


def test_all_rows_train_in_windows_without_validation_and_pairs_have_windows(bert: Path, tmp_path: Path) -> None:
    data = write_table(tmp_path / "train.csv", kind="multiclass")
    target = {"data__text": ["text", "other"], "data__target": "label"}
    tokens = WINDOWS | {"window_pooling": "max", "max_length": 24}
    run_all(tiny_config(data, bert, **target, tokens=tokens, fold="none"), tmp_path / "all")
    assert metrics_of(tmp_path / "all")["overall"]["rows"] == 120
    run_all(tiny_config(data, bert, **target, tokens=tokens), tmp_path / "folds")
    predictions = np.array(predictions_of(tmp_path / "folds")["prediction"])
    assert predictions.sum(axis=1) == pytest.approx(1)


def warnings_of(events: list[Any]) -> list[str]:
    """Warnings before the training; those about its result are left out."""
    notes = [event for event in events if isinstance(event, Note) and event.event == "warning"]
    return [note.text for note in notes if note.about != "result"]


def test_texts_that_the_tokenizer_does_not_know_are_refused_unless_that_is_allowed(bert: Path, tmp_path: Path) -> None:
    data = write_table(tmp_path / "train.csv", texts=[f"한국어 문장 {'가' * count}" for count in range(1, 31)])
    with pytest.raises(
        ModelError, match=r"100% of all tokens are unknown to the tokenizer of .*train\.csv, row 1: '한국어"
    ):
        run_all(tiny_config(data, bert), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    settings = {"tokens__unknown": "allow", "optimizer__epochs": 1}
    (said,) = warnings_of(run_all(tiny_config(data, bert, **settings), tmp_path / "run"))
    assert said.startswith("100% of all tokens are unknown")


def test_what_is_known_to_go_wrong_is_said_before_training_and_kept(bert: Path, tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.csv", kind="multiclass", rows=20)
    valid = write_table(tmp_path / "valid.csv", kind="multiclass", rows=9, seed=1)
    header, *rows = valid.read_text(encoding="utf-8").splitlines()
    copied = train.read_text(encoding="utf-8").splitlines()[3]
    rows[1] = f"0001,{copied.partition(',')[2].rpartition(',')[0]},unheard of"
    valid.write_text("\n".join([header, *rows]), encoding="utf-8")
    config = tiny_config(train, bert, data__target="label", data__validation=str(valid), optimizer__epochs=1)
    events = run_all(config, tmp_path / "run")
    said = warnings_of(events)
    assert len(said) == 2
    assert f"1 of 9 validation rows (11.1%) have a text that also trains, such as {valid}, row 2 (as {train}" in said[0]
    assert said[1].startswith(f"1 row (the first is {valid}, row 2) validate with classes that no training row has")
    assert read_warnings(tmp_path / "run")[:2] == tuple(f"folds: {text}" for text in said)
    last = max(place for place, event in enumerate(events) if isinstance(event, Note) and event.about != "result")
    assert any(isinstance(event, FoldStart) for event in events[last:])


def test_of_a_plain_table_nothing_is_warned(data: Path, bert: Path, tmp_path: Path) -> None:
    assert warnings_of(run_all(tiny_config(data, bert, fold="all", folds__count=2), tmp_path / "run")) == []


def test_a_taken_folder_stays_as_it_is(data: Path, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="another --output"):
        run_all(tiny_config(data, bert), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"data__target": "scores"}, TableError, "'score'"),
        ({"fold": 5}, SettingsError, "0 to 4"),
        ({"folds__count": 100}, TableError, "60 rows"),
        ({"evaluation__metric": "accuracy"}, SettingsError, "rmse"),
        ({"tokens__max_length": 500}, SettingsError, "128"),
        ({"precision": "fp16"}, DeviceError, "fp32"),
        ({"device": "cuda:9"}, DeviceError, "cpu"),
        ({"model": {"name": "nobody/nothing"}}, ModelError, "nobody/nothing"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    data: Path, bert: Path, tmp_path: Path, settings: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        run_all(tiny_config(data, bert, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_python_interface_trains_as_the_command_does(data: Path, bert: Path, tmp_path: Path) -> None:
    run = leantune.train(
        data,
        text="text",
        target="score",
        model=str(bert),
        output=tmp_path / "run",
        settings={"optimizer.epochs": 1, "batching.batch_size": 8},
        display=False,
    )
    assert run.folder == tmp_path / "run"
    assert run.metrics == metrics_of(tmp_path / "run")
    assert run.metrics["overall"]["optimizer_steps"] == 6


def test_the_python_interface_takes_a_validation_file(data: Path, valid: Path, bert: Path, tmp_path: Path) -> None:
    run = leantune.train(
        data,
        text="text",
        target="score",
        validation=valid,
        model=str(bert),
        output=tmp_path / "run",
        settings={"optimizer.epochs": 1},
        display=False,
    )
    assert run.metrics["folds"]["0"]["validation_rows"] == 14


def test_every_setting_is_read(data: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is accepted and then ignored: two runs between them read every field of every section."""
    read: set[tuple[str, str]] = set()
    original = BaseModel.__getattribute__

    def watched(section: Any, name: str) -> Any:
        for kind in type(section).__mro__:  # a section with nothing left to choose stands for the one that it was
            if name in kind.__dict__.get("__pydantic_fields__", {}):
                read.add((kind.__name__, name))
        return original(section, name)

    by_steps = tiny_config(
        data, bert, evaluation__every={"steps": 5}, batching__micro_batch={"rows": 3}, checkpoint__every={"steps": 5}
    )
    by_fraction = tiny_config(
        data,
        bert,
        evaluation__every={"fraction": 0.5},
        batching__micro_batch={"tokens": 90},
        tokens__truncation="windows",
    )
    monkeypatch.setattr("leantune.runs.session.dump_config", lambda _: {})  # writing a setting down is not using it
    monkeypatch.setattr(Section, "__getattribute__", watched)
    for i, config in enumerate((by_steps, by_fraction)):
        run_all(config, tmp_path / str(i))
    fields = {(section.__name__, name) for section in all_sections(Config) for name in section.model_fields}
    assert len(fields) > 40
    assert fields - read == set()


def all_sections(section: type[Section]) -> set[type[Section]]:
    """A section and all sections in it."""
    found = {section}
    for field in section.model_fields.values():
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, Section):
                found |= all_sections(candidate)
    return found


def test_weights_of_zero_in_all_training_rows_are_refused(bert: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    lines = [f"{text},{i % 7}.5,{i % 2},{1 - i % 2}" for i, text in enumerate(make_texts(40)) if "," not in text]
    data.write_text("\n".join(["text,score,part,weight", *lines]), encoding="utf-8")
    config = tiny_config(
        data, bert, data={"path": str(data), "text": "text", "target": "score", "weight": "weight", "fold": "part"}
    )
    with pytest.raises(TableError, match="weight 0"):
        run_all(config, tmp_path / "run")


def test_the_scale_of_the_weights_does_not_matter(bert: Path, tmp_path: Path) -> None:
    metrics = []
    for name, scale in (("a", 1), ("b", 1e30)):
        data = tmp_path / f"{name}.jsonl"
        rows = [
            {"text": text, "score": i % 7 + 0.5, "weight": (1 + i % 3) * scale} for i, text in enumerate(make_texts(40))
        ]
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        columns = {"path": str(data), "text": "text", "target": "score", "weight": "weight"}
        metrics.append(run_all(tiny_config(data, bert, data=columns), tmp_path / name)[-1].metrics["overall"]["best"])
    assert defined(metrics[1]) == pytest.approx(defined(metrics[0]), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "layout"), [("bert", "packed"), ("modernbert", "packed"), ("deberta-v2", "packed"), ("mpnet", "dynamic")]
)
def test_the_layout_is_packed_where_the_architecture_can_be_and_the_run_says_so(
    data: Path,
    tiny_encoder_dir: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    layout: str,
) -> None:
    if layout == "dynamic":
        monkeypatch.setattr("leantune.encoder.loading.make_packing_possible", lambda _: None)
    events = run_all(tiny_config(data, tiny_encoder_dir(name), optimizer={"max_steps": 2}), tmp_path / "run")
    batching = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["batching"]
    assert batching["layout"] == layout
    assert batching["micro_batch"] == {"tokens": {"packed": 2048, "dynamic": 1024}[layout]}
    (said,) = [event.text for event in events if isinstance(event, Note) and event.about == "batching"]
    assert ("packed rows," in said) == (layout == "packed")
    assert ("mpnet cannot take packed rows" in said) == (name == "mpnet")
    padding = metrics_of(tmp_path / "run")["overall"]["padding_fraction"]
    assert (padding < 0.1) == (layout == "packed")


def test_a_layout_that_the_architecture_does_not_allow_is_refused(
    data: Path, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leantune.encoder.loading.make_packing_possible", lambda _: None)
    config = tiny_config(data, tiny_encoder_dir("deberta-v2"), batching__layout="packed")
    with pytest.raises(SettingsError, match=r"batching\.layout: packed is not possible with deberta-v2"):
        run_all(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_packed_and_padded_runs_learn_the_same(data: Path, bert: Path, tmp_path: Path) -> None:
    metrics = []
    for layout in ("fixed", "packed"):
        config = tiny_config(data, bert, batching__layout=layout, model={"name": str(bert), "dropout": 0.0})
        config = config.model_copy(update={"model": config.model.model_copy(update={"attention_dropout": 0.0})})
        run_all(config, tmp_path / layout)
        metrics.append(metrics_of(tmp_path / layout)["overall"])
    assert defined(metrics[0]["best"]) == pytest.approx(defined(metrics[1]["best"]), rel=1e-3)
    assert metrics[0]["padding_fraction"] > 0.2
    assert metrics[1]["padding_fraction"] < 0.1


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system keeps a process's peak")
def test_the_peak_of_a_processs_memory_is_the_runs_own(data: Path, bert: Path, tmp_path: Path) -> None:
    """In a notebook, larger runs may have come before."""
    np.ones(2**30, dtype=np.uint8)
    before = peak_process_bytes()
    overall = run_all(tiny_config(data, bert, optimizer__epochs=1), tmp_path / "run")[-1].metrics["overall"]
    assert 0 < overall["peak_process_bytes"] < before - 2**28
