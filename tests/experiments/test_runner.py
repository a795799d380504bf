"""Runs of an experiment: fresh processes, kept, done again, failed, killed."""

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from filelock import FileLock, Timeout

from fork_server import Server
from leantune.experiments import runner
from leantune.experiments.experiment import compare
from leantune.experiments.recipes import Experiment, parse_experiment
from leantune.experiments.runner import _Events, _extrapolate, looks_of, run_experiment
from leantune.report import rebuild_report
from leantune.system.errors import InputError, RunFolderError, SettingsError
from leantune.training.events import Plan, RunDone, RunStart, Trial, Waiting
from small_runs import write_table


def settings_of(data: Path, model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": {
            "data": {"path": str(data), "text": "text", "target": "score", "id": "name"},
            "model": {"name": str(model)},
            "optimizer": {"epochs": 2, "learning_rate": 1e-3},
            "batching": {"batch_size": 16},
            "precision": "fp32",
            "device": "cpu",
        },
        "baseline": "plain",
        "recipes": {"plain": {"batching": {"layout": "fixed"}}, "short": {"tokens": {"max_length": 8}}},
        "seeds": [0],
        "folds": [0],
    } | changes


@pytest.fixture(autouse=True)
def _own_device_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for another's run, nor for a comparison that somebody has going on this machine."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


FRESH_PYTHON = sys.executable


@pytest.fixture(autouse=True)
def _runs_begin_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one test are fresh processes; all others are forked from one that has imported everything."""
    monkeypatch.setattr(sys, "executable", str(server.python))


@pytest.fixture
def settings(tmp_path: Path, tiny_encoder_dir: Callable[[str], Path]) -> dict[str, Any]:
    return settings_of(write_table(tmp_path / "train.csv"), tiny_encoder_dir("bert"))


def load(settings: dict[str, Any]) -> Experiment:
    return parse_experiment(settings, title="test")


def run_quietly(settings: dict[str, Any], folder: Path, *, estimate: bool = False) -> list[Any]:
    return list(run_experiment(load(settings), folder, command="leantune compare", estimate=estimate))


def started(events: list[Any]) -> list[tuple[str, int]]:
    return [(event.recipe, event.seed) for event in events if isinstance(event, RunStart)]


def test_runs_are_done_in_turn_then_kept_and_only_what_is_new_or_changed_is_added(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", FRESH_PYTHON)
        assert started(run_quietly(settings, folder)) == [("plain", 0), ("short", 0)]
    made = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/metrics.json")}
    assert len(made) == 2

    assert started(run_quietly(settings, folder)) == []
    settings["recipes"]["third"] = {"tokens": {"max_length": 16}}
    settings["recipes"]["short"] = {"tokens": {"max_length": 10}}
    assert started(run_quietly(settings, folder)) == [("short", 0), ("third", 0)]
    assert {path: path.stat().st_mtime_ns for path in made} == made
    config = yaml.safe_load((folder / "plan.json").read_text())
    assert list(config["recipes"]) == ["plain", "short", "third"]

    settings["recipes"]["short"] = {"tokens": {"max_length": 8}}  # what was done before is found again
    del settings["recipes"]["third"]
    assert started(run_quietly(settings, folder)) == []


def test_the_plan_has_an_estimate_from_a_few_steps_and_names_what_differs(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    events = run_quietly(settings, tmp_path / "out", estimate=True)
    assert [event.recipe for event in events if isinstance(event, Trial)] == ["plain", "short"]
    at_once, plan = [event for event in events if isinstance(event, Plan)]
    assert events[0] is at_once  # before any trial
    assert [recipe.seconds for recipe in at_once.recipes] == [None, None]
    assert plan.rows == 60
    assert plan.recipes[0].differs == {}
    assert plan.recipes[1].differs == {"tokens.max_length": 8, "batching.layout": "auto"}
    took = {event.recipe: event.seconds for event in events if isinstance(event, RunDone)}
    for recipe in plan.recipes:
        assert recipe.seconds is not None
        assert took[recipe.name] / 10 < recipe.seconds < took[recipe.name] * 10  # it is no guess
    assert not list((tmp_path / "out").glob(".trial*"))


def test_a_run_that_fails_is_told_and_the_others_go_on(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["recipes"] = {
        "plain": {},
        "broken": {"optimizer": {"learning_rate": 1e30, "gradient_clip_norm": None}},
        "short": {"tokens": {"max_length": 8}},
    }
    events = run_quietly(settings, tmp_path / "out")
    done = {event.recipe: event for event in events if isinstance(event, RunDone)}
    assert done["plain"].metrics is not None
    assert done["short"].metrics is not None
    assert done["broken"].metrics is None
    assert "not finite" in done["broken"].error or "is nan" in done["broken"].error or "is inf" in done["broken"].error

    comparison = rebuild_report(tmp_path / "out")
    (cell,) = comparison.recipe("broken").cells
    assert cell.state == "failed"
    assert cell.error == done["broken"].error
    assert cell.error[:30] in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert started(run_quietly(settings, tmp_path / "out")) == [("broken", 0)]


def test_recipes_that_auto_makes_equal_are_refused_before_the_first_run(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["recipes"] = {"plain": {}, "same": {"batching": {"layout": "packed"}}}
    with pytest.raises(SettingsError, match=r"recipes\.same: has the same effective settings as plain"):
        run_quietly(settings, tmp_path / "out", estimate=True)
    assert not list((tmp_path / "out").glob("runs/*/*/metrics.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": [0, 7]}, "there is no fold 7"),
        ({"folds": "every"}, "folds"),
        ({"base": {"data": {"path": "missing.csv", "text": "t", "target": "y"}, "model": {"name": "x"}}}, "missing"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_run(
    settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_quietly(settings | changes, tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists()


def damaged_copy(model: str, folder: Path) -> str:
    """A model whose configuration can be read, and whose weights cannot."""
    shutil.copytree(model, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return str(folder)


def test_a_baseline_that_cannot_run_stops_the_experiment_with_its_error(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["base"]["model"] = {"name": damaged_copy(settings["base"]["model"]["name"], tmp_path / "damaged")}
    with pytest.raises(SettingsError, match=r"the baseline plain cannot be run: .*damaged"):
        run_quietly(settings, tmp_path / "out", estimate=True)


def test_where_only_the_baseline_can_run_nothing_is_trained(settings: dict[str, Any], tmp_path: Path) -> None:
    model = damaged_copy(settings["base"]["model"]["name"], tmp_path / "damaged")
    settings["recipes"] = {"plain": {}, "gone": {"model": {"name": model}}}
    with pytest.raises(SettingsError, match="only the baseline plain can be run, so nothing would be compared: gone: "):
        run_quietly(settings, tmp_path / "out", estimate=True)
    assert not list((tmp_path / "out").glob("runs/*/*/metrics.json"))


# What shows before any trial


def refusal(settings: dict[str, Any], folder: Path) -> str:
    """The message of an experiment that is refused before anything has happened."""
    events = []
    with pytest.raises(SettingsError) as caught:
        events.extend(run_experiment(load(settings), folder, command="leantune compare", estimate=True))
    assert events == []
    assert not list(folder.glob("runs/*"))
    return str(caught.value)


def test_models_that_are_not_there_are_refused_before_any_trial_in_one_message(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["recipes"] = {
        "plain": {},
        "slip": {"model": {"name": str(tmp_path / "no such model")}},
        "other": {"model": {"name": str(tmp_path / "nor this")}},
    }
    first, second = refusal(settings, tmp_path / "out").splitlines()
    assert first.startswith("recipes.slip: model.name: cannot load")
    assert second.startswith("recipes.other: model.name: cannot load")


def test_a_model_of_all_recipes_that_is_not_there_is_told_once(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["base"]["model"] = {"name": str(tmp_path / "no such model")}
    message = refusal(settings, tmp_path / "out")
    assert message.startswith("model.name: cannot load")
    assert len(message.splitlines()) == 1


def test_a_device_that_is_not_there_is_refused_before_any_trial(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["base"]["device"] = "cuda:77"
    assert re.match(r"base\.device: 'cuda:77' is not on this machine", refusal(settings, tmp_path / "out"))


def test_a_precision_that_the_device_does_not_compute_is_refused_before_any_trial(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leantune.training.precision.supported_precisions", lambda device: ("fp32",))
    settings["recipes"] = {"plain": {}, "mixed": {"precision": "bf16"}}
    assert refusal(settings, tmp_path / "out").startswith("recipes.mixed: precision: bf16 is not computed by this")


def test_a_precision_that_auto_makes_the_baseline_s_is_refused_before_any_trial(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leantune.training.precision.supported_precisions", lambda device: ("fp32",))
    settings["recipes"] = {"plain": {}, "mixed": {"precision": "auto"}}
    message = refusal(settings, tmp_path / "out")
    assert message.startswith("recipes.mixed: has the same effective settings as plain")


# Disturbed runs


def test_a_disturbed_run_is_set_aside_and_repeated_at_most_twice_and_the_report_says_so(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    run_quietly(settings, folder)
    monkeypatch.setattr(runner, "find_disturbed", lambda runs: [cell for cell in runs if cell.recipe.name == "short"])
    events = list(run_experiment(load(settings), folder, command="leantune compare", estimate=False, repeat=True))
    assert started(events) == [("short", 0), ("short", 0)]
    notes = [event.note for event in events if isinstance(event, Plan)]
    assert notes[0].startswith("runs before which the machine computes over 20% slower")
    assert notes[1:] == ["again, since the machine ran differently before these runs: short fold 0 seed 0"] * 2
    (place,) = folder.glob("runs/short-*")
    kept = {path.name for path in place.iterdir() if (path / "metrics.json").is_file()}
    assert kept == {"fold_0-seed_0", "fold_0-seed_0.disturbed-1", "fold_0-seed_0.disturbed-2"}
    assert any("short fold 0 seed 0 (2 x)" in note for note in rebuild_report(folder).notes)

    again = list(run_experiment(load(settings), folder, command="leantune compare", estimate=False, repeat=True))
    assert started(again) == []


# Looks that are planned


@pytest.mark.parametrize(
    ("seeds", "most", "looks"), [(3, 12, (3, 6, 12)), (1, 5, (2, 4, 5)), (2, 2, (2,)), (3, 4, (3, 4))]
)
def test_looks_double_until_the_most_seeds(seeds: int, most: int, looks: tuple[int, ...]) -> None:
    assert looks_of(seeds, most) == looks


def test_seeds_are_added_until_everything_is_settled_or_all_are_used(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["seeds"] = [5]
    folder = tmp_path / "out"
    events = list(run_experiment(load(settings), folder, command="leantune compare", estimate=False, settle=3))
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["looks"] == [2, 3]
    assert plan["seeds"] in ([5, 6], [5, 6, 7])
    assert plan["seeds"] == sorted({event.seed for event in events if isinstance(event, RunStart)})
    comparison = rebuild_report(folder)
    assert comparison.is_settled() or comparison.seeds == (5, 6, 7)
    assert any("it was planned to look at 2 and 3 seeds" in sentence for sentence in comparison.method)
    again = list(run_experiment(load(settings), folder, command="leantune compare", estimate=False, settle=3))
    assert started(again) == []
    with pytest.raises(RunFolderError, match="were planned with looks at 2, 3 seeds, and this command plans one look"):
        run_quietly(settings, folder)


def test_looks_are_planned_before_the_first_run(settings: dict[str, Any], tmp_path: Path) -> None:
    run_quietly(settings, tmp_path / "out")
    with pytest.raises(RunFolderError, match="were planned with one look, and this command plans looks at 2, 4 seeds"):
        list(run_experiment(load(settings), tmp_path / "out", command="", estimate=False, settle=4))


@pytest.mark.parametrize("settle", [0, 1, 2])
def test_settling_needs_as_many_seeds_as_the_experiment_has(
    settings: dict[str, Any], tmp_path: Path, settle: int
) -> None:
    settings["seeds"] = [0, 1, 2]
    with pytest.raises(SettingsError, match=f"--settle: found {settle}, expected the most seeds"):
        list(run_experiment(load(settings), tmp_path / "out", command="", estimate=False, settle=settle))


def test_all_folds_are_those_that_the_table_has(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"folds": "all"}
    settings["base"] |= {"folds": {"count": 3}}
    events = run_experiment(load(settings), tmp_path / "out", command="", estimate=False)
    plan = next(event for event in events if isinstance(event, Plan))
    events.close()
    assert plan.folds == (0, 1, 2)


def test_recipes_may_be_compared_on_a_validation_file(settings: dict[str, Any], tmp_path: Path) -> None:
    valid = write_table(tmp_path / "valid.csv", rows=14, seed=1)
    settings["base"]["data"]["validation"] = str(valid)
    run_quietly(settings, tmp_path / "out")
    comparison = rebuild_report(tmp_path / "out")
    assert comparison.rows == {"training": 60, "validation": 14, "total": 74}
    assert comparison.data == "train.csv (validation: valid.csv)"
    assert "data.validation" not in comparison.recipe("short").differs
    assert started(run_quietly(settings, tmp_path / "out")) == []

    with pytest.raises(SettingsError, match="fold: all trains one model a fold"):
        run_quietly(settings | {"folds": "all"}, tmp_path / "all")
    with pytest.raises(SettingsError, match="there is no fold 1; the data give one split"):
        run_quietly(settings | {"folds": [1]}, tmp_path / "one")
    with valid.open("a") as file:
        file.write("9999,one more,text,1.5\n")
    with pytest.raises(RunFolderError, match=r"made from other data than .*valid\.csv\) holds now"):
        run_quietly(settings, tmp_path / "out")


def test_a_folder_that_holds_something_else_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years")
    with pytest.raises(RunFolderError, match=r"thesis\.txt"):
        run_quietly(settings, tmp_path / "out")


def test_going_on_with_another_device_stops_at_the_first_run_that_shows_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    run_quietly(settings, tmp_path / "out")
    for file in (tmp_path / "out").glob("runs/*/*/environment.json"):
        environment = json.loads(file.read_text())
        environment["device"]["threads"] = 99
        file.write_text(json.dumps(environment))
    with pytest.raises(RunFolderError, match="threads 99"):
        run_quietly(settings | {"seeds": [0, 1]}, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("runs/*/fold_0-seed_1/metrics.json"))) == 1


def test_data_that_has_changed_since_a_run_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["recipes"] = dict(settings["recipes"])
    run_quietly(settings, tmp_path / "out")
    with (tmp_path / "train.csv").open("a") as file:
        file.write("9999,one more,text,1.5\n")
    with pytest.raises(RunFolderError, match=r"made from other data"):
        run_quietly(settings, tmp_path / "out")


def test_one_folder_is_not_shared_by_two_comparisons(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(RunFolderError, match="another `leantune compare` is running here"),
    ):
        run_quietly(settings, tmp_path / "out")


def test_a_device_is_not_shared_by_two_timed_runs(settings: dict[str, Any], tmp_path: Path) -> None:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    events = run_experiment(load(settings), tmp_path / "out", command="", estimate=False)
    assert isinstance(next(events), Plan)
    with FileLock(tmp_path / f"leantune-{user}-cpu.lock"):
        assert isinstance(next(events), Waiting)
    assert isinstance(next(events), RunStart)
    with pytest.raises(Timeout):
        FileLock(tmp_path / f"leantune-{user}-cpu.lock").acquire(timeout=0)
    events.close()


def test_leaving_stops_the_run_that_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["base"]["optimizer"]["epochs"] = 100_000
    before = psutil.Process().children(recursive=True)
    events = run_experiment(load(settings), tmp_path / "out", command="", estimate=False)
    assert any(isinstance(event, RunStart) for event in events)
    children = set(psutil.Process().children(recursive=True)) - set(before)
    assert children
    events.close()
    wait_for(lambda: not any(map(is_alive, children)), seconds=1)


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def without_times(value: Any) -> Any:
    """A report's content without what the clock and the memory say, and where it lies."""
    measured = ("seconds", "bytes", "tokens_per_second", "utilization", "time_to", "equal_time", "started", "command")
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if not any(word in key for word in measured)}
    if isinstance(value, list):  # a note tells where the machine was slower before one run than before another
        return [without_times(inner) for inner in value if not str(inner).startswith("The speed of the machine varied")]
    return value


def test_an_experiment_killed_in_its_third_run_goes_on_to_the_report_of_an_uninterrupted_one(
    server: Server, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["seeds"] = [0, 1]
    settings["base"]["optimizer"]["epochs"] = 12
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    process = server.begin("compare", "mine.yaml", "--output", "killed", folder=tmp_path)
    runs = tmp_path / "killed" / "runs"
    third = "short-*/fold_0-seed_1/events.jsonl"  # the second block runs backwards
    wait_for(lambda: not process.is_running() or any('"step"' in p.read_text() for p in runs.glob(third)))
    assert process.is_running(), (tmp_path / "said.txt").read_text()
    (worker,) = psutil.Process(process.pid).children()
    process.send(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_alive(worker))  # it does not run on, alone
    finished = {path: path.read_bytes() for path in runs.glob("*/*/metrics.json")}
    assert len(finished) == 2
    half = rebuild_report(tmp_path / "killed")
    assert any("metrics.json" in note for note in half.notes)

    assert server.begin("compare", "mine.yaml", "--output", "killed", folder=tmp_path).wait() == 0
    assert {path: path.read_bytes() for path in finished} == finished
    run_quietly(settings, tmp_path / "whole")
    rebuild_report(tmp_path / "whole")
    resumed, whole = (
        without_times(json.loads((tmp_path / name / "report.json").read_text())) for name in ("killed", "whole")
    )
    assert resumed["recipes"]["short"]["runs"]
    assert resumed | {"experiment": ""} == whole | {"experiment": ""}


def test_a_comparison_killed_before_its_plan_goes_on_in_the_same_folder(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "out" / ".trial-left" / "run").mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    (tmp_path / "out" / ".plan.json.tmp").write_text("{")
    events = run_experiment(load(settings), tmp_path / "out", command="", estimate=False)
    assert isinstance(next(events), Plan)
    events.close()
    assert not (tmp_path / "out" / ".trial-left").exists()


def test_a_kept_run_that_is_damaged_is_named_and_nothing_is_run(settings: dict[str, Any], tmp_path: Path) -> None:
    (run,) = [cell.folder for cell in load(settings).cells((0,)) if cell.recipe.name == "plain"]
    (tmp_path / "out" / run).mkdir(parents=True)
    (tmp_path / "out" / run / "metrics.json").write_text("")
    with pytest.raises(RunFolderError, match=r"plain-.*metrics\.json: found no whole JSON.*move .* away"):
        run_quietly(settings, tmp_path / "out")


def test_an_estimate_takes_readings_that_tell_of_many_steps_at_once(tmp_path: Path) -> None:
    lines = [{"event": "fold", "time": 107.0, "total_steps": 40, "training_rows": 80, "validation_rows": 20}]
    for step in range(1, 13):  # three readings of 2, 4 and 6 steps, as a GPU gives them
        seconds = 3.0 if step <= 2 else 4.0 if step <= 6 else 5.5
        lines.append({"event": "step", "time": 110.0, "step": step, "train_seconds": seconds})
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = _Events(tmp_path / "events.jsonl")
    assert events.read()
    assert events.readings == [(2, 3.0), (6, 4.0), (12, 5.5)]
    assert events.are_enough()
    effective = {"batching": {"batch_size": 8}, "evaluation": {"every": {"fraction": 0.5}}, "precision": "bf16"}
    found = _extrapolate(events, effective, started=100.0)
    assert found.startup_seconds == 7.0
    assert found.step_seconds == 0.25
    # 40 steps; 8 evaluations and one more in float32, each a quarter of the rows at a third of the cost.
    assert found.other_seconds == pytest.approx(40 * 0.25 + 9 * 10 * 0.25 / 4 / 3)


def test_a_comparison_may_be_given_as_a_dictionary(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["recipes"]["short"] = None
    with pytest.raises(SettingsError, match=r"recipes\.short\.precison|did you mean precision"):
        compare(settings, output=tmp_path / "out", assignments=("recipes.short.precison=fp32",), display=False)
    settings["recipes"]["short"] = {"tokens": {"max_length": 8}}
    comparison = compare(settings, output=tmp_path / "out", assignments=("seeds=[4]",), display=False)
    assert comparison.seeds == (4,)
    assert settings["seeds"] == [0]
    assert (tmp_path / "out" / "report.html").exists()
    assert comparison.command == f"leantune compare {tmp_path}/out/experiment.yaml --output {tmp_path}/out"


def stopped_in_its_steps(server: Server, folder: Path, number: int) -> tuple[int, str]:
    """Start `mine.yaml`, send a signal while its first run trains: exit code, what it said."""
    process = server.begin("compare", "mine.yaml", "--output", "out", folder=folder)
    steps = "out/runs/plain-*/fold_0-seed_0/events.jsonl"
    wait_for(lambda: any(path.read_text().count('"step"') > 12 for path in folder.glob(steps)))
    (worker,) = psutil.Process(process.pid).children()
    process.send(number)
    code = process.wait()
    assert not is_alive(worker)
    return code, (folder / "said.txt").read_text()


def test_a_stopped_comparison_leaves_with_128_and_the_signal_and_goes_on_in_the_middle_of_a_run(
    server: Server, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["base"]["optimizer"]["epochs"] = 16
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    code, said = stopped_in_its_steps(server, tmp_path, signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert "Traceback" not in said
    assert "To go on: leantune compare" in said
    (saved,) = (tmp_path / "out").glob("runs/plain-*/fold_0-seed_0/fold_0/checkpoint/step_*")

    assert started(run_quietly(settings, tmp_path / "out")) == [("plain", 0), ("short", 0)]
    comparison = rebuild_report(tmp_path / "out")
    assert any(note.startswith("Interrupted, and went on from a checkpoint") for note in comparison.notes)
    (environment,) = (tmp_path / "out").glob("runs/plain-*/fold_0-seed_0/environment.json")
    (place,) = json.loads(environment.read_text())["resumed"]
    assert place["step"] == int(saved.name.split("_")[1].split("-")[0]) > 5


@pytest.mark.slow
def test_a_run_that_was_left_with_other_data_begins_again(
    server: Server, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["base"]["optimizer"]["epochs"] = 16
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    code, _ = stopped_in_its_steps(server, tmp_path, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    with (tmp_path / "train.csv").open("a") as file:
        file.write("9999,one more,text,1.5\n")
    done = [event for event in run_quietly(settings, tmp_path / "out") if isinstance(event, RunDone)]
    assert [event.error for event in done] == ["", ""]
    for environment in (tmp_path / "out").glob("runs/*/*/environment.json"):
        assert json.loads(environment.read_text())["resumed"] == []
