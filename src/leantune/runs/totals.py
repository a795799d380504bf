"""What a run did, added up from its events: the countable part of `metrics.json`."""

from dataclasses import dataclass
from typing import Any, Self

from leantune.training.events import TrainStep


@dataclass(kw_only=True)
class Totals:
    """Sums over optimizer steps."""

    optimizer_steps: int = 0
    skipped_steps: int = 0
    rows: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    useful_flops: float | None = 0.0
    """None where they could not be counted."""

    def add(self, step: TrainStep) -> None:
        """Count one step."""
        self.optimizer_steps += 1
        self.skipped_steps += step.skipped
        self.rows += step.rows
        self.tokens += step.tokens
        self.computed_tokens += step.computed_tokens
        self.useful_flops = _sum(self.useful_flops, step.useful_flops)

    def __iadd__(self, other: "Totals") -> Self:
        for name in self.__dataclass_fields__:
            setattr(self, name, _sum(getattr(self, name), getattr(other, name)))
        return self

    def summary(self, *, train_seconds: float, matrix_rate: float) -> dict[str, Any]:
        """Return the counts, and what they were per second of training.

        `matrix_rate`: floating-point operations a second that the device was measured to reach in matrix products.
        """
        return {
            "optimizer_steps": self.optimizer_steps,
            "skipped_steps": self.skipped_steps,
            "rows": self.rows,
            "tokens": self.tokens,
            "padding_fraction": 1 - self.tokens / self.computed_tokens,
            "tokens_per_second": self.tokens / train_seconds,
            "model_flops_utilization": None
            if self.useful_flops is None
            else self.useful_flops / train_seconds / matrix_rate,
            "train_seconds": train_seconds,
        }


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
