"""A finished run as Python has it: its folder, its metrics and its warnings, readable in a terminal and a notebook."""

import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from leantune.runs.display import layout, summary
from leantune.system.files import parse_json_object, unreadable
from leantune.system.terminal import printable


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run. Printed, or as the last line of a notebook's cell, it is a table of what `metrics.json` says."""

    folder: Path
    metrics: dict[str, Any]
    """The content of `metrics.json`."""
    warnings: tuple[str, ...] = ()
    """The texts of the run's warnings, in order and each once; those before an interruption are among them."""

    def __repr__(self) -> str:
        file = io.StringIO()
        # Text of 80 columns, whatever this process may be connected to.
        console = Console(
            file=file, width=80, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
        )
        console.print(layout(self._rows()))
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def _repr_html_(self) -> str:
        """Return the same table for a notebook."""
        style = "text-align: left; vertical-align: top; white-space: pre-wrap; font-family: monospace"
        rows = (
            f'<tr><th style="{style}">{_html(head)}</th><td style="{style}">{_html(text)}</td></tr>'
            for head, text in self._rows()
        )
        return f"<table>{''.join(rows)}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        return [("run", str(self.folder)), *summary(self.metrics), *(("warning", text) for text in self.warnings)]


def read_warnings(folder: Path) -> tuple[str, ...]:
    """Return the texts of the warnings in a run folder's `events.jsonl`, in order and each once.

    Raises `RunFolderError`, naming the file and the line, where it cannot be read.
    """
    path = folder / "events.jsonl"
    texts: dict[str, None] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if '"warning"' not in line:  # of a hundred thousand steps, few lines are parsed
                    continue
                event = parse_json_object(f"{path}, line {number}", line)
                if event.get("event") == "warning":
                    texts[f"{event.get('about')}: {event.get('text')}"] = None
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from None
    return tuple(texts)


def _html(text: str) -> str:
    return escape(printable(text))
