"""When the validation rows are evaluated, and by which metric the best weights are chosen."""

from fractions import Fraction
from typing import Literal

from pydantic import Field

from leantune.system.settings import Section
from leantune.training.metrics import MetricName

LARGEST_DENOMINATOR = 1000
"""0.2 is a fifth and 0.3333 a third of an epoch: floating point would miss the ends of epochs."""


class EverySteps(Section):
    """Evaluate every so many optimizer steps."""

    steps: int = Field(ge=1)
    """Optimizer steps between evaluations."""


class EveryFraction(Section):
    """Evaluate several times an epoch."""

    fraction: float = Field(gt=0, le=1)
    """Share of an epoch between evaluations."""


class EvaluationSettings(Section):
    """When the validation rows are predicted, and which metric chooses the best weights."""

    every: Literal["epoch"] | EverySteps | EveryFraction = "epoch"
    """After each `epoch`, after `{steps: n}`, or after a share of an epoch, `{fraction: f}`. The end of the training is
    always evaluated."""
    metric: Literal["auto"] | MetricName = "auto"
    """The metric that chooses the best evaluation; auto is rmse for regression and log_loss for classes, labels and
    shares."""

    patience: int | None = Field(default=None, ge=1)
    """Early stopping: end the training after so many evaluations in a row without a better one. Null trains to the
    end."""

    def is_due(self, step: int, *, steps_per_epoch: int, total_steps: int) -> bool:
        """Tell whether an evaluation follows step `step`, counted from 1: the first one at or after each interval."""
        if step == total_steps:
            return True
        interval = self._interval(steps_per_epoch)
        return step // interval > (step - 1) // interval

    def count(self, *, steps_per_epoch: int, total_steps: int) -> int:
        """Count the evaluations of a whole fold."""
        steps = range(1, total_steps + 1)
        return sum(self.is_due(step, steps_per_epoch=steps_per_epoch, total_steps=total_steps) for step in steps)

    def _interval(self, steps_per_epoch: int) -> Fraction:
        """Return the steps from one evaluation to the next, which need not be whole."""
        if isinstance(self.every, EverySteps):
            return Fraction(self.every.steps)
        if isinstance(self.every, EveryFraction):
            exact = Fraction(self.every.fraction)
            return (exact.limit_denominator(LARGEST_DENOMINATOR) or exact) * steps_per_epoch
        return Fraction(steps_per_epoch)
