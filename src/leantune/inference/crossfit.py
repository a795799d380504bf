"""Which rows score what was fitted on the others."""

import numpy as np
from numpy.typing import NDArray

PARTS = 5
"""Of rows that one model validated."""


def cross_fitting_folds(
    rows: int,
    *,
    folds: NDArray[np.generic] | None = None,
    groups: NDArray[np.generic] | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return the part [n] in which each row scores: the folds that there are, or five random ones where there are none.

    Rows of one of the `groups` [n] are in one part. Raises ValueError where there are fewer than two rows or groups.
    """
    if folds is not None:
        numbers: NDArray[np.int64] = np.unique(folds, return_inverse=True)[1]
        if numbers.max(initial=0) > 0:
            return numbers
    units = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max(initial=-1)) + 1
    if count < 2:
        raise ValueError(f"found {count} rows or groups of rows, expected at least 2 to fit on some and score others")
    parts: NDArray[np.int64] = (np.random.default_rng(seed).permutation(count) % min(PARTS, count))[units]
    return parts
