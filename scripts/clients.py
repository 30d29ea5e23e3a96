"""Run the tests that open our files in other programs, and say in docs/clients.md what worked with which version.

Usage: python scripts/clients.py            prints the table
       python scripts/clients.py --write    writes it into docs/clients.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- made by scripts/clients.py -->", "<!-- end of the table -->"
FILES = ("tests/test_clients.py", "tests/test_lazyslide.py", "tests/test_qupath.py")
#: Programs that are no Python packages: where what the tests hold us to comes from.
ELSEWHERE = {"QuPath": "0.5.1, its reader's rules as a schema", "Groovy": "4.0.26"}


class Results:
    """What became of each row: the worst of the tests of its name and words."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], str] = {}
        self._marks: dict[str, list[tuple[str, str]]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self._marks[item.nodeid] = [mark.args for mark in item.iter_markers("client")]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        rank = ["passed", "skipped", "failed"]
        for row in self._marks.get(report.nodeid, []):
            before = self.rows.get(row, "passed")
            self.rows[row] = max(before, report.outcome, key=rank.index)


def version(name: str) -> str:
    """The installed version of a program, or where its rules were read."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def table(rows: dict[tuple[str, str], str]) -> str:
    """The rows in Markdown, by the name of the program."""
    words = {"passed": "works", "skipped": "not tried here", "failed": "**fails**"}
    lines = ["| program | version | what | |", "|---|---|---|---|"]
    for (name, what), outcome in sorted(rows.items(), key=lambda row: row[0][0].lower()):
        lines.append(f"| {name} | {version(name)} | {what} | {words[outcome]} |")
    return "\n".join(lines)


def main() -> int:
    """Run, print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    results = Results()
    code = pytest.main(["-q", "-rs", "-m", "client", *(str(ROOT / name) for name in FILES)], plugins=[results])
    made = table(results.rows)
    if asked.write:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8", newline="\n")
    print(made)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
