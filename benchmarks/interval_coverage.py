"""How often do bootstrap intervals hold the truth, and how long do they take? Figures: docs/design/0008-intervals.md.

.venv/bin/python benchmarks/interval_coverage.py --draws 400
"""

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from leantune.inference import intervals
from leantune.inference.resampled_scores import make_scorer
from leantune.tables.targets import TaskKind
from leantune.training.scoring import compute_metrics

CASES: dict[str, tuple[TaskKind, float, float]] = {
    "binary, even": ("binary", 2, 0),
    "binary, 1 of 5 rows positive": ("binary", 2, -2),
    "binary, roc_auc 0.97": ("binary", 6, 0),
    "regression, whole numbers 0 to 5": ("regression", 1, 0),
    "5 classes": ("multiclass", 3, 0),
    "4 labels": ("multilabel", 3, -1.5),
}
ROWS = (50, 200, 1000)
POPULATION = 1_000_000
BCA = intervals._bca


def draw(
    random: np.random.Generator, kind: TaskKind, rows: int, strength: float, base: float
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Targets, and the predictions of a calibrated model for them."""
    if kind == "regression":
        values = 2.5 + 1.2 * random.standard_normal((rows, 1))
        return np.clip(np.rint(values + 0.8 * random.standard_normal((rows, 1))), 0, 5), values
    if kind == "multiclass":
        shares = softmax(random.standard_normal((rows, 5)) * strength, axis=1)
        return (shares.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1), shares
    p = expit(random.standard_normal((rows, 4 if kind == "multilabel" else 1)) * strength + base)
    happened = random.random(p.shape) < p
    if kind == "multilabel":
        return happened.astype(np.float64), p
    return happened[:, 0].astype(np.int64), np.hstack([1 - p, p])


def percentiles(
    value: float, drawn: intervals.Scores, left: intervals.Scores, confidence: float
) -> intervals.Interval | None:
    """The plain percentile interval, where there is one of the other kind."""
    if BCA(value, drawn, left, confidence) is None:
        return None
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def coverage(kind: TaskKind, rows: int, draws: int, strength: float, base: float) -> None:
    targets, predictions = draw(np.random.default_rng(0), kind, POPULATION, strength, base)
    truth = {
        name: float(value[0])
        for name, value in make_scorer(kind, targets, predictions)(np.ones((POPULATION, 1))).items()
    }
    held: dict[str, list[tuple[bool, bool]]] = {name: [] for name in truth}
    for number in range(draws):
        targets, predictions = draw(np.random.default_rng([1, number]), kind, rows, strength, base)
        found = []
        for method in (BCA, percentiles):
            intervals._bca = method
            found.append(intervals.bootstrap_intervals(kind, targets, predictions, seed=number))
        for name, value in truth.items():
            bca, plain = (one[name] for one in found)
            if bca is not None and plain is not None:
                held[name].append((bca[0] <= value <= bca[1], plain[0] <= value <= plain[1]))
    for name, value in truth.items():
        bca, plain = 100 * np.mean(held[name], axis=0)
        print(f"  {rows:5} rows  {name:18} {value:.3f}  BCa {bca:5.1f}  percentiles {plain:5.1f}  of {len(held[name])}")


def seconds() -> None:
    random = np.random.default_rng(0)
    shares = softmax(random.standard_normal((20_000, 77)) * 2, axis=1)
    targets = (shares.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    start = time.perf_counter()
    compute_metrics("multiclass", targets, shares)
    print(f"20,000 rows, 77 classes: compute_metrics once {time.perf_counter() - start:.2f} s")
    for names in (["accuracy", "f1_macro", "log_loss"], None):
        start = time.perf_counter()
        intervals.bootstrap_intervals("multiclass", targets, shares, metrics=names)
        print(f"  1,000 resamples, {'all metrics' if names is None else names}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400)
    seconds()
    for case, (kind, strength, base) in CASES.items():
        print(case)
        for rows in ROWS:
            coverage(kind, rows, parser.parse_args().draws, strength, base)
