"""The examples run as they stand, on small tables and a tiny encoder."""

import csv
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from small_runs import write_table

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def competition(tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]) -> Path:
    """A folder as a competitor has it: train.csv, test.csv, sample_submission.csv in another order, and an encoder."""
    write_table(tmp_path / "train.csv", rows=40)
    write_table(tmp_path / "labelled.csv", rows=12, seed=1)
    with (tmp_path / "labelled.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "labelled.csv").unlink()
    _write(tmp_path / "test.csv", ["name", "text"], [[row["name"], row["text"]] for row in rows])
    random.Random(0).shuffle(rows)
    _write(tmp_path / "sample_submission.csv", ["name", "score"], [[row["name"], "0.0"] for row in rows])
    (tmp_path / "encoder").symlink_to(tiny_encoder_dir("bert"))
    return tmp_path


def _write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _run(folder: Path, command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"TERM": "dumb"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def _is_a_submission(folder: Path) -> bool:
    names = _column(folder / "sample_submission.csv", "name")
    scores = [float(cell) for cell in _column(folder / "submission.csv", "score")]
    return _column(folder / "submission.csv", "name") == names and len(set(scores)) > 1


COLUMNS = ["--text", "text", "--target", "score", "--id", "name", "--model", "encoder", "--epochs", "1"]


def test_the_submission_has_the_rows_of_the_sample_in_its_order(competition: Path) -> None:
    script = str(EXAMPLES / "submission.py")
    _run(competition, [sys.executable, script, "train.csv", "test.csv", "sample_submission.csv", *COLUMNS])
    assert _is_a_submission(competition)


@pytest.mark.slow
def test_two_seeds_are_joined_with_weights_that_are_told(competition: Path) -> None:
    _run(competition, [sys.executable, str(EXAMPLES / "two_seeds.py"), "train.csv", "test.csv", *COLUMNS])
    assert _column(competition / "submission.csv", "name") == _column(competition / "test.csv", "name")
    assert [folder.name for folder in sorted((competition / "runs").iterdir())] == ["seed_0", "seed_1"]


def test_cross_validation_prints_a_line_for_the_encoder_and_one_for_the_linear_model(competition: Path) -> None:
    pytest.importorskip("pandas")
    write_table(competition / "classes.csv", rows=24, kind="binary")
    command = [sys.executable, str(EXAMPLES / "cross_validation.py"), "classes.csv", "--text", "text"]
    lines = _run(competition, [*command, "--target", "label", "--model", "encoder", "--epochs", "1", "--folds", "2"])
    heads = [line.split(":")[0].strip() for line in lines.splitlines() if "accuracy" in line]
    assert heads == ["linear model", "encoder"]


def test_the_notebook_runs_from_top_to_bottom(competition: Path) -> None:
    cells = json.loads((EXAMPLES / "submission.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for old, new in {
        '"excerpt", "target", "id"': '"text", "score", "name"',
        'MODEL = "demo"': 'MODEL = "encoder"',
        "SETTINGS = {}": 'SETTINGS = {"optimizer.epochs": 1}',
    }.items():
        assert old in source
        source = source.replace(old, new)
    lines = ["import subprocess, sys"]
    for line in source.splitlines():
        if line.startswith("!"):  # IPython's way to call a command, with the names of Python in braces
            words = shlex.split(line[1:])
            assert words[0] == "leantune"
            given = f"*(word.format(**globals()) for word in {words[1:]!r})"
            lines.append(f"subprocess.run([sys.executable, '-m', 'leantune', {given}], check=True)")
        else:
            lines.append(line)
    (competition / "notebook.py").write_text("\n".join(lines))
    _run(competition, [sys.executable, "notebook.py"])
    assert _is_a_submission(competition)


def test_the_notebook_holds_no_results() -> None:
    cells = json.loads((EXAMPLES / "submission.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code" and cell["outputs"]] == []
