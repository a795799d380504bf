"""Experiment files: what recipes may change, how they build on one another, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from leantune.experiments.recipes import (
    Experiment,
    difference,
    load_experiment,
    order_of,
    parse_experiment,
    refuse_equal,
)
from leantune.system.errors import SettingsError

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "base": {
        "data": {"path": "train.csv", "text": "text", "target": "score"},
        "model": {"name": "demo"},
        "batching": {"batch_size": 8, "micro_batch": {"rows": 4}},
    },
    "baseline": "plain",
    "recipes": {
        "plain": {"precision": "fp32", "batching": {"layout": "fixed"}},
        "mixed": {"from": "plain", "precision": "bf16"},
        "all": {"from": "mixed", "batching": {"layout": "dynamic", "micro_batch": {"tokens": 64}}},
    },
    "seeds": [0, 1],
    "folds": [0, 2],
}


def experiment(**changes: Any) -> Experiment:
    """The experiment above, its dotted settings (with __ for dots) changed; None removes one."""
    settings = copy.deepcopy(SETTINGS)
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return parse_experiment(settings, title="test")


def refused(**changes: Any) -> str:
    with pytest.raises(SettingsError) as error:
        experiment(**changes)
    return str(error.value)


def test_a_recipe_has_the_base_and_what_it_builds_on() -> None:
    config = experiment().recipe("all").config
    assert config.precision == "bf16"
    assert config.batching.batch_size == 8
    assert config.batching.layout == "dynamic"
    assert config.batching.micro_batch.model_dump() == {"tokens": 64}  # replaced as a whole, not mixed with rows: 4


def test_runs_are_interleaved_over_recipes() -> None:
    cells = [(cell.seed, cell.fold, cell.recipe.name) for cell in experiment().cells((0, 2))]
    forwards = ["plain", "mixed", "all"]
    assert [name for *_, name in cells] == [
        *forwards,
        *forwards[::-1],
        "all",
        "plain",
        "mixed",
        "mixed",
        "plain",
        "all",
    ]
    assert [cell[:2] for cell in cells[::3]] == [(0, 0), (0, 2), (1, 0), (1, 2)]
    assert len({cell.folder for cell in experiment().cells((0, 2))}) == 12


@pytest.mark.parametrize("recipes", [2, 3, 4, 7])
def test_no_recipe_runs_earlier_or_first_more_often_than_another(recipes: int) -> None:
    orders = [order_of(recipes, block) for block in range(2 * recipes)]
    assert all(sorted(order) == list(range(recipes)) for order in orders)
    for pair in range(0, 2 * recipes, 2):
        places = [[order.index(recipe) for order in orders[pair : pair + 2]] for recipe in range(recipes)]
        assert {sum(both) for both in places} == {recipes - 1}
    assert {[order[0] for order in orders].count(recipe) for recipe in range(recipes)} == {2}


@pytest.mark.parametrize(
    ("given", "kept"), [("auto", "auto"), (0.01, 0.01), (1, 1.0), ("2%", "2%"), ("0.5 %", "0.5 %")]
)
def test_a_tolerance_is_a_number_a_share_or_none(given: object, kept: object) -> None:
    assert experiment(tolerance=given).tolerance == kept
    assert experiment().tolerance == "auto"
    assert parse_experiment(SETTINGS | {"tolerance": None}, title="none").tolerance is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipes__mixed__precison": "fp16"}, ["recipes.mixed.precison", "did you mean precision?"]),
        ({"recipes__all__batching__layuot": "fixed"}, ["recipes.all.batching.layuot", "did you mean batching.layout?"]),
        ({"base__optimiser": {"epochs": 1}}, ["base.optimiser", "did you mean optimizer?"]),
        ({"recipies": {}}, ["recipies", "did you mean recipes?"]),
        ({"recipes__mixed__precision": "fp17"}, ["recipes.mixed.precision", "fp17"]),
        ({"base__batching__batch_size": 0}, ["base.batching.batch_size", "found 0"]),
        ({"base__data__target": None}, ["base.data.target"]),
        ({"recipes__mixed__from": "plian"}, ["recipes.mixed.from", "did you mean plain?"]),
        ({"baseline": "plane"}, ["baseline", "did you mean plain?"]),
        ({"recipes__plain__from": "all"}, ["recipes.plain.from", "circle", "plain -> all -> mixed -> plain"]),
        ({"recipes__mixed__from": "mixed"}, ["circle"]),
        ({"seeds": [0, 0]}, ["seeds", "0 stands twice"]),
        ({"folds": [1, -1]}, ["folds", "found -1"]),
        ({"tolerance": "little"}, ["tolerance", "found", "little", "a share such as 2%"]),
        ({"tolerance": 0}, ["tolerance", "a number above 0"]),
        ({"seeds": []}, ["seeds", "expected at least one"]),
        ({"seeds": [0, 2**32]}, ["seeds", str(2**32)]),
        ({"seeds": "many"}, ["seeds", "'many'"]),
        ({"folds": True}, ["folds", "found true"]),
        ({"base": None}, ["base", "missing"]),
        ({"base": 7}, ["base", "found 7", "a mapping"]),
        ({"recipes__mixed__from": ["plain", "all"]}, ["recipes.mixed.from", "the name of one recipe"]),
        ({"recipes": ["plain", "mixed"]}, ["recipes", "a mapping"]),
        ({"base__seed": 3}, ["base.seed", "seeds"]),
        ({"base__fold": 0}, ["base.fold", "folds"]),
        ({"recipes": {"plain": {}}}, ["recipes", "found 1", "two or more"]),
        ({"recipes__a\nb": {}}, ["recipes", "a\\nb"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_recipe_and_the_nearest_right_one(
    changes: dict[str, Any], words: list[str]
) -> None:
    message = refused(**changes)
    for word in words:
        assert word in message


def test_a_recipe_without_settings_a_name_that_is_a_number_and_a_single_seed_are_right() -> None:
    settings = SETTINGS | {
        "baseline": "16",
        "recipes": yaml.safe_load("16:\n32: {batching: {batch_size: 32}}"),
        "seeds": 3,
        "folds": 1,
    }
    made = parse_experiment(settings, title="test")
    assert [recipe.name for recipe in made.recipes] == ["16", "32"]
    assert (made.seeds, made.folds) == ((3,), (1,))


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [
        ("data__path", "other.csv", "rows"),
        ("data__limit", 10, "rows"),
        ("data__validation", "valid.csv", "rows"),
        ("data__target", "other", "targets"),
        ("folds__count", 3, "folds"),
        ("folds__seed", 3, "folds"),
        ("fold", 1, "folds"),
        ("seed", 1, "seeds"),
        ("evaluation__metric", "mae", "metric"),
        ("device", "cpu", "device"),
    ],
)
def test_a_recipe_that_changes_what_is_compared_on_is_refused(setting: str, value: Any, word: str) -> None:
    message = refused(**{f"recipes__mixed__{setting}": value})
    assert f"recipes.mixed.{setting.replace('__', '.')}" in message
    assert word in message


def test_every_wrong_setting_is_told_at_once() -> None:
    message = refused(recipes__mixed__precison=1, recipes__all__seed=1, base__modle=1)
    assert message.count("\n") == 2


def test_two_recipes_with_equal_settings_are_refused_whatever_their_spelling() -> None:
    message = refused(recipes__again={"from": "plain", "batching": {"batch_size": 8}})
    assert "recipes.again" in message
    assert "plain" in message


def test_recipes_that_only_auto_makes_equal_are_refused_by_their_effective_settings() -> None:
    with pytest.raises(SettingsError, match=r"recipes\.b: has the same effective settings as a"):
        refuse_equal({"a": {"precision": "fp32"}, "b": {"precision": "fp32"}})


def test_a_recipes_folder_changes_with_its_settings_and_with_nothing_else() -> None:
    before = {recipe.name: recipe.folder for recipe in experiment().recipes}
    after = {recipe.name: recipe.folder for recipe in experiment(recipes__mixed__precision="fp16").recipes}
    assert before["plain"] == after["plain"]
    assert before["mixed"] != after["mixed"]
    assert before["all"] != after["all"]  # it builds on mixed
    assert before == {recipe.name: recipe.folder for recipe in experiment(seeds=[5], folds=[1]).recipes}


@pytest.mark.parametrize(
    "name", ["../../up", "a/b", "..", "<script>alert(1)</script>", "\u65e5\u672c\u8a9e", "CON", "x" * 80]
)
def test_a_recipes_name_never_leaves_the_folder_of_runs(name: str) -> None:
    made = experiment(recipes__mixed=None, recipes__all=None, **{f"recipes__{name}": {"precision": "bf16"}})
    folder = made.recipe(name).folder
    assert Path(folder).name == folder
    assert folder not in (".", "..")
    assert len(folder) < 60


def test_a_difference_names_what_is_not_the_same() -> None:
    one = {"a": {"b": 1, "c": 2}, "d": 3}
    assert difference(one, {"a": {"b": 1, "c": 5}, "e": 4}) == {"a.c": 2, "d": 3, "e": None}
    assert difference(one, one) == {}


def test_assignments_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    made = load_experiment(path, ("base.data.limit=30", "seeds=[7]"))
    assert made.title == "mine"
    assert made.seeds == (7,)
    assert all(recipe.config.data.limit == 30 for recipe in made.recipes)
    assert made.settings["base"]["data"]["limit"] == 30


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | {"baseline": "nobody"}))
    with pytest.raises(SettingsError, match=r"mine\.yaml: baseline"):
        load_experiment(path)


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_of_the_project_are_right(path: Path) -> None:
    assert len(load_experiment(path).recipes) >= 2
