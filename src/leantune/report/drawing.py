"""What all figures of a report share: a sheet to draw on, and an SVG element that takes on the page's colours.

Matplotlib sees neither colours nor a user's texts, only slots: the finished SVG text gets `var(--series-1, #...)`,
which a page may set for light and dark, and texts in the page's own font, escaped. Figures are 360 units wide, so that
a phone shows them at about their own size. Equal comparisons give equal bytes.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from leantune.comparison.words import minus
from leantune.report.wording import shorten

WIDTH = 360
LIGHT = {
    "page": "#fcfcfa",
    "ink": "#1c1d20",
    "muted": "#5c6068",
    "rule": "#dcdcd6",
    "better": "#00704f",
    "worse": "#b53a10",
    "part-1": "#8b9098",
    "part-2": "#005f9e",
    "part-3": "#4c9ac8",
    "part-4": "#b87800",
    "series-1": "#005f9e",
    "series-2": "#e0491c",
    "series-3": "#0a9b70",
    "series-4": "#c068a4",
    "series-5": "#6f8c24",
    "series-6": "#5589ee",
    "series-7": "#742810",
    "series-8": "#5f2bb5",
}
"""Colours on a light page: series differ for colour-blind eyes, too, and have a contrast of 3 with the page."""
DARK = {
    "page": "#15171a",
    "ink": "#eceae6",
    "muted": "#a2a6ad",
    "rule": "#34383d",
    "better": "#48cf9a",
    "worse": "#ff8f63",
    "part-1": "#868c94",
    "part-2": "#5d8fe6",
    "part-3": "#9acdfb",
    "part-4": "#e0a93a",
    "series-1": "#5d8fe6",
    "series-2": "#ef7434",
    "series-3": "#38dc80",
    "series-4": "#d576ac",
    "series-5": "#f5c93c",
    "series-6": "#9acdfb",
    "series-7": "#917657",
    "series-8": "#9168ff",
}
SLOTS = {name: f"#f0f0{index:02x}" for index, name in enumerate(LIGHT)}
"""What matplotlib draws in, in place of each colour."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)), (0, (4, 1, 1, 1, 1, 1)))
ROUND = [1, 2, 2.5, 5, 10]
"""Ticks are these numbers times a power of ten."""
STYLE = {
    "axes.edgecolor": SLOTS["rule"],
    "axes.grid": True,
    "axes.labelcolor": SLOTS["muted"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "font.size": 11.0,
    "grid.color": SLOTS["rule"],
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "lines.markeredgewidth": 1.2,
    "svg.fonttype": "none",
    "text.color": SLOTS["ink"],
    "text.parse_math": False,
    "xtick.color": SLOTS["rule"],
    "xtick.labelcolor": SLOTS["muted"],
    "ytick.color": SLOTS["rule"],
    "ytick.labelcolor": SLOTS["muted"],
    "ytick.left": False,
}


class Drawn(str):
    """A finished SVG element, which can also be had as files that stand alone."""

    name: str
    sheet: "Drawing"

    def files(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return `png` and `svg`: on a light page, with a legend of the recipes `names` where the figure needs one.

        To be asked for once: the figure is changed.
        """
        return self.sheet.files(names)


class Drawing:
    """One figure with one pair of axes, laid out in units of the SVG, and the texts that it will get."""

    def __init__(
        self, name: str, title: str, says: str, height: int, *, left: int = 44, top: int = 28, bottom: int = 40
    ) -> None:
        self.name, self.title, self.says, self.height = name, title, says, height
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")
        right = 2
        box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - top - bottom) / height)
        self.axes: Axes = self.figure.add_axes(box, facecolor="none")
        self.axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        self.axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        for axis in (self.axes.xaxis, self.axes.yaxis):
            axis.set_major_formatter(FuncFormatter(plain_number))
        self._texts: list[str] = []
        self.needs_legend = False
        """Whether recipes are told by colour and shape alone."""

    def slot(self, text: str) -> str:
        """Return what stands for a text until the SVG is there."""
        self._texts.append(text)
        return f"{{{len(self._texts) - 1}}}"

    def write(self, x: float, y: float, text: str, *, colour: str = "ink", align: str = "left") -> None:
        """Write a text at x, y units from the upper left corner."""
        where = (x / WIDTH, 1 - y / self.height)
        self.figure.text(*where, self.slot(text), color=SLOTS[colour], ha=align, va="baseline")

    def label(self, x_label: str, y_label: str) -> None:
        """Name the axes and their units, both horizontally: nobody tilts a phone."""
        self.write(0, 14, y_label)
        self.write(WIDTH - 2, self.height - 6, x_label, colour="muted", align="right")

    def svg(self) -> Drawn:
        """Return the SVG element."""
        file = io.StringIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
        text = file.getvalue()
        body = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]  # after the style for whole pages
        body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", body)
        body = re.sub(r"; font-family: [^;\"]*", "", body)
        body = re.sub(r"font: (\d+px) [^;\"]*", r"font-size: \1", body)  # before matplotlib 3.11
        body = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", body)
        for name, slot in SLOTS.items():
            body = body.replace(slot, f"var(--{name}, {LIGHT[name]})")
        body = re.sub(r"\{(\d+)\}", lambda found: html.escape(self._texts[int(found[1])]), body)
        drawn = Drawn(
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-labelledby="{self.name}-title {self.name}-says" '
            'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '
            f'stroke-linejoin="round"><title id="{self.name}-title">{html.escape(self.title)}</title>'
            f'<desc id="{self.name}-says">{html.escape(self.says)}</desc>{body}</svg>'
        )
        drawn.name, drawn.sheet = self.name, self
        return drawn

    def files(self, names: Sequence[str]) -> dict[str, bytes]:
        """See `Drawn.files`."""
        with matplotlib.style.context(["default", STYLE | {"svg.hashsalt": self.name}]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the font may lack a letter of a name
            for index, name in enumerate(names if self.needs_legend else ()):
                self._add_to_legend(index, name)
            for artist in self.figure.findobj():
                _recolour(artist)
                if isinstance(artist, Text):
                    filled = re.sub(r"\{(\d+)\}", lambda found: self._texts[int(found[1])], artist.get_text())
                    artist.set_text(filled.encode("utf-8", "backslashreplace").decode())
            found = {}
            for kind in ("png", "svg"):
                file = io.BytesIO()
                self.figure.savefig(
                    file,
                    format=kind,
                    dpi=200,
                    bbox_inches="tight",
                    pad_inches=0.12,
                    facecolor=LIGHT["page"],
                    metadata={"Date": None, "Title": self.title.encode("utf-8", "backslashreplace").decode()}
                    if kind == "svg"
                    else None,
                )
                found[kind] = file.getvalue()
        return found

    def _add_to_legend(self, index: int, name: str) -> None:
        """Write a recipe's name below the figure, in two columns."""
        x, y = WIDTH / 2 * (index % 2), self.height + 16 * (1 + index // 2)
        ends, height = [x / WIDTH, (x + 30) / WIDTH], 1 - (y - 4) / self.height
        style = {**line_style(index), "transform": self.figure.transFigure, "clip_on": False}
        self.figure.add_artist(Line2D(ends, [height, height], **style))
        self.figure.add_artist(Line2D([sum(ends) / 2], [height], marker=marker(index), **style))
        self.write(x + 38, y, shorten(name, 20))


def _recolour(artist: Artist) -> None:
    """Put the light page's colours in place of the slots."""
    for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
        get, put = getattr(artist, f"get_{part}", None), getattr(artist, f"set_{part}", None)
        if get is None or put is None:
            continue
        colours = to_rgba_array(get())
        slots = {to_rgba(slot)[:3]: name for name, slot in SLOTS.items()}
        known = [slots.get(tuple(colour[:3])) for colour in colours]
        if any(known):
            alpha = artist.get_alpha()
            new = [to_rgba(LIGHT[name]) if name else tuple(colour) for name, colour in zip(known, colours, strict=True)]
            put(new[0] if len(new) == 1 else new)
            artist.set_alpha(alpha)


@contextmanager
def drawing(name: str, title: str, says: str, height: int = 230, **margins: int) -> Iterator[Drawing]:
    """Draw with matplotlib's defaults and our style, whatever the user's own matplotlibrc says, and undo it after.

    `says` has the figure's numbers, for whoever hears the page instead of seeing it.
    """
    with matplotlib.style.context(["default", STYLE | {"svg.hashsalt": name}]):
        yield Drawing(name, title, says, height, **margins)


def colour_of(index: int) -> str:
    """Return the colour's name of the recipe that stands at `index`; the baseline, at 0, is ink."""
    return "ink" if index == 0 else f"series-{(index - 1) % 8 + 1}"


def marker(index: int) -> str:
    """Return matplotlib's name of the marker of the recipe that stands at `index`."""
    return MARKERS[index % len(MARKERS)]


def line_style(index: int) -> dict[str, Any]:
    """Return colour, dashes and order of drawing of the recipe that stands at `index`."""
    colour = SLOTS[colour_of(index)]
    return {"color": colour, "linestyle": DASHES[index % len(DASHES)], "zorder": 3 - index / 100}


def swatch(index: int) -> str:
    """Draw the line and marker of the recipe that stands at `index`, 36 x 12 units, as a symbol to be used again."""
    with drawing(f"swatch-{index}", "", "", 12, left=0, top=0, bottom=0) as sheet:
        sheet.axes.set_axis_off()
        sheet.axes.set_position((0, 0, 36 / WIDTH, 1))
        sheet.axes.set(xlim=(0, 36), ylim=(0, 12))
        sheet.axes.plot([1, 35], [6, 6], **line_style(index))
        sheet.axes.plot([18], [6], marker=marker(index), markersize=6.5, **line_style(index))
        inner = re.sub(r"^.*</desc>|</svg>$", "", sheet.svg(), flags=re.DOTALL)
    return f'<symbol id="swatch-{index}" viewBox="0 0 36 12">{inner}</symbol>'


def log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic from `low` to `high`, its ticks at round numbers even in a narrow stretch."""
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    if high / low > 8:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    else:
        ticks = list(MaxNLocator(6, steps=ROUND).tick_values(low, high))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain_number))


def plain_number(value: float, _: int | None = None) -> str:
    """Return a tick's number: no offset, no needless zeros."""
    return minus(f"{value:.6g}")
