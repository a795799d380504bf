"""Settings: what is wrong is refused, and the message names it."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from leantune.system.errors import SettingsError
from leantune.system.settings import Section, check


class Rows(Section):
    rows: int = Field(ge=1)


class Share(Section):
    share: float = Field(gt=0, le=1)


class Stage(Section):
    name: str
    path: Path = Path("a.csv")
    columns: tuple[str, ...] = ()
    kind: Literal["short", "long"] = "short"
    tail: float = 0.5
    used_only_with: ClassVar = {"tail": ("kind", frozenset({"long"}))}
    cut: Literal["auto"] | Rows | Share = "auto"
    length: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    limit: int | None = None
    loud: bool = False

    @field_validator("name")
    @classmethod
    def _lower_case(cls, name: str) -> str:
        if name != name.lower():
            raise ValueError(f"{name!r} has capitals, expected none")
        return name


class Whole(Section):
    stage: Stage
    seed: int = 0


def problem(settings: dict[str, object], section: type[Section] = Whole, name: str = "") -> str:
    with pytest.raises(SettingsError) as caught:
        check(section, settings, name)
    return str(caught.value)


def stage_problem(**settings: object) -> str:
    return problem({"stage": {"name": "x"} | settings})


def test_settings_that_are_right_become_the_section():
    assert check(Whole, {"stage": {"name": "x", "cut": {"rows": 3}}}) == Whole(stage=Stage(name="x", cut=Rows(rows=3)))


def test_a_section_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Stage(name="x").name = "y"  # type: ignore[misc]


def test_an_unknown_key_names_the_one_that_was_probably_meant():
    assert stage_problem(lenght=3) == "stage.lenght: there is no such setting; did you mean stage.length?"


def test_an_unknown_key_that_is_like_none_lists_those_that_there_are():
    assert problem({"stage": {"name": "x"}, "zzz": 1}) == "zzz: there is no such setting; known here: stage, seed"


def test_a_key_that_is_no_text_is_an_unknown_key():
    assert problem({"stage": {"name": "x", 1: 2}}).startswith("stage.1: there is no such setting; known here: name, ")


def test_a_setting_without_a_default_is_missed():
    assert problem({"stage": {}}) == "stage.name: missing; it has no default"


def test_a_section_without_defaults_is_missed_with_what_it_needs():
    assert problem({}) == "stage: missing; it needs name"


def test_every_wrong_setting_has_a_line_of_its_own():
    lines = problem({"stage": {"name": "x", "kind": "tall", "limit": 1.5}, "seed": "first"}).splitlines()
    assert lines == [
        "stage.kind: found 'tall'; expected short or long",
        "stage.limit: found 1.5; expected a whole number or null",
        "seed: found 'first'; expected a whole number",
    ]


def test_the_name_of_the_section_stands_before_its_settings():
    assert problem({"name": "x", "kind": 1}, Stage, "stage") == "stage.kind: found 1; expected short or long"


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("name", None, "found null; expected a text"),
        ("path", 3, "found 3; expected a path"),
        ("columns", 3, "found 3; expected a text or a list of these"),
        ("columns", ["a", 3], "found ['a', 3]; expected a text or a list of these"),
        ("tail", "half", "found 'half'; expected a number"),
        ("loud", "very", "found 'very'; expected true or false"),
        ("length", "long", "found 'long'; expected auto or a whole number"),
        ("cut", "all", "found 'all'; expected auto, {rows: a whole number} or {share: a number}"),
        ("cut", {"row": 3}, "found {'row': 3}; expected auto, {rows: a whole number} or {share: a number}"),
        (
            "cut",
            {"rows": 3, "share": 0.5},
            "found {'rows': 3, 'share': 0.5}; expected auto, {rows: a whole number} or {share: a number}",
        ),
        ("cut", {}, "found {}; expected auto, {rows: a whole number} or {share: a number}"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_beside_what_is_expected(setting, value, expected):
    assert stage_problem(kind="long", **{setting: value}) == f"stage.{setting}: {expected}"


def test_a_section_that_is_no_mapping_is_told_its_settings():
    assert problem({"stage": 5}) == (
        "stage: found 5; expected its settings: name, path, columns, kind, tail, cut, length, limit, loud"
    )


def test_of_a_union_only_the_section_that_was_meant_is_explained():
    assert stage_problem(cut={"rows": 0}) == "stage.cut.rows: found 0; expected greater than or equal to 1"
    assert stage_problem(cut={"share": 2}) == "stage.cut.share: found 2; expected less than or equal to 1"
    assert stage_problem(cut={"rows": "few"}) == "stage.cut.rows: found 'few'; expected a whole number"


def test_a_number_out_of_bounds_is_told_the_bounds():
    assert "stage.length: found 0; expected greater than or equal to 1" in stage_problem(length=0).splitlines()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_are_finite(value):
    assert stage_problem(kind="long", tail=value) == f"stage.tail: found {value}; expected a finite number"


def test_a_long_value_is_cut_in_the_message():
    found = stage_problem(kind="x" * 500)
    assert len(found) < 150
    assert "...; expected short or long" in found


def test_what_a_validator_says_stands_behind_the_name_of_its_setting():
    assert stage_problem(name="Name") == "stage.name: 'Name' has capitals, expected none"


def test_a_setting_that_the_others_make_meaningless_is_refused():
    assert stage_problem(tail=0.3) == (
        "stage: tail is used only where kind is long, and kind is short: remove tail, or change kind"
    )


def test_a_setting_that_the_others_make_meaningless_is_refused_at_its_default_too():
    assert "tail is used only where" in stage_problem(tail=0.5)


def test_a_setting_that_is_read_is_not_unused():
    assert Stage(name="x").unused() == {"tail"}
    assert check(Stage, {"name": "x", "kind": "long", "tail": 0.3}).unused() == set()


def test_a_default_that_nothing_reads_is_no_error():
    assert Stage(name="x", kind="short").tail == 0.5


@pytest.mark.parametrize("value", [True, False])
def test_a_yes_or_no_for_a_number_is_refused(value):
    with pytest.raises(SettingsError, match=rf"^limit: found {value}, expected".lower()):
        check(Stage, {"name": "a", "limit": value})


def test_a_yes_or_no_where_one_is_asked_for_is_taken():
    class Switch(Section):
        on: bool = False

    assert check(Switch, {"on": True}).on
