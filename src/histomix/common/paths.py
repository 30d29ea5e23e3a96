"""Paths in tables that travel between systems."""

from __future__ import annotations

import os
from pathlib import Path


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
