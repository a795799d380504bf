"""Fitted weights and thresholds reach the predictions, from Python and from the command's function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import leantune
from leantune.inference.ensemble import describe_fits, open_ensemble
from leantune.inference.file import PredictOptions, as_metric_name, parse_weights, predict_file
from leantune.inference.out_of_fold import read_out_of_fold, read_same_rows
from leantune.inference.thresholds import fit_decisions
from leantune.inference.trained_run import open_run
from leantune.system.errors import SettingsError
from leantune.tables.targets import TaskKind
from leantune.training.events import Note
from small_runs import LABELS

BOTH_FOLDS: dict[str, Any] = {"fold": "all", "folds__count": 2}


@pytest.fixture
def seeds(trained: Callable[..., Path]) -> list[Path]:
    return [trained(**BOTH_FOLDS, seed=seed) for seed in (0, 1)]


def written(runs: list[Path], output: Path, **options: Any) -> tuple[pd.DataFrame, list[Note]]:
    events = list(predict_file(runs, runs[0].with_suffix(".csv"), output, PredictOptions(**options)))
    return pd.read_csv(output, dtype={"name": str}), [event for event in events if isinstance(event, Note)]


def test_fitted_weights_are_those_of_the_validation_rows(seeds: list[Path]) -> None:
    predictor = leantune.load(*seeds, weights="fitted")
    fitted = predictor.fitted_weights
    assert fitted is not None
    one, two = (leantune.load(seed).predict(["Ra ra ba."]).values for seed in seeds)
    expected = fitted.weights[0] * one + fitted.weights[1] * two
    np.testing.assert_allclose(predictor.predict(["Ra ra ba."]).values, expected)
    read = read_same_rows([open_run(seed) for seed in seeds])
    errors = [np.square(one.predictions - one.targets).mean() ** 0.5 for one in read]
    assert fitted.run_scores == pytest.approx(errors)


def test_what_was_fitted_is_said_before_anything_is_computed(seeds: list[Path], tmp_path: Path) -> None:
    _, notes = written(seeds, tmp_path / "out.csv", weights="fitted")
    text = next(note.text for note in notes if note.about == "weights")
    assert f"{seeds[0].name} " in text
    assert "with equal weights" in text


@pytest.mark.parametrize(("kind", "metric"), [("binary", "f1"), ("multiclass", "qwk"), ("multilabel", "f1_macro")])
def test_thresholds_decide_in_the_file_and_from_python(
    kind: TaskKind, metric: str, trained: Callable[..., Path], tmp_path: Path
) -> None:
    run = trained(kind, **BOTH_FOLDS)
    frame, notes = written([run], tmp_path / "out.csv", decide=metric)
    read = read_out_of_fold(open_run(run))
    expected = fit_decisions(kind, as_metric_name(metric), read.targets, read.predictions, folds=read.folds)
    assert any(note.text == expected.describe() for note in notes if note.about == "decide")
    texts = pd.read_csv(run.with_suffix(".csv"), dtype=str, keep_default_na=False)["text"].tolist()
    predictions = leantune.load(run, decide=metric).predict(texts)
    decided = expected.rule.decide(predictions.values)
    if kind == "multilabel":
        assert np.array_equal(frame[list(LABELS[kind])].to_numpy(), decided)
        assert str(frame[LABELS[kind][0]].dtype) == "int64"
        assert predictions.decisions.to_pylist() == (decided == 1).tolist()
    else:
        names = [LABELS[kind][place] for place in decided.argmax(axis=1)]
        assert frame["prediction"].tolist() == predictions.decisions.to_pylist() == names
        np.testing.assert_allclose(frame[f"probability_{LABELS[kind][0]}"], predictions.values[:, 0])


def test_regression_is_decided_in_whole_numbers(trained: Callable[..., Path], tmp_path: Path) -> None:
    run = trained("multilabel", data__task="regression", **BOTH_FOLDS)
    frame, _ = written([run], tmp_path / "out.csv", decide="qwk")
    assert all(str(frame[name].dtype) == "int64" for name in LABELS["multilabel"])
    values = leantune.load(run, decide="qwk").predict(["Ra ra"]).decisions.to_pylist()[0]
    assert set(values) <= {0, 1}


def test_thresholds_of_fitted_weights_are_scored_by_the_cross_fitted_blend(trained: Callable[..., Path]) -> None:
    runs = [trained("binary", **BOTH_FOLDS, seed=seed) for seed in (0, 1)]
    ensemble = open_ensemble(runs, "fitted", decide="f1")
    assert ensemble.fitted_weights is not None
    read = read_out_of_fold(open_run(runs[0]))
    expected = fit_decisions("binary", "f1", read.targets, ensemble.fitted_weights.blended, folds=read.folds)
    assert ensemble.fitted_decisions == expected
    assert [about for about, _ in describe_fits(ensemble)] == ["weights", "decide"]


def test_without_a_word_nothing_is_fitted(seeds: list[Path]) -> None:
    ensemble = open_ensemble(seeds)
    assert (ensemble.fitted_weights, ensemble.rule, list(describe_fits(ensemble))) == (None, None, [])


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda run: open_ensemble([run], "fitted"), "weights: found fitted for one run"),
        (lambda run: open_ensemble([run], decide="f1"), "decide: found f1 for a run of the kind regression"),
        (lambda run: open_ensemble([run], decide="qwk"), "whole numbers for qwk"),
        (lambda _: as_metric_name("f2"), "--decide: found 'f2'"),
        (lambda _: parse_weights("fited"), "such as 0.7,0.3, or fitted"),
    ],
)
def test_what_cannot_be_fitted_is_refused(call: Callable[[Path], object], found: str, trained: Any) -> None:
    with pytest.raises(SettingsError, match=found):
        call(trained(**BOTH_FOLDS))
