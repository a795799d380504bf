"""Dunnett's test (1955, JASA 50): several recipes against one baseline whose runs they share. SciPy and numpy only.

The recipes' estimates move together, since the baseline's own error is in each of them. Given that error z and the
estimated standard deviation s, they are independent, so the probability that all intervals hold is a double integral
over z and s. It is summed here on fixed nodes: the same number on every machine, to eight digits and more.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(100)
_REACH = 9.0
"""Standard deviations on both sides that the baseline's error is summed over; beyond lies less than 1e-18."""
_SCALES = 400
"""Nodes over log(s). The integrand falls off exponentially on both sides, where plain sums converge fastest."""


@functools.lru_cache(maxsize=4096)
def critical_value(recipes: int, degrees_of_freedom: float, alpha: float = 0.05) -> float:
    """Return the t that none of so many recipes exceeds, on either side, with probability 1 - `alpha`.

    For recipes and a baseline with equally many runs, and one estimate of their common variance. One recipe: Student's
    t.
    """
    if recipes == 1:
        return float(-special.stdtrit(degrees_of_freedom, alpha / 2))
    # Bonferroni's t is above it, that of one recipe below.
    low, high = (float(-special.stdtrit(degrees_of_freedom, alpha / 2 / count)) for count in (1, recipes))
    root = optimize.brentq(
        lambda t: _all_within(t, recipes, degrees_of_freedom) - (1 - alpha), 0.99 * low, 1.01 * high, rtol=1e-10
    )
    return float(root)


def adjusted_p(t: float, recipes: int, degrees_of_freedom: float) -> float:
    """Return the probability that the largest |t| of so many recipes, none of which changes anything, is above `t`."""
    if recipes == 1:
        return float(2 * special.stdtr(degrees_of_freedom, -abs(t)))
    return min(1.0, max(0.0, 1 - _all_within(abs(t), recipes, degrees_of_freedom)))


def _all_within(t: float, recipes: int, degrees_of_freedom: float) -> float:
    """Return the probability that every |estimate| / s is at most `t`."""
    s, share = _scales(degrees_of_freedom)
    z = _REACH * _NODES
    half = np.sqrt(2.0) * t * s[:, None]  # of a recipe's own error, in its standard deviations
    within = (special.ndtr(z + half) - special.ndtr(z - half)) ** recipes
    density = _REACH * _WEIGHTS * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return float(share @ (within @ density))


@functools.lru_cache(maxsize=256)
def _scales(degrees_of_freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return estimated standard deviations (true: 1) and the probability of each."""
    nu = degrees_of_freedom
    log_s = np.linspace(-40 / nu - 2, np.log1p(9 / np.sqrt(2 * nu)), _SCALES)
    log_density = nu * log_s - nu / 2 * np.expm1(2 * log_s)
    density = np.exp(log_density - log_density.max())
    return np.exp(log_s), density / density.sum()
