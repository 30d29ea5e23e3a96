"""What the Python package index offers for a Python that need not be at hand, by the resolver of uv.

Used by write_constraints.py and extras_table.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The first is the one that the whole test suite runs on.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LINUX = "x86_64-manylinux_2_28"
#: Pure Python that is published as source only (or whose newest release is), so that anyone's pip can build it.
#: Everything else must have a wheel: a compiler that users lack would make "resolves" mean nothing.
SOURCES = ("cell2location", "docrep", "flowio", "pims")


class NotResolvable(Exception):
    """There is no set of versions that fits; the message is the resolver's."""


def find_uv() -> str:
    """The program uv: beside this Python or on the path."""
    compare = Path(sys.executable).with_name("uv")
    found = str(compare) if compare.is_file() else shutil.which("uv")
    if found is None:
        sys.exit(f"needs uv, which resolves for a Python that is not at hand: {sys.executable} -m pip install uv")
    return found


def resolve(
    extra: str | None, python: str, target: Path, *, platform: str = LINUX, options: tuple[str, ...] = ()
) -> None:
    """Choose a version of everything that ``histomix[extra]`` needs on a Python.

    Parameters
    ----------
    extra
        An extra of pyproject.toml; None is the core alone.
    python, platform
        Such as ``"3.13"``, and a platform as uv names it.
    target
        Where to write: pins, or with ``pylock.NAME.toml`` the files to download and their sizes. Versions that stand
        there already are kept where they still hold.
    options
        More options of ``uv pip compile``.

    Raises
    ------
    NotResolvable
        No set of versions fits.
    """
    command = [find_uv(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "pyproject.toml"]
    command += ["--python-version", python, "--python-platform", platform, "--output-file", str(target)]
    command += ["--only-binary", ":all:", *(word for name in SOURCES for word in ("--no-binary", name)), *options]
    command += ["--extra", extra] if extra else []
    # Wheels of the core for Apple's processors ask for macOS 14 on the newest Pythons.
    environment = {"MACOSX_DEPLOYMENT_TARGET": "14.0", **os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if found.returncode and "No solution found" in found.stderr:
        raise NotResolvable(found.stderr.strip())
    if found.returncode:
        sys.exit(f"uv failed for Python {python}:\n{found.stderr}")
