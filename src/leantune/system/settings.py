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


OTHER_NAMES = {
    "lr": "learning_rate",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "n_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "micro_batch",
    "accumulation_steps": "micro_batch",
    "max_seq_length": "max_length",
    "max_len": "max_length",
    "max_seq_len": "max_length",
    "warmup_ratio": "warmup_fraction",
    "warmup": "warmup_fraction",
    "max_grad_norm": "gradient_clip_norm",
    "clip_grad": "gradient_clip_norm",
    "wd": "weight_decay",
    "lr_scheduler_type": "schedule",
    "scheduler": "schedule",
    "fp16": "precision",
    "bf16": "precision",
    "amp": "precision",
    "early_stopping_patience": "patience",
    "eval_steps": "every",
    "save_steps": "every",
}
"""What other tools call a setting -> its name here."""

REMEDIES = {
    "data": "name the table: `leantune train DATA --text COL --target COL`, or data.path in the settings",
    "data.path": "name the table: `leantune train DATA`, or data.path in the settings",
    "data.text": "name the column of the texts with --text, or data.text in the settings",
    "model": "name an encoder with --model: a folder, a name on the hub, or `demo`",
    "model.name": "name an encoder with --model: a folder, a name on the hub, or `demo`",
}
"""Setting without a default -> how to give it."""


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
        near = nearest_setting(names[-1], section, prefix) or difflib.get_close_matches(names[-1], known, n=1)
        return f"{name}: there is no such setting; " + (
            f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(known)}"
        )
    if detail["type"] == "missing" and not location:
        needed = f"it needs {_required(kind)}" if is_section(kind) else "it has no default"
        return f"{name}: missing; {REMEDIES.get(name, needed)}"
    for choice in get_args(kind):
        if is_section(choice) and isinstance(value, Mapping) and value and set(value) <= set(choice.model_fields):
            try:
                check(choice, value, name)
            except SettingsError as error:
                return str(error)
    return f"{name}: found {_shown(value)}; expected {_expected(detail, kind)}{_hint(value)}"


def nearest_setting(name: str, section: type[Section], prefix: str = "") -> list[str]:
    """Return the dotted names of the settings, in any section below this one, that `name` probably means.

    They have that very name, or the one that stands for it in `OTHER_NAMES`, or nearly that name.
    """
    paths: dict[str, list[str]] = {}
    for path in _paths(section, prefix):
        paths.setdefault(path.rpartition(".")[2], []).append(path)
    wanted = OTHER_NAMES.get(name.lower(), name)
    if wanted in paths:
        return paths[wanted]
    near = difflib.get_close_matches(wanted, paths, n=1)
    return paths[near[0]] if near else []


def _paths(section: type[Section], prefix: str) -> Iterator[str]:
    """Yield the dotted names of all settings of a section."""
    for name, field in section.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        yield path
        if is_section(field.annotation):
            yield from _paths(field.annotation, path)


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


def _hint(value: Any) -> str:
    """Say what is wrong with YAML such as `{steps:3}`, which is one word and no mapping."""
    glued = [key for key in value if isinstance(key, str) and ":" in key] if isinstance(value, Mapping) else []
    if not glued:
        return ""
    name, _, given = glued[0].partition(":")
    return f"; YAML needs a blank behind the colon: {{{name}: {given}}}"


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
