"""TextRegressor and TextClassifier: scikit-learn's conventions, and the results of leantune.train and leantune.load."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import validate_data

import leantune
from leantune import TextClassifier, TextRegressor
from leantune.inference.file import PredictOptions, predict_file
from leantune.system.errors import SettingsError, TableError
from tiny_encoders import make_texts

TEXTS = make_texts(40, most_words=12)
NUMBERS = np.random.default_rng(0).normal(5.0, 2.0, len(TEXTS))
CLASSES = np.array(["no", "yes"])[np.arange(len(TEXTS)) % 2]
SETTINGS = {"optimizer.max_steps": 2, "precision": "fp32", "model.dropout": None, "model.attention_dropout": None}


@pytest.fixture(scope="module")
def bert(tiny_encoders: Path) -> str:
    return str(tiny_encoders / "bert")


@pytest.fixture(scope="module")
def options(bert: str) -> dict[str, Any]:
    return {"model": bert, "settings": SETTINGS, "device": "cpu", "learning_rate": 1e-2, "batch_size": 16}


@pytest.fixture(scope="module")
def regressor(options: dict[str, Any]) -> TextRegressor:
    return TextRegressor(**options).fit(TEXTS, NUMBERS)


@pytest.fixture(scope="module")
def classifier(options: dict[str, Any]) -> TextClassifier:
    return TextClassifier(**options).fit(pd.DataFrame({"excerpt": TEXTS}), CLASSES)


def test_a_regressor_predicts_what_a_run_of_the_same_table_predicts(regressor, options, bert, tmp_path):
    frame = pd.DataFrame({"text": TEXTS, "target": NUMBERS})
    settings = SETTINGS | {"device": "cpu", "optimizer.learning_rate": 1e-2, "batching.batch_size": 16}
    leantune.train(
        frame, output=tmp_path / "run", text="text", target="target", model=bert, fold="none", settings=settings,
        display=False,
    )  # fmt: skip
    assert regressor.predict(TEXTS).tolist() == leantune.load(tmp_path / "run").predict(TEXTS).values[:, 0].tolist()
    assert regressor.score(TEXTS, NUMBERS) == r2_score(NUMBERS, regressor.predict(TEXTS))
    assert regressor.run_.metrics["task"] == "regression"


def test_the_classes_are_those_of_y_and_probabilities_are_in_their_order(classifier):
    frame = pd.DataFrame({"excerpt": TEXTS})
    probabilities = classifier.predict_proba(frame)
    assert classifier.classes_.tolist() == ["no", "yes"]
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(TEXTS)))
    assert classifier.predict(frame).tolist() == classifier.classes_[probabilities.argmax(axis=1)].tolist()
    assert classifier.score(frame, CLASSES) == accuracy_score(CLASSES, classifier.predict(frame))


@pytest.mark.parametrize(
    "classes", [[10, 9, 2], [True, False, True], ["01", "1", " 1"], ["10", "b", "a "]], ids=lambda c: str(c[0])
)
def test_classes_of_any_type_come_back_as_they_were(options, classes):
    y = np.array(classes)[np.arange(len(TEXTS)) % len(classes)]
    fitted = TextClassifier(**options).fit(TEXTS, y)
    assert fitted.classes_.tolist() == np.unique(y).tolist()
    predicted = fitted.predict(TEXTS)
    assert predicted.dtype == y.dtype
    # The head begins at the shares of the classes, and two steps change little: the column of a class is its own.
    shares = [(y == name).mean() for name in fitted.classes_]
    assert fitted.predict_proba(TEXTS).mean(axis=0) == pytest.approx(shares, abs=0.25)


def test_a_class_that_most_rows_have_is_predicted_under_its_own_name(options):
    y = np.where(np.arange(len(TEXTS)) < 4, 2, 10)  # as texts, "10" sorts before "2"
    fitted = TextClassifier(**options).fit(TEXTS, y)
    assert np.bincount(fitted.predict(TEXTS), minlength=11)[10] > len(TEXTS) / 2
    assert fitted.predict_proba(TEXTS)[:, 1].mean() > 0.5


def test_labels_are_a_matrix_of_0_and_1(options):
    lists = [["joy"], ["fear", "love"], []] * 13 + [["joy", "fear"]]
    binarizer = MultiLabelBinarizer()
    y = pd.DataFrame(binarizer.fit_transform(lists), columns=binarizer.classes_)
    fitted = TextClassifier(**options).fit(TEXTS, y)
    predicted, probabilities = fitted.predict(TEXTS), fitted.predict_proba(TEXTS)
    assert fitted.classes_.tolist() == ["fear", "joy", "love"]
    assert probabilities.shape == (40, 3)
    assert predicted.tolist() == (probabilities >= 0.5).astype(int).tolist()
    assert len(binarizer.inverse_transform(predicted)) == 40
    with pytest.raises(ValueError, match="MultiLabelBinarizer"):
        TextClassifier(**options).fit(TEXTS, lists)


def test_several_targets_and_pairs_of_texts(options):
    frame = pd.DataFrame({"one": TEXTS, "other": TEXTS[::-1]})
    y = np.stack([NUMBERS, -NUMBERS], axis=1)
    fitted = TextRegressor(**options).fit(frame, y)
    assert fitted.n_features_in_ == 2
    assert fitted.feature_names_in_.tolist() == ["one", "other"]
    predicted = fitted.predict(frame)
    assert predicted.shape == (40, 2)
    for same in (list(zip(TEXTS, TEXTS[::-1], strict=True)), frame.to_numpy(), pa.table(frame), frame.to_dict("list")):
        assert fitted.predict(same).tolist() == predicted.tolist()


@pytest.mark.parametrize(
    "hold",
    [
        np.array, pd.Series, tuple, pa.array, lambda texts: np.array(texts)[:, np.newaxis],
        lambda texts: pytest.importorskip("polars", reason="polars is not installed").Series(texts),
    ],
    ids=["array", "series", "tuple", "Arrow", "2-D", "polars"],
)  # fmt: skip
def test_texts_may_be_held_by_anything(regressor, hold):
    assert regressor.predict(hold(TEXTS)).tolist() == regressor.predict(TEXTS).tolist()


def test_a_run_of_a_table_in_memory_predicts_a_file(regressor, tmp_path):
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "new.csv", index=False)
    list(predict_file([regressor.run_.folder], tmp_path / "new.csv", tmp_path / "out.csv", PredictOptions()))
    assert pd.read_csv(tmp_path / "out.csv")["target"].to_numpy() == pytest.approx(regressor.predict(TEXTS), rel=1e-6)


def test_rows_without_weight_teach_nothing(options):
    half = np.arange(len(TEXTS)) < 20
    weighed = TextRegressor(**options).fit(TEXTS, np.where(half, NUMBERS, 1000.0), sample_weight=half.astype(float))
    assert np.abs(weighed.predict(TEXTS) - NUMBERS[half].mean()).max() < 20


def test_a_fold_validates_where_that_is_asked_for(options):
    fitted = TextRegressor(**options | {"fold": 0, "settings": SETTINGS | {"folds.count": 4}}).fit(TEXTS, NUMBERS)
    assert fitted.run_.metrics["folds"]["0"]["validation_rows"] == 10
    assert len(fitted.predict(TEXTS)) == 40


def test_a_grid_searches_the_parameters_of_a_pipeline(options, tmp_path):
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = make_pipeline(lower, TextClassifier(**options, output=tmp_path / "runs"))
    grid = GridSearchCV(pipeline, {"textclassifier__learning_rate": np.array([1e-3, 1e-2])}, cv=2, refit=False)
    grid.fit(TEXTS, CLASSES)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [f"fit_{n:04d}" for n in range(1, 5)]


def test_a_fitted_estimator_pickled_predicts_the_same_without_its_run(options, tmp_path):
    fitted = TextRegressor(**options).fit(TEXTS, NUMBERS)
    before = fitted.predict(TEXTS).tolist()
    joblib.dump(fitted, tmp_path / "model.joblib")
    again, third = joblib.load(tmp_path / "model.joblib"), pickle.loads(pickle.dumps(fitted))
    folder = fitted.run_.folder
    del fitted
    assert not folder.exists()
    for copy in (again, third):
        assert copy.run_.folder.is_dir()
        assert copy.predict(TEXTS).tolist() == before
    assert again.run_.folder != third.run_.folder


def test_a_temporary_run_goes_with_a_new_fit_and_a_folder_that_was_given_stays(options, tmp_path):
    fitted = TextRegressor(**options).fit(TEXTS, NUMBERS)
    first = fitted.run_.folder
    fitted.set_params(output=tmp_path / "runs").fit(TEXTS, NUMBERS)
    assert not first.exists()
    kept = fitted.run_.folder
    del fitted
    assert kept == tmp_path / "runs" / "fit_0001"
    assert (kept / "metrics.json").is_file()


def test_the_seed_may_be_given_in_scikit_learns_ways(options):
    def seed(random_state: Any) -> int:
        return TextRegressor(**options, random_state=random_state)._settings()["seed"]

    assert seed(7) == seed(np.int64(7)) == 7
    assert seed(np.random.RandomState(3)) == seed(np.random.RandomState(3))
    assert seed(None) != seed(None)


def test_parameters_are_kept_as_they_are_and_cloned(options):
    estimator = TextClassifier(**options, max_length=64)
    assert clone(estimator).get_params() == estimator.get_params()
    assert estimator.set_params(epochs=2)._settings()["optimizer.epochs"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.epochs": 2}, "optimizer.epochs is the parameter epochs; set that"),
        ({"data.text": "x"}, "data.text follows from what fit is given"),
        ({"data.encoding": "cp932"}, "encoding is not used for a table in memory"),
        ({"optimizer.epoch": 2}, "there is no such setting"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(options, settings, message):
    with pytest.raises(SettingsError, match=message):
        TextRegressor(**options | {"settings": settings}).fit(TEXTS, NUMBERS)


@pytest.mark.parametrize(
    ("texts", "y", "message"),
    [
        (["a", None], [1.0, 2.0], "the table in memory, row 2, column 'text': found nothing"),
        ("a text", [1.0], "X: found one text"),
        (np.array([["a", "b", "c"]]), [1.0], "X: found 3 columns, expected one column of texts, or two for pairs"),
        (pd.DataFrame({"a": ["x"], "b": ["y"], "c": [1]}), [1.0], "X: found the columns 'a', 'b', 'c', expected one"),
        (["a", "b"], [1.0], "inconsistent numbers of samples"),
        (["a", "b"], [1.0, float("nan")], "Input y contains NaN"),
        (["a", "b"], None, "requires y to be passed"),
        (["a", "b"], [1.0, 1.0], "at least two different values"),
    ],
)
def test_what_cannot_be_fitted_is_a_value_error(options, texts, y, message):
    with pytest.raises(ValueError, match=message):
        TextRegressor(**options).fit(texts, y)


def test_a_fit_that_is_refused_leaves_no_folder(options, tmp_path):
    with pytest.raises(TableError, match="row 2"):
        TextRegressor(**options, output=tmp_path).fit(["a", None], [1.0, 2.0])
    assert list(tmp_path.iterdir()) == []


def test_columns_other_than_those_of_fit_are_refused(classifier):
    with pytest.raises(TableError, match="feature names should match those that were passed during fit"):
        classifier.predict(pd.DataFrame({"text": TEXTS}))
    with pytest.raises(TableError, match="X has 2 features, but TextClassifier is expecting 1 features"):
        classifier.predict(list(zip(TEXTS, TEXTS, strict=True)))


def test_columns_of_x_may_be_called_like_ours(options):
    frame = pd.DataFrame({"target": TEXTS, "sample_weight": TEXTS})
    fitted = TextRegressor(**options).fit(frame, NUMBERS, sample_weight=np.ones(len(TEXTS)))
    assert len(fitted.predict(frame)) == len(TEXTS)


def test_no_text_gives_no_prediction(regressor, classifier):
    assert regressor.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 2)


def test_before_fit_nothing_is_predicted():
    with pytest.raises(NotFittedError):
        TextRegressor().predict(TEXTS)


class _NumbersAsTexts:
    """scikit-learn's checks give matrices of numbers: each row becomes a text of its numbers."""

    encoder: ClassVar[str]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.one_d_array = False
        for kind in (tags.classifier_tags, tags.regressor_tags):
            if kind is not None:
                kind.poor_score = True  # an untrained encoder, and two steps
        return tags

    def _settings(self) -> dict[str, Any]:
        own = super()._settings()  # type: ignore[misc]
        return own | SETTINGS | {"model.name": _NumbersAsTexts.encoder, "device": "cpu"}

    def _read(self, data: Any, *, reset: bool) -> dict[str, pa.Array]:
        rows = validate_data(self, data, reset=reset)
        return {"text": pa.array([" ".join(f"{cell:.2g}" for cell in row) for row in rows], pa.large_string())}


class CheckedRegressor(_NumbersAsTexts, TextRegressor):
    pass


class CheckedClassifier(_NumbersAsTexts, TextClassifier):
    pass


CANNOT_HOLD = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a row of weight 2 and the row twice are the same to the loss, and not to the order of rows and the batches"
    ),
}
QUICK = (
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_parameters_default_constructible",
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimators_unfitted",
    "check_requires_y_none",
    "check_estimators_empty_data_messages",
    "check_complex_data",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
)
"""Checks that train at most once; the others are left to the slow tests."""


def estimator_checks() -> list[Any]:
    found = []
    for estimator in (CheckedRegressor(), CheckedClassifier()):
        for one, check in estimator_checks_generator(estimator, expected_failed_checks=CANNOT_HOLD, mark=None):
            name = getattr(check, "func", check).__name__
            marks = [] if name in QUICK else [pytest.mark.slow]
            if name in CANNOT_HOLD:
                marks.append(pytest.mark.xfail(reason=CANNOT_HOLD[name], strict=False))
            found.append(pytest.param(one, check, id=f"{type(one).__name__}-{name}-{len(found)}", marks=marks))
    return found


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), estimator_checks())
def test_scikit_learns_own_checks(
    estimator: Any, check: Callable[[Any], None], bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_NumbersAsTexts, "encoder", bert, raising=False)
    check(estimator)
