"""Regions that a pathologist drew or named: polygons of GeoJSON, or a table of spots."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ...common.geometry.polygons import Region, region_at
from ...common.geometry.polygons import read_regions as polygon_regions
from ...common.naming import plain_name
from ...common.tables import column_names, numbers, read_columns, to_numeric
from ...errors import InputError, MissingFileError

Array = NDArray[np.float64]

#: Columns of a table of regions, in lower case: the name of the region, the key of the spot, its place and its array
#: coordinates (legacy ST keys are ``{x}x{y}``, rounded).
_REGION = ("region", "label", "annotation", "classification", "class", "domain", "pathologist")
_KEYS = ("spot", "barcode", "spot_id", "key", "row.names", "index", "")
_PLACES = (("x_px", "y_px"), ("pixel_x", "pixel_y"), ("pxl_col_in_fullres", "pxl_row_in_fullres"))
_ARRAY = ("x", "y")
#: Names, in lower case, by which a spot is said to belong to no region.
_NOWHERE = frozenset({"", "nan", "na", "none", "undetermined", "unknown", "unlabeled", "unlabelled"})
_HINT = "Give a table with a column spot (or x_px, y_px) and a column region, or GeoJSON polygons as of QuPath"


@dataclass(frozen=True, eq=False)
class Regions:
    """Named regions of one section.

    Attributes
    ----------
    polygons
        In level-0 px less the slide's bounds; where they overlap, the smaller one counts.
    keys
        Spot keys that are known by name; several spellings of one table.
    places_px, names
        Places (n, 2), level-0 px, and the region of each, for tables without keys.
    source
        The file.
    """

    polygons: tuple[Region, ...] = ()
    keys: tuple[Mapping[str, str], ...] = ()
    positions_px: Array = field(default_factory=lambda: np.zeros((0, 2)))
    names: tuple[str, ...] = ()
    source: str = ""

    @property
    def classes(self) -> dict[str, str]:
        """Class of each drawn region that has one, by its name."""
        return {one.name: one.group for one in self.polygons if one.group}

    @property
    def all_names(self) -> list[str]:
        """Names of all regions that were drawn or written, whether a tile lies in them or not."""
        given = [one.name for one in self.polygons] + [name for named in self.keys for name in named.values()]
        named = dict.fromkeys(str(name) for name in [*given, *self.names])
        return [name for name in named if name.strip().lower() not in _NOWHERE]

    def at(
        self, keys: pd.Index, xy_px: Array, reach_px: float = 0.0, bounds_px: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.object_]:
        """Region of each spot or tile, None where it lies in none.

        Parameters
        ----------
        keys, xy_px
            Keys and centres (n, 2), level-0 px, of the spots.
        reach_px
            How far the place of a table may be from the centre of a spot that no key names.
        bounds_px
            Corner of the slide's bounds, from which QuPath counts.

        Raises
        ------
        InputError
            No spot lies in any region.
        """
        names = np.full(len(keys), None, dtype=object)
        inside = np.asarray(xy_px, dtype=np.float64) - np.asarray(bounds_px, dtype=np.float64)
        number = region_at(self.polygons, inside)
        for index, region in enumerate(self.polygons):
            names[number == index] = region.name
        spelled = [[named.get(str(key)) for key in keys] for named in self.keys]
        if spelled:
            best = max(spelled, key=lambda spelling: sum(name is not None for name in spelling))
            names[:] = best
        if not _any(names) and len(self.positions_px) and reach_px > 0:
            distance, nearest = cKDTree(self.positions_px).query(xy_px)
            near = distance <= reach_px
            names[near] = np.array(self.names, dtype=object)[nearest[near]]
        if not _any(names):
            raise InputError(
                f"none of the {len(keys):,} spots (such as {keys[0] if len(keys) else '-'}) lies in a region",
                where=self.source,
                hint="Give the regions of this section, with the same keys or in level-0 px of the same image",
            )
        nowhere = [name is None or str(name).strip().lower() in _NOWHERE for name in names]
        names[np.array(nowhere, dtype=bool)] = None
        return names


def read_regions(path: str | os.PathLike[str]) -> Regions:
    """Read the regions of one section.

    Parameters
    ----------
    path
        GeoJSON (``.geojson``, ``.json``, gzipped or not): polygons with ``properties.name`` or, where an annotation has
        none, ``properties.classification.name`` (QuPath), as `histomix.predict` names them, in level-0 px less the
        slide's bounds. Or a table (CSV, TSV, Parquet): a column ``region`` (or label, annotation, class) with ``spot``
        (or barcode), array coordinates ``x``, ``y``, or ``x_px``, ``y_px``.

    Raises
    ------
    InputError
        The file is absent, or holds no regions in either form.
    """
    place = Path(path)
    if not place.is_file():
        raise MissingFileError("there is no such file", where=place, hint=_HINT)
    if place.name.lower().removesuffix(".gz").endswith((".geojson", ".json")):
        return _polygons(place)
    present = column_names(place)
    lower = {name.lower(): name for name in reversed(present)}
    region = next((lower[name] for name in _REGION if name in lower), None)
    if region is None:
        raise InputError(f"has no column of regions (it has: {', '.join(present[:8])})", where=place, hint=_HINT)
    pair = next((pair for pair in _PLACES if set(pair) <= set(lower)), None)
    ids = [lower[name] for name in _KEYS if name in lower]
    wanted = [region, *ids, *(lower[name] for name in (*(pair or ()), *_ARRAY) if name in lower)]
    table = read_columns(place, list(dict.fromkeys(wanted)))
    names = [plain_name(name) for name in table[region]]
    keys = [_by_key(table[one].astype(str).str.strip(), names, place) for one in ids]
    if set(_ARRAY) <= set(lower):
        rounded = [to_numeric(table[lower[axis]]).round() for axis in _ARRAY]
        spelled = [f"{x:.0f}x{y:.0f}" for x, y in zip(*rounded, strict=True)]
        keys.append(dict(zip(spelled, names, strict=True)))
    xy, placed = np.zeros((0, 2)), np.zeros(len(names), dtype=bool)
    if pair is not None:
        # Beside keys, places are a second way to find a spot, and may be lacking.
        columns = [
            to_numeric(table[lower[name]]).to_numpy(np.float64) if keys else numbers(table, lower[name], place)
            for name in pair
        ]
        both = np.stack(columns, axis=1)
        placed = np.isfinite(both).all(axis=1)
        xy = both[placed]
    if not keys and not len(xy):
        raise InputError(f"names no spots (it has: {', '.join(present[:8])})", where=place, hint=_HINT)
    return Regions(
        keys=tuple(keys),
        positions_px=xy,
        names=tuple(name for name, keep in zip(names, placed, strict=True) if keep),
        source=str(place),
    )


def _by_key(keys: Iterable[str], names: Iterable[str], place: Path) -> dict[str, str]:
    """Region of each spot; InputError where one is said to lie in two."""
    named: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key and named.setdefault(key, name) != name:
            raise InputError(
                f"says that the spot '{key}' is of '{named[key]}' and of '{name}'",
                where=place,
                hint="Keep one row per spot, and the regions of one section",
            )
    return named


def read_section_regions(path: str | os.PathLike[str], sections: list[str]) -> dict[str, Regions]:
    """Regions of the sections of a cohort: a folder of files that begin with the section's name, or one section's file.

    Raises
    ------
    InputError
        No file belongs to a section, two belong to one, or a file is none of regions.
    """
    place = Path(path)
    if place.is_file():
        named = [name for name in sections if _is_of(place, name)]
        if len(named) != 1 and len(sections) != 1:
            raise InputError(
                f"its name begins with that of none of the sections {', '.join(sections[:5])}",
                where=place,
                hint="Call it by its section, as in C1_regions.csv, or give a folder of such files",
            )
        return {(named or sections)[0]: read_regions(place)}
    if not place.is_dir():
        raise MissingFileError("there is no such file or folder", where=place, hint=_HINT)
    regions = {}
    for name in sections:
        files = [one for one in sorted(place.iterdir()) if one.is_file() and _is_of(one, name)]
        if len(files) > 1:
            raise InputError(f"has several files of section {name}", where=place, hint="Keep one file for each section")
        if files:
            regions[name] = read_regions(files[0])
    if not regions:
        raise InputError(
            f"has no file that begins with the name of a section ({', '.join(sections[:5])})", where=place, hint=_HINT
        )
    return regions


def _is_of(file: Path, section: str) -> bool:
    rest = file.name[len(section) :]
    return file.name.startswith(section) and not rest[:1].isalnum()


def _polygons(path: Path) -> Regions:
    named = polygon_regions(path, named_only=True, hint=_HINT)
    if not named:
        raise InputError("holds no polygon that has a class or a name", where=path, hint=_HINT)
    return Regions(polygons=tuple(named), source=str(path))


def _any(names: NDArray[np.object_]) -> bool:
    return any(name is not None for name in names)
