"""Rows that are probably labelled wrongly, by what models predicted for them that did not train on them.

Confident learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70, 2021): a class is
likely for a row where its probability is at least as high as it usually is for rows of that class. A row is suspect
where a class that is likely is more probable than its own.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]

FAR_OFF = 4.0
"""Robust standard deviations of a residual."""


def suspect_classes(probabilities: Floats, labels: IntArray) -> tuple[IntArray, IntArray, Floats]:
    """Return suspect rows, the worst first, the class that each probably has, and the margin, all [S].

    `probabilities` are [n, K], out of fold, and `labels` [n] the classes by their number. The margin is the probability
    of that class less that of the row's own.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    usual = np.bincount(labels, weights=own, minlength=classes) / np.maximum(1, counts)
    usual[counts == 0] = np.inf  # nothing is known of a class without rows
    is_likely = (probabilities >= usual - 1e-12) & (probabilities > own[:, None])
    best = np.where(is_likely, probabilities, -np.inf).argmax(axis=1)
    rows = np.flatnonzero(is_likely.any(axis=1))
    margin = probabilities[rows, best[rows]] - own[rows]
    order = np.argsort(-margin, kind="stable")
    return rows[order].astype(np.int64), best[rows][order].astype(np.int64), margin[order]


def suspect_labels(probabilities: Floats, labels: Floats) -> tuple[IntArray, IntArray, Floats]:
    """Do the same for each label of a multi-label task: rows, labels and margins [S] of the labels in doubt.

    Labels that were not scored (NaN) are not in doubt.
    """
    found = []
    for label in range(labels.shape[1]):
        scored = np.flatnonzero(~np.isnan(labels[:, label]))
        said = probabilities[scored, label]
        having = (labels[scored, label] > 0.5).astype(np.int64)
        rows, _, margin = suspect_classes(np.stack([1 - said, said], axis=1), having)
        found.append((scored[rows], np.full(len(rows), label), margin))
    rows, which, margin = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(-margin, kind="stable")
    return rows[order], which[order], margin[order]


def suspect_numbers(predictions: Floats, targets: Floats) -> tuple[IntArray, IntArray, Floats]:
    """Return rows, targets' columns, and residuals in robust standard deviations [S], the furthest off first."""
    residuals = targets - predictions
    middle = np.median(residuals, axis=0)
    spread = 1.4826 * np.median(np.abs(residuals - middle), axis=0)
    times = np.abs(residuals - middle) / np.where(spread > 0, spread, np.inf)
    rows, columns = np.nonzero(times > FAR_OFF)
    order = np.argsort(-times[rows, columns], kind="stable")
    return rows[order].astype(np.int64), columns[order].astype(np.int64), times[rows, columns][order]
