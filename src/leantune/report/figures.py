"""Figures of a comparison: each a function from the comparison to an SVG element, "" where there is nothing to draw."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from leantune.comparison.comparing import Comparison, RecipeResult
from leantune.comparison.effects import Effect
from leantune.comparison.results import RunResult
from leantune.comparison.words import MARKS, UNCLEAR, effect_text, value_text
from leantune.report.drawing import DASHES, SLOTS, WIDTH, Drawing, drawing, line_style, log_axis, marker
from leantune.report.wording import YARDSTICKS, shorten
from leantune.system.formatting import duration

Floats = NDArray[np.float64]

POINTS = 240
"""Points of a line at most: what the width can show, however many steps a run has."""
SMOOTHING = 30
"""The training loss is a running mean over one part in so many of the steps."""
PARTS = {"startup": "start-up", "train": "optimizer steps", "evaluation": "evaluation", "checkpoint": "checkpoints"}
"""Where the time goes, in the order of a run; each has the colour `part-1`, `part-2`, ..."""
LONGEST_INTERVAL = 1.6
"""An interval of a bar is drawn up to so many times the longest bar."""
FLATTEST = 2
"""A line beside curves may stretch their axis by so many times; one that is further away is only named."""
TOP = 28
"""Units above the axes."""
PITCH = 40
"""Units from one recipe to the next in figures that have a line of text for each."""
PAIR_OFFSET = 7
"""Units from an interval down to the dots of its pairs."""


def finished(recipe: RecipeResult) -> list[RunResult]:
    """Return the runs of a recipe that are done."""
    return [cell.result for cell in recipe.cells if cell.result is not None]


def effects(comparison: Comparison, measure: str) -> str:
    """Draw what each recipe changed in one measure, with 95% intervals, beside the line of no difference."""
    rows = [(i, r.name, r.effects[measure]) for i, r in enumerate(comparison.recipes) if measure in r.effects]
    compared = [effect for _, _, effect in rows if effect.estimate is not None]
    if not compared:
        return ""
    kind = compared[0].measure
    ratio = kind.kind == "ratio"
    title = f"{kind.label}, {'ratio to' if ratio else 'difference from'} {shorten(comparison.baseline, 24)}"
    height = TOP + PITCH * len(rows) + 44
    said = "; ".join(f"{shorten(name, 24)} {effect_text(effect)}, {effect.verdict}" for _, name, effect in rows)
    with drawing(f"effect-{measure}", title, said, height, left=1, bottom=44) as sheet:
        axes = sheet.axes
        low, high = _reach(compared, ratio)
        if ratio:
            log_axis(axes, "x", low, high)
        else:
            axes.set_xlim(low, high)
        axes.set_ylim(PITCH * len(rows), 0)
        axes.yaxis.set_major_locator(NullLocator())
        if (tolerance := compared[0].tolerance) is not None:
            axes.axvspan(max(-tolerance, low), min(tolerance, high), color=SLOTS["muted"], alpha=0.12, linewidth=0)
        tops = [PITCH * row + 17 for row in range(len(rows))]  # below the labels
        ends = [top + PITCH - 17 for top in tops]
        axes.vlines([1 if ratio else 0] * len(rows), tops, ends, color=SLOTS["muted"], linewidth=1.2, zorder=1)
        for row, (index, name, effect) in enumerate(rows):
            sheet.write(0, TOP + PITCH * row + 13, shorten(name, 20))
            _draw_interval(axes, effect, index, PITCH * row + 27)
            what = f"{effect_text(effect)} {MARKS[effect.verdict]}"
            sheet.write(WIDTH - 2, TOP + PITCH * row + 13, what, colour="muted", align="right")
        words = ("◂ better", "worse ▸") if kind.lower_is_better else ("◂ worse", "better ▸")
        sheet.write(0, height - 8, words[0], colour="muted")
        sheet.write(WIDTH - 2, height - 8, words[1], colour="muted", align="right")
        scale = "ratio (log scale)" if ratio else {"": comparison.metric}.get(kind.unit, kind.unit)
        sheet.write(WIDTH / 2, height - 8, scale, colour="muted", align="center")
        sheet.write(0, 14, title)
        return sheet.svg()


def training_times(comparison: Comparison) -> str:
    """Draw a bar of training time for each recipe, with the interval of its ratio to the baseline where it ends."""
    rows = [
        (i, recipe, seconds)
        for i, recipe in enumerate(comparison.recipes)
        if (seconds := recipe.means.get("train_seconds")) is not None
    ]
    if not rows:
        return ""
    baseline = comparison.recipes[0].means.get("train_seconds")
    longest = max(seconds for _, _, seconds in rows)
    divisor, unit = time_unit([longest])
    said = "; ".join(f"{shorten(recipe.name, 24)} {duration(seconds)}" for _, recipe, seconds in rows)
    pitch = PITCH - 2
    with drawing("training-times", "Training time", said, TOP + pitch * len(rows) + 32, left=1, bottom=32) as sheet:
        sheet.write(0, 14, f"training time, {unit} (shorter is better)")
        for row, (index, recipe, seconds) in enumerate(rows):
            y = pitch * row + 24
            sheet.write(0, TOP + pitch * row + 12, shorten(recipe.name, 30))
            sheet.write(WIDTH - 2, TOP + pitch * row + 12, duration(seconds), align="right")
            sheet.axes.barh(y, seconds / divisor, 12, color=line_style(index)["color"], alpha=0.85)
            effect = recipe.effects.get("train_seconds")
            estimate = effect.estimate if effect else None
            if baseline and estimate and estimate.low is not None and estimate.high is not None:
                # From the recipe's own mean, which differs from baseline x ratio where pairs are missing.
                low, high = (seconds * bound / estimate.value / divisor for bound in (estimate.low, estimate.high))
                high = min(high, LONGEST_INTERVAL * longest / divisor)
                sheet.axes.plot([low, high], [y, y], color=SLOTS["page"], linewidth=4.5)
                sheet.axes.plot([low, high], [y, y], color=SLOTS["ink"], linewidth=1.6)
        sheet.axes.set_ylim(pitch * len(rows), 0)
        sheet.axes.set_xlim(left=0)
        sheet.axes.yaxis.set_major_locator(NullLocator())
        return sheet.svg()


def qualities(comparison: Comparison) -> str:
    """Draw the metric of each run as a dot and their mean as a large one, beside lines for the yardsticks."""
    points = {
        i: [v for run in finished(recipe) if (v := run.scores["best"].get(comparison.metric)) is not None]
        for i, recipe in enumerate(comparison.recipes)
    }
    points = {i: values for i, values in points.items() if values}
    if not points:
        return ""
    means = {i: float(np.mean(values)) for i, values in points.items()}
    said = [f"{shorten(comparison.recipes[i].name, 24)} {value_text(means[i], '')}" for i in points]
    marks = list(comparison.yardsticks.items())
    said += [f"{YARDSTICKS[name]} {value_text(value, '')}" for name, value in marks]
    pitch = PITCH - 8
    foot = 32 + 15 * len(marks)
    height = TOP + pitch * len(points) + foot
    with drawing("qualities", f"Best {comparison.metric}", "; ".join(said), height, left=1, bottom=foot) as sheet:
        sheet.write(0, 14, f"best {metric_label(comparison)}")
        for row, (index, values) in enumerate(points.items()):
            y = pitch * row + 24
            sheet.write(0, TOP + pitch * row + 12, shorten(comparison.recipes[index].name, 30))
            sheet.write(WIDTH - 2, TOP + pitch * row + 12, value_text(means[index], ""), align="right")
            style = line_style(index) | {"linestyle": "", "marker": marker(index)}
            sheet.axes.plot(values, [y] * len(values), markersize=4, alpha=0.5, **style)
            sheet.axes.plot([means[index]], [y], markersize=8, markeredgecolor=SLOTS["page"], **style)
        for place, (name, value) in enumerate(marks):
            sheet.axes.axvline(value, color=SLOTS["muted"], linestyle=DASHES[2 + place], linewidth=1.3, zorder=1)
            text = f"{'· · ·' if place == 0 else '– · –'} {YARDSTICKS[name]} {value_text(value, '')}"
            sheet.write(WIDTH - 2, height - 6 - 15 * (len(marks) - 1 - place), text, colour="muted", align="right")
        low, high = sheet.axes.get_xlim()
        sheet.axes.set_xlim(low, high + 0.2 * (high - low))  # numbers stand at the right
        sheet.axes.set_ylim(pitch * len(points), 0)
        sheet.axes.yaxis.set_major_locator(NullLocator())
        return sheet.svg()


def _reach(compared: Sequence[Effect], ratio: bool) -> tuple[float, float]:
    """Return the ends of an axis that shows every estimate, no difference, and intervals unless one dwarfs the rest."""
    known = [effect.estimate for effect in compared if effect.estimate is not None]
    ends = [(e.value if e.low is None else e.low, e.value if e.high is None else e.high) for e in known]
    table = np.array([(e.value, *bounds) for e, bounds in zip(known, ends, strict=True)])
    table = np.log(table) if ratio else table
    largest = np.abs(table).max(axis=1)
    # An interval of two pairs can be a hundred times as wide as one of six, which would then be a dot.
    estimates = np.abs(table[:, 0]).max()
    cap = max(estimates, min(3 * np.median(largest), max(2 * estimates, np.log(UNCLEAR)) if ratio else np.inf))
    low, high = min(0.0, table.clip(-cap, cap).min()), max(0.0, table.clip(-cap, cap).max())
    pad = 0.06 * (high - low) or 0.1
    return (float(np.exp(low - pad)), float(np.exp(high + pad))) if ratio else (float(low - pad), float(high + pad))


def _draw_interval(axes: Axes, effect: Effect, index: int, y: float) -> None:
    if (estimate := effect.estimate) is None:
        return
    style = line_style(index) | {"linestyle": "-"}
    inside = [value for value in effect.each if axes.get_xlim()[0] <= value <= axes.get_xlim()[1]]
    if len(effect.each) > 1:
        dots = style | {"linestyle": "", "zorder": 1}
        axes.plot(inside, [y + PAIR_OFFSET] * len(inside), marker="o", markersize=3, markeredgewidth=0, **dots)
    if estimate.low is not None and estimate.high is not None:
        low, high = axes.get_xlim()
        axes.plot([max(estimate.low, low), min(estimate.high, high)], [y, y], solid_capstyle="butt", **style)
        for beyond, end, shape in ((estimate.low < low, low, "<"), (estimate.high > high, high, ">")):
            if beyond:
                axes.plot([end], [y], marker=shape, clip_on=False, **style)
    face = SLOTS["page"] if effect.verdict == "inconclusive" else style["color"]
    axes.plot([estimate.value], [y], marker=marker(index), markersize=7, markerfacecolor=face, **style | {"zorder": 4})


def learning_curve(comparison: Comparison, against: Literal["step", "train_seconds"]) -> str:
    """Draw the metric of the validation rows at each evaluation: mean of the runs, and the band from least to most.

    Runs of a recipe are aligned by the number of the evaluation, as far as every one of them goes.
    """
    curves = {i: c for i, recipe in enumerate(comparison.recipes) if (c := _evaluations(recipe, against)) is not None}
    if not curves:
        return ""
    divisor, unit = time_unit([float(curve[0].max()) for curve in curves.values()]) if against != "step" else (1.0, "")
    what = "optimizer steps" if against == "step" else f"training time, {unit}"
    unit_of_x = "s" if against == "train_seconds" else ""
    said = [
        f"{shorten(comparison.recipes[i].name, 24)} {_ends(x, mean, unit_of_x)}" for i, (x, mean, *_) in curves.items()
    ]
    said += [f"{YARDSTICKS[name]} {value_text(value, '')}" for name, value in comparison.yardsticks.items()]
    with drawing(f"curve-{against}", f"{comparison.metric} against {what}", "; ".join(said)) as sheet:
        sheet.needs_legend = True
        for index, (x, mean, low, high) in curves.items():
            style = line_style(index)
            if len(x) > 1:
                sheet.axes.fill_between(x / divisor, low, high, color=style["color"], alpha=0.14, linewidth=0)
            else:
                sheet.axes.vlines(x / divisor, low, high, color=style["color"], alpha=0.5)
            sheet.axes.plot(x / divisor, mean, marker=marker(index) if len(x) <= 20 else "", **style)
        _draw_yardsticks(sheet, comparison)
        sheet.label(what, metric_label(comparison))
        return sheet.svg()


def _ends(x: Floats, values: Floats, unit: str) -> str:
    """Say where a line begins and ends: `from 0.5732 at step 8 to 0.3429 at step 32`; x: seconds or steps."""
    known = np.flatnonzero(np.isfinite(values))[[0, -1]]
    places = [value_text(float(at), unit) if unit else f"step {at:.0f}" for at in x[known]]
    first, last = (f"{value_text(float(v), '')} at {at}" for v, at in zip(values[known], places, strict=True))
    return f"from {first} to {last}" if first != last else first


def _draw_yardsticks(sheet: Drawing, comparison: Comparison) -> None:
    """Draw a line across the axes for the linear model and for the constant answer; where that would press the curves
    flat, only say where it is."""
    low, high = sheet.axes.get_ylim()
    for place, (name, value) in enumerate(comparison.yardsticks.items()):
        text = f"{YARDSTICKS[name]} {value_text(value, '')}"
        below = value < low
        where, at, align = sheet.axes.transAxes, 0.02 if below else 0.98 - 0.08 * place, "bottom" if below else "top"
        if max(high, value) - min(low, value) <= FLATTEST * (high - low):
            style = {"color": SLOTS["muted"], "linestyle": DASHES[2 + place], "linewidth": 1.2, "zorder": 1}
            sheet.axes.axhline(value, **style)
            where, at, align = sheet.axes.get_yaxis_transform(), value, "bottom"
        else:
            text = f"{'▾' if below else '▴'} {text}"
        sheet.axes.text(0.99, at, sheet.slot(text), transform=where, ha="right", va=align, color=SLOTS["muted"])


def _evaluations(recipe: RecipeResult, against: str) -> Floats | None:
    """Return a recipe's learning curve: mean x, mean, least and most of the metric [4, evaluations]."""
    runs = [run.evaluations for run in finished(recipe)]
    count = min((len(points) for points in runs), default=0)
    values = np.ma.masked_invalid([[np.nan if p.value is None else p.value for p in points[:count]] for points in runs])
    if values.count() == 0:
        return None
    x = np.array([[getattr(p, against) for p in points[:count]] for points in runs], float).mean(axis=0)
    summaries = (np.ma.mean(values, axis=0), np.ma.min(values, axis=0), np.ma.max(values, axis=0))
    return np.array([x, *(summary.filled(np.nan) for summary in summaries)])


def training_loss(comparison: Comparison) -> str:
    """Draw the training loss of each step, smoothed by a running mean: mean of the runs."""
    curves = {i: c for i, recipe in enumerate(comparison.recipes) if len(c := _smooth_loss(recipe))}
    if not curves:
        return ""
    drawn = np.concatenate(list(curves.values()))
    low, high = np.nanmin(drawn), np.nanmax(drawn)
    logarithmic = low > 0 and high > low
    said = [
        f"{shorten(comparison.recipes[i].name, 24)} {_ends(np.arange(1.0, len(own) + 1), own, '')}"
        for i, own in curves.items()
    ]
    with drawing("training-loss", "training loss against optimizer steps", "; ".join(said)) as sheet:
        sheet.needs_legend = True
        for index, losses in curves.items():
            shown = np.unique(np.linspace(0, len(losses) - 1, POINTS).astype(int))
            sheet.axes.plot(shown + 1, losses[shown], **line_style(index))
        if logarithmic:
            log_axis(sheet.axes, "y", float(low / (high / low) ** 0.05), float(high * (high / low) ** 0.05))
        sheet.label("optimizer steps", "training loss (log scale)" if logarithmic else "training loss")
        return sheet.svg()


def _smooth_loss(recipe: RecipeResult) -> Floats:
    runs = [run.losses for run in finished(recipe) if len(run.losses)]
    count = min((len(losses) for losses in runs), default=0)
    if not any(np.isfinite(losses[:count]).any() for losses in runs):
        return np.array([])
    losses = np.ma.masked_invalid([losses[:count] for losses in runs])
    width = np.ones(min(count, max(1, count // SMOOTHING) | 1))  # an odd number, so that it is centred
    sums = np.convolve(losses.sum(axis=0).filled(0), width, "same")
    counts = np.convolve(losses.count(axis=0), width, "same")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def memory_over_time(comparison: Comparison) -> str:
    """Draw the memory at each step of each recipe's first finished run, the largest value of each stretch."""
    runs = {i: finished(recipe)[:1] for i, recipe in enumerate(comparison.recipes)}
    first = {i: run[0] for i, run in runs.items() if run and np.isfinite(run[0].memory_bytes).any()}
    if not first:
        return ""
    divisor, unit = time_unit([float(np.nanmax(run.memory_seconds)) for run in first.values()])
    whose = "on the device" if comparison.memory_of == "device" else "of the process"
    said = [
        f"{shorten(comparison.recipes[i].name, 24)} at most {value_text(float(np.nanmax(run.memory_bytes)), 'bytes')}"
        for i, run in first.items()
    ]
    with drawing("memory", f"memory {whose} over time", "; ".join(said)) as sheet:
        sheet.needs_legend = True
        for index, run in first.items():
            known = np.flatnonzero(np.isfinite(run.memory_bytes))
            stretches = np.array_split(known, min(POINTS, len(known)))
            peaks = np.array([part[np.argmax(run.memory_bytes[part])] for part in stretches])
            sheet.axes.plot(run.memory_seconds[peaks] / divisor, run.memory_bytes[peaks] / 2**30, **line_style(index))
        sheet.axes.set_ylim(bottom=0)
        sheet.label(f"time since the process began, {unit}", f"memory {whose}, GiB")
        return sheet.svg()


def time_parts(comparison: Comparison) -> str:
    """Draw where each recipe's time goes, in parts of a whole run: means of the runs."""
    bars = {
        recipe.name: [_mean([run.overall.get(f"{part}_seconds") for run in finished(recipe)]) for part in PARTS]
        for recipe in comparison.recipes
        if finished(recipe)
    }
    divisor, unit = time_unit([sum(parts) for parts in bars.values()])
    totals = {name: duration(sum(parts)) for name, parts in bars.items()}
    scaled = {name: [seconds / divisor for seconds in parts] for name, parts in bars.items()}
    said = [
        f"{shorten(name, 24)} {totals[name]}: "
        + ", ".join(f"{what} {duration(size)}" for what, size in zip(PARTS.values(), parts, strict=True))
        for name, parts in bars.items()
    ]
    return _stacked(
        "time-parts",
        "time of a run, in parts",
        "; ".join(said),
        bars=scaled,
        totals=totals,
        colours=("part-1", "part-2", "part-3", "part-4"),
        unit=unit,
    )


def padding(comparison: Comparison) -> str:
    """Draw the tokens that the encoder computed in training, useful ones and padding: means of the runs."""
    bars: dict[str, list[float]] = {}
    for recipe in comparison.recipes:
        scores = [run.scores for run in finished(recipe)]
        if scores and all(s.get("tokens") and s.get("padding_fraction") is not None for s in scores):
            useful = _mean([s["tokens"] for s in scores])
            bars[recipe.name] = [useful, _mean([s["tokens"] / (1 - s["padding_fraction"]) for s in scores]) - useful]
    largest = max((sum(parts) for parts in bars.values()), default=0.0)
    divisor, unit = (1e6, "million tokens") if largest >= 1e6 else (1e3, "thousand tokens")
    totals = {name: f"{parts[1] / sum(parts):.1%} padding" for name, parts in bars.items()}
    scaled = {name: [tokens / divisor for tokens in parts] for name, parts in bars.items()}
    said = [f"{shorten(name, 24)} {sum(parts):.4g} {unit}, {totals[name]}" for name, parts in scaled.items()]
    return _stacked(
        "padding",
        "tokens computed in training",
        "; ".join(said),
        bars=scaled,
        totals=totals,
        colours=("part-2", "part-1"),
        unit=unit,
    )


def _stacked(
    name: str,
    title: str,
    says: str,
    *,
    bars: dict[str, list[float]],
    totals: dict[str, str],
    colours: Sequence[str],
    unit: str,
) -> str:
    """Draw a bar in parts for each recipe, its name and what `totals` says above it."""
    if not bars:
        return ""
    pitch = PITCH - 4
    with drawing(name, title, says, TOP + pitch * len(bars) + 40, left=1) as sheet:
        sheet.write(0, 14, title)
        for row, (recipe, parts) in enumerate(bars.items()):
            sheet.write(0, TOP + pitch * row + 11, shorten(recipe, 34))
            sheet.write(WIDTH - 2, TOP + pitch * row + 11, totals[recipe], colour="muted", align="right")
            left = 0.0
            for size, colour in zip(parts, colours, strict=True):
                y, edge = pitch * row + 22, SLOTS["page"]
                sheet.axes.barh(y, size, 11, left=left, color=SLOTS[colour], edgecolor=edge, linewidth=0.8)
                left += size
        sheet.axes.set_ylim(pitch * len(bars), 0)
        sheet.axes.set_xlim(left=0)
        sheet.axes.yaxis.set_major_locator(NullLocator())
        sheet.write(WIDTH - 2, sheet.height - 6, unit, colour="muted", align="right")
        return sheet.svg()


def pareto_front(comparison: Comparison) -> list[int]:
    """Return the recipes to which no other is both faster and better, by their means, the fastest first."""
    sign = 1 if comparison.lower_is_better else -1
    means = [(recipe.means.get("train_seconds"), recipe.means.get("quality_best")) for recipe in comparison.recipes]
    known = sorted(
        (seconds, sign * q, i) for i, (seconds, q) in enumerate(means) if seconds is not None and q is not None
    )
    return [i for n, (_, quality, i) in enumerate(known) if all(quality < other for _, other, _ in known[:n])]


def quality_and_time(comparison: Comparison) -> str:
    """Draw every run's best metric against its training time, the means larger, and the front of the means."""
    points = {
        i: [(run.scores["train_seconds"], run.scores["best"].get(comparison.metric)) for run in finished(recipe)]
        for i, recipe in enumerate(comparison.recipes)
    }
    known = {i: [(x, y) for x, y in pairs if y is not None] for i, pairs in points.items()}
    if not any(known.values()):
        return ""
    divisor, unit = time_unit([x for pairs in known.values() for x, _ in pairs])
    on_the_front = pareto_front(comparison)
    said = [
        f"{shorten(recipe.name, 24)} {mean_texts(recipe)}{', on the front' if i in on_the_front else ''}"
        for i, recipe in enumerate(comparison.recipes)
    ]
    with drawing("quality-and-time", f"best {comparison.metric} against training time", "; ".join(said)) as sheet:
        sheet.needs_legend = True
        front = [comparison.recipes[i].means for i in on_the_front]
        corners = np.array([[m["train_seconds"], m["quality_best"]] for m in front], float).reshape(-1, 2)
        sheet.axes.step(
            corners[:, 0] / divisor, corners[:, 1], where="post", color=SLOTS["muted"], linewidth=1, zorder=1
        )
        for index, pairs in known.items():
            style = line_style(index) | {"linestyle": "", "marker": marker(index)}
            sheet.axes.plot([x / divisor for x, _ in pairs], [y for _, y in pairs], alpha=0.4, markersize=4, **style)
            means = comparison.recipes[index].means
            if (x := means.get("train_seconds")) is not None and (y := means.get("quality_best")) is not None:
                sheet.axes.plot([x / divisor], [y], markersize=9, markeredgecolor=SLOTS["page"], **style)
        sheet.axes.margins(0.08)
        sheet.label(f"training time, {unit}", f"best {metric_label(comparison)}")
        return sheet.svg()


def mean_texts(recipe: RecipeResult) -> str:
    """Return a recipe's mean training time and its mean of the metric: `16.1 s, 0.3248`."""
    return ", ".join(value_text(recipe.means.get(n), u) for n, u in (("train_seconds", "s"), ("quality_best", "")))


def metric_label(comparison: Comparison) -> str:
    """Return the metric's name, and which way is better."""
    return f"{comparison.metric} ({'lower' if comparison.lower_is_better else 'higher'} is better)"


def time_unit(seconds: Sequence[float]) -> tuple[float, str]:
    """Return the unit that suits the largest of some times, and how many seconds it has."""
    largest = max(seconds, default=0.0)
    return (1.0, "seconds") if largest < 180 else (60.0, "minutes") if largest < 3 * 3600 else (3600.0, "hours")


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
