"""Comparisons made by hand, with plausible numbers, for the tests of the report and its figures."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leantune.comparison import Cell, Comparison, Effect, Measure, RecipeResult
from leantune.comparison.paired import Estimate
from leantune.comparison.results import EvaluationPoint, RunResult
from leantune.comparison.tolerance import Tolerance

STEPS = 150
GIB = 2**30
MEASURES = (
    Measure(name="quality_best", label="best rmse", unit="", kind="difference", lower_is_better=True),
    Measure(name="quality_last", label="last rmse", unit="", kind="difference", lower_is_better=True),
    Measure(name="train_seconds", label="training time", unit="s", kind="ratio", lower_is_better=True),
    Measure(name="total_seconds", label="total time", unit="s", kind="ratio", lower_is_better=True),
    Measure(name="peak_bytes", label="peak memory", unit="bytes", kind="ratio", lower_is_better=True),
    Measure(name="tokens_per_second", label="tokens per second", unit="tokens/s", kind="ratio", lower_is_better=False),
    Measure(name="padding_fraction", label="padding", unit="share", kind="difference", lower_is_better=True),
    Measure(
        name="time_to_quality",
        label="time to the baseline's final quality",
        unit="s",
        kind="ratio",
        lower_is_better=True,
    ),
    Measure(name="quality_at_equal_time", label="rmse at equal time", unit="", kind="difference", lower_is_better=True),
)
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixed": {"differs": {"precision": ("fp32", "bf16")}, "speed": 1.7, "memory": 0.66, "quality": 0.0012},
    "dynamic": {"differs": {"batching.layout": ("fixed", "dynamic")}, "speed": 1.9, "memory": 0.9, "padding": 0.24},
    "batch_16": {
        "differs": {"batching.batch_size": (32, 16), "batching.micro_batch": ({"rows": 32}, {"rows": 16})},
        "speed": 0.62,
        "memory": 0.74,
        "quality": 0.012,
        "steps": 2 * STEPS,
    },
}
"""What differs from the baseline: settings, how many times as fast, memory and quality as they might come out."""


def make_run(
    *, fold: int, seed: int, number: int, speed: float = 1.0, memory: float = 1.0, quality: float = 0.0,
    padding: float = 0.47, steps: int = STEPS, evaluations: int = 6, **_: Any,
) -> RunResult:  # fmt: skip
    """Make up one finished run, the same for the same arguments."""
    draw = np.random.default_rng([number, fold, seed])
    shared = np.random.default_rng([fold, seed])  # what runs of a pair have in common
    noise = 0.012 * shared.normal() + 0.004 * draw.normal() + 0.02 * fold
    seconds = 348 / speed * (1 + 0.03 * draw.normal()) * np.arange(1, steps + 1) / steps
    at = np.linspace(steps / evaluations, steps, evaluations).round().astype(int)
    values = [0.5 + quality + noise + 0.35 * math.exp(-4 * i / steps) + 0.003 * draw.normal() for i in at]
    losses = 0.9 * np.exp(-3 * np.arange(steps) / steps) + 0.2 + 0.08 * draw.random(steps)
    process = memory * GIB * (3.2 + 1.7 * np.minimum(1, np.arange(steps) / 20) + 0.25 * draw.random(steps))
    evaluation = 22 / speed
    scores = {
        "best": {"rmse": min(values)},
        "last": {"rmse": values[-1]},
        "train_seconds": float(seconds[-1]),
        "tokens": 103_686 * 12,
        "padding_fraction": padding,
        "tokens_per_second": 103_686 * 12 / seconds[-1],
        "evaluation_seconds": evaluation,
        "checkpoint_seconds": 1.4,
    }
    overall = scores | {
        "startup_seconds": 14.0,
        "total_seconds": float(seconds[-1]) + evaluation + 15.4,
        "peak_process_bytes": float(process.max()),
        "peak_device_bytes": None,
    }
    return RunResult(
        folder=Path("runs"),
        fold=fold,
        config={},
        environment={},
        task="regression",
        metric="rmse",
        scores=scores,
        overall=overall,
        evaluations=tuple(
            EvaluationPoint(step=int(i), train_seconds=float(seconds[i - 1]), value=value)
            for i, value in zip(at, values, strict=True)
        ),
        losses=losses,
        memory_seconds=seconds + 14,
        memory_bytes=process,
        validation_rows=np.arange(3),
        validation_targets=(0.1, 0.2, 0.3),
    )


def value_of(cell: Cell, measure: str) -> float | None:
    """What one run has in one measure."""
    if cell.result is None or measure in {"time_to_quality", "quality_at_equal_time"}:
        return None
    scores, overall = cell.result.scores, cell.result.overall
    special = {
        "quality_best": scores["best"]["rmse"],
        "quality_last": scores["last"]["rmse"],
        "total_seconds": overall["total_seconds"],
        "peak_bytes": overall["peak_process_bytes"],
    }
    return special[measure] if measure in special else scores[measure]


def make_effect(measure: Measure, baseline: Sequence[Cell], cells: Sequence[Cell]) -> Effect:
    """Hold runs against the baseline's: a plain interval of two standard errors, which is enough for a picture."""
    of = measure.name
    if of in {"time_to_quality", "quality_at_equal_time"}:
        of = {"time_to_quality": "train_seconds", "quality_at_equal_time": "quality_last"}[of]
    both = [(value_of(a, of), value_of(b, of)) for a, b in zip(baseline, cells, strict=True)]
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    if not pairs:
        return Effect(measure=measure, estimate=None, verdict="inconclusive", reason="no pair has finished")
    ratio = measure.kind == "ratio"
    differences = np.array([math.log(b / a) if ratio else b - a for a, b in pairs])
    mean, back = float(differences.mean()), math.exp if ratio else float
    if len(pairs) == 1 or np.ptp(differences) == 0:
        bare = Estimate(value=back(mean), low=None, high=None, p_value=None, pairs=len(pairs))
        reason = "one pair" if len(pairs) == 1 else "no spread over the pairs"
        return Effect(measure=measure, estimate=bare, verdict="inconclusive", reason=reason)
    half = 2.6 * float(differences.std(ddof=1)) / math.sqrt(len(pairs))
    low, high = mean - half, mean + half
    tolerance = 0.022 if measure.unit == "" else None
    is_as_good = tolerance is not None and -tolerance <= low and high <= tolerance
    good = high < 0 if measure.lower_is_better else low > 0
    bad = low > 0 if measure.lower_is_better else high < 0
    return Effect(
        measure=measure,
        estimate=Estimate(value=back(mean), low=back(low), high=back(high), p_value=0.01, pairs=len(pairs)),
        verdict="as good" if is_as_good else "better" if good else "worse" if bad else "inconclusive",
        reason="",
        tolerance=tolerance,
    )


def make_comparison(
    recipes: dict[str, dict[str, Any]] | None = None,
    *,
    folds: tuple[int, ...] = (0, 1),
    seeds: tuple[int, ...] = (0, 1, 2),
    failed: dict[tuple[str, int, int], str] | None = None,
    unfinished: Sequence[tuple[str, int, int]] = (),
    **changes: Any,
) -> Comparison:
    """Make up a comparison; the first recipe is the baseline. `failed`: the message of each failed run."""
    recipes = RECIPES if recipes is None else recipes
    failed = failed or {}
    cells: dict[str, tuple[Cell, ...]] = {}
    for number, (name, what) in enumerate(recipes.items()):
        keys = [(name, fold, seed) for fold in folds for seed in seeds]
        cells[name] = tuple(
            Cell(
                recipe=name,
                fold=key[1],
                seed=key[2],
                folder=f"runs/{number}/fold_{key[1]}_seed_{key[2]}",
                state="failed" if key in failed else "unfinished" if key in unfinished else "done",
                error=failed.get(key, ""),
                result=None
                if key in failed or key in unfinished
                else make_run(fold=key[1], seed=key[2], number=number, **what),
            )
            for key in keys
        )
    baseline = next(iter(recipes))
    results = [_make_result(name, what, cells[name], cells[baseline]) for name, what in recipes.items()]
    comparison = Comparison(
        title="commonlit",
        task="regression",
        metric="rmse",
        lower_is_better=True,
        yardsticks={"linear": 0.71, "constant": 1.63},
        tolerance=Tolerance(value=0.022, said="As good means that the whole interval lies within 0.022 of rmse."),
        measures=MEASURES,
        baseline=baseline,
        recipes=tuple(results),
        folds=folds,
        seeds=seeds,
        rows={"training": 1600, "validation": 400, "total": 2000},
        data="train.csv",
        model="sentence-transformers/all-MiniLM-L6-v2",
        memory_of="process",
        environment={
            "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
            "device": {"type": "cpu", "name": "AMD EPYC", "threads": 2},
            "processor": "AMD EPYC",
            "platform": "Linux-6.18-x86_64",
            "code_revision": "0123456789abcdef0123456789abcdef01234567",
            "data_sha256": "bf7a5749f8b96a5d6f27caf8aba8bcfcd8afc768a3ee7f641aac1e3c5336d5e4",
        },
        started="2026-11-22T09:17:17+00:00",
        method=(
            "Each pair has the same rows, fold and seed, and differs in the recipe alone.",
            "Intervals are 95%; p-values are adjusted for the number of recipes (Holm).",
        ),
        notes=(f"Failed runs: {len(failed)}. They are in no mean and in no pair.",) if failed else (),
        command="leantune compare commonlit.yaml --output results",
    )
    return dataclasses.replace(comparison, **changes)


def _make_result(name: str, what: dict[str, Any], cells: tuple[Cell, ...], baseline: tuple[Cell, ...]) -> RecipeResult:
    values = {m.name: [v for cell in cells if (v := value_of(cell, m.name)) is not None] for m in MEASURES}
    is_baseline = cells is baseline
    return RecipeResult(
        name=name,
        differs=what.get("differs", {}),
        cells=cells,
        means={measure: float(np.mean(v)) if v else None for measure, v in values.items()},
        spreads={measure: float(np.std(v, ddof=1)) if len(v) > 1 else None for measure, v in values.items()},
        metrics={"rmse": float(np.mean(values["quality_best"])) if values["quality_best"] else None, "mae": 0.4},
        effects={} if is_baseline else {m.name: make_effect(m, baseline, cells) for m in MEASURES},
        reached=(len(cells), len(cells)),
    )
