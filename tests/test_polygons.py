"""GeoJSON as people and programs write it: every legal way to hold a polygon, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histomix.common.geometry.polygons import read_polygons, read_regions
from histomix.errors import InputError, MissingFileError

SQUARE: dict[str, Any] = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}
FEATURE = {"type": "Feature", "properties": {"name": "A"}, "geometry": SQUARE}


def read(folder: Path, content: Any) -> list[tuple[int, Any, float]]:
    path = folder / "regions.geojson"
    path.write_text(json.dumps(content), encoding="utf-8")
    return [(number, dict(properties), shape.area) for number, properties, shape in read_polygons(path)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (SQUARE, [(1, {}, 100.0)]),
        (FEATURE, [(1, {"name": "A"}, 100.0)]),
        ([FEATURE, FEATURE], [(1, {"name": "A"}, 100.0), (2, {"name": "A"}, 100.0)]),
        ({"type": "FeatureCollection", "features": [FEATURE]}, [(1, {"name": "A"}, 100.0)]),
        ({"type": "GeometryCollection", "geometries": [SQUARE, SQUARE]}, [(1, {}, 100.0), (2, {}, 100.0)]),
        ({"type": "FeatureCollection", "features": None}, []),
        ({"type": "GeometryCollection", "geometries": None}, []),
        # QuPath writes what a shape of several kinds is made of as a collection.
        (
            {**FEATURE, "geometry": {"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point"}]}},
            [(1, {"name": "A"}, 100.0)],
        ),
        # A feature without a place, as QuPath and GeoJSON allow, and properties that are none.
        ([{**FEATURE, "geometry": None}, FEATURE], [(2, {"name": "A"}, 100.0)]),
        ({**FEATURE, "properties": None}, [(1, {}, 100.0)]),
        ({**FEATURE, "geometry": {"type": "Point", "coordinates": [1, 1]}}, []),
    ],
)
def test_every_way_to_hold_a_polygon(tmp_path: Path, content: Any, expected: list[Any]) -> None:
    assert read(tmp_path, content) == expected


def test_a_ring_may_be_open_and_have_heights(tmp_path: Path) -> None:
    triangle = {"type": "Polygon", "coordinates": [[[0, 0, 5], [8, 0, 5], [0, 6, 5]]]}
    assert read(tmp_path, triangle) == [(1, {}, 24.0)]


@pytest.mark.parametrize(
    "ring",
    [[[0, 0], [1, 1]], [[0], [1], [2]], [[0, 0], [1, 0], [float("nan"), 1]], [["a", 0], [1, 0], [1, 1]], [1, 2, 3]],
)
def test_what_is_no_ring_of_numbers_is_refused(tmp_path: Path, ring: Any) -> None:
    with pytest.raises(InputError, match="feature 2 is no polygon of numbers"):
        read(tmp_path, [FEATURE, {**FEATURE, "geometry": {"type": "Polygon", "coordinates": [ring]}}])


@pytest.mark.parametrize("parts", [None, 3, "ab", [None], [{"type": "Polygon", "coordinates": None}]])
def test_a_collection_that_holds_none_is_refused(tmp_path: Path, parts: Any) -> None:
    with pytest.raises(InputError, match="feature 1 is no polygon of numbers"):
        read(tmp_path, {**FEATURE, "geometry": {"type": "GeometryCollection", "geometries": parts}})


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no such file"):
        list(read_polygons(tmp_path / "nothing.geojson"))
    with pytest.raises(InputError, match="is a folder, not a file") as raised:
        list(read_polygons(tmp_path))
    assert not isinstance(raised.value, MissingFileError)
    with pytest.raises(InputError, match="its feature 1 is no object"):
        read(tmp_path, [3])
    (tmp_path / "regions.geojson").write_text("[]")
    with pytest.raises(InputError, match="holds no polygon"):
        read_regions(tmp_path / "regions.geojson")


def test_regions_without_a_name_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "regions.geojson"
    classed = {**FEATURE, "properties": {"classification": {"name": "Tumour"}}}
    path.write_text(json.dumps([{**FEATURE, "properties": {}}, FEATURE, classed]))
    assert [region.name for region in read_regions(path)] == ["region 1", "A", "Tumour"]
