"""Regions in GeoJSON and tables, and cells that a map is scored against."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from .. import commands
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_json, of_text
from ..materials import Materials

_SQUARE = [[0, 0], [224, 0], [224, 224], [0, 224], [0, 0]]


def _feature(ring: Any, name: str = "left", kind: str = "Polygon") -> dict[str, Any]:
    rings = ring if kind != "Polygon" else [ring]
    properties = {"objectType": "annotation", "name": name, "classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": rings}, "properties": properties}


def _collection(*features: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def _predict(room: Path, materials: Materials) -> None:
    Image.fromarray(materials.pixels()).save(room / "slide.png")
    (room / "regions.geojson").write_text(json.dumps(_collection(_feature(_SQUARE))))


def _score(room: Path, materials: Materials) -> None:
    shutil.copytree(materials.map, room / "slide")
    right = [[x + 224, y] for x, y in _SQUARE]
    text = json.dumps(_collection(_feature(_SQUARE), _feature(right, "right")))
    (room / "regions.geojson").write_text(text)
    rng = np.random.default_rng(2)
    types = ["Cancer epithelial", "T cells", "Fibroblasts"]
    table = pd.DataFrame({"x_px": rng.uniform(1, 440, 80).round(2), "y_px": rng.uniform(1, 220, 80).round(2)})
    table.assign(cell_type=rng.choice(types, 80)).to_csv(room / "cells.csv", index=False)
    pd.DataFrame({"x_px": [112, 336], "y_px": [112, 112], "region": ["left", "right"]}).to_csv(
        room / "regions.csv", index=False
    )


def _scored(name: str, file: str, *more: str) -> Role:
    def result(_room: Path) -> pd.DataFrame:
        return commands.table_of("out/metrics.csv", "head", "fold", "cell_type", "metric")[["value"]]

    def argv(_room: Path, _materials: object) -> list[str]:
        return ["score", "slide", "--out", "out", "--no-spatial", "--json", *more]

    return Role(name, file, _score, argv, result)


def _ring(ring: Any, kind: str = "Polygon") -> Damage:
    return of_json.by_object(lambda _top: _collection(_feature(ring, kind=kind)))


def _shapes() -> list[tuple[str, Damage, str]]:
    circle = [[112 + 200 * math.cos(t), 112 + 200 * math.sin(t)] for t in np.linspace(0, 2 * math.pi, 200_000)]
    nan = float("nan")
    return [
        ("nan", _ring([*_SQUARE[:2], [nan, 224], *_SQUARE[3:]]), ERROR),
        ("infinite", _ring([*_SQUARE[:2], [math.inf, 224], *_SQUARE[3:]]), ERROR),
        ("null-place", _ring([*_SQUARE[:2], [None, 224], *_SQUARE[3:]]), ERROR),
        ("text", _ring([*_SQUARE[:2], ["a", "b"], *_SQUARE[3:]]), ERROR),
        ("number-in-text", _ring([*_SQUARE[:2], ["224", "224"], *_SQUARE[3:]]), EITHER),
        ("true", _ring([*_SQUARE[:2], [True, True], *_SQUARE[3:]]), ERROR),
        ("one-number", _ring([*_SQUARE[:2], [224], *_SQUARE[3:]]), ERROR),
        ("three-numbers", _ring([[*place, 7] for place in _SQUARE]), RIGHT),
        ("self-crossing", _ring([[0, 0], [224, 224], [224, 0], [0, 224], [0, 0]]), UNTOLD),
        ("not-closed", _ring(_SQUARE[:4]), RIGHT),
        ("turned", _ring(_SQUARE[::-1]), RIGHT),
        ("two-places", _ring(_SQUARE[:2]), ERROR),
        ("no-places", _ring([]), ERROR),
        ("flat", _ring([[0, 0], [224, 0], [100, 0], [0, 0]]), ERROR),
        ("one-place-often", _ring([[5, 5]] * 10), ERROR),
        ("huge", _ring([[x * 1e300, y * 1e300] for x, y in _SQUARE]), UNTOLD),
        ("negative", _ring([[-x - 1000, -y - 1000] for x, y in _SQUARE]), ERROR),
        ("many-vertices", _ring(circle), UNTOLD),
        ("point", _ring([5, 5], "Point"), ERROR),
        ("line", _ring(_SQUARE, "LineString"), ERROR),
        ("kind-unknown", _ring(_SQUARE, "Blob"), ERROR),
        ("multi", _ring([[_SQUARE]], "MultiPolygon"), RIGHT),
        ("collection", of_json.by_object(lambda _top: _collection(_nested(1))), RIGHT),
        ("collection-deep", of_json.by_object(lambda _top: _collection(_nested(5))), RIGHT),
        ("collection-of-null", of_json.set_at(("features", 0, "geometry"), _geometries(None)), ERROR),
        ("collection-of-text", of_json.set_at(("features", 0, "geometry"), _geometries("a")), ERROR),
        ("collection-empty", of_json.set_at(("features", 0, "geometry"), _geometries([])), ERROR),
        ("multi-empty", _ring([], "MultiPolygon"), ERROR),
        ("multi-flat", _ring([_SQUARE], "MultiPolygon"), ERROR),
        ("hole-outside", _ring([_SQUARE, [[x + 1e4, y] for x, y in _SQUARE]], "Polygon2"), ERROR),
        ("no-features", of_json.by_object(lambda _top: _collection()), ERROR),
        ("features-null", of_json.by_object(lambda _top: {"type": "FeatureCollection", "features": None}), ERROR),
        ("features-numbers", of_json.by_object(lambda _top: _collection(1, 2)), ERROR),
        ("geometry-null", of_json.set_at(("features", 0, "geometry"), None), ERROR),
        ("properties-null", of_json.set_at(("features", 0, "properties"), None), UNTOLD),
        ("name-number", of_json.set_at(("features", 0, "properties", "name"), 7), UNTOLD),
        ("name-list", of_json.set_at(("features", 0, "properties", "name"), [1, {}]), UNTOLD),
        ("class-number", of_json.set_at(("features", 0, "properties", "classification"), 7), UNTOLD),
        (
            "many-features",
            of_json.by_object(lambda _top: _collection(*[_feature(_SQUARE, f"r{n}") for n in range(3000)])),
            UNTOLD,
        ),
        ("list-of-features", of_json.by_object(lambda top: top["features"]), EITHER),
        ("one-feature", of_json.by_object(lambda top: top["features"][0]), EITHER),
        ("gzip", lambda path, _rng: path.write_bytes(gzip.compress(path.read_bytes())) and None, EITHER),
        ("nested-geometries", of_json.by_object(lambda _top: _collection(_nested(40_0))), EITHER),
    ]


def _nested(depth: int) -> dict[str, Any]:
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [_SQUARE]}
    for _ in range(depth):
        geometry = {"type": "GeometryCollection", "geometries": [geometry]}
    properties = {"objectType": "annotation", "name": "left", "classification": {"name": "left"}}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _geometries(value: Any) -> dict[str, Any]:
    return {"type": "GeometryCollection", "geometries": value}


def cases() -> Iterator[Case]:
    """Cases of regions and of cells."""
    role = Role(
        "regions-predict",
        "regions.geojson",
        _predict,
        lambda _room, materials: commands.predict_with(materials, "slide.png", "--regions", "regions.geojson"),
        lambda _room: commands.map_of("slide"),
    )
    yield from cases_of(role, [*_shapes(), *of_json.WHOLE, *of_bytes.LOST])
    expect = ("--expect", "left=T cells")
    scored = _scored("regions-score", "regions.geojson", "--regions", "regions.geojson", *expect)
    other = [(name, damage, UNTOLD if wanted in (RIGHT, EITHER) else wanted) for name, damage, wanted in _shapes()]
    # The shapes take the place of both regions.
    yield from cases_of(scored, [*((n, d, UNTOLD if w == ERROR else w) for n, d, w in other), *of_json.WHOLE])
    table = _scored("regions-table", "regions.csv", "--regions", "regions.csv", *expect)
    yield from cases_of(table, [*of_text.SAME, *of_text.OTHER, *of_text.cells(0)])
    cells = _scored("score-cells", "cells.csv", "--cells", "cells.csv")
    yield from cases_of(cells, of_text.table(0))
