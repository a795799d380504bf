"""A run, loaded again, predicts what it predicted itself, from lists and from tables in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import leantune
from leantune.inference.ensemble import open_ensemble
from leantune.system.errors import DeviceError, RunFolderError, SettingsError, TableError
from leantune.tables.targets import TaskKind
from small_runs import LABELS, run_all, tiny_config, write_table


def own_predictions(run: Path, fold: int | str = 0) -> tuple[list[str], Any]:
    """Ids and predictions [n, outputs] that the run wrote for its validation rows."""
    table = pq.read_table(run / f"fold_{fold}" / "predictions.parquet")
    values = np.array(table["prediction"].to_pylist())
    return table["id"].to_pylist(), values.reshape(len(values), -1)


def rows_of(table: Path, ids: list[str]) -> pd.DataFrame:
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    return frame.set_index("name", drop=False).loc[ids].reset_index(drop=True)


@pytest.mark.parametrize(
    ("encoder", "kind", "settings"),
    [
        ("bert", "regression", {}),
        ("bert", "binary", {}),
        ("bert", "multiclass", {}),
        ("bert", "multilabel", {}),
        ("bert", "soft", {}),
        ("bert", "multilabel", {"data__task": "regression"}),  # several targets
        ("bert", "regression", {"data__text": ["text", "other"]}),
        ("roberta", "regression", {"tokens__truncation": "tail"}),
        ("xlm-roberta", "regression", {"data__text": ["text", "other"], "tokens__truncation": "head"}),
        ("deberta-v2", "regression", {"tokens__head_fraction": 0.3}),
        ("modernbert", "multiclass", {"batching__layout": "fixed"}),
        ("bert", "regression", {"tokens__truncation": "windows"}),
        (
            "roberta",
            "multiclass",
            {"data__text": ["text", "other"], "tokens__truncation": "windows", "tokens__window_pooling": "max"},
        ),
    ],
)
def test_predict_repeats_the_runs_own_predictions(
    encoder: str, kind: TaskKind, settings: dict[str, Any], trained: Callable[..., Path]
) -> None:
    run = trained(kind, encoder, **settings)
    ids, own = own_predictions(run)
    predictions = leantune.load(run).predict(rows_of(run.with_suffix(".csv"), ids))
    assert predictions.ids.to_pylist() == ids
    np.testing.assert_allclose(predictions.values, own, rtol=0, atol=1e-6)
    assert own.std(axis=0).max() > 1e-3  # the rows differ


def test_cut_rows_are_among_those_that_are_repeated(run: Path) -> None:
    """What the saved model gives without the run's way of cutting is something else."""
    ids, own = own_predictions(run)
    short = leantune.load(run).predict([text[:40] for text in rows_of(run.with_suffix(".csv"), ids)["text"]])
    assert np.abs(short.values - own).max() > 1e-3


def test_seventy_seven_classes_are_repeated(tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]) -> None:
    table = write_table(tmp_path / "table.csv", rows=154)
    frame = pd.read_csv(table, dtype=str)
    frame["score"] = [f"class {row % 77}" for row in range(len(frame))]
    frame.to_csv(table, index=False)
    run = tmp_path / "run"
    settings = {"data__task": "multiclass", "optimizer__max_steps": 1, "optimizer__epochs": 1}
    run_all(tiny_config(table, tiny_encoder_dir("bert"), **settings), run)
    ids, own = own_predictions(run)
    predictions = leantune.load(run).predict(rows_of(table, ids))
    assert predictions.values.shape == (len(ids), 77)
    np.testing.assert_allclose(predictions.values, own, rtol=0, atol=1e-6)
    assert predictions.decisions.to_pylist() == [predictions.labels[place] for place in own.argmax(axis=1)]


def test_lists_and_tables_of_every_kind_give_the_same(run: Path) -> None:
    texts = ["Ra ra ba.", "", "Koko lele mimi nunu rara"]
    predictor = leantune.load(run)
    expected = predictor.predict(texts).values
    for data in (
        np.array(texts),
        pd.DataFrame({"text": texts, "more": [1, 2, 3]}),
        pa.table({"text": texts}),
        pa.record_batch({"text": texts}),
        {"text": texts},
    ):
        np.testing.assert_array_equal(predictor.predict(data).values, expected)
    np.testing.assert_array_equal(predictor.predict({"body": texts}, text="body").values, expected)


def test_a_run_of_pairs_takes_pairs(trained: Callable[..., Path]) -> None:
    run = trained(data__text=["text", "other"])
    pairs = [("Ra ba", "koko"), ("lele", "Mimi ra")]
    predictor = leantune.load(run)
    table = {"text": [one for one, _ in pairs], "other": [two for _, two in pairs]}
    np.testing.assert_array_equal(predictor.predict(pairs).values, predictor.predict(table).values)
    with pytest.raises(TableError, match="row 2: found \"'lele'\", expected 2 cells, as in the first row"):
        predictor.predict([("Ra", "ba"), "lele"])


def test_ids_are_the_tables_or_row_numbers(run: Path) -> None:
    predictor = leantune.load(run)
    assert predictor.predict({"text": ["a", "b"], "name": ["x", "y"]}).ids.to_pylist() == ["x", "y"]
    assert predictor.predict({"text": ["a", "b"], "key": [7, 8]}, id="key").ids.to_pylist() == ["7", "8"]
    assert predictor.predict({"text": ["a", "b"]}).ids.to_pylist() == ["0", "1"]


def test_folds_are_averaged(folds: Path) -> None:
    predictor = leantune.load(folds)
    predictions = predictor.predict(["Ra ra ba.", "Koko"], per_model=True)
    assert predictor.models == predictions.models == ("fold_0", "fold_1")
    assert predictions.of_models is not None
    one, other = predictions.of_models
    assert np.abs(one - other).max() > 1e-4
    np.testing.assert_allclose(predictions.values, (one + other) / 2)


def test_runs_count_alike_or_by_their_weights(run: Path, folds: Path) -> None:
    texts = ["Ra ra ba.", "Koko"]
    one, two = leantune.load(run).predict(texts).values, leantune.load(folds).predict(texts).values
    np.testing.assert_allclose(leantune.load(run, folds).predict(texts).values, (one + two) / 2, rtol=1e-9)
    weighted = leantune.load(run, folds, weights=[3, 1]).predict(texts)
    np.testing.assert_allclose(weighted.values, 0.75 * one + 0.25 * two, rtol=1e-9)
    names = (f"{run.name}/fold_0", f"{folds.name}/fold_0", f"{folds.name}/fold_1")
    assert leantune.load(run, folds).models == names


def test_labels_of_several_runs_are_put_in_order_by_name(trained: Callable[..., Path]) -> None:
    columns = list(LABELS["multilabel"])
    one, other = trained("multilabel"), trained("multilabel", data__target=columns[::-1])
    texts = ["Ra ra ba.", "Koko"]
    forwards, backwards = leantune.load(one).predict(texts), leantune.load(other).predict(texts)
    assert backwards.labels == tuple(columns[::-1])
    both = leantune.load(one, other).predict(texts)
    np.testing.assert_allclose(both.values, (forwards.values + backwards.values[:, ::-1]) / 2)


def test_runs_that_predict_something_else_are_refused(run: Path, classes: Path, trained: Callable[..., Path]) -> None:
    with pytest.raises(RunFolderError, match="found the task multiclass, expected regression"):
        leantune.load(run, classes)
    other = trained(data__target=["name"], data__id=None)
    with pytest.raises(RunFolderError, match="found the outputs 'name', expected 'score'"):
        leantune.load(run, other)
    pairs = trained(data__text=["text", "other"])
    with pytest.raises(RunFolderError, match="found the texts of a row 2, expected 1"):
        leantune.load(run, pairs)


@pytest.mark.parametrize("weights", [[1.0], [0, 0], [-1, 2], [float("nan"), 1]])
def test_weights_that_make_no_mean_are_refused(run: Path, folds: Path, weights: list[float]) -> None:
    with pytest.raises(SettingsError, match="weights: found"):
        open_ensemble([run, folds], weights)


def test_a_run_twice_is_refused(run: Path) -> None:
    with pytest.raises(SettingsError, match="found a run twice"):
        leantune.load(run, run)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a text", r"the table in memory: found one text, expected"),
        (["a", None], r"the table in memory, row 2, column 'text': found nothing, expected a text"),
        (["a", ["b"]], r"the table in memory, row 2, column 'text': found list, expected a text"),
        ({"text": ["a", None]}, r"row 2, column 'text': found nothing, expected a text"),
        ({"texts": ["a"]}, r"the table in memory: found no column 'text', .* did you mean 'texts'\?"),
        ({"text": ["a", "b"], "name": ["1", "1"]}, r"row 2, column 'name': found '1', expected another id"),
        ({"text": ["a", "b"], "name": ["1", None]}, r"row 2, column 'name': found nothing, expected a value"),
        ({"text": ["a"], "name": [1, 2]}, r"found columns of different lengths \('text': 1, 'name': 2\)"),
    ],
)
def test_what_cannot_be_read_is_one_message(run: Path, data: Any, message: str) -> None:
    with pytest.raises(TableError, match=message):
        leantune.load(run).predict(data)


def test_columns_are_named_for_tables_only(run: Path) -> None:
    predictor = leantune.load(run)
    with pytest.raises(SettingsError, match="a list of texts has none"):
        predictor.predict(["a"], text="text")
    with pytest.raises(SettingsError, match="found 2 columns, expected 1"):
        predictor.predict({"text": ["a"]}, text=["text", "text"])


def test_no_rows_give_no_predictions(run: Path) -> None:
    assert leantune.load(run).predict([]).values.shape == (0, 1)


def test_a_device_that_is_not_there_is_told_at_once(run: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:99"):
        leantune.load(run, device="cuda:99")


def test_nothing_is_written_to_the_token_cache(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANTUNE_CACHE", str(tmp_path / "cache"))
    leantune.load(run).predict(["a"])
    assert not (tmp_path / "cache").exists()


def test_regression_is_a_column_a_target(run: Path) -> None:
    table = leantune.load(run).predict({"text": ["a", "b"], "name": ["x", "y"]}).to_arrow()
    assert table.column_names == ["name", "score"]
    assert table["name"].to_pylist() == ["x", "y"]


def test_classes_are_a_class_and_a_probability_each(classes: Path) -> None:
    predictions = leantune.load(classes).predict(["a", "b"])
    table = predictions.to_arrow()
    names = [f"probability_{name}" for name in LABELS["multiclass"]]
    assert table.column_names == ["id", "prediction", *names]
    assert table["prediction"].to_pylist() == predictions.decisions.to_pylist()
    np.testing.assert_allclose(sum(table[name].to_numpy() for name in names), 1, rtol=1e-6)


def test_labels_are_a_probability_each(trained: Callable[..., Path]) -> None:
    predictions = leantune.load(trained("multilabel")).predict(["a", "b"])
    assert predictions.to_arrow().column_names == ["id", *LABELS["multilabel"]]
    assert predictions.decisions.to_pylist() == (predictions.values >= 0.5).tolist()


def test_the_values_of_each_model_and_their_spread_are_columns(folds: Path) -> None:
    predictions = leantune.load(folds).predict(["a", "b"], per_model=True)
    table = predictions.to_arrow()
    assert table.column_names == ["id", "score", "score@fold_0", "score@fold_1", "score@spread"]
    both = np.stack([table["score@fold_0"].to_numpy(), table["score@fold_1"].to_numpy()])
    np.testing.assert_allclose(table["score@spread"].to_numpy(), both.std(axis=0))


def test_predictions_are_shown_as_a_table_of_the_first_rows(classes: Path) -> None:
    predictions = leantune.load(classes).predict([f"text {i}" for i in range(12)])
    lines = repr(predictions).splitlines()
    assert lines[0].split() == ["id", "prediction", "probability_bad", "probability_fair", "probability_good"]
    assert len(lines) == 7
    assert lines[-1] == "[12 rows]"
    html = predictions._repr_html_()
    assert html.count("<tr>") == 6
    assert "<p>12 rows</p>" in html
