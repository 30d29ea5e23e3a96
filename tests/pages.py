"""The pages of the documentation as programs: their blocks, and how a block is run."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: Languages whose blocks are commands or programs; the others are shown, and not run.
RUN = ("sh", "python")
_FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_NOT_RUN = re.compile(r"<!-- not run: ([^>]+) -->\s*$")
_LONG = re.compile(r"<!-- long: ([^>]+) -->\s*$")
_NOT_RUN_PAGE = re.compile(r"^<!-- not run on this page: ([^>]+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, without its indent.

    A ``long`` one is run by ``make docs-test`` alone. ``output`` is the block of text that follows a command:
    lines that it should print, in their order.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None
    long: bool
    output: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def all_pages() -> list[Path]:
    """Every page that people read, the README first."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    text = page.read_text(encoding="utf-8")
    whole = _NOT_RUN_PAGE.search(text)
    fences = list(_FENCE.finditer(text))
    blocks = []
    for found, after in zip(fences, [*fences[1:], None], strict=False):
        before = _NOT_RUN.search(text[: found.start()])
        shown = after is not None and after["language"] == "text" and not text[found.end() : after.start()].strip()
        blocks.append(
            Block(
                page,
                text.count("\n", 0, found.start()) + 1,
                found["language"],
                _dedent(found),
                before[1] if before else whole[1] if whole else None,
                bool(_LONG.search(text[: found.start()])),
                _dedent(after) if shown and after is not None else None,
            )
        )
    return tuple(blocks)


def _dedent(found: re.Match[str]) -> str:
    return re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)


class Runner:
    """Runs pages in a folder. A command that was run before, word for word, is not run again.

    Parameters
    ----------
    folder
        Where commands begin; ``cd`` leads elsewhere, for all that follow.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed: dict[str, str] = {}
        self.differences: list[str] = []

    def page(self, page: Path, languages: tuple[str, ...] = RUN, long: bool = False) -> list[str]:
        """Run the blocks of a page in their order, with the long ones or without; those of Python share their names.

        Returns what the page shows and the blocks do not print.
        """
        differences: list[str] = []
        names: dict[str, Any] = {"__name__": "page"}
        for block in blocks_of(page):
            if block.language in languages and block.not_run is None and (long or not block.long):
                printed = self.block(block, names)
                if block.output is not None:
                    differences += compare(block, printed)
        return differences

    def block(self, block: Block, names: dict[str, Any]) -> str:
        """What a block prints, on stdout and stderr. It fails the test where the block does."""
        if block.language == "python":
            with contextlib.chdir(self.folder):
                return run_python(block.text, block.name, names)
        return "".join(self.command(command, block.name) for command in commands_in(block.text))

    def command(self, command: str, name: str) -> str:
        """What a command prints."""
        words = shlex.split(command, comments=True)
        if words[0] == "cd":
            self.folder = self.folder / words[1]
            return ""
        known = shlex.join(words)
        if known not in self.printed:
            with contextlib.chdir(self.folder):
                self.printed[known] = run_command(command, name)
        return self.printed[known]


def run_python(text: str, name: str, names: dict[str, Any]) -> str:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, name, "exec"), names)
    plt.close("all")
    return printed.getvalue()


def commands_in(text: str) -> list[str]:
    """The lines of a block, continued ones joined, without comments and empty ones."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def run_command(command: str, name: str) -> str:
    """Run one command line: histomix in this process, anything else by the shell."""
    words = shlex.split(command, comments=True)
    if words[0] == "histomix" and not set(words) & {"|", ">", "&&", ";"}:
        from histomix.cli.app import app

        result = CliRunner().invoke(app, words[1:], terminal_width=120)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if result.exit_code:
            pytest.fail(f"{name}: {command}: exit code {result.exit_code}\n{result.output}")
        return result.output
    if words[:2] == ["python", "-c"]:
        return run_python(words[2], name, {"__name__": "line"})
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, executable="/bin/bash")
    if run.returncode:
        pytest.fail(f"{name}: {command}: exit code {run.returncode}\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr


_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*|\.\d+")


def compare(block: Block, printed: str) -> list[str]:
    """Lines that are shown and not printed, in this order. Numbers may differ, as between processors and versions."""
    differences = []
    rest = [_plain(line) for line in printed.splitlines()]
    assert block.output is not None
    for line in block.output.splitlines():
        wanted = _plain(line)
        if not wanted or wanted == "…":
            continue
        if wanted not in rest:
            differences.append(f"{block.name} shows {line!r}, which is not printed (there):\n{printed}")
        else:
            rest = rest[rest.index(wanted) + 1 :]
    return differences


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("#", line).split())


def messages() -> list[str]:
    """Every text in the source of the package, with an ellipsis for what is filled in."""
    found = []
    for path in (ROOT / "src" / "histomix").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found
