"""Markdown that GitHub and Sphinx both read: what is for the site alone stands in comments, which GitHub leaves out.

``<!-- site: ... -->`` holds Markdown of the site (cards, tables of contents), and what lies between ``<!-- github -->``
and ``<!-- /github -->`` is left out there. ``<!-- generated: NAME -->`` stands where a part is generated from the
program. Links to files outside docs/ lead to the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parts import PARTS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

REPOSITORY = "https://github.com/histomix/histomix/blob/main"
_SITE = re.compile(r"^<!-- site:\n(.*?)\n-->$", re.MULTILINE | re.DOTALL)
_ELSEWHERE = re.compile(r"^<!-- github -->$.*?^<!-- /github -->$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]+)?\))")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md":
        source[0] = for_the_site(source[0], page, Path(app.srcdir))


def for_the_site(text: str, page: Path, docs: Path) -> str:
    """The Markdown that Sphinx reads of a page."""
    text = _ELSEWHERE.sub("", text)
    text = _SITE.sub(lambda found: found[1], text)
    text = re.sub(r"^```csv$", "```text", text, flags=re.MULTILINE)  # of which Pygments knows nothing
    text = _GENERATED.sub(lambda found: PARTS[found[1]](), text)

    def outside(found: re.Match[str]) -> str:
        target = (page.parent / found[2]).resolve()
        if target.is_relative_to(docs.resolve()):
            return found[0]
        return f"{found[1]}{REPOSITORY}/{target.relative_to(docs.resolve().parent).as_posix()}{found[3]}"

    return _LINK.sub(outside, text)
