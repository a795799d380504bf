"""A comparison as people read it: in words, in figures, as one page, and in the terminal."""

from leantune.report.overview import Overview, show_comparison
from leantune.report.pages import write_report

__all__ = ["Overview", "show_comparison", "write_report"]
