"""When the validation rows are evaluated."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leantune.training.evaluation import EvaluationSettings, EveryFraction, EverySteps

steps_per_epoch = st.integers(1, 400)
epochs = st.integers(1, 6)


def evaluated(settings: EvaluationSettings, per_epoch: int, total: int) -> list[int]:
    steps = range(1, total + 1)
    return [step for step in steps if settings.is_due(step, steps_per_epoch=per_epoch, total_steps=total)]


@given(st.sampled_from([0.1, 0.2, 0.25, 0.3333, 0.5, 1.0]), steps_per_epoch, epochs)
def test_a_fraction_that_divides_an_epoch_meets_every_epochs_end(fraction: float, per_epoch: int, count: int) -> None:
    settings = EvaluationSettings(every=EveryFraction(fraction=fraction))
    found = evaluated(settings, per_epoch, per_epoch * count)
    assert {per_epoch * epoch for epoch in range(1, count + 1)} <= set(found)
    parts = round(1 / fraction)
    if per_epoch >= parts:
        assert found == [math.ceil(Fraction(per_epoch * part, parts)) for part in range(1, parts * count + 1)]


@given(st.integers(1, 50), steps_per_epoch, epochs)
def test_steps_are_evaluated_in_their_interval_and_at_the_end(interval: int, per_epoch: int, count: int) -> None:
    total = per_epoch * count
    found = evaluated(EvaluationSettings(every=EverySteps(steps=interval)), per_epoch, total)
    assert found == sorted({*range(interval, total + 1, interval), total})


@given(st.floats(1e-6, 1.0, exclude_min=True), steps_per_epoch, epochs)
def test_the_evaluations_that_an_estimate_counts_are_those_of_the_training(f: float, per_epoch: int, n: int) -> None:
    settings = EvaluationSettings(every=EveryFraction(fraction=f))
    total = per_epoch * n
    assert settings.count(steps_per_epoch=per_epoch, total_steps=total) == len(evaluated(settings, per_epoch, total))


@pytest.mark.parametrize(("fraction", "per_epoch"), [(0.2, 15), (0.1, 30), (0.2, 3)])
def test_floating_point_does_not_drift_over_epochs(fraction: float, per_epoch: int) -> None:
    settings = EvaluationSettings(every=EveryFraction(fraction=fraction))
    assert set(range(per_epoch, 40 * per_epoch + 1, per_epoch)) <= set(evaluated(settings, per_epoch, 40 * per_epoch))
