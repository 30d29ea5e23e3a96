"""Where composition maps are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from anndata import AnnData

from ..common.paths import as_list
from ..errors import MapError
from .map import MAP_FILE, CompositionMap

#: A map, or a folder of one or of several.
MapSource: TypeAlias = str | os.PathLike[str] | AnnData | CompositionMap


def maps_in(folder: Path) -> list[Path]:
    """Folders with a composition map: this one, or else those in it, or else those at any depth."""
    if (folder / MAP_FILE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{MAP_FILE}")) or sorted(
        path.parent
        for path in folder.rglob(MAP_FILE)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def find_maps(sources: MapSource | Sequence[MapSource]) -> list[Path | CompositionMap]:
    """Maps in memory as they are, and folders with a map: those given, or those in them.

    Parameters
    ----------
    sources
        One, or several. Maps in folders are not opened, so that there may be any number; see `CompositionMap.of`.

    Raises
    ------
    MapError
        None was given, there is no such folder, it holds no map, or a table is none.
    """
    maps: list[Path | CompositionMap] = []
    for source in as_list(sources):
        if isinstance(source, AnnData | CompositionMap):
            maps.append(CompositionMap.of(source))
            continue
        folder = Path(source)
        here = maps_in(folder)
        if not folder.exists():
            raise MapError("there is no such folder", where=folder, hint="Check the path")
        if not here:
            raise MapError("holds no composition map", where=folder, hint="Give folders made by histomix predict")
        maps += here
    if not maps:
        raise MapError("no maps were given", hint="Give folders made by histomix predict")
    return maps
