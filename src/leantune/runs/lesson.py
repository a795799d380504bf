"""What one fold learns: which rows, at what weight, in which units, and where its head begins."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leantune.batches.batch import Rows
from leantune.encoder.head import answer_in_deviations, begin_at
from leantune.encoder.model import Encoder
from leantune.runs.preparation import Prepared
from leantune.tables.folds import FoldNumber
from leantune.tables.scale import measure_scale
from leantune.training.loop import Fold
from leantune.training.task import Task


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A fold with what is measured on its training rows alone."""

    fold: Fold
    rows: Rows
    """The table's rows, with the weights that they have in this fold's loss."""
    task: Task
    """With the weights that labels have in this fold's loss."""


def make_lesson(number: FoldNumber, prepared: Prepared, encoder: Encoder) -> Lesson:
    """Measure what training goes by on the training rows of fold `number`: law 8's scale, the weights of classes."""
    config, rows, task = prepared.config, prepared.rows, prepared.task
    training_rows = prepared.folds.training_rows(number)
    weights = rows.weights[training_rows]
    targets: NDArray[Any] = rows.targets[training_rows]
    scale = None
    if task.kind == "regression" and config.loss.standardize and encoder.output_layer is not None:
        scale = measure_scale(targets, weights)
    if config.loss.class_weights == "balanced":
        if task.kind == "multilabel":
            task = replace(task, label_weights=_balanced_labels(targets, weights))
        else:
            by_class = _balanced(np.bincount(targets, weights=weights, minlength=task.outputs).astype(np.float64))
            rows = replace(rows, weights=rows.weights * by_class[rows.targets])
    fold = Fold(
        number=number,
        training_rows=training_rows,
        validation_rows=prepared.folds.validation_rows(number),
        batching=prepared.batching,
        optimizer=prepared.optimizer,
        evaluation=config.evaluation,
        metric=prepared.metric,
        seed=config.seed,
        checkpoint=config.checkpoint,
        windows_read=config.tokens.training_windows,
        scale=scale,
    )
    return Lesson(fold=fold, rows=rows, task=task)


def begin_head(encoder: Encoder, lesson: Lesson) -> None:
    """Let a new head begin at the answer that is best without reading; let a kept one give the answers that it gave."""
    layer, fold = encoder.output_layer, lesson.fold
    if layer is None:
        return
    if not encoder.head_is_new:
        if fold.scale is not None:
            answer_in_deviations(layer, fold.scale)
        return
    targets: NDArray[Any] = lesson.rows.targets[fold.training_rows]
    if fold.scale is not None:
        targets = fold.scale.standardize(targets)
    begin_at(layer, lesson.task.constant_logits(targets, lesson.rows.weights[fold.training_rows]))


def _balanced(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of each class [classes] with which all of them count alike, 1 on average over the rows.

    As scikit-learn's `class_weight="balanced"`; the weight of a class without rows is never read.
    """
    there = np.count_nonzero(sizes)
    balanced: NDArray[np.float64] = np.divide(sizes.sum() / there, sizes, out=np.ones_like(sizes), where=sizes > 0)
    return balanced


def _balanced_labels(targets: NDArray[Any], weights: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Return for each label the weights of the rows without it and of those that have it."""
    having = np.nan_to_num(targets).T @ weights
    scored = (~np.isnan(targets)).T.astype(np.float64) @ weights
    return tuple(
        (float(without), float(with_it))
        for without, with_it in (
            _balanced(np.array([all_ - with_label, with_label]))
            for all_, with_label in zip(scored, having, strict=True)
        )
    )
