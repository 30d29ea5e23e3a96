"""Write the table of extras in docs/install.md: where each can be installed, and what it weighs.

Run it in the environment of `make install`, with uv beside it (`pip install uv`); it needs the Python package index:

    .venv/bin/python scripts/extras_table.py             # write the table
    .venv/bin/python scripts/extras_table.py --check     # write nothing

Every extra is resolved for every Python: with the pins of constraints-<version>.txt, and with the newest of everything
for Linux, macOS and Windows. Sizes of downloads come from the index, sizes on disk from the environment that runs this.
Exits with 1 where an extra cannot be had and `histomix.extras.UNAVAILABLE` does not say so (or says so wrongly), and
where a wheel of the core other than torch and what torch brings for CUDA is over 60 MB.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from resolving import LINUX, PYTHONS, ROOT, NotResolvable, resolve

from histomix.extras import EXTRAS, UNAVAILABLE

PAGE = ROOT / "docs" / "install.md"
BEGIN, END = "<!-- extras: begin -->", "<!-- extras: end -->"
SYSTEMS = {"Linux": LINUX, "macOS": "aarch64-apple-darwin", "Windows": "x86_64-pc-windows-msvc"}
LARGEST_MB = 60
#: What torch's default wheel for Linux brings for NVIDIA's GPUs.
CUDA = re.compile(r"(nvidia|cuda)-.*|triton")


#: The question of one cell: extra, Python, system, and whether with the pins.
Cell = tuple[str | None, str, str, bool]


@dataclass(frozen=True)
class Answer:
    """What the index offers for one extra, Python, system and stack; ``wheels`` is MB to download by package."""

    wheels: dict[str, float]
    as_download_error: str = ""


def ask(extra: str | None, python: str, system: str, pinned: bool) -> Answer:
    """Resolve one cell of the table."""
    options = ("--constraints", f"constraints-{python}.txt") if pinned else ()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pylock.extra.toml"
        try:
            resolve(extra, python, target, platform=SYSTEMS[system], options=("--format", "pylock.toml", *options))
        except NotResolvable as as_download_error:
            return Answer({}, str(as_download_error))
        packages = tomllib.loads(target.read_text())["packages"]
    files = {one["name"]: one.get("wheels") or [one["sdist"]] for one in packages if "wheels" in one or "sdist" in one}
    return Answer({name: max(file["size"] for file in some) / 1e6 for name, some in files.items()})


def installed_mb(names: set[str]) -> float:
    """What some packages take on disk in this environment."""
    total = 0
    for name in names:
        for file in importlib.metadata.distribution(name).files or ():
            place = Path(str(file.locate()))
            total += place.stat().st_size if place.is_file() else 0
    return total / 1e6


def size(megabytes: float) -> str:
    """A size for a reader: two figures are enough."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{max(float(f'{megabytes:.2g}'), 1):.0f} MB"


def cell(answers: dict[tuple[str, bool], Answer]) -> str:
    """One cell: yes, or which stack or system does not have it."""
    newest = {system for (system, pinned), one in answers.items() if not pinned and one.as_download_error}
    lacks = sorted(f"{system}" for system in newest)
    pinned = answers["Linux", True].as_download_error
    if len(lacks) == len(SYSTEMS):
        return "no" if pinned else "pinned only"
    words = ([f"not on {' and '.join(lacks)}"] if lacks else []) + (["newest only"] if pinned else [])
    return ", ".join(words) or "yes"


def main(check: bool) -> int:
    """Ask for every cell, check the answers, and write the table."""
    rows = [None, *EXTRAS, "all"]
    jobs = [(row, python, system, False) for row in rows for python in PYTHONS for system in SYSTEMS]
    jobs += [(row, python, "Linux", True) for row in rows for python in PYTHONS]
    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip(jobs, pool.map(lambda job: ask(*job), jobs), strict=True))
    faults = unlike_the_package(answers) + too_large(answers)
    text = table(rows, answers)
    print(text, *faults, sep="\n")
    if not check:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    return int(bool(faults))


def unlike_the_package(answers: dict[Cell, Answer]) -> list[str]:
    """Where `UNAVAILABLE` and the index differ."""
    faults = []
    for name in EXTRAS:
        for python in PYTHONS:
            as_download_error = answers[name, python, "Linux", False].as_download_error
            if bool(as_download_error) != ((name, python) in UNAVAILABLE):
                word = f"cannot be had:\n{as_download_error}\n" if as_download_error else "can be had, and "
                faults.append(f"FAULT: {name} on Python {python} {word}histomix.extras.UNAVAILABLE says otherwise")
    return faults


def too_large(answers: dict[Cell, Answer]) -> list[str]:
    """Wheels of the core over the limit, on any Python and system."""
    found = {
        f"FAULT: the core's wheel of {name} has {megabytes:.0f} MB ({system}, Python {python})"
        for (extra, python, system, _), answer in answers.items()
        for name, megabytes in answer.wheels.items()
        if extra is None and megabytes > LARGEST_MB and name != "torch" and not CUDA.fullmatch(name)
    }
    return sorted(found)


def table(rows: list[str | None], answers: dict[Cell, Answer]) -> str:
    """The table in Markdown."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    core = answers[None, here, "Linux", True].wheels
    cuda = {name for name in core if CUDA.fullmatch(name)}
    lines = [
        "| extra | brings | download | on disk | " + " | ".join(f"Python {python}" for python in PYTHONS) + " |",
        "|---|---|---|---|" + "---|" * len(PYTHONS),
    ]
    for row in rows:
        wheels = answers[row, here, "Linux", True].wheels
        cells = [cell({key[2:]: one for key, one in answers.items() if key[:2] == (row, python)}) for python in PYTHONS]
        own = set(wheels) - (cuda if row is None else set(core))
        weights = size(sum(wheels[name] for name in own)), size(installed_mb(own))
        if row is None:
            words = ["*(none)*", "the core with torch, without CUDA libraries", *weights]
        else:
            words = [f"`{row}`", EXTRAS.get(row, "all of them"), *(f"+ {one}" for one in weights)]
        lines.append(f"| {' | '.join([*words, *cells])} |")
    weights = size(sum(core[name] for name in cuda)), size(installed_mb(cuda))
    lines.append(
        f"| | `nvidia-*`, `cuda-*`, `triton`: torch's CUDA on Linux | + {weights[0]} | + {weights[1]} |" + " |" * 4
    )
    largest = sorted((megabytes, name) for name, megabytes in core.items() if name not in cuda | {"torch"})[:-4:-1]
    torch = size(core["torch"]), size(installed_mb({"torch"}))
    lines += [
        "",
        f"Resolved on {date.today()}. *yes*: the newest of everything on Linux, macOS 14 (Apple's processors) and",
        "Windows, and the pinned versions on Linux. Sizes: the pinned versions on Linux, x86_64,",
        f"Python {here}. In its CUDA build torch itself has {torch[0]} to download and {torch[1]} on disk;",
        "the next largest wheels of the core are",
        ", ".join(f"`{name}` ({size(megabytes)})" for megabytes, name in largest) + ".",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if set(sys.argv[1:]) - {"--check"}:
        sys.exit(__doc__)
    sys.exit(main("--check" in sys.argv))
