"""Predictions for rows of texts: a function of an encoder and sequences, without folds and targets.

A row that is read in several windows has one prediction, pooled over theirs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leantune.batches.batch import Batch, make_batch
from leantune.batches.plan import MicroBatch, Padding, all_windows, plan_evaluation
from leantune.encoder.model import Encoder
from leantune.system.device import is_out_of_memory
from leantune.system.errors import TrainingError
from leantune.system.stopping import check
from leantune.tokens.truncation import Sequences
from leantune.training.events import Note
from leantune.training.memory import halve
from leantune.training.precision import Precision
from leantune.training.task import Task


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictions, and what they took."""

    values: NDArray[np.float64]
    """[n, outputs]: numbers for regression, probabilities otherwise."""
    micro_batch: MicroBatch
    """The limit under which all micro-batches fitted into memory."""
    notes: tuple[Note, ...]
    """One for each time that they did not."""


def predict_rows(
    encoder: Encoder,
    sequences: Sequences,
    numbers: NDArray[np.int64],
    *,
    task: Task,
    micro_batch: MicroBatch,
    padding: Padding,
    precision: Precision,
) -> Predicted:
    """Predict the rows `numbers` [n], in their order (law 4).

    What does not fit into memory is computed in smaller micro-batches. Raises `TrainingError` where a row does not fit
    by itself or a prediction is not finite, and `Stopped` where that was asked for.
    """
    notes: list[Note] = []
    if not len(numbers):
        return Predicted(values=np.empty((0, task.outputs)), micro_batch=micro_batch, notes=())
    encoder.model.eval()
    rows, windows = all_windows(numbers, sequences.windows[numbers])  # [R], all windows of these rows
    while True:
        plan = plan_evaluation(sequences.lengths[rows], micro_batch=micro_batch, padding=padding)
        micro_batches = [(rows[micro], windows[micro]) for micro in plan]
        outputs: list[Tensor] = []
        try:
            with torch.inference_mode(), precision.compute():
                for batch in _batches(encoder, sequences, micro_batches, padding, precision.device):
                    outputs.append(task.predictions(encoder.logits(batch)))  # noqa: PERF401 - those until it fails
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        micro_batch, note = halve(micro_batches[len(outputs)][0], sequences, micro_batch, padding, precision.device)
        notes.append(note)
    of_windows = np.empty((len(rows), task.outputs))
    of_windows[plan.rows] = torch.cat(outputs).cpu().numpy()
    values = pool_windows(of_windows, sequences.windows[numbers], sequences.pooling, task)
    if not np.isfinite(values).all():
        row = numbers[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]
        raise TrainingError(f"the prediction for row {row + 1} is not finite; nothing more is written")
    return Predicted(values=values, micro_batch=micro_batch, notes=tuple(notes))


def _batches(
    encoder: Encoder,
    sequences: Sequences,
    micro_batches: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]],
    padding: Padding,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield the batches of row numbers and windows [n] each; raises `Stopped` before one where that was asked for."""
    for numbers, windows in micro_batches:
        check()
        yield make_batch(sequences, numbers, windows=windows, pad_id=encoder.pad_id, padding=padding, device=device)


def pool_windows(
    values: NDArray[np.float64], windows: NDArray[np.integer[Any]], pooling: Literal["mean", "max"], task: Task
) -> NDArray[np.float64]:
    """Return one prediction [n, outputs] a row from those of all windows [R, outputs], of which each row has `windows`
    [n], row after row.

    The prediction of a row with a single window is that of the window, to the bit. The maxima of the probabilities of
    classes are divided by their sum.
    """
    several = windows > 1
    if not several.any():
        return values
    starts = np.cumsum(windows) - windows
    if pooling == "mean":
        return np.asarray(np.add.reduceat(values, starts, axis=0) / windows[:, None])
    pooled = np.asarray(np.maximum.reduceat(values, starts, axis=0))
    if task.problem_type == "single_label_classification":
        pooled[several] /= pooled[several].sum(axis=1, keepdims=True)
    return pooled
