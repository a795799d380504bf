"""The scale of numeric targets: learned in units of their own spread, whatever the table's units are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """Mean and standard deviation of each target column, in the table's units."""

    mean: NDArray[np.float64]
    """[K]."""
    deviation: NDArray[np.float64]
    """[K], positive."""

    def standardize(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return targets [N, K] in standard deviations from the mean."""
        return np.asarray((values - self.mean) / self.deviation)


def measure_scale(values: NDArray[Any], weights: NDArray[np.float64]) -> Scale:
    """Measure targets [N, K] of rows with weights [N], of which one at least is positive.

    A column that does not vary has the deviation 1.
    """
    mean = np.average(values, axis=0, weights=weights)
    deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    # Of equal numbers, rounding leaves a mean beside them and a deviation of next to nothing.
    varies = deviation > 1e-12 * np.abs(mean)
    return Scale(mean=mean, deviation=np.where(varies, deviation, 1.0))
