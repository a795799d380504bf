"""YAML of strangers: plain values or an error, in little time and memory."""

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from leantune.system.safe_yaml import MOST_VALUES, parse_yaml


def bomb(grow: str) -> str:
    """Nine lines, each of ten aliases to the line before: a billion values."""
    lines = ["a: &a {x: 1}"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} {grow % ', '.join([f'*{before}'] * 10)}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "seed: 0\nfolds: [0, 1]\nnothing: null\nname: 基準",
        "a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}, e: 2.5}",
        "",
        "just text",
        "--- {a: 'yes', b: yes}",
    ],
)
def test_what_it_takes_is_what_pyyaml_makes_of_it(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml(text.encode()) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("[%s]"), "more than 100,000 values"),
        (bomb("{<<: [%s]}"), "more than 100,000 values"),
        ("[" + ", ".join("1" for _ in range(MOST_VALUES + 1)) + "]", "more than 100,000 values"),
        ("&a [*a]", "stands in what it is an alias for"),
        ("[" * 200_000, "levels deep"),
        ("{a: " * 200_000, "levels deep"),
        ("- " * 200_000, "levels deep"),
        ("{a: 1, b: {c: 1, c: 2}}", "the key c stands twice"),
        ("a: *nowhere", "undefined alias"),
        ("a: [", "expected"),
        ("a: \0", "not allowed"),
        ("1" * 5000, "4300 digits"),
        ('!!int ""', "index out of range"),
        ("!!timestamp x", "groupdict"),
        ("2024-99-99", "month"),
        (b"\x80\x04", "invalid"),
    ],
    ids=lambda part: part[:12] if isinstance(part, str) else "bytes",
)
def test_everything_else_is_a_value_error_at_once(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_nothing_that_is_called_like_a_python_object_is_made(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    text = f"!!python/object/apply:os.mkdir ['{touched}']"
    with pytest.raises(ValueError, match="could not determine a constructor"):
        parse_yaml(text)
    assert not touched.exists()
    yaml.unsafe_load(io.StringIO(text))  # the payload is live
    assert touched.exists()


def test_libyaml_and_the_parser_in_python_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(text: str) -> Any:
        try:
            return parse_yaml(text)
        except ValueError as error:
            return str(error).split(" in ")[0]

    texts = [bomb("[%s]"), "a: {b: [1, &x 2, *x]}", "&a [*a]", "[" * 100, "{a: 1, a: 2}"]
    fast = [outcome(text) for text in texts]
    monkeypatch.setattr("leantune.system.safe_yaml._LOADER", yaml.SafeLoader)
    assert [outcome(text) for text in texts] == fast
