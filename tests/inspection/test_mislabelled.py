"""Labels that were changed on purpose are suspected, and few others."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from leantune.inspection.mislabelled import suspect_classes, suspect_labels, suspect_numbers


def test_flipped_classes_are_the_rows_in_doubt() -> None:
    points, truth = make_blobs(600, centers=4, cluster_std=0.7, random_state=0)
    labels = truth.copy()
    flipped = np.random.default_rng(1).choice(600, size=30, replace=False)
    labels[flipped] = (labels[flipped] + 1) % 4
    probabilities = cross_val_predict(LogisticRegression(), points, labels, method="predict_proba")
    rows, classes, margins = suspect_classes(probabilities, labels)
    assert len(set(flipped.tolist()) & set(rows[:20].tolist())) >= 18
    assert len(set(flipped.tolist()) & set(rows.tolist())) >= 24
    of_flipped = np.isin(rows, flipped)
    assert (classes[of_flipped] == truth[rows[of_flipped]]).mean() > 0.9
    assert (np.diff(margins) <= 0).all()


def test_the_example_of_the_paper_counts_a_class_as_likely_from_its_own_mean_on() -> None:
    # Thresholds: the mean probability of class 0 over its rows is 0.7, of class 1 over its rows 0.6.
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 1, 1])
    rows, classes, margins = suspect_classes(probabilities, labels)
    assert (rows.tolist(), classes.tolist()) == ([2], [1])
    assert margins == pytest.approx([0.2])


def test_a_class_without_rows_is_never_likely() -> None:
    rows, _, _ = suspect_classes(np.array([[0.1, 0.0, 0.9], [0.0, 0.1, 0.9]]), np.array([0, 1]))
    assert not len(rows)


def test_each_label_is_in_doubt_by_itself() -> None:
    truth = np.random.default_rng(2).integers(0, 2, size=(200, 2)).astype(float)
    labels = truth.copy()
    labels[3, 1] = 1 - labels[3, 1]
    rows, which, _ = suspect_labels(np.clip(truth, 0.05, 0.95), labels)
    assert (rows.tolist(), which.tolist()) == ([3], [1])


def test_a_label_that_was_not_scored_is_not_in_doubt() -> None:
    truth = np.random.default_rng(7).integers(0, 2, size=(100, 2)).astype(float)
    labels = truth.copy()
    labels[5, 0] = np.nan
    labels[6, 0] = 1 - labels[6, 0]
    rows, which, _ = suspect_labels(np.clip(truth, 0.05, 0.95), labels)
    assert (rows.tolist(), which.tolist()) == ([6], [0])


def test_numbers_far_from_their_prediction_are_in_doubt() -> None:
    targets = np.random.default_rng(3).normal(size=(300, 2))
    predictions = targets + np.random.default_rng(4).normal(scale=0.1, size=(300, 2))
    targets[7, 1] += 3
    rows, columns, times = suspect_numbers(predictions, targets)
    assert (rows[0], columns[0]) == (7, 1)
    assert times[0] > 20
