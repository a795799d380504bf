"""Each warning and note of the source is explained in docs/messages.md, and nothing is explained that is gone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import leantune

SOURCE = Path(str(leantune.__file__)).parent
DOCS = Path(__file__).parents[1] / "docs"
MESSAGES = (DOCS / "messages.md").read_text(encoding="utf-8")
GAP = "…"
"""Stands for what differs from message to message."""
LEAST_LETTERS = 12
"""A text with fewer is nothing but values, whose first word says what they are."""


def literal(node: ast.expr | None) -> str:
    """Return a string of the source with `GAP` for each value in it; "" where it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    return ""


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def messages(source: str) -> Iterator[str]:
    """Yield what a module tells through notes, warnings and the log, where the words stand beside the call, in a
    variable `text`, or are yielded to the function that tells them."""
    nodes = list(ast.walk(ast.parse(source)))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    if not any(called(call) == "Note" or ast.unparse(call.func) == "logger.warning" for call in calls):
        return
    for node in nodes:
        if isinstance(node, ast.Call) and called(node) == "Note":
            yield from (literal(word.value) for word in node.keywords if word.arg == "text")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "logger.warning":
            yield literal(node.args[0]).replace("%s", GAP).replace("%r", GAP)
        elif isinstance(node, ast.Yield) or (
            isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "text" for target in node.targets)
        ):
            yield literal(node.value)


def test_messages_are_found_wherever_they_are_written() -> None:
    source = (
        'Note(text=f"a {b} c")\nlogger.warning("no %s here")\ntext = "said later"\ndef f():\n    yield "and this"\n'
    )
    assert sorted(messages(source)) == ["a … c", "and this", "no … here", "said later"]
    assert list(messages('text = "told to nobody"')) == []


SOURCES = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
NODES = {path: list(ast.walk(ast.parse(source))) for path, source in SOURCES.items()}
LITERALS = {literal(node) for nodes in NODES.values() for node in nodes if isinstance(node, ast.expr)}
TOLD = sorted(
    {
        message
        for source in SOURCES.values()
        for message in messages(source)
        if len(re.findall(r"[a-z]", message)) >= LEAST_LETTERS
    }
)
EXPLAINED = [cell.replace(r"\|", "|") for cell in re.findall(r"^\| `([^`]+)`", MESSAGES, flags=re.MULTILINE)]
FIRST_WORDS = [cell for cell in EXPLAINED if re.fullmatch(r"\w+", cell)]
SENTENCES = [cell for cell in EXPLAINED if cell not in FIRST_WORDS]


def fits(explained: str, message: str) -> bool:
    """Tell whether what stands between the gaps of `explained` stands in this order in `message`."""
    return re.search(".*".join(map(re.escape, explained.split(GAP))), message, flags=re.DOTALL) is not None


@pytest.mark.parametrize("message", TOLD)
def test_a_message_is_explained(message: str) -> None:
    assert any(fits(explained, message) for explained in SENTENCES), "add it to docs/messages.md"


@pytest.mark.parametrize("explained", SENTENCES)
def test_what_is_explained_is_still_said(explained: str) -> None:
    assert len(explained.replace(GAP, "").strip()) >= 8, "too short to say which message is meant"
    assert any(fits(explained, said) for said in LITERALS)


def test_every_first_word_of_a_line_is_explained() -> None:
    said = {
        str(word.value.value)
        for nodes in NODES.values()
        for node in nodes
        if isinstance(node, ast.Call) and called(node) == "Note"
        for word in node.keywords
        if word.arg == "about" and isinstance(word.value, ast.Constant)
    }
    assert said
    assert sorted(said - set(FIRST_WORDS)) == []


def test_every_check_of_a_table_is_explained() -> None:
    pages = "".join(
        page.read_text(encoding="utf-8") for page in DOCS.glob("*.md") if page.stem in {"messages", "inspect"}
    )
    codes = {
        str(word.value.value)
        for path, nodes in NODES.items()
        if path.parent.name == "inspection"
        for node in nodes
        if isinstance(node, ast.Call) and called(node) == "Finding"
        for word in node.keywords
        if word.arg == "code" and isinstance(word.value, ast.Constant)
    }
    assert codes
    assert sorted(code for code in codes if code not in pages) == []
