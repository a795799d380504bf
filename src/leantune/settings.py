"""What every stage's settings have in common; each stage declares its own beside the code that reads them."""

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from leantune.errors import SettingsError


class Section(BaseModel):
    """Settings of one stage: frozen, keyword-only, and strict about keys.

    A key that the section does not have is an error, and so is a key that its other settings make meaningless: nothing
    that a user sets is accepted and then ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    used_only_with: ClassVar[dict[str, tuple[str, frozenset[Any]]]] = {}
    """Setting -> (other setting, its values under which the first is read)."""

    @model_validator(mode="after")
    def _no_unused_settings(self) -> "Section":
        for name in self.used_only_with.keys() & self.unused() & self.model_fields_set:
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
    """Check the settings of one section, called `name` in messages; raises `SettingsError` that names each wrong one."""
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        problems = dict.fromkeys(_explain(detail, section, name) for detail in error.errors())  # a union repeats itself
        raise SettingsError("\n".join(problems)) from None


def _explain(detail: Any, section: type[Section], prefix: str) -> str:
    """Turn one of pydantic's findings into: setting, what was found, what was expected."""
    model: type[BaseModel] | None = section
    names = [prefix] if prefix else []
    for part in detail["loc"]:
        if model is not None and part in model.model_fields:
            names.append(str(part))
            model = _section_of(model.model_fields[str(part)].annotation)
        elif detail["type"] == "extra_forbidden" and part == detail["loc"][-1]:
            names.append(str(part))
    name = ".".join(names)
    match detail["type"]:
        case "extra_forbidden":
            known = list(model.model_fields) if model is not None else []
            near = difflib.get_close_matches(names[-1], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            return f"{name}: there is no such setting; {hint}"
        case "missing":
            return f"{name}: missing; it has no default"
        case "value_error":
            text = detail["msg"].removeprefix("Value error, ")
            return f"{name}: {text}" if name else text
        case _:
            found = repr(detail["input"])
            return f"{name}: found {found if len(found) < 80 else found[:77] + '...'}; {_lower_first(detail['msg'])}"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
