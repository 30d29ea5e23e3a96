"""Where composition maps are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import MapError
from .map import MAP_FILE


def maps_in(folder: Path) -> list[Path]:
    """Folders with a composition map: this one, or else those in it."""
    return [folder] if (folder / MAP_FILE).is_file() else sorted(path.parent for path in folder.glob(f"*/{MAP_FILE}"))


def find_maps(folders: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Folders with a composition map: those given, or those in them.

    Raises
    ------
    MapError
        A folder holds no map.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        here = maps_in(folder)
        if not here:
            raise MapError("holds no composition map", where=folder, hint="Give folders made by histomix predict")
        found += here
    return found
