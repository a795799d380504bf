"""An experiment from its recipes to its run folders: each run in a fresh process, one at a time, none done twice.

    DIR/experiment.yaml                             the experiment; can be run again
    DIR/plan.json                                   which folder belongs to which recipe
    DIR/runs/RECIPE-hash/settings.yaml              a recipe's settings
    DIR/runs/RECIPE-hash/fold_0-seed_0/             a run folder
    DIR/runs/RECIPE-hash/fold_0-seed_0.log          what its process printed
    DIR/runs/RECIPE-hash/fold_0-seed_0.failed.json  why it failed

A recipe's folder is named after its settings. A file that has changed makes other folders, and the old ones stay.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from leantune.comparison.comparability import check_pair
from leantune.comparison.comparing import compare_runs
from leantune.comparison.disturbances import DISTURBED, SET_ASIDE, find_disturbed, times_repeated
from leantune.comparison.folder import read_cell
from leantune.comparison.results import RunResult
from leantune.experiments.checks import refuse_what_cannot_run
from leantune.experiments.recipes import Experiment, Recipe, RunCell, difference, refuse_equal, without_cell
from leantune.system.device import device_key
from leantune.system.errors import RunFolderError, SettingsError
from leantune.system.files import locked, read_json, unwritable, write_json, write_yaml
from leantune.system.safe_yaml import parse_yaml
from leantune.system.settings import check
from leantune.tables.folds import fold_table
from leantune.tables.memory import MemoryTable
from leantune.tables.table import DataSettings, data_sha256
from leantune.training.evaluation import EvaluationSettings
from leantune.training.events import (
    ComparisonEvent,
    Plan,
    PlannedRecipe,
    RunDone,
    RunProgress,
    RunStart,
    Trial,
    Waiting,
)

TRIAL_STEPS = 4
"""Optimizer steps that a trial waits for; the first is left out, since it warms the machine up."""
EVALUATION_COST = 1 / 3
"""Seconds to evaluate a row over those to train on it: a forward pass without a backward pass."""
MOST_REPEATS = 2
"""How often a disturbed run is done again."""
REPEATING = (
    f"runs before which the machine computes over {DISTURBED - 1:.0%} slower or faster than the median are repeated, "
    f"at most {MOST_REPEATS} times"
)
TRIAL_PREFIX = ".trial-"
POLL_SECONDS = 0.2
SECONDS_TO_LEAVE = 60.0
"""How long a run that is stopped may take to save what it has done."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a few steps of a recipe, or finished runs of it, tell about the next run."""

    startup_seconds: float
    other_seconds: float
    """Steps and evaluations."""
    step_seconds: float
    effective: dict[str, Any]
    """Effective settings without fold and seed."""


def looks_of(seeds: int, most: int) -> tuple[int, ...]:
    """Return the numbers of seeds at which a comparison of at most so many looks whether everything is settled.

    Each is twice the one before: few looks, since every look makes all intervals wider.
    """
    looks = [max(2, seeds)]
    while looks[-1] < most:
        looks.append(min(2 * looks[-1], most))
    return tuple(looks)


def run_experiment(
    experiment: Experiment,
    folder: Path,
    *,
    command: str,
    estimate: bool = True,
    settle: int | None = None,
    repeat: bool = False,
) -> Generator[ComparisonEvent, None, None]:
    """Do every run that `folder` does not have yet, and yield what happens.

    Runs that are finished are kept; those that left a checkpoint go on from it, and other half-written or failed ones
    are done again. `command` is what repeats the experiment. With `estimate`, a few steps of each recipe are timed
    first. With `settle`, seeds are added until every verdict on the metric and the training time is given, at most so
    many; the numbers at which that is looked at stand in the plan before anything runs, and make the intervals wider.
    With `repeat`, runs before which the machine computed much slower or faster than before the others are set aside
    and done again, at most `MOST_REPEATS` times.
    Raises `InputError` for what the user must change, before anything is run, and where a kept run turns out to be of
    another device. A run that fails is told in its `RunDone`, and the others go on.
    """
    folder = folder.expanduser()
    folds, rows = _resolve_folds(experiment)
    looks: tuple[int, ...] = ()
    if settle is not None:
        if settle < max(2, len(experiment.seeds)):
            raise SettingsError(
                f"--settle: found {settle}, expected the most seeds that may be run, at least 2 and the experiment's "
                f"{len(experiment.seeds)}"
            )
        looks = looks_of(len(experiment.seeds), settle)
    with _alone(folder):
        for count in looks or (len(experiment.seeds),):
            stage = experiment.with_seeds(count)
            note = REPEATING if repeat else ""
            yield from _run_all(stage, folder, folds, rows, command=command, estimate=estimate, looks=looks, note=note)
            if repeat:
                yield from _repeat_disturbed(stage, folder, folds, rows)
            if count in looks[:-1] and compare_runs(folder).is_settled():
                break


def _run_all(
    experiment: Experiment,
    folder: Path,
    folds: tuple[int, ...],
    rows: int,
    *,
    command: str,
    estimate: bool,
    looks: tuple[int, ...],
    note: str,
) -> Generator[ComparisonEvent, None, None]:
    """Do every run of an experiment that the folder does not have."""
    cells = experiment.cells(folds)
    kept = {cell: result for cell in cells if (result := _read(cell, folder)) is not None}
    _refuse_other_data(experiment, kept)
    _refuse_other_looks(folder, looks, kept)
    started = {cell.recipe.name for cell in kept}
    if new := [recipe for recipe in experiment.recipes if recipe.name not in started]:
        refuse_what_cannot_run(experiment, new)
    measured: dict[str, Measured] = {}
    errors: dict[str, str] = {}
    for number, recipe in enumerate(experiment.recipes, start=1):
        runs = [result for cell, result in kept.items() if cell.recipe is recipe]
        if runs:
            measured[recipe.name] = _measured_before(runs)
        elif estimate:
            if not measured and not errors:  # what is known stands there at once; how long it takes, a little later
                yield _plan(experiment, cells, list(kept), measured={}, errors={}, rows=rows, note=note)
                note = ""  # told
            yield Trial(recipe=recipe.name, number=number, total=len(experiment.recipes))
            first = next(cell for cell in cells if cell.recipe is recipe)
            outcome = yield from _try(first, folder)
            if isinstance(outcome, Measured):
                measured[recipe.name] = outcome
            else:
                errors[recipe.name] = outcome
            _refuse_hopeless(experiment, measured, errors)
    refuse_equal({name: found.effective for name, found in measured.items()})
    _write_plan(experiment, folder, folds, command, looks)
    yield _plan(experiment, cells, list(kept), measured=measured, errors=errors, rows=rows, note=note)
    reference = next(iter(kept.values()), None)
    for cell in cells:
        if cell not in kept:
            result = yield from _run(cell, folder)
            if result is not None and reference is not None:
                check_pair(reference, result)
            reference = reference or result


def _repeat_disturbed(
    experiment: Experiment, folder: Path, folds: tuple[int, ...], rows: int
) -> Generator[ComparisonEvent, None, None]:
    """Do runs again whose machine was disturbed, round by round; what they replace stays beside them."""
    cells = experiment.cells(folds)
    for _ in range(MOST_REPEATS):
        done = {cell: result for cell in cells if (result := _read(cell, folder)) is not None}
        again = [cell for cell in find_disturbed(done) if times_repeated(folder / cell.folder) < MOST_REPEATS]
        if not again:
            return
        kept = [cell for cell in done if cell not in again]
        of_recipe: dict[str, list[RunResult]] = {}
        for cell, result in done.items():
            of_recipe.setdefault(cell.recipe.name, []).append(result)
        measured = {name: _measured_before(results) for name, results in of_recipe.items()}
        named = ", ".join(f"{cell.recipe.name} fold {cell.fold} seed {cell.seed}" for cell in again)
        note = f"again, since the machine ran differently before these runs: {named}"
        yield _plan(experiment, cells, kept, measured=measured, errors={}, rows=rows, note=note)
        for cell in again:
            path = folder / cell.folder
            path.rename(path.with_name(f"{path.name}{SET_ASIDE}{times_repeated(path) + 1}"))
            yield from _run(cell, folder)


def _refuse_hopeless(experiment: Experiment, measured: Mapping[str, Measured], errors: Mapping[str, str]) -> None:
    """Raise `SettingsError` as soon as trials show that nothing would be compared."""
    if experiment.baseline in errors:
        raise SettingsError(f"the baseline {experiment.baseline} cannot be run: {errors[experiment.baseline]}")
    others = [recipe.name for recipe in experiment.recipes if recipe.name != experiment.baseline]
    if all(name in errors for name in others):
        why = "; ".join(f"{name}: {errors[name]}" for name in others)
        raise SettingsError(f"only the baseline {experiment.baseline} can be run, so nothing would be compared: {why}")
    refuse_equal({name: found.effective for name, found in measured.items()})


def _read(cell: RunCell, folder: Path) -> RunResult | None:
    """Read a run back; None where it is not finished. Raises `RunFolderError` where it is damaged."""
    place = cell.folder.as_posix()
    return read_cell(folder, place, recipe=cell.recipe.name, fold=cell.fold, seed=cell.seed).result


def _run(cell: RunCell, folder: Path) -> Generator[ComparisonEvent, None, RunResult | None]:
    """Do one run in a fresh process, tell how it went, and return what it wrote; None for a failed one."""
    path = folder / cell.folder
    if path.exists() and not _left_off(path, cell.recipe):  # it has nothing that the next attempt could use
        shutil.rmtree(path)
    log, failure = path.with_name(f"{path.name}.log"), path.with_name(f"{path.name}.failed.json")
    failure.unlink(missing_ok=True)
    yield from _wait_for(cell.recipe)
    with _device_lock(cell.recipe, folder), _process(cell, folder, path, log) as process:
        start = time.monotonic()
        yield RunStart(recipe=cell.recipe.name, fold=cell.fold, seed=cell.seed)
        events = _Events(path / "events.jsonl")
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if events.read():
                yield RunProgress(recipe=cell.recipe.name, step=events.step, total_steps=events.total_steps)
    seconds = time.monotonic() - start
    is_finished = process.returncode == 0 and (path / "metrics.json").is_file()
    error = "" if is_finished else _last_words(log, process.returncode)
    if error:
        write_json(failure, {"exit_code": process.returncode, "message": error})
    result = None if error else _read(cell, folder)
    yield RunDone(
        recipe=cell.recipe.name,
        fold=cell.fold,
        seed=cell.seed,
        seconds=seconds,
        metric="" if result is None else result.metric,
        metrics=None if result is None else result.overall,
        error=error,
    )
    return result


def _left_off(path: Path, recipe: Recipe) -> bool:
    """Tell whether a half-written run can go on: it has a checkpoint, made of the data as they are now."""
    if not any(path.glob("fold_*/checkpoint/step_*")):
        return False
    try:
        before = read_json(path / "environment.json").get("data_sha256")
    except RunFolderError:
        return False
    return before == data_sha256(recipe.config.data)


def _try(cell: RunCell, folder: Path) -> Generator[ComparisonEvent, None, Measured | str]:
    """Time a few steps of a recipe in a fresh process that is stopped after them; where it fails, return why."""
    yield from _wait_for(cell.recipe)
    with tempfile.TemporaryDirectory(prefix=TRIAL_PREFIX, dir=folder) as place, _device_lock(cell.recipe, folder):
        path, log = Path(place) / "run", Path(place) / "log"
        started = time.time()
        with _process(cell, folder, path, log) as process:
            events = _Events(path / "events.jsonl")
            while process.poll() is None and not events.are_enough():
                time.sleep(POLL_SECONDS)
                events.read()
            events.read()
            failed = process.poll() not in (None, 0)
        if failed or not events.readings:
            return _last_words(log, process.returncode)
        settings = parse_yaml((path / "config.yaml").read_text(encoding="utf-8"))
        return _extrapolate(events, settings, started)


def _extrapolate(events: "_Events", effective: dict[str, Any], started: float) -> Measured:
    """Estimate a whole run from its first steps: start-up, all steps, and evaluations at a third of a step's cost."""
    step, seconds = events.readings[-1]
    if len(events.readings) > 1:  # what was done before the first reading warms the machine up
        step, seconds = step - events.readings[0][0], seconds - events.readings[0][1]
    step_seconds = seconds / step
    steps_per_epoch = -(-events.training_rows // effective["batching"]["batch_size"])
    evaluations = check(EvaluationSettings, effective["evaluation"]).count(
        steps_per_epoch=steps_per_epoch, total_steps=events.total_steps
    )
    if effective["precision"] != "fp32":  # the kept predictions are computed once more in float32
        evaluations += 1
    evaluation = steps_per_epoch * step_seconds * EVALUATION_COST * events.validation_rows / events.training_rows
    return Measured(
        startup_seconds=events.startup_ended - started,
        other_seconds=step_seconds * events.total_steps + evaluation * evaluations,
        step_seconds=step_seconds,
        effective=without_cell(effective),
    )


def _measured_before(runs: list[RunResult]) -> Measured:
    """Take times from finished runs instead of a trial."""
    startup = statistics.median(run.overall["startup_seconds"] for run in runs)
    return Measured(
        startup_seconds=startup,
        other_seconds=statistics.median(run.overall["total_seconds"] for run in runs) - startup,
        step_seconds=statistics.median(run.overall["train_seconds"] / run.overall["optimizer_steps"] for run in runs),
        effective=without_cell(runs[0].config),
    )


class _Events:
    """Follows a run's events.jsonl while it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, 0
        self._begin()

    def _begin(self) -> None:
        self._read, self._rest = 0, b""
        self.step = self.total_steps = self.training_rows = self.validation_rows = 0
        self.startup_ended = 0.0
        self.readings: list[tuple[int, float]] = []
        """Step, and seconds in steps until then. A GPU is read about once a second, and tells of several steps with one
        time: of these it is the last."""

    def read(self) -> bool:
        """Take in what was written since; tell whether the run has come further."""
        try:
            with self._path.open("rb") as file:
                if (number := os.fstat(file.fileno()).st_ino) != self._file:  # a run that goes on begins a new one
                    self._file = number
                    self._begin()
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
                if self.readings and self.readings[-1][1] == event["train_seconds"]:
                    self.readings.pop()
                self.readings.append((event["step"], event["train_seconds"]))
        return bool(lines)

    def are_enough(self) -> bool:
        """Tell whether a trial has seen enough steps, in two readings at least."""
        return self.step >= TRIAL_STEPS and len(self.readings) > 1


@contextmanager
def _process(cell: RunCell, folder: Path, output: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run; when the block is left before the run has ended, stop it, and wait until it has left."""
    settings = folder / cell.folder.parent / "settings.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(settings, cell.recipe.settings())
    # -P: a file of the user's that is called like a package must not be imported in its place.
    command = [sys.executable, "-P", "-m", "leantune.worker", "train", "--config", settings, "--output", output]
    command += ["--fold", cell.fold, "--set", f"seed={cell.seed}", *(["--resume"] if output.exists() else [])]
    log.unlink(missing_ok=True)  # in a stranger's folder it may be a link to a file elsewhere
    with log.open("xb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,  # never written to: see worker
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUTF8": "1"},  # whatever the log's file system and the paths speak
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the run
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # it saves what it has done
                try:
                    process.wait(SECONDS_TO_LEAVE)
                except subprocess.TimeoutExpired:
                    process.kill()
                except BaseException:  # a second signal
                    process.kill()
                    raise
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


def _plan(
    experiment: Experiment,
    cells: list[RunCell],
    kept: list[RunCell],
    *,
    measured: dict[str, Measured],
    errors: dict[str, str],
    rows: int,
    note: str = "",
) -> Plan:
    baseline = experiment.recipe(experiment.baseline).settings()
    # The first trial may have filled caches or fetched the model, which no run after it does.
    startup = min((found.startup_seconds for found in measured.values()), default=0.0)
    return Plan(
        title=experiment.title,
        baseline=experiment.baseline,
        recipes=tuple(
            PlannedRecipe(
                name=recipe.name,
                differs=difference(recipe.settings(), baseline),
                runs=sum(cell.recipe is recipe for cell in cells),
                finished=sum(cell.recipe is recipe for cell in kept),
                seconds=startup + found.other_seconds if (found := measured.get(recipe.name)) else None,
                step_seconds=found.step_seconds if found else None,
                error=errors.get(recipe.name, ""),
            )
            for recipe in experiment.recipes
        ),
        seeds=experiment.seeds,
        folds=tuple(dict.fromkeys(cell.fold for cell in cells)),
        rows=rows,
        note=note,
    )


def _write_plan(
    experiment: Experiment, folder: Path, folds: tuple[int, ...], command: str, looks: tuple[int, ...]
) -> None:
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
            "tolerance": experiment.tolerance,
            "looks": looks,
            "data": _names(config.data),
            "model": Path(config.model.name).name if Path(config.model.name).is_dir() else config.model.name,
            "recipes": {recipe.name: {"folder": f"runs/{recipe.folder}"} for recipe in experiment.recipes},
        },
    )


def _resolve_folds(experiment: Experiment) -> tuple[tuple[int, ...], int]:
    """Read the table as the runs will; return the folds to run, and how many rows there are."""
    config = experiment.recipes[0].config
    table, _, folds = fold_table(config.data, config.folds)
    chosen = tuple(folds.all_numbers()) if experiment.folds == "all" else experiment.folds
    for fold in chosen:
        if fold >= folds.count:
            if folds.holdout:
                raise SettingsError(f"folds: there is no fold {fold}; the data give one split, which is fold 0")
            raise SettingsError(f"folds: there is no fold {fold}; there are {folds.count}, numbered from 0")
    return chosen, len(table)


def _refuse_foreign(folder: Path) -> None:
    """Raise `RunFolderError` where a folder holds anything and is not an experiment's; plan.json is written late."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if names and not {"runs", "experiment.yaml"} & set(names):
        raise RunFolderError(
            f"{folder}: there already, holds {names[0]} and is not the folder of an experiment; give another --output, "
            "or move it away"
        )


def _refuse_other_data(experiment: Experiment, kept: dict[RunCell, RunResult]) -> None:
    """Raise `RunFolderError` where a finished run was made of other data than the file has now."""
    data = experiment.recipes[0].config.data
    now = data_sha256(data)
    for result in kept.values():
        before = result.environment["data_sha256"]
        if before != now:
            raise RunFolderError(
                f"{result.folder}: made from other data than {_names(data)} holds now (sha256 {before[:12]}, "
                f"now {now[:12]}); give another --output, or bring the old file back"
            )


def _refuse_other_looks(folder: Path, looks: tuple[int, ...], kept: Mapping[RunCell, RunResult]) -> None:
    """Raise `RunFolderError` where runs were planned with other looks at them: that cannot be changed afterwards."""
    if not kept or not (folder / "plan.json").is_file():
        return
    before = tuple(read_json(folder / "plan.json").get("looks") or ())
    if before != looks:
        planned = f"looks at {', '.join(map(str, before))} seeds" if before else "one look"
        now = f"looks at {', '.join(map(str, looks))} seeds" if looks else "one look"
        raise RunFolderError(
            f"{folder}: its runs were planned with {planned}, and this command plans {now}: looks count only when they "
            "are planned before the first run; give the same --settle as before, or another --output"
        )


def _names(data: DataSettings) -> str:
    """Name the files for people, without their folders: reports are shown to others."""
    names = [str(path) if isinstance(path, MemoryTable) else path.name for path in data.files]
    return names[0] if len(names) == 1 else f"{names[0]} (validation: {names[1]})"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the experiment's folder: two processes never write the same runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
    except OSError as error:
        raise unwritable(folder, error) from None
    with locked(folder / ".lock", taken="another `leantune compare` is running here"):
        for left_over in folder.glob(f"{TRIAL_PREFIX}*"):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        yield


def _lock_of(recipe: Recipe) -> tuple[str, FileLock]:
    device = device_key(recipe.config.device)
    user = os.getuid() if hasattr(os, "getuid") else "user"
    name = f"leantune-{user}-{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock"  # a device may be called "../../x"
    return device, FileLock(Path(tempfile.gettempdir()) / name)


def _wait_for(recipe: Recipe) -> Iterator[Waiting]:
    """Say so, once, where another comparison is using the device."""
    device, lock = _lock_of(recipe)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        try:
            holder = _holder_file(lock).read_text(encoding="utf-8", errors="replace")[:400]
        except OSError:  # it has just begun, or just ended
            holder = ""
        yield Waiting(device=device, holder=holder)
    else:
        lock.release()


@contextmanager
def _device_lock(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Have the device alone, as two timed runs at once would measure each other; who waits reads by whom it is held."""
    _, lock = _lock_of(recipe)
    with lock.acquire(poll_interval=POLL_SECONDS):
        holder = _holder_file(lock)
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(holder, flags, 0o600), "w", encoding="utf-8", errors="replace") as file:
                file.write(f"{folder.absolute()} (process {os.getpid()})")
        try:
            yield
        finally:
            with suppress(OSError):
                holder.unlink()


def _holder_file(lock: FileLock) -> Path:
    return Path(lock.lock_file).with_suffix(".holder")
