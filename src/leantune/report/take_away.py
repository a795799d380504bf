"""What a report shows, as files to paste elsewhere: figures as PNG and SVG, tables as CSV and Markdown.

DIR/report-files/training-times.png, .svg, ...    recipes.csv, runs.csv, metrics.csv, settings.csv    table.md
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leantune.comparison.comparing import Comparison
from leantune.comparison.words import effect_text, value_text, verdict_text
from leantune.report.drawing import Drawn
from leantune.report.wording import YARDSTICKS, escape_markdown, numbers, setting_text

FOLDER = "report-files"
"""Beside the report."""
TABLE = ("quality_best", "quality_last", "train_seconds", "peak_bytes")
"""Measures of the Markdown table."""


def figure_files(drawn: Iterable[str], comparison: Comparison) -> dict[str, bytes]:
    """Return name -> content of each figure, as PNG and as SVG, with the recipes' legend where their names are not in
    it."""
    names = [recipe.name for recipe in comparison.recipes]
    files = {}
    for figure in drawn:
        if isinstance(figure, Drawn):
            for kind, content in figure.files(names).items():
                files[f"{figure.name}.{kind}"] = content
    return files


def table_files(comparison: Comparison, record: Mapping[str, Any]) -> dict[str, bytes]:
    """Return name -> content of each table; `record`: the report's JSON."""
    tables = {
        "recipes.csv": _effects(record),
        "runs.csv": [{"recipe": name} | run for name, own in record["recipes"].items() for run in own["runs"]],
        "metrics.csv": [{"recipe": name} | own["metrics"] for name, own in record["recipes"].items()],
        "settings.csv": [
            {"recipe": name, "setting": setting, **{of: setting_text(value) for of, value in both.items()}}
            for name, own in record["recipes"].items()
            for setting, both in own["differs"].items()
        ],
    }
    files = {name: _csv(lines) for name, lines in tables.items() if lines}
    return files | {"table.md": markdown_table(comparison).encode("utf-8", "backslashreplace")}


def markdown_table(comparison: Comparison) -> str:
    """Return the first table as GitHub's Markdown, to be pasted into a pull request."""
    measures = [measure for measure in comparison.measures if measure.name in TABLE]
    lines = [["recipe", *(measure.label for measure in measures)], ["---"] * (1 + len(measures))]
    for recipe in comparison.recipes:
        cells = [f"**{escape_markdown(recipe.name)}**"]
        for measure in measures:
            parts = [value_text(recipe.means.get(measure.name), measure.unit)]
            if effect := recipe.effects.get(measure.name):
                parts += [effect_text(effect), verdict_text(effect)]
            cells.append("<br>".join(map(escape_markdown, parts)))
        lines.append(cells)
    for name, value in comparison.yardsticks.items():
        both = [value_text(value, "") if measure.name.startswith("quality_") else "–" for measure in measures]
        lines.append([f"{YARDSTICKS[name]} (for comparison)", *both])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    said = (
        f"Against {comparison.baseline} ({numbers('fold', comparison.folds)}; {numbers('seed', comparison.seeds)}); "
        f"95% intervals that hold for all recipes together. {comparison.tolerance.said}"
    )
    return f"{table}\n{escape_markdown(said)}\n"


def _effects(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"recipe": name, "measure": measure, "unit": what["unit"], "kind": what["kind"]}
        | {"mean": own["means"].get(measure), "deviation": own["spreads"].get(measure)}
        | {key: own["effects"].get(measure, {}).get(key) for key in ("estimate", "low", "high", "pairs", "verdict")}
        for name, own in record["recipes"].items()
        for measure, what in record["measures"].items()
    ]


def _csv(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Return lines as CSV; what is not there is empty."""
    file = io.StringIO(newline="")
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue().encode("utf-8", "backslashreplace")
