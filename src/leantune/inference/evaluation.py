"""`leantune evaluate`: how good a finished run is on a table with targets, and how sure that is.

1. The targets are read as the training's were: a class that it never saw is refused
2. The rows are predicted as `leantune predict` does
3. Every metric, its interval by bootstrap, and the same metrics of the constant answer and a linear model (law 9), both
   learned from the run's own training rows where its table is still there
"""

import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from leantune.inference.ensemble import Weights
from leantune.inference.file import PredictOptions, prepare_file, refuse_output, working_folder, write_output
from leantune.inference.intervals import Interval, bootstrap_intervals
from leantune.inference.source import digests_of, options_of
from leantune.inference.trained_run import TrainedRun
from leantune.runs.display import Display
from leantune.runs.verdict import worse_than_yardsticks
from leantune.system.errors import LeantuneError, SettingsError, TableError
from leantune.system.files import read_json, sha256_of
from leantune.system.formatting import figure
from leantune.system.stopping import deferred
from leantune.tables.folds import fold_table
from leantune.tables.readers import check_columns, read_column_names
from leantune.tables.table import Table, data_sha256, read_table
from leantune.tables.targets import parse_known_targets
from leantune.training.events import Event, Note
from leantune.training.metrics import MetricName, default_metric
from leantune.training.precision import PrecisionName
from leantune.training.scoring import compute_metrics
from leantune.training.yardsticks import Yardsticks, measure_yardsticks

Numbers = NDArray[np.float64] | NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """How good predictions are for the rows of a table."""

    rows: int
    metrics: dict[str, float | None]
    """None where a metric is not defined."""
    intervals: dict[MetricName, Interval | None]
    """Of 95 percent, over rows or, where the run has them, groups of rows; None where there is none."""
    yardsticks: dict[str, Any]
    """Metrics of the `constant` answer and of a `linear` model, None where there is none, and the `reason`."""

    def lines(self) -> list[str]:
        """Return a table of all metrics for a person."""
        names = ("constant", "linear") if self.yardsticks["linear"] is not None else ("constant",)
        lines = [f"{'metric':<18}{'value':>10}   {'95% interval':<22}" + "".join(f"{name:>10}" for name in names)]
        for name, value in self.metrics.items():
            interval = self.intervals.get(name)  # type: ignore[call-overload]
            told = "" if interval is None else f"{figure(interval[0], 4)} to {figure(interval[1], 4)}"
            others = "".join(f"{_shown(self.yardsticks[other].get(name)):>10}" for other in names)
            lines.append(f"{name:<18}{_shown(value):>10}   {told:<22}{others}")
        return [line.rstrip() for line in lines]


def evaluate(
    runs: str | Path | Sequence[str | Path],
    data: str | Path,
    *,
    output: str | Path | None = None,
    text: str | Sequence[str] = (),
    id: str | None = None,  # noqa: A002 - the setting's own name
    weights: Weights = None,
    device: str = "auto",
    precision: Literal["auto"] | PrecisionName = "fp32",
    display: bool = True,
) -> Evaluated:
    """Return how good finished runs are on the table with targets in the file `data`; as `leantune evaluate`.

    Several runs answer as one, with the mean of their models. `text` and `id` name the columns where they are called
    otherwise than in training. With `output` the predictions are written, too. Without `display` nothing is shown.
    Raises `InputError` for what the caller must change, before anything is computed.
    """
    paths = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    options = PredictOptions(
        weights=weights,
        text=(text,) if isinstance(text, str) else tuple(text),
        id=id,
        device=device,
        precision=precision,
    )
    return evaluate_and_show(paths, Path(data), None if output is None else Path(output), options, display=display)


def evaluate_and_show(
    runs: Sequence[Path], data: Path, output: Path | None, options: PredictOptions, *, display: bool = True
) -> Evaluated:
    """Do all of `evaluate_file`, and show what happens."""
    found: list[Evaluated] = []

    def work() -> Iterator[Event]:
        found.append((yield from evaluate_file(runs, data, output, options)))

    for _ in Display.over(work()) if display else work():
        pass
    return found[0]


def evaluate_file(
    runs: Sequence[Path], data: Path, output: Path | None, options: PredictOptions
) -> Generator[Event, None, Evaluated]:
    """Predict a table that has targets, yield what happens, and return how good the predictions are.

    With `output` the predictions are written, too. Raises `InputError` for what the user must change, before anything
    is computed.
    """
    if output is not None:
        refuse_output(output, data, options)
    prepared = prepare_file(runs, data, options)
    ensemble, source, run = prepared.ensemble, prepared.source, prepared.ensemble.first
    table = _read_targets(prepared.source.settings.model_copy(update={"id": source.id}), run)
    targets = parse_known_targets(table, ensemble.kind, ensemble.labels)
    yield from prepared.notes()
    training = _TrainingTable.of(run)
    yield from _flattering(training, run, source.path, table)
    with ExitStack() as stack:
        if output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leantune-")))
        else:
            folder = stack.enter_context(working_folder(output))
        stack.enter_context(deferred())
        computed = yield from prepared.compute(folder)
        values = computed.values(np.arange(len(prepared.scanned)))
        if output is not None:
            write_output(output, prepared, computed)
            shutil.rmtree(folder, ignore_errors=True)
    yardsticks = _yardsticks(training, run, ensemble.labels, table, targets)
    metrics = compute_metrics(ensemble.kind, targets, values)
    evaluated = Evaluated(
        rows=len(table),
        metrics=metrics,
        intervals=bootstrap_intervals(ensemble.kind, targets, values, groups=_groups(table)),
        yardsticks=yardsticks.scores(ensemble.kind, targets),
    )
    if yardsticks.reason:
        yield Note(about="yardsticks", text=yardsticks.reason)
    metric = run.metrics.get("metric")
    metric = metric if metric in metrics else default_metric(ensemble.kind)  # the run's may be a function
    for text in worse_than_yardsticks(metric, {"best": metrics, "yardsticks": evaluated.yardsticks}):
        yield Note(event="warning", about="result", text=text)
    return evaluated


def _read_targets(settings: Any, run: TrainedRun) -> Table:
    """Read the whole table with its targets, and its groups where the training's column of them is there."""
    names = read_column_names(settings.path, options_of(settings))
    columns = run.config.data.target
    check_columns(settings.path, names, columns)
    group = run.config.data.group if run.config.data.group in names else None
    twice = {*columns} & {*settings.text}
    if twice:
        raise SettingsError(f"--text: {sorted(twice)[0]!r} is the target; a column is one thing")
    return read_table(settings.model_copy(update={"target": columns, "group": group}))


def _groups(table: Table) -> NDArray[np.generic] | None:
    return None if table.groups is None else table.groups.dictionary_encode().indices.to_numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class _TrainingTable:
    """The rows that a run learned from, read again."""

    table: Table | None
    rows: NDArray[np.int64]
    """Rows of the table that trained any of the run's models."""
    reason: str
    """Why there is no table; "" where there is one."""

    @classmethod
    def of(cls, run: TrainedRun) -> "_TrainingTable":
        """Read the table again, if it is still what it was."""
        config, none = run.config, np.empty(0, np.int64)
        try:
            before = read_json(run.folder / "environment.json").get("data_sha256")
            if data_sha256(config.data) != before:
                return cls(table=None, rows=none, reason=f"{config.data.path} has changed since the training")
            table, _, folds = fold_table(config.data, None if config.fold == "none" else config.folds)
            parts = [folds.training_rows(fold.number) for fold in run.folds]
            return cls(table=table, rows=np.unique(np.concatenate(parts)), reason="")
        except (LeantuneError, OSError):
            return cls(table=None, rows=none, reason=f"the table of the training, {config.data.path}, cannot be read")


def _flattering(training: _TrainingTable, run: TrainedRun, path: Path, table: Table) -> Iterator[Note]:
    """Say where the run has seen the rows that it is evaluated on; raises `TableError` where it is the same file."""
    own = read_json(run.folder / "environment.json").get("data_sha256")
    if own == sha256_of(path):
        raise TableError(
            f"{path}: is the table that {run.folder} was trained on, and a score on rows that a model has seen is "
            f"flattered; {run.folder / 'metrics.json'} has the score on rows that it did not train on, and "
            f"{run.folder / 'predictions.parquet'} the predictions"
        )
    if training.table is None:
        return
    seen = digests_of([text.take(pa.array(training.rows)) for text in training.table.texts])
    again = int(np.isin(digests_of(list(table.texts)), seen).sum())
    if again:
        text = (
            f"{again:,} of {len(table):,} rows have a text that {run.folder} was trained on: the score is flattered. "
            "Remove these rows to know how it does on new ones."
        )
        yield Note(event="warning", about="data", text=text)


def _yardsticks(
    training: _TrainingTable, run: TrainedRun, labels: tuple[str, ...], table: Table, targets: Numbers
) -> Yardsticks:
    """Return what the constant answer and a linear model predict for the rows of a table."""
    kind = run.task.kind
    if training.table is None:
        matrix = np.eye(len(labels))[targets.astype(np.int64)] if targets.ndim == 1 else targets.astype(np.float64)
        return Yardsticks(
            constant=np.tile(matrix.mean(axis=0), (len(table), 1)),
            linear=None,
            reason=f"{training.reason}: the constant answer is of the rows evaluated, and there is no linear model",
            training_rows=0,
            seconds=0.0,
        )
    before = training.table
    weights = np.ones(len(before)) if before.weights is None else before.weights
    joined: Any = np.concatenate([parse_known_targets(before, kind, labels), targets])
    return measure_yardsticks(
        kind,
        texts=tuple(pa.concat_arrays(pair) for pair in zip(before.texts, table.texts, strict=True)),
        targets=joined,
        weights=np.concatenate([weights, np.ones(len(table))]),
        training_rows=training.rows,
        validation_rows=np.arange(len(before), len(before) + len(table)),
        outputs=len(labels),
    )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else figure(value, 4)
