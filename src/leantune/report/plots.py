"""Drawings of predictions beside what is true, of one run or of several recipes.

What is drawn of a recipe has the number at which it stands in its comparison, which gives colour, dashes and marker.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from leantune.comparison.words import minus, value_text
from leantune.inspection.mistakes import Reliability
from leantune.report.drawing import SLOTS, WIDTH, drawing, line_style, marker
from leantune.report.wording import shorten

Floats = NDArray[np.float64]

RESIDUAL_BINS = 24
TAIL = 0.005
"""Share of residuals at either end that stand in the outermost bin."""
LINE = 22
"""Units from one class of a confusion matrix to the next."""
NAMES = 104
"""Units for the names of its classes."""


def reliability(
    name: str,
    title: str,
    curves: Sequence[tuple[int, str, Reliability]],
    labels: tuple[str, str] = ("predicted probability", "share that was right"),
) -> str:
    """Draw what came true against what was predicted; curves: number and name of the recipe, and its bins."""
    said = [
        f"{shorten(own, 24)} {labels[0]} {_ends(bins.said)}, {labels[1]} {_ends(bins.was)}, on average "
        f"{value_text(bins.error, '')} apart"
        for _, own, bins in curves
    ]
    with drawing(name, title, "; ".join(said), 260) as sheet:
        sheet.needs_legend = len(curves) > 1
        drawn = np.concatenate([np.concatenate([bins.said, bins.was]) for *_, bins in curves])
        probabilities = labels[0] == "predicted probability"
        ends = [0.0, 1.0] if probabilities else [float(drawn.min()), float(drawn.max())]
        sheet.axes.plot(ends, ends, color=SLOTS["muted"], linewidth=1)
        for index, _, bins in curves:
            sheet.axes.plot(bins.said, bins.was, marker=marker(index), **line_style(index))
        if probabilities:
            sheet.axes.set_xlim(0, 1)
            sheet.axes.set_ylim(0, 1.02)
        sheet.label(*labels)
        return sheet.svg()


def _ends(values: Floats) -> str:
    return f"{value_text(float(values[0]), '')} to {value_text(float(values[-1]), '')}"


def residuals(name: str, title: str, curves: Sequence[tuple[int, str, Floats]], x_label: str) -> str:
    """Draw how the residuals of each recipe are spread, in percent of its rows; "" where all are the same."""
    joined = np.concatenate([values for *_, values in curves])
    low, high = (float(end) for end in np.quantile(joined, [TAIL, 1 - TAIL]))
    if not low < high:
        return ""
    edges = np.linspace(low, high, RESIDUAL_BINS + 1)
    said = [
        f"{shorten(own, 24)} mean {value_text(float(values.mean()), '')}, 90% of the rows from "
        f"{_ends(np.quantile(values, (0.05, 0.95)))}"
        for _, own, values in curves
    ]
    with drawing(name, title, "; ".join(said), 260) as sheet:
        sheet.needs_legend = len(curves) > 1
        sheet.axes.axvline(0, color=SLOTS["muted"], linewidth=1)
        for index, _, values in curves:
            counts, _ = np.histogram(values.clip(low, high), bins=edges)
            sheet.axes.plot((edges[:-1] + edges[1:]) / 2, 100 * counts / len(values), **line_style(index))
        sheet.axes.set_ylim(bottom=0)
        sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        sheet.label(x_label, "rows")
        return sheet.svg()


def confusion(name: str, title: str, matrix: NDArray[np.int64], labels: Sequence[str], head: str) -> str:
    """Draw a confusion matrix: a line for each class, a column for what was predicted, darker where more of it went."""
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    count, top = len(labels), 46
    height = top + LINE * count + 8
    said = [
        f"of {own} " + ", ".join(f"{share:.0%} as {of}" for of, share in zip(labels, line, strict=True) if share > 0)
        for own, line in zip(labels, shares, strict=True)
    ]
    with drawing(name, title, f"predicted, {'; '.join(said)}", height, left=NAMES, top=top, bottom=8) as sheet:
        axes, width = sheet.axes, (WIDTH - 2 - NAMES) / count
        axes.set(xlim=(0, count), ylim=(count, 0))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.xaxis.set_major_locator(NullLocator())
        axes.yaxis.set_major_locator(NullLocator())
        sheet.write(0, 14, head)
        sheet.write(0, top - 8, "target ↓  predicted →", colour="muted")
        characters = max(3, int(width / 6.5))
        for line, own in enumerate(labels):
            sheet.write(0, top + LINE * (line + 0.68), shorten(own, 16))
            sheet.write(NAMES + width * (line + 0.5), top - 8, shorten(own, characters), colour="muted", align="center")
            for column in range(count):
                share = float(shares[line, column])
                colour = SLOTS["series-1"] if line == column else SLOTS["worse"]
                cell = Rectangle(
                    (column + 0.02, line + 0.04), 0.96, 0.92, color=colour, alpha=0.06 + 0.5 * share, linewidth=0
                )
                axes.add_patch(cell)
                text = f"{share:.0%}" if width > 30 else f"{100 * share:.0f}"
                where = NAMES + width * (column + 0.5), top + LINE * (line + 0.68)
                sheet.write(*where, minus(text), align="center")
        return sheet.svg()
