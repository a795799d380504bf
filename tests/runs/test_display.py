"""What a person sees: lines that fit, texts as they are, and a terminal in order."""

import io
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import leantune.runs.display
from leantune.runs.display import Display, summary
from leantune.system.formatting import countdown, duration, figure
from leantune.training.events import (
    Checkpoint,
    Evaluation,
    Event,
    FoldEnd,
    FoldStart,
    Note,
    Progress,
    RunEnd,
    TrainStep,
)

REGRESSION = {"mse": 0.25, "rmse": 0.5, "mae": 0.4, "r2": 0.6, "pearson": 0.8, "spearman": 0.7}
CLASSES = {"accuracy": 0.912, "f1_macro": 0.898, "log_loss": 0.234, "roc_auc": 0.976, "mcc": 0.8}

COSTS = {
    "tokens_per_second": 12345.6,
    "padding_fraction": 0.125,
    "model_flops_utilization": 0.35,
    "total_seconds": 725.0,
    "train_seconds": 605.0,
    "startup_seconds": 12.34,
    "evaluation_seconds": 65.0,
    "checkpoint_seconds": 0.5,
    "peak_process_bytes": 3 * 2**30,
    "peak_device_bytes": None,
    "matrix_rate": {"flops_per_second": 4.05e11, "measured_on": "bfloat16 2048 x 2048 x 2048"},
}


def step(number: int, fold: int = 0, **changes: Any) -> TrainStep:
    fields = {
        "epoch": 0.5,
        "loss": 0.3456,
        "learning_rate": 2e-5,
        "gradient_norm": 1.0,
        "skipped": False,
        "rows": 32,
        "tokens": 600,
        "computed_tokens": 640,
        "useful_flops": 1e9,
        "tokens_per_second": 12345.6,
        "memory": 3 * 2**30,
        "train_seconds": 2.0 * number,
    }
    return TrainStep(fold=fold, step=number, **(fields | changes))


def evaluation(
    number: int, metrics: dict[str, float | None], fold: int = 0, *, is_best: bool = True, metric: str = ""
) -> Evaluation:
    return Evaluation(
        fold=fold,
        step=number,
        epoch=1.0,
        metrics=metrics,
        metric=metric or ("rmse" if "rmse" in metrics else "log_loss"),
        is_best=is_best,
        predictions=np.zeros((1, 1)),
        rows=1,
        train_seconds=1.0,
        evaluation_seconds=1.0,
    )


def run_end(scores: dict[str, float | None], **changes: Any) -> RunEnd:
    return RunEnd(metrics={"overall": {"best": scores, "last": scores} | COSTS | changes, "folds": {}})


def one_run(scores: dict[str, float | None], folds: int = 1) -> list[Event]:
    events: list[Event] = [Progress(stage="tokenize", done=512, total=1000), Note(about="data", text="1,000 rows")]
    for fold in range(folds):
        events.append(FoldStart(fold=fold, training_rows=800, validation_rows=200, total_steps=50))
        for number in (1, 25, 50):
            events += [step(number, fold), evaluation(number, scores, fold, is_best=number > 1)]
        events.append(Checkpoint(fold=fold, step=50, path="model", checkpoint_seconds=0.1))
        events.append(FoldEnd(fold=fold, metrics={}))
    return [*events, run_end(scores)]


def shown(events: Iterable[Event], *, terminal: bool = False) -> str:
    file = io.StringIO()
    # legacy_windows and the environment may not have a say in what a test sees.
    console = Console(
        file=file, width=80, force_terminal=terminal, legacy_windows=False, color_system=None, _environ={}
    )
    with Display(console) as display:
        for event in events:
            display.show(event)
    return file.getvalue()


def lines(events: Iterable[Event]) -> list[str]:
    return [line.rstrip() for line in shown(events).splitlines()]


def without_control(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


class FakeTime:
    """Stands in for the module `time`."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    made = FakeTime()
    monkeypatch.setattr(leantune.runs.display, "time", made)
    return made


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leantune.runs.display, "SECONDS_BETWEEN_LINES", -1.0)


# Lines


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("scores", [REGRESSION, CLASSES])
def test_no_line_is_longer_than_80_columns(scores, terminal, every_step):
    text = without_control(shown(one_run(scores), terminal=terminal))
    assert max(map(cell_len, re.split(r"[\r\n]", text))) <= 80


def test_a_long_note_is_wrapped_beside_its_heading():
    found = lines([Note(about="tokens", text="word " * 15)])
    assert found == ["    tokens  " + " ".join(["word"] * 13), " " * 12 + "word word"]


def test_a_word_that_is_longer_than_a_line_is_folded_not_cut():
    found = lines([Note(about="data", text="x" * 100)])
    assert found == ["      data  " + "x" * 68, " " * 12 + "x" * 32]


def test_an_evaluation_of_a_regression_is_one_line_of_four_metrics():
    (line,) = lines([evaluation(120, REGRESSION)])
    assert line == "  step 120  rmse 0.500  mae 0.400  r2 0.600  pearson 0.800  best"


def test_an_evaluation_of_classes_is_one_line_of_four_metrics():
    (line,) = lines([evaluation(12345, CLASSES)])
    assert line == "step 12345  accuracy 0.912  f1_macro 0.898  log_loss 0.234  roc_auc 0.976  best"


def test_an_unusual_metric_that_chooses_the_best_evaluation_leads_its_line():
    (line,) = lines([evaluation(12345, CLASSES, metric="mcc")])
    assert line == "step 12345  mcc 0.800  accuracy 0.912  f1_macro 0.898  log_loss 0.234  best"


def test_only_an_evaluation_that_is_best_so_far_says_so():
    (line,) = lines([evaluation(120, REGRESSION, is_best=False)])
    assert line.endswith("pearson 0.800")


def test_an_evaluation_leaves_out_what_is_undefined():
    (line,) = lines([evaluation(120, REGRESSION | {"r2": None, "pearson": None})])
    assert line == "  step 120  rmse 0.500  mae 0.400  best"


def test_an_evaluation_without_any_metric_is_a_line_all_the_same():
    (line,) = lines([evaluation(120, dict.fromkeys(CLASSES), is_best=False)])
    assert line == "  step 120"


def test_a_step_is_one_line_with_the_latest_score_and_the_time_left(every_step):
    start = FoldStart(fold=0, training_rows=800, validation_rows=200, total_steps=150)
    *_, before, _, after = lines([start, step(49), evaluation(50, CLASSES), step(50)])
    assert before == "    49/150  loss 0.346  12,346 tok/s  3.0 GiB  3:22 left"
    assert after == "    50/150  loss 0.346  accuracy 0.912  12,346 tok/s  3.0 GiB  3:20 left"


def test_a_step_of_a_long_run_on_a_large_machine_still_fits_in_one_line(every_step):
    start = FoldStart(fold=0, training_rows=800, validation_rows=200, total_steps=54321)
    big = step(12345, loss=1.2345, tokens_per_second=999_999.0, memory=79 * 2**30, train_seconds=99_999.0)
    *_, line = lines([start, evaluation(1, CLASSES), big])
    assert line == "12345/54321  loss 1.234  accuracy 0.912  999,999 tok/s  79.0 GiB  94:27:01 left"
    assert len(line) <= 80


def test_a_heading_that_is_wider_than_its_column_stays_in_one_line(every_step):
    start = FoldStart(fold=0, training_rows=800, validation_rows=200, total_steps=234567)
    *_, line = lines([start, step(123456, train_seconds=123456.0)])
    assert line == "123456/234567  loss 0.346  12,346 tok/s  3.0 GiB  30:51:51 left"


def test_a_skipped_step_says_so_instead_of_a_loss(every_step):
    assert "skipped  12,346 tok/s" in lines([step(1, loss=None, skipped=True, gradient_norm=None)])[-1]


def test_the_score_of_one_fold_is_not_shown_in_the_next(every_step):
    starts = [FoldStart(fold=fold, training_rows=8, validation_rows=2, total_steps=5) for fold in (0, 1)]
    found = lines([starts[0], evaluation(5, REGRESSION), starts[1], step(1, fold=1)])
    assert "rmse" not in found[-1]


def test_a_fold_begins_with_its_sizes():
    (line,) = lines([FoldStart(fold=3, training_rows=1600, validation_rows=400, total_steps=150)])
    assert line == "    fold 3  1,600 rows train, 400 validate, 150 optimizer steps"


def test_lines_of_steps_are_ten_seconds_apart_where_there_is_no_terminal(fake):
    file = io.StringIO()
    start = FoldStart(fold=0, training_rows=800, validation_rows=200, total_steps=1000)
    with Display(Console(file=file, width=80, force_terminal=False)) as display:
        display.show(start)
        for number in range(1, 101):
            fake.now += 1
            display.show(step(number))
    steps = re.findall(r"(\d+)/1000", file.getvalue())
    assert [int(number) for number in steps] == [11, 22, 33, 44, 55, 66, 77, 88, 99]


def test_what_a_person_need_not_see_is_not_shown():
    assert shown([Progress(stage="tokenize", done=1, total=2), FoldEnd(fold=0, metrics={})]) == ""
    assert shown([Checkpoint(fold=0, step=5, path="model", checkpoint_seconds=0.1)]) == ""


# Texts of the user

MARKUP = "[red]x[/red] [/] [link=x]y[/link] :smile: [bold"


def test_markup_in_a_text_is_shown_as_it_is():
    assert lines([Note(about="[b]", text=MARKUP)]) == [f"       [b]  {MARKUP}"]


def test_markup_in_a_text_is_shown_as_it_is_in_a_terminal():
    assert f"       [b]  {MARKUP}" in shown([Note(about="[b]", text=MARKUP)], terminal=True)
    assert "[red]" in shown([Progress(stage="[red]", done=1, total=2)], terminal=True)


# A terminal

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def what_remains(text: str) -> str:
    """Return what was written after the last line was erased."""
    return without_control(text.rsplit("\x1b[2K", maxsplit=1)[-1]).strip()


def cursor_is_shown(text: str) -> bool:
    return text.rfind(SHOW) > text.rfind(HIDE) >= 0


def test_a_terminal_is_left_with_its_cursor():
    assert cursor_is_shown(shown(one_run(REGRESSION), terminal=True))


def test_a_terminal_is_left_with_its_cursor_and_without_a_bar_after_an_error_too():
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, _environ={})

    def run() -> None:
        with Display(console) as display:
            display.show(step(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert cursor_is_shown(file.getvalue())
    assert what_remains(file.getvalue()) == ""


def test_the_bar_of_each_fold_is_drawn_and_nothing_of_it_remains():
    text = shown(one_run(REGRESSION, folds=2), terminal=True)
    first, second = (re.search(rf"fold {fold} .*\d+/50", without_control(text)) for fold in (0, 1))
    assert first is not None
    assert second is not None
    assert not re.search(r"fold 0 .*\d+/50", without_control(text)[second.end() :])
    assert what_remains(text) == ""


def test_a_terminal_shows_the_same_lines_but_for_the_steps():
    without_bars = [line for line in lines(one_run(CLASSES, folds=2)) if "/50" not in line]
    text = shown(one_run(CLASSES, folds=2), terminal=True)
    assert all(line in text for line in without_bars)


def test_a_pipe_gets_no_control_characters():
    assert "\x1b" not in shown(one_run(REGRESSION, folds=2))


def test_over_hands_every_event_on(capsys):
    events = one_run(REGRESSION)
    assert list(Display.over(events)) == events
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "optimizer steps" in captured.err


# The summary


def test_the_summary_puts_best_beside_last():
    last = REGRESSION | {"rmse": 0.51234567, "r2": -0.01234, "spearman": None}
    metrics = {"overall": {"best": REGRESSION, "last": last} | COSTS}
    assert summary(metrics)[:7] == [
        ("", "      best        last"),
        ("mse", "    0.2500      0.2500"),
        ("rmse", "    0.5000      0.5123"),
        ("mae", "    0.4000      0.4000"),
        ("r2", "    0.6000    -0.01234"),
        ("pearson", "    0.8000      0.8000"),
        ("spearman", "    0.7000   undefined"),
    ]


@pytest.mark.parametrize(("chosen", "shown_too"), [("log_loss", []), ("f1_weighted", ["f1_weighted"])])
def test_the_summary_shows_the_usual_metrics_and_the_one_that_chose_the_best_evaluation(chosen, shown_too):
    scores = CLASSES | {"f1_micro": 0.5, "f1_weighted": 0.5, "average_precision": 0.5}
    metrics = {"metric": chosen, "overall": {"best": scores, "last": scores} | COSTS}
    assert [head for head, _ in summary(metrics)] == ["", *CLASSES, *shown_too, "time", "speed", "memory"]


def test_the_summary_puts_the_linear_model_and_the_constant_beside_them():
    constant = dict.fromkeys(REGRESSION, 1.25) | {"pearson": None}
    yardsticks = {"constant": constant, "linear": dict.fromkeys(REGRESSION, 0.75), "reason": "", "seconds": 1.0}
    metrics = {"overall": {"best": REGRESSION, "last": REGRESSION, "yardsticks": yardsticks} | COSTS}
    assert summary(metrics)[0] == ("", "      best        last      linear    constant")
    assert summary(metrics)[2] == ("rmse", "    0.5000      0.5000      0.7500      1.2500")
    assert summary(metrics)[5] == ("pearson", "    0.8000      0.8000      0.7500   undefined")
    assert summary(metrics)[7][0] == "time"


def test_the_summary_says_why_there_is_no_linear_model():
    yardsticks = {"constant": REGRESSION, "linear": None, "reason": "no two texts are alike"}
    metrics = {"overall": {"best": REGRESSION, "last": REGRESSION, "yardsticks": yardsticks} | COSTS}
    assert summary(metrics)[0] == ("", "      best        last    constant")
    assert summary(metrics)[7] == ("linear", "no linear model for comparison: no two texts are alike")
    metrics["overall"]["yardsticks"] = None  # it failed, and a warning says so
    assert summary(metrics)[0] == ("", "      best        last")


def test_the_summary_tells_what_the_run_cost():
    assert summary({"overall": {"best": {}, "last": {}} | COSTS})[1:] == [
        ("time", "12 min 05 s: training 10 min 05 s, start-up 12.3 s, evaluation 1 min 05 s, saving 0.5 s"),
        (
            "speed",
            "12,346 tokens/s, 12.5% padding, 35% of the rate of matrix products here (405 GFLOP/s, bfloat16 2048 x "
            "2048 x 2048)",
        ),
        ("memory", "3.0 GiB process"),
    ]


def test_the_summary_tells_the_memory_of_a_device():
    metrics = {"overall": {"best": {}, "last": {}} | COSTS | {"peak_device_bytes": 5 * 2**29}}
    assert summary(metrics)[-1] == ("memory", "2.5 GiB on the device, 3.0 GiB process")


def test_the_end_of_a_run_shows_the_summary_in_columns():
    found = lines([run_end(CLASSES)])
    assert found[:3] == [
        "                  best        last",
        "  accuracy      0.9120      0.9120",
        "  f1_macro      0.8980      0.8980",
    ]
    assert "    memory  3.0 GiB process" in found


# Numbers


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0, 3, "0.000"),
        (0.51234, 3, "0.512"),
        (0.51234, 4, "0.5123"),
        (-0.51234, 4, "-0.5123"),
        (0.99996, 4, "1.0000"),
        (9.99996, 4, "10.000"),
        (12.3456, 3, "12.35"),
        (1234.56, 3, "1,235"),
        (123456.7, 3, "123,457"),
        (1.234e12, 3, "1.23e+12"),
        (0.012345, 3, "0.0123"),
        (-0.00001234, 3, "-1.23e-05"),
    ],
)
def test_a_figure_has_as_many_digits_as_it_needs(value, digits, expected):
    assert figure(value, digits) == expected


@given(st.floats(-1e300, 1e300), st.integers(3, 5))
def test_a_figure_is_the_number_rounded(value, digits):
    text = figure(value, digits).replace(",", "")
    assert len(text) <= digits + 8
    assert float(text) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits), abs=0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0 s"),
        (8.14, "8.1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (60, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3840, "1 h 04 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds, expected):
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (200, "3:20"), (3599.6, "1:00:00"), (3800, "1:03:20")],
)
def test_a_countdown_is_short(seconds, expected):
    assert countdown(seconds) == expected
