"""A result that something simpler beats, or that tells no rows apart, says so (law 9)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leantune.runs.verdict import learning_stalled, predictions_alike, result_warnings, worse_than_yardsticks
from leantune.system.errors import RunFolderError
from small_runs import run_all, tiny_config, write_table


def overall(best: float | None, *, linear: float | None = None, constant: float | None = None) -> dict[str, Any]:
    def scores(value: float | None) -> dict[str, Any] | None:
        return None if value is None else {"rmse": value, "r2": value}

    return {
        "best": {"rmse": best, "r2": best},
        "yardsticks": {"linear": scores(linear), "constant": scores(constant), "reason": ""},
    }


@pytest.mark.parametrize(
    ("metric", "best", "linear", "constant", "worse"),
    [
        ("rmse", 0.5, 0.6, 0.9, ""),
        ("rmse", 0.5, 0.5, 0.5, ""),
        ("rmse", 0.7, 0.6, 0.9, "a linear model"),
        ("rmse", 1.0, 0.6, 0.9, "the constant answer"),
        ("rmse", 1.0, 1.1, 0.9, "the constant answer"),
        ("rmse", 1.0, None, 0.9, "the constant answer"),
        ("r2", 0.5, 0.6, 0.0, "a linear model"),
        ("r2", -0.5, 0.6, 0.0, "the constant answer"),
        ("r2", 0.7, 0.6, 0.0, ""),
        ("rmse", None, 0.6, 0.9, ""),
    ],
)
def test_a_run_that_is_worse_than_a_yardstick_says_so_by_its_own_metric(metric, best, linear, constant, worse):
    texts = list(worse_than_yardsticks(metric, overall(best, linear=linear, constant=constant)))
    assert len(texts) == bool(worse)
    for text in texts:
        assert text.startswith(f"this run is worse than {worse}")
        assert ("linear model" in text) == (worse == "a linear model" or (linear is not None and linear < 1.0))
        assert "Usually" in text
        assert "try" in text


def test_a_run_without_yardsticks_is_held_against_nothing():
    assert list(worse_than_yardsticks("rmse", {"best": {"rmse": 1.0}, "yardsticks": None})) == []
    assert list(worse_than_yardsticks("rmse", {"best": {"rmse": 1.0}})) == []


def test_numbers_that_are_all_alike_are_told_with_their_columns():
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(100, 3)) * [1.0, 10.0, 1.0]
    spread = truth * [1.0, 0.009, 0.011] + 5
    (text,) = predictions_alike(truth, spread, ("V", "A", "D"))
    assert text.startswith("the predictions of A are almost the same for all validation rows")
    assert list(predictions_alike(truth, truth, ("V", "A", "D"))) == []
    (text,) = predictions_alike(np.tile(truth, 2), np.zeros((100, 6)), tuple("abcdef"))
    assert "of a, b, c and 3 more are" in text


def test_targets_that_are_constant_themselves_are_not_told():
    assert list(predictions_alike(np.ones((9, 1)), np.ones((9, 1)), ("V",))) == []
    assert list(predictions_alike(np.ones(9, dtype=int), np.tile([0.1, 0.9], (9, 1)), ("no", "yes"))) == []


def test_one_class_for_every_row_is_told_where_there_are_several():
    same = np.tile([0.2, 0.8], (9, 1))
    (text,) = predictions_alike(np.arange(9) % 2, same, ("no", "yes"))
    assert text.startswith("every validation row is predicted as yes, and there are several classes")
    same[0] = [0.6, 0.4]
    assert list(predictions_alike(np.arange(9) % 2, same, ("no", "yes"))) == []


def write_events(file: Path, values: list[float | None], losses: list[float | None], fold: int = 0) -> Path:
    events = [{"event": "note", "about": "data", "text": "..."}]
    events += [{"event": "step", "fold": fold, "loss": loss} for loss in losses]
    events += [{"event": "evaluation", "fold": fold, "metrics": {"rmse": value}} for value in values]
    with file.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(event) + "\n" for event in events)
    return file


FALLING: list[float | None] = [1 - number / 50 for number in range(40)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.5, 0.5, 0.5], 1),
        ([0.5, 0.5], 0),
        ([0.5, 0.5, 0.4999], 0),
        ([None, None, None], 0),
        ([None, 0.5, 0.5], 0),
    ],
)
def test_a_metric_that_never_moved_is_told_after_three_evaluations(values, said, tmp_path):
    texts = list(learning_stalled(write_events(tmp_path / "e", values, FALLING), "rmse", several=False))
    assert len(texts) == said
    assert all(text.startswith("rmse was 0.5000 at all 3 evaluations. Usually") for text in texts)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([1.0] * 20 + [2.0] * 20, 1),
        ([1.0] * 10 + [2.0] * 9, 0),
        ([1.0] * 20 + [1.05] * 20, 0),
        ([1.0, 1.0] * 20, 0),
        (FALLING, 0),
        ([None] * 40, 0),
        ([None, 1.0, 1.0, 1.0] + [1.5] * 30 + [None, 2.0, 2.0, 2.0], 1),
        ([1.0, 1.0] + [9.0] * 36 + [0.5, 0.5], 0),
    ],
)
def test_a_training_loss_that_rose_is_told(losses, said, tmp_path):
    texts = list(learning_stalled(write_events(tmp_path / "e", [1.0, 0.9, 0.8], losses), "rmse", several=False))
    assert len(texts) == said
    assert all("the training loss rose from 1.000 to 2.000" in text and "Usually" in text for text in texts)


def test_of_several_folds_each_is_named(tmp_path):
    write_events(tmp_path / "e", [0.5] * 3, FALLING, fold=0)
    write_events(tmp_path / "e", [0.5, 0.4, 0.3], [1.0] * 20 + [2.0] * 20, fold=3)
    one, other = learning_stalled(tmp_path / "e", "rmse", several=True)
    assert one.startswith("fold 0: rmse")
    assert other.startswith("fold 3: the training loss")


@pytest.mark.parametrize("line", ["{", '{"event": "step"}', "[]"])
def test_events_that_are_damaged_are_refused_with_their_place(line, tmp_path):
    write_events(tmp_path / "e", [], [1.0])
    with (tmp_path / "e").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunFolderError, match="line 3"):
        list(learning_stalled(tmp_path / "e", "rmse", several=False))


def test_all_of_a_result_is_told_as_warnings_about_it(tmp_path):
    write_events(tmp_path / "events.jsonl", [1.0] * 3, [1.0] * 20 + [2.0] * 20)
    metrics = {"metric": "rmse", "folds": {"0": {}}, "overall": overall(1.0, linear=0.5, constant=0.9)}
    notes = list(result_warnings(metrics, np.arange(9.0)[:, None], np.zeros((9, 1)), ("V",), tmp_path))
    assert [(note.event, note.about) for note in notes] == [("warning", "result")] * 4


# Real runs of tiny models


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_table(tmp_path / "train.csv")


def told(data: Path, encoder: Path, folder: Path, **settings: Any) -> str:
    events = run_all(tiny_config(data, encoder, **settings), folder)
    texts = [event.text for event in events if getattr(event, "about", "") == "result"]
    recorded = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["text"] for event in recorded if event.get("about") == "result"] == texts
    assert [event for event in events if getattr(event, "about", "") == "result"] == events[-1 - len(texts) : -1]
    return "\n".join(texts)


def test_a_run_that_learns_nothing_says_that_the_constant_is_better(data, tiny_encoder_dir, tmp_path):
    text = told(data, tiny_encoder_dir("bert"), tmp_path / "run", optimizer__learning_rate=1e-9)
    assert "this run is worse than the constant answer: rmse is" in text


def test_a_run_that_never_moves_says_so(data, tiny_encoder_dir, tmp_path):
    settings = {"optimizer__learning_rate": 1e-30, "optimizer__epochs": 3}
    assert "at all 3 evaluations" in told(data, tiny_encoder_dir("bert"), tmp_path / "run", **settings)


def test_a_run_that_diverges_says_that_its_loss_rose(tiny_encoder_dir, tmp_path):
    data = write_table(tmp_path / "train.csv", kind="multiclass")
    settings = {
        "data__target": "label",
        "optimizer__learning_rate": 3.0,
        "optimizer__epochs": 5,
        "optimizer__warmup_fraction": 0.9,
        "optimizer__gradient_clip_norm": None,
    }
    text = told(data, tiny_encoder_dir("bert"), tmp_path / "run", **settings)
    assert "the training loss rose from" in text


def test_a_run_of_classes_that_gives_every_row_the_same_says_so(tiny_encoder_dir, tmp_path):
    data = write_table(tmp_path / "train.csv", kind="multiclass")
    settings = {"data__target": "label", "optimizer__learning_rate": 1e-9}
    text = told(data, tiny_encoder_dir("bert"), tmp_path / "run", **settings)
    assert "every validation row is predicted as" in text
