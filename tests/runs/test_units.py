"""Targets of any scale: what is learned does not depend on the unit, and everything that is told has it (law 8)."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from interruptions import events_of
from leantune.runs.run import train
from leantune.system.errors import SettingsError
from leantune.training.events import Note
from small_runs import run_all, tiny_config, write_table
from tiny_encoders import make_texts


@pytest.fixture
def bert(tiny_encoder_dir: Callable[[str], Path]) -> Path:
    return tiny_encoder_dir("bert")


def write_scores(path: Path, **columns: Any) -> Path:
    """60 rows whose scores go by the length of the text, and other columns."""
    texts = make_texts(60, most_words=20)
    draw = np.random.default_rng(0)
    scores = np.array([len(text) / 40 for text in texts]) + draw.normal(scale=0.1, size=60)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "text", *columns])
        for row, text in enumerate(texts):
            writer.writerow([row, text, *(repr(float(of(scores[row]))) for of in columns.values())])
    return path


def predictions_of(run: Path) -> Any:
    return np.array(pq.read_table(run / "fold_0" / "predictions.parquet")["prediction"].to_pylist())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("factor", [1000.0, 1e-6])
def test_another_unit_of_the_target_changes_nothing(bert: Path, tmp_path: Path, precision: str, factor: float) -> None:
    settings = {"precision": precision, "folds": {"kind": "random"}}
    shift = 50.0 * factor
    one = write_scores(tmp_path / "one.csv", score=lambda score: score)
    other = write_scores(tmp_path / "other.csv", score=lambda score: score * factor + shift)
    run_all(tiny_config(one, bert, **settings), tmp_path / "one")
    run_all(tiny_config(other, bert, **settings), tmp_path / "other")
    first, second = predictions_of(tmp_path / "one"), (predictions_of(tmp_path / "other") - shift) / factor
    assert first.std() > 0.01  # it has learned something
    assert second == pytest.approx(first, abs=1e-4 if precision == "fp32" else 1e-2)
    losses = [np.array([event["loss"] for event in events_of(tmp_path / run, "step")]) for run in ("one", "other")]
    assert losses[1] / factor**2 == pytest.approx(losses[0], rel=1e-3 if precision == "fp32" else 0.1)


def test_the_saved_model_and_the_metrics_are_in_the_tables_units(bert: Path, tmp_path: Path) -> None:
    data = write_scores(tmp_path / "train.csv", score=lambda score: score * 1000 + 50_000)
    run_all(tiny_config(data, bert, optimizer__epochs=4), tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "fold_0" / "predictions.parquet").to_pydict()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "fold_0" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "fold_0" / "model")
    texts = make_texts(60, most_words=20)
    with torch.no_grad():
        plain = [float(model(**tokenizer(texts[row], return_tensors="pt")).logits[0, 0]) for row in table["row"]]
    assert plain == pytest.approx(table["prediction"], rel=1e-6)
    errors = np.array(table["prediction"]) - np.array(table["target"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["overall"]["best"]
    assert metrics["rmse"] == pytest.approx(float(np.sqrt((errors**2).mean())))
    assert metrics["rmse"] < 2000  # not 50,000


def test_targets_of_different_scales_count_alike(bert: Path, tmp_path: Path) -> None:
    settings = {"folds": {"kind": "random"}, "data__target": ["a", "b"]}
    one = write_scores(tmp_path / "one.csv", a=lambda score: score, b=lambda score: -score)
    other = write_scores(tmp_path / "other.csv", a=lambda score: score, b=lambda score: 7 - 1e5 * score)
    run_all(tiny_config(one, bert, **settings), tmp_path / "one")
    run_all(tiny_config(other, bert, **settings), tmp_path / "other")
    first, second = predictions_of(tmp_path / "one"), predictions_of(tmp_path / "other")
    assert second[:, 0] == pytest.approx(first[:, 0], abs=1e-4)
    assert (second[:, 1] - 7) / 1e5 == pytest.approx(first[:, 1], abs=1e-4)


def test_without_it_targets_are_learned_as_they_are(bert: Path, tmp_path: Path) -> None:
    data = write_scores(tmp_path / "train.csv", score=lambda score: score * 1000)
    losses = {}
    for name in (True, False):
        run_all(tiny_config(data, bert, loss__standardize=name), tmp_path / str(name))
        losses[name] = events_of(tmp_path / str(name), "step")[-1]["gradient_norm"]
    assert losses[False] > 100 * losses[True]


def test_a_run_begins_at_the_mean_or_the_shares(bert: Path, tmp_path: Path) -> None:
    """Before anything is learned, the answers lie around the constant one."""
    data = write_scores(tmp_path / "train.csv", score=lambda score: 3 + score / 10)
    run_all(tiny_config(data, bert, optimizer={"learning_rate": 1e-9, "epochs": 1}), tmp_path / "run")
    targets = pq.read_table(tmp_path / "run" / "fold_0" / "predictions.parquet")["target"].to_numpy()
    assert predictions_of(tmp_path / "run").mean() == pytest.approx(targets.mean(), abs=0.1)
    rare = write_table(tmp_path / "rare.csv", rows=60, kind="binary")
    lines = rare.read_text(encoding="utf-8").splitlines()
    lines[1:] = [line.rpartition(",")[0] + (",1" if row % 10 == 0 else ",0") for row, line in enumerate(lines[1:])]
    rare.write_text("\n".join(lines), encoding="utf-8")
    settings = {"data__target": "label", "optimizer": {"learning_rate": 1e-9, "epochs": 1}}
    run_all(tiny_config(rare, bert, **settings), tmp_path / "rare")
    assert predictions_of(tmp_path / "rare")[:, 1].mean() == pytest.approx(0.1, abs=0.05)


def test_balanced_classes_are_row_weights(bert: Path, tmp_path: Path) -> None:
    """6 of 60 rows are positive: each counts 5 times, and each other row 5/9, as scikit-learn has it."""
    texts = make_texts(60, most_words=20)
    rows = [
        [text, int(row % 10 == 0), 5.0 if row % 10 == 0 else 5 / 9, int(row >= 10)] for row, text in enumerate(texts)
    ]
    # Fold 0 is the first ten rows; of the other 50, 5 are positive.
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "target", "weight", "part"], *rows])
    data = {"path": str(tmp_path / "train.csv"), "text": "text", "target": "target", "fold": "part"}
    run_all(tiny_config(tmp_path, bert, data=data | {"weight": "weight"}), tmp_path / "weights")
    run_all(tiny_config(tmp_path, bert, data=data, loss__class_weights="balanced"), tmp_path / "balanced")
    run_all(tiny_config(tmp_path, bert, data=data), tmp_path / "plain")
    weighted, balanced, plain = (predictions_of(tmp_path / name) for name in ("weights", "balanced", "plain"))
    assert balanced == pytest.approx(weighted, abs=1e-6)
    assert balanced != pytest.approx(plain, abs=1e-3)


def test_all_rows_train_where_no_fold_validates(bert: Path, tmp_path: Path) -> None:
    data = write_scores(tmp_path / "train.csv", score=lambda score: 3 + score)
    done = train(
        data,
        text="text",
        target="score",
        model=str(bert),
        fold="none",
        output=tmp_path / "run",
        settings={"optimizer.max_steps": 9, "batching.batch_size": 8, "device": "cpu"},
        display=False,
    )
    assert done.metrics["folds"]["none"]["training_rows"] == 60
    assert done.metrics["overall"]["best"] is None
    assert done.metrics["overall"]["optimizer_steps"] == 9
    assert not list((tmp_path / "run").rglob("predictions.parquet"))
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "fold_none" / "model")
    assert events_of(tmp_path / "run", "evaluation") == []
    assert "on all 60 rows" in repr(done)
    with pytest.raises(SettingsError, match="metric: len is not used where fold is none"):
        train(data, text="text", target="score", model=str(bert), fold="none", metric=len, output=tmp_path / "other")


def test_a_run_from_the_model_of_another_begins_with_its_answers(bert: Path, tmp_path: Path) -> None:
    """Also where the table has another scale: the head is kept, since the column has the same name."""
    one = write_scores(tmp_path / "one.csv", score=lambda score: score * 1000 + 50_000)
    other = write_scores(tmp_path / "other.csv", score=lambda score: score)
    settings = {"folds": {"kind": "random"}}
    run_all(tiny_config(one, bert, **settings), tmp_path / "one")
    model = tmp_path / "one" / "fold_0" / "model"
    nothing = {"learning_rate": 1e-30, "epochs": 1}
    for data in (one, other):
        events = run_all(tiny_config(data, model, **settings, optimizer=nothing), tmp_path / data.stem / "again")
        assert any("own head is trained on (score)" in event.text for event in events if isinstance(event, Note))
        again = predictions_of(tmp_path / data.stem / "again")
        assert again == pytest.approx(predictions_of(tmp_path / "one"), rel=1e-5)


def test_only_training_rows_that_weigh_something_set_the_scale(bert: Path, tmp_path: Path) -> None:
    """Row 0 validates, row 20 has the weight 0: what they are told to be changes no prediction."""
    texts = make_texts(60, most_words=20)
    scores = [len(text) / 40 for text in texts]
    for name, outlier in (("plain", 1.0), ("outliers", 1e6)):
        rows = [
            [texts[row], outlier if row in {0, 20} else scores[row], float(row != 20), int(row >= 10)]
            for row in range(60)
        ]
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", "score", "weight", "part"], *rows])
        columns = {"text": "text", "target": "score", "weight": "weight", "fold": "part"}
        config = tiny_config(
            tmp_path, bert, data={"path": str(tmp_path / f"{name}.csv"), **columns}, optimizer__epochs=1
        )
        run_all(config, tmp_path / name)
    assert predictions_of(tmp_path / "outliers").tolist() == predictions_of(tmp_path / "plain").tolist()
