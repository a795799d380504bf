"""What a comparison says, in words and numbers: the same in the report's page, its Markdown and its figures."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.cells import cell_len

from leantune.comparison.comparing import Comparison, RecipeResult
from leantune.comparison.effects import Effect
from leantune.comparison.paired import Estimate
from leantune.comparison.words import (
    NO_BREAK,
    effect_text,
    minus,
    places_for,
    ratio_texts,
    telling_places,
)
from leantune.system.formatting import figure

ANSWERED = ("train_seconds", "peak_bytes", "quality_best")
"""Measures that the answer at the top speaks about, in its order; the last evaluation's only if it says otherwise."""
MOST_SEEDS_TO_PASTE = 20
ABSOLUTE = re.compile(r"(?<![\w.~/:])/(?:[^\s/'\"`<>:,;()\[\]]+/)+[^\s/'\"`<>:,;()\[\]]+")
"""An absolute path in a text."""
SHORTENED = "Of paths outside of the folder in which this page was written, only the last name is shown."
YARDSTICKS = {"linear": "linear model", "constant": "constant answer"}
"""What the runs are held against besides each other, as it is called."""


def answer_lead(comparison: Comparison) -> str:
    """Return the words before the answers: against what, and over how many pairs."""
    pairs = max(map(_pairs, comparison.recipes))
    folds, seeds = numbers("fold", comparison.folds), numbers("seed", comparison.seeds)
    return f"Against {comparison.baseline}, in {pairs} {'pair' if pairs == 1 else 'pairs'} of runs ({folds}; {seeds}):"


def answer(recipe: RecipeResult) -> str:
    """Return one sentence on what a recipe changed, as one would tell somebody who may want to switch it on."""
    effects = recipe.effects
    parts = [_quality(effects[name]) for name in ("quality_best",) if name in effects]
    best, last = effects.get("quality_best"), effects.get("quality_last")
    if best and last and best.verdict != last.verdict:
        parts.append(_quality(last))
    resources = [say(effects[name]) for name, say in SAID.items() if name in effects]
    return f"{'; '.join([', '.join(resources), *parts] if resources else parts) or 'nothing was compared'}."


def _training_time(effect: Effect) -> str:
    if (unsure := _without_interval(effect)) or effect.estimate is None:
        return unsure
    if effect.verdict == "better":
        return f"trains {_said_ratio(effect.estimate, 'as fast', invert=True)}"
    if effect.verdict == "worse":
        return f"takes {_said_ratio(effect.estimate, 'as long to train')}"
    return f"training time is not settled: {_said_ratio(effect.estimate, 'as long')}"


def _memory(effect: Effect) -> str:
    if (unsure := _without_interval(effect)) or effect.estimate is None:
        return unsure
    if effect.verdict == "inconclusive":
        return f"memory is not settled: {_said_ratio(effect.estimate, 'as much')}"
    known = [effect.estimate.value, effect.estimate.low or 1.0, effect.estimate.high or 1.0]
    sign, what = (-1, "less") if effect.verdict == "better" else (1, "more")
    shares = sorted(100 * sign * (ratio - 1) for ratio in known)  # all above 0: the interval leaves out a ratio of 1
    places = telling_places(shares[:1], [0.0], 0)
    least, share, most = (f"{share:.{places}f}%" for share in shares)
    return f"with {share}{NO_BREAK}{what} memory ({_range(least, most)})"


def _quality(effect: Effect) -> str:
    estimate, label = effect.estimate, effect.measure.label.removeprefix("best ")
    if (unsure := _without_interval(effect)) or estimate is None:
        return unsure
    if effect.verdict == "as good":
        return f"{label} as good (within{NO_BREAK}{minus(figure(effect.tolerance or 0.0, 2))})"
    if effect.verdict == "inconclusive":
        return f"{label} is not settled: {ruled_out(effect)}"
    return f"{label} {effect.verdict} by{NO_BREAK}{_said_difference(effect)}"


SAID = {"train_seconds": _training_time, "peak_bytes": _memory}
"""Measures that the answer speaks of before the metric, and how."""


def scatter_text(effect: Effect, folds: int) -> str:
    """Say how far a difference scatters over pairs of runs and over rows: `± 0.0009 over seeds, ± 0.0031 over rows`."""
    over = "seeds" if folds == 1 else "folds and seeds"
    known = ((effect.seed_error, over), (effect.row_error, "rows"))
    parts = [f"{_error_text(error, effect.tolerance)} over {what}" for error, what in known if error is not None]
    text = f"standard error {', '.join(parts)}" if parts else ""
    if (
        folds == 1
        and effect.row_error is not None
        and effect.estimate is not None
        and effect.verdict in ("better", "worse")
        and abs(effect.estimate.value) < 2 * effect.row_error
    ):
        text += "; on other rows it may be otherwise"
    return text


def _error_text(error: float, tolerance: float | None) -> str:
    """Return a standard error; one that is nothing beside the tolerance only as the number that it is below."""
    least = 0.0 if tolerance is None else 10.0 ** -places_for(tolerance)
    if 0 < error < least / 2:
        return f"below{NO_BREAK}{least:.{places_for(tolerance or 0.0)}f}"
    return f"±{NO_BREAK}{figure(error, 2)}"


def ruled_out(effect: Effect) -> str:
    """Say what an inconclusive interval still leaves out: `at most 0.038 worse, at most 0.012 better`."""
    if effect.estimate is None or effect.estimate.low is None or effect.estimate.high is None:
        return ""
    if effect.measure.kind == "ratio":
        return f"from {_range(*_bounds(ratio_texts(effect.estimate)[1]))}{NO_BREAK}times"
    scale, after = (100, f"{NO_BREAK}points") if effect.measure.unit == "share" else (1, "")
    worse, better = effect.estimate.high, -effect.estimate.low
    if not effect.measure.lower_is_better:
        worse, better = better, worse
    sides = ((worse, "worse"), (better, "better"))
    return ", ".join(f"at most {figure(scale * by, 2)}{after} {what}".replace(" ", NO_BREAK) for by, what in sides)


def _without_interval(effect: Effect) -> str:
    """Say what there is of an effect without an interval; "" for one that has it."""
    estimate, label = effect.estimate, effect.measure.label
    if estimate is None:
        return f"{label} could not be compared"
    if estimate.low is not None:
        return ""
    if estimate.pairs == 1:
        return f"{label} {effect_text(effect)} in one pair, which may be chance"
    no_change = 1.0 if effect.measure.kind == "ratio" else 0.0
    what = "the same" if estimate.value == no_change else f"{effect_text(effect)} alike"
    return f"{label} {what} in all {estimate.pairs} pairs"


def _said_ratio(ratio: Estimate, what: str, *, invert: bool = False) -> str:
    """Return `3.04 times as fast (2.61 to 3.52)`."""
    number, interval = ratio_texts(ratio, invert=invert)
    return f"{number}{NO_BREAK}times {what} ({_range(*_bounds(interval))})"


def _said_difference(effect: Effect) -> str:
    """Return a difference without its sign: `0.0120 (0.0104 to 0.0131)`."""
    number, interval = effect_text(effect).split(" ", 1)
    bounds = _bounds(interval)
    if number.startswith(minus("-")):
        bounds.reverse()
    return f"{number.strip('+−')} ({_range(*(bound.strip('+−') for bound in bounds))})"


def _bounds(interval: str) -> list[str]:
    return interval.strip("[]").split(f",{NO_BREAK}")


def _range(low: str, high: str) -> str:
    """Return `2.61 to 3.52`, on one line."""
    return f"{low} to {high}".replace(" ", NO_BREAK)


def settling(comparison: Comparison) -> tuple[str, str]:
    """Return what would settle the rest: a sentence, and the command that adds the seeds; "" where nothing would.

    A comparison whose looks were planned (`--settle`) begins anew in another folder, since its plan is fixed.
    """
    wanted: dict[str, list[int | None]] = {}
    for recipe in comparison.recipes:
        for name in ANSWERED:
            effect = recipe.effects.get(name)
            if effect and effect.verdict == "inconclusive" and effect.estimate and effect.estimate.low is not None:
                wanted.setdefault(effect.measure.label, []).append(effect.more_seeds)
    known = {label: max(map(int, filter(None, seeds))) for label, seeds in wanted.items() if any(seeds)}
    if not known:
        return "", ""
    parts = [
        f"about {seeds} more {'seed' if seeds == 1 else 'seeds'} for {label}"
        + (" (not for every recipe)" if None in wanted[label] else "")
        for label, seeds in known.items()
    ]
    cheap = [seeds for seeds in known.values() if seeds <= MOST_SEEDS_TO_PASTE] or [min(known.values())]
    text = f"To settle the rest, more seeds are needed: {_listed(parts, 'and')}, if the runs go on as they did. "
    words = shlex.split(comparison.command)
    if "--settle" in words[:-1]:
        words[words.index("--settle") + 1] = str(len(comparison.seeds) + max(cheap))
        text += "The looks at these runs were planned before the first, so that more seeds need a new folder."
        return text, _into_another_folder(words)
    text += "Looking again after adding seeds makes false verdicts more frequent than 5 in 100."
    return text, _with_seeds(comparison, words, max(cheap))


def _with_seeds(comparison: Comparison, words: list[str], more: int) -> str:
    """Return the command that repeats a comparison with so many more seeds."""
    if words[:2] != ["leantune", "compare"]:  # `leantune demo` has no settings; its folder has the experiment
        folder = words[words.index("--output") + 1] if "--output" in words[:-1] else "."
        words = ["leantune", "compare", f"{folder}/experiment.yaml", "--output", folder]
    first = max(comparison.seeds, default=-1) + 1
    seeds = ",".join(map(str, [*comparison.seeds, *range(first, first + more)]))
    return shlex.join([*words, "--set", f"seeds=[{seeds}]"])


def same_again(comparison: Comparison) -> str:
    """Return the command that trains everything once more: it writes into another folder."""
    try:
        return _into_another_folder(shlex.split(comparison.command))
    except ValueError:  # not a command of ours
        return comparison.command


def _into_another_folder(words: list[str]) -> str:
    if "--output" in words[:-1]:
        place = words.index("--output") + 1
        words[place] = f"{words[place].rstrip('/')}-again"
    return shlex.join(words)


def published(comparison: Comparison) -> Comparison:
    """Return a comparison as others may read it: without absolute paths, which tell of a machine and its user.

    The terminal has them whole, so that a command can be pasted there.
    """
    command = _published_command(comparison.command)
    notes = [_published(note.replace(comparison.command, command)) for note in comparison.notes]
    recipes = [
        replace(
            recipe,
            differs={name: (_published(a), _published(b)) for name, (a, b) in recipe.differs.items()},
            cells=tuple(replace(cell, error=_published(cell.error)) for cell in recipe.cells),
        )
        for recipe in comparison.recipes
    ]
    method = comparison.method if command == comparison.command else (*comparison.method, SHORTENED)
    return replace(comparison, command=command, notes=tuple(notes), recipes=tuple(recipes), method=method)


def published_path(path: str) -> str:
    """Return an absolute path from the current directory where it is below it, and else its last name."""
    if not Path(path).is_absolute():
        return path
    here = Path.cwd()
    below = here != Path(here.anchor) and Path(path).is_relative_to(here)
    return Path(path).relative_to(here).as_posix() if below else Path(path).name


def _published(value: Any) -> Any:
    """Shorten the absolute paths of a text; what is no text stays as it is."""
    return ABSOLUTE.sub(lambda found: published_path(found[0]), value) if isinstance(value, str) else value


def _published_command(command: str) -> str:
    """Shorten the absolute paths of a command, which may have blanks in them."""
    try:
        words = shlex.split(command)
    except ValueError:  # not a command of ours
        return str(_published(command))
    found = [re.fullmatch(r"((?:[\w.-]+=)*)(/[^\[\],]*)", word) for word in words]
    shown = [
        f"{path[1]}{published_path(path[2])}" if path else _published(word)
        for word, path in zip(words, found, strict=True)
    ]
    return shlex.join(shown) if shown != words else command


def pairs_note(comparison: Comparison, recipe: RecipeResult) -> str:
    """Return in how many pairs a recipe was compared, where it has fewer than another: `(5 of 6 pairs)`."""
    most = max(map(_pairs, comparison.recipes))
    return f"({_pairs(recipe)} of {most} pairs)" if _pairs(recipe) < most else ""


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


def excerpt(text: str, characters: int) -> str:
    """Return the beginning of a text on one line, cut between words where it is longer."""
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    head = text[: characters - 1]
    whole = head.rpartition(" ")[0]
    return f"{whole if len(whole) > characters // 2 else head}…"  # Japanese has no blanks


def escape_markdown(value: Any) -> str:
    """Return a value as text that Markdown shows as it is, on one line: in a table, a list or a paragraph."""
    if isinstance(value, Markup):
        return str(value)
    text = " ".join(str(value).split())
    # A bracket before a number is one of our own intervals, and one before another bracket would make a link; an
    # underscore within a word is no emphasis.
    return re.sub(r"[\\`*<>&|$~]|\[(?![−+\d])|\](?=[(\[:])|(?<!\w)_|_(?!\w)", lambda found: f"&#{ord(found[0])};", text)
