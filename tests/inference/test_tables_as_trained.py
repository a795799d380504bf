"""What a run was told of its table holds where it predicts and is evaluated."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from leantune.inference.evaluation import evaluate_file
from leantune.inference.file import PredictOptions, predict_file
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
