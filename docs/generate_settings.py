"""Write docs/settings.md from the docstrings of the settings, so that the two never differ (a test compares them).

python docs/generate_settings.py
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from leantune.runs.config import Config
from leantune.system.settings import Section

HEAD = """# Settings

Every setting of a run, as it stands in a YAML file (`leantune train --config FILE.yaml`) or after `--set`
(`--set optimizer.epochs=1`, `--set batching.micro_batch='{rows: 8}'`). A key that does not exist, or that the other
settings make meaningless, is an error. leantune replaces each `auto` by a value before it trains; the run folder's
`config.yaml` has these values. [Glossary](glossary.md) of the words.

Most runs need few of them. These are the first to try: `optimizer.epochs`, `optimizer.learning_rate`,
`tokens.max_length`, `evaluation.metric` and `fold`.

Written by `python docs/generate_settings.py` from the docstrings in `src/leantune`; change it there.
"""


def describe_type(annotation: Any) -> str:
    """`str | None` and the like, as a YAML writer would put it."""
    if get_origin(annotation) is Annotated:  # a type with bounds
        return describe_type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " \\| ".join(str(value) for value in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "{" + ", ".join(f"{name}: n" for name in annotation.model_fields) + "}"
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is tuple:
        return "column or list of columns"
    if args := get_args(annotation):
        return " \\| ".join(map(describe_type, args))
    name: str = annotation.__name__
    words = {
        "int": "whole number", "float": "number", "str": "text", "Path": "file", "MemoryTable": "memory",
        "bool": "true \\| false",
    }  # fmt: skip
    return words.get(name, name)


def describe_default(value: Any) -> str:
    """A default as YAML has it."""
    if value is PydanticUndefined:
        return "none, must be set"
    if isinstance(value, Section):
        return "{" + ", ".join(f"{name}: {describe_default(inner)}" for name, inner in value) + "}"
    return "none" if value == () else json.dumps(value, default=str).strip('"')


def section_table(section: type[Section]) -> str:
    """One section's settings as a Markdown table."""
    lines = ["| setting | value | default | |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(
            f"| `{name}` | {describe_type(field.annotation)} | {describe_default(field.get_default())} | {text} |"
        )
    return "\n".join(lines)


def settings_page() -> str:
    """The whole page."""
    parts, plain = [HEAD], []
    for name, field in Config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            summary = " ".join((annotation.__doc__ or "").split())
            parts.append(f"## `{name}`\n\n{summary}\n\n{section_table(annotation)}\n")
        else:
            plain.append(name)
    top = section_table(Config).splitlines()
    rows = [line for line in top[2:] if line.split("`")[1] in plain]
    parts.append("## Of the whole run\n\n" + "\n".join([*top[:2], *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("settings.md").write_text(settings_page(), encoding="utf-8")
