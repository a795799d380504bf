from .overview import Overview as Overview
from .overview import show_comparison as show_comparison
from .pages import rebuild_report as rebuild_report
from .pages import write_report as write_report
