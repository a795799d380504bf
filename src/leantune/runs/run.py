"""A run from its prepared rows to its folder, and the Python interface to it."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from leantune.encoder.model import Encoder
from leantune.runs.config import Config, load_config, read_yaml
from leantune.runs.display import Display
from leantune.runs.fold_run import FoldResult, read_result, run_fold
from leantune.runs.preparation import Prepared, prepare
from leantune.runs.record import RunFolder, clear_unfinished, hold, refuse_foreign, refuse_taken
from leantune.runs.result import Run, read_warnings
from leantune.runs.resume import (
    discard_later,
    find_progress,
    fingerprint,
    finished_metrics,
    refuse_other,
    remember_micro_batch,
)
from leantune.runs.session import Session, remove_checkpoints, resumption
from leantune.runs.totals import Totals
from leantune.runs.verdict import result_warnings
from leantune.system.device import (
    deterministic,
    forget_peak,
    is_out_of_memory,
    matrix_rate,
    resolve_device,
    synchronize,
)
from leantune.system.errors import DeviceError, RunFolderError, SettingsError
from leantune.system.stopping import deferred
from leantune.tables.folds import FoldNumber, fold_number
from leantune.tables.memory import as_origin
from leantune.training.clock import PhaseClock, forget_process_peak
from leantune.training.events import Event, Note, Resume, RunEnd
from leantune.training.metrics import Metric, MetricFunction, MetricName, as_metric, name_of
from leantune.training.precision import make_precision
from leantune.training.scoring import compute_metrics
from leantune.training.yardsticks import join


def run(
    config: Config,
    output: Path,
    *,
    metric: Metric | None = None,
    started_at: float | None = None,
    resume: bool = False,
    force: bool = False,
) -> Iterator[Event]:
    """Do one run, write its folder, and yield what happens; the last event is a `RunEnd`.

    `metric` is a metric of the caller's own, named by the settings. `started_at` is the Unix time at which the measured
    span began, such as the process's creation; None is now. With `resume` an unfinished run in the folder goes on, a
    finished one is only told, and where there is none one begins; `force` goes on although settings or data have
    changed. Raises `InputError` for what the user must change, before anything is written, `TrainingError` where
    training cannot go on, and `SavingError` where a file cannot be written.
    """
    try:
        with deterministic(config.deterministic):
            yield from _run(
                config, output.expanduser(), metric=metric, started_at=started_at, resume=resume, force=force
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"device: no memory for the model and its optimizer ({str(error).splitlines()[0]}); close what else uses "
            "it, or choose a smaller model.name"
        ) from error


def _run(
    config: Config, output: Path, *, metric: Metric | None, started_at: float | None, resume: bool, force: bool
) -> Iterator[Event]:
    if resume:
        refuse_foreign(output)
        if (finished := finished_metrics(output, config)) is not None:
            yield from _tell_finished(output, finished, config)
            return
        config = remember_micro_batch(config, output)
    else:
        refuse_taken(output)
    forget_process_peak()
    prepared, first, session, machine = yield from _begin(config, metric, started_at)
    clock, rate = session.clock, machine["matrix_rate"]["flops_per_second"]
    encoder: Encoder | None = first
    del first  # so that no name keeps the first fold's encoder while another trains

    # From here on a signal is answered where the work can be saved.
    with hold(output), deferred():
        if resume and (finished := finished_metrics(output, config)) is not None:  # by another process, meanwhile
            yield from _tell_finished(output, finished, config)
            return
        progress = find_progress(output, prepared.fold_numbers, force=force) if resume else None
        notes: list[Note | Resume] = []
        if resume and progress is None:
            clear_unfinished(output)
            yield Note(about="resume", text=f"{output} has no checkpoint: the run begins")
        if progress is not None:
            changes = refuse_other(
                output,
                fingerprint(progress.state["settings"], progress.state["environment"]),
                fingerprint(session.settings, session.environment),
                force=force,
            )
            discard_later(output, progress, prepared.fold_numbers)
            session = session.after(progress, changes)
            notes = [Note(event="warning", about="resume", text=text) for text in (*progress.warnings, *changes)]
            notes.append(resumption(progress, output))
        with RunFolder(output, go_on_at=None if progress is None else progress.state["events_bytes"]) as folder:
            folder.write_config(session.settings)
            folder.write_environment(session.environment)
            for told in prepared.notes if progress is None else ():  # or recorded when the run began
                folder.write_event(told)
            for note in notes:
                folder.write_event(note)
                yield note
            results = {} if progress is None else {n: read_result(saved) for n, saved in progress.done.items()}
            left = [number for number in prepared.fold_numbers if number not in results]
            for number in left:
                if encoder is None:  # every fold starts from the pretrained weights and the same seed
                    clock.enter("startup")
                    encoder = prepared.load()
                results[number] = yield from run_fold(
                    number,
                    prepared,
                    session,
                    encoder=encoder,
                    folder=folder,
                    rate=rate,
                    saved=progress.training if progress is not None and number == left[0] else None,
                )
                encoder = None  # its memory is the next one's
            clock.enter("checkpoint")
            metrics = {
                "task": prepared.task.kind,
                "metric": name_of(prepared.metric),
                "folds": {str(number): result.metrics for number, result in results.items()},
                "overall": _overall(prepared, results, clock, rate)
                | {f"peak_{of}_bytes": peak for of, peak in session.peaks_until_now().items()}
                | {"sessions": 1 + len(session.environment["resumed"])}
                | machine,
            }
            yield from _finish(prepared, results, metrics, folder)
        if not prepared.config.checkpoint.keep:
            remove_checkpoints(output, list(results))
    yield RunEnd(metrics=metrics)


def _begin(
    config: Config, metric: Metric | None, started_at: float | None
) -> Generator[Event, None, tuple[Prepared, Encoder, Session, dict[str, Any]]]:
    """Do everything before training; return what the folds share, the first fold's encoder, and the session.

    The last is what `metrics.json` has of the machine: `matrix_rate`, and where the time of the start went.
    """
    device = resolve_device(config.device)
    clock = PhaseClock(started_at, partial(synchronize, device))
    precision = make_precision(config.precision, device)
    imports = clock.total()
    prepared, encoder = yield from prepare(config, precision, metric)
    prepared_at = clock.total()
    with precision.compute():  # a TF32 run is held against TF32 products
        rate, rate_of = matrix_rate(device, precision.matrix_dtype)
    startup = {"imports": imports, **prepared.startup, "matrix_rate": clock.total() - prepared_at}
    forget_peak(device)  # of those products, and of what ran before in this process
    machine = {"matrix_rate": {"flops_per_second": rate, "measured_on": rate_of}, "startup": startup}
    return prepared, encoder, Session.begin(prepared, encoder, clock), machine


def _tell_finished(output: Path, metrics: dict[str, Any], config: Config) -> Iterator[Event]:
    if not config.checkpoint.keep:  # killed before they were removed
        remove_checkpoints(output, [fold_number(name) for name in metrics["folds"]])
    yield Note(about="resume", text=f"{output} holds the finished run: nothing is trained")
    yield RunEnd(metrics=metrics)


def _finish(
    prepared: Prepared, results: Mapping[FoldNumber, FoldResult], metrics: dict[str, Any], folder: RunFolder
) -> Iterator[Note]:
    """Say what is wrong with the result, if anything, right before it is told (law 9), and write `metrics.json`."""
    predictions = [result.best for result in results.values() if result.best is not None]
    if predictions:
        truth, labels = _truth(prepared, results), prepared.task.labels
        for note in result_warnings(metrics, truth, np.concatenate(predictions), labels, folder.path):
            folder.write_event(note)
            yield note
    folder.write_all_predictions(results)
    folder.write_metrics(metrics)


def _truth(prepared: Prepared, folds: Iterable[FoldNumber]) -> NDArray[np.generic]:
    """Return the targets of the folds' validation rows, one fold after the other."""
    return np.concatenate([prepared.rows.targets[prepared.folds.validation_rows(number)] for number in folds])


def _overall(
    prepared: Prepared, results: Mapping[FoldNumber, FoldResult], clock: PhaseClock, rate: float
) -> dict[str, Any]:
    """Return the metrics of all trained folds together: every row is predicted by the model that did not see it."""
    totals = Totals()
    for result in results.values():
        totals += result.totals
    measured = [result.yardsticks for result in results.values() if result.yardsticks is not None]
    kind, truth, metric = prepared.task.kind, _truth(prepared, results), prepared.metric
    return (
        {
            "best": _pooled(prepared, {number: result.best for number, result in results.items()}),
            "last": _pooled(prepared, {number: result.last for number, result in results.items()}),
            "yardsticks": join(measured).scores(kind, truth, metric) if len(measured) == len(results) else None,
        }
        | totals.summary(train_seconds=clock.seconds("train"), matrix_rate=rate)
        | {
            "startup_seconds": clock.seconds("startup"),
            "evaluation_seconds": clock.seconds("evaluation"),
            "checkpoint_seconds": clock.seconds("checkpoint"),
            "total_seconds": clock.total(),
        }
    )


def _pooled(
    prepared: Prepared, predictions: Mapping[FoldNumber, NDArray[np.float64] | None]
) -> dict[str, float | None] | None:
    """Return the metrics of the validation rows of several folds together; None where none validate."""
    there = [(number, values) for number, values in predictions.items() if values is not None]
    if not there:
        return None
    rows = np.concatenate([prepared.folds.validation_rows(number) for number, _ in there])
    values = np.concatenate([values for _, values in there])
    return compute_metrics(prepared.task.kind, prepared.rows.targets[rows], values, prepared.metric)


def train(
    data: Any = None,
    *,
    output: str | Path,
    text: str | list[str] | None = None,
    target: str | list[str] | None = None,
    model: str | None = None,
    validation: Any = None,
    fold: FoldNumber | str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    metric: str | MetricFunction | Metric | None = None,
    resume: bool = False,
    force: bool = False,
    display: bool = True,
) -> Run:
    """Fine-tune an encoder on a table of texts; the same as `leantune train`.

    `data` is the path of a file, or a table in memory: a pandas or polars frame, an Arrow table, a `datasets.Dataset`,
    or a dict of columns. So is `validation`, a second table: its rows validate, and all of `data` train. They, `text`,
    `target`, `model` and `fold` are the settings `data.path`, `data.validation`, `data.text`, `data.target`,
    `model.name` and `fold`; `settings`
    holds any others by their dotted names, such as `{"optimizer.epochs": 1}`; `config` is a YAML file that all of these
    override. `metric` chooses the best evaluation: the setting `evaluation.metric`, or a function of targets and
    predictions (see `leantune.Metric`) that returns a number, higher being better; give
    `leantune.Metric(name=..., function=..., lower_is_better=True)` where lower is better. Writes the run folder
    `output` and, with `display`, shows progress. With `resume` an interrupted run in that folder goes on, and one that
    is finished is returned as it is; `data` and `config` may then be left out, which takes the run's own settings, but
    a metric that is a function must be given again, and so must a table in memory (with `config=RUN/config.yaml`, or
    with all that was given before). `force` goes on although data or settings have changed. Raises
    `InputError` for what the caller must change, `TrainingError` where training cannot go on, and `SavingError` where a
    file cannot be written.
    """
    flags = {
        "data.path": None if data is None else as_origin(data),
        "data.text": text,
        "data.target": target,
        "data.validation": None if validation is None else as_origin(validation),
        "model.name": model,
        "fold": fold,
    }
    if isinstance(metric, str):
        flags["evaluation.metric"] = metric
    own = None if metric is None or isinstance(metric, str) else as_metric(metric)
    given = {name: value for name, value in flags.items() if value is not None}
    folder = Path(output).expanduser()
    loaded = load_run_config(
        None if config is None else Path(config),
        given | dict(settings or {}),
        metric=own,
        resumed=folder if resume else None,
    )
    if own is not None and loaded.fold == "none":
        raise SettingsError(f"metric: {own.name} is not used where fold is none and no rows validate: remove one")
    events = run(loaded, folder, metric=own, resume=resume, force=force)
    metrics: dict[str, Any] = {}
    for event in Display.over(events) if display else events:
        if isinstance(event, RunEnd):
            metrics = event.metrics
    return Run(folder=folder, metrics=metrics, warnings=read_warnings(folder))


def load_run_config(
    path: Path | None,
    flags: Mapping[str, Any],
    assignments: Iterable[str] = (),
    *,
    resumed: Path | None,
    metric: Metric | None = None,
) -> Config:
    """Return settings as `load_config` does; where neither data nor a file is given, a resumed run's own are changed.

    `resumed` is the folder of a run that goes on, if it is there. `metric`, the caller's own, is named by what is
    returned. Raises `RunFolderError` where the run that goes on has such a metric and none is given, and
    `SettingsError` where the settings name another metric.
    """
    if resumed is not None and path is None and "data.path" not in flags:
        own = resumed.expanduser() / "config.yaml"
        path = own if own.is_file() else None
        if path is not None and metric is None and (name := _function_of(path)) and "evaluation.metric" not in flags:
            if not (path.parent / "metrics.json").is_file():
                raise RunFolderError(
                    f"{path}: the run's evaluation.metric is {name}, a function of the program that began it, which no "
                    f"file can hold; go on from Python with leantune.train(..., metric={name}, resume=True)"
                )
            flags = {"evaluation.metric": "auto"} | dict(flags)  # finished: nothing is evaluated again
        if path is not None and metric is not None:
            flags = {"evaluation.metric": "auto"} | dict(flags)  # whether the run's is the same is told later
    elif path is not None and metric is not None and _function_of(path) == metric.name:
        flags = {"evaluation.metric": "auto"} | dict(flags)
    loaded = load_config(path, flags, assignments)
    if metric is None:
        return loaded
    if loaded.evaluation.metric != "auto":
        raise SettingsError(
            f"evaluation.metric: found {loaded.evaluation.metric}, and the argument metric is the function "
            f"{metric.name}, expected one of the two; remove the other"
        )
    # A copy is not checked: no file may name a function that only a program has.
    named = loaded.evaluation.model_copy(update={"metric": metric.name})
    return loaded.model_copy(update={"evaluation": named})


def _function_of(path: Path) -> str | None:
    """Return the metric that a file of settings names, if it is none of leantune's."""
    evaluation = read_yaml(path).get("evaluation")
    name = evaluation.get("metric") if isinstance(evaluation, dict) else None
    return name if isinstance(name, str) and name not in (*get_args(MetricName), "auto") else None
