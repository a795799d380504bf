"""An exported folder is computed as its users would, on real rows, and held against the run (law 10)."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from leantune.inference import cut
from leantune.inference.onnx_export import OnnxModel
from leantune.inference.validation_rows import ValidationRows
from leantune.system.errors import ModelError
from leantune.system.stopping import check
from leantune.training.task import Task

MOST_DIFFERENCE = 1e-4
"""Between predictions of a run and of what is exported, relative to the largest of them where that is above 1."""
TRIED_ROWS = 48
"""Rows on which an export is tried: of all lengths, the longest among them."""
ROWS_AT_ONCE = 16


class Computes(Protocol):
    """What gives the logits [n, outputs] for inputs that `cut.batch` has put together."""

    def logits(self, inputs: dict[str, list[list[int]]]) -> NDArray[np.float32]:
        """Return [n, outputs]."""


class TorchModel:
    """A folder in plain transformers, on the processor."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        ).eval()

    def logits(self, inputs: dict[str, list[list[int]]]) -> NDArray[np.float32]:
        """Return [n, outputs]."""
        with torch.inference_mode():
            given = {name: torch.tensor(values) for name, values in inputs.items()}
            logits: NDArray[np.float32] = self.model(**given).logits.numpy()
            return logits


class Trial:
    """Rows, and how an exported folder reads them: with its own tokenizer and `cut.py`."""

    def __init__(self, rows: ValidationRows, folder: Path, settings: dict[str, Any], task: Task) -> None:
        self._rows, self._settings, self._task = rows, settings, task
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._tried = rows.take(spread(rows, TRIED_ROWS))

    def repeats_the_run(self, model: TorchModel) -> str:
        """Say how near plain transformers comes to the run's own predictions; raises `ModelError` where it is not."""
        rows = self._tried
        if rows.predictions is None:
            return (
                f"Plain transformers with cut.py predicts {len(rows)} rows; the run has no predictions to compare with."
            )
        difference = self._difference(rows, self.predict(model, rows), rows.predictions, "plain transformers")
        return (
            f"Plain transformers with cut.py repeats the run's own predictions for {len(rows)} validation rows "
            f"(largest difference {_bound(difference)})."
        )

    def equals(self, model: OnnxModel, other: TorchModel) -> str:
        """Say how near ONNX comes to torch, in batches and one row at a time; raises `ModelError` where it is not."""
        rows = self._tried
        wanted = self.predict(other, rows)
        difference = self._difference(rows, self.predict(model, rows), wanted, "onnxruntime")
        alone = np.array([0, len(rows) - 1])
        single = self.predict(model, rows.take(alone), rows_at_once=1)
        difference = max(difference, self._difference(rows.take(alone), single, wanted[alone], "onnxruntime"))
        return (
            f"onnxruntime gives what torch gives for {len(rows)} rows of all lengths (largest difference "
            f"{_bound(difference)})."
        )

    def predict(
        self, model: Computes, rows: ValidationRows, *, rows_at_once: int = ROWS_AT_ONCE
    ) -> NDArray[np.float64]:
        """Return predictions [n, outputs]; texts of like length share a batch."""
        columns = [cut.tokens(self._tokenizer, column.to_pylist()) for column in rows.texts]
        by_length = sorted(range(len(rows)), key=lambda row: sum(len(column[row]) for column in columns))
        if self._settings["pad_id"] is None:
            rows_at_once = 1
        values = np.empty((len(rows), self._task.outputs))
        for start in range(0, len(rows), rows_at_once):
            check()
            some = by_length[start : start + rows_at_once]
            read = [[column[row] for row in some] for column in columns]
            logits = torch.from_numpy(model.logits(cut.batch(self._settings, *read)))
            of_windows = self._task.predictions(logits).tolist()
            values[some] = cut.pool(self._settings, of_windows, cut.windows(self._settings, *read))
        return values

    def _difference(
        self, rows: ValidationRows, found: NDArray[np.float64], wanted: NDArray[np.float64], what: str
    ) -> float:
        differences = np.abs(found - wanted)
        if not (differences <= MOST_DIFFERENCE * max(1.0, float(np.abs(wanted).max()))).all():  # nor NaN
            row, output = np.unravel_index(int(np.nan_to_num(differences, nan=np.inf).argmax()), differences.shape)
            raise ModelError(
                f"{rows.describe_place(int(row))}: {what} gives {found[row, output]:.6g} with the exported model, and "
                f"the run {wanted[row, output]:.6g}: it is not the same model, so nothing is written. Please report "
                "this model"
            )
        return float(differences.max())


def spread(rows: ValidationRows, count: int) -> NDArray[np.int64]:
    """Choose `count` rows of all lengths, from the shortest to the longest."""
    lengths = np.sum([[len(text.as_py()) for text in column] for column in rows.texts], axis=0)
    by_length = np.argsort(lengths, kind="stable")
    return by_length[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64))]


def _bound(difference: float) -> str:
    """Return a bound that does not change with the last bits of a computation."""
    for power in range(-7, -3):
        if difference <= 10.0**power:
            return f"below 1e{power}"
    return f"{difference:.0e}"
