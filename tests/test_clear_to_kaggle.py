"""The CLEAR corpus file becomes a table that leantune reads."""

import subprocess
import sys
from pathlib import Path

import pytest

from leantune.tables.table import DataSettings, read_table

openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl (extra `dev`)")

SCRIPT = Path(__file__).parents[1] / "experiments" / "commonlit" / "clear_to_kaggle.py"
HEADER = ["ID", "Last\nChanged", "URL", "License", "Excerpt", "BT Easiness", "BT s.e.", "Kaggle split"]


def write_corpus(path: Path, header: list[str] = HEADER) -> Path:
    book = openpyxl.Workbook()
    book.active.append(header)
    book.active.append([400, "x", "http://example.org", None, 'One, "two"\nthree.', -0.340259125, 0.464, "Train"])
    book.active.append([401.0, "x", None, "CC BY 4.0", "four", 1.5, 0.5, "Test"])
    book.active.append([None] * 8)
    book.save(path)
    return path


def convert(corpus: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(corpus), str(output), *options], check=False, capture_output=True, text=True
    )


def test_rows_keep_their_text_number_and_id(tmp_path: Path) -> None:
    assert convert(write_corpus(tmp_path / "clear.xlsx"), tmp_path / "train.csv").returncode == 0
    table = read_table(DataSettings(path=tmp_path / "train.csv", text=("excerpt",), target=("target",), id="id"))
    assert table.ids.to_pylist() == ["400", "401"]
    assert table.texts[0].to_pylist() == ['One, "two"\nthree.', "four"]
    assert table.targets["target"].to_pylist() == ["-0.340259125", "1.5"]


def test_a_split_keeps_its_own_rows_only(tmp_path: Path) -> None:
    convert(write_corpus(tmp_path / "clear.xlsx"), tmp_path / "train.csv", "--split", "train")
    lines = (tmp_path / "train.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id,url_legal,license,excerpt,target,standard_error"
    assert lines[1].startswith("400,")
    assert not any(line.startswith("401") for line in lines)


def test_another_file_is_refused_by_its_missing_columns(tmp_path: Path) -> None:
    done = convert(write_corpus(tmp_path / "clear.xlsx", ["id", *HEADER[1:]]), tmp_path / "train.csv")
    assert done.returncode != 0
    assert "has no column ID" in done.stderr
    assert not (tmp_path / "train.csv").exists()
