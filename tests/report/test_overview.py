"""A comparison in the terminal: the plan, the runs, and the table, in 80 columns."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from leantune.comparison import compare_runs
from leantune.report import Overview, show_comparison
from leantune.training.events import RunProgress, RunStart, Trial, Waiting
from planned import PLAN, done
from synthetic_experiments import write_experiment


def said(*events: object, is_terminal: bool = False) -> str:
    out = io.StringIO()
    with Overview(Console(file=out, width=80, force_terminal=is_terminal, highlight=False)) as overview:
        for event in events:
            overview.show(event)  # type: ignore[arg-type]
    return out.getvalue()


def test_the_plan_says_what_differs_how_many_runs_and_how_long() -> None:
    text = said(PLAN)
    assert "2 recipes x 1 fold x 2 seeds = 4 runs on 1,200 rows" in text
    assert "precision: bf16" in text
    assert "gone" not in text
    assert "[red]odd[/red]" in text
    assert "1 of 2 done" in text
    assert "about 2 min 00 s" in text  # one run of a minute, two of half a minute
    assert max(map(len, text.splitlines())) <= 80


def test_each_run_is_a_line_with_best_and_last_or_its_error() -> None:
    text = said(PLAN, done("plain"), done("[red]odd[/red]", "out of memory"))
    assert "2/4" in text
    assert "rmse 0.5000 0.6000 (best, last)" in text
    assert "3.0 GiB" in text
    assert "failed: out of memory" in " ".join(text.split())


def test_trials_and_waiting_are_told() -> None:
    text = said(Trial(recipe="plain", number=1, total=2), Waiting(device="cuda:0"))
    assert "a few steps of plain (1 of 2)" in text
    assert "another comparison is using cuda:0" in text


@pytest.mark.parametrize("share", [0, 5])
def test_a_terminal_has_one_bar_over_all_runs(share: int) -> None:
    events = [RunStart(recipe="plain", fold=0, seed=1), RunProgress(recipe="plain", step=share, total_steps=10)]
    text = said(PLAN, *events, is_terminal=True)
    assert "run 2/4 plain" in text
    assert f"step {share}/10" in text
    assert ("2:00 left" if share == 0 else "1:30 left") in text


def test_the_table_has_best_and_last_differences_and_verdicts(tmp_path: Path) -> None:
    out = io.StringIO()
    show_comparison(compare_runs(write_experiment(tmp_path)), Console(file=out, width=80, highlight=False))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("plain", "other", "baseline", "last 0.", "95%", "GiB"):
        assert word in text
