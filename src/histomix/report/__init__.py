"""One static page of what a run found."""

from .report import write_report

__all__ = ["write_report"]
