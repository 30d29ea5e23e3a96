"""tiles.geojson against what QuPath documents and reads, and round trips through shapely and geopandas."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.common.palette import type_colours
from histomix.common.words import RESEARCH_USE
from histomix.export import export_map
from histomix.maps import CompositionMap, composition_geojson, write_composition
from histomix.maps.composition import OUT_OF_SCOPE

from .conftest import Job
from .extras import extra_module

#: With the version of QuPath whose source it was read from.
SCHEMA = Path(__file__).with_name("qupath-0.5.1.schema.json")
DOCS = Path(__file__).parents[1] / "docs" / "qupath.md"
STUBS = Path(__file__).parent / "groovy"
SNIPPETS = re.findall(r"```groovy\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
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
    """Refuse what QuPath 0.5.1 would refuse, misread, log or pass over."""
    jsonschema = extra_module("test", "jsonschema")
    jsonschema.validate(content, json.loads(SCHEMA.read_text(encoding="utf-8")))
    colours: dict[str, list[int]] = {}
    for feature in content["features"]:
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        if kind := feature["properties"].get("classification"):
            assert colours.setdefault(kind["name"], kind["color"]) == kind["color"], (
                "QuPath keeps one colour for a class"
            )
    ids = [feature["id"] for feature in content["features"]]
    assert len(set(ids)) == len(ids) == len({uuid.UUID(one) for one in ids})


@pytest.mark.client(
    "QuPath", "`tiles.geojson` keeps to its rules; regions and cores of its own come back ([QuPath](qupath.md))"
)
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
    # No colour of a cell type, and no part in what QuPath counts by class.
    assert features[3]["properties"]["classification"]["name"] == OUT_OF_SCOPE and OUT_OF_SCOPE.endswith("*")
    assert [row for row, one in enumerate(features) if "in scope" in one["properties"].get("measurements", {})] == [3]
    assert features[3]["properties"]["measurements"]["in scope"] == 0
    assert set(features[7]["properties"]) == {"objectType", "name"}, "an unread tile is there without numbers"


def test_words_of_a_tile_are_there_on_request(composition: ad.AnnData) -> None:
    composition.obs["answer"] = ["T cells" if row % 2 else "unclear" for row in range(composition.n_obs)]
    plain, told = composition_geojson(composition), composition_geojson(composition, metadata=True)
    assert plain["use"] == told["use"] == RESEARCH_USE
    assert not any("metadata" in one["properties"] for one in plain["features"])
    words = [one["properties"].pop("metadata", {}) for one in told["features"]]
    assert words[1] == {"answer": "T cells"} and words[3]["scope"].startswith("out of scope") and not words[7]
    assert told == plain


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
    text = DOCS.read_text(encoding="utf-8")
    assert len(SNIPPETS) >= 4
    measurements = set(composition_geojson(composition)["features"][3]["properties"]["measurements"])
    for name in ("novelty", "in scope"):
        assert name in measurements and f"'{name}'" in text


@pytest.fixture(scope="module")
def groovy() -> list[str]:
    """The command of Groovy; GROOVY_LIB names the folder of its jars, such as the one in npm's npm-groovy-lint."""
    jars, java = os.environ.get("GROOVY_LIB"), shutil.which("java")
    if not jars or java is None:
        pytest.skip("needs Java, and GROOVY_LIB to name the folder of Groovy's jars")
    return [java, "-cp", os.pathsep.join([str(Path(jars) / "*"), str(STUBS)]), "groovy.ui.GroovyMain"]


@pytest.mark.client(
    "Groovy", "parses every script of [QuPath](qupath.md); the one that predicts was run with a stand-in for QuPath"
)
def test_groovy_parses_the_scripts_of_the_documentation(groovy: list[str], tmp_path: Path) -> None:
    check = "args.each { new groovy.lang.GroovyShell().parse(new File(it)) }; println args.size()"
    paths = [tmp_path / f"snippet{number}.groovy" for number in range(len(SNIPPETS))]
    for path, code in zip(paths, SNIPPETS, strict=True):
        path.write_text(code, encoding="utf-8")
    found = subprocess.run([*groovy, "-e", check, *map(str, paths)], capture_output=True, text=True, check=False)
    assert found.returncode == 0 and found.stdout.strip() == str(len(SNIPPETS)), found.stderr
    paths[0].write_text(SNIPPETS[0].replace("}", "", 1), encoding="utf-8")
    assert subprocess.run([*groovy, "-e", check, str(paths[0])], capture_output=True, check=False).returncode != 0


def test_the_script_predicts_the_open_slide_and_loads_its_map(groovy: list[str], job: Job, tmp_path: Path) -> None:
    """QuPath's own part is a stand-in, which reads the file with the library that QuPath does not have: Groovy's."""
    script = next(code for code in SNIPPETS if "'predict'" in code)
    program = tmp_path / "histomix"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from histomix.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    for place, path in {".venv/bin/histomix": program, "head": job.head, "maps": tmp_path / "maps"}.items():
        script = script.replace(f"'/path/to/{place}'", f"'{path}'")
    (tmp_path / "script.groovy").write_text(script, encoding="utf-8")
    words = [*groovy, str(STUBS / "QuPath.groovy"), str(tmp_path / "script.groovy"), str(job.image)]
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    (folder,) = (path.parent for path in (tmp_path / "maps").glob("*/composition.h5ad"))
    assert f"{len(CompositionMap.open(folder))} tiles" in found.stdout, found.stdout + found.stderr


def _of_qupath(kind: str, name: str, ring: list[list[float]], **properties: Any) -> dict[str, Any]:
    """A feature as QuPath 0.5.1 writes it."""
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    more = {"objectType": kind, "name": name, **properties}
    return {"type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry, "properties": more}


def _square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def _circle(x: float, y: float, radius: float) -> list[list[float]]:
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1).tolist()  # type: ignore[no-any-return]


def _cores(width: int, height: int) -> list[dict[str, Any]]:
    """A grid of two by two cores as QuPath exports it; the last is missing."""
    cores = []
    for row, letter in enumerate("AB"):
        for column in (1, 2):
            x, y = (2 * column - 1) * width / 4, (2 * row + 1) * height / 4
            missing = (letter, column) == ("B", 2)
            ring = _circle(x, y, min(width, height) / 5)
            cores.append(_of_qupath("tmaCore", f"{letter}-{column}", ring, isMissing=missing, isLocked=True))
    return cores


def test_cores_of_a_microarray_become_rows_of_the_cohort(job: Job, tmp_path: Path) -> None:
    with hm.open_slide(job.image) as slide:
        width, height = slide.width_px, slide.height_px
    grid = tmp_path / "grid.geojson.gz"
    grid.write_bytes(gzip.compress(json.dumps(_cores(width, height)).encode()))
    (result,) = hm.predict_slides(job.image, job.head, tmp_path / "maps", regions=grid, stride_um=40.0, progress=False)
    assert result.error is None
    found = CompositionMap.open(result.folder)
    assert set(found.adata.obs["region"]) == {"A-1", "A-2", "B-1"} == set(found.regions)
    table = hm.cohort_tables(tmp_path / "maps", progress=False).tidy
    cores = table[table["level"] == "region"]
    assert set(cores["part"].astype(str)) == {"A-1", "A-2", "B-1"}


def test_annotations_go_to_prediction_and_to_the_score(job: Job, tmp_path: Path) -> None:
    with hm.open_slide(job.image) as slide:
        width, height = slide.width_px, slide.height_px
    tumour = {"classification": {"name": "Tumor", "color": [200, 0, 0]}, "isLocked": False}
    stroma = {"classification": {"name": "Stroma", "color": [150, 200, 150]}}
    half = [[0, 0], [width / 2, 0], [width / 2, height], [0, height]]
    other = [[width / 2, 0], [width, 0], [width, height], [width / 2, height]]
    drawn = [_of_qupath("annotation", "", half, **tumour), _of_qupath("annotation", "", other, **stroma)]
    for one in drawn:
        del one["properties"]["name"]  # QuPath writes none where none was given
    path = tmp_path / "annotations.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": drawn}))
    (result,) = hm.predict_slides(job.image, job.head, tmp_path / "maps", regions=path, progress=False)
    found = CompositionMap.open(result.folder)
    left = found.xy_px[:, 0] < width / 2
    assert set(found.adata.obs["region"][left]) == {"Tumor"} and set(found.adata.obs["region"][~left]) == {"Stroma"}
    # Where the map itself has most of a type, drawn as truth, the score says so.
    name = found.cell_types[0]
    most = found.values()[name].rank().to_numpy() > len(found) / 2
    squares = [_square(*(place - found.cell_px / 2), found.cell_px) for place in found.xy_px[most]]
    rings = [_of_qupath("annotation", "hot", ring, **tumour) for ring in squares]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": rings}))
    scored = hm.score_map(result.folder, regions=path, expect={"hot": [name]}, progress=False)
    facts = scored.summary["orthogonal"]["regions"]["expected"][0]
    assert facts["auroc"] == 1.0 and facts["n_inside"] == most.sum()
