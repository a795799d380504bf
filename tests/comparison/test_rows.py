"""The scatter over rows: held against formulas, a bootstrap, and other rows of the same kind."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from comparisons import make_run
from leantune.comparison import rows
from leantune.comparison.results import RunResult
from leantune.comparison.rows import row_errors
from leantune.training.scoring import compute_metrics


def run_of(folder: Path, targets, predictions, *, task="regression", metric="mse", labels=(), fold=0) -> RunResult:
    place = folder / f"fold_{fold}"
    place.mkdir(parents=True, exist_ok=True)
    columns = {"target": list(targets), "prediction": [p.tolist() for p in np.asarray(predictions)]}
    rows = range(len(targets))
    table = pa.table({"row": pa.array(rows, pa.int64()), "id": [str(row) for row in rows]} | columns)
    table = table.replace_schema_metadata({"labels": json.dumps(labels)})
    pq.write_table(table, place / "predictions.parquet")
    made = make_run(fold=fold, seed=0, number=0)
    return dataclasses.replace(made, folder=folder, task=task, metric=metric)


def pair_of(tmp_path: Path, count: int, *, metric: str = "mse", seed: int = 0, fold: int = 0):
    draw = np.random.default_rng(seed)
    targets = draw.normal(size=count)
    near, far = targets + 0.5 * draw.normal(size=count), targets + 0.6 * draw.normal(size=count)
    runs = [
        run_of(tmp_path / f"{name}-{seed}-{fold}", targets, predicted, metric=metric, fold=fold)
        for name, predicted in (("a", near), ("b", far))
    ]
    return runs, targets, near, far


def test_of_a_mean_over_rows_it_is_the_standard_error_of_the_mean(tmp_path, monkeypatch):
    runs, targets, near, far = pair_of(tmp_path, 60)
    d = (far - targets) ** 2 - (near - targets) ** 2
    monkeypatch.setattr(rows, "GROUPS", 60)
    assert row_errors({"b": [tuple(runs)]})["b"] == pytest.approx(d.std(ddof=1) / 60**0.5)


@pytest.mark.parametrize("metric", ["rmse", "pearson", "roc_auc", "f1"])
def test_it_is_about_what_a_bootstrap_of_the_rows_says(tmp_path, metric):
    draw = np.random.default_rng(3)
    count = 400
    if metric in ("roc_auc", "f1"):
        classes = draw.integers(2, size=count)
        shares = [1 / (1 + np.exp(-(2 * classes - 1 + scale * draw.normal(size=count)))) for scale in (1.0, 1.5)]
        targets, predicted = classes, [np.stack([1 - p, p], axis=1) for p in shares]
        kind, names = "binary", [("no", "yes")[c] for c in classes]
        runs = [
            run_of(tmp_path / str(i), names, p, task="binary", metric=metric, labels=("no", "yes"))
            for i, p in enumerate(predicted)
        ]
    else:
        targets = draw.normal(size=(count, 1))
        predicted = [targets + scale * draw.normal(size=(count, 1)) for scale in (0.5, 0.6)]
        kind = "regression"
        runs = [run_of(tmp_path / str(i), targets[:, 0], p[:, 0], metric=metric) for i, p in enumerate(predicted)]
    found = []
    for _ in range(300):
        chosen = draw.integers(count, size=count)
        a, b = (compute_metrics(kind, targets[chosen], p[chosen])[metric] for p in predicted)
        found.append(b - a)
    # 25 groups and 300 samples: each is right to about 15%.
    assert row_errors({"b": [tuple(runs)]})["b"] == pytest.approx(np.std(found), rel=0.5)


def test_it_says_how_far_the_difference_scatters_over_other_rows(tmp_path):
    found, told = [], []
    for seed in range(60):
        runs, targets, near, far = pair_of(tmp_path, 200, seed=seed)
        found.append(np.mean((far - targets) ** 2 - (near - targets) ** 2))
        told.append(row_errors({"b": [tuple(runs)]})["b"])
    assert np.mean(told) == pytest.approx(np.std(found, ddof=1), rel=0.3)


def test_a_sample_of_many_rows_says_how_far_all_of_them_scatter(tmp_path, monkeypatch):
    runs, *_ = pair_of(tmp_path, 4000)
    whole = row_errors({"b": [tuple(runs)]})["b"]
    monkeypatch.setattr(rows, "MOST_CELLS", 1000)
    assert row_errors({"b": [tuple(runs)]})["b"] == pytest.approx(whole, rel=0.5)


def test_seeds_share_their_rows_and_folds_do_not(tmp_path):
    runs, *_ = pair_of(tmp_path, 300)
    other, *_ = pair_of(tmp_path, 300, seed=1, fold=1)
    one = row_errors({"b": [tuple(runs)]})["b"]
    assert row_errors({"b": [tuple(runs), tuple(runs)]})["b"] == pytest.approx(one)
    two = row_errors({"b": [tuple(other)]})["b"]
    assert row_errors({"b": [tuple(runs), tuple(other)]})["b"] == pytest.approx((one**2 + two**2) ** 0.5 / 2)


def test_equal_predictions_have_no_scatter(tmp_path):
    runs, *_ = pair_of(tmp_path, 50)
    assert row_errors({"b": [(runs[0], runs[0])]}) == {"b": 0.0}


@pytest.mark.parametrize("change", ["gone", "few rows", "other columns", "no such metric"])
def test_what_cannot_be_read_is_left_out(tmp_path, change):
    runs, *_ = pair_of(tmp_path, 5 if change == "few rows" else 50)
    file = runs[1].folder / "fold_0" / "predictions.parquet"
    if change == "gone":
        file.unlink()
    elif change == "other columns":
        pq.write_table(pa.table({"target": [0.0], "guess": [1.0]}), file)
    elif change == "no such metric":
        runs[1] = dataclasses.replace(runs[1], metric="bleu")
    assert row_errors({"b": [tuple(runs)], "same": [(runs[0], runs[0])] if change != "few rows" else []}) == (
        {"same": 0.0} if change != "few rows" else {}
    )
