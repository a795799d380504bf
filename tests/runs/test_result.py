"""A run in Python is readable where it is printed, and what a stranger called a thing is shown and never obeyed."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_display import CLASSES, COSTS, REGRESSION

import leantune
from leantune.runs.result import read_warnings
from leantune.system.errors import RunFolderError
from leantune.training.events import Note
from small_runs import write_table

HOSTILE = "<script>alert(1)</script> & \x1b[2J \u202etxt.exe"


def finished(folder: str = "run", warnings: tuple[str, ...] = (), scores: dict[str, Any] = REGRESSION) -> leantune.Run:
    overall = {"best": scores, "last": {name: value + 0.01 for name, value in scores.items()}} | COSTS
    return leantune.Run(folder=Path(folder), metrics={"overall": overall, "folds": {}}, warnings=warnings)


class Cells(HTMLParser):
    """The rows of a table as a browser reads them, and the elements that are in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, _attributes: Any) -> None:
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


def test_a_run_is_printed_with_best_and_last_times_memory_and_warnings():
    run = finished(warnings=("memory: 8 rows did not fit",))
    assert str(run).splitlines() == [
        "       run  run",
        "                  best        last",
        "       mse      0.2500      0.2600",
        "      rmse      0.5000      0.5100",
        "       mae      0.4000      0.4100",
        "        r2      0.6000      0.6100",
        "   pearson      0.8000      0.8100",
        "  spearman      0.7000      0.7100",
        "      time  12 min 05 s: training 10 min 05 s, start-up 12.3 s, evaluation 1 min",
        "            05 s, saving 0.5 s",
        "     speed  12,346 tokens/s, 12.5% padding, 35% of the rate of matrix products",
        "            here (405 GFLOP/s, bfloat16 2048 x 2048 x 2048)",
        "    memory  3.0 GiB process",
        "   warning  memory: 8 rows did not fit",
    ]


def test_a_printed_run_has_no_line_beyond_80_columns_and_no_colours(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    text = repr(finished("folder/" * 30, ("word " * 50,), CLASSES))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_a_notebook_gets_the_rows_of_the_terminal_as_a_table():
    run = finished(warnings=("memory: 8 rows did not fit", "evaluation: a < b"))
    cells = Cells(run._repr_html_())
    assert [" ".join(" ".join(row).split()) for row in cells.rows] == [
        "run run",
        "best last",
        *(f"{name} {value:.4f} {value + 0.01:.4f}" for name, value in REGRESSION.items()),
        "time 12 min 05 s: training 10 min 05 s, start-up 12.3 s, evaluation 1 min 05 s, saving 0.5 s",
        "speed 12,346 tokens/s, 12.5% padding, 35% of the rate of matrix products here (405 GFLOP/s, bfloat16 2048 x "
        "2048 x 2048)",
        "memory 3.0 GiB process",
        "warning memory: 8 rows did not fit",
        "warning evaluation: a < b",
    ]


def test_names_from_strangers_are_text_in_a_notebook_and_in_a_terminal():
    run = finished(folder=HOSTILE, warnings=(HOSTILE,))
    cells = Cells(run._repr_html_())
    assert cells.elements == {"table", "tr", "th", "td"}
    assert cells.rows[0] == ["run", r"<script>alert(1)</script> & \x1b[2J \u202etxt.exe"]
    assert cells.rows[-1] == ["warning", r"<script>alert(1)</script> & \x1b[2J \u202etxt.exe"]
    assert "\x1b" not in repr(run)
    assert "\u202e" not in repr(run)


def test_a_run_has_the_warnings_of_its_events_and_so_has_a_finished_one_that_is_only_told(
    tiny_encoder_dir, tmp_path, monkeypatch
):
    real = leantune.runs.run.prepare
    said = [Note(event="warning", about="data", text="odd rows"), Note(about="data", text="a note, no warning")]

    def prepare(*given: Any) -> Any:
        prepared, encoder = yield from real(*given)
        yield from (*said, said[0])
        object.__setattr__(prepared, "notes", (*prepared.notes, *said, said[0]))
        return prepared, encoder

    monkeypatch.setattr("leantune.runs.run.prepare", prepare)
    data = write_table(tmp_path / "train.csv", rows=20)
    settings = {"optimizer.max_steps": 1, "precision": "fp32", "device": "cpu", "batching.batch_size": 8}
    given: dict[str, Any] = {"text": "text", "target": "score", "model": str(tiny_encoder_dir("bert"))}
    given |= {"output": tmp_path / "run", "settings": settings, "display": False}
    run = leantune.train(data, **given)
    assert [text for text in run.warnings if not text.startswith("result: ")] == ["data: odd rows"]
    assert "odd rows" in repr(run)
    assert leantune.train(data, **given, resume=True) == run


def test_warnings_are_read_in_order_and_each_once(tmp_path):
    events = [
        {"event": "warning", "about": "memory", "text": "second to none\u2028"},
        {"event": "note", "about": "warning", "text": "none"},
        {"event": "warning", "about": "data", "text": "odd"},
        {"event": "warning", "about": "memory", "text": "second to none\u2028"},
        {"event": "step", "loss": None},
    ]
    lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
    (tmp_path / "events.jsonl").write_text(lines, encoding="utf-8")
    assert read_warnings(tmp_path) == ("memory: second to none\u2028", "data: odd")


def test_a_warning_that_cannot_be_read_names_the_file_and_the_line(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event": "step"}\n{"event": "warning"', encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"events.jsonl, line 2: found no whole JSON"):
        read_warnings(tmp_path)
