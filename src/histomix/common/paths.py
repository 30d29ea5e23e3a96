"""Paths in tables that travel between systems, and paths among what a function is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def path_in_table(folder: Path, text: str) -> Path:
    r"""The path that a table in ``folder`` names, relative to it; ``images\A.jpg``, as Windows writes it, too."""
    path = folder / text
    if os.sep == "/" and "\\" in text and not exists(path):
        return folder / text.replace("\\", "/")
    return path


def exists(path: Path) -> bool:
    """Whether something is there; False also for what cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for a file, or with a null mark
        return False


def as_list(given: Any) -> list[Any]:
    """What was given, alone or in a list or tuple, as a list; a text is one thing."""
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def paths_among(given: Sequence[Any]) -> list[Path]:
    """Those of the things that are paths."""
    return [Path(one) for one in given if isinstance(one, str | os.PathLike)]
