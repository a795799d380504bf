"""How much do fitted thresholds and weights flatter themselves, and does cross-fitting undo it?

Figures: docs/design/0009-decisions.md.

.venv/bin/python benchmarks/fitted_on_noise.py --draws 200
"""

import argparse

import numpy as np
from scipy.special import expit

from leantune.inference.blending import blend, fit_blend
from leantune.inference.thresholds import fit_decisions
from leantune.training.scoring import compute_metrics


def spread(values: list[float]) -> str:
    return f"{np.mean(values):+.4f} (standard error {np.std(values, ddof=1) / len(values) ** 0.5:.4f})"


def thresholds(rows: int, draws: int) -> None:
    """Predictions that know nothing: every true score is 0."""
    for kind, metric in (("binary", "mcc"), ("multilabel", "mcc"), ("regression", "qwk")):
        fitted, honest, shown = [], [], 0
        for number in range(draws):
            random = np.random.default_rng([rows, number])
            if kind == "binary":
                p = random.random(rows)
                targets, predictions = random.integers(0, 2, rows), np.stack([1 - p, p], axis=1)
            elif kind == "multilabel":
                targets, predictions = random.integers(0, 2, (rows, 5)).astype(float), random.random((rows, 5))
            else:
                targets, predictions = random.integers(0, 5, (rows, 1)).astype(float), random.normal(2, 1, (rows, 1))
            found = fit_decisions(kind, metric, targets, predictions, seed=number, resamples=400)
            fitted.append(found.flattered_score or 0.0)
            honest.append(found.score or 0.0)
            shown += found.gain_interval is not None and found.gain_interval[0] > 0
        print(
            f"{kind} {metric}, {rows} rows of noise: on the rows of the fit {spread(fitted)}, cross-fitted "
            f"{spread(honest)}; a gain is shown in {100 * shown / draws:.1f}% of the cases"
        )


def gains(rows: int, draws: int) -> None:
    """A calibrated model of a rare class: the gain in F1 is real, and how large is known from 200,000 rows."""
    random = np.random.default_rng(0)
    p = expit(random.normal(-3, 1.5, 200_000))
    new_targets, new = (random.random(len(p)) < p).astype(int), np.stack([1 - p, p], axis=1)
    plain = compute_metrics("binary", new_targets, new)["f1"]
    told, true, held, shown, told_of = [], [], 0, 0, 0
    for number in range(draws):
        random = np.random.default_rng([rows, number])
        p = expit(random.normal(-3, 1.5, rows))
        targets, predictions = (random.random(rows) < p).astype(int), np.stack([1 - p, p], axis=1)
        found = fit_decisions("binary", "f1", targets, predictions, seed=number, resamples=400)
        gain = compute_metrics("binary", new_targets, found.rule.decide(new))["f1"] - plain
        told.append(found.gain or 0.0)
        true.append(gain)
        if found.gain_interval is not None:
            told_of += 1
            held += found.gain_interval[0] <= gain <= found.gain_interval[1]
            shown += found.gain_interval[0] > 0
    print(
        f"binary f1, {rows} rows of a rare class: gain told {spread(told)}, on new rows {spread(true)}; the interval "
        f"holds it in {100 * held / told_of:.1f}% and shows a gain in {100 * shown / told_of:.1f}% of the "
        f"{told_of} cases that have one"
    )


def weights(rows: int, draws: int) -> None:
    """Six runs that err alike: equal weights are the best there are."""
    flattered, honest, better = [], [], 0
    for number in range(draws):
        random = np.random.default_rng([rows, number])
        targets = random.normal(size=(rows, 1))
        predictions = [targets + random.normal(size=targets.shape) for _ in range(6)]
        found = fit_blend("regression", targets, predictions, seed=number, resamples=400)
        fitted = compute_metrics("regression", targets, blend(predictions, found.weights))["rmse"]
        flattered.append(found.equal_score - fitted)
        honest.append(found.equal_score - found.score)
        better += found.gain_interval is not None and found.gain_interval[0] > 0
    print(
        f"weights of 6 runs alike, {rows} rows: rmse gained on the rows of the fit {spread(flattered)}, cross-fitted "
        f"{spread(honest)}; a gain is shown in {100 * better / draws:.1f}%"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    for rows in (100, 300, 1000):
        thresholds(rows, parser.parse_args().draws)
        gains(rows, parser.parse_args().draws)
        weights(rows, parser.parse_args().draws)
