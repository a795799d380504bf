"""Judge stored comparisons again, by the statistics of today, from the runs that their Markdown reports list.

    python experiments/commonlit/judge_again.py docs/results/2026-11-22-commonlit/accumulation.md --constant 0.739

A report of an older version has each run's best metric, training time (in whole seconds) and memory, which is all that
an interval needs. `--constant` is the metric of the constant answer on the same validation rows, from which the
tolerance follows (2% of what the baseline gains over it). Prints a Markdown table for each report.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leantune.comparison.comparing import judge
from leantune.comparison.effects import Effect, make_measures
from leantune.comparison.tolerance import make_tolerance

MEASURES = {"quality_best": "best rmse", "train_seconds": "training", "peak_bytes": "memory"}
SECONDS = {"h": 3600, "min": 60, "s": 1}


def number(cell: str) -> float:
    """Return what a cell of the table of runs says: seconds, GiB, or the bare number."""
    parts = re.findall(r"([\d.]+) *(h|min|s)\b", cell)
    return sum(float(count) * SECONDS[unit] for count, unit in parts) if parts else float(cell.split(maxsplit=1)[0])


def read_runs(report: Path) -> list[dict[str, str]]:
    """Return the lines of the report's table of all runs."""
    lines = report.read_text(encoding="utf-8").split("## All runs")[1].split("\n## ")[0].strip().splitlines()
    rows = [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def judge_report(report: Path, constant: float) -> dict[str, dict[str, Effect]]:
    """Return measure -> recipe -> effect; the report's first recipe is the baseline."""
    runs = read_runs(report)
    recipes = list(dict.fromkeys(run["recipe"] for run in runs))
    measures = {measure.name: measure for measure in make_measures("rmse") if measure.name in MEASURES}

    def values(recipe: str, column: str) -> NDArray[np.float64]:
        return np.array([number(run[column]) for run in runs if run["recipe"] == recipe])

    tolerance = make_tolerance(
        "auto",
        metric="rmse",
        lower_is_better=True,
        baseline=recipes[0],
        quality=float(values(recipes[0], "best rmse").mean()),
        yardsticks={"constant": constant},
    )
    print(f"\n### {report.stem}\n\n{tolerance.said}\n")
    effects = {}
    for name, measure in measures.items():
        column = MEASURES[name]
        base = values(recipes[0], column)
        pairs = {recipe: np.stack([base, values(recipe, column)], axis=-1)[None] for recipe in recipes[1:]}
        given = tolerance.value if name == "quality_best" else None
        effects[name] = judge(measure, pairs, rows_ratio=0.25, tolerance=given)
    return effects


def shown(effect: Effect) -> str:
    """Return an effect as a cell of a table."""
    estimate = effect.estimate
    if estimate is None or estimate.low is None:
        return f"**{effect.verdict}** ({effect.reason})"
    sign = "x " if effect.measure.kind == "ratio" else ""
    form = ".2f" if sign else "+.4f"
    more = f", settled by about {effect.more_seeds} more" if effect.more_seeds else ""
    return f"{sign}{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}] **{effect.verdict}**{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--constant", type=float, required=True)
    options = parser.parse_args()
    for report in options.reports:
        effects = judge_report(report, options.constant)
        print("| recipe | best RMSE | training time | memory |\n|---|---|---|---|")
        for recipe in effects["quality_best"]:
            print(f"| {recipe} | {' | '.join(shown(effects[name][recipe]) for name in MEASURES)} |")


if __name__ == "__main__":
    main()
