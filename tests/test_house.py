"""The rules of the house: which room may import which, and what an import costs."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import histomix

PACKAGE = Path(histomix.__file__).parent
#: A room may import only rooms that stand before it.
ROOMS = [
    "_version",
    "extras",
    "errors",
    "progress",
    "provenance",
    "notebook",
    "common",
    "slides",
    "spots",
    "encoders",
    "abundance",
    "embedding",
    "heads",
    "datasets",
    "maps",
    "evaluation",
    "prediction",
    "export",
    "pl",
    "cohort",
    "pages",
    "report",
    "viewer",
    "sharing",
    "benchmark",
    "studies",
    "road",
    "cli",
    "__main__",
]


def _imports(path: Path) -> set[str]:
    """Rooms that a file of the package imports, at any depth of its code."""
    depth = len(path.relative_to(PACKAGE).parts)
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            rooms |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("histomix.")}
    return rooms


def test_every_room_is_in_the_plan() -> None:
    found = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    found -= {"__init__", "__pycache__", "py"}
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    place = PACKAGE / room
    files = place.rglob("*.py") if place.is_dir() else [PACKAGE / f"{room}.py"]
    above = set(ROOMS[: ROOMS.index(room)])
    for path in files:
        upward = _imports(path) & set(ROOMS) - above - {room}
        assert not upward, f"{path.relative_to(PACKAGE)} imports {sorted(upward)}, which stand below {room}"


def _imported_modules(path: Path, modules: dict[tuple[str, ...], Path]) -> set[tuple[str, ...]]:
    """Modules of the package that a file imports from, at any depth of its code."""
    folder, found = path.relative_to(PACKAGE).parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = folder[: len(folder) - node.level + 1]
            base = above + tuple((node.module or "").split(".") if node.module else ())
            found |= {(*base, name.name) if (*base, name.name) in modules else base for name in node.names}
    return found & set(modules)


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).with_suffix("").parts
        modules[place[:-1] if place[-1] == "__init__" else place] = path
    graph = {name: _imported_modules(path, modules) - {name} for name, path in modules.items() if name}
    assert any(graph.values())
    graphlib.TopologicalSorter(graph).prepare()  # a circle is an error, which names it


def test_the_public_names_resolve() -> None:
    for name in histomix.__all__:
        assert getattr(histomix, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = histomix.nothing_like_this


def _loaded(code: str) -> set[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return {name.split(".")[0] for name in found.stdout.split()}


HEAVY = {"torch", "scanpy", "anndata", "pandas", "sklearn", "timm", "onnxruntime", "openslide", "matplotlib", "numpy"}


def test_import_and_help_load_nothing_heavy() -> None:
    assert not _loaded("import histomix") & HEAVY
    assert not _loaded("import histomix.cli.app") & HEAVY


#: Rooms of one verb or purpose, of which none imports another's inside.
LEAVES = {"export", "pl", "cohort", "report", "viewer", "sharing", "benchmark"}
#: Figures and words of scores that pages draw with.
SHARED = {"pl"}


@pytest.mark.parametrize("room", sorted(LEAVES))
def test_leaf_rooms_do_not_import_each_other(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        others = _imports(path) & LEAVES - {room} - SHARED
        assert not others, f"{path.relative_to(PACKAGE)} imports {sorted(others)}"


def test_no_folder_is_a_drawer() -> None:
    """The command line has a file for each verb; a room that grows past this is asking for rooms of its own."""
    folders = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    assert {name: number for name, number in folders.items() if number > 18 and name != "cli"} == {}


def test_the_drawing_is_the_house() -> None:
    script = Path(__file__).parents[1] / "scripts" / "house.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_counts_in_sentences_have_a_thousands_separator() -> None:
    """``1,635 spots``, in every message: a number of things that may be many is written with ``:,``."""
    counts = r"(len\([^{}]*\)|[^{}]*\.(sum\(\)|n_obs)|[^{}]*n_(spots|tiles|cells)['\]]*)"
    loose = re.compile(rf"\{{{counts}\}} (of (its )?\{{[^{{}}]*\}} )?(predicted )?(spots|tiles|cells|nuclei|rows)\b")
    found = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for match in loose.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found
