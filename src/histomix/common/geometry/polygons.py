"""Polygons of GeoJSON, such as QuPath exports, and which of them a place lies in.

One rule for edges: a place on the edge of a polygon, or of a hole in it, lies inside. Rings that cross themselves count
by the even-odd rule.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...provenance import parse_json
from ..naming import plain_name
from ..tables import read_bytes

if TYPE_CHECKING:
    from shapely import Geometry

_HINT = "Export the annotations from QuPath as GeoJSON (File > Export objects as GeoJSON)"


@dataclass(frozen=True, eq=False)
class Region:
    """A named area: polygons with their holes, in px as the file has them; ``group`` is its annotations' class."""

    name: str
    shape: Geometry
    group: str = ""

    @property
    def area(self) -> float:
        """Area in px2, holes taken off; what several of its polygons cover counts once."""
        return float(self.shape.area)

    def contains(self, xy: np.ndarray) -> np.ndarray:
        """Whether points (n, 2) lie inside: bool (n,). An edge is inside, a hole is outside."""
        import shapely

        shapely.prepare(self.shape)
        return np.asarray(shapely.intersects_xy(self.shape, xy[:, 0], xy[:, 1]), dtype=bool)

    def moved(self, by_px: tuple[float, float]) -> Region:
        """The region, moved in x and in y."""
        from shapely.affinity import translate

        return replace(self, shape=translate(self.shape, *by_px))


def read_regions(path: str | os.PathLike[str], *, named_only: bool = False, hint: str = _HINT) -> list[Region]:
    """Read polygons and multipolygons with their holes and names.

    A region's name is its ``name``, else its class, else ``region N`` by its place in the file; regions of one name
    are one region. Lines and points are passed over, and so are cores of a tissue microarray that QuPath says are
    missing; the others are called as in its grid (``A-1``).

    Parameters
    ----------
    path
        A FeatureCollection, a list of features, one feature, or one geometry; gzipped or not.
    named_only
        Pass over polygons that have neither name nor class.
    hint
        What to say of a file that is no GeoJSON.

    Raises
    ------
    InputError
        The file cannot be read as GeoJSON, a polygon in it is no ring of numbers, or it holds no polygon.
    """
    import shapely

    named: dict[str, list[Geometry]] = {}
    group: dict[str, str] = {}
    for number, properties, shape in read_polygons(Path(path), hint):
        if properties.get("isMissing") is True:
            continue
        own = plain_name(class_of(properties) or "")
        name = plain_name(properties.get("name") or "") or own
        if name or not named_only:
            named.setdefault(name or f"region {number}", []).append(shape)
            group.setdefault(name, own)
    if not named and not named_only:
        raise InputError("holds no polygon", where=path, hint=hint)
    return [Region(name, shapely.union_all(shapes), group.get(name, "")) for name, shapes in named.items()]


def region_at(regions: Sequence[Region], xy_px: np.ndarray) -> np.ndarray:
    """The number (from 0) of the region that each point (n, 2) lies in, -1 for none: int32 (n,).

    Of regions that overlap the smallest counts, so that an annotation inside another keeps its own name.
    """
    result = np.full(len(xy_px), -1, np.int32)
    for number in sorted(range(len(regions)), key=lambda n: -regions[n].area):
        result[regions[number].contains(xy_px)] = number
    return result


def read_polygons(path: Path, hint: str = _HINT) -> Iterator[tuple[int, Mapping[str, Any], Geometry]]:
    """Number (from 1), properties and shape of each feature of a GeoJSON that has polygons.

    Raises
    ------
    InputError
        The file cannot be read as GeoJSON, or a polygon in it is no ring of numbers.
    """
    try:
        content = parse_json(read_bytes(path, InputError))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"is no JSON ({error})", where=path, hint=hint) from error
    for number, feature in enumerate(_features(content), start=1):
        if not isinstance(feature, Mapping):
            raise InputError(f"its feature {number} is no object", where=path, hint=hint)
        geometry, properties = feature.get("geometry", feature), feature.get("properties")
        try:
            shape = _shape(geometry if isinstance(geometry, Mapping) else {})
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            reason = error if isinstance(error, ValueError) else "its rings are not lists of x and y"
            raise InputError(f"feature {number} is no polygon of numbers ({reason})", where=path, hint=hint) from error
        if shape is not None:
            yield number, properties if isinstance(properties, Mapping) else {}, shape


def class_of(properties: Mapping[str, Any]) -> Any:
    """The class of an annotation, as QuPath writes it; None where it has none.

    A class that is derived from others is a list of ``names``: ``["Tumor", "Positive"]`` is ``"Tumor: Positive"``, as
    QuPath shows it.
    """
    group = properties.get("classification")
    if not isinstance(group, Mapping):
        return group
    names = group.get("names")
    return group.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)


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


def _shape(geometry: Mapping[str, Any]) -> Geometry | None:
    """The valid polygons of a geometry; None where it has none."""
    import shapely

    rings = [[_ring(ring) for ring in polygon] for polygon in _polygons(geometry) if len(polygon)]
    if not rings:
        return None
    whole = shapely.make_valid(np.array([shapely.Polygon(outer, holes) for outer, *holes in rings], dtype=object))
    # A ring that goes to and fro leaves lines, which cover nothing.
    parts = shapely.get_parts(shapely.get_parts(whole))
    return shapely.union_all(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])


def _polygons(geometry: Mapping[str, Any]) -> Iterator[Any]:
    """The polygons of a geometry, each a list of rings; those of a collection too, which QuPath writes of some."""
    waiting: list[Any] = [geometry]
    while waiting:
        one = waiting.pop()
        kind, coordinates = one.get("type"), one.get("coordinates")
        if kind == "Polygon":
            yield coordinates
        elif kind == "MultiPolygon":
            yield from coordinates
        elif kind == "GeometryCollection":
            waiting += one["geometries"]


def _ring(ring: Sequence[Sequence[float]]) -> np.ndarray:
    points = np.asarray([point[:2] for point in ring], dtype=float)
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"a ring of {len(ring)} points")
    return points  # shapely closes it
