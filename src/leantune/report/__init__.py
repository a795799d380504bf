"""A comparison as people read it: in words, in figures, as one page, and in the terminal."""

from leantune.report.overview import Overview, show_comparison
from leantune.report.pages import rebuild_report, write_report

__all__ = ["Overview", "rebuild_report", "show_comparison", "write_report"]
