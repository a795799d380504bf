"""Whole experiments, and the Python interface to them: from a file of recipes to a report."""

import copy
import shlex
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from rich.text import Text

from leantune.comparison.comparing import Comparison
from leantune.experiments.example import demo_experiment, free_folder
from leantune.experiments.recipes import Experiment, load_experiment, parse_experiment
from leantune.experiments.runner import run_experiment
from leantune.report.overview import Overview, show_comparison
from leantune.report.pages import rebuild_report
from leantune.runs.config import assign
from leantune.system.console import Terminal
from leantune.system.device import resolve_device
from leantune.system.stopping import Stopped
from leantune.system.terminal import printable
from leantune.training.events import heard
from leantune.training.precision import make_precision


def compare(
    experiment: str | Path | Mapping[str, Any],
    *,
    output: str | Path,
    assignments: tuple[str, ...] = (),
    settle: int | None = None,
    repeat_disturbed: bool = False,
    display: bool = True,
) -> Comparison:
    """Run every recipe of an experiment on every fold and seed, and compare; the same as `leantune compare`.

    `experiment` is a YAML file or its content; `assignments` change it, such as `("base.data.limit=400",)`. Runs that
    the folder `output` has already are kept. `settle`: add seeds until every verdict is given, at most so many in all.
    `repeat_disturbed`: runs before which the machine computed 20% slower or faster than usual are run again, at most
    twice; the runs that they replace stay beside them.
    Writes report.html, report.md and report.json there. Raises `InputError`
    for what the caller must change; a run that fails is told in the comparison.
    """
    if isinstance(experiment, Mapping):
        settings = copy.deepcopy(dict(experiment))
        for text in assignments:
            assign(settings, text)
        loaded, repeat = parse_experiment(settings, title=Path(output).name), [str(Path(output) / "experiment.yaml")]
    else:
        loaded = load_experiment(Path(experiment).expanduser(), assignments)
        repeat = [str(experiment), *(f"--set={text}" for text in assignments)]
    repeat += [] if settle is None else ["--settle", str(settle)]
    repeat += ["--repeat-disturbed"] if repeat_disturbed else []
    command = shlex.join(["leantune", "compare", *repeat, "--output", str(output)])
    return _finish(
        loaded, Path(output), command=command, estimate=True, settle=settle, repeat=repeat_disturbed, display=display
    )


def demo(output: str | Path | None = None, *, display: bool = True) -> Comparison:
    """Compare four recipes on the shipped sentences; the same as `leantune demo`.

    Writes the folder `output`, by default `leantune-demo` or the next free number of it.
    """
    folder = Path(output or free_folder(Path("leantune-demo")))
    mixed_precision = make_precision("auto", resolve_device("auto")).name != "fp32"
    experiment = parse_experiment(demo_experiment(mixed_precision=mixed_precision), title="demo")
    command = shlex.join(["leantune", "demo", "--output", str(folder)])
    return _finish(experiment, folder, command=command, estimate=False, settle=None, repeat=False, display=display)


def _finish(
    experiment: Experiment,
    folder: Path,
    *,
    command: str,
    estimate: bool,
    settle: int | None,
    repeat: bool,
    display: bool,
) -> Comparison:
    events = run_experiment(experiment, folder, command=command, estimate=estimate, settle=settle, repeat=repeat)
    try:
        with closing(events):  # however this is left, the run that goes on is stopped
            for _ in Overview.over(events) if display else events:
                pass
    except (Stopped, KeyboardInterrupt):
        if display:
            with suppress(Exception):  # a terminal that has gone away needs no advice
                Terminal().print(
                    Text(printable(f"stopped; finished runs are kept. To go on: {command}")), soft_wrap=True
                )
        raise
    comparison = rebuild_report(folder)
    if display:
        for _ in heard([comparison], show_comparison, "the display"):
            pass
    return comparison
