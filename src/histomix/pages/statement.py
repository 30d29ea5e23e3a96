"""A protocol statement (the Markdown of `histomix.evaluation.statement`) as a part of a page."""

from __future__ import annotations

import re

from markupsafe import Markup


def statement_html(text: str, heading: int = 3) -> Markup:
    """Plain Markdown as HTML, escaped: headings, lists and paragraphs, without marks of emphasis and code.

    Parameters
    ----------
    text
        The statement. Its title (``#``) is left out.
    heading
        Level of all other headings.
    """
    blocks = []
    for part in re.split(r"\n\s*\n", text.strip()):
        if not part or part.startswith("# "):
            continue
        if part.startswith("#"):
            blocks.append(Markup("<h{0}>{1}</h{0}>").format(heading, _plain(part.lstrip("# "))))
        elif part.startswith("- "):
            items = [_plain(line) for line in re.split(r"^- ", part, flags=re.MULTILINE) if line.strip()]
            blocks.append(Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(i) for i in items)))
        else:
            blocks.append(Markup("<p>{}</p>").format(_plain(part)))
    return Markup("\n").join(blocks)


def _plain(text: str) -> str:
    return " ".join(text.replace("**", "").replace("`", "").split())
