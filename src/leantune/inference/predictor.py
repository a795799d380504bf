"""Trained runs from Python: texts or a table in memory in, predictions out."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from leantune.inference.blending import FittedWeights
from leantune.inference.ensemble import Ensemble, open_ensemble
from leantune.inference.model import TrainedModel
from leantune.inference.predictions import Predictions
from leantune.inference.thresholds import FittedDecisions
from leantune.system.device import resolve_device
from leantune.system.errors import SettingsError, TableError
from leantune.tables.readers import as_text, check_columns
from leantune.tables.table import refuse_duplicates
from leantune.training.metrics import MetricName
from leantune.training.precision import PrecisionName, make_precision


class Predictor:
    """One run, or the mean of several, ready to predict: `leantune.load(RUN)`.

    The models are loaded when the first rows are predicted, and then stay in memory.
    """

    def __init__(
        self, ensemble: Ensemble, *, device: str = "auto", precision: Literal["auto"] | PrecisionName = "fp32"
    ) -> None:
        make_precision(precision, resolve_device(device))  # raises, where there is no such device or precision
        self._ensemble, self._device, self._precision = ensemble, device, precision

    @property
    def kind(self) -> str:
        """The kind of task: regression, binary, multiclass, multilabel or soft."""
        return self._ensemble.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """One name an output: target columns for regression, multilabel and soft, classes otherwise."""
        return self._ensemble.labels

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models whose mean is predicted: `fold_0`, or `RUN/fold_0` where there are several runs."""
        return tuple(member.name for member in self._ensemble.members)

    @property
    def fitted_weights(self) -> FittedWeights | None:
        """The runs' weights and what they gain over equal ones, where they were fitted."""
        return self._ensemble.fitted_weights

    @property
    def fitted_decisions(self) -> FittedDecisions | None:
        """The thresholds and what they gain, where they were fitted: `leantune.load(RUN, decide="f1")`."""
        return self._ensemble.fitted_decisions

    def __repr__(self) -> str:
        runs = dict.fromkeys(str(member.run.folder) for member in self._ensemble.members)
        return f"<Predictor: {self.kind}, {len(self.models)} models of {', '.join(runs)}>"

    def predict(
        self,
        data: Any,
        *,
        text: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002 - the setting's own name
        per_model: bool = False,
    ) -> Predictions:
        """Predict rows, in their order.

        `data` is a list of texts, or of pairs of texts where the run was trained on pairs; or a table in memory: a
        pandas or polars frame, an Arrow table, or a dictionary of columns. Of a table, `text` names the columns of the
        texts, by default those of the training, and `id` the column of the ids, by default that of the training where
        the table has it; otherwise the ids are the rows' numbers, from 0. All other columns are left alone. With
        `per_model` the result also has the values of each model. A table in a file is for `leantune predict`.

        Raises `TableError` where a text is missing or no text, a column is not there, or an id stands twice.
        """
        ids: pa.Array | None = None
        id_name = "id"
        if _is_table(data):
            table = _as_table(data)
            names = self._text_columns(text)
            known = self._ensemble.first.config.data.id
            name = id or (known if known in table.column_names else None)
            check_columns("the table", table.column_names, [*names, *([] if name is None else [name])])
            texts = tuple(_texts_of(table.column(column), column) for column in names)
            if name is not None:
                ids, id_name = as_text(_joined(table.column(name))).cast(pa.string()), name
                if ids.null_count:
                    raise TableError(f"column {name!r}: found {ids.null_count:,} rows without an id, expected one each")
                refuse_duplicates("the table", name, ids)
        elif text is not None or id is not None:
            raise SettingsError("text and id name columns of a table, and a list of texts has none: remove them")
        else:
            texts = self._from_list(data)
        if ids is None:
            ids = pa.array(np.arange(len(texts[0]))).cast(pa.string())
        members = self._ensemble.members
        values = [
            model.predict(texts, lambda row: f"row {row + 1}")[:, member.order]
            for model, member in zip(self._models, members, strict=True)
        ]
        return Predictions(
            ids=ids,
            kind=self._ensemble.kind,
            labels=self.labels,
            values=self._ensemble.mean(values),
            id_name=id_name,
            models=self.models if per_model else (),
            of_models=np.stack(values) if per_model else None,
            rule=self._ensemble.rule,
        )

    @cached_property
    def _models(self) -> list[TrainedModel]:
        return [
            TrainedModel(member.run, member.fold, device=self._device, precision=self._precision)
            for member in self._ensemble.members
        ]

    def _text_columns(self, text: str | Sequence[str] | None) -> tuple[str, ...]:
        own = self._ensemble.text
        names = own if text is None else (text,) if isinstance(text, str) else tuple(text)
        if len(names) != len(own):
            raise SettingsError(f"text: found {len(names)} columns, expected {len(own)}, as the run was trained on")
        return names

    def _from_list(self, data: Iterable[Any]) -> tuple[pa.Array, ...]:
        """Return the columns of the texts of a list of texts, or of pairs of texts."""
        if isinstance(data, str | bytes | Path):
            raise TableError(
                f"data: found {data!r:.60}, expected a list of texts or a table in memory; a single text is [text], "
                "and a file is for leantune predict"
            )
        rows, count = list(data), len(self._ensemble.text)
        if count == 1:
            return (_texts_of(rows, "text"),)
        for row, pair in enumerate(rows):
            if isinstance(pair, str) or not isinstance(pair, Iterable) or len(list(pair)) != count:
                raise TableError(f"row {row + 1}: found {pair!r:.60}, expected a pair of texts, as the run was trained")
        return tuple(_texts_of([tuple(pair)[place] for pair in rows], f"text {place + 1}") for place in range(count))


def load(
    *runs: str | Path,
    weights: Sequence[float] | Literal["fitted"] | None = None,
    decide: MetricName | None = None,
    device: str = "auto",
    precision: Literal["auto"] | PrecisionName = "fp32",
) -> Predictor:
    """Open finished runs to predict with them: `leantune.load("RUN").predict(["a text", "another"])`.

    A run of several folds answers with the mean of its models, and several runs with the mean of theirs, each run
    counting alike, by `weights`, or by weights that are `"fitted"` on the predictions for the rows that validated the
    runs. Numbers are averaged as they are, classes and labels by their probabilities. `decide` names a metric:
    thresholds are fitted for it on the same rows, and decide on classes, labels and whole numbers. `fitted_weights` and
    `fitted_decisions` of the result say what that gains.

    `precision` is that of the matrix products; fp32 repeats the run's own predictions. Raises `RunFolderError` where a
    folder is no finished run or the runs do not predict the same, and `DeviceError` where this machine has no such
    device or precision.
    """
    ensemble = open_ensemble([Path(run) for run in runs], weights, decide=decide)
    return Predictor(ensemble, device=device, precision=precision)


def _is_table(data: Any) -> bool:
    if isinstance(data, pa.Table | pa.RecordBatch | Mapping):
        return True
    return hasattr(data, "columns") and hasattr(data, "__getitem__")  # pandas and polars


def _as_table(data: Any) -> pa.Table:
    try:
        if isinstance(data, pa.RecordBatch):
            return pa.Table.from_batches([data])
        return data if isinstance(data, pa.Table) else pa.table(dict(data) if isinstance(data, Mapping) else data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TableError(f"data: found {type(data).__name__} that is no table of columns ({error})") from None


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _texts_of(texts: Any, column: str) -> pa.Array:
    """Return texts as a large_string array; raises `TableError` for one that is missing or no text."""
    if not isinstance(texts, pa.ChunkedArray):
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TableError(f"row {row + 1}, column {column!r}: found {text!r:.60}, expected a text")
    try:
        found = as_text(_joined(texts)) if isinstance(texts, pa.ChunkedArray) else pa.array(texts, pa.large_string())
    except (pa.ArrowException, UnicodeError) as error:
        raise TableError(f"column {column!r}: found what is no text ({error})") from None
    if found.null_count:
        row = int(found.is_null().to_numpy(zero_copy_only=False).argmax())
        raise TableError(f"row {row + 1}, column {column!r}: found nothing, expected a text (it may be empty)")
    return found
