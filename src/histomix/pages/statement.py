"""A protocol statement (the Markdown of `histomix.evaluation.statement`) as blocks for a page."""

from __future__ import annotations

import re
from typing import Any


def statement_blocks(text: str) -> list[dict[str, Any]]:
    """Split plain Markdown into headings, lists and paragraphs; marks of emphasis and code are dropped.

    The blocks are text, to be escaped by the template.
    """
    blocks: list[dict[str, Any]] = []
    for part in re.split(r"\n\s*\n", text.strip()):
        if not part or part.startswith("# "):
            continue
        if part.startswith("#"):
            blocks.append({"kind": "heading", "text": _plain(part.lstrip("# "))})
        elif part.startswith("- "):
            items = [_plain(line) for line in re.split(r"^- ", part, flags=re.MULTILINE) if line.strip()]
            blocks.append({"kind": "list", "items_": items})
        else:
            blocks.append({"kind": "paragraph", "text": _plain(part)})
    return blocks


def _plain(text: str) -> str:
    return " ".join(text.replace("**", "").replace("`", "").split())
