"""One self-contained HTML page about trained models."""

from .page import make_report
from .runs import Run, find_run

__all__ = ["Run", "find_run", "make_report"]
