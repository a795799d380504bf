"""A run is scored on a table with targets, beside simple answers, and says where the score is flattered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, root_mean_squared_error

import leantune
from leantune import cli
from leantune.inference.evaluation import Evaluated, evaluate_file
from leantune.inference.file import PredictOptions
from leantune.system.errors import TableError
from leantune.training.events import Note
from small_runs import LABELS, write_table


def evaluate(run: Path, table: Path, output: Path | None = None, **options: Any) -> tuple[Evaluated, list[str]]:
    """What is found, and the warnings."""
    events = evaluate_file([run], table, output, PredictOptions(**options))
    warnings = []
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value, warnings
        if isinstance(event, Note) and event.event == "warning":
            warnings.append(event.text)


@pytest.fixture(scope="module")
def moved(trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose table is not there any more."""
    run = trained(seed=7)
    run.with_suffix(".csv").unlink(missing_ok=True)
    return run


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_table(tmp_path / "new.csv", rows=40, seed=9)


def test_metrics_are_those_of_the_predictions(run: Path, new: Path) -> None:
    found, _ = evaluate(run, new)
    frame = pd.read_csv(new)
    predictions = leantune.load(run).predict(frame)
    expected = root_mean_squared_error(frame["score"], predictions.values[:, 0])
    assert found.rows == 40
    assert found.metrics["rmse"] == pytest.approx(expected, rel=1e-6)
    interval = found.intervals["rmse"]
    assert interval is not None
    assert interval[0] < expected < interval[1]


def test_python_and_the_command_say_the_same(
    run: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = leantune.evaluate(run, new, output=tmp_path / "predictions.csv", display=False)
    assert capsys.readouterr() == ("", "")
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == found.rows == 40
    cli.app(["evaluate", str(run), str(new)], standalone_mode=False)
    assert capsys.readouterr().out.splitlines() == found.lines()


def test_classes_are_scored_by_their_names(classes: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "new.csv", rows=40, seed=9, kind="multiclass")
    frame = pd.read_csv(table)
    frame[frame["label"] != "bad"].to_csv(table, index=False)  # a class that no row has is no error
    found, _ = evaluate(classes, table)
    frame = pd.read_csv(table)
    predictions = leantune.load(classes).predict(frame)
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(frame["label"], predictions.decisions.to_pylist()))


@pytest.mark.parametrize("kind", ["multilabel", "soft"])
def test_labels_and_shares_are_scored(kind: str, trained: Callable[..., Path], tmp_path: Path) -> None:
    found, _ = evaluate(trained(kind), write_table(tmp_path / "new.csv", rows=40, seed=9, kind=kind))  # type: ignore[arg-type]
    assert found.metrics["log_loss"] is not None


def training_mean(run: Path) -> float:
    ids = pd.read_parquet(run / "fold_0" / "predictions.parquet")["id"]
    before = pd.read_csv(run.with_suffix(".csv"), dtype={"name": str})
    return float(before[~before["name"].isin(ids)]["score"].mean())


def test_yardsticks_learn_from_the_rows_that_trained(run: Path, new: Path) -> None:
    found, _ = evaluate(run, new)
    expected = root_mean_squared_error(pd.read_csv(new)["score"], np.full(40, training_mean(run)))
    assert found.yardsticks["constant"]["rmse"] == pytest.approx(expected)
    assert found.yardsticks["linear"]["rmse"] is not None
    assert len(found.lines()) == 1 + len(found.metrics)


def test_without_the_training_table_the_constant_is_of_the_rows_themselves(moved: Path, new: Path) -> None:
    found, _ = evaluate(moved, new)
    scores = pd.read_csv(new)["score"]
    assert found.yardsticks["constant"]["rmse"] == pytest.approx(scores.std(ddof=0))
    assert found.yardsticks["linear"] is None
    assert "cannot be read" in found.yardsticks["reason"]
    assert "linear" not in found.lines()[0]


def test_the_table_of_the_training_is_refused(run: Path) -> None:
    with pytest.raises(TableError, match=r"is the table that .* was trained on.*metrics\.json"):
        evaluate(run, run.with_suffix(".csv"))


def test_texts_of_the_training_are_counted(run: Path, new: Path) -> None:
    before, frame = pd.read_csv(run.with_suffix(".csv")), pd.read_csv(new)
    ids = pd.read_parquet(run / "fold_0" / "predictions.parquet")["id"].astype(int)
    trained, validated = before.drop(ids)["text"].iloc[:3], before.loc[ids]["text"].iloc[:2]
    frame.loc[:4, "text"] = [*trained, *validated]
    frame.to_csv(new, index=False)
    _, warnings = evaluate(run, new)
    assert any(text.startswith("3 of 40 rows have a text that") for text in warnings)
    other = write_table(new.with_name("other.csv"), rows=20, seed=11)
    assert not any("have a text that" in text for text in evaluate(run, other)[1])


def test_what_is_worse_than_the_constant_says_so(run: Path, new: Path) -> None:
    frame = pd.read_csv(new)
    frame["score"] = 2 * training_mean(run) - leantune.load(run).predict(frame).values[:, 0]
    frame.to_csv(new, index=False)
    assert any("worse than the constant answer" in text for text in evaluate(run, new)[1])


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("label", "great", r"row 3, column 'label': found 'great', expected one of the 3 classes of the training"),
        ("label", "", r"row 3, column 'label': found '', expected a value"),
    ],
)
def test_a_target_that_the_run_cannot_predict_is_refused_before_anything(
    column: str, cell: str, message: str, classes: Path, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "new.csv", rows=9, kind="multiclass")
    frame = pd.read_csv(table, dtype=str)
    frame.loc[2, column] = cell
    frame.to_csv(table, index=False)
    with pytest.raises(TableError, match=message):
        evaluate(classes, table, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_a_table_without_targets_is_refused(run: Path, new: Path) -> None:
    pd.read_csv(new).drop(columns="score").to_csv(new, index=False)
    with pytest.raises(TableError, match="found no column 'score'"):
        evaluate(run, new)


def test_the_predictions_are_written_where_asked_for(classes: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "new.csv", rows=20, seed=9, kind="multiclass")
    evaluate(classes, table, tmp_path / "out.csv")
    frame = pd.read_csv(tmp_path / "out.csv")
    names = [f"probability_{name}" for name in LABELS["multiclass"]]
    expected = leantune.load(classes).predict(pd.read_csv(table)).values
    np.testing.assert_allclose(frame[names], expected, rtol=0, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"new.csv", "out.csv"}
