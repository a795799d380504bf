"""What a person sees while a run goes: a live line in a terminal, plain lines in a file or a notebook."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from leantune.system.console import Terminal
from leantune.system.formatting import countdown, duration, figure
from leantune.system.terminal import printable
from leantune.training.events import Evaluation, Event, FoldStart, Note, Resume, RunEnd, TrainStep, heard
from leantune.training.events import Progress as StageProgress

SECONDS_BETWEEN_LINES = 10.0
HEAD_WIDTH = 10
SCORES = ("rmse", "mae", "r2", "pearson", "accuracy", "f1_macro", "log_loss", "roc_auc")
"""Metrics that are shown at an evaluation; the first defined one leads, or one that chooses the best and is not here.
"""
MOST_SCORES = 4
"""At an evaluation: as many as one line of 80 columns holds."""
SUMMARY = frozenset({*SCORES, "mse", "spearman", "mcc"})
"""Metrics that are shown at the end, beside the one that chose the best evaluation; `metrics.json` has them all."""


class Display:
    """Shows events on a console, standard error by default; a context manager that leaves the terminal in order.

    Where that is no terminal, steps are lines, at most one in ten seconds. Names and texts of the user are shown as
    they are, never read as rich's markup.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Terminal()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            expand=True,
        )
        self._bar: TaskID | None = None
        self._stage = ""
        self._total_steps = 0
        self._score = ""
        self._line_at = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # a terminal that has gone away needs no order
            self._progress.stop()

    @classmethod
    def over(cls, events: Iterable[Event]) -> Iterator[Event]:
        """Show events while handing them on, as long as the terminal lasts (see `heard`)."""
        with cls() as display:
            yield from heard(events, display.show, "the display")

    def show(self, event: Event) -> None:
        """Show one event; events that a person need not see are dropped."""
        self._progress.start()  # once
        match event:
            case StageProgress():
                self._show_progress(event)
            case Note():
                self._line(event.about, event.text, "yellow" if event.event == "warning" else "cyan")
            case FoldStart():
                self._total_steps, self._score = event.total_steps, ""
                self._line(
                    f"fold {event.fold}",
                    f"{event.training_rows:,} rows train, {event.validation_rows:,} validate, "
                    f"{event.total_steps:,} optimizer steps",
                )
            case Resume():
                self._total_steps = event.total_steps
                done = f"{event.step:,} of {event.total_steps:,} optimizer steps are done"
                self._line("resume", f"fold {event.fold}: {done} ({event.path})")
            case TrainStep():
                self._show_step(event)
            case Evaluation():
                self._show_evaluation(event)
            case RunEnd():
                self._end_stage()
                for line in summary(event.metrics):
                    self._line(*line)

    def _show_progress(self, event: StageProgress) -> None:
        rate = event.rows_per_second
        figures = "" if rate is None else f"{rate:,.0f} rows/s"
        self._advance(event.stage, event.done, event.total, figures)
        if rate and self._is_line_due():
            left = countdown((event.total - event.done) / rate)
            self._line(event.stage, f"{event.done:,} of {event.total:,} rows  {figures}  {left} left")

    def _is_line_due(self) -> bool:
        """Tell whether to write a line of progress where no live line can be shown, and begin to wait for the next."""
        now = time.perf_counter()
        if self._console.is_terminal or now - self._line_at <= SECONDS_BETWEEN_LINES:
            return False
        self._line_at = now
        return True

    def _show_step(self, event: TrainStep) -> None:
        loss = "skipped" if event.loss is None else f"loss {figure(event.loss, 3)}"
        memory = f"{event.memory / 2**30:.1f} GiB"
        figures = "  ".join(filter(None, (loss, self._score, f"{event.tokens_per_second:,.0f} tok/s", memory)))
        self._advance(f"fold {event.fold}", event.step, self._total_steps, figures)
        if self._is_line_due():
            left = event.train_seconds / event.step * (self._total_steps - event.step)
            self._line(f"{event.step}/{self._total_steps}", f"{figures}  {countdown(left)} left")

    def _show_evaluation(self, event: Evaluation) -> None:
        names = SCORES if event.metric in SCORES else (event.metric, *SCORES)
        values = ((name, event.metrics.get(name)) for name in names)
        scores = [f"{name} {figure(value, 3)}" for name, value in values if value is not None][:MOST_SCORES]
        self._line(f"step {event.step}", "  ".join([*scores, "best"] if event.is_best else scores))
        self._score = scores[0] if scores else ""

    def _advance(self, stage: str, done: int, total: int, figures: str) -> None:
        if stage != self._stage:
            self._end_stage()
            self._stage = stage
            self._bar = self._progress.add_task(stage, total=total, figures=figures)
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total, figures=figures)

    def _end_stage(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar, self._stage = None, ""

    def _line(self, head: str, text: str, style: str = "bold") -> None:
        self._console.print(layout([(head, text)], style))


def layout(rows: Iterable[tuple[str, str]], style: str = "bold") -> Table:
    """Return texts, each beside its heading, as a console prints them: long ones are wrapped, none is cut."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=HEAD_WIDTH, justify="right")
    grid.add_column(overflow="fold")
    for head, text in rows:
        grid.add_row(Text(printable(head), style=style), Text(printable(text)))
    return grid


def summary(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a finished run's result as lines for a person, each with its heading; `metrics` as in `metrics.json`."""
    overall = metrics["overall"]
    yardsticks = overall.get("yardsticks") or {}  # none in a run of an older version
    columns = {"best": overall["best"], "last": overall["last"]}
    columns |= {name: yardsticks[name] for name in ("linear", "constant") if yardsticks.get(name) is not None}
    if overall["best"] is None:
        lines = [("trained", f"on all {sum(fold['training_rows'] for fold in metrics['folds'].values()):,} rows")]
    else:
        lines = [("", "  ".join(f"{name:>10}" for name in columns))]
        lines += [
            (name, "  ".join(f"{_score(scores.get(name)):>10}" for scores in columns.values()))
            for name in overall["best"]
            if name in SUMMARY or name == metrics.get("metric")
        ]
    if yardsticks and yardsticks.get("linear") is None:
        lines.append(("linear", f"no linear model for comparison: {yardsticks.get('reason')}"))
    phases = (("training", "train"), ("start-up", "startup"), ("evaluation", "evaluation"), ("saving", "checkpoint"))
    parts = ", ".join(f"{word} {duration(overall[f'{phase}_seconds'])}" for word, phase in phases)
    lines.append(("time", f"{duration(overall['total_seconds'])}: {parts}"))
    rate = overall["matrix_rate"]
    lines.append(
        (
            "speed",
            f"{overall['tokens_per_second']:,.0f} tokens/s, {overall['padding_fraction']:.1%} padding, "
            + (
                "operations not counted"
                if overall["model_flops_utilization"] is None
                else f"{overall['model_flops_utilization']:.0%} of the rate of matrix products here "
                f"({rate['flops_per_second'] / 1e9:,.0f} GFLOP/s, {rate['measured_on']})"
            ),
        )
    )
    memory = f"{overall['peak_process_bytes'] / 2**30:.1f} GiB process"
    if overall["peak_device_bytes"] is not None:
        memory = f"{overall['peak_device_bytes'] / 2**30:.1f} GiB on the device, {memory}"
    lines.append(("memory", memory))
    return lines


def _score(value: float | None) -> str:
    return "undefined" if value is None else figure(value, 4)
