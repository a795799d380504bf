"""The result of an inspection, and the four things that it can be written as."""

import functools
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from leantune.advice.blocks import Block, Cells, Code, Figure, Paragraph, Section
from leantune.inspection.catalogue import BY_CODE
from leantune.inspection.findings import Finding
from leantune.report import drawing
from leantune.report.pages import code_block, prose
from leantune.report.wording import SHORTENED, escape_markdown, published_path
from leantune.system.errors import SettingsError
from leantune.system.files import write_text
from leantune.system.terminal import printable

SEVERITIES = ("error", "warning", "note")
MARKS = {"error": "✖", "warning": "▲", "note": "○"}
"""A shape for each severity, so that no colour has to say it."""
COLUMNS = 80
FORMATS = (".html", ".md", ".json", ".yaml")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a table or a run. Printed, it is the page of the terminal; in a notebook, the HTML page."""

    title: str
    subtitle: str
    findings: tuple[Finding, ...]
    """The gravest first."""
    sections: tuple[Section, ...]
    data: dict[str, Any]
    """All numbers of the page as plain values, by section."""
    settings: str = ""
    """YAML that `leantune train --config` takes, with a reason beside each line; "" where none is advised."""
    ignored: tuple[str, ...] = ()
    """Codes of findings that were left out."""
    places: tuple[str, ...] = ()
    """Paths in its texts, as they were given. The pages have no absolute ones (see `published_path`)."""

    def html(self) -> str:
        """Return the page: one file without scripts that loads nothing; all texts in it are escaped."""
        return _template("html").render(
            self._view(), light=drawing.LIGHT, dark=drawing.DARK, marks=MARKS, Markup=Markup
        )

    def markdown(self) -> str:
        """Return the same as GitHub's Markdown, without the figures."""
        return _template("md").render(self._view(), marks=MARKS)

    def json(self) -> str:
        """Return findings and numbers as JSON."""
        record = {
            "title": self.title,
            "subtitle": self.subtitle,
            "findings": [finding.record() for finding in self.findings],
            "ignored": list(self.ignored),
            "settings": self.settings,
            **self.data,
        }
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """Write a file: .html, .md, .json, or .yaml for the settings alone.

        Raises `SettingsError` for another name, and `SavingError` if it cannot be written.
        """
        path = check_output(Path(path))
        if path.suffix.lower() == ".yaml" and not self.settings:
            raise SettingsError(f"--output: {path}: settings need a table and a model; give --model MODEL")
        match path.suffix.lower():
            case ".html":
                text = self.html()
            case ".md":
                text = self.markdown()
            case ".json":
                text = self.json()
            case _:
                text = self.settings
        write_text(path, text)

    def __str__(self) -> str:
        file = io.StringIO()
        console = Console(
            file=file, width=COLUMNS, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
        )
        for part in self._terminal():
            console.print(part)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the page in a frame, whose styles stay its own."""
        return (
            f'<iframe sandbox srcdoc="{escape(self.html())}" style="width: 100%; height: 40rem; border: 0" '
            f'title="{escape(self.title)}"></iframe>'
        )

    def _view(self) -> dict[str, Any]:
        findings = [finding.record() for finding in self.findings]
        return {
            "title": self._published(self.title),
            "subtitle": self._published(self.subtitle),
            "summary": self.summary(),
            "findings": [{name: self._published(text) for name, text in record.items()} for record in findings],
            "ignored": self.ignored,
            "sections": [(section.title, list(self._parts(section))) for section in self.sections],
            "has_settings": bool(self.settings),
            "shortened": SHORTENED if any(published_path(place) != place for place in self.places) else "",
        }

    def _parts(self, section: Section) -> Iterator[tuple[str, Block | list[Figure]]]:
        """Yield the kind of each block and the block, figures that follow each other together."""
        for are_figures, blocks in groupby(section.blocks, lambda block: isinstance(block, Figure)):
            if are_figures:
                yield "Figures", [figure for figure in blocks if isinstance(figure, Figure) and figure.svg]
                continue
            for block in blocks:
                match block:
                    case Paragraph() | Code():
                        yield type(block).__name__, replace(block, text=self._published(block.text))
                    case _:
                        yield type(block).__name__, block

    def _published(self, text: str) -> str:
        for place in sorted(self.places, key=len, reverse=True):
            text = text.replace(place, published_path(place))
        return text

    def summary(self) -> str:
        """Return one sentence: how many findings of each severity there are."""
        counts = [(sum(f.severity == severity for f in self.findings), severity) for severity in SEVERITIES]
        parts = [f"{count} {severity}{'s' * (count != 1)}" for count, severity in counts if count]
        return f"{', '.join(parts)}." if parts else "Nothing that is known to go wrong was found."

    def _terminal(self) -> Iterable[Any]:
        yield Text(f"{printable(self.title)}\n{printable(self.subtitle)}\n{self.summary()}\n")
        for finding in self.findings:
            grid = RichTable.grid(padding=(0, 1))
            grid.add_column(no_wrap=True)
            grid.add_column(ratio=1)
            head = f"{MARKS[finding.severity]} {finding.code}"
            grid.add_row(Text(head), Text(printable(f"{BY_CODE[finding.code].about}: {finding.text}.")))
            yield grid
        for section in self.sections:
            yield Text(f"\n{printable(section.title)}\n{'─' * min(COLUMNS, len(section.title))}")
            for block in section.blocks:
                match block:
                    case Paragraph():
                        yield Text(printable(block.text))
                    case Code():
                        yield Text(printable(block.text), no_wrap=False)
                    case Cells():
                        yield _rich(block)


def check_output(path: Path) -> Path:
    """Return the path of a file to write; raises `SettingsError` where its name says no known format."""
    if path.suffix.lower() not in FORMATS:
        raise SettingsError(f"--output: found {str(path)!r}, expected a name that ends with {', '.join(FORMATS)}")
    path = path.expanduser()
    if not path.parent.is_dir():
        raise SettingsError(
            f"--output: {path}: found no folder {path.parent}, expected one; make it, or correct the name"
        )
    return path


def check_codes(codes: Iterable[str]) -> tuple[str, ...]:
    """Return codes to ignore; raises `SettingsError` where there is no such finding."""
    for code in codes:
        if code not in BY_CODE:
            raise SettingsError(f"--ignore: found {code!r}, expected the code of a finding, such as LT403")
    return tuple(codes)


def sort_findings(findings: Iterable[Finding], ignored: tuple[str, ...]) -> tuple[Finding, ...]:
    """Return findings that are not ignored, the gravest first."""
    kept = [finding for finding in findings if finding.code not in ignored]
    return tuple(sorted(kept, key=lambda finding: (SEVERITIES.index(finding.severity), finding.code)))


def _rich(block: Cells) -> RichTable:
    table = RichTable(box=None, padding=(0, 2, 0, 0), show_header=any(block.head), header_style="")
    for place, name in enumerate(block.head):
        is_text = block.has_texts and place == len(block.head) - 1
        table.add_column(name, overflow="fold", ratio=1 if is_text else None)
    for line in block.lines:
        table.add_row(*(Text(printable(cell)) for cell in line))
    return table


def _sentence(text: str) -> str:
    """Return what was found with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


@functools.cache
def _template(kind: str) -> Template:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("leantune.advice"), PackageLoader("leantune.report")]),
        autoescape=kind == "html",
        finalize=escape_markdown if kind == "md" else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code_block"] = code_block
    environment.filters["prose"] = prose
    environment.filters["sentence"] = _sentence
    return environment.get_template(f"inspection.{kind}.j2")
