"""Extras: what needs one says so, in the product and in the tests."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

import histomix

from .extras import extra_module, needs_extra

TESTS = Path(__file__).parent
PROJECT = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = set(PROJECT["optional-dependencies"])
#: Groups of tools, which are no extras of the package.
GROUPS = set(tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"])
#: What tests may import without asking: the core, and the tools of the tests themselves.
TOOLS = ["pytest", "hypothesis"]


def _distribution(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-")


@functools.cache
def _core() -> set[str]:
    """Names that the libraries of the core are imported by."""
    wanted = {_distribution(requirement) for requirement in [*PROJECT["dependencies"], *TOOLS]}
    found = importlib.metadata.packages_distributions()
    return {name for name, owners in found.items() if wanted & {owner.lower().replace("_", "-") for owner in owners}}


def test_extras_named_in_errors_exist() -> None:
    named = set()
    for path in Path(histomix.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtraError":
                extra = node.args[1]
                assert isinstance(extra, ast.Constant), f"{path.name}:{node.lineno} names no extra"
                named.add(extra.value)
    assert named and named <= EXTRAS


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_file_of_tests_can_be_collected_without_extras(path: Path) -> None:
    core = _core() | set(sys.stdlib_module_names) | {"histomix"}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        strangers = {name.partition(".")[0] for name in names} - core
        assert not strangers, f"line {node.lineno} imports {', '.join(strangers)}: see extras.py"
    if path.name != Path(__file__).name:
        assert "importorskip" not in path.read_text(encoding="utf-8"), "it names no extra: see extras.py"


def test_what_is_absent_is_skipped_and_what_is_broken_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library.py").write_text("import nothing_like_this")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(pytest.skip.Exception, match=r"needs the extra st \(absent_library is not installed\)"):
        extra_module("st", "absent_library.inside")
    with pytest.raises(ModuleNotFoundError, match="nothing_like_this"):
        extra_module("st", "broken_library")
    assert needs_extra("st", "absent_library", "json").args == (True,)
    assert needs_extra("st", "json").args == (False,)
    assert (
        needs_extra("st", "absent_library").kwargs["reason"] == "needs the extra st (absent_library is not installed)"
    )


def test_the_helpers_name_extras_that_exist() -> None:
    for path in TESTS.glob("*.py"):
        for name in re.findall(r"(?:needs_extra|extra_module)\(\s*\"([a-z0-9]+)\"", path.read_text(encoding="utf-8")):
            assert name in EXTRAS | GROUPS, path.name
