"""One trained model in memory, with the preparation of its training: texts in, predictions out."""

import logging
from collections.abc import Callable, Generator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.batches.plan import BatchingSettings
from leantune.inference.trained_run import TrainedFold, TrainedRun
from leantune.system.device import resolve_device
from leantune.tokens.sequences import make_sequences
from leantune.tokens.tokens import load_tokenizer
from leantune.tokens.truncation import Sequences
from leantune.training.layout import choose_layout
from leantune.training.precision import PrecisionName, make_precision
from leantune.training.prediction import predict_rows

logger = logging.getLogger(__name__)


class TrainedModel:
    """The model of one fold of a run, loaded.

    Texts are tokenized, cut and put together as in training, and computed packed where the architecture can.
    """

    def __init__(
        self,
        run: TrainedRun,
        fold: TrainedFold,
        *,
        device: str = "auto",
        precision: Literal["auto"] | PrecisionName = "fp32",
    ) -> None:
        self._task, self._tokens = run.task, run.config.tokens
        self._encoder = run.load(fold, device)
        self._tokenizer: Any = load_tokenizer(str(fold.model))
        self._precision = make_precision(precision, resolve_device(device))
        # Whatever the layout of the training was: the results are the same, and this one takes the least time.
        self._layout = choose_layout(BatchingSettings(), self._encoder, self._precision.device, longest=0)
        self._micro_batch = self._layout.micro_batch

    def predict(self, texts: tuple[pa.Array, ...], describe_place: Callable[[int], str]) -> NDArray[np.float64]:
        """Return the predictions [n, outputs] for rows of texts, a large_string array [n] for each text of a row.

        `describe_place` names a row, for messages. Raises `TrainingError` where a row does not fit into memory by
        itself or a prediction is not finite, and `TableError` for a row without a single token.
        """
        if not len(texts[0]):
            return np.empty((0, self._task.outputs))
        sequences = _finish(
            make_sequences(
                texts,
                self._tokenizer,
                self._tokens,
                vocabulary_size=self._encoder.vocabulary_size,
                position_limit=self._encoder.position_limit,
                describe_place=describe_place,
                cached=False,
            )
        )
        predicted = predict_rows(
            self._encoder,
            sequences,
            np.arange(len(sequences.lengths)),
            task=self._task,
            micro_batch=self._micro_batch,
            padding=self._layout.padding,
            precision=self._precision,
        )
        self._micro_batch = predicted.micro_batch  # what did not fit once is not tried again
        for note in predicted.notes:
            logger.warning("%s", note.text)
        return predicted.values


def _finish(made: Generator[Any, None, Sequences]) -> Sequences:
    """Return what a generator returns, at its end."""
    while True:
        try:
            next(made)
        except StopIteration as end:
            sequences: Sequences = end.value
            return sequences
