"""What a run was told of its table holds where it predicts and is evaluated."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from leantune.inference.evaluation import evaluate_file
from leantune.inference.file import PredictOptions, predict_file
from leantune.inference.trained_run import open_run
from leantune.inference.validation_rows import RowSource
from small_runs import finish, run_all, tiny_config
from tiny_encoders import make_texts


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Callable[[str], Path]) -> tuple[Path, Path]:
    """Return a run on two columns that a template joins, with labels in one cell, and another table."""
    folder = tmp_path_factory.mktemp("labelled")
    texts = make_texts(24)
    cells = ["joy/fear", "joy", "fear", "love/joy"] * 6
    frame = pd.DataFrame({"title": texts, "body": texts[::-1], "labels": cells})
    frame.to_csv(folder / "train.csv", index=False, sep=";")
    other = frame.assign(title=[f"{text} more" for text in texts])
    other.loc[0, "body"] = None
    other.to_json(folder / "other.jsonl", orient="records", lines=True)
    settings = {
        "data__text": ["title", "body"],
        "data__target": "labels",
        "data__template": "{title}: {body}",
        "data__id": None,
        "data__label_separator": "/",
        "data__delimiter": ";",
        "data__missing_text": "drop",
        "optimizer__max_steps": 1,
        "optimizer__epochs": 1,
    }
    run_all(tiny_config(folder / "train.csv", tiny_encoder_dir("bert"), **settings), folder / "run")
    return folder / "run", folder / "other.jsonl"


def test_a_run_predicts_with_the_template_and_labels_of_its_training(
    labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    run, other = labelled

    finish(predict_file([run], other, tmp_path / "out.csv", PredictOptions(device="cpu")))

    assert len(pd.read_csv(tmp_path / "out.csv")) == 24


def test_a_run_is_evaluated_on_labels_in_one_cell(labelled: tuple[Path, Path]) -> None:
    run, other = labelled

    evaluated = finish(evaluate_file([run], other, None, PredictOptions(device="cpu")))

    assert evaluated.metrics["log_loss"] is not None


@pytest.mark.parametrize("named", [False, True])
def test_a_run_on_a_folder_of_parts_finds_its_rows_again(
    named: bool, tiny_encoder_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    frame = pd.DataFrame({"text": make_texts(24), "target": [0.5, 1.5, 2.5] * 8})
    for number in range(2):
        frame[12 * number : 12 * number + 12].to_parquet(parts / f"{number}.parquet")
    data = {"path": str(parts), "text": "text", "target": "target"}
    run_all(tiny_config(tmp_path, tiny_encoder_dir("bert"), data=data, optimizer={"max_steps": 1}), tmp_path / "run")
    run = open_run(tmp_path / "run")

    rows = RowSource(run, parts if named else None).rows(run.folds[0])

    assert rows.texts[0].to_pylist() == frame["text"][rows.row_numbers].tolist()
    assert rows.predictions is not None
