"""Fitted thresholds, held against trying all of them; and what they gain on rows that they did not see."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax

from leantune.inference.thresholds import DECIDED, DecisionRule, fit_decisions, fit_rule
from leantune.system.errors import SettingsError
from leantune.training.scoring import compute_metrics

tenths = st.integers(0, 10).map(lambda n: n / 10)


def both(p):
    return np.stack([1 - p, p], axis=1)


def cuts_of(scores):
    """A cut below all scores, one between each two, and one above."""
    levels = np.unique(scores)
    return [levels[0] - 1, *(levels[:-1] + levels[1:]) / 2, levels[-1] + 1.0]


def best_of(metric, kind, targets, predictions, rules):
    values = [compute_metrics(kind, targets, rule.decide(predictions))[metric] for rule in rules]
    return max((value for value in values if value is not None), default=None)


@pytest.mark.parametrize("metric", DECIDED["binary"])
@given(data=st.data())
@settings(max_examples=25)
def test_a_binary_threshold_is_the_best_of_all(metric, data) -> None:
    rows = data.draw(st.integers(1, 12))
    targets = data.draw(arrays(np.int64, rows, elements=st.integers(0, 1)))
    predictions = both(data.draw(arrays(np.float64, rows, elements=tenths)))
    rule = fit_rule("binary", metric, targets, predictions)
    every = [DecisionRule(kind="binary", metric=metric, thresholds=((cut,),)) for cut in cuts_of(predictions[:, 1])]
    expected = best_of(metric, "binary", targets, predictions, every)
    found = compute_metrics("binary", targets, rule.decide(predictions))[metric]
    if expected is None or found is None:  # f1 without a row of the class: not defined, where nothing is said wrong
        assert expected in (None, 0)
    else:
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", DECIDED["multilabel"])
@given(data=st.data())
@settings(max_examples=20)
def test_thresholds_of_labels_are_the_best_of_all(metric, data) -> None:
    shape = data.draw(st.integers(1, 6)), 2
    targets = data.draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0])))
    predictions = data.draw(arrays(np.float64, shape, elements=tenths))
    rule = fit_rule("multilabel", metric, targets, predictions)
    if metric == "f1_micro":
        pairs = [(cut, cut) for cut in cuts_of(predictions)]
    else:
        pairs = itertools.product(*(cuts_of(column) for column in predictions.T))
    every = [DecisionRule(kind="multilabel", metric=metric, thresholds=((a,), (b,))) for a, b in pairs]
    expected = best_of(metric, "multilabel", targets, predictions, every)
    found = compute_metrics("multilabel", targets, rule.decide(predictions))[metric]
    if expected is None or found is None:
        assert expected in (None, 0)
    else:
        assert found == pytest.approx(expected, abs=1e-12)


@given(data=st.data())
@settings(max_examples=30)
def test_cut_points_of_kappa_are_the_best_of_all(data) -> None:
    rows, highest = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 3))
    lowest = data.draw(st.integers(-2, 1))
    targets = data.draw(arrays(np.float64, (rows, 1), elements=st.integers(lowest, lowest + highest).map(float)))
    predictions = data.draw(arrays(np.float64, (rows, 1), elements=st.integers(-8, 8).map(lambda n: n / 4)))
    first, last = int(targets.min()), int(targets.max())
    rule = fit_rule("regression", "qwk", targets, predictions)
    every = [
        DecisionRule(kind="regression", metric="qwk", thresholds=(cuts,), lowest=(first,))
        for cuts in itertools.combinations_with_replacement(cuts_of(predictions), last - first)
    ]
    expected = best_of("qwk", "regression", targets, predictions, every)
    found = compute_metrics("regression", targets, rule.decide(predictions))["qwk"]
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=1e-9)


def test_classes_in_order_are_decided_by_their_expected_place() -> None:
    targets = np.array([0, 0, 1, 1, 2, 2])
    # The second class is never the most probable one, though the expectation tells all three apart.
    third = np.array([0.05, 0.1, 0.42, 0.45, 0.8, 0.9])
    predictions = np.stack([1 - third, np.zeros(6), third], axis=1)
    assert compute_metrics("multiclass", targets, predictions)["qwk"] < 1
    rule = fit_rule("multiclass", "qwk", targets, predictions)
    decided = rule.decide(predictions)
    assert np.array_equal(decided, np.eye(3)[targets])
    assert rule.thresholds == ((0.5, 1.5),)  # the usual ones are as good as any


def test_each_target_of_a_regression_has_its_own_cut_points() -> None:
    random = np.random.default_rng(0)
    targets = np.stack([random.integers(0, 4, 80), random.integers(10, 13, 80)], axis=1).astype(np.float64)
    rule = fit_rule("regression", "qwk", targets, targets * [0.5, 1.0] + [0.0, 3.0])
    assert rule.lowest == (0, 10)
    assert [len(cuts) for cuts in rule.thresholds] == [3, 2]
    assert np.array_equal(rule.decide(targets * [0.5, 1.0] + [0.0, 3.0]), targets)


def test_the_usual_threshold_stays_where_it_is_as_good_as_the_best() -> None:
    targets, predictions = np.array([0, 0, 1, 1]), both(np.array([0.1, 0.3, 0.6, 0.9]))
    for metric in DECIDED["binary"]:
        assert fit_rule("binary", metric, targets, predictions).thresholds == ((0.5,),)


def test_a_threshold_lies_in_the_middle_between_two_scores() -> None:
    targets, predictions = np.array([0, 0, 1, 1]), both(np.array([0.1, 0.2, 0.3, 0.9]))
    assert fit_rule("binary", "f1", targets, predictions).thresholds == ((0.25,),)


def test_a_label_that_no_row_has_keeps_one_half() -> None:
    predictions = np.random.default_rng(0).random((20, 2))
    targets = np.stack([predictions[:, 0] > 0.3, np.zeros(20)], axis=1).astype(np.float64)
    for metric in ("f1_macro", "mcc"):
        assert fit_rule("multilabel", metric, targets, predictions).thresholds[1] == (0.5,)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_the_rows_changes_nothing(reverse: bool) -> None:
    random = np.random.default_rng(3)
    order = np.arange(200)[::-1] if reverse else random.permutation(200)
    values = random.integers(0, 30, (200, 1)) / 7
    targets = np.clip(np.rint(values + random.normal(size=(200, 1))), 0, 4)
    assert fit_rule("regression", "qwk", targets, values) == fit_rule(
        "regression", "qwk", targets[order], values[order]
    )


# What is gained


def noise(kind, seed, rows=120):
    """Targets, and predictions that know nothing of them."""
    random = np.random.default_rng(seed)
    if kind == "binary":
        return random.integers(0, 2, rows), both(random.random(rows))
    if kind == "multilabel":
        return random.integers(0, 2, (rows, 3)).astype(np.float64), random.random((rows, 3))
    return random.integers(0, 4, (rows, 1)).astype(np.float64), random.normal(1.5, 1.0, (rows, 1))


@pytest.mark.parametrize(("kind", "metric"), [("binary", "mcc"), ("multilabel", "mcc"), ("regression", "qwk")])
def test_noise_flatters_the_fitted_score_and_not_the_cross_fitted(kind, metric) -> None:
    found = [fit_decisions(kind, metric, *noise(kind, seed), resamples=200) for seed in range(60)]
    flattered = np.array([one.flattered_score for one in found])
    honest = np.array([one.score or 0.0 for one in found])  # None: every row decided alike
    assert flattered.mean() > 0.08
    assert abs(honest.mean()) < 4 * honest.std() / 60**0.5  # the truth is 0
    assert sum(one.gain_interval is not None and one.gain_interval[0] > 0 for one in found) <= 6


def test_a_gain_that_is_there_is_shown() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-3, 1.5, 2_000)
    targets = (random.random(2_000) < expit(logits)).astype(np.int64)
    found = fit_decisions("binary", "f1", targets, both(expit(logits)), folds=np.arange(2_000) % 5)
    assert found.rule.thresholds[0][0] < 0.4
    assert found.gain_interval[0] > 0
    assert found.gain_interval[0] < found.gain < found.gain_interval[1]
    assert "gain +0." in found.describe()


def test_thresholds_for_a_fold_never_saw_it() -> None:
    random = np.random.default_rng(0)
    folds = np.arange(300) % 3
    p = random.random(300)
    targets = (p > np.array([0.2, 0.5, 0.8])[folds]).astype(np.int64)
    found = fit_decisions("binary", "accuracy", targets, both(p), folds=folds)
    decided = np.empty((300, 2))
    for fold in range(3):
        others = fit_rule("binary", "accuracy", targets[folds != fold], both(p[folds != fold]))
        decided[folds == fold] = others.decide(both(p[folds == fold]))
    assert found.score == compute_metrics("binary", targets, decided)["accuracy"]
    assert found.score < found.flattered_score


def test_no_gain_is_said_to_be_none() -> None:
    found = fit_decisions("binary", "mcc", *noise("binary", 1))
    assert "no gain could be shown" in found.describe()


def test_rows_of_one_group_are_never_on_both_sides() -> None:
    targets, predictions = noise("binary", 0, rows=40)
    twice = np.repeat(np.arange(40), 2)
    grouped = fit_decisions("binary", "accuracy", targets[twice], predictions[twice], groups=twice)
    plain = fit_decisions("binary", "accuracy", targets, predictions)
    assert grouped.score == pytest.approx(plain.score)


@pytest.mark.parametrize(
    ("kind", "metric", "found"),
    [
        ("binary", "log_loss", "expected f1, f1_macro"),
        ("multiclass", "accuracy", "expected qwk, for classes that have an order"),
        ("soft", "accuracy", "nothing to decide"),
    ],
)
def test_a_metric_that_thresholds_do_not_serve_is_refused(kind, metric, found) -> None:
    predictions = softmax(np.random.default_rng(0).normal(size=(10, 3)), axis=1)
    with pytest.raises(SettingsError, match=found):
        fit_rule(kind, metric, np.zeros(10, np.int64), predictions)


@pytest.mark.parametrize(("targets", "found"), [([0.5, 1.0], "decimal part"), ([0.0, 5_000.0], "range of more than")])
def test_targets_that_are_no_scale_are_refused(targets, found) -> None:
    with pytest.raises(SettingsError, match=found):
        fit_rule("regression", "qwk", np.array(targets)[:, None], np.zeros((2, 1)))
