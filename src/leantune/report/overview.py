"""What a person sees of a comparison in the terminal: the plan, one progress display, and the table in the end."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from leantune.comparison.comparing import Comparison, RecipeResult
from leantune.comparison.words import effect_text, value_text, verdict_text
from leantune.report.wording import answer, setting_text, settling
from leantune.system.console import Terminal
from leantune.system.formatting import countdown, duration, figure
from leantune.system.terminal import printable
from leantune.training.events import ComparisonEvent, Plan, RunDone, RunProgress, RunStart, Trial, Waiting, heard

SHOWN = ("quality_best", "train_seconds", "peak_bytes")
"""Measures that have a column in the terminal: as many as 80 columns hold."""
STYLES = {"better": "green", "worse": "red", "as good": "cyan", "inconclusive": "dim"}


class Overview:
    """Shows a comparison's events on a console, standard error by default; a context manager.

    Where that is no terminal, each run is a line when it ends. Names of the user are never read as rich's markup.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Terminal()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            expand=True,
        )
        self._bar = self._progress.add_task("", total=None, figures="", visible=False)
        self._estimates: dict[str, float] = {}
        """Recipe -> seconds of a run, as the plan has it; 0 where its trial failed."""
        self._seconds: dict[str, list[float]] = {}
        """Recipe -> what its runs took."""
        self._left: dict[str, int] = {}
        self._total = self._done = 0
        self._counts: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        """Seeds and folds of the plan that was shown."""
        self._run_started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # a terminal that has gone away needs no order
            self._progress.stop()

    @classmethod
    def over(cls, events: Iterable[ComparisonEvent]) -> Iterator[ComparisonEvent]:
        """Show events while handing them on, as long as the terminal lasts (see `heard`)."""
        with cls() as overview:
            yield from heard(events, overview.show, "the display")

    def show(self, event: ComparisonEvent) -> None:
        """Show one event."""
        self._progress.start()  # once
        match event:
            case Trial():
                self._advance(f"timing a few steps of {event.recipe}", event.number - 1, event.total, "")
                if not self._console.is_terminal:
                    self._line("trial", f"a few steps of {event.recipe} ({event.number} of {event.total})")
            case Plan():
                self._show_plan(event)
            case Waiting():
                whose = f" for {event.holder}" if event.holder else ""
                self._line(
                    "waiting", f"another comparison is using {event.device}{whose}; this one waits for it to end"
                )
            case RunStart():
                self._run_started = time.monotonic()
                self._show_run(event.recipe, 0.0, f"fold {event.fold} seed {event.seed}")
            case RunProgress():
                share = event.step / event.total_steps if event.total_steps else 0.0
                steps = f"step {event.step}/{event.total_steps}" if event.total_steps else "starting"
                self._show_run(event.recipe, share, steps)
            case RunDone():
                self._show_done(event)

    def _show_plan(self, plan: Plan) -> None:
        for recipe in plan.recipes:
            self._left[recipe.name] = recipe.runs - recipe.finished
            self._seconds[recipe.name] = []
            if recipe.seconds is not None or recipe.error:
                self._estimates[recipe.name] = recipe.seconds or 0.0
        self._total = sum(recipe.runs for recipe in plan.recipes)
        self._done = sum(recipe.finished for recipe in plan.recipes)
        is_known, self._counts = self._counts == (plan.seeds, plan.folds), (plan.seeds, plan.folds)
        if plan.note:
            self._line("plan", plan.note, "cyan")
        if is_known:  # the estimates have come since
            self._show_times(plan)
            return
        counts = f"{len(plan.recipes)} recipes x {_counted(plan.folds, 'fold')} x {_counted(plan.seeds, 'seed')}"
        self._line(plan.title, f"{counts} = {self._total} runs on {plan.rows:,} rows", "cyan")
        self._show_times(plan, with_settings=True)

    def _show_times(self, plan: Plan, *, with_settings: bool = False) -> None:
        """Show a line a recipe: what differs, what failed, and how long it takes as far as that is known."""
        lines = Table.grid(padding=(0, 0, 0, 2), expand=True)
        lines.add_column(max_width=24, overflow="fold")
        lines.add_column(overflow="fold", ratio=1)
        lines.add_column(justify="right")
        for recipe in plan.recipes:
            differs = [f"{name}: {setting_text(value)}" for name, value in recipe.differs.items() if value is not None]
            said = "baseline" if recipe.name == plan.baseline else ", ".join(differs) or "the same"
            what = Text(printable(said) if with_settings else "")
            if recipe.error:
                what.append(printable(f"\nits trial failed: {recipe.error}"), style="red")
            times = []
            if recipe.finished:
                times.append(f"{recipe.finished} of {recipe.runs} done")
            if recipe.seconds is not None and recipe.finished < recipe.runs:
                times.append(f"{recipe.runs - recipe.finished} x about {duration(recipe.seconds)}")
            if recipe.step_seconds is not None:
                times.append(f"{figure(recipe.step_seconds, 2)} s a step")
            lines.add_row(Text(recipe.name, style="bold"), what, Text("\n".join(times), style="dim"))
        self._console.print(lines)
        left = self._seconds_left()
        if self._done < self._total and left is not None:
            self._line("in all", f"about {duration(left)}", "cyan")

    def _show_run(self, recipe: str, share: float, figures: str) -> None:
        left = self._seconds_left(recipe, share)
        figures += "" if left is None else f"  {countdown(left)} left"
        self._advance(f"run {self._done + 1}/{self._total} {recipe}", self._done + share, self._total, figures)

    def _show_done(self, event: RunDone) -> None:
        self._done += 1
        self._left[event.recipe] -= 1
        name = f"{event.recipe}, fold {event.fold}, seed {event.seed}"
        if event.metrics is None:
            self._line(f"{self._done}/{self._total}", f"{name}: failed: {event.error}", "red")
            return
        self._seconds[event.recipe].append(event.seconds)
        best, last = (event.metrics[which][event.metric] for which in ("best", "last"))
        scores = " ".join("undefined" if value is None else figure(value, 4) for value in (best, last))
        memory = event.metrics["peak_device_bytes"] or event.metrics["peak_process_bytes"]
        self._line(
            f"{self._done}/{self._total}",
            f"{name}: {event.metric} {scores} (best, last), "
            f"training {duration(event.metrics['train_seconds'])}, {memory / 2**30:.1f} GiB",
        )

    def _seconds_left(self, running: str = "", share: float = 0.0) -> float | None:
        """Estimate what is left; what finished runs took counts more than the trial."""
        total = 0.0
        for name, runs in self._left.items():
            known = self._seconds[name]
            if not runs:
                continue
            if not known and name not in self._estimates:
                return None
            each = sum(known) / len(known) if known else self._estimates[name]
            total += (runs - (share if name == running else 0.0)) * each
        return total

    def _advance(self, description: str, done: float, total: int, figures: str) -> None:
        self._progress.update(
            self._bar, description=description, completed=done, total=total, figures=figures, visible=True
        )

    def _line(self, head: str, text: str, style: str = "bold") -> None:
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(min_width=7)
        line.add_column(overflow="fold")
        line.add_row(Text(printable(head), style=style), Text(printable(text)))
        self._console.print(line)


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the table of a comparison, in 80 columns, on standard error by default."""
    console = console or Terminal()
    measures = [measure for measure in comparison.measures if measure.name in SHOWN]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("", overflow="fold", max_width=18)
    for measure in measures:
        table.add_column(Text(printable(measure.label)))
    for recipe in comparison.recipes:
        table.add_row(
            Text(printable(recipe.name), style="bold"),
            *(_cell(recipe, measure.name, measure.unit, recipe.name == comparison.baseline) for measure in measures),
        )
    console.print()
    for told in comparison.recipes[1:]:
        line = Text(printable(f"{told.name}: "), style="bold")
        console.print(line.append(printable(answer(told)), style="not bold"))
    console.print()
    console.print(table)
    console.print(
        Text(
            f"Against {printable(comparison.baseline)}; the 95% intervals of a column hold for all recipes together; "
            f"{_counted(comparison.folds, 'fold')}, {_counted(comparison.seeds, 'seed')}, "
            f"{comparison.rows['training']:,} rows train and {comparison.rows['validation']:,} validate.",
            style="dim",
        )
    )
    console.print(Text(printable(comparison.tolerance.said), style="dim"))
    text, command = settling(comparison)
    if text:
        console.print(Text(printable(text)))
        console.print(Text(printable(command), style="bold"), soft_wrap=True)
    for note in comparison.notes:
        console.print(Text(printable(note), style="yellow"))


def _cell(recipe: RecipeResult, measure: str, unit: str, is_baseline: bool) -> Text:
    mean = recipe.means.get(measure)
    if mean is None:
        failed = any(cell.state == "failed" for cell in recipe.cells)
        return Text("failed" if failed else "no run", style="red")
    text = Text(value_text(mean, unit))
    if measure == "quality_best":  # the best of many evaluations flatters: never without the last (law 6)
        text.append(f"\nlast {value_text(recipe.means['quality_last'], unit)}")
    if is_baseline:
        return text.append("\nbaseline", style="dim")
    effect = recipe.effects[measure]
    text.append(f"\n{effect_text(effect)}")
    return text.append(f"\n{verdict_text(effect)}", style=STYLES[effect.verdict])


def _counted(numbers: tuple[int, ...], word: str) -> str:
    return f"{len(numbers)} {word}{'' if len(numbers) == 1 else 's'}"
