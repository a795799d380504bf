"""Whole experiments, and the Python interface to them: from a file of recipes to a report."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leantune.comparison import Comparison, compare_runs
from leantune.device import resolve_device
from leantune.events import ComparisonEvent
from leantune.example import demo_experiment, free_folder
from leantune.precision import make_precision
from leantune.recipes import Experiment, load_experiment, parse_experiment
from leantune.report import Overview, show_comparison, write_report
from leantune.runner import run_experiment


def compare(
    experiment: str | Path | Mapping[str, Any],
    *,
    output: str | Path,
    assignments: tuple[str, ...] = (),
    display: bool = True,
) -> Comparison:
    """Run every recipe of an experiment on every fold and seed, and compare; the same as `leantune compare`.

    `experiment` is a YAML file or its content; `assignments` change it, such as `("base.data.limit=400",)`. Runs that
    the folder `output` has already are kept. Writes report.html, report.md and report.json there. Raises `InputError`
    for what the caller must change; a run that fails is told in the comparison.
    """
    if isinstance(experiment, Mapping):
        loaded = parse_experiment(experiment, title=Path(output).name)
        source = str(Path(output) / "experiment.yaml")
    else:
        loaded, source = load_experiment(Path(experiment), assignments), str(experiment)
    command = shlex.join(
        ["leantune", "compare", source, "--output", str(output), *(f"--set={text}" for text in assignments)]
    )
    return _finish(loaded, Path(output), command=command, estimate=True, display=display)


def demo(output: str | Path | None = None, *, display: bool = True) -> Comparison:
    """Compare four recipes on the shipped sentences; the same as `leantune demo`.

    Writes the folder `output`, by default `leantune-demo` or the next free number of it.
    """
    folder = Path(output or free_folder(Path("leantune-demo")))
    mixed_precision = make_precision("auto", resolve_device("auto")).name != "fp32"
    experiment = parse_experiment(demo_experiment(mixed_precision=mixed_precision), title="demo")
    command = shlex.join(["leantune", "demo", "--output", str(folder)])
    return _finish(experiment, folder, command=command, estimate=False, display=display)


def report(folder: str | Path, *, display: bool = True) -> Comparison:
    """Compare the runs that a folder has, and write its report anew; the same as `leantune report`."""
    comparison = compare_runs(Path(folder).expanduser())
    write_report(comparison, Path(folder).expanduser())
    if display:
        show_comparison(comparison)
    return comparison


def _finish(experiment: Experiment, folder: Path, *, command: str, estimate: bool, display: bool) -> Comparison:
    events: Iterator[ComparisonEvent] = run_experiment(experiment, folder, command=command, estimate=estimate)
    for _ in Overview.over(events) if display else events:
        pass
    return report(folder, display=display)
