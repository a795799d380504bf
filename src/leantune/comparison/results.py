"""What a finished run folder says, read back for comparing: the counterpart of `record`, and as free of torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leantune.system.errors import RunFolderError
from leantune.system.files import parse_json_object, read_json, unreadable
from leantune.system.safe_yaml import parse_yaml

T = TypeVar("T")

LARGEST = 1e100
"""No time, size or metric is as large; squares and products of what is smaller are numbers still."""
YARDSTICKS = ("linear", "constant")
"""What every run stands beside, on the same rows: a linear model on n-grams, and the constant answer."""
_EXPECTED = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number", float: "a number"}


@dataclass(frozen=True, kw_only=True)
class EvaluationPoint:
    """One evaluation on the way: a point of the learning curve."""

    step: int
    train_seconds: float
    """Seconds in optimizer steps until then."""
    value: float | None
    """The run's metric; None where it is not defined."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult:
    """One fold of a finished run."""

    folder: Path
    fold: int
    config: dict[str, Any]
    """Effective settings, as in `config.yaml`."""
    environment: dict[str, Any]
    task: str
    metric: str
    """The metric that chose the best evaluation, such as `rmse`."""
    scores: dict[str, Any]
    """The fold's part of `metrics.json`."""
    overall: dict[str, Any]
    """The whole run's part of `metrics.json`."""
    evaluations: tuple[EvaluationPoint, ...]
    """In order of time, in the precision that the run trained in."""
    losses: NDArray[np.float64]
    """[steps]: training loss; NaN where it was not measured."""
    memory_seconds: NDArray[np.float64]
    """[steps]: wall-clock seconds since the run's process began, at each step; without the time between two processes
    where the run was interrupted."""
    memory_bytes: NDArray[np.float64]
    """[steps]: memory of tensors on the device, or of the process on a CPU."""
    validation_rows: NDArray[np.int64]
    """[n]: numbers of the rows that validated."""
    validation_targets: tuple[Any, ...]
    """[n]: their targets, as the predictions file has them."""


def read_run(folder: Path, fold: int) -> RunResult:
    """Read one fold of a finished run.

    Raises `RunFolderError`, naming the folder and the file, where it is no run folder, not finished (no metrics.json),
    damaged, or has not trained that fold.
    """
    file = folder / "metrics.json"
    if not file.is_file():
        raise RunFolderError(f"{folder}: found no metrics.json, expected the folder of a finished run")
    metrics = read_json(file)
    metric = entry(file, metrics, str, "metric")
    if str(fold) not in entry(file, metrics, dict, "folds"):
        trained = ", ".join(metrics["folds"])
        raise RunFolderError(f"{file}: found the trained folds {trained or 'none'}, expected fold {fold} among them")
    scores = entry(file, metrics, dict, "folds", str(fold))
    overall = entry(file, metrics, dict, "overall")
    _check_metrics(file, metrics, fold, metric)
    rows, targets = _read_predictions(folder / f"fold_{fold}" / "predictions.parquet", scores["validation_rows"])
    evaluations, steps = _read_events(folder / "events.jsonl", fold, metric, overall["total_seconds"])
    environment = read_json(folder / "environment.json")
    _check_environment(folder / "environment.json", environment)
    return RunResult(
        folder=folder,
        fold=fold,
        config=_read_yaml(folder / "config.yaml"),
        environment=environment,
        task=entry(file, metrics, str, "task"),
        metric=metric,
        scores=scores,
        overall=overall,
        evaluations=tuple(evaluations),
        losses=steps[:, 0],
        memory_seconds=steps[:, 1],
        memory_bytes=steps[:, 2],
        validation_rows=rows,
        validation_targets=targets,
    )


def entry(where: object, content: dict[str, Any], kind: type[T], *names: str) -> T:
    """Return the value that stands in `content` under `names`, one level each; an int passes for a float.

    Raises `RunFolderError`, naming `where` and the dotted name, where there is none or it is of another type.
    """
    value: Any = content
    for name in names:
        if not isinstance(value, dict) or name not in value:
            raise RunFolderError(f"{where}: found no {'.'.join(names)}, expected {_EXPECTED[kind]} there")
        value = value[name]
    fits = _is_number(value) if kind is float else isinstance(value, kind)
    if not fits or isinstance(value, bool):
        raise RunFolderError(f"{where}: {'.'.join(names)}: found {value!r:.60}, expected {_EXPECTED[kind]}")
    checked: T = value
    return checked


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number that the arithmetic of a comparison can bear, squared and multiplied, too."""
    return isinstance(value, int | float) and abs(value) < LARGEST


def seconds_to_reach(run: RunResult, goal: float, *, lower_is_better: bool) -> float | None:
    """Return the seconds in optimizer steps until the first evaluation that is as good as `goal`; None if none was."""
    sign = 1.0 if lower_is_better else -1.0
    reached = (p.train_seconds for p in run.evaluations if p.value is not None and sign * p.value <= sign * goal)
    return next(reached, None)


def yardstick(run: RunResult, name: str) -> float | None:
    """Return the run's metric of one of `YARDSTICKS`; None where the run did not compute it."""
    value: float | None = ((run.scores.get("yardsticks") or {}).get(name) or {}).get(run.metric)
    return value


def value_at(run: RunResult, train_seconds: float) -> float | None:
    """Return the metric at the latest evaluation until `train_seconds`; None if there was none by then."""
    values = [p.value for p in run.evaluations if p.train_seconds <= train_seconds + 1e-9]
    return values[-1] if values else None


def _check_metrics(file: Path, metrics: dict[str, Any], fold: int, metric: str) -> None:
    """Raise `RunFolderError` where a number that a comparison needs is not there."""
    part = ("folds", str(fold))
    for place in ("best", "last"):
        # Null where the metric is not defined, but never absent.
        if entry(file, metrics, dict, *part, place).get(metric, math.nan) is not None:
            entry(file, metrics, float, *part, place, metric)
    _check_yardsticks(file, metrics, (*part, "yardsticks"), metric)
    entry(file, metrics, float, *part, "padding_fraction")
    for name in ("training_rows", "validation_rows", "train_seconds", "tokens_per_second"):
        _positive(file, metrics, *part, name)
    for name in ("total_seconds", "peak_process_bytes"):
        _positive(file, metrics, "overall", name)
    if metrics["overall"].get("peak_device_bytes") is not None:
        _positive(file, metrics, "overall", "peak_device_bytes")
    phases = ("startup", "train", "evaluation", "checkpoint")
    for drawn in ((*part, "tokens"), *(("overall", f"{phase}_seconds") for phase in phases)):
        if entry(file, metrics, dict, *drawn[:-1]).get(drawn[-1]) is not None:
            entry(file, metrics, float, *drawn)


def _check_yardsticks(file: Path, metrics: dict[str, Any], part: tuple[str, ...], metric: str) -> None:
    """Raise `RunFolderError` where what a fold says of its yardsticks is no number; an older run says nothing."""
    if metrics["folds"][part[1]].get("yardsticks") is None:
        return
    for name in YARDSTICKS:
        if entry(file, metrics, dict, *part).get(name) is not None and (
            entry(file, metrics, dict, *part, name).get(metric) is not None
        ):
            entry(file, metrics, float, *part, name, metric)


def _positive(where: object, content: dict[str, Any], *names: str) -> float:
    """Return a number above 0, as ratios need."""
    value = entry(where, content, float, *names)
    if value < 1 / LARGEST:
        raise RunFolderError(f"{where}: {'.'.join(names)}: found {value}, expected a number above 0")
    return value


def _check_environment(file: Path, environment: dict[str, Any]) -> None:
    for name in ("started", "data_sha256"):
        entry(file, environment, str, name)
    entry(file, environment, dict, "versions")
    for name in ("type", "name"):
        entry(file, environment, str, "device", name)


def _read_events(
    file: Path, fold: int, metric: str, total_seconds: float
) -> tuple[list[EvaluationPoint], NDArray[np.float64]]:
    """Return the fold's evaluations, and its steps [steps, 3]: loss, seconds since the run began, memory.

    The last line is written when the folds are done, a moment before `total_seconds` is read off the clock; the last
    line before a resumption when the checkpoint was written, at the run's second `seconds_before`.
    """
    evaluations: list[EvaluationPoint] = []
    steps: list[tuple[float, float, float]] = []
    time, ended, in_order = math.nan, False, 0  # steps whose time is in seconds since the run began
    for line, event in _events(file):
        where = f"{file}, line {line}"
        kind = event.get("event")
        if kind == "resume":
            began = time - entry(where, event, float, "seconds_before")
            steps[in_order:] = [(loss, at - began, memory) for loss, at, memory in steps[in_order:]]
            in_order = len(steps)
        time = entry(where, event, float, "time")
        if kind not in ("step", "evaluation", "fold_end") or event.get("fold") != fold:
            continue
        if kind == "step":
            loss = math.nan if event.get("loss") is None else entry(where, event, float, "loss")
            steps.append((loss, time, entry(where, event, float, "memory")))
        elif kind == "evaluation":
            value = entry(where, event, dict, "metrics").get(metric)
            evaluations.append(
                EvaluationPoint(
                    step=entry(where, event, int, "step"),
                    train_seconds=_positive(where, event, "train_seconds"),
                    value=None if value is None else entry(where, event, float, "metrics", metric),
                )
            )
        ended = ended or kind == "fold_end"
    if not (ended and evaluations and steps):
        found = f"{len(steps)} steps, {len(evaluations)} evaluations and {'the' if ended else 'no'} end of fold {fold}"
        raise RunFolderError(f"{file}: found {found}, expected all of a finished run's: lines are missing")
    steps[in_order:] = [(loss, at - time + total_seconds, memory) for loss, at, memory in steps[in_order:]]
    return evaluations, np.array(steps, dtype=np.float64)


def _events(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines, numbered from 1, as files end them: `str.splitlines` would also cut at a U+2028 in a text."""
    line = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for line, text in enumerate(lines, start=1):
                yield line, parse_json_object(f"{file}, line {line}", text)
    except (OSError, UnicodeError) as error:
        raise unreadable(file if line == 0 else f"{file}, after line {line}", error) from None


def _read_predictions(file: Path, count: int) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
    """Return the validation rows' numbers and targets, of which there must be `count`."""
    try:
        with file.open("rb") as stream, pq.ParquetFile(stream) as parquet:
            table = parquet.read(columns=["row", "target"])
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from None
    for name in ("row", "target"):
        if name not in table.column_names:
            raise RunFolderError(f"{file}: found no column {name!r}, expected row, id, target and prediction")
    if table["row"].type != pa.int64() or len(table) != count:
        raise RunFolderError(
            f"{file}: found {len(table)} rows numbered as {table['row'].type}, expected {count} (validation_rows in "
            "metrics.json) numbered as int64"
        )
    return table["row"].to_numpy(), tuple(table["target"].to_pylist())


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(file.read_bytes())
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{file}: found {type(content).__name__}, expected a mapping")
    return content
