"""Where recipes disagree: the rows for which a recipe predicts something else than the baseline, and how each errs.

    predictions of all finished runs  ->  mean over the seeds of a row  ->  the rows that differ most, with their texts

A row's prediction is the mean over the seeds that both recipes have, so that chance weighs less. How far two runs of
the baseline differ that have nothing but another seed says how much of a difference is chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leantune.comparison.predictions import Predictions, read_predictions
from leantune.comparison.results import RunResult
from leantune.comparison.texts import read_texts
from leantune.inspection.mistakes import CLASSES, class_probabilities
from leantune.tables.targets import TaskKind

Floats = NDArray[np.float64]

MOST_ROWS = 12
"""Rows that are listed in all, unless there are so many recipes that each would have fewer than two."""
MOST_ROWS_EACH = 5
MOST_RECIPES = 6
"""Recipes whose rows are listed."""
LEAST_DISTANCE = 0.01
"""In probability, or in standard deviations of the targets: rows that differ less are not listed."""
MOST_NUMBERS = 5_000_000
"""Predicted numbers that are read of a recipe; of more, the runs of the last seeds are left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RecipeAnswers:
    """What the finished runs of a recipe predicted, one after the other: N rows in all."""

    targets: NDArray[Any]
    """[N, K], or [N] classes."""
    values: Floats
    """[N, K]."""
    runs: int
    apart: float | None
    """How far its predictions are from the baseline's of the same fold and seed; of the baseline, from those of another
    seed. None where there is no such pair of runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DifferentRow:
    """A row for which a recipe and the baseline predict differently."""

    recipe: str
    row: int
    """Its number in the table, from 0."""
    id: str
    target: Any
    baseline: Floats
    """[K]: mean over the seeds."""
    other: Floats
    """[K]: of the recipe."""
    texts: tuple[str, ...]
    """Empty where the table is not there any more, or has changed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Disagreement:
    """What the recipes predicted, beside each other."""

    kind: TaskKind
    labels: tuple[str, ...]
    recipes: dict[str, RecipeAnswers]
    """The baseline first; without those whose predictions cannot be read."""
    rows: tuple[DifferentRow, ...]
    """Recipe by recipe, the most different first."""


def find_disagreement(runs: Mapping[str, Sequence[RunResult]]) -> Disagreement | None:
    """Read what the finished runs of each recipe predicted; the baseline first.

    None where the baseline's predictions, or those of all others, cannot be read.
    """
    read = {name: _read_all(own) for name, own in runs.items()}
    baseline = next(iter(read), "")
    if not read.get(baseline) or not any(own for name, own in read.items() if name != baseline):
        return None
    first = next(iter(read[baseline].values()))
    read = {
        name: {cell: found for cell, found in own.items() if found.labels == first.labels and found.kind == first.kind}
        for name, own in read.items()
    }
    read = {name: own for name, own in read.items() if own}
    others = [name for name in read if name != baseline]
    each = max(2, min(MOST_ROWS_EACH, MOST_ROWS // max(1, len(others))))
    rows = [
        row for name in others[:MOST_RECIPES] for row in _most_different(name, read[baseline], read[name], first, each)
    ]
    texts = read_texts(next(run for run in runs[baseline]), [row.row for row in rows])
    if texts is not None:
        rows = [replace(row, texts=found) for row, found in zip(rows, texts, strict=True)]
    return Disagreement(
        kind=first.kind,
        labels=first.labels,
        recipes={
            name: RecipeAnswers(
                targets=np.concatenate([found.targets for found in own.values()]),
                values=np.concatenate([found.values for found in own.values()]),
                runs=len(own),
                apart=_apart(own, read[baseline], is_baseline=name == baseline),
            )
            for name, own in read.items()
        },
        rows=tuple(rows),
    )


def _read_all(runs: Sequence[RunResult]) -> dict[tuple[int, int], Predictions]:
    """Return (seed, fold) -> predictions, seed by seed."""
    found: dict[tuple[int, int], Predictions] = {}
    numbers = 0  # of predictions
    for run in sorted(runs, key=lambda run: (run.config.get("seed", 0), run.fold)):
        if numbers > MOST_NUMBERS:
            break
        read = read_predictions(run)
        if read is not None and len(read.rows) and read.values.shape[1] in (1, len(read.labels)) and read.labels:
            found[run.config.get("seed", 0), run.fold] = read
            numbers += read.values.size
    return found


def _most_different(
    name: str,
    baseline: Mapping[tuple[int, int], Predictions],
    recipe: Mapping[tuple[int, int], Predictions],
    first: Predictions,
    count: int,
) -> list[DifferentRow]:
    pairs: dict[int, list[tuple[Predictions, Predictions]]] = {}
    for cell, one in baseline.items():
        if cell in recipe and np.array_equal(one.rows, recipe[cell].rows):
            pairs.setdefault(cell[1], []).append((one, recipe[cell]))
    found: list[tuple[float, DifferentRow]] = []
    for of_fold in pairs.values():
        one = np.mean([a.values for a, _ in of_fold], axis=0)
        other = np.mean([b.values for _, b in of_fold], axis=0)
        known, distances = of_fold[0][0], _distances(first.kind, one, other, len(first.labels), first.targets)
        for place in np.argsort(-distances, kind="stable")[:count].tolist():
            row = DifferentRow(
                recipe=name,
                row=int(known.rows[place]),
                id=known.ids[place],
                target=known.targets[place],
                baseline=one[place],
                other=other[place],
                texts=(),
            )
            found.append((float(distances[place]), row))
    found = [entry for entry in found if entry[0] >= LEAST_DISTANCE]
    return [row for _, row in sorted(found, key=lambda entry: -entry[0])[:count]]


def _distances(kind: TaskKind, one: Floats, other: Floats, classes: int, targets: NDArray[Any]) -> Floats:
    """Return how far the predictions of each row [n] are apart, over all outputs."""
    if kind in CLASSES:  # total variation: how much probability stands with another class
        moved = np.abs(class_probabilities(one, classes) - class_probabilities(other, classes))
        return np.asarray(moved.sum(axis=1) / 2)
    distances = np.abs(one - other)
    if kind == "regression":  # columns of any scale count alike
        deviations = targets.std(axis=0)
        distances = distances / np.where(deviations > 0, deviations, 1.0)
    return np.asarray(distances.max(axis=1))


def _apart(
    own: Mapping[tuple[int, int], Predictions], baseline: Mapping[tuple[int, int], Predictions], *, is_baseline: bool
) -> float | None:
    """Return the mean over pairs of runs; of the baseline, of one seed and the next."""
    if is_baseline:
        folds = sorted({fold for _, fold in own})
        seeds = {fold: [found for (_, of), found in own.items() if of == fold] for fold in folds}
        pairs = [pair for found in seeds.values() for pair in pairwise(found)]
    else:
        pairs = [(baseline[cell], found) for cell, found in own.items() if cell in baseline]
    values = [_of_pair(a, b) for a, b in pairs if np.array_equal(a.rows, b.rows)]
    return float(np.mean(values)) if values else None


def _of_pair(a: Predictions, b: Predictions) -> float:
    """Return the share of decisions that are not the same; of numbers and shares the mean absolute difference."""
    if a.kind in CLASSES:
        classes = len(a.labels)
        said = [class_probabilities(found.values, classes).argmax(axis=1) for found in (a, b)]
        return float((said[0] != said[1]).mean())
    if a.kind == "multilabel":
        return float(((a.values > 0.5) != (b.values > 0.5)).mean())
    return float(np.abs(a.values - b.values).mean())
