"""Trained runs from Python: texts or a table in memory in, predictions out."""

from collections.abc import Sequence
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
from leantune.system.errors import SettingsError
from leantune.tables.memory import THE_TABLE, columns_of, describe_columns
from leantune.tables.table import refuse_duplicates, refuse_missing
from leantune.tables.texts import compose_texts
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

        `data` is a list, array or series of texts, or a list of pairs of texts where the run was trained on pairs; or a
        table in memory, as `leantune.train` takes it. Of a table, `text` names the columns of the
        texts, by default those of the training, and `id` the column of the ids, by default that of the training where
        the table has it; otherwise the ids are the rows' numbers, from 0. All other columns are left alone. With
        `per_model` the result also has the values of each model. A table in a file is for `leantune predict`.

        Raises `TableError` where a text is missing, a column is not there, or an id stands twice.
        """
        own = self._ensemble.text
        names, id_column = own, None
        there, _ = describe_columns(data)
        if there is not None:
            known = self._ensemble.first.config.data.id
            names, id_column = self._text_columns(text), id or (known if known in there else None)
        elif text is not None or id is not None:
            raise SettingsError("text and id name columns of a table, and a list of texts has none: remove them")
        cells = columns_of(data, [*names, *([] if id_column is None else [id_column])], texts=own)
        data_settings = self._ensemble.first.config.data
        if data_settings.missing_text == "refuse":
            for name in names:
                refuse_missing(THE_TABLE, name, cells[name], empty_too=False)
        texts = compose_texts(
            [cells[name] for name in names],
            own,
            template=data_settings.template,
            missing_text=data_settings.missing_text,
        )
        if id_column is None:
            ids = pa.array(np.arange(len(texts[0]))).cast(pa.string())
        else:
            ids = cells[id_column].cast(pa.string())
            refuse_missing(THE_TABLE, id_column, ids, empty_too=True)
            refuse_duplicates(THE_TABLE, id_column, ids)
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
            id_name=id_column or "id",
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
