"""The folder of an experiment, read back: which run belongs to which recipe, fold and seed, and what became of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leantune.comparison.results import RunResult, entry, read_run
from leantune.comparison.tolerance import check_tolerance
from leantune.system.errors import RunFolderError
from leantune.system.files import read_json


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan.json` says."""

    title: str
    command: str
    data: str
    model: str
    baseline: str
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    recipes: dict[str, str]
    """Recipe -> folder of its runs; the baseline first."""
    tolerance: str | float | None
    """As the experiment has it; `auto` in plans of older versions."""
    looks: tuple[int, ...]
    """Numbers of seeds at which it was planned, before any run, to look whether everything is settled; empty where
    there is one look."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One run of the experiment: done, failed, or not (yet) finished."""

    recipe: str
    fold: int
    seed: int
    folder: str
    """Relative to DIR, with forward slashes."""
    state: Literal["done", "failed", "unfinished"]
    error: str
    """The failed run's own message; "" otherwise."""
    result: RunResult | None
    """Only of a run that is done."""


def read_plan(folder: Path) -> Plan:
    """Read `plan.json`; raises `RunFolderError` where `folder` holds no experiment, or the file lacks something."""
    file = folder / "plan.json"
    if not file.is_file():
        expected = "expected a folder that `leantune compare` wrote"
        if (folder / "metrics.json").is_file():
            raise RunFolderError(f"{folder}: is the folder of one run (metrics.json, no plan.json): {expected}")
        raise RunFolderError(f"{folder}: holds no experiment (no plan.json): {expected}")
    try:
        content = read_json(file)
        version = entry(file, content, int, "format")
        if version == 1:
            return _parse_plan(file, content)
    except RunFolderError as error:
        raise RunFolderError(f"{error}; run the same `leantune compare` again, which writes the file anew") from None
    raise RunFolderError(f"{file}: format: found {version}, expected 1; read it with the leantune that wrote it")


def _parse_plan(file: Path, content: dict[str, Any]) -> Plan:
    names: dict[str, Any] = entry(file, content, dict, "recipes")
    folders = {name: entry(file, content, str, "recipes", name, "folder") for name in names}
    for name, place in folders.items():
        if not re.fullmatch(r"runs/[^./\\:\0][^/\\:\0]{,99}", place):  # no way out of the experiment's folder
            raise RunFolderError(
                f"{file}: recipes.{name}.folder: found {place!r:.80}, expected runs/ and one name below"
            )
    baseline = entry(file, content, str, "baseline")
    if baseline not in folders:
        raise RunFolderError(f"{file}: baseline: found {baseline!r}, expected one of the recipes: {', '.join(folders)}")
    return Plan(
        title=entry(file, content, str, "title"),
        command=entry(file, content, str, "command"),
        data=entry(file, content, str, "data"),
        model=entry(file, content, str, "model"),
        baseline=baseline,
        folds=_numbers(file, content, "folds"),
        seeds=_numbers(file, content, "seeds"),
        recipes={baseline: folders[baseline]} | folders,
        tolerance=_tolerance(file, content),
        looks=_looks(file, content),
    )


def _tolerance(file: Path, content: dict[str, Any]) -> str | float | None:
    try:
        return check_tolerance(content.get("tolerance", "auto"))
    except ValueError as error:
        raise RunFolderError(f"{file}: tolerance: {error}") from None


def _looks(file: Path, content: dict[str, Any]) -> tuple[int, ...]:
    looks = _numbers(file, content, "looks") if content.get("looks") else ()
    if list(looks) != sorted(looks) or 0 in looks:
        raise RunFolderError(f"{file}: looks: found {list(looks)}, expected rising numbers of seeds")
    return looks


def _numbers(file: Path, content: dict[str, Any], name: str) -> tuple[int, ...]:
    found: list[Any] = entry(file, content, list, name)
    if (
        not found
        or len(set(map(repr, found))) < len(found)
        or not all(type(number) is int and 0 <= number < 2**32 for number in found)
    ):
        raise RunFolderError(f"{file}: {name}: found {found!r:.60}, expected different whole numbers, at least one")
    return tuple(found)


def read_cells(folder: Path, plan: Plan, recipe: str) -> Iterator[Cell]:
    """Yield the recipe's cells, fold by fold, and in a fold seed by seed; raises as `read_cell` does."""
    for fold in plan.folds:
        for seed in plan.seeds:
            place = f"{plan.recipes[recipe]}/fold_{fold}-seed_{seed}"
            yield read_cell(folder, place, recipe=recipe, fold=fold, seed=seed)


def read_cell(folder: Path, place: str, *, recipe: str, fold: int, seed: int) -> Cell:
    """Tell what became of the run whose folder is `place`, below `folder`.

    Raises `RunFolderError` where a finished run is damaged or does not belong where it is.
    """
    run, failure = folder / place, folder / f"{place}.failed.json"
    source = run if (run / "metrics.json").is_file() else failure
    state: Literal["done", "failed", "unfinished"] = "unfinished"
    result, message = None, ""
    try:
        if source is run:
            state, result = "done", _read_result(run, fold, seed)
        elif failure.is_file():
            state, message = "failed", entry(failure, read_json(failure), str, "message")
    except RunFolderError as error:
        raise RunFolderError(f"{error}; move {source} away and run the same `leantune compare` again") from None
    return Cell(recipe=recipe, fold=fold, seed=seed, folder=place, state=state, error=message, result=result)


def _read_result(folder: Path, fold: int, seed: int) -> RunResult:
    result = read_run(folder, fold)
    found = result.config.get("fold"), result.config.get("seed")
    if found != (fold, seed):
        raise RunFolderError(
            f"{folder / 'config.yaml'}: found fold {found[0]} and seed {found[1]}, expected fold {fold} and seed "
            f"{seed} in a folder of this name"
        )
    return result
