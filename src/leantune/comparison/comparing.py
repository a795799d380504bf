"""Recipes compared with a baseline, pair by pair: what each trick bought, with intervals, or `inconclusive`.

DIR/plan.json + DIR/runs/*/*  ->  cells (recipe x fold x seed)  ->  effects (recipe x measure)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leantune.comparison.comparability import check_comparable, variations
from leantune.comparison.disagreement import Disagreement, find_disagreement
from leantune.comparison.disturbances import DISTURBED, rates_by_product, times_repeated
from leantune.comparison.effects import (
    OF_THE_METRIC,
    Effect,
    Measure,
    MemoryOf,
    judge,
    make_measures,
    pair_values,
    value_of,
    what_is_missing,
)
from leantune.comparison.folder import Cell, Plan, read_cells, read_plan
from leantune.comparison.paired import describe_method, largest_complete_grid
from leantune.comparison.pooled import describe_pooled
from leantune.comparison.results import YARDSTICKS, RunResult, yardstick
from leantune.comparison.rows import row_errors
from leantune.comparison.tolerance import Tolerance, make_tolerance
from leantune.comparison.words import effect_text, value_text, verdict_text
from leantune.system.errors import RunFolderError
from leantune.system.settings import flatten

NOT_A_CHANGE = ("seed", "fold", "data.path", "data.validation", "device")
"""Settings that a pair shares, and names of places: the table's bytes and the kind of device are the same anyway."""

IN_A_NOTEBOOK = ("quality_best", "quality_last", "train_seconds", "peak_bytes")
"""Measures of the table that a notebook shows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RecipeResult:
    """One recipe: its runs, its means, and what it changed against the baseline."""

    name: str
    differs: dict[str, tuple[Any, Any]]
    """Effective setting (dotted) -> the baseline's value, this recipe's value; None for one that is not there."""
    cells: tuple[Cell, ...]
    means: dict[str, float | None]
    """Measure -> mean over the runs that are done, of what is compared as a ratio the geometric one
    (time_to_quality and quality_at_equal_time have none)."""
    spreads: dict[str, float | None]
    """Measure -> sample standard deviation over those runs; None for fewer than two."""
    metrics: dict[str, float | None]
    """Every metric of the task, the chosen one first -> mean over the runs, at the evaluation that is best by it."""
    effects: dict[str, Effect]
    """Measure -> effect; empty for the baseline."""
    reached: tuple[int, int]
    """In how many pairs the recipe reached the baseline's final quality, and of how many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Everything that a report says."""

    title: str
    """The experiment's name: its file's stem."""
    task: str
    metric: str
    lower_is_better: bool
    """Of the metric."""
    yardsticks: dict[str, float]
    """`linear` and `constant` -> the metric of a linear model on n-grams and of the constant answer, on the rows that
    the runs validate: mean over the folds; without what a fold has no number of."""
    tolerance: Tolerance
    """Up to which difference of the metric a recipe is as good."""
    measures: tuple[Measure, ...]
    baseline: str
    recipes: tuple[RecipeResult, ...]
    """The baseline first, then in the file's order."""
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    rows: dict[str, int]
    """`training` and `validation`: rows of the first finished run; `total` their sum."""
    data: str
    """The table's path, as the settings have it."""
    model: str
    memory_of: Literal["device", "process"]
    environment: dict[str, Any]
    """Of the first finished run: versions, platform, processor, device, code_revision, data_sha256."""
    started: str
    """UTC, of the first run."""
    method: tuple[str, ...]
    """Sentences that say how intervals and verdicts were made, and what they speak about."""
    notes: tuple[str, ...]
    """Sentences that a reader must know: runs that failed or are missing, versions that differ."""
    command: str
    """What repeats the experiment."""

    def __repr__(self) -> str:
        """Name what was compared; the report says what came of it."""
        recipes = [recipe.name for recipe in self.recipes]
        return (
            f"Comparison(title={self.title!r}, metric={self.metric!r}, baseline={self.baseline!r}, recipes={recipes}, "
            f"folds={self.folds}, seeds={self.seeds})"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a small table of the metric, the training time and the memory."""
        shown = [measure for measure in self.measures if measure.name in IN_A_NOTEBOOK]
        style = ' style="text-align: left; vertical-align: top"'
        head = "".join(f"<th{style}>{escape(text)}</th>" for text in ("", *(measure.label for measure in shown)))
        lines = []
        for recipe in self.recipes:
            cells = ("<br>".join(map(escape, _cell_texts(recipe, measure))) for measure in shown)
            row = "".join(f"<td{style}>{cell}</td>" for cell in cells)
            lines.append(f"<tr><th{style}>{escape(recipe.name)}</th>{row}</tr>")
        said = f"Against {self.baseline}; the 95% intervals of a column hold for all recipes together. "
        told = "".join(f"<p>{escape(text)}</p>" for text in (said + self.tolerance.said, *self.notes))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{told}"

    @cached_property
    def disagreement(self) -> Disagreement | None:
        """Where the recipes disagree, read from the predictions of their runs when it is asked for; None without."""
        return find_disagreement(
            {r.name: [cell.result for cell in r.cells if cell.result is not None] for r in self.recipes}
        )

    def is_settled(self) -> bool:
        """Tell whether every recipe has a verdict on the metric and on the training time."""
        return all(
            recipe.effects[name].verdict != "inconclusive"
            for recipe in self.recipes[1:]
            for name in ("quality_best", "train_seconds")
        )

    def recipe(self, name: str) -> RecipeResult:
        """Return the recipe called `name`; KeyError if there is none."""
        return {recipe.name: recipe for recipe in self.recipes}[name]


def _cell_texts(recipe: RecipeResult, measure: Measure) -> list[str]:
    """Return a mean, what changed, and the verdict, a line each."""
    texts = [value_text(recipe.means.get(measure.name), measure.unit)]
    if effect := recipe.effects.get(measure.name):
        texts += [effect_text(effect), verdict_text(effect)]
    return texts


def compare_runs(folder: Path) -> Comparison:
    """Compare the runs below `folder`, which `leantune compare` wrote.

    Raises `RunFolderError` where there is no experiment, or where two runs must not be compared (law 6): other rows,
    folds, metric or device; the message names both runs.
    """
    folder = folder.expanduser()
    plan = read_plan(folder)
    cells = {name: tuple(read_cells(folder, plan, name)) for name in plan.recipes}
    runs = _finished(cells)
    if not runs:
        raise RunFolderError(_nothing_finished(folder, plan, cells))
    check_comparable(list(runs.values()))
    first = next(iter(runs.values()))
    try:
        measures = make_measures(first.metric)
    except ValueError as error:
        raise RunFolderError(f"{first.folder / 'metrics.json'}: metric: {error}") from None
    has_device_bytes = all(run.overall.get("peak_device_bytes") is not None for run in runs.values())
    memory_of: MemoryOf = "device" if has_device_bytes else "process"
    yardsticks = _yardsticks(runs.values())
    tolerance = make_tolerance(
        plan.tolerance,
        metric=first.metric,
        lower_is_better=measures[0].lower_is_better,
        baseline=plan.baseline,
        quality=_mean(measures[0], _values(measures[0], cells[plan.baseline], memory_of)),
        yardsticks=yardsticks,
    )
    effects, reached = _effects(plan, cells, measures, memory_of, tolerance.value)
    training, validation = first.scores["training_rows"], first.scores["validation_rows"]
    return Comparison(
        title=plan.title,
        task=first.task,
        metric=first.metric,
        lower_is_better=measures[0].lower_is_better,
        yardsticks=yardsticks,
        tolerance=tolerance,
        measures=measures,
        baseline=plan.baseline,
        recipes=tuple(
            RecipeResult(
                name=name,
                differs=_differs(cells[plan.baseline], own),
                cells=own,
                means={m.name: _mean(m, _values(m, own, memory_of)) for m in measures},
                spreads={m.name: _spread(_values(m, own, memory_of)) for m in measures},
                metrics=_all_metrics(first.metric, own),
                effects=effects[name],
                reached=reached[name],
            )
            for name, own in cells.items()
        ),
        folds=plan.folds,
        seeds=plan.seeds,
        rows={"training": training, "validation": validation, "total": training + validation},
        data=plan.data,
        model=plan.model,
        memory_of=memory_of,
        environment=first.environment,
        started=min(run.environment["started"] for run in runs.values()),
        method=_method(plan, tolerance),
        notes=tuple(_notes(folder, plan, cells, measures)),
        command=plan.command,
    )


def _yardsticks(runs: Iterable[RunResult]) -> dict[str, float]:
    """Return the yardsticks, one value a fold: its rows are the same in every run, and so is what they give."""
    of_fold: dict[str, dict[int, list[float]]] = {name: {} for name in YARDSTICKS}
    folds = set()
    for run in runs:
        folds.add(run.fold)
        for name in YARDSTICKS:
            if (value := yardstick(run, name)) is not None:
                of_fold[name].setdefault(run.fold, []).append(value)
    return {
        name: float(np.mean([np.mean(values) for values in found.values()]))
        for name, found in of_fold.items()
        if set(found) == folds
    }


def _nothing_finished(folder: Path, plan: Plan, cells: Mapping[str, Sequence[Cell]]) -> str:
    every_cell = [cell for own in cells.values() for cell in own]
    failed = [cell for cell in every_cell if cell.state == "failed"]
    why = f" ({len(failed)} failed, the first with: {failed[0].error})" if failed else ""
    return f"{folder}: found no finished run among {len(every_cell)}{why}; `{plan.command}` makes them"


def _finished(cells: Mapping[str, Sequence[Cell]]) -> dict[str, RunResult]:
    return {_label(cell): cell.result for own in cells.values() for cell in own if cell.result is not None}


def _label(cell: Cell) -> str:
    return f"{cell.recipe} fold {cell.fold} seed {cell.seed}"


# What is compared


def _effects(
    plan: Plan,
    cells: Mapping[str, Sequence[Cell]],
    measures: Sequence[Measure],
    memory_of: MemoryOf,
    tolerance: float | None,
) -> tuple[dict[str, dict[str, Effect]], dict[str, tuple[int, int]]]:
    """Return recipe -> measure -> effect, and recipe -> `RecipeResult.reached`."""
    baseline = cells[plan.baseline]
    by_fold = {
        run.fold: run.scores["validation_rows"] / run.scores["training_rows"] for run in _finished(cells).values()
    }
    effects: dict[str, dict[str, Effect]] = {name: {} for name in cells}
    reached = dict.fromkeys(cells, (0, 0))
    for measure in measures:
        pairs, missing = {}, {}
        for name in list(cells)[1:]:
            both = [(a.result, b.result) for a, b in zip(baseline, cells[name], strict=True)]
            found = [pair_values(measure, a, b, memory_of) if a and b else (None, None) for a, b in both]
            # [folds, seeds, 2]; None becomes NaN.
            values = np.array(found, dtype=np.float64).reshape(len(plan.folds), len(plan.seeds), 2)
            missing[name] = what_is_missing(measure, values, sum(a is not None and b is not None for a, b in both))
            if measure.name == "time_to_quality":
                got_there, goals = np.isfinite(values).all(axis=-1).sum(), np.isfinite(values[..., 0]).sum()
                reached[name] = int(got_there), int(goals)
                if got_there < goals:
                    values[:] = np.nan  # a ratio over only the pairs that got there would flatter
            pairs[name] = values
        judged = judge(
            measure,
            pairs,
            rows_ratio=sum(by_fold.values()) / len(by_fold),
            tolerance=tolerance if measure.name in OF_THE_METRIC else None,
            looks=max(1, len(plan.looks)),
        )
        for name, effect in judged.items():
            reason = "; ".join(filter(None, (missing[name], effect.reason)))
            effects[name][measure.name] = replace(effect, reason=reason)
    _add_scatter(plan, cells, effects)
    return effects, reached


def _add_scatter(plan: Plan, cells: Mapping[str, Sequence[Cell]], effects: dict[str, dict[str, Effect]]) -> None:
    """Tell of each difference in best quality how far it scatters over seeds (and folds), and over rows."""
    pairs = {
        name: [
            (a.result, b.result)
            for a, b in zip(cells[plan.baseline], own, strict=True)
            if a.result is not None and b.result is not None
        ]
        for name, own in cells.items()
        if name != plan.baseline
    }
    errors = row_errors(pairs)
    for name, runs in pairs.items():
        effect = effects[name]["quality_best"]
        if effect.estimate is None:
            continue
        values = [(run.scores["best"][run.metric], other.scores["best"][run.metric]) for run, other in runs]
        d = [b - a for a, b in values if a is not None and b is not None]
        effects[name]["quality_best"] = replace(
            effect,
            seed_error=float(np.std(d, ddof=1) / len(d) ** 0.5) if len(d) > 1 else None,
            row_error=errors.get(name),
        )


def _all_metrics(chosen: str, cells: Sequence[Cell]) -> dict[str, float | None]:
    """Return the mean of every metric over the finished runs, the chosen one first; None where one is not defined."""
    found = [cell.result.scores["best"] for cell in cells if cell.result is not None]
    names = dict.fromkeys([chosen, *(name for scores in found for name in scores if name != "step")])
    values = {name: [scores.get(name) for scores in found] for name in names}
    return {
        name: float(np.mean([v for v in own if v is not None])) if own and None not in own else None
        for name, own in values.items()
    }


def _values(measure: Measure, cells: Sequence[Cell], memory_of: MemoryOf) -> list[float]:
    values = [value_of(measure, cell.result, memory_of) for cell in cells if cell.result is not None]
    return [value for value in values if value is not None]


def _mean(measure: Measure, values: list[float]) -> float | None:
    """Return the mean that agrees with what is compared: of ratios the geometric one."""
    if not values:
        return None
    if min(values) == max(values):  # without the rounding of a sum or a logarithm
        return values[0]
    return float(np.exp(np.mean(np.log(values)))) if measure.kind == "ratio" else float(np.mean(values))


def _spread(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _settings(run: RunResult) -> dict[str, Any]:
    """Return the effective settings that a recipe may change, by their dotted names."""
    return {name: value for name, value in flatten(run.config).items() if name not in NOT_A_CHANGE}


def _differs(baseline: Sequence[Cell], recipe: Sequence[Cell]) -> dict[str, tuple[Any, Any]]:
    """Return what the recipe's settings change, in a pair where there is one, since `auto` may choose by the fold."""
    finished = [
        ((a.fold, a.seed) == (b.fold, b.seed), a.result, b.result)
        for a in baseline
        for b in recipe
        if a.result is not None and b.result is not None
    ]
    if not finished:
        return {}
    _, one, other = max(finished, key=lambda found: found[0])
    before, after = _settings(one), _settings(other)
    # A null is a value too: a setting that is only in one of them counts, whatever it is there.
    return {
        name: (before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if name not in before or name not in after or before[name] != after[name]
    }


# What a reader must know


def _method(plan: Plan, tolerance: Tolerance) -> tuple[str, ...]:
    where = "All runs validate on fold" if len(plan.folds) == 1 else "Runs validate on folds"
    recipes = list(plan.recipes)[1:]
    return (
        "The verdict is what the shown interval says. Better or worse: the interval does not contain 0 (of a ratio: 1)."
        " As good: it lies within the tolerance, whether it contains 0 or not. Inconclusive: neither; there may be a "
        "difference or none.",
        tolerance.said,
        *describe_pooled(recipes),
        *describe_method(len(plan.folds), len(plan.seeds), len(recipes)),
        _of_rows(plan),
        _looking(plan),
        f"{where} {', '.join(map(str, plan.folds))}.",
        "The linear model is TF-IDF of word and character n-grams with ridge or logistic regression; the constant "
        "answer is the mean of the training targets, or the share of each class. Both are computed on the training "
        "rows of each fold (the linear model on 20,000 at most), and scored on the same validation rows.",
        "Time to quality ends at the first evaluation that is as good as the baseline's last one of the same fold and "
        "seed. Where a recipe did not get there in every pair there is no ratio, for that of the others would flatter.",
        "Quality at equal time is that of the latest evaluation within the training time of the faster run of a pair: "
        "the slower run's schedule is not finished at that moment.",
        "Both are read at evaluations only, so that evaluating more often makes them finer, and as the run saw them, "
        "in its own precision; best and last are those of the saved float32 weights.",
    )


def _of_rows(plan: Plan) -> str:
    """Say what the scatter over rows is, and where it is part of the intervals."""
    what = (
        "Beside a difference of the metric stand two standard errors: over pairs of runs, and over validation rows "
        "(grouped jackknife), which says what other rows would have shown. "
    )
    if len(plan.folds) == 1:
        return what + "On one fold the interval knows of seeds alone: where rows scatter more, another fold may differ."
    return what + "Each fold has other rows, so the interval over folds knows of both."


def _looking(plan: Plan) -> str:
    """Say what looking more than once does."""
    if not plan.looks:
        return (
            "All this holds for runs that were planned at once. Adding seeds until a verdict appears makes false "
            "verdicts more frequent than 5 in 100; `leantune compare --settle N` plans for it beforehand."
        )
    counts = [str(count) for count in plan.looks]
    return (
        f"Before any run it was planned to look at {', '.join(counts[:-1])} and {counts[-1]} seeds, and to stop when "
        f"everything is settled: every interval is one of {len(counts)}, which hold together in 95% (Bonferroni)."
        if len(counts) > 1
        else "Before any run it was planned to look once."
    )


def _notes(
    folder: Path,
    plan: Plan,
    cells: Mapping[str, Sequence[Cell]],
    measures: Sequence[Measure],
) -> Iterator[str]:
    """Yield what a reader must know before trusting the numbers: what is missing, and what is not the same."""
    every_cell = [cell for own in cells.values() for cell in own]
    for cell in every_cell:
        if cell.state == "failed":
            yield f"{_label(cell)} failed and is left out: {' '.join(cell.error.split())} ({cell.folder}.log has more)."
    unfinished = [cell for cell in every_cell if cell.state == "unfinished"]
    begun = [cell for cell in unfinished if (folder / cell.folder).is_dir() and any((folder / cell.folder).iterdir())]
    for cell in begun:
        yield (
            f"{cell.folder} has no metrics.json, since its run was stopped or still goes on, and is left out; "
            f"`{plan.command}` finishes it."
        )
    if len(unfinished) > len(begun):
        left = len(unfinished) - len(begun)
        yield f"{left} of {len(every_cell)} runs have not been made yet; `{plan.command}` makes them."
    yield from _missing_pairs(plan, cells)
    runs = _finished(cells)
    for measure in measures[:2]:
        place = measure.name.removeprefix("quality_")
        undefined = [label for label, run in runs.items() if run.scores[place][run.metric] is None]
        if undefined:
            yield f"{measure.label} is not defined in {_listed(undefined)}: left out of means and pairs."
    resumed = [label for label, run in runs.items() if run.environment.get("resumed")]
    if resumed:
        yield f"Interrupted, and went on from a checkpoint; their times leave out what was lost: {_listed(resumed)}."
    repeated = [f"{_label(cell)} ({count} x)" for cell in every_cell if (count := times_repeated(folder / cell.folder))]
    if repeated:
        yield f"Repeated, since the machine ran differently before them: {_listed(repeated)}."
    yield from _disturbed(runs)
    yield from _evaluation_counts(cells)
    yield from variations({label: _circumstances(run) for label, run in runs.items()})
    for own in cells.values():
        yield from variations({_label(cell): _settings(cell.result) for cell in own if cell.result is not None})


def _missing_pairs(plan: Plan, cells: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    if not any(cell.result for cell in cells[plan.baseline]):
        yield f"The baseline {plan.baseline} has no finished run: there is nothing to hold the recipes against."
        return
    for name in list(cells)[1:]:
        both = list(zip(cells[plan.baseline], cells[name], strict=True))
        missing = [f"fold {b.fold} seed {b.seed}" for a, b in both if not (a.result and b.result)]
        there = len(both) - len(missing)
        if missing:
            yield f"{name} has {there} of {len(both)} pairs with {plan.baseline}; missing: {_listed(missing)}."
        if not there or not missing:
            continue
        done = np.array([np.nan if not (a.result and b.result) else 0.0 for a, b in both])
        folds, seeds = largest_complete_grid(done.reshape(len(plan.folds), len(plan.seeds))).shape
        if folds * seeds < there:
            yield (
                f"{folds * seeds} of the {there} pairs of {name} are used for the metric: the largest whole grid of "
                "folds and seeds, which its intervals need."
            )
        yield f"For {name}: {describe_method(folds, seeds, len(cells) - 1)[0]}"


def _evaluation_counts(cells: Mapping[str, Sequence[Cell]]) -> Iterator[str]:
    """Say where the best is taken out of more evaluations in one recipe than in another (law 6)."""
    counts: dict[str, list[int]] = {}
    uneven = False
    for same in zip(*cells.values(), strict=True):  # a recipe's cells of one fold and seed
        of_cell = {cell.recipe: len(cell.result.evaluations) for cell in same if cell.result is not None}
        uneven = uneven or len(set(of_cell.values())) > 1
        for name, count in of_cell.items():
            counts.setdefault(name, []).append(count)
    if uneven:
        parts = (f"{name} {_range(counts[name])}" for name in cells if name in counts)
        yield (
            f"Recipes were not evaluated equally often ({', '.join(parts)}): the best of more evaluations flatters, so "
            "look at the last."
        )


def _disturbed(runs: Mapping[str, RunResult]) -> Iterator[str]:
    """Say where the machine computed much slower just before one run than before another: their times then differ."""
    for product, found in rates_by_product(runs).items():
        slowest, fastest = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        if found[fastest] > DISTURBED * found[slowest]:
            yield (
                f"The speed of the machine varied: a product of matrices ({product}) reached "
                f"{found[slowest] / 1e9:,.0f} GFLOP/s before {slowest} and {found[fastest] / 1e9:,.0f} before "
                f"{fastest}. Something else was running, or the machine was throttled: look at the times with care, or "
                "repeat these runs with --repeat-disturbed."
            )


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _circumstances(run: RunResult) -> dict[str, Any]:
    """Return what may differ between runs that are compared, but had better not."""
    names = ("platform", "processor", "code_revision")
    versions: dict[str, Any] = run.environment["versions"]
    return versions | {name: run.environment.get(name) for name in names}


def _listed(names: Sequence[str], count: int = 6) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
