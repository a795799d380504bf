"""What a page is made of, whatever it is shown on: sections of paragraphs, tables, figures and code."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """One or more sentences."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A table; the first column names the line."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    caption: str = ""
    has_texts: bool = False
    """Whether the last column has long texts, which are wrapped; else a small screen scrolls sideways."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing; where none can be shown, its caption is left out, too."""

    svg: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Code:
    """Settings or a command, to be copied."""

    text: str


Block = Paragraph | Cells | Figure | Code


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a page."""

    title: str
    blocks: tuple[Block, ...]
