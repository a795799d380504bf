import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from leantune.inspection import mistakes


def test_calibration_of_probabilities_that_come_true_is_near_0_and_of_others_their_distance() -> None:
    random = np.random.default_rng(0)
    said = random.uniform(size=50_000)
    assert mistakes.reliability(said, (random.uniform(size=50_000) < said).astype(float)).error < 0.01
    assert mistakes.reliability(np.full(100, 0.9), np.repeat([0.0, 1.0], 50)).error == pytest.approx(0.4)


def test_confusions_are_those_of_scikit_learn_and_the_most_frequent_come_first() -> None:
    random = np.random.default_rng(0)
    targets, said = random.integers(4, size=500), random.integers(4, size=500)
    matrix = mistakes.confusion_matrix(targets, said, 4)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(targets, said))
    pairs = mistakes.most_confused(matrix, 3)
    counts = [matrix[pair] for pair in pairs]
    assert counts == sorted(matrix[~np.eye(4, dtype=bool)], reverse=True)[:3]


def test_a_matrix_without_errors_has_no_confusions() -> None:
    assert mistakes.most_confused(np.diag([5, 6]), 3) == []


def test_precision_and_recall_of_labels_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    targets, said = (random.uniform(size=(200, 3)) < 0.4).astype(float), random.uniform(size=(200, 3))
    counts = mistakes.count_labels(targets, said)
    precision, recall, _, _ = metrics.precision_recall_fscore_support(targets, said > 0.5)
    np.testing.assert_allclose(counts.precision, precision)
    np.testing.assert_allclose(counts.recall, recall)


def test_labels_that_were_not_scored_count_nowhere() -> None:
    counts = mistakes.count_labels(np.array([[1.0], [np.nan], [0.0]]), np.array([[0.9], [0.9], [0.9]]))
    assert (counts.targets[0], counts.predicted[0], counts.right[0]) == (1, 2, 1)


def test_the_slope_is_that_of_a_line_through_targets_over_predictions() -> None:
    random = np.random.default_rng(0)
    said = random.normal(size=50)
    truth = 0.7 * said + random.normal(size=50)
    assert mistakes.slope(truth, said) == pytest.approx(stats.linregress(said, truth).slope)
    assert mistakes.slope(truth, np.ones(50)) is None


@pytest.mark.parametrize(
    ("kind", "labels", "target", "prediction", "said"),
    [
        ("regression", ("a", "b"), np.array([1.0, 2.5]), np.array([0.123456, 2.0]), ("1, 2.5", "0.1235, 2")),
        ("binary", ("no", "yes"), 1, np.array([0.3, 0.7]), ("yes", "yes (0.70)")),
        ("multilabel", ("joy", "awe"), np.array([1.0, 1.0]), np.array([0.2, 0.4]), ("joy, awe", "none")),
        ("soft", ("no", "yes"), np.array([0.25, 0.75]), np.array([0.6, 0.4]), ("yes (0.75)", "no (0.60)")),
    ],
)
def test_targets_and_predictions_are_said_in_words(
    kind: mistakes.TaskKind, labels: tuple[str, ...], target: object, prediction: np.ndarray, said: tuple[str, str]
) -> None:
    assert (mistakes.truth_text(kind, labels, target), mistakes.answer_text(kind, labels, prediction)) == said
