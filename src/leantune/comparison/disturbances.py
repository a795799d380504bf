"""Runs before which the machine computed much slower or faster than before others: their times do not compare.

Each run measures just before training how fast the device multiplies large matrices (`matrix_rate`). Nothing else is
looked at, least of all how a run ended: to repeat runs by their result would bend the comparison.
"""

import statistics
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

from leantune.comparison.results import RunResult

Key = TypeVar("Key", bound=Hashable)

DISTURBED = 1.2
"""Rates of one product that differ by more than so many times are told: the machine was not the same."""
SET_ASIDE = ".disturbed-"
"""What follows the name of a run's folder that was replaced by another run, before a number from 1."""


def rates_by_product(runs: Mapping[Key, RunResult]) -> dict[str, dict[Key, float]]:
    """Return product -> run -> floating-point operations a second; runs that did not measure it are left out."""
    rates: dict[str, dict[Key, float]] = {}
    for key, run in runs.items():
        rate = run.overall.get("matrix_rate")
        if isinstance(rate, dict) and isinstance(rate.get("flops_per_second"), int | float):
            rates.setdefault(str(rate.get("measured_on")), {})[key] = float(rate["flops_per_second"])
    return rates


def find_disturbed(runs: Mapping[Key, RunResult]) -> list[Key]:
    """Return the runs whose rate is more than `DISTURBED` times away from the median of those of the same product."""
    found = []
    for rates in rates_by_product(runs).values():
        median = statistics.median(rates.values())
        found += [key for key, rate in rates.items() if not median / DISTURBED <= rate <= median * DISTURBED]
    return found


def times_repeated(run: Path) -> int:
    """Return how many disturbed runs were set aside beside the folder of a run."""
    return sum(1 for _ in run.parent.glob(f"{run.name}{SET_ASIDE}*"))
