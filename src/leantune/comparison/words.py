"""How one value, one difference and one verdict are written: the same wherever a comparison is shown."""

import math
from collections.abc import Sequence

from leantune.comparison.effects import Effect
from leantune.comparison.paired import Estimate
from leantune.system.formatting import duration, figure

MARKS = {"better": "▲", "worse": "▼", "as good": "◆", "inconclusive": "○"}
"""A shape for each verdict, so that no colour has to say it."""
UNCLEAR = 20.0
"""A ratio's interval that reaches further from 1 than so many times, either way, says no more than that it does."""
NO_BREAK = "\N{NO-BREAK SPACE}"


def value_text(value: float | None, unit: str) -> str:
    """Return a run's or a mean's value in its unit, `unit` as in `Measure`; `–` for None. Neither this nor any other
    number here is parted from its unit or its sign where a line ends."""
    if value is None:
        return "–"
    match unit:
        case "s":
            return duration(value).replace(" ", NO_BREAK)
        case "bytes":
            return f"{figure(value / 2**30, 2)}{NO_BREAK}GiB"
        case "share":
            return f"{value:.1%}"
        case "tokens/s":
            return f"{value:,.0f}{NO_BREAK}tokens/s"
        case _:
            return minus(figure(value, 4))


def spread_text(spread: float | None, mean: float | None, unit: str) -> str:
    """Return a standard deviation with as many places as its mean has: `± 0.0031`; nothing for None."""
    if spread is None or mean is None:
        return ""
    match unit:
        case "bytes":
            text = f"{spread / 2**30:.2f}"
        case "share":
            text = f"{spread:.1%}"
        case "tokens/s":
            text = f"{spread:,.0f}"
        case "s":
            text = value_text(spread, unit)
        case _:
            mantissa = figure(mean, 4)
            places = 0 if "e" in mantissa else len(mantissa.partition(".")[2])
            text = f"{spread:,.{places}f}" if places else figure(spread, 2)
    return f"±{NO_BREAK}{text}"


def effect_text(effect: Effect) -> str:
    """Return a difference or ratio with its interval: `−0.0015 [−0.0100, +0.0070]`, `× 0.58 [0.55, 0.61]`.

    The interval has as many places as it takes to see what the verdict sees in it. What is as good is shown no finer
    than the tolerance, and an interval that has no width then is rounded outwards: `0.0000 [−0.0001, +0.0001]`.
    """
    if effect.estimate is None:
        return "not compared"
    if effect.measure.kind == "ratio":
        return f"×{NO_BREAK}{' '.join(ratio_texts(effect.estimate))}"
    scale, after, most = (100, f"{NO_BREAK}points", 1) if effect.measure.unit == "share" else (1, "", 4)
    known = [effect.estimate.value, effect.estimate.low, effect.estimate.high]
    value, *bounds = (bound * scale for bound in known if bound is not None)
    places = places_for((bounds[1] - bounds[0]) / 2 if len(bounds) == 2 else abs(value), most)
    limits = [] if effect.tolerance is None else [-effect.tolerance * scale, effect.tolerance * scale]
    if effect.tolerance is not None and effect.verdict == "as good":
        places = min(places, places_for(effect.tolerance * scale, most))
    elif not _holds(bounds, 0.0):
        limits.append(0.0)
    places = telling_places(bounds, limits, places)
    number, *interval = _numbers([value, *bounds], places, "+", limits)
    return " ".join([number + after, *interval])


def ratio_texts(ratio: Estimate, *, invert: bool = False) -> list[str]:
    """Return a ratio and its interval, if there is one; inverted, since from logarithms that is the inverse's, too."""
    known = [bound for bound in (ratio.value, ratio.low, ratio.high) if bound is not None]
    if invert and min(known) > 0:
        value, *bounds = (1 / bound for bound in known)
        known = [value, *reversed(bounds)]
    narrow = len(known) == 3 and known[2] - known[1] < 0.015
    small = max(0, -1 - math.floor(math.log10(known[0]))) if known[0] > 0 else 0
    places = 1 if known[0] >= 10 else (3 if narrow else 2) + small
    limits = [] if _holds(known[1:], 1.0) else [1.0]
    places = telling_places(known[1:], limits, places)
    number, *interval = _numbers(known, places, "", limits)
    if len(known) == 3:
        least, most = min(1.0, known[0]) / UNCLEAR, max(1.0, known[0]) * UNCLEAR
        low, high = interval[0].strip("[]").split(f",{NO_BREAK}")
        low = f"under {least:.2g}" if known[1] < least else low
        high = f"over {most:,.0f}" if known[2] > most else high
        interval = [f"[{low},{NO_BREAK}{high}]"]
    return [number, *interval]


def _holds(bounds: Sequence[float], value: float) -> bool:
    """Tell whether an interval has a value in it, which rounding cannot change."""
    return len(bounds) == 2 and bounds[0] <= value <= bounds[1]


def telling_places(bounds: Sequence[float], limits: Sequence[float], places: int) -> int:
    """Return so many places, or as many more as show each bound on its own side of each limit."""

    truth = _sides(bounds, limits)
    return next((p for p in range(places, 16) if _sides([round(bound, p) for bound in bounds], limits) == truth), 16)


def _sides(bounds: Sequence[float], limits: Sequence[float]) -> list[tuple[bool, bool]]:
    return [(bound < limit, bound > limit) for bound in bounds for limit in limits]


def _numbers(known: Sequence[float], places: int, sign: str, limits: Sequence[float]) -> list[str]:
    """Return a value and its interval, if there is one; what rounds to 0 has no sign."""
    value, *bounds = known
    if len(bounds) == 2 and bounds[0] < bounds[1] and round(bounds[0], places) == round(bounds[1], places):
        unit = 10.0**-places
        outer = [math.floor(bounds[0] / unit) * unit, math.ceil(bounds[1] / unit) * unit]
        bounds = outer if _sides(outer, limits) == _sides(bounds, limits) else bounds
    shown = [
        minus(f"{0.0 if round(bound, places) == 0 else bound:{sign if round(bound, places) else ''},.{places}f}")
        for bound in (value, *bounds)
    ]
    return [shown[0], f"[{f',{NO_BREAK}'.join(shown[1:])}]"] if len(bounds) == 2 else shown[:1]


def places_for(size: float, most: int = 4) -> int:
    """Return the places after the point that give `size` three digits, but two rather than more places than `most`."""
    exponent = math.floor(math.log10(size)) if 0 < size < math.inf else 2
    return max(0, 1 - exponent, min(2 - exponent, most))


def verdict_text(effect: Effect) -> str:
    """Return the verdict with its shape: `▲ better`; where there is no interval, that, and why."""
    estimate, said = effect.estimate, str(effect.verdict)
    if estimate is None:
        said = effect.reason or "no pair"
    elif estimate.low is None and effect.verdict != "inconclusive":
        said = f"{effect.verdict} ({effect.reason})"
    elif estimate.low is None:
        why = "one pair" if estimate.pairs == 1 else f"equal in all {estimate.pairs} pairs"
        said = f"no interval ({why})"
    return f"{MARKS[effect.verdict]}{NO_BREAK}{said}"


def minus(text: str) -> str:
    """Return text with a true minus sign, as wide as a plus."""
    return text.replace("-", "−")
