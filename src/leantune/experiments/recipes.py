"""An experiment file becomes recipes whose settings are whole and checked: only what may differ does.

base + from + own settings  ->  Recipe.config  ->  cells (recipe x fold x seed), interleaved over recipes
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, field_validator

from leantune.comparison.tolerance import check_tolerance
from leantune.runs.config import Config, assign, dump_config, parse_config, read_yaml
from leantune.system.errors import SettingsError
from leantune.system.settings import Section, check, flatten, is_section

SAME_FOR_ALL = {
    "data.path": "rows, set under base",
    "data.validation": "rows, set under base",
    "data.target": "targets, set under base",
    "data.task": "task, set under base",
    "data.id": "rows, set under base",
    "data.group": "folds, set under base",
    "data.fold": "folds, set under base",
    "data.encoding": "rows, set under base",
    "data.delimiter": "rows, set under base",
    "data.limit": "rows, set under base",
    "folds": "folds, made by base.folds and chosen by the experiment's list of folds",
    "fold": "folds, chosen by the experiment's list of folds",
    "seed": "seeds, the experiment's list of them",
    "evaluation.metric": "metric, set under base",
    "device": "device, set under base",
}
"""Setting (or section) -> what a comparison must hold fixed, and where it is set: no recipe may change it (law 6)."""

LONGEST_NAME = 80


Numbers = Annotated[tuple[int, ...], BeforeValidator(lambda given: (given,) if type(given) is int else given)]


class ExperimentSettings(Section):
    """An experiment file: what all recipes share, and what each of them changes."""

    base: dict[str, Any]
    """Settings of a run that all recipes share; everything but `seed` and `fold`."""
    baseline: str
    """The recipe that the others are held against."""
    recipes: dict[str, dict[str, Any]]
    """Name -> the settings that differ from `base`, or from the recipe that `from` names."""
    seeds: Numbers = (0, 1, 2)
    """Each recipe is run once a seed (and fold); differences are taken within a seed."""
    folds: Literal["all"] | Numbers = (0,)
    """The folds that validate, one run each, or `all`."""
    tolerance: Annotated[str | float | None, BeforeValidator(check_tolerance)] = "auto"
    """Differences of the metric up to here do not matter: a recipe is as good. A number in the metric's unit, a share
    such as `2%` of what the baseline gains over the constant answer, `auto` (2%), or null for none."""

    @field_validator("recipes", mode="before")
    @classmethod
    def _names_are_texts(cls, recipes: Any) -> Any:
        """In YAML a recipe that changes nothing is null, and one called 16 a number."""
        if not isinstance(recipes, Mapping):
            return recipes
        return {str(name): {} if own is None else own for name, own in recipes.items()}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train."""

    name: str
    config: Config
    """Its settings, whole; the cell says which fold and seed."""
    folder: str
    """Name of the folder of its runs: its name and a hash of its settings, so that no other settings share it."""

    def settings(self) -> dict[str, Any]:
        """Return its settings as plain values, without fold and seed."""
        return without_cell(dump_config(self.config))


@dataclass(frozen=True, kw_only=True)
class RunCell:
    """One run of an experiment."""

    recipe: Recipe
    fold: int
    seed: int

    @property
    def folder(self) -> Path:
        """Its run folder, below the experiment's."""
        return Path("runs") / self.recipe.folder / f"fold_{self.fold}-seed_{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Recipes to be compared."""

    title: str
    settings: dict[str, Any]
    """As the file has it, for `experiment.yaml`."""
    baseline: str
    recipes: tuple[Recipe, ...]
    """In the file's order."""
    seeds: tuple[int, ...]
    folds: Literal["all"] | tuple[int, ...]
    tolerance: str | float | None
    """As in the file."""

    def cells(self, folds: tuple[int, ...]) -> list[RunCell]:
        """Return every run, interleaved: all recipes of a seed and fold follow each other, in turning order."""
        blocks = [(seed, fold) for seed in self.seeds for fold in folds]
        return [
            RunCell(recipe=self.recipes[place], fold=fold, seed=seed)
            for number, (seed, fold) in enumerate(blocks)
            for place in order_of(len(self.recipes), number)
        ]

    def with_seeds(self, count: int) -> Self:
        """Return the same experiment with so many seeds: the first ones of its own, then the numbers that follow."""
        first = max(self.seeds) + 1
        seeds = (*self.seeds, *range(first, first + count))[:count]
        return replace(self, seeds=seeds, settings=self.settings | {"seeds": list(seeds)})

    def recipe(self, name: str) -> Recipe:
        """Return the recipe called `name`; KeyError if there is none."""
        return {recipe.name: recipe for recipe in self.recipes}[name]


def order_of(recipes: int, block: int) -> tuple[int, ...]:
    """Return the order of the recipes' runs in the block of that number (a seed and fold), so that none is favoured.

    Every second block goes backwards, so that a machine that gets slower slows all alike (A B C D D C B A). Pairs of
    blocks begin two recipes further on, so that each recipe is first, where caches are cold, as often as another.
    """
    first = 2 * (block // 2) % recipes
    order = tuple((first + place) % recipes for place in range(recipes))
    return order[::-1] if block % 2 else order


def load_experiment(path: Path, assignments: tuple[str, ...] = ()) -> Experiment:
    """Read an experiment file, changed by assignments such as `base.data.path=train.csv`.

    Raises `SettingsError` that names the file and each wrong setting.
    """
    settings = read_yaml(path)
    for assignment in assignments:
        assign(settings, assignment)
    try:
        return parse_experiment(settings, title=path.stem)
    except SettingsError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def parse_experiment(settings: Mapping[str, Any], *, title: str) -> Experiment:
    """Check an experiment's settings and give each recipe its whole configuration.

    Raises `SettingsError` for an unknown key, a recipe that changes what a comparison holds fixed, one that builds on
    itself or on none that is there, and two recipes with equal settings.
    """
    checked = check(ExperimentSettings, settings)
    _refuse_names(checked)
    _refuse_numbers("seeds", checked.seeds)
    if checked.folds != "all":
        _refuse_numbers("folds", checked.folds)
    for setting, instead in (("seed", "seeds"), ("fold", "folds")):
        if setting in checked.base:
            raise SettingsError(f"base.{setting}: an experiment has a list of {instead}: give {instead}, and remove it")

    recipes, problems = [], dict[str, None]()
    for name in checked.recipes:
        chain = _chain(name, checked.recipes)
        merged: dict[str, Any] = dict(checked.base)
        for _, own in reversed(chain):
            merged = _merge(Config, merged, own)
        for problem in _refused(name, checked.recipes[name]):
            problems[problem] = None
        try:
            config = parse_config(merged)
        except SettingsError as error:
            problems |= {f"{_owner(line, chain)}.{line}": None for line in str(error).splitlines()}
        else:
            recipes.append(Recipe(name=name, config=config, folder=_folder(name, config)))
    if problems:
        raise SettingsError("\n".join(problems))
    refuse_equal({recipe.name: recipe.settings() for recipe in recipes})
    return Experiment(
        title=title,
        settings=checked.model_dump(mode="json"),
        baseline=checked.baseline,
        recipes=tuple(recipes),
        seeds=checked.seeds,
        folds=checked.folds,
        tolerance=checked.tolerance,
    )


def refuse_equal(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `SettingsError` where two recipes (name -> settings) are one: their difference would be noise."""
    seen: dict[str, str] = {}
    for name, own in settings.items():
        key = json.dumps(own, sort_keys=True, default=str)
        if key in seen:
            raise SettingsError(
                f"recipes.{name}: has the same effective settings as {seen[key]}: nothing would be compared; change or "
                "remove one"
            )
        seen[key] = name


def without_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings without the two that say which cell it is: fold and seed."""
    return {name: value for name, value in settings.items() if name not in ("fold", "seed")}


def difference(settings: Mapping[str, Any], than: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted names and values of the settings that are not the same in `than`; None for one that is gone."""
    one, other = flatten(settings), flatten(than)
    return {name: one.get(name) for name in [*one, *other] if one.get(name) != other.get(name)}


def _refuse_names(checked: ExperimentSettings) -> None:
    if len(checked.recipes) < 2:
        raise SettingsError(f"recipes: found {len(checked.recipes)}, expected two or more: there is nothing to compare")
    for name in checked.recipes:
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise SettingsError(
                f"recipes: found the name {name!r}, expected 1 to {LONGEST_NAME} printable characters: rename it"
            )
    if checked.baseline not in checked.recipes:
        raise SettingsError(f"baseline: {_no_such(checked.baseline, checked.recipes)}")


def _no_such(name: str, recipes: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, recipes, n=1)
    return f"there is no recipe {name!r}; " + (
        f"did you mean {near[0]}?" if near else f"there are {', '.join(recipes)}"
    )


def _refuse_numbers(name: str, values: tuple[int, ...]) -> None:
    if not values:
        raise SettingsError(f"{name}: found none, expected at least one")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise SettingsError(f"{name}: {twice} stands twice; a run that is counted twice would make intervals too short")
    wrong = next((value for value in values if not 0 <= value < 2**32), None)
    if wrong is not None:
        raise SettingsError(f"{name}: found {wrong}, expected whole numbers from 0 to {2**32 - 1}")


def _chain(name: str, recipes: Mapping[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return a recipe's own settings, then those of the recipe that it builds on, and so on."""
    chain: list[tuple[str, dict[str, Any]]] = []
    at: Any = name
    while at is not None:
        if at in [seen for seen, _ in chain]:
            raise SettingsError(
                f"recipes.{name}.from: goes round in a circle: {' -> '.join([seen for seen, _ in chain] + [at])}"
            )
        own = dict(recipes[at])
        before = own.pop("from", None)
        chain.append((at, own))
        if before is not None and not isinstance(before, str):
            raise SettingsError(f"recipes.{at}.from: found {before!r}, expected the name of one recipe")
        if before is not None and before not in recipes:
            raise SettingsError(f"recipes.{at}.from: {_no_such(before, recipes)}")
        at = before
    return chain


def _merge(section: type[Section], base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`, section by section; a value such as `{rows: 8}` replaces the one before it."""
    merged = dict(base)
    for key, value in changes.items():
        inner = section.model_fields[key].annotation if key in section.model_fields else None
        before = merged.get(key)
        if is_section(inner) and isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = _merge(inner, before, value)
        else:
            merged[key] = value
    return merged


def _refused(name: str, own: Mapping[str, Any]) -> Iterator[str]:
    for setting in flatten(own):
        fixed = next((f for f in SAME_FOR_ALL if setting == f or setting.startswith(f"{f}.")), None)
        if fixed is not None:
            yield f"recipes.{name}.{setting}: a recipe cannot change it: all share the same {SAME_FOR_ALL[fixed]}"


def _owner(line: str, chain: list[tuple[str, dict[str, Any]]]) -> str:
    """Tell who set what a message is about: the nearest recipe of the chain that has the setting, else the base."""
    path = line.partition(":")[0].split(".")
    for name, own in chain:
        place: Any = own
        for depth, part in enumerate(path):
            if not isinstance(place, Mapping) or part not in place:
                break
            place = place[part]
            if depth == len(path) - 1 or not isinstance(place, Mapping):
                return f"recipes.{name}"
    return "base"


def _folder(name: str, config: Config) -> str:
    text = json.dumps([name, without_cell(dump_config(config))], sort_keys=True, default=str)
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:40] or "recipe"
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
