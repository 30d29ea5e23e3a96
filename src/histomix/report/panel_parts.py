"""Pieces of a panel: tables of cells, figures with their words, and numbers as text."""

from __future__ import annotations

import math
from typing import Any

from ..pl.scores import number

Panel = dict[str, Any]


def panel(title: str, lead: str = "", **parts: Any) -> Panel:
    """One card of the page, with the parts that it lacks left empty; wide where a figure or a table needs it."""
    card: Panel = {"title": title, "lead": lead, "findings": [], "figures": [], "tables": [], "key": "", **parts}
    wide = any(one["wide"] for one in card["figures"]) or any(len(one["columns"]) > 5 for one in card["tables"])
    return {**card, "wide": wide}


def shown_figure(paths: dict[str, str], alt: str, *, caption: str = "", wide: bool = False) -> dict[str, Any]:
    """A figure of a panel: the paths that `Drawer` gave, words for those who cannot see it, and words under it."""
    return {"paths": paths, "alt": alt, "caption": caption, "wide": wide}


def plain_table(columns: list[str], rows: list[list[Any]], caption: str, *, fold: bool | None = None) -> dict[str, Any]:
    """Rows of text, or of (text, small text), as the page draws them; long ones are folded away."""
    cells = [
        {
            "cells": [
                {"text": one[0], "small": one[1]} if isinstance(one, tuple) else {"text": one, "small": ""}
                for one in row
            ],
            "strong": False,
        }
        for row in rows
    ]
    return {
        "title": "",
        "columns": columns,
        "rows": cells,
        "caption": caption,
        "fold": len(rows) > 16 if fold is None else fold,
    }


def as_number(value: Any) -> float:
    """A number of a summary, where JSON writes NaN as null."""
    return math.nan if value is None else float(value)


def signed(value: Any) -> str:
    """A difference as text, with its sign."""
    difference = as_number(value)
    return "–" if not math.isfinite(difference) else f"{difference:+.3f}".replace("-", "−")


def interval_words(low: Any, high: Any, *, sign: bool = False) -> str:
    """The ends of an interval as text; empty where there is none."""
    ends = (as_number(low), as_number(high))
    if not all(map(math.isfinite, ends)):
        return ""
    return " to ".join(signed(end) if sign else number(end) for end in ends)


def p_value(value: Any) -> str:
    """A p-value as text."""
    p = as_number(value)
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def short(value: Any) -> str:
    """A number of a finding as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def spaced(name: str) -> str:
    """A name of a program as words."""
    return name.replace("_", " ")
