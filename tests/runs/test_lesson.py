"""What a fold learns where labels were not scored."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.utils.class_weight import compute_class_weight

from leantune.runs import lesson
from leantune.system.files import read_json
from small_runs import run_all, tiny_config
from tiny_encoders import make_texts


def test_balanced_labels_weigh_as_scikit_learn_has_it_on_the_rows_with_a_score() -> None:
    draw = np.random.default_rng(0)
    targets = (draw.uniform(size=(40, 2)) < [0.2, 0.6]).astype(float)
    targets[::3, 0] = np.nan

    found = lesson._balanced_labels(targets, np.ones(40))

    for label, weights in zip(targets.T, found, strict=True):
        known = label[~np.isnan(label)]
        assert weights == pytest.approx(compute_class_weight("balanced", classes=np.array([0.0, 1.0]), y=known))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> Path:
    """Return a run on two labels, of which a third of the second was not scored."""
    folder = tmp_path_factory.mktemp("scored")
    rows = [[text, row % 2, -1 if row % 3 == 0 else row % 5 % 2] for row, text in enumerate(make_texts(45))]
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "a", "b"], *rows])
    data = {"path": str(folder / "rows.csv"), "text": "text", "target": ["a", "b"]}
    run_all(tiny_config(folder, tiny_encoder_dir("bert"), data=data, loss__class_weights="balanced"), folder / "run")
    return folder / "run"


def test_a_run_on_labels_that_were_not_scored_has_metrics_beside_both_yardsticks(run: Path) -> None:
    fold = read_json(run / "metrics.json")["folds"]["0"]

    for scores in (fold["last"], fold["yardsticks"]["constant"], fold["yardsticks"]["linear"]):
        assert np.isfinite(scores["log_loss"])
        assert scores["roc_auc"] is not None


def test_labels_that_were_not_scored_are_nulls_in_the_predictions(run: Path) -> None:
    stored = pq.read_table(run / "fold_0" / "predictions.parquet").to_pylist()

    assert [row["target"][1] is None for row in stored] == [row["row"] % 3 == 0 for row in stored]
    assert np.isfinite([row["prediction"] for row in stored]).all()
