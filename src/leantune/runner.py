"""An experiment from its recipes to its run folders: each run in a fresh process, one at a time, none done twice.

    DIR/experiment.yaml                             the experiment; can be run again
    DIR/plan.json                                   which folder belongs to which recipe
    DIR/runs/RECIPE-hash/settings.yaml              a recipe's settings
    DIR/runs/RECIPE-hash/fold_0-seed_0/             a run folder
    DIR/runs/RECIPE-hash/fold_0-seed_0.log          what its process printed
    DIR/runs/RECIPE-hash/fold_0-seed_0.failed.json  why it failed

A recipe's folder is named after its settings. A file that has changed makes other folders, and the old ones stay.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from leantune.device import device_key
from leantune.errors import RunFolderError, SettingsError
from leantune.events import ComparisonEvent, Plan, PlannedRecipe, RunDone, RunProgress, RunStart, Trial, Waiting
from leantune.folds import fold_table
from leantune.recipes import Experiment, Recipe, RunCell, difference, refuse_equal
from leantune.record import write_json, write_yaml

TRIAL_STEPS = 4
"""Optimizer steps that a trial waits for; the first is left out, since it warms the machine up."""
EVALUATION_COST = 1 / 3
"""Seconds to evaluate a row over those to train on it: a forward pass without a backward pass."""
POLL_SECONDS = 0.2
SECONDS_TO_LEAVE = 15.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a few steps of a recipe, or a finished run of it, tell about the next run."""

    seconds: float | None
    step_seconds: float | None
    effective: dict[str, Any] | None
    """Effective settings without fold and seed; None where the trial failed."""
    error: str = ""


def run_experiment(
    experiment: Experiment, folder: Path, *, command: str, estimate: bool = True
) -> Iterator[ComparisonEvent]:
    """Do every run that `folder` does not have yet, and yield what happens.

    Runs that are finished are kept; half-written and failed ones are done again. `command` is what repeats the
    experiment. With `estimate`, a few steps of each recipe are timed first. Raises `InputError` for what the user must
    change, before anything is run. A run that fails is told in its `RunDone`, and the others go on.
    """
    folder = folder.expanduser()
    _refuse_foreign(folder)
    folds, rows = _resolve_folds(experiment)
    cells = experiment.cells(folds)
    with _alone(folder):
        _refuse_other_data(experiment, folder, cells)
        measured: dict[str, Measured] = {}
        for recipe in experiment.recipes:
            own = [cell for cell in cells if cell.recipe is recipe]
            done = [folder / cell.folder for cell in own if is_finished(folder / cell.folder)]
            if done:
                measured[recipe.name] = _measured_before(done)
            elif estimate:
                yield Trial(recipe=recipe.name, number=len(measured) + 1, total=len(experiment.recipes))
                measured[recipe.name] = yield from _try(own[0], folder)
        effective = {name: found.effective for name, found in measured.items() if found.effective is not None}
        refuse_equal(effective)
        baseline_error = measured[experiment.baseline].error if experiment.baseline in measured else ""
        if baseline_error:
            raise SettingsError(f"the baseline {experiment.baseline} cannot be run: {baseline_error}")
        _write_plan(experiment, folder, folds, command)
        yield _plan(experiment, folder, cells, measured, rows)
        for cell in cells:
            if not is_finished(folder / cell.folder):
                yield from _run(cell, folder)


def is_finished(run: Path) -> bool:
    """Tell whether a run folder has what is written last."""
    return (run / "metrics.json").is_file()


def _run(cell: RunCell, folder: Path) -> Iterator[ComparisonEvent]:
    """Do one run in a fresh process, and tell how it went."""
    path = folder / cell.folder
    if path.exists():  # half-written: it has nothing that the next attempt could use
        shutil.rmtree(path)
    log, failure = path.with_name(f"{path.name}.log"), path.with_name(f"{path.name}.failed.json")
    failure.unlink(missing_ok=True)
    yield from _wait_for(cell.recipe)
    with _device_lock(cell.recipe), _process(cell, folder, path, log) as process:
        start = time.monotonic()
        yield RunStart(recipe=cell.recipe.name, fold=cell.fold, seed=cell.seed)
        events = _Events(path / "events.jsonl")
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if events.read():
                yield RunProgress(recipe=cell.recipe.name, step=events.step, total_steps=events.total_steps)
    seconds = time.monotonic() - start
    metrics: dict[str, Any] | None = None
    metric = error = ""
    if process.returncode == 0 and is_finished(path):
        content = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        metrics, metric = content["overall"], content["metric"]
    else:
        error = _last_words(log, process.returncode)
        write_json(failure, {"exit_code": process.returncode, "message": error})
    yield RunDone(
        recipe=cell.recipe.name,
        fold=cell.fold,
        seed=cell.seed,
        seconds=seconds,
        metric=metric,
        metrics=metrics,
        error=error,
    )


def _try(cell: RunCell, folder: Path) -> Generator[ComparisonEvent, None, Measured]:
    """Time a few steps of a recipe in a fresh process that is stopped after them."""
    yield from _wait_for(cell.recipe)
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=folder) as place, _device_lock(cell.recipe):
        path, log = Path(place) / "run", Path(place) / "log"
        started = time.time()
        with _process(cell, folder, path, log) as process:
            events = _Events(path / "events.jsonl")
            while process.poll() is None and events.step < min(TRIAL_STEPS, events.total_steps or TRIAL_STEPS):
                time.sleep(POLL_SECONDS)
                events.read()
            events.read()
            failed = process.poll() not in (None, 0)
        if failed or not events.train_seconds:
            error = _last_words(log, process.returncode)
            return Measured(seconds=None, step_seconds=None, effective=None, error=error)
        effective = _effective(path)
        return _extrapolate(events, effective, started)


def _extrapolate(events: "_Events", effective: dict[str, Any], started: float) -> Measured:
    """Estimate a whole run from its first steps: start-up, all steps, and evaluations at a third of a step's cost."""
    seconds = [after - before for before, after in pairwise([0.0, *events.train_seconds])]
    step_seconds = statistics.median(seconds[1:] or seconds)
    steps_per_epoch = -(-events.training_rows // effective["batching"]["batch_size"])
    every = effective["evaluation"]["every"]
    interval = steps_per_epoch * 1.0
    if isinstance(every, dict):
        interval = every["steps"] if "steps" in every else steps_per_epoch * every["fraction"]
    evaluations = -(-events.total_steps // max(1, int(interval))) + 1  # and the predictions in float32
    evaluation = steps_per_epoch * step_seconds * EVALUATION_COST * events.validation_rows / events.training_rows
    startup = events.startup_ended - started
    return Measured(
        seconds=startup + step_seconds * events.total_steps + evaluation * evaluations,
        step_seconds=step_seconds,
        effective=effective,
    )


def _measured_before(runs: list[Path]) -> Measured:
    """Take times from finished runs instead of a trial."""
    overall = [json.loads((run / "metrics.json").read_text(encoding="utf-8"))["overall"] for run in runs]
    return Measured(
        seconds=statistics.median(o["total_seconds"] for o in overall),
        step_seconds=statistics.median(o["train_seconds"] / o["optimizer_steps"] for o in overall),
        effective=_effective(runs[0]),
    )


def _effective(run: Path) -> dict[str, Any]:
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in settings.items() if key not in ("fold", "seed")}


class _Events:
    """Follows a run's events.jsonl while it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._rest = path, 0, b""
        self.step = self.total_steps = self.training_rows = self.validation_rows = 0
        self.startup_ended = 0.0
        self.train_seconds: list[float] = []

    def read(self) -> bool:
        """Take in what was written since; tell whether the run has come further."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return False
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "fold":
                self.startup_ended = event["time"]
                self.total_steps = event["total_steps"]
                self.training_rows, self.validation_rows = event["training_rows"], event["validation_rows"]
            elif event["event"] == "step":
                self.step = event["step"]
                self.train_seconds.append(event["train_seconds"])
        return bool(lines)


@contextmanager
def _process(cell: RunCell, folder: Path, output: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run; when the block is left before the run has ended, stop it, and wait until it has left."""
    settings = folder / cell.folder.parent / "settings.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(settings, cell.recipe.settings())
    command = [sys.executable, "-m", "leantune.worker", "train", "--config", settings, "--output", output]
    command += ["--fold", cell.fold, "--set", f"seed={cell.seed}"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,  # never written to: see worker
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the run
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(SECONDS_TO_LEAVE)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _last_words(log: Path, exit_code: int) -> str:
    """Return what a failed process said last: leantune's own message, or the end of a traceback."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    if "\nleantune: " in f"\n{text}":
        return f"\n{text}".rpartition("\nleantune: ")[2].strip()
    said = text.splitlines()[-1] if text else "nothing was printed"
    if exit_code < 0:
        said = f"killed by signal {-exit_code}; before it: {said}" + (
            " (signal 9 often means that the system ran out of memory)" if exit_code == -9 else ""
        )
    return said


def _plan(experiment: Experiment, folder: Path, cells: list[RunCell], measured: dict[str, Measured], rows: int) -> Plan:
    baseline = experiment.recipe(experiment.baseline).settings()
    return Plan(
        title=experiment.title,
        baseline=experiment.baseline,
        recipes=tuple(
            PlannedRecipe(
                name=recipe.name,
                differs=difference(recipe.settings(), baseline),
                runs=sum(cell.recipe is recipe for cell in cells),
                finished=sum(cell.recipe is recipe and is_finished(folder / cell.folder) for cell in cells),
                seconds=measured[recipe.name].seconds if recipe.name in measured else None,
                step_seconds=measured[recipe.name].step_seconds if recipe.name in measured else None,
                error=measured[recipe.name].error if recipe.name in measured else "",
            )
            for recipe in experiment.recipes
        ),
        seeds=experiment.seeds,
        folds=tuple(dict.fromkeys(cell.fold for cell in cells)),
        rows=rows,
    )


def _write_plan(experiment: Experiment, folder: Path, folds: tuple[int, ...], command: str) -> None:
    write_yaml(folder / "experiment.yaml", experiment.settings)
    config = experiment.recipe(experiment.baseline).config
    write_json(
        folder / "plan.json",
        {
            "format": 1,
            "title": experiment.title,
            "command": command,
            "baseline": experiment.baseline,
            "seeds": experiment.seeds,
            "folds": folds,
            "data": str(config.data.path),
            "model": config.model.name,
            "recipes": {recipe.name: {"folder": f"runs/{recipe.folder}"} for recipe in experiment.recipes},
        },
    )


def _resolve_folds(experiment: Experiment) -> tuple[tuple[int, ...], int]:
    """Read the table as the runs will; return the folds to run, and how many rows there are."""
    config = experiment.recipes[0].config
    table, _, folds = fold_table(config.data, config.folds)
    chosen = tuple(range(folds.count)) if experiment.folds == "all" else experiment.folds
    for fold in chosen:
        if fold >= folds.count:
            raise SettingsError(f"folds: there is no fold {fold}; there are {folds.count}, numbered from 0")
    return chosen, len(table)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: there already, and not a folder; give another --output")
    if folder.is_dir() and not (folder / "plan.json").exists() and _things_in(folder):
        raise RunFolderError(
            f"{folder}: there already, holds {_things_in(folder)[0]} and is not the folder of an experiment (no "
            "plan.json); give another --output, or move it away"
        )


def _things_in(folder: Path) -> list[str]:
    """Names in a folder that are not what a comparison leaves before its plan."""
    return sorted(path.name for path in folder.iterdir() if path.name not in (".lock", "runs"))


def _refuse_other_data(experiment: Experiment, folder: Path, cells: list[RunCell]) -> None:
    """Raise `RunFolderError` where a finished run was made of other data than the file has now."""
    path = experiment.recipes[0].config.data.path.expanduser()
    with path.open("rb") as file:
        now = hashlib.file_digest(file, "sha256").hexdigest()
    for cell in cells:
        environment = folder / cell.folder / "environment.json"
        if is_finished(folder / cell.folder) and environment.is_file():
            before = json.loads(environment.read_text(encoding="utf-8"))["data_sha256"]
            if before != now:
                raise RunFolderError(
                    f"{folder / cell.folder}: made from other data than {path} holds now (sha256 {before[:12]}, now "
                    f"{now[:12]}); give another --output, or bring the old file back"
                )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the experiment's folder: two processes never write the same runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise RunFolderError(f"{folder}: another `leantune compare` is running here; wait for it, or stop it") from None
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written: {error.strerror}; give another --output") from None
    try:
        yield
    finally:
        lock.release()


def _lock_of(recipe: Recipe) -> tuple[str, FileLock]:
    device = device_key(recipe.config.device)
    user = os.getuid() if hasattr(os, "getuid") else "user"
    name = f"leantune-{user}-{device.replace(':', '_')}.lock"
    return device, FileLock(Path(tempfile.gettempdir()) / name)


def _wait_for(recipe: Recipe) -> Iterator[Waiting]:
    """Say so, once, where another comparison is using the device."""
    device, lock = _lock_of(recipe)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield Waiting(device=device)
    else:
        lock.release()


@contextmanager
def _device_lock(recipe: Recipe) -> Iterator[None]:
    """Have the device alone: two timed runs at once would measure each other."""
    _, lock = _lock_of(recipe)
    with lock.acquire(poll_interval=POLL_SECONDS):
        yield
