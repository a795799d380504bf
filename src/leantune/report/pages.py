"""The report of a comparison: one self-contained page, the same as Markdown, and everything in it as JSON.

    comparison  ->  report.html, report.md, report.json

The page has no script and loads nothing: it opens from a disk, in a mail or behind a firewall as it does here.
"""

import functools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from leantune.comparison.comparing import Comparison, RecipeResult, compare_runs
from leantune.comparison.effects import Effect, Measure
from leantune.comparison.folder import Cell
from leantune.comparison.words import effect_text, spread_text, value_text, verdict_text
from leantune.report import drawing, figures
from leantune.report.mistake_section import draw_mistakes, record_mistakes, tell_mistakes
from leantune.report.take_away import FOLDER, figure_files, table_files
from leantune.report.wording import (
    YARDSTICKS,
    answer,
    answer_lead,
    escape_markdown,
    numbers,
    pairs_note,
    published,
    ruled_out,
    same_again,
    scatter_text,
    setting_text,
    settling,
)
from leantune.system.errors import RunFolderError
from leantune.system.files import replacing, write_text

MAIN = ("quality_best", "quality_last", "train_seconds", "peak_bytes")
"""Measures of the first table; all others stand in the second."""
HASH_DIGITS = 12
"""Of a SHA-256, as many as tell two files apart at a glance."""


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write report.html, report.md and report.json into `folder`: each at once, and none if one of them fails.

    No absolute path stands in them (see `published`).
    Raises `RunFolderError` where the folder cannot be written.
    """
    comparison = published(comparison)
    drawn = _draw(comparison)
    record = report_json(comparison)
    texts = {
        "report.html": _page(comparison, drawn),
        "report.md": report_md(comparison),
        "report.json": json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    files = figure_files(drawn.all(), comparison)
    files |= table_files(comparison, record)
    try:
        for name, text in texts.items():
            write_text(folder / name, text)
        (folder / FOLDER).mkdir(exist_ok=True)
        for name, content in files.items():
            with replacing(folder / FOLDER / name) as path:
                path.write_bytes(content)
    except OSError as error:
        raise RunFolderError(f"{folder}: the report cannot be written: {error.strerror}") from None


def rebuild_report(folder: Path) -> Comparison:
    """Compare the runs that a folder has, and write its report anew; the same as `leantune report`.

    Raises `RunFolderError` as `compare_runs` and `write_report` do.
    """
    comparison = compare_runs(folder)
    write_report(comparison, folder.expanduser())
    return comparison


def report_html(comparison: Comparison) -> str:
    """Return the page; every name and text in it is escaped."""
    return _page(comparison, _draw(comparison))


class Figures(NamedTuple):
    """Every figure of a report."""

    named: dict[str, str]
    """By what the page calls it; "" where there is nothing to draw."""
    effects: list[str]
    mistakes: list[tuple[str, str]]
    """SVG and caption."""

    def all(self) -> list[str]:
        """Return them in the page's order."""
        return [*self.named.values(), *self.effects, *(svg for svg, _ in self.mistakes)]


def _draw(comparison: Comparison) -> Figures:
    return Figures(
        named={
            "training_times": figures.training_times(comparison),
            "qualities": figures.qualities(comparison),
            "step_curve": figures.learning_curve(comparison, "step"),
            "time_curve": figures.learning_curve(comparison, "train_seconds"),
            "loss": figures.training_loss(comparison),
            "memory": figures.memory_over_time(comparison),
            "time_parts": figures.time_parts(comparison),
            "padding": figures.padding(comparison),
            "quality_and_time": figures.quality_and_time(comparison),
        },
        effects=[svg for name in _main_names(comparison) if (svg := figures.effects(comparison, name))],
        mistakes=draw_mistakes(comparison),
    )


def _page(comparison: Comparison, drawn: Figures) -> str:
    return _template("html").render(
        _view(comparison),
        effects=list(map(Markup, drawn.effects)),
        mistake_figures=[(Markup(svg), caption) for svg, caption in drawn.mistakes],
        figures={name: Markup(svg) for name, svg in drawn.named.items()},
        front=figures.pareto_front(comparison),
        parts=list(figures.PARTS.values()),
        smoothing=figures.SMOOTHING,
        swatches=[Markup(drawing.swatch(index)) for index in range(len(comparison.recipes))],
        light=drawing.LIGHT,
        dark=drawing.DARK,
        files=FOLDER,
        figure_names=[svg.name for svg in drawn.all() if isinstance(svg, drawing.Drawn)],
    )


def report_md(comparison: Comparison) -> str:
    """Return the tables and sentences as GitHub's Markdown; every name and text in it is escaped."""
    return _template("md").render(_view(comparison))


def report_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything that the report says as plain values, as strict JSON has them: None for what is no number."""
    recipes = {
        recipe.name: {
            "differs": {name: {"baseline": a, "recipe": b} for name, (a, b) in recipe.differs.items()},
            "runs": [_run_record(comparison, cell) for cell in recipe.cells],
            "means": recipe.means,
            "metrics": recipe.metrics,
            "spreads": recipe.spreads,
            "effects": {name: _effect_record(effect) for name, effect in recipe.effects.items()},
            "reached": {"pairs": recipe.reached[0], "of": recipe.reached[1]},
        }
        for recipe in comparison.recipes
    }
    same = (
        "metric",
        "lower_is_better",
        "yardsticks",
        "baseline",
        "task",
        "method",
        "notes",
        "folds",
        "seeds",
        "rows",
        "data",
    )
    record = {"experiment": comparison.title} | {name: getattr(comparison, name) for name in same}
    record["tolerance"] = comparison.tolerance.value
    record["measures"] = {
        m.name: {"label": m.label, "unit": m.unit, "kind": m.kind, "lower_is_better": m.lower_is_better}
        for m in comparison.measures
    }
    record["recipes"] = recipes
    record["mistakes"] = record_mistakes(comparison)
    for name in ("model", "memory_of", "environment", "started", "command"):
        record[name] = getattr(comparison, name)
    plain: dict[str, Any] = _plain(record)
    return plain


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case bool() | int() | str() | None:
            return value
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) else str(value)


def _run_record(comparison: Comparison, cell: Cell) -> dict[str, Any]:
    """Return one run: which it is, how it ended, and what was measured; None for what was not."""
    scores = cell.result.scores if cell.result else {}
    overall = cell.result.overall if cell.result else {}
    names = ("startup_seconds", "evaluation_seconds", "checkpoint_seconds", "total_seconds")
    return {
        "fold": cell.fold,
        "seed": cell.seed,
        "state": cell.state,
        "folder": cell.folder,
        "error": cell.error,
        "best": scores.get("best", {}).get(comparison.metric),
        "last": scores.get("last", {}).get(comparison.metric),
        "train_seconds": scores.get("train_seconds"),
        **{name: overall.get(name) for name in names},
        "peak_bytes": overall.get(f"peak_{comparison.memory_of}_bytes"),
        "tokens_per_second": scores.get("tokens_per_second"),
        "padding_fraction": scores.get("padding_fraction"),
    }


def _effect_record(effect: Effect) -> dict[str, Any]:
    estimate = effect.estimate
    return {
        "estimate": estimate and estimate.value,
        "low": estimate and estimate.low,
        "high": estimate and estimate.high,
        "adjusted_p": estimate and estimate.p_value,
        "pairs": estimate.pairs if estimate else 0,
        "verdict": effect.verdict,
        "reason": effect.reason,
        "seed_error": effect.seed_error,
        "row_error": effect.row_error,
        "more_seeds": effect.more_seeds,
        "each": effect.each,
    }


def _view(comparison: Comparison) -> dict[str, Any]:
    """Return what both templates show, as texts."""
    main = [measure for measure in comparison.measures if measure.name in _main_names(comparison)]
    if "quality_last" not in _main_names(comparison):
        main = [
            replace(measure, label=f"best and last {comparison.metric}") if measure.name == "quality_best" else measure
            for measure in main
        ]
    more = [measure for measure in comparison.measures if measure.name not in MAIN]
    return {
        "comparison": comparison,
        "lead": answer_lead(comparison),
        "settling": settling(comparison),
        "answers": [
            (i, r.name, pairs_note(comparison, r), answer(r)) for i, r in enumerate(comparison.recipes) if r.effects
        ],
        "main": main,
        "more": more,
        "rows": [
            _row(index, recipe, main, more, len(comparison.folds)) for index, recipe in enumerate(comparison.recipes)
        ],
        "yardsticks": [_yardstick_row(name, value, main) for name, value in comparison.yardsticks.items()],
        "mistakes": tell_mistakes(comparison),
        "metrics": [
            (name, [value_text(recipe.metrics.get(name), "") for recipe in comparison.recipes])
            for name in dict.fromkeys(name for recipe in comparison.recipes for name in recipe.metrics)
        ],
        "again": same_again(comparison),
        "runs": list(_runs(comparison)),
        "facts": list(_facts(comparison)),
    }


def _main_names(comparison: Comparison) -> list[str]:
    """Return the measures of the first table. Where every run was best at its last evaluation, best says both."""
    last_is_best = _last_is_best(comparison)
    return [name for name in MAIN if name != "quality_last" or not last_is_best]


def _last_is_best(comparison: Comparison) -> bool:
    scores = [cell.result.scores for recipe in comparison.recipes for cell in recipe.cells if cell.result is not None]
    return bool(scores) and all(s["best"].get(comparison.metric) == s["last"].get(comparison.metric) for s in scores)


def _row(index: int, recipe: RecipeResult, main: list[Measure], more: list[Measure], folds: int) -> dict[str, Any]:
    states = [cell.state for cell in recipe.cells]
    missing = [f"{states.count(state)} {state}" for state in ("failed", "unfinished") if state in states]
    done = f"{states.count('done')} of {len(states)} runs" if missing else f"{len(states)} runs"
    return {
        "index": index,
        "name": recipe.name,
        "runs": done if len(states) != 1 or missing else "1 run",
        "missing": ", ".join(missing),
        "means": figures.mean_texts(recipe),
        "differs": [(name, setting_text(a), setting_text(b)) for name, (a, b) in recipe.differs.items()],
        "main": [_measured(recipe, measure, folds) for measure in main],
        "more": [_measured(recipe, measure, folds) for measure in more],
    }


def _yardstick_row(name: str, value: float, measures: list[Measure]) -> dict[str, Any]:
    """Return a line of the first table, which has nothing but the metric."""
    cells = [value_text(value, "") if measure.name.startswith("quality_") else "–" for measure in measures]
    return {"name": YARDSTICKS[name], "cells": [(m.label, cell) for m, cell in zip(measures, cells, strict=True)]}


def _measured(recipe: RecipeResult, measure: Measure, folds: int) -> dict[str, str]:
    """Return one cell of a table: the mean and its spread, what changed, and the verdict."""
    mean, effect = recipe.means.get(measure.name), recipe.effects.get(measure.name)
    value, spread = value_text(mean, measure.unit), spread_text(recipe.spreads.get(measure.name), mean, measure.unit)
    if effect is None:
        return {"label": measure.label, "value": value, "spread": spread, "change": ""}
    has_interval = effect.estimate is not None and effect.estimate.low is not None
    reasons = [effect.reason] if has_interval else []  # elsewhere the verdict says it
    if has_interval and effect.verdict == "inconclusive" and measure.kind == "difference":
        reasons.append(ruled_out(effect))
    reasons.append(scatter_text(effect, folds))
    reached = f"reached in {recipe.reached[0]} of {recipe.reached[1]} pairs"
    if measure.name == "time_to_quality" and reached not in effect.reason:
        reasons.append(reached)
    return {
        "label": measure.label,
        "value": value if mean is not None or effect.estimate is None else "",
        "spread": spread,
        "change": effect_text(effect),
        "verdict": verdict_text(effect),
        "kind": effect.verdict.replace(" ", "-"),
        "reason": "; ".join(filter(None, reasons)),
    }


def _runs(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for index, recipe in enumerate(comparison.recipes):
        for cell in recipe.cells:
            record = _run_record(comparison, cell)
            yield {
                "index": index,
                "recipe": recipe.name,
                "fold": cell.fold,
                "seed": cell.seed,
                "state": cell.state,
                "best": value_text(record["best"], ""),
                "last": value_text(record["last"], ""),
                "train": value_text(record["train_seconds"], "s"),
                "total": value_text(record["total_seconds"], "s"),
                "memory": value_text(record["peak_bytes"], "bytes"),
                "folder": cell.folder,
                "error": cell.error.strip(),
            }


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Give what a reader needs in order to repeat the experiment and to judge its times."""
    environment = comparison.environment
    sha256 = str(environment.get("data_sha256") or "")[:HASH_DIGITS]
    yield "model", comparison.model
    yield "data", comparison.data + (f" (SHA-256 {sha256}…)" if sha256 else "")
    yield "task", f"{comparison.task}, judged by {comparison.metric}"
    rows = [f"{count:,} {name}" for name, count in comparison.rows.items()]
    yield "rows", ", ".join(rows)
    yield "runs", f"{numbers('fold', comparison.folds)}; {numbers('seed', comparison.seeds)}"
    yield "started", comparison.started
    for name in ("device", "processor", "platform", "versions", "code_revision"):
        if environment.get(name) is not None:
            yield name.replace("_", " "), _fact(environment[name])


def _fact(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    rest = ", ".join(f"{name} {inner}" for name, inner in value.items() if name != "name")
    return f"{value['name']} ({rest})" if "name" in value else rest


@functools.cache
def _template(kind: str) -> Template:
    environment = Environment(
        loader=PackageLoader("leantune.report"),
        autoescape=kind == "html",
        finalize=escape_markdown if kind == "md" else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code_block"] = code_block
    environment.filters["prose"] = prose
    return environment.get_template(f"report.{kind}.j2")


def prose(text: str) -> Markup:
    """Return a sentence of ours for the page: what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def code_block(text: str) -> Markup:
    """Return a text as a block of code in Markdown, fenced by more backticks than it has."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}\n{text}\n{fence}")
