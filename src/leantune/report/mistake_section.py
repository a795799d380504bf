"""What a report shows of the recipes' mistakes: how each errs, and the rows on which they disagree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leantune.comparison.comparing import Comparison
from leantune.comparison.disagreement import LEAST_DISTANCE, Disagreement, RecipeAnswers
from leantune.comparison.words import value_text
from leantune.inspection.mistakes import (
    CLASSES,
    answer_text,
    class_probabilities,
    confusion_matrix,
    count_labels,
    most_confused,
    outcomes,
    reliability,
    slope,
    truth_text,
)
from leantune.report import plots
from leantune.report.wording import excerpt, shorten

MOST_RECIPES = 6
"""Recipes that a figure or a table of this section has, the baseline among them."""
MOST_TARGETS = 3
"""Target columns that have figures."""
MOST_CLASSES = 8
"""A confusion matrix of more classes is a list of the most frequent confusions."""
MOST_LINES = 12
TEXT_CHARACTERS = 240

APART = {
    "regression": "the mean absolute difference of their predictions",
    "soft": "the mean absolute difference of their shares",
    "binary": "the share of rows for which they predict another class",
    "multiclass": "the share of rows for which they predict another class",
    "multilabel": "the share of labels on which they decide otherwise",
}
"""What says how far two runs are apart."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A table: the first cell of each line names it."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Everything that the section says, without its figures."""

    shown: tuple[str, ...]
    """Recipes that figures and tables show."""
    tables: tuple[Lines, ...]
    rows: tuple[dict[str, str], ...]
    """Rows on which recipes disagree, the most different first of each recipe."""
    notes: tuple[str, ...]


def tell_mistakes(comparison: Comparison) -> Mistakes | None:
    """Return what a report says of mistakes; None where the runs' predictions cannot be read."""
    found = comparison.disagreement
    if found is None:
        return None
    shown = dict(list(found.recipes.items())[:MOST_RECIPES])
    tables = [_summary(found, shown, comparison.baseline)]
    if found.kind == "multilabel":
        tables.append(_labels(found, shown))
    elif found.kind in CLASSES and len(found.labels) > MOST_CLASSES:
        tables.append(_confusions(found, shown))
    return Mistakes(
        shown=tuple(shown),
        tables=tuple(tables),
        rows=tuple(_rows(found)),
        notes=tuple(_notes(found, comparison.baseline)),
    )


def draw_mistakes(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the section's figures: SVG and caption of each; none where the runs' predictions cannot be read."""
    found = comparison.disagreement
    if found is None:
        return []
    places = {recipe.name: place for place, recipe in enumerate(comparison.recipes)}
    numbered = [(places[name], name, own) for name, own in list(found.recipes.items())[:MOST_RECIPES]]
    return [(svg, caption) for svg, caption in _figures(found, numbered) if svg]


def record_mistakes(comparison: Comparison) -> dict[str, Any] | None:
    """Return the same as plain values, for the report's JSON."""
    found = comparison.disagreement
    if found is None:
        return None
    return {
        "labels": found.labels,
        "recipes": {name: _record(found, own) for name, own in found.recipes.items()},
        "rows": [
            {
                "recipe": row.recipe,
                "row": row.row,
                "id": row.id,
                "target": truth_text(found.kind, found.labels, row.target),
                "baseline": row.baseline.tolist(),
                "prediction": row.other.tolist(),
            }
            for row in found.rows
        ],
    }


def _record(found: Disagreement, own: RecipeAnswers) -> dict[str, Any]:
    record: dict[str, Any] = {"runs": own.runs, "apart": own.apart}
    if found.kind == "regression":
        rest = own.targets - own.values
        record["residual_mean"], record["residual_deviation"] = rest.mean(axis=0).tolist(), rest.std(axis=0).tolist()
        record["slope"] = [slope(own.targets[:, place], own.values[:, place]) for place in range(len(found.labels))]
        return record
    said, was = outcomes(found.kind, own.targets, own.values, len(found.labels))
    record["calibration_error"] = reliability(said, was).error
    if found.kind in CLASSES:
        record["confusion"] = _confusion(found, own).tolist()
    return record


def _confusion(found: Disagreement, own: RecipeAnswers) -> NDArray[np.int64]:
    classes = len(found.labels)
    return confusion_matrix(own.targets, class_probabilities(own.values, classes).argmax(axis=1), classes)


def _figures(found: Disagreement, numbered: list[tuple[int, str, RecipeAnswers]]) -> Iterator[tuple[str, str]]:
    if found.kind == "regression":
        for place, target in enumerate(found.labels[:MOST_TARGETS]):
            yield from _residuals(place, target, numbered)
        return
    bins = [
        (index, name, reliability(*outcomes(found.kind, own.targets, own.values, len(found.labels))))
        for index, name, own in numbered
    ]
    what = "the predicted class" if found.kind in CLASSES else "all labels together"
    truth = "mean share" if found.kind == "soft" else "share that was right"
    svg = plots.reliability("calibration", "Calibration", bins, ("predicted probability", truth))
    yield svg, f"Calibration: the probability of {what}, and how often it came true. On the line both are equal."
    if found.kind in CLASSES and len(found.labels) <= MOST_CLASSES:
        for index, name, own in numbered:
            svg = plots.confusion(
                f"confusion-{index}",
                f"Confusion matrix of {shorten(name, 40)}",
                _confusion(found, own),
                found.labels,
                shorten(name, 40),
            )
            yield svg, ""


def _residuals(place: int, target: str, numbered: list[tuple[int, str, RecipeAnswers]]) -> Iterator[tuple[str, str]]:
    """Draw residuals of one target column, and targets against predictions."""
    values = [(index, recipe, own.targets[:, place], own.values[:, place]) for index, recipe, own in numbered]
    name = shorten(target, 20)
    svg = plots.residuals(
        f"residuals-{place}",
        f"Residuals of {name}",
        [(index, recipe, truth - said) for index, recipe, truth, said in values],
        f"{name}: target less prediction",
    )
    yield (
        svg,
        "Residuals: right of the line are rows that were predicted too low. The outermost points hold the rest.",
    )
    svg = plots.reliability(
        f"means-{place}",
        f"Targets against predictions of {name}",
        [(index, recipe, reliability(said, truth)) for index, recipe, truth, said in values],
        ("prediction", f"mean {name}"),
    )
    yield (
        svg,
        "The mean target of rows that were predicted alike. On the line both are equal; steeper than the line, "
        "predictions are too close together.",
    )


def _summary(found: Disagreement, shown: dict[str, RecipeAnswers], baseline: str) -> Lines:
    """Return a line for each recipe: how far it is from the baseline, and how it errs."""
    single = found.kind == "regression" and len(found.labels) == 1
    head = ["recipe", f"apart from {baseline}"]
    if single:
        head += ["mean residual", "deviation", "slope"]
    elif found.kind != "regression":
        head += ["mean probability", "came true", "calibration error"]
    lines = []
    for name, own in shown.items():
        apart = "–" if own.apart is None else _apart_text(found, own.apart)
        line = [name, f"{apart} (another seed)" if name == baseline and own.apart is not None else apart]
        if single:
            rest = (own.targets - own.values)[:, 0]
            found_slope = slope(own.targets[:, 0], own.values[:, 0])
            line += [value_text(float(rest.mean()), ""), value_text(float(rest.std()), "")]
            line.append("–" if found_slope is None else f"{found_slope:.2f}")
        elif found.kind != "regression":
            said, was = outcomes(found.kind, own.targets, own.values, len(found.labels))
            line += [f"{said.mean():.3f}", f"{was.mean():.3f}", f"{reliability(said, was).error:.3f}"]
        lines.append(tuple(line))
    caption = (
        f"How far two runs are apart is {APART[found.kind]}: of the same fold and seed, and of {baseline} those of two "
        "seeds, which differ by chance alone."
    )
    if single:
        caption += (
            " Residuals are target less prediction. Slope of targets over predictions: 1 is right, below 1 predictions "
            "are too far apart, above 1 too close together."
        )
    elif found.kind != "regression":
        caption += " Calibration error: mean distance of probability and share, in bins of equal size."
    return Lines(head=tuple(head), lines=tuple(lines), caption=caption)


def _apart_text(found: Disagreement, apart: float) -> str:
    return value_text(apart, "" if found.kind in ("regression", "soft") else "share")


def _confusions(found: Disagreement, shown: dict[str, RecipeAnswers]) -> Lines:
    """Return the most frequent confusions of all recipes together, a column for each recipe."""
    matrices = {name: _confusion(found, own) for name, own in shown.items()}
    shares = {name: matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True)) for name, matrix in matrices.items()}
    mean = np.mean([matrix / own.runs for matrix, own in zip(matrices.values(), shown.values(), strict=True)], axis=0)
    return Lines(
        head=("target, predicted as", *shown),
        lines=tuple(
            (f"{found.labels[a]}, {found.labels[b]}", *(f"{shares[name][a, b]:.0%}" for name in shown))
            for a, b in most_confused(mean, MOST_LINES)
        ),
        caption=f"The most frequent confusions of {len(found.labels)} classes: shares of the rows of the target's "
        "class.",
    )


def _labels(found: Disagreement, shown: dict[str, RecipeAnswers]) -> Lines:
    """Return precision and recall of the most frequent labels, a column for each recipe."""
    counts = {name: count_labels(own.targets, own.values) for name, own in shown.items()}
    first = next(iter(counts.values()))
    most = np.argsort(-first.targets, kind="stable")[:MOST_LINES]
    more = f" The {MOST_LINES} most frequent of {len(found.labels)} labels." if len(found.labels) > MOST_LINES else ""
    return Lines(
        head=("label", *shown),
        lines=tuple(
            (found.labels[p], *(f"{own.precision[p]:.0%} / {own.recall[p]:.0%}" for own in counts.values()))
            for p in most.tolist()
        ),
        caption=f"Precision / recall at a threshold of 0.5.{more}",
    )


def _notes(found: Disagreement, baseline: str) -> Iterator[str]:
    if found.rows:
        yield (
            f"The rows for which {baseline} and a recipe differ most. Each prediction is the mean over the runs of "
            "both; rows with less than one hundredth between them are left out."
        )
        if not any(row.texts for row in found.rows):
            yield "Texts are not shown: the table is not where the runs read it, has changed, or is large."
    elif len(found.recipes) > 1:
        unit = "standard deviations of the target" if found.kind == "regression" else "of probability"
        yield f"No row differs by more than {LEAST_DISTANCE} {unit} from {baseline}, over the runs of both."
    hidden = len(found.recipes) - MOST_RECIPES
    if hidden > 0:
        yield f"{hidden} more recipes are not shown here; report.json has them."


def _rows(found: Disagreement) -> Iterator[dict[str, str]]:
    for row in found.rows:
        number = str(row.row + 1)
        yield {
            "recipe": row.recipe,
            "row": number if row.id == str(row.row) else f"{number} ({shorten(row.id, 24)})",
            "target": truth_text(found.kind, found.labels, row.target),
            "baseline": answer_text(found.kind, found.labels, row.baseline),
            "prediction": answer_text(found.kind, found.labels, row.other),
            "text": " | ".join(excerpt(text, TEXT_CHARACTERS // len(row.texts)) for text in row.texts),
        }
