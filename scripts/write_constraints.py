"""Write constraints-<version>.txt for every Python that histomix supports: the versions that `make install` takes.

Needs uv (`pip install uv`) and the Python package index, but no Python other than the one that runs it:

    python scripts/write_constraints.py                # keep every pin that still holds, add what is missing
    python scripts/write_constraints.py --upgrade      # the newest of everything; then run .ci/run
    python scripts/write_constraints.py --upgrade-package numpy
    python scripts/write_constraints.py --check        # write nothing; exit 1 if a file would change

The pins are one stack: those of the first Python are the ones that the whole test suite runs with, and the other files
start from them and differ only where a pin does not hold on their Python. Beside pyproject.toml and the files
themselves, the answer depends on the index only, and with --until on the index of that day.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from resolving import PYTHONS, ROOT, resolve

HEADER = """\
# The versions that `make install` takes on Python {python}, resolved for Linux on x86_64; elsewhere pip takes what is
# not named here as it comes. Written by scripts/write_constraints.py: do not edit.
"""


def main(upgrade: bool, packages: list[str], until: str | None, check: bool) -> int:
    """Write the files, or say which would change."""
    wanted = ["--upgrade"] if upgrade else [f"--upgrade-package={name}" for name in packages]
    always = [f"--exclude-newer={until}"] if until else []
    stale = []
    with tempfile.TemporaryDirectory() as folder:
        first = ""
        for python in PYTHONS:
            target, pins = ROOT / f"constraints-{python}.txt", Path(folder) / f"{python}.txt"
            # The tested pins first: what stood in this file counts only for what they leave open.
            own = target.read_text() if target.is_file() else ""
            pins.write_text(first + ("" if upgrade else _left_open(own, first)))
            resolve("dev", python, pins, options=(*always, *([] if first else wanted)))
            first = first or pins.read_text()
            text = HEADER.format(python=python) + pins.read_text()
            if text != own:
                stale.append(target.name)
            if not check:
                target.write_text(text)
            print(f"{target.name}: {len(pins.read_text().splitlines())} versions{', changed' if text != own else ''}")
    return int(check and bool(stale))


def _left_open(own: str, first: str) -> str:
    """The pins of a file whose packages the tested ones do not name."""
    named = {line.split("==")[0] for line in first.splitlines()}
    return "".join(f"{line}\n" for line in own.splitlines() if "==" in line and line.split("==")[0] not in named)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    words.add_argument("--upgrade-package", action="append", default=[], metavar="NAME", help="take its newest version")
    words.add_argument("--until", metavar="DATE", help="the index as it was on this day (YYYY-MM-DD)")
    words.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")
    given = words.parse_args()
    sys.exit(main(given.upgrade, given.upgrade_package, given.until, given.check))
