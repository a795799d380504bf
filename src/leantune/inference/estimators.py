"""scikit-learn estimators: an encoder is fine-tuned by `fit` and answers by `predict`.

`fit` is `leantune.train` on a table in memory, and `predict` is `leantune.load(RUN).predict`: nothing is learned or
computed here. The conventions are those of https://scikit-learn.org/stable/developers/develop.html.
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from leantune.inference.predictions import Predictions
from leantune.inference.predictor import load
from leantune.runs.run import train
from leantune.system.errors import SettingsError, TableError
from leantune.tables.memory import columns_of, describe_columns
from leantune.tables.table import numbers_or_nan
from leantune.tables.targets import TaskKind

PARAMETERS = {
    "model": "model.name",
    "learning_rate": "optimizer.learning_rate",
    "epochs": "optimizer.epochs",
    "batch_size": "batching.batch_size",
    "max_length": "tokens.max_length",
    "fold": "fold",
    "device": "device",
    "random_state": "seed",
}
"""Parameter of an estimator -> the setting that it is."""

_FROM_ARGUMENTS = ("path", "validation", "text", "target", "id", "group", "weight", "fold", "task")
"""Settings of `data` that follow from what `fit` is given."""


class _TextEstimator(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: parameters, the columns of X, the folder of the run, and pickling."""

    n_features_in_: int

    def __init__(
        self,
        model: str = "demo",
        *,
        learning_rate: Any = "auto",
        epochs: Any = "auto",
        batch_size: int = 32,
        max_length: Any = "auto",
        fold: Any = "none",
        settings: Mapping[str, Any] | None = None,
        device: str = "auto",
        random_state: Any = 0,
        output: str | Path | None = None,
        display: bool = False,
    ) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.max_length = max_length
        self.fold = fold
        self.settings = settings
        self.device = device
        self.random_state = random_state
        self.output = output
        self.display = display

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "run_")

    def _fit(self, data: Any, targets: Mapping[str, pa.Array], sample_weight: Any, kind: TaskKind) -> Self:
        """Train on the texts of X; `targets` are the columns to learn."""
        texts = self._read(data, reset=True)
        columns = dict(texts)
        for target, cells in targets.items():
            columns[_free_name(target, columns)] = cells
        target_columns = list(columns)[len(texts) :]
        check_consistent_length(*columns.values())
        rows = len(next(iter(texts.values())))
        if rows == 1:
            raise TableError("X: found 1 sample, expected at least two")
        own: dict[str, str] = {"data.task": kind}
        if (weights := _weights(sample_weight, rows)) is not None:
            own["data.weight"] = _free_name("sample_weight", columns)
            columns[own["data.weight"]] = pa.array(weights)
        settings = self._settings() | own
        folder = _new_folder(self.output)
        try:
            run = train(
                columns,
                output=folder,
                text=list(texts),
                target=target_columns,
                settings=settings,
                display=self.display,
            )
        except BaseException:
            if self.output is None or not any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._texts = list(texts)
        self._keep(run, temporary=self.output is None)
        return self

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the run by their dotted names."""
        given = {name: _plain(value) for name, value in (self.settings or {}).items()}
        for parameter, setting in PARAMETERS.items():
            if setting in given:
                raise SettingsError(f"settings: {setting} is the parameter {parameter}; set that, and remove it here")
        for name in given:
            if name in [f"data.{part}" for part in _FROM_ARGUMENTS]:
                raise SettingsError(f"settings: {name} follows from what fit is given; remove it")
        seed = self.random_state
        if not isinstance(seed, int | np.integer):  # None, or a generator, as everywhere in scikit-learn
            seed = check_random_state(seed).randint(2**31)
        own = {setting: _plain(getattr(self, parameter)) for parameter, setting in PARAMETERS.items()}
        return given | own | {"seed": int(seed)}

    def _read(self, data: Any, *, reset: bool) -> dict[str, pa.Array]:
        """Return the columns of the texts in X, and remember their names, or hold them against those of `fit`.

        Raises `TableError` where they are not one or two, or others than in `fit`.
        """
        names, count = describe_columns(data, name="X")
        width = count or (1 if reset else self.n_features_in_)
        if reset:
            if width not in (1, 2):
                found = f"{width} columns" if names is None else f"the columns {', '.join(map(repr, names))}"
                raise TableError(f"X: found {found}, expected one column of texts, or two for pairs; select them")
            self.n_features_in_ = width
            self.__dict__.pop("feature_names_in_", None)
            if names is not None:
                self.feature_names_in_ = np.array(names, dtype=object)
            return columns_of(data, names or _unnamed(width), texts=_unnamed(width), name="X")
        fitted = list(getattr(self, "feature_names_in_", self._texts))
        if width != self.n_features_in_:
            raise TableError(
                f"X has {width} features, but {type(self).__name__} is expecting {self.n_features_in_} features as "
                "input: the columns of the texts"
            )
        if names is not None and hasattr(self, "feature_names_in_") and names != fitted:
            raise TableError(
                f"The feature names should match those that were passed during fit: found {names}, expected {fitted}"
            )
        cells = columns_of(data, names or fitted, texts=fitted, name="X")
        return dict(zip(self._texts, cells.values(), strict=True))

    def _predictions(self, data: Any) -> Predictions:
        check_is_fitted(self)
        return self._predictor.predict(pa.table(self._read(data, reset=False)), text=self._texts)

    def _keep(self, run: Any, *, temporary: bool) -> None:
        """Take the models of a finished run; a temporary folder goes with the estimator."""
        before = self.__dict__.get("_remove")
        self.run_ = run
        self._predictor = load(run.folder, device=self.device)  # weights are loaded when they are first used
        self._remove = weakref.finalize(self, shutil.rmtree, run.folder, ignore_errors=True) if temporary else None
        if before is not None:
            before()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "run_" in state:
            for name in ("_predictor", "_remove"):
                del state[name]
            folder = self.run_.folder
            state["_files"] = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is None:
            return
        folder = _new_folder(None)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # also where writing fails
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._keep(replace(self.run_, folder=folder), temporary=True)


class TextRegressor(RegressorMixin, _TextEstimator):  # type: ignore[misc]
    """Fine-tune an encoder to predict one number a text, or several.

    `model` is a name or folder of a model, as `leantune train --model` takes it. `learning_rate`, `epochs`,
    `batch_size`, `max_length` and `device` are the settings of these names. With `fold="none"` all rows of `fit` train,
    which is right inside `cross_val_score`; 0 keeps a fifth of the rows to choose the best evaluation by, and "all"
    trains one model a fold and predicts their mean. `settings` are any other settings by their dotted names, such as
    `{"loss.standardize": False}`. `random_state` is the seed: a whole number, None for a new one each time, or a
    `numpy.random.RandomState`. `output` is a folder in which each `fit` leaves its run, `fit_0001` and so on; without
    it, the run lies in a temporary folder, which goes with the estimator. `display` shows progress.

    X is a list, array or series of texts, a list of pairs, or a frame (pandas, polars, Arrow, `datasets`) or
    two-dimensional array of one or two columns of texts. Raises `TableError` and `SettingsError`, which are
    `ValueError`s, and `ModelError` where a model cannot be loaded.

    Fitted attributes: `run_` (the `leantune.Run`: folder and metrics), `n_features_in_` (1 text or 2), and
    `feature_names_in_` where X had names.
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Train on texts `X` [n] and numbers `y`, [n] or [n, targets], each row weighted by `sample_weight` [n]."""
        if y is None:
            raise _no_targets(self)
        names = _target_names(y)
        numbers = check_array(y, dtype=np.float64, ensure_2d=False, estimator=self, input_name="y")
        matrix = numbers.reshape(len(numbers), -1)
        names = names or (["target"] if matrix.shape[1] == 1 else _numbered("target", matrix.shape[1]))
        self._is_flat = numbers.ndim == 1
        targets = {name: pa.array(column) for name, column in zip(names, matrix.T, strict=True)}
        return self._fit(X, targets, sample_weight, "regression")

    def predict(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the predicted numbers, [n] or [n, targets] as `y` was, in the units of `y`."""
        values = self._predictions(X).values
        return values[:, 0] if self._is_flat else values


class TextClassifier(ClassifierMixin, _TextEstimator):  # type: ignore[misc]
    """Fine-tune an encoder to predict the class of a text, or which labels apply to it.

    The parameters and X are those of `TextRegressor`. `y` [n] holds one class a row, of any type; a matrix of 0 and 1
    [n, labels] says which labels apply (`sklearn.preprocessing.MultiLabelBinarizer` makes one of lists of labels).

    Fitted attributes: `classes_` (the classes, sorted; of several labels the columns' names, or their numbers), `run_`,
    `n_features_in_`, and `feature_names_in_` where X had names.
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Train on texts `X` [n] and classes `y` [n], or labels [n, labels], weighted by `sample_weight` [n]."""
        if y is None:
            raise _no_targets(self)
        names = _target_names(y)
        try:
            y = y if hasattr(y, "tocsr") else np.asarray(y)
        except ValueError:  # rows of different lengths
            raise TableError(
                "y: found lists of labels, expected one class a row, or a matrix of 0 and 1 for several labels; "
                "sklearn.preprocessing.MultiLabelBinarizer makes one"
            ) from None
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            matrix = np.asarray(y.toarray() if hasattr(y, "toarray") else y).astype(np.int64)
            self.classes_ = np.arange(matrix.shape[1]) if names is None else np.array(names, dtype=object)
            labels = names or _numbered("label", matrix.shape[1])
            targets = {name: pa.array(column) for name, column in zip(labels, matrix.T, strict=True)}
            self._is_flat, self._places = False, np.arange(matrix.shape[1])
            return self._fit(X, targets, sample_weight, "multilabel")
        self.classes_, places = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        weights = _weights(sample_weight, len(places))
        if len(np.unique(places if weights is None else places[weights != 0])) < 2:
            raise TableError("y: found one class in the rows that have a weight, expected at least two")
        class_names = _class_names(self.classes_)
        kind: TaskKind = "binary" if len(class_names) == 2 else "multiclass"
        self._fit(X, {"target": pa.array(class_names).take(pa.array(places))}, sample_weight, kind)
        labels = list(self._predictor.labels)
        self._is_flat, self._places = True, np.array([labels.index(name) for name in class_names])
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the most probable class of each row [n], or 0 and 1 for each label [n, labels]: 1 from 0.5 on."""
        probabilities = self.predict_proba(X)
        if self._is_flat:
            classes: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
            return classes
        return (probabilities >= 0.5).astype(np.int64)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class, or of each label, in the order of `classes_` [n, classes]."""
        values = self._predictions(X).values
        return values[:, self._places]


def _new_folder(output: str | Path | None) -> Path:
    """Make an empty folder for one run: a temporary one, or the next in `output`."""
    if output is None:
        return Path(tempfile.mkdtemp(prefix="leantune-"))
    parent = Path(output).expanduser()
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"fit_{number:04d}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # of an earlier fit, or of another process's
            number += 1


def _unnamed(count: int) -> list[str]:
    """Return names for columns of texts that have none."""
    return ["text"] if count == 1 else _numbered("text", count)


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{number}" for number in range(count)]


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _plain(value: Any) -> Any:
    """Return a number of NumPy, as a grid of parameters has them, as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _weights(sample_weight: Any, rows: int) -> NDArray[np.float64] | None:
    if sample_weight is None:
        return None
    weights: NDArray[np.float64] = check_array(
        sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight"
    )
    if weights.shape != (rows,):
        raise TableError(f"sample_weight: found the shape {weights.shape}, expected ({rows},), one for each row of X")
    if not weights.any():
        raise TableError("sample_weight: found only weights of zero, expected a positive one")
    return weights


def _target_names(targets: Any) -> list[str] | None:
    """Return the names of the columns of `y`, where it is a frame of several."""
    if not hasattr(targets, "columns") or len(np.shape(targets)) != 2:
        return None
    return describe_columns(targets, name="y")[0]


def _class_names(classes: NDArray[Any]) -> list[str]:
    """Return a name for each class: as it is written, or its number where two classes would read alike in a table."""
    names = [str(name).strip() for name in classes.tolist()]
    numbers = numbers_or_nan(pa.array(names))
    keys = set(names) if np.isnan(numbers).any() else set(numbers.tolist())
    return names if len(keys) == len(names) and "" not in keys else [str(place) for place in range(len(names))]


def _no_targets(estimator: _TextEstimator) -> TableError:
    return TableError(f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None.")
