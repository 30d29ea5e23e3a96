"""Pages for those who carry on: what they name is there, and decisions are complete and listed."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import histomix

ROOT = Path(__file__).parents[1]
#: What fills two screens of the site, measured on its pages in a window of 1,400 x 900 px.
TWO_SCREENS = 650
PAGES = sorted((ROOT / "docs" / "development").rglob("*.md"))
DECISIONS = [page for page in PAGES if re.match(r"\d\d-", page.name)]
PACKAGE = Path(histomix.__file__).parent
#: A file by its path in code: of the repository, of the package, or of the docs.
NAMED = re.compile(r"`((?:[\w.]+/)+[\w-]+\.(?:py|yaml|sh|md))(?: [^`]*)?`")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_to_pages_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    places = (ROOT, PACKAGE, ROOT / "docs")
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []


def test_every_rule_stands_in_the_file_that_the_table_says() -> None:
    text = (ROOT / "docs" / "development" / "first-change.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| `([\w/]+)\.py` \| ([^|]+) \|$", text, re.MULTILINE)
    assert len(rows) > 10
    for file, names in rows:
        module = importlib.import_module(f"histomix.{file.replace('/', '.')}")
        for name in re.findall(r"`(\w+)`", names):
            one = getattr(module, name)
            assert getattr(one, "__module__", module.__name__) == module.__name__, f"{name} only passes through {file}"


def test_decisions_are_numbered_listed_and_say_what_was_rejected() -> None:
    assert len(DECISIONS) >= 10
    assert [page.name[:2] for page in DECISIONS] == [f"{number:02}" for number in range(1, len(DECISIONS) + 1)]
    listed = (DECISIONS[0].parent / "README.md").read_text(encoding="utf-8")
    for page in DECISIONS:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(f"# {page.name[:2]}. ") and len(lines) <= 40
        assert f"[{lines[0][6:]}]({page.name})" in listed
        for part in ("Context", "Decision", "Rejected", "Consequences"):
            assert any(line.startswith(f"**{part}") for line in lines), f"{page.name} has no {part}"


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), *PAGES], ids=lambda page: page.name)
def test_a_page_over_two_screens_has_a_picture(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", text)
    assert all((page.parent / name).is_file() for name in pictures)
    long = len(text.split()) > TWO_SCREENS or "<!-- generated: verbs -->" in text or "toctree: api" in text
    assert pictures or not long or page.parent.name == "decisions"


def test_the_diagrams_are_what_their_boxes_say() -> None:
    script = ROOT / "scripts" / "diagrams.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
