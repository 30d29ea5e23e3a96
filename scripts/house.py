"""Draw the house from its imports, and count it: docs/development/house.md cannot drift from the code.

Usage: python scripts/house.py            the counts
       python scripts/house.py --write    writes the drawing into docs/development/house.md
       python scripts/house.py --check    exits 1 where that page is not what would be written
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "histomix"
PAGE = ROOT / "docs" / "development" / "house.md"
BEGIN, END = "<!-- drawn by scripts/house.py -->", "<!-- end of the drawing -->"
#: Lines that must stand twice, one after the other, to count as repeated.
REPEATED = 6


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, at any depth of its code."""
    depth = len(path.relative_to(PACKAGE).parts)
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            rooms |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
    return rooms


def rooms() -> list[str]:
    """Rooms from the ground up: the order that tests/test_house.py enforces."""
    tree = ast.parse((ROOT / "tests" / "test_house.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(name, "id", "") == "ROOMS" for name in node.targets):
            return [str(room) for room in ast.literal_eval(node.value)]
    raise SystemExit("tests/test_house.py has no list ROOMS")


def first_sentence(room: str) -> str:
    path = PACKAGE / room / "__init__.py"
    text = ast.get_docstring(ast.parse((path if path.exists() else PACKAGE / f"{room}.py").read_text(encoding="utf-8")))
    return " ".join((text or "").split("\n\n")[0].split())


def repeated_lines() -> int:
    """Lines of code that stand elsewhere too, in a run of at least `REPEATED`; comments and imports apart."""
    places: dict[tuple[str, ...], list[tuple[Path, int]]] = {}
    for path in module_files():
        lines = [
            (number, line.strip())
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines())
            if len(line.strip()) > 3 and not line.strip().startswith(("#", "from ", "import ", '"""'))
        ]
        for start in range(len(lines) - REPEATED + 1):
            run = tuple(text for _, text in lines[start : start + REPEATED])
            places.setdefault(run, []).append((path, lines[start][0]))
    repeated = {(path, number) for found in places.values() if len(found) > 1 for path, number in found}
    return len(repeated)


def drawing() -> str:
    order, files = rooms(), module_files()
    count, arrows = Counter[str](), Counter[tuple[str, str]]()
    for path in files:
        room = room_of(path)
        count[room] += 1
        for other in imported_rooms(path) & set(order) - {room}:
            arrows[room, other] += 1
    lines = [BEGIN, "", "| room | what lives there | files | built on |", "|---|---|---|---|"]
    for room in order:
        if room.startswith("_"):
            continue
        below = [other for other in order if (room, other) in arrows and not other.startswith("_")]
        ground = {"errors", "progress", "provenance", "notebook", "common"}
        upper = [f"`{other}`" for other in below if other not in ground]
        lines.append(f"| `{room}` | {first_sentence(room)} | {count[room]} | {', '.join(upper)} |")
    lines += [
        "",
        "Arrows to the ground floor (`errors`, `progress`, `provenance`, `notebook`, `common`) are left out.",
        "",
        END,
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args()
    if chosen.write or chosen.check:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN)], page[page.index(END) + len(END) :]
        drawn = before + drawing() + after
        if chosen.write:
            PAGE.write_text(drawn, encoding="utf-8")
        elif drawn != page:
            sys.exit("docs/development/house.md is not the house any more: python scripts/house.py --write")
        return
    files = module_files()
    folders = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in files)
    print(f"{sum(len(path.read_text(encoding='utf-8').splitlines()) for path in files):,} lines in {len(files)} files")
    print(f"{repeated_lines():,} starts of runs of {REPEATED} lines that stand more than once")
    print("fullest folders:", ", ".join(f"{name} {number}" for name, number in folders.most_common(5)))


if __name__ == "__main__":
    main()
