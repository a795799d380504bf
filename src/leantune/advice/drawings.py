"""Figures of an inspection, in the look of the report's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from leantune.comparison.words import value_text
from leantune.report.drawing import SLOTS, WIDTH, drawing, plain_number

Floats = NDArray[np.float64]

BINS = 30


def histogram(name: str, title: str, values: NDArray[Any], x_label: str, *, mark: float | None = None) -> str:
    """Draw how often values occur, with a line at `mark`; "" where there is only one value."""
    if len(values) == 0 or values.min() == values.max():
        return ""
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    high = high if high > low else float(values.max())
    bins = np.linspace(low, high, BINS + 1)
    if np.issubdtype(values.dtype, np.integer) and high - low < BINS:
        bins = np.arange(low - 0.5, high + 1.5)
    places = {"least": 0, "5% below": 0.05, "median": 0.5, "5% above": 0.95, "most": 1}
    said = [f"{what} {plain_number(float(np.quantile(values, place)))}" for what, place in places.items()]
    with drawing(name, title, f"{len(values):,} rows: {', '.join(said)}", 210) as sheet:
        counts, edges = np.histogram(np.clip(values, low, high), bins=bins)
        sheet.axes.bar(edges[:-1], counts, width=np.diff(edges) * 0.92, align="edge", color=SLOTS["series-1"])
        if mark is not None and mark <= high:
            sheet.axes.axvline(mark, color=SLOTS["worse"], linewidth=1.2)
        sheet.axes.grid(visible=False, axis="x")
        sheet.label(x_label, "rows")
        return sheet.svg()


def bars(name: str, title: str, names: Sequence[str], values: Sequence[float], said: Sequence[str]) -> str:
    """Draw a horizontal bar for each name, with what is said of it at its right."""
    pitch = 36
    says = "; ".join(f"{label} {text}" for label, text in zip(names, said, strict=True))
    with drawing(name, title, says, 8 + pitch * len(names), left=1, top=0, bottom=8) as sheet:
        sheet.axes.set_xlim(0, max([*values, 1e-9]))
        sheet.axes.set_ylim(pitch * len(names), 0)
        sheet.axes.yaxis.set_major_locator(NullLocator())
        sheet.axes.xaxis.set_major_locator(NullLocator())
        sheet.axes.spines["bottom"].set_visible(False)
        for row, (label, value, text) in enumerate(zip(names, values, said, strict=True)):
            sheet.axes.barh(pitch * row + 25, value, height=10, color=SLOTS["series-1"])
            sheet.write(0, pitch * row + 14, label if len(label) <= 32 else f"{label[:31]}…")
            sheet.write(WIDTH - 2, pitch * row + 14, text, colour="muted", align="right")
        return sheet.svg()


def curve(
    name: str, title: str, *, x: Sequence[float], points: Sequence[tuple[float, float, float]], labels: tuple[str, str]
) -> str:
    """Draw values with their intervals against numbers of rows, on a logarithmic axis."""
    said = [
        f"{value_text(value, '')} (95% interval {value_text(bottom, '')} to {value_text(top, '')}) at {rows:,.0f} rows"
        for rows, (value, bottom, top) in zip(x, points, strict=True)
    ]
    with drawing(name, title, f"{labels[1]} {'; '.join(said)}") as sheet:
        low = [value - bottom for value, bottom, _ in points]
        high = [top - value for value, _, top in points]
        sheet.axes.errorbar(
            x, [value for value, _, _ in points], yerr=[low, high], color=SLOTS["series-1"], marker="o", capsize=3
        )
        sheet.axes.set_xscale("log")
        sheet.axes.xaxis.set_major_locator(FixedLocator(list(x)))
        sheet.axes.xaxis.set_minor_locator(NullLocator())
        sheet.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        sheet.axes.set_xlim(x[0] * 0.8, x[-1] * 1.25)
        sheet.label(*labels)
        return sheet.svg()


def scatter(name: str, title: str, *, x: Floats, y: Floats, labels: tuple[str, str], diagonal: bool = True) -> str:
    """Draw points, of many a seeded part of them, beside the diagonal or the line of 0."""
    chosen = np.random.RandomState(0).permutation(len(x))[:1_500]
    ranges = [
        f"{label} from {plain_number(float(values.min()))} to {plain_number(float(values.max()))}"
        for label, values in zip(labels, (x, y), strict=True)
    ]
    if x.std() > 0 and y.std() > 0:
        ranges.append(f"correlation {value_text(float(np.corrcoef(x, y)[0, 1]), '')}")
    with drawing(name, title, f"{len(x):,} rows: {', '.join(ranges)}", 260) as sheet:
        sheet.axes.plot(x[chosen], y[chosen], "o", markersize=2.2, color=SLOTS["series-1"], alpha=0.45, mew=0)
        if diagonal:
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            sheet.axes.plot(ends, ends, color=SLOTS["muted"], linewidth=1)
        else:
            sheet.axes.axhline(0, color=SLOTS["muted"], linewidth=1)
        sheet.label(*labels)
        return sheet.svg()
