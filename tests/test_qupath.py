"""tiles.geojson against what QuPath documents and reads, and round trips through shapely and geopandas."""

from __future__ import annotations

import gzip
import json
import re
import uuid
import zipfile
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from histomix.common.palette import type_colours
from histomix.common.words import RESEARCH_USE
from histomix.export import export_map
from histomix.maps import composition_geojson, write_composition
from histomix.maps.composition import OUT_OF_SCOPE

from .extras import extra_module

TYPES = ["Tumour", "=cmd()", "T & B: <b>cells</b>", 'quote "\\ '] + [f"type {i}" for i in range(4)]
BOUNDS, CELL = (300, 120), 64.0


@pytest.fixture
def composition() -> ad.AnnData:
    """A grid of 5 x 4 tiles on a slide whose scanned region begins at 300, 120; one is unread, one out of scope."""
    rng = np.random.default_rng(0)
    column, row = (part.ravel() for part in np.meshgrid(np.arange(5), np.arange(4)))
    xy_px = np.stack([400.5 + CELL * column, 200.25 + CELL * row], axis=1)
    values = rng.dirichlet(np.ones(len(TYPES)), len(xy_px)).astype(np.float32)
    values[7] = np.nan
    scope, readable = np.ones(len(xy_px), bool), np.ones(len(xy_px), bool)
    scope[[3, 7]], readable[7] = False, False
    obs = pd.DataFrame(
        {
            **{"x_px": xy_px[:, 0], "y_px": xy_px[:, 1], "tissue": 1.0, "novelty": rng.random(len(xy_px))},
            **{"in_scope": scope, "read_ok": readable},
        },
        index=[f"{x}x{y}" for x, y in zip(column, row, strict=True)],
    )
    obs.loc[obs.index[7], "novelty"] = np.nan
    found = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=TYPES))
    found.layers["lower"], found.layers["upper"] = values * 0.5, np.minimum(values * 1.5, 1)
    found.obsm["spatial"] = xy_px
    slide = {
        "bounds_px": list(BOUNDS),
        "fingerprint": "abc",
        "mpp": 0.5,
        "width_px": 2000,
        "height_px": 1500,
        "file": "x.mrxs",
    }
    found.uns["manifest"] = json.dumps({"slide": slide, "cell_px": CELL, "places": "grid", "unit": "proportion"})
    return found


def check_qupath(content: dict[str, Any]) -> None:
    """Refuse what QuPath 0.4 to 0.6 would refuse, misread or pass over.

    The fields are those of its reader and of its documentation ("Exporting annotations" and "GeoJSON"): a
    FeatureCollection; a UUID as id; a closed ring; ``objectType`` of its own kinds; ``classification`` with ``name``
    and ``color`` as three bytes; ``measurements`` as a map of finite numbers; ``metadata`` as a map of texts.
    """
    assert set(content) == {"type", "features"} and content["type"] == "FeatureCollection"
    colours: dict[str, list[int]] = {}
    for feature in content["features"]:
        assert set(feature) == {"type", "id", "geometry", "properties"} and feature["type"] == "Feature"
        uuid.UUID(feature["id"])
        geometry, properties = feature["geometry"], feature["properties"]
        assert geometry["type"] == "Polygon" and len(geometry["coordinates"]) == 1
        ring = geometry["coordinates"][0]
        assert len(ring) == 5 and ring[0] == ring[-1]
        assert all(isinstance(value, int | float) and np.isfinite(value) for point in ring for value in point)
        known = {"objectType", "name", "color", "classification", "measurements", "metadata", "isLocked"}
        assert set(properties) <= known
        assert properties["objectType"] in {"annotation", "detection", "tile", "cell", "tmaCore", "root"}
        for colour in [properties.get("color"), properties.get("classification", {}).get("color")]:
            if colour is not None:
                assert len(colour) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
        if "classification" in properties:
            name, colour = properties["classification"]["name"], properties["classification"]["color"]
            assert isinstance(name, str) and name
            assert colours.setdefault(name, colour) == colour, "QuPath keeps one colour for a class"
        for name, value in properties.get("measurements", {}).items():
            assert isinstance(name, str) and isinstance(value, int | float) and np.isfinite(value)
        for name, value in properties.get("metadata", {}).items():
            assert isinstance(name, str) and isinstance(value, str)
    ids = [feature["id"] for feature in content["features"]]
    assert len(set(ids)) == len(ids)


def test_the_file_is_what_qupath_documents(composition: ad.AnnData, tmp_path: Path) -> None:
    write_composition(tmp_path, composition)
    content = json.loads((tmp_path / "tiles.geojson").read_text(encoding="utf-8"))
    check_qupath(content)
    assert all(feature["properties"]["objectType"] == "tile" for feature in content["features"])
    assert content == json.loads(json.dumps(composition_geojson(composition)))


def test_a_class_has_one_colour_and_a_tile_out_of_scope_says_so(composition: ad.AnnData) -> None:
    features = composition_geojson(composition)["features"]
    colours = {name: [round(255 * part) for part in colour] for name, colour in type_colours(TYPES).items()}
    for row, feature in enumerate(features):
        properties = feature["properties"]
        if "classification" in properties and row != 3:
            assert properties["classification"]["color"] == colours[properties["classification"]["name"]]
            assert properties["metadata"] == {"use": RESEARCH_USE}
    # No colour of a cell type, and no part in what QuPath counts by class.
    assert features[3]["properties"]["classification"]["name"] == OUT_OF_SCOPE and OUT_OF_SCOPE.endswith("*")
    assert [row for row, one in enumerate(features) if "in scope" in one["properties"].get("measurements", {})] == [3]
    assert features[3]["properties"]["measurements"]["in scope"] == 0 and features[3]["properties"]["metadata"]
    assert set(features[7]["properties"]) == {"objectType", "name"}, "an unread tile is there without numbers"


def test_the_zip_that_qupath_opens(composition: ad.AnnData, tmp_path: Path) -> None:
    write_composition(tmp_path / "slide", composition)
    first, second = (export_map(tmp_path / "slide", "geojson.zip", tmp_path / name) for name in ("one", "two"))
    assert first.name == "slide.geojson.zip" and first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["slide.geojson"]
        check_qupath(json.loads(archive.read("slide.geojson")))


@pytest.mark.parametrize("packed", [False, True])
def test_through_geopandas_and_shapely(composition: ad.AnnData, tmp_path: Path, packed: bool) -> None:
    geopandas = extra_module("st", "geopandas")
    shapely = extra_module("st", "shapely")
    write_composition(tmp_path / "slide", composition)
    path = tmp_path / "slide" / "tiles.geojson"
    if packed:
        data = export_map(tmp_path / "slide", "geojson.gz", tmp_path / "out").read_bytes()
        assert data[4:8] == b"\0\0\0\0", "no time stamp: the same map gives the same bytes"
        path.write_bytes(gzip.decompress(data))
    frame = geopandas.read_file(path)
    assert frame.geometry.is_valid.all() and len(frame) == composition.n_obs
    half = CELL / 2
    middle = composition.obsm["spatial"] - BOUNDS
    expected = shapely.box(middle[:, 0] - half, middle[:, 1] - half, middle[:, 0] + half, middle[:, 1] + half)
    assert shapely.equals(np.asarray(frame.geometry), expected).all(), (
        "level-0 px from the corner of the scanned region"
    )
    overlap = shapely.area(shapely.intersection(np.asarray(frame.geometry)[:-1], np.asarray(frame.geometry)[1:]))
    assert np.allclose(overlap, 0), "tiles of a grid lie side by side"
    measured = [json.loads(one) if isinstance(one, str) else one for one in frame["measurements"]]
    values = np.array(
        [[row[name] for name in TYPES] if isinstance(row, dict) else [np.nan] * len(TYPES) for row in measured]
    )
    np.testing.assert_allclose(values, np.asarray(composition.X), atol=1e-6)
    upper = np.array([row[f"{TYPES[1]} upper"] if isinstance(row, dict) else np.nan for row in measured])
    np.testing.assert_allclose(upper, composition.layers["upper"][:, 1], atol=1e-6)
    assert frame["name"].tolist() == list(composition.obs_names)


def test_the_snippets_of_the_documentation_name_what_is_in_the_file(composition: ad.AnnData) -> None:
    text = (Path(__file__).parents[1] / "docs" / "qupath.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```groovy\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) >= 3
    for code in snippets:
        for opened, closed in ("()", "[]", "{}"):
            assert code.count(opened) == code.count(closed)
        assert code.count("'") % 2 == 0 and code.count('"') % 2 == 0
    measurements = set(composition_geojson(composition)["features"][3]["properties"]["measurements"])
    for name in ("novelty", "in scope"):
        assert name in measurements and f"'{name}'" in text
