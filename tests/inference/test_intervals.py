"""Bootstrap intervals of metrics, held against SciPy's, simulated coverage, and cases where there is none."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from leantune.inference.intervals import bootstrap_differences, bootstrap_intervals
from leantune.training.scoring import compute_metrics


def binary(rows, seed=0, *, strength=2.0):
    random = np.random.default_rng(seed)
    p = expit(random.normal(size=rows) * strength)
    return (random.random(rows) < p).astype(np.int64), np.stack([1 - p, p], axis=1)


def test_intervals_are_scipys_bca() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=(80, 1))
    predictions = targets + random.exponential(size=(80, 1))
    found = bootstrap_intervals("regression", targets, predictions, metrics=["rmse"], resamples=20_000)["rmse"]
    expected = stats.bootstrap(
        (predictions[:, 0] - targets[:, 0],),
        lambda errors, axis: np.sqrt(np.square(errors).mean(axis=axis)),
        n_resamples=20_000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.02 * (expected.high - expected.low))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = compute_metrics("binary", *binary(1_000_000))
    names = ["accuracy", "roc_auc", "log_loss"]
    found = [bootstrap_intervals("binary", *binary(200, seed + 1), metrics=names, seed=seed) for seed in range(200)]
    for name in names:
        held = sum(interval[name][0] <= truth[name] <= interval[name][1] for interval in found)
        assert stats.binom.ppf(0.001, 200, 0.93) <= held <= stats.binom.ppf(0.999, 200, 0.97), name


def test_all_metrics_of_the_task_by_default() -> None:
    data = binary(100)
    assert list(bootstrap_intervals("binary", *data, resamples=50)) == list(compute_metrics("binary", *data))


def test_the_same_seed_gives_the_same_intervals_and_another_does_not() -> None:
    data = binary(100)
    assert bootstrap_intervals("binary", *data, seed=1) == bootstrap_intervals("binary", *data, seed=1)
    assert bootstrap_intervals("binary", *data, seed=1) != bootstrap_intervals("binary", *data, seed=2)


def test_an_interval_of_more_confidence_is_wider() -> None:
    (low, high), (lower, higher) = (
        bootstrap_intervals("binary", *binary(300), metrics=["accuracy"], confidence=c)["accuracy"] for c in (0.5, 0.99)
    )
    assert lower < low < high < higher


def test_rows_said_four_times_are_no_more_rows_where_they_are_a_group() -> None:
    targets, predictions = binary(100)
    one = bootstrap_intervals("binary", targets, predictions, metrics=["log_loss"])["log_loss"]
    rows = np.tile(np.arange(100), 4)
    repeated = targets[rows], predictions[rows]
    grouped = bootstrap_intervals("binary", *repeated, metrics=["log_loss"], groups=rows.astype(str))["log_loss"]
    plain = bootstrap_intervals("binary", *repeated, metrics=["log_loss"])["log_loss"]
    assert np.ptp(grouped) == pytest.approx(np.ptp(one), rel=0.1)
    assert np.ptp(plain) == pytest.approx(np.ptp(one) / 2, rel=0.1)


def test_what_says_nothing_of_its_spread_has_no_interval() -> None:
    targets, predictions = np.array([0, 1] * 20), np.tile([[0.9, 0.1], [0.1, 0.9]], (20, 1))
    found = bootstrap_intervals("binary", targets, predictions)
    assert found["accuracy"] is None  # no error at all
    assert bootstrap_intervals("binary", targets[:1], predictions[:1])["log_loss"] is None  # one row
    grouped = bootstrap_intervals("binary", *binary(40), groups=np.zeros(40))
    assert set(grouped.values()) == {None}  # one group


def test_a_metric_that_is_often_not_defined_has_no_interval() -> None:
    targets, predictions = binary(60)
    targets = np.zeros(60, np.int64)
    targets[:2] = 1  # two rows of the class: 1 of 7 resamples has none
    found = bootstrap_intervals("binary", targets, predictions)
    assert found["roc_auc"] is None
    assert found["log_loss"] is not None
    targets[:8] = 1  # 1 of 4,000
    assert bootstrap_intervals("binary", targets, predictions)["roc_auc"] is not None


def test_large_tables_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = binary(500)
    whole = bootstrap_intervals("binary", *data)
    monkeypatch.setattr("leantune.inference.intervals._NUMBERS_AT_ONCE", 500 * 7)
    parted = bootstrap_intervals("binary", *data)
    for name, interval in whole.items():
        assert parted[name] == pytest.approx(interval)


def test_rankings_of_very_large_tables_have_an_interval_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leantune.inference.intervals._MOST_SCORES_RANKED", 199)
    data = binary(100)
    found = bootstrap_intervals("binary", *data)
    assert [name for name, interval in found.items() if interval is None] == ["roc_auc", "average_precision"]
    assert bootstrap_intervals("binary", *data, metrics=["roc_auc"])["roc_auc"] is not None


def test_a_difference_between_predictions_that_err_alike_has_a_narrow_interval() -> None:
    targets, predictions = binary(400)
    better = np.where(np.arange(400)[:, None] < 30, np.eye(2)[targets], predictions)
    low, high = bootstrap_differences("binary", targets, better, predictions, metrics=["accuracy"])["accuracy"]
    value = compute_metrics("binary", targets, better)["accuracy"]
    gain = value - compute_metrics("binary", targets, predictions)["accuracy"]
    assert 0 <= low < gain < high
    alone = bootstrap_intervals("binary", targets, better, metrics=["accuracy"])["accuracy"]
    assert high - low < np.ptp(alone) / 2


def test_a_difference_of_equal_predictions_has_no_interval() -> None:
    targets, predictions = binary(100)
    assert bootstrap_differences("binary", targets, predictions, predictions, metrics=["accuracy"])["accuracy"] is None


@pytest.mark.parametrize(
    ("given", "found"),
    [({"confidence": 1.0}, "confidence is 1.0"), ({"groups": np.zeros(3)}, "groups has 3 rows, and targets 40")],
)
def test_what_cannot_be_is_refused(given: dict, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        bootstrap_intervals("binary", *binary(40), **given)


def test_the_modules_of_statistics_do_not_import_torch() -> None:
    modules = "leantune.inference.blending, leantune.inference.thresholds, leantune.inference.intervals"
    program = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
