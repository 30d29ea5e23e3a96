"""Objects as a notebook shows them: a small table of facts, with every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

#: Colours that read on light and on dark pages, and no rule that leaves the table.
_BOX = "border:1px solid #8884;border-radius:10px;padding:12px 16px;display:inline-block;max-width:64em"
_TITLE = "font-weight:600;font-size:1.05em"
_QUIET = "opacity:.7"
_CELL = "text-align:left;padding:2px 18px 2px 0;vertical-align:top;border:0"
_MOST_ROWS = 24


def card_html(
    title: str,
    lead: str,
    facts: Iterable[tuple[str, Any]],
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[Any]] = (),
) -> str:
    """A card for ``_repr_html_``.

    Parameters
    ----------
    title, lead
        What it is, and one line on it.
    facts
        Name and value; empty values are left out.
    columns, rows
        A table under the facts; of long ones the first 24 rows.
    """
    listed = "".join(
        f'<tr><td style="{_CELL};{_QUIET}">{_text(name)}</td><td style="{_CELL}">{_text(value)}</td></tr>'
        for name, value in facts
        if value not in (None, "", [], {}, ())
    )
    parts = [
        f'<div style="{_TITLE}">{_text(title)}</div><div style="{_QUIET}">{_text(lead)}</div>',
        f'<table style="margin:8px 0 0;border:0">{listed}</table>' if listed else "",
    ]
    if rows:
        head = "".join(f'<th style="{_CELL};{_QUIET}">{_text(name)}</th>' for name in columns)
        body = "".join(
            "<tr>" + "".join(f'<td style="{_CELL}">{_text(value)}</td>' for value in row) + "</tr>"
            for row in rows[:_MOST_ROWS]
        )
        rest = len(rows) - _MOST_ROWS
        more = f'<div style="{_QUIET}">and {rest} more</div>' if rest > 0 else ""
        parts.append(f'<table style="margin:8px 0 0;border:0"><tr>{head}</tr>{body}</table>{more}')
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}".replace("-", "−")
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return html.escape(str(value))
