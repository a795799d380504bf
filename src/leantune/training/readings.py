"""Losses and norms of steps that are done, read when that costs nothing."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leantune.batches.batch import Rows
from leantune.batches.plan import Padding, padded_tokens
from leantune.encoder.model import FlopCount
from leantune.system.device import device_bytes
from leantune.system.errors import TrainingError
from leantune.tables.folds import FoldNumber
from leantune.tables.scale import Scale
from leantune.training.clock import PhaseClock, process_bytes
from leantune.training.events import TrainStep
from leantune.training.step import StepResult

MOST_NAMED_ROWS = 100  # of a step, in a message
SECONDS_BETWEEN_READINGS = 1.0  # of losses that wait on a GPU: each reading waits for all work that is queued


class Readings:
    """Losses and norms of steps that are done, kept on the device until it is time to read them.

    On a CPU that is at once. On a GPU a reading waits for the device, so it happens about once a second.
    """

    def __init__(
        self,
        *,
        fold: FoldNumber,
        steps_per_epoch: int,
        padding: Padding,
        scale: Scale | None,
        flops: FlopCount | None,
        device: torch.device,
        clock: PhaseClock,
        seconds_before: float,
    ) -> None:
        self._fold, self._steps_per_epoch, self._padding = fold, steps_per_epoch, padding
        self._flops, self._device, self._clock = flops, device, clock
        # From squared errors of standardised targets to those in the table's units.
        self._units = np.ones(1) if scale is None else scale.deviation**2
        self._before = clock.seconds("train") - seconds_before
        self._waiting: list[_Waiting] = []
        self._read_at = time.perf_counter()
        self._seconds_at = seconds_before

    def train_seconds(self) -> float:
        """Seconds in this fold's optimizer steps until now."""
        return self._clock.seconds("train") - self._before

    def add(self, step: int, result: StepResult, numbers: list[NDArray[np.int64]], rows: Rows) -> None:
        """Remember a step; `numbers` are the rows of each micro-batch."""
        lengths = [rows.sequences.lengths[micro] for micro in numbers]
        self._waiting.append(_Waiting(step=step, result=result, numbers=numbers, lengths=lengths))

    def are_due(self) -> bool:
        """Tell whether it is time to read."""
        return self._device.type == "cpu" or time.perf_counter() - self._read_at > SECONDS_BETWEEN_READINGS

    def take(self) -> Iterator[TrainStep]:
        """Read all steps that wait, in one transfer.

        Raises `TrainingError` at the first loss or gradient norm that is not finite.
        """
        if not self._waiting:
            return
        results = [waiting.result for waiting in self._waiting]
        read: Tensor = torch.stack([torch.cat((r.losses, r.gradient_norm.float()[None])) for r in results])
        numbers = read.tolist()  # waits for the device: the time is read after that
        seconds = self.train_seconds()
        all_tokens = sum(int(micro.sum()) for waiting in self._waiting for micro in waiting.lengths)
        speed = all_tokens / max(seconds - self._seconds_at, 1e-9)
        memory = device_bytes(self._device)
        for waiting, (*losses, norm) in zip(self._waiting, numbers, strict=True):
            loss = float(np.mean(losses * self._units))
            step, lengths = waiting.step, waiting.lengths
            skipped = waiting.result.skipped is not None and not np.isfinite(norm)
            for name, number in (("loss", loss), ("gradient norm", norm)):
                if not np.isfinite(number) and not skipped:
                    raise TrainingError(
                        f"the {name} of step {step} (fold {self._fold}) is {number}; training stopped. The best "
                        "weights and the checkpoint until then are kept. A smaller optimizer.learning_rate, or "
                        f"precision: fp32, may help. It learned from {_describe_rows(waiting.numbers)}"
                    )
            yield TrainStep(
                fold=self._fold,
                step=step,
                epoch=step / self._steps_per_epoch,
                loss=loss if np.isfinite(loss) else None,
                learning_rate=waiting.result.learning_rate,
                gradient_norm=None if skipped else norm,
                skipped=skipped,
                rows=len(np.unique(np.concatenate(waiting.numbers))),
                tokens=sum(int(micro.sum()) for micro in lengths),
                computed_tokens=sum(padded_tokens(micro, self._padding) for micro in lengths),
                tokens_per_second=speed,
                useful_flops=None if self._flops is None else sum(self._flops(micro) for micro in lengths),
                memory=process_bytes() if memory is None else memory,
                train_seconds=seconds,
            )
        self._waiting.clear()
        self._read_at, self._seconds_at = time.perf_counter(), seconds


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A step whose loss was not read yet."""

    step: int
    result: StepResult
    numbers: list[NDArray[np.int64]]
    """Rows of each micro-batch, each once for every window that was read of it."""
    lengths: list[NDArray[np.int32]]
    """Their sequence lengths."""


def _describe_rows(numbers: list[NDArray[np.int64]]) -> str:
    """Name rows as tables do, from 1, in the table's order."""
    found = [str(number + 1) for number in np.unique(np.concatenate(numbers)).tolist()]
    more = f" and {len(found) - MOST_NAMED_ROWS} more" if len(found) > MOST_NAMED_ROWS else ""
    return f"the rows {', '.join(found[:MOST_NAMED_ROWS])}{more}"
