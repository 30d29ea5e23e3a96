"""Regions of interest from a GeoJSON, such as QuPath exports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, MissingFileError

_HINT = "Export the annotations from QuPath as GeoJSON (File > Export objects as GeoJSON)"


@dataclass(frozen=True, eq=False)
class Region:
    """A named area: polygons, each an outer ring and its holes, float64 (n, 2) in px as the file has them."""

    name: str
    polygons: tuple[tuple[np.ndarray, ...], ...]

    @property
    def area(self) -> float:
        """Area in px2, holes taken off."""
        return sum(abs(_area(rings[0])) - sum(abs(_area(hole)) for hole in rings[1:]) for rings in self.polygons)

    def contains(self, xy: np.ndarray) -> np.ndarray:
        """Whether points (n, 2) lie inside: bool (n,). A hole is outside; so is what lies beyond every polygon."""
        inside = np.zeros(len(xy), bool)
        for rings in self.polygons:
            box = np.flatnonzero(np.all((xy >= rings[0].min(axis=0)) & (xy <= rings[0].max(axis=0)), axis=1))
            here = np.zeros(len(box), bool)
            for ring in rings:
                here ^= _crossings_are_odd(ring, xy[box])
            inside[box] |= here
        return inside


def read_regions(path: str | os.PathLike[str]) -> list[Region]:
    """Read polygons and multipolygons with their holes and names.

    A region's name is its ``name``, else its class, else ``region N`` by its place in the file; regions of one name
    are one region. Lines and points are passed over.

    Parameters
    ----------
    path
        A FeatureCollection, a list of features, one feature, or one geometry.

    Raises
    ------
    InputError
        The file cannot be read as GeoJSON, a polygon in it is no ring of numbers, or it holds no polygon.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        kind = MissingFileError if isinstance(error, FileNotFoundError) else InputError
        raise kind(f"cannot be read ({error.strerror or error})", where=path, hint="Check the path") from error
    except ValueError as error:
        raise InputError(f"is no JSON ({error})", where=path, hint=_HINT) from error
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for number, feature in enumerate(_features(content), start=1):
        if not isinstance(feature, Mapping):
            raise InputError(f"its feature {number} is no object", where=path, hint=_HINT)
        geometry = feature.get("geometry", feature)
        polygons = _polygons(geometry if isinstance(geometry, Mapping) else {}, f"feature {number}", path)
        if polygons:
            found.setdefault(_name(feature, number), []).extend(polygons)
    if not found:
        raise InputError("holds no polygon", where=path, hint=_HINT)
    return [Region(name, tuple(polygons)) for name, polygons in found.items()]


def region_at(regions: Sequence[Region], xy_px: np.ndarray) -> np.ndarray:
    """The number (from 0) of the region that each point (n, 2) lies in, -1 for none: int32 (n,).

    Of regions that overlap the smallest counts, so that an annotation inside another keeps its own name.
    """
    result = np.full(len(xy_px), -1, np.int32)
    for number in sorted(range(len(regions)), key=lambda n: -regions[n].area):
        result[regions[number].contains(xy_px)] = number
    return result


def _features(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    if isinstance(content, Mapping) and content.get("type") == "FeatureCollection":
        features = content.get("features")
        return features if isinstance(features, list) else []
    if isinstance(content, Mapping) and content.get("type") == "GeometryCollection":
        geometries = content.get("geometries")
        return geometries if isinstance(geometries, list) else []
    return [content]


def _name(feature: Mapping[str, Any], number: int) -> str:
    properties = feature.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    kind = properties.get("classification")
    named = properties.get("name") or (kind.get("name") if isinstance(kind, Mapping) else kind)
    return str(named) if named else f"region {number}"


def _polygons(geometry: Mapping[str, Any], what: str, path: Path) -> list[tuple[np.ndarray, ...]]:
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "Polygon":
        coordinates = [coordinates]
    elif kind != "MultiPolygon":
        return []
    try:
        return [tuple(_ring(ring) for ring in polygon) for polygon in coordinates if len(polygon)]  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is no polygon of numbers ({error})", where=path, hint=_HINT) from error


def _ring(ring: Sequence[Sequence[float]]) -> np.ndarray:
    points = np.asarray([point[:2] for point in ring], dtype=float)
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"a ring of {len(ring)} points")
    return points


def _area(ring: np.ndarray) -> float:
    """Signed area (shoelace), of points moved near the origin, where their products keep their digits."""
    x, y = (ring - ring.mean(axis=0)).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _crossings_are_odd(ring: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Whether a ray from each point to the right crosses the ring an odd number of times (the even-odd rule)."""
    order = np.argsort(xy[:, 1], kind="stable")
    x, y = xy[order].T
    odd = np.zeros(len(xy), bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = (y0, y1) if y0 < y1 else (y1, y0)
        some = slice(*np.searchsorted(y, (low, high)))  # low <= y < high: a corner counts for one of its edges
        odd[some] ^= x[some] < x0 + (y[some] - y0) * (x1 - x0) / (y1 - y0)
    result = np.empty_like(odd)
    result[order] = odd
    return result
