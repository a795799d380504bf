"""YAML that others wrote becomes plain values, or an error: never code, and never more values than memory holds."""

from collections import Counter
from typing import Any

import yaml

DEEPEST = 50
MOST_VALUES = 100_000
"""An alias counts as often as it is used: nine lines of aliases to aliases may stand for a billion values."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, many times as fast, where PyYAML has it


def parse_yaml(text: str | bytes) -> Any:
    """Parse YAML into plain values; nothing that is called like a Python object is ever made.

    Raises ValueError where it is none, has a key twice in a mapping (of which PyYAML would drop the first without a
    word), is nested deeper than `DEEPEST` or stands for more than `MOST_VALUES` values.
    """
    try:
        _refuse_bombs(text)
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_double_keys(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except Exception as error:  # PyYAML's own, and whatever Python says of values such as `!!int ""`
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _refuse_bombs(text: str | bytes) -> None:
    """Count depth and values while parsing, before anything is made of them."""
    sizes: dict[str | None, int] = {}
    inside: list[tuple[str | None, int]] = []  # anchor, and values so far, of each list and mapping that is open
    for event in yaml.parse(text, _LOADER):
        match event:
            case yaml.CollectionStartEvent():
                inside.append((event.anchor, 1))
                if len(inside) > DEEPEST:
                    raise ValueError(f"it is nested more than {DEEPEST} levels deep")
                continue
            case yaml.CollectionEndEvent():
                anchor, size = inside.pop()
            case yaml.AliasEvent():
                if event.anchor in {anchor for anchor, _ in inside}:
                    raise ValueError(f"the alias *{event.anchor} stands in what it is an alias for")
                anchor, size = None, sizes.get(event.anchor, 1)
            case yaml.ScalarEvent():
                anchor, size = event.anchor, 1
            case _:
                continue
        if anchor is not None:
            sizes[anchor] = size
        if inside:
            outer, others = inside[-1]
            size += others
            inside[-1] = (outer, size)
        if size > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES:,} values")


def _refuse_double_keys(node: yaml.Node) -> None:
    if not isinstance(node, yaml.CollectionNode):
        return
    if isinstance(node, yaml.MappingNode):
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = next((key for key, count in counts.items() if count > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(
                problem=f"the key {twice} stands twice in the mapping", problem_mark=node.start_mark
            )
    for inner in node.value:
        for part in inner if isinstance(inner, tuple) else (inner,):
            _refuse_double_keys(part)
