"""What every stage's settings have in common; each stage declares its own beside the code that reads them."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator

from leantune.system.errors import SettingsError

BOUNDS = ("greater_", "less_", "finite_")
"""What pydantic's findings about a number that is too large or too small begin with."""


class Section(BaseModel):
    """Settings of one stage: frozen, keyword-only, and strict about keys.

    A key that the section does not have is an error, and so is a key that its other settings make meaningless: nothing
    that a user sets is accepted and then ignored. Numbers are finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    used_only_with: ClassVar[dict[str, tuple[str, frozenset[Any]]]] = {}
    """Setting -> (other setting, its values under which the first is read)."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # To pydantic `true` is the number 1, so that YAML's `fold: yes` would train fold 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            word = str(value).lower()
            raise ValueError(f"found {word}, expected another value (in YAML yes, no, on and off are true and false)")
        return value

    @model_validator(mode="after")
    def _no_unused_settings(self) -> "Section":
        for name in sorted(self.used_only_with.keys() & self.unused() & self.model_fields_set):
            other, values = self.used_only_with[name]
            expected = " or ".join(sorted(map(str, values)))
            raise ValueError(
                f"{name} is used only where {other} is {expected}, and {other} is {getattr(self, other)}: "
                f"remove {name}, or change {other}"
            )
        return self

    def unused(self) -> set[str]:
        """Names of the settings that nothing reads, given the others."""
        return {name for name, (other, values) in self.used_only_with.items() if getattr(self, other) not in values}


SectionType = TypeVar("SectionType", bound=Section)


def check(section: type[SectionType], settings: Mapping[str, Any], name: str = "") -> SectionType:
    """Check the settings of a section, called `name` in messages; raises `SettingsError` that names each wrong one."""
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        details = error.errors()
        # Of a choice such as `auto or a number`, the bound that was broken says more than the list of choices.
        out_of_bounds = {detail["loc"][:-1] for detail in details if detail["type"].startswith(BOUNDS)}
        details = [
            detail
            for detail in details
            if detail["type"].startswith(BOUNDS) or detail["loc"][:-1] not in out_of_bounds or len(detail["loc"]) < 3
        ]
        lines = [_explain(detail, section, settings, name) for detail in details]
        raise SettingsError("\n".join(dict.fromkeys(lines))) from None  # a union finds the same once for each choice


def _explain(detail: Any, section: type[Section], settings: Mapping[str, Any], prefix: str) -> str:
    """Turn one of pydantic's findings into: setting, what was found, what was expected."""
    names = [prefix] if prefix else []
    kind: Any = section
    value: Any = settings
    location = list(detail["loc"])
    while location and is_section(kind):  # what is left after that says which type of a union was tried, or which item
        part = location.pop(0)
        names.append(str(part))
        known = kind.model_fields
        kind = known[part].annotation if part in known else None
        value = value.get(part) if isinstance(value, Mapping) else None
    name = ".".join(names)
    if detail["type"] == "value_error":
        return ": ".join(filter(None, (name, detail["msg"].removeprefix("Value error, "))))
    if kind is None:
        near = difflib.get_close_matches(names[-1], known, n=1)
        return f"{name}: there is no such setting; " + (
            f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        )
    if detail["type"] == "missing" and not location:
        return f"{name}: missing; " + (f"it needs {_required(kind)}" if is_section(kind) else "it has no default")
    for choice in get_args(kind):
        if is_section(choice) and isinstance(value, Mapping) and value and set(value) <= set(choice.model_fields):
            try:
                check(choice, value, name)
            except SettingsError as error:
                return str(error)
    return f"{name}: found {_shown(value)}; expected {_expected(detail, kind)}"


def _expected(detail: Any, kind: Any) -> str:
    """Say what pydantic's finding asks for: a value within bounds, or else any that a type has."""
    message: str = detail["msg"]
    if detail["type"].startswith(BOUNDS):
        return message.removeprefix("Input should be ")
    if is_section(kind):
        return f"its settings: {', '.join(kind.model_fields)}"
    *others, last = _values(kind)
    return f"{', '.join(others)} or {last}" if others else last


def _values(kind: Any) -> Iterator[str]:
    """Describe the values of a type: one text for each choice."""
    if is_section(kind):
        fields = {name: " or ".join(_values(field.annotation)) for name, field in kind.model_fields.items()}
        yield f"{{{', '.join(f'{name}: {values}' for name, values in fields.items())}}}"
    elif get_origin(kind) is Annotated:  # a type with bounds
        yield from _values(get_args(kind)[0])
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) is dict:
        yield "a mapping of names to values"
    elif get_origin(kind) is tuple:
        (item,) = _values(get_args(kind)[0])
        yield from (item, "a list of these")
    elif kind in _NAMES:
        yield _NAMES[kind]
    else:
        for choice in get_args(kind):
            yield from _values(choice)


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "null",
}


def _required(section: type[Section]) -> str:
    return ", ".join(name for name, field in section.model_fields.items() if field.is_required())


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    """Tell whether an annotation is one section, not a choice of several."""
    return isinstance(kind, type) and issubclass(kind, Section)


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
