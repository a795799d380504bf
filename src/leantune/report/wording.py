"""What a comparison says, in words and numbers: the same in the report's page, its Markdown and its figures."""

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from leantune.comparison.comparing import Comparison, RecipeResult
from leantune.comparison.effects import Effect
from leantune.comparison.paired import Estimate
from leantune.system.formatting import duration, figure

MARKS = {"better": "▲", "worse": "▼", "inconclusive": "○"}
"""A shape for each verdict, so that no colour has to say it."""
ANSWERED = ("train_seconds", "peak_bytes", "quality_best")
"""Measures that the answer at the top speaks about, in its order; the last evaluation's only if it says otherwise."""
PHRASES = {
    "train_seconds": ("trains {} times as fast", "takes {} times as long to train"),
    "peak_bytes": ("needs {} times the peak memory", "needs {} times the peak memory"),
}
"""How a better and a worse ratio are said."""
YARDSTICKS = {"linear": "linear model", "constant": "constant answer"}
"""What the runs are held against besides each other, as it is called."""
NO_BREAK = "\N{NO-BREAK SPACE}"


def value_text(value: float | None, unit: str) -> str:
    """Return a run's or a mean's value in its unit, `unit` as in `Measure`; `–` for None."""
    if value is None:
        return "–"
    match unit:
        case "s":
            return duration(value)
        case "bytes":
            return f"{figure(value / 2**30, 2)} GiB"
        case "share":
            return f"{value:.1%}"
        case "tokens/s":
            return f"{value:,.0f} tokens/s"
        case _:
            return minus(figure(value, 4))


def spread_text(spread: float | None, mean: float | None, unit: str) -> str:
    """Return a standard deviation with as many places as its mean has: `± 0.0031`; nothing for None."""
    if spread is None or mean is None:
        return ""
    match unit:
        case "bytes":
            return f"± {spread / 2**30:.2f}"
        case "share":
            return f"± {spread:.1%}"
        case "tokens/s":
            return f"± {spread:,.0f}"
        case "s":
            return f"± {duration(spread)}"
        case _:
            mantissa = figure(mean, 4)
            places = 0 if "e" in mantissa else len(mantissa.partition(".")[2])
            return f"± {spread:,.{places}f}" if places else f"± {figure(spread, 2)}"


def effect_text(effect: Effect) -> str:
    """Return a difference or ratio with its interval: `−0.0015 [−0.0100, +0.0070]`, `× 0.58 [0.55, 0.61]`."""
    if effect.estimate is None:
        return "not compared"
    if effect.measure.kind == "ratio":
        return f"× {' '.join(_ratio(effect.estimate))}"
    scale, after, most = (100, " points", 1) if effect.measure.unit == "share" else (1, "", 4)
    known = [effect.estimate.value, effect.estimate.low, effect.estimate.high]
    value, *bounds = (bound * scale for bound in known if bound is not None)
    places = _places((bounds[1] - bounds[0]) / 2 if len(bounds) == 2 else abs(value), most)
    number, *interval = _numbers([value, *bounds], f"{'+' if any(known) else ''},.{places}f")
    return " ".join([number + after, *interval])


def _ratio(ratio: Estimate, *, invert: bool = False) -> list[str]:
    """Return a ratio and its interval, if there is one; inverted, since from logarithms that is the inverse's, too."""
    known = [bound for bound in (ratio.value, ratio.low, ratio.high) if bound is not None]
    if invert and min(known) > 0:
        value, *bounds = (1 / bound for bound in known)
        known = [value, *reversed(bounds)]
    narrow = len(known) == 3 and known[2] - known[1] < 0.015
    small = max(0, -1 - math.floor(math.log10(known[0]))) if known[0] > 0 else 0
    places = (3 if narrow else 2) + small
    return _numbers(known, f",.{1 if known[0] >= 10 else places}f")


def _numbers(known: Sequence[float], form: str) -> list[str]:
    value, *bounds = (minus(f"{bound:{form}}") for bound in known)
    return [value, f"[{f',{NO_BREAK}'.join(bounds)}]"] if len(bounds) == 2 else [value]


def _places(size: float, most: int = 4) -> int:
    """Return the places after the point that give `size` three digits, but two rather than more places than `most`."""
    exponent = math.floor(math.log10(size)) if 0 < size < math.inf else 2
    return max(0, 1 - exponent, min(2 - exponent, most))


def verdict_text(effect: Effect) -> str:
    """Return the verdict with its shape: `▲ better`; where there is no interval, that, and why."""
    estimate = effect.estimate
    if estimate is None:
        return f"{MARKS['inconclusive']} {effect.reason or 'no pair'}"
    if estimate.low is None and effect.verdict != "inconclusive":
        return f"{MARKS[effect.verdict]} {effect.verdict} ({effect.reason})"
    if estimate.low is None:
        why = "one pair" if estimate.pairs == 1 else f"equal in all {estimate.pairs} pairs"
        return f"{MARKS['inconclusive']} no interval ({why})"
    return f"{MARKS[effect.verdict]} {effect.verdict}"


def minus(text: str) -> str:
    """Return text with a true minus sign, as wide as a plus."""
    return text.replace("-", "−")


def answer_lead(comparison: Comparison) -> str:
    """Return the words before the answers: against what, and over how many pairs."""
    pairs = max(map(_pairs, comparison.recipes))
    folds, seeds = numbers("fold", comparison.folds), numbers("seed", comparison.seeds)
    return f"Against {comparison.baseline}, in {pairs} {'pair' if pairs == 1 else 'pairs'} of runs ({folds}; {seeds}):"


def answer(recipe: RecipeResult) -> str:
    """Return one sentence on what a recipe changed; what no interval tells apart from chance is never called equal."""
    effects = [recipe.effects[name] for name in ANSWERED if name in recipe.effects]
    best, last = recipe.effects.get("quality_best"), recipe.effects.get("quality_last")
    if best and last and best.verdict != last.verdict:
        effects.append(last)
    tested = [effect for effect in effects if effect.estimate is not None and effect.estimate.low is not None]
    shown = [_phrase(effect) for effect in tested if effect.verdict != "inconclusive"]
    unsettled = [effect for effect in tested if effect.verdict == "inconclusive"]
    bare = [(effect, effect.estimate.pairs) for effect in effects if effect.estimate and effect.estimate.low is None]
    single = [effect for effect, pairs in bare if pairs == 1]
    alike = [effect for effect, pairs in bare if pairs > 1]
    missing = [effect for effect in effects if effect.estimate is None]
    parts = [_listed(shown, "and")] if shown else []
    if unsettled:
        labels = [f"{e.measure.label} ({'; '.join(filter(None, (effect_text(e), e.reason)))})" for e in unsettled]
        parts.append(f"no difference could be shown in {_listed(labels, 'or')}")
    for group, what in ((alike, "alike in all pairs (no interval)"), (single, "in one pair, which may be chance")):
        if group:
            parts.append(f"{_listed([f'{e.measure.label} {effect_text(e)}' for e in group], 'and')} {what}")
    if missing:
        parts.append(f"{_listed([e.measure.label for e in missing], 'and')} could not be compared")
    return f"{'; '.join(parts) or 'nothing was compared'}."


def pairs_note(comparison: Comparison, recipe: RecipeResult) -> str:
    """Return in how many pairs a recipe was compared, where it has fewer than another: `(5 of 6 pairs)`."""
    most = max(map(_pairs, comparison.recipes))
    return f"({_pairs(recipe)} of {most} pairs)" if _pairs(recipe) < most else ""


def _phrase(effect: Effect) -> str:
    """Say a difference that is more than chance."""
    name, better = effect.measure.name, effect.verdict == "better"
    if effect.estimate is None or name not in PHRASES:
        return f"is {effect.verdict} in {effect.measure.label} ({effect_text(effect)})"
    number, *interval = _ratio(effect.estimate, invert=name == "train_seconds" and better)
    return " ".join([PHRASES[name][0 if better else 1].format(number), *interval])


def _pairs(recipe: RecipeResult) -> int:
    return max((e.estimate.pairs for e in recipe.effects.values() if e.estimate is not None), default=0)


def _listed(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def numbers(word: str, values: Sequence[int]) -> str:
    """Return numbers with their noun: `fold 0`, `seeds 0, 1 and 2`."""
    return f"{word if len(values) == 1 else f'{word}s'} {_listed([str(value) for value in values] or ['none'], 'and')}"


def setting_text(value: Any) -> str:
    """Return a setting's value as one writes it: texts bare, `–` for one that is not there."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {setting_text(inner)}" for name, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def shorten(text: str, columns: int) -> str:
    """Return a text on one line, at most so many columns wide (a Japanese character has two), cut in the middle."""
    text = " ".join(text.split())
    if cell_len(text) <= columns:
        return text
    head, tail = text[: columns // 2], text[-(columns // 2) :]
    while cell_len(head) + cell_len(tail) >= columns:
        head, tail = (head[:-1], tail) if cell_len(head) > cell_len(tail) else (head, tail[1:])
    return f"{head}…{tail}"
