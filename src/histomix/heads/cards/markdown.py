"""Pieces of Markdown that cannot be read as anything but text and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_MARKS = re.compile(r"([\\`*\[\]#|~$])")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of plain text (see `plain`)."""
    lines = [list(head), ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(value: Any) -> str:
    """A text of the card in Markdown: on one line, and no mark of it means anything, as HTML or as Markdown."""
    words = " ".join("".join(mark if mark.isprintable() else " " for mark in str(value)).split())
    return _MARKS.sub(r"\\\1", words).replace("<", "&lt;")


def number_text(value: Any) -> str:
    """A number with three decimals; "" for none."""
    return f"{value:.3f}" if isinstance(value, int | float) else ""
