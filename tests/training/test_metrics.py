"""Metrics, held against numpy, pandas, SciPy and scikit-learn."""

import math
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import expit, softmax

from leantune.system.errors import SettingsError
from leantune.tables.targets import TaskKind
from leantune.training.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    Metric,
    MetricName,
    as_metric,
    default_metric,
    is_better,
    metric_names,
)
from leantune.training.scoring import compute_metrics

KINDS = get_args(TaskKind)

# Eighths, so that what is equal is exactly equal, also after a subtraction.
eighths = st.integers(-80, 80).map(lambda n: n / 8)
logits = st.integers(-60, 60).map(lambda n: n / 4)


@st.composite
def regressions(draw, most_targets=3, elements=eighths):
    shape = draw(st.integers(1, 30)), draw(st.integers(1, most_targets))
    return draw(arrays(np.float64, shape, elements=elements)), draw(arrays(np.float64, shape, elements=elements))


@st.composite
def classifications(draw, fewest=2, most=5):
    rows, count = draw(st.integers(1, 40)), draw(st.integers(fewest, most))
    targets = draw(arrays(np.int64, rows, elements=st.integers(0, count - 1)))
    scores = draw(arrays(np.float32, (rows, count), elements=logits))
    return targets, softmax(scores, axis=1).astype(np.float64)


@st.composite
def labellings(draw):
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    targets = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0])))
    return targets, expit(draw(arrays(np.float32, shape, elements=logits))).astype(np.float64)


@st.composite
def shares(draw):
    shape = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    targets = draw(arrays(np.float64, shape, elements=st.integers(0, 8).map(float)))
    targets[:, 0] += targets.sum(axis=1) == 0
    scores = draw(arrays(np.float32, shape, elements=logits))
    return targets / targets.sum(axis=1, keepdims=True), softmax(scores, axis=1).astype(np.float64)


def mean_of_defined(values):
    defined = [value for value in values if value is not None and not math.isnan(value)]
    return sum(defined) / len(defined) if defined else None


def area_under_roc(truth, score):
    """Share of the pairs of a positive and a negative row that the score puts in order, ties counting half."""
    positive, negative = score[truth == 1], score[truth != 1]
    if not len(positive) or not len(negative):
        return None
    return stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))


def agrees(found, expected, tolerance=1e-9):
    return found is None if expected is None else found == pytest.approx(expected, rel=tolerance, abs=tolerance)


@given(regressions())
def test_errors_of_a_regression_are_numpys_means_over_all_targets(data):
    targets, predictions = data
    found = compute_metrics("regression", targets, predictions)
    assert agrees(found["mse"], np.mean((targets - predictions) ** 2))
    assert agrees(found["rmse"], np.sqrt(np.mean((targets - predictions) ** 2)))
    assert agrees(found["mae"], np.mean(np.abs(targets - predictions)))


@given(regressions())
def test_r2_is_scikit_learns_mean_over_the_targets_that_vary(data):
    targets, predictions = data
    varied = np.ptp(targets, axis=0) > 0
    expected = sk.r2_score(targets[:, varied], predictions[:, varied]) if varied.any() else None
    assert agrees(compute_metrics("regression", targets, predictions)["r2"], expected)


@given(regressions(), st.sampled_from(["pearson", "spearman"]))
def test_correlations_are_pandas_means_over_the_columns_that_vary(data, method):
    columns = [(pd.Series(t), pd.Series(p)) for t, p in zip(data[0].T, data[1].T, strict=True)]
    expected = mean_of_defined(
        t.corr(p, method=method) if t.nunique() > 1 and p.nunique() > 1 else None for t, p in columns
    )
    assert agrees(compute_metrics("regression", *data)[method], expected)


@given(classifications())
def test_accuracy_and_mcc_of_classes_are_scikit_learns(data):
    targets, predictions = data
    found = compute_metrics("multiclass", targets, predictions)
    chosen = predictions.argmax(axis=1)
    assert agrees(found["accuracy"], sk.accuracy_score(targets, chosen))
    assert agrees(found["mcc"], sk.matthews_corrcoef(targets, chosen) if len(set(targets)) > 1 else None)


@given(classifications())
def test_f1_macro_of_classes_is_the_mean_over_the_classes_that_occur(data):
    targets, predictions = data
    chosen = predictions.argmax(axis=1)
    expected = np.mean(
        [
            2 * np.sum((targets == c) & (chosen == c)) / (np.sum(targets == c) + np.sum(chosen == c))
            for c in np.union1d(targets, chosen)
        ]
    )
    assert agrees(compute_metrics("multiclass", targets, predictions)["f1_macro"], expected)


@given(classifications())
def test_log_loss_of_classes_is_scikit_learns_for_float32_probabilities(data):
    targets, predictions = data
    expected = sk.log_loss(targets, predictions.astype(np.float32), labels=range(predictions.shape[1]))
    assert agrees(compute_metrics("multiclass", targets, predictions)["log_loss"], expected, 1e-5)


@given(classifications())
def test_the_other_f1_of_classes_are_scikit_learns_and_balanced_accuracy_is_the_mean_recall(data):
    targets, predictions = data
    found = compute_metrics("multiclass", targets, predictions)
    chosen = predictions.argmax(axis=1)
    for average in ("micro", "weighted"):
        assert agrees(found[f"f1_{average}"], sk.f1_score(targets, chosen, average=average, zero_division=0))
    recalls = sk.recall_score(targets, chosen, average=None, labels=np.unique(targets))
    assert agrees(found["balanced_accuracy"], np.mean(recalls))


@given(classifications(most=2))
def test_f1_and_average_precision_of_two_classes_are_of_the_second_one(data):
    targets, predictions = data
    found = compute_metrics("binary", targets, predictions)
    expected = sk.f1_score(targets, predictions.argmax(axis=1), zero_division=np.nan)
    assert agrees(found["f1"], None if math.isnan(expected) else expected)
    expected = sk.average_precision_score(targets, predictions[:, 1]) if targets.any() else None
    assert agrees(found["average_precision"], expected)


@given(classifications(fewest=3))
def test_average_precision_of_many_classes_is_the_mean_over_those_that_occur_each_against_the_rest(data):
    targets, predictions = data
    expected = np.mean([sk.average_precision_score(targets == c, predictions[:, c]) for c in np.unique(targets)])
    assert agrees(compute_metrics("multiclass", targets, predictions)["average_precision"], expected)


def quadratic_kappa(targets, predictions):
    """scikit-learn's, whose labels must be all whole numbers between the outermost: its weights are of places."""
    both = np.concatenate([targets, predictions]).astype(int)
    labels = range(both.min(), both.max() + 1)
    if len(labels) == 1:
        return None
    return sk.cohen_kappa_score(targets.astype(int), predictions.astype(int), weights="quadratic", labels=labels)


@given(classifications(fewest=3))
def test_qwk_of_classes_is_scikit_learns_by_the_order_of_the_classes(data):
    targets, predictions = data
    expected = quadratic_kappa(targets, predictions.argmax(axis=1))
    assert agrees(compute_metrics("multiclass", targets, predictions)["qwk"], expected)


@given(regressions(elements=st.integers(-12, 12).map(lambda n: n / 4)), st.booleans())
def test_qwk_of_a_regression_is_scikit_learns_mean_of_rounded_values_within_the_range_of_whole_targets(data, is_whole):
    targets, predictions = data
    targets = np.rint(targets) if is_whole else targets
    expected = None
    if (targets == np.rint(targets)).all():
        columns = zip(targets.T, np.rint(predictions).T, strict=True)
        expected = mean_of_defined(quadratic_kappa(t, np.clip(p, t.min(), t.max())) for t, p in columns)
    assert agrees(compute_metrics("regression", targets, predictions)["qwk"], expected)


@given(regressions())
def test_mcrmse_is_the_mean_of_the_columns_rmse(data):
    targets, predictions = data
    expected = [sk.root_mean_squared_error(t, p) for t, p in zip(targets.T, predictions.T, strict=True)]
    assert agrees(compute_metrics("regression", targets, predictions)["mcrmse"], np.mean(expected))


@given(classifications(most=2))
def test_roc_auc_of_two_classes_is_the_share_of_pairs_in_order(data):
    targets, predictions = data
    found = compute_metrics("binary", targets, predictions)["roc_auc"]
    assert agrees(found, area_under_roc(targets, predictions[:, 1]))


@given(classifications(fewest=3))
def test_roc_auc_of_many_classes_is_the_mean_over_those_that_occur_each_against_the_rest(data):
    targets, predictions = data
    expected = mean_of_defined(area_under_roc(targets == c, predictions[:, c]) for c in np.unique(targets))
    assert agrees(compute_metrics("multiclass", targets, predictions)["roc_auc"], expected)


def test_roc_auc_of_many_classes_is_scikit_learns_where_all_occur():
    random = np.random.RandomState(0)
    targets = random.permutation(np.arange(60) % 4)
    predictions = softmax(random.normal(size=(60, 4)), axis=1)
    expected = sk.roc_auc_score(targets, predictions, multi_class="ovr")
    assert agrees(compute_metrics("multiclass", targets, predictions)["roc_auc"], expected)


@given(shares())
def test_log_loss_of_shares_is_scikit_learns_of_every_class_weighted_by_its_share(data):
    targets, predictions = data
    (rows, width), found = targets.shape, compute_metrics("soft", targets, predictions)
    expected = sk.log_loss(
        np.tile(np.arange(width), rows),
        predictions.astype(np.float32).repeat(width, axis=0),
        sample_weight=targets.ravel(),
        labels=range(width),
    )
    assert agrees(found["log_loss"], expected, 1e-5)


@given(shares())
def test_the_other_metrics_of_shares_are_scikit_learns(data):
    targets, predictions = data
    found = compute_metrics("soft", targets, predictions)
    assert agrees(found["accuracy"], sk.accuracy_score(targets.argmax(axis=1), predictions.argmax(axis=1)))
    assert agrees(found["mae"], sk.mean_absolute_error(targets, predictions))
    assert agrees(found["rmse"], np.sqrt(sk.mean_squared_error(targets.ravel(), predictions.ravel())))


def test_a_perfect_prediction_of_shares_has_their_entropy_for_a_log_loss():
    halves = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert compute_metrics("soft", halves, halves)["log_loss"] == pytest.approx(math.log(2))


@given(labellings())
def test_accuracy_of_labels_is_the_share_of_rows_with_every_label_right(data):
    targets, predictions = data
    expected = np.mean([list(t) == list(p >= 0.5) for t, p in zip(targets, predictions, strict=True)])
    assert agrees(compute_metrics("multilabel", targets, predictions)["accuracy"], expected)


@given(labellings())
def test_other_metrics_of_labels_are_the_means_of_scikit_learns_over_the_labels(data):
    targets, predictions = data
    found = compute_metrics("multilabel", targets, predictions)
    columns = list(zip(targets.T.astype(int), predictions.T, strict=True))
    assert agrees(found["f1_macro"], np.mean([sk.f1_score(t, p >= 0.5, zero_division=0) for t, p in columns]))
    losses = [sk.log_loss(t, p.astype(np.float32), labels=[0, 1]) for t, p in columns]
    assert agrees(found["log_loss"], np.mean(losses), 1e-5)
    assert agrees(found["roc_auc"], mean_of_defined(area_under_roc(t, p) for t, p in columns))
    varied = [(t, p >= 0.5) for t, p in columns if len(set(t)) > 1]
    assert agrees(found["mcc"], mean_of_defined(sk.matthews_corrcoef(t, p) for t, p in varied))
    assert agrees(found["balanced_accuracy"], mean_of_defined(sk.balanced_accuracy_score(t, p) for t, p in varied))
    expected = mean_of_defined(sk.average_precision_score(t, p) for t, p in columns if t.any())
    assert agrees(found["average_precision"], expected)


@given(labellings())
def test_f1_micro_counts_all_labels_together_and_f1_weighted_by_how_often_each_occurs(data):
    targets, predictions = data
    found = compute_metrics("multilabel", targets, predictions)
    chosen = predictions >= 0.5
    together = sk.f1_score(targets.ravel(), chosen.ravel(), zero_division=np.nan)
    assert agrees(found["f1_micro"], None if math.isnan(together) else together)
    each = [sk.f1_score(t, p, zero_division=0) for t, p in zip(targets.T, chosen.T, strict=True)]
    rows = targets.sum(axis=0)
    assert agrees(found["f1_weighted"], np.average(each, weights=rows) if rows.any() else None)


def test_a_label_is_predicted_from_a_probability_of_one_half_on():
    targets = np.array([[1.0], [0.0]])
    assert compute_metrics("multilabel", targets, np.array([[0.5], [0.4999]]))["accuracy"] == 1


def test_a_probability_of_zero_for_the_truth_costs_much_but_not_infinitely_much():
    loss = compute_metrics("binary", np.array([0, 1]), np.array([[0.0, 1.0], [1.0, 0.0]]))["log_loss"]
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).eps))


@pytest.mark.parametrize(
    ("kind", "targets", "predictions", "undefined"),
    [
        ("regression", [[1.0]], [[2.0]], {"r2", "pearson", "spearman", "qwk"}),
        ("regression", [[1.0], [1.0]], [[2.0], [3.0]], {"r2", "pearson", "spearman", "qwk"}),
        ("regression", [[1.0], [2.0]], [[3.0], [3.0]], {"pearson", "spearman"}),
        ("regression", [[1.0, 5.0], [2.0, 5.0]], [[3.0, 1.0], [4.0, 2.0]], set()),
        ("regression", [[1.5, 5.0], [2.0, 4.0]], [[3.0, 1.0], [4.0, 2.0]], {"qwk"}),
        ("binary", [1, 1], [[0.5, 0.5], [0.25, 0.75]], {"roc_auc", "mcc"}),
        ("binary", [0, 0], [[0.5, 0.5], [0.25, 0.75]], {"roc_auc", "mcc", "average_precision"}),
        ("binary", [0, 0], [[0.5, 0.5], [0.75, 0.25]], {"roc_auc", "mcc", "average_precision", "f1"}),
        ("multiclass", [2, 2], [[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]], {"roc_auc", "mcc"}),
        ("multiclass", [2, 2], [[0.25, 0.25, 0.5], [0.25, 0.25, 0.5]], {"roc_auc", "mcc", "qwk"}),
        ("multilabel", [[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.25, 0.75]], {"roc_auc", "mcc", "balanced_accuracy"}),
        (
            "multilabel",
            [[0.0], [0.0]],
            [[0.25], [0.25]],
            {"roc_auc", "mcc", "balanced_accuracy", "average_precision", "f1_micro", "f1_weighted"},
        ),
        ("multilabel", [[1.0, 0.0], [0.0, 0.0]], [[0.5, 0.5], [0.25, 0.75]], set()),
    ],
)
def test_an_undefined_metric_is_none_and_nothing_warns(kind, targets, predictions, undefined):
    found = compute_metrics(kind, np.array(targets), np.array(predictions))
    assert {name for name, value in found.items() if value is None} == undefined


def test_a_correlation_that_rounding_errors_decide_is_none():
    targets = np.array([[1e15], [1e15 + 0.125], [1e15 + 0.25]])
    assert compute_metrics("regression", targets, np.array([[1.0], [2.0], [3.0]]))["pearson"] is None


@given(regressions(most_targets=2, elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_a_metric_of_any_finite_numbers_is_none_or_finite_and_nothing_warns(data):
    values = compute_metrics("regression", *data).values()
    assert all(value is None or (type(value) is float and math.isfinite(value)) for value in values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_has_its_metrics_in_a_fixed_order_and_one_of_them_chooses(kind):
    targets = np.array([[0.0], [1.0]]) if kind in {"regression", "multilabel", "soft"} else np.array([0, 1])
    predictions = np.array([[0.25], [0.5]]) if targets.ndim == 2 else np.array([[0.75, 0.25], [0.5, 0.5]])
    assert tuple(compute_metrics(kind, targets, predictions)) == metric_names(kind)
    assert default_metric(kind) in metric_names(kind)


def test_the_metrics_of_all_tasks_are_the_metrics_there_are():
    assert {name for names in METRICS.values() for name in names} == set(get_args(MetricName))
    assert METRICS.keys() == set(KINDS)


def test_a_metric_that_a_task_cannot_have_is_not_among_its_names():
    assert "f1" in metric_names("binary")
    assert all("f1" not in metric_names(kind) for kind in KINDS if kind != "binary")
    assert {kind for kind in KINDS if "qwk" in metric_names(kind)} == {"regression", "multiclass"}


@pytest.mark.parametrize("metric", get_args(MetricName))
def test_better_is_lower_for_errors_and_higher_for_the_others(metric):
    worse, better = (2.0, 1.0) if metric in {"mse", "rmse", "mae", "mcrmse", "log_loss"} else (1.0, 2.0)
    assert is_better(metric, better, worse)
    assert not is_better(metric, worse, better)
    assert not is_better(metric, better, better)


@pytest.mark.parametrize("metric", get_args(MetricName))
def test_an_undefined_metric_beats_nothing_and_loses_to_any_number(metric):
    assert is_better(metric, 1.0, None)
    assert not is_better(metric, None, 1.0)
    assert not is_better(metric, None, None)


def one(targets, predictions):
    return 1


def test_a_metric_of_ones_own_gets_targets_and_predictions_and_comes_last():
    targets, predictions = np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]])
    bias = Metric(name="bias", function=lambda t, p: float((p - t).mean()), lower_is_better=True)
    found = compute_metrics("regression", targets, predictions, bias)
    assert tuple(found) == (*metric_names("regression"), "bias")
    assert found["bias"] == 2.5


def test_a_function_alone_is_named_after_itself_and_higher_is_better():
    metric = as_metric(one)
    assert metric.name == "one"
    assert is_better(metric, 2.0, 1.0)
    assert is_better(Metric(name="one", function=one, lower_is_better=True), 1.0, 2.0)
    assert not is_better(metric, None, 1.0)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, np.float32("nan")])
def test_a_metric_of_ones_own_may_be_undefined(value):
    metric = Metric(name="odd", function=lambda *_: value)
    assert compute_metrics("binary", np.array([0, 1]), np.full((2, 2), 0.5), metric)["odd"] is None


@pytest.mark.parametrize("value", ["1", np.ones(2), [1.0]])
def test_a_metric_of_ones_own_that_gives_no_number_is_refused(value):
    with pytest.raises(SettingsError, match=r"^metric: odd returned .*, expected a number$"):
        Metric(name="odd", function=lambda *_: value).score(np.zeros(1), np.zeros((1, 1)))


def test_a_metric_of_ones_own_cannot_change_the_predictions():
    def spoil(targets, predictions):
        targets[:], predictions[:] = 0, 0
        return 0.0

    targets, predictions = np.ones((2, 1)), np.ones((2, 1))
    as_metric(spoil).score(targets, predictions)
    assert (targets == 1).all()
    assert (predictions == 1).all()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda *_: 0.0, "found the name '<lambda>', expected a word"),
        (np.zeros(1), "expected a metric's name, a function or a leantune.Metric"),
    ],
)
def test_a_metric_without_a_name_is_refused(metric, message):
    with pytest.raises(SettingsError, match=f"^metric: .*{message}"):
        as_metric(metric)


@pytest.mark.parametrize("name", ["rmse", "auto", "step"])
def test_a_metric_of_ones_own_has_a_name_of_its_own(name):
    with pytest.raises(SettingsError, match=f"metric: {name} is a name of leantune's own"):
        Metric(name=name, function=one)


def test_the_perfect_prediction_has_the_best_value_of_every_metric():
    random = np.random.RandomState(0)
    targets = random.normal(scale=3.0, size=(50, 2)).round()
    perfect = compute_metrics("regression", targets, targets)
    for name, value in compute_metrics("regression", targets, targets + random.normal(size=(50, 2))).items():
        assert is_better(name, perfect[name], value)
    classes = np.arange(50) % 3
    perfect = compute_metrics("multiclass", classes, np.eye(3)[classes])
    for name, value in compute_metrics("multiclass", classes, np.full((50, 3), 1 / 3)).items():
        assert is_better(name, perfect[name], value)
    assert {name for name in get_args(MetricName) if is_better(name, 0.0, 1.0)} == LOWER_IS_BETTER


def test_labels_that_were_not_scored_count_in_no_metric():
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 2, size=(60, 3)).astype(np.float64)
    predictions = np.round(draw.uniform(size=(60, 3)), 1)
    targets[draw.uniform(size=(60, 3)) < 0.4] = np.nan
    targets[7] = np.nan
    of_label = [(t[~np.isnan(t)], p[~np.isnan(t)]) for t, p in zip(targets.T, predictions.T, strict=True)]
    known = ~np.isnan(targets)
    right = ((predictions >= 0.5) == (targets == 1)) | ~known
    expected = {
        "accuracy": right[known.any(axis=1)].all(axis=1).mean(),
        "f1_macro": np.mean([sk.f1_score(t, p >= 0.5) for t, p in of_label]),
        "log_loss": sk.log_loss(
            targets[known], np.clip(predictions[known], np.finfo(np.float32).eps, 1 - np.finfo(np.float32).eps)
        ),
        "roc_auc": np.mean([sk.roc_auc_score(t, p) for t, p in of_label]),
        "mcc": np.mean([sk.matthews_corrcoef(t, p >= 0.5) for t, p in of_label]),
        "f1_micro": sk.f1_score(targets[known], predictions[known] >= 0.5),
        "f1_weighted": np.average(
            [sk.f1_score(t, p >= 0.5) for t, p in of_label], weights=[t.sum() for t, _ in of_label]
        ),
        "balanced_accuracy": np.mean([sk.balanced_accuracy_score(t, p >= 0.5) for t, p in of_label]),
        "average_precision": np.mean([sk.average_precision_score(t, p) for t, p in of_label]),
    }

    found = compute_metrics("multilabel", targets, predictions)

    assert found == pytest.approx(expected, abs=1e-6)


def test_a_label_that_no_row_has_a_score_of_leaves_the_means_as_they_are():
    targets, predictions = np.array([[0.0], [1.0], [1.0]]), np.array([[0.2], [0.4], [0.9]])
    beside = np.hstack([targets, np.full((3, 1), np.nan)]), np.hstack([predictions, predictions])

    assert compute_metrics("multilabel", *beside) == compute_metrics("multilabel", targets, predictions)


def test_rows_of_which_nothing_was_scored_have_no_metrics():
    found = compute_metrics("multilabel", np.full((3, 2), np.nan), np.full((3, 2), 0.5))

    assert set(found.values()) == {None}
