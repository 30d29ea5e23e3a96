"""What a map says: regions, pieces, overlapping tiles, areas, and the files it is streamed to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

import histomix as hm
from histomix.common.geometry.polygons import read_regions, region_at
from histomix.common.storage.h5ad import layer_names
from histomix.common.words import RESEARCH_USE
from histomix.errors import InputError, SlideError
from histomix.heads import Head
from histomix.maps import composition_geojson, composition_table
from histomix.maps.composition import OUT_OF_SCOPE
from histomix.maps.streaming import composition_writer
from histomix.prediction import Model, Settings, SlideJob, SlideRun
from histomix.prediction import maps as maps_module
from histomix.prediction import plan as plan_module
from histomix.prediction.maps import tent
from histomix.prediction.plan import plan_tiles
from histomix.slides import TissueMask
from histomix.slides.tissue import fragment_at, label_fragments

from .conftest import manifest_of
from .slide_heads import TYPES, Colours, colour_head, tissue_slide


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_TILES", 60)
    monkeypatch.setattr(maps_module, "BLOCK", 100)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tissue_slide(tmp_path_factory.mktemp("slides") / "A.tif")


@pytest.fixture(scope="module")
def head() -> Head:
    return colour_head([Colours()])


def predict(slide: Path, head: Head, **options: Any) -> ad.AnnData:
    return hm.predict(slide, head, encoders=[Colours()], **options)  # type: ignore[list-item]


def streamed(slide: Path, head: Head, folder: Path, **settings: Any) -> ad.AnnData:
    wanted = Settings.of(head.card["digest"], **settings)
    found = SlideRun(SlideJob(str(slide), folder), wanted, Model(head, [Colours()])).run()
    assert found.error is None, found.error
    return ad.read_h5ad(folder / "composition.h5ad")


def write_geojson(path: Path, features: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def polygon(*rings: list[list[float]], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": properties}


@pytest.mark.parametrize("stride_um", [None, 16.0])
def test_a_streamed_map_is_the_map_in_memory(slide: Path, head: Head, tmp_path: Path, stride_um: float | None) -> None:
    memory = predict(slide, head, stride_um=stride_um)
    disk = streamed(slide, head, tmp_path / "A", stride_um=stride_um)
    assert list(disk.obs_names) == list(memory.obs_names) and list(disk.var_names) == TYPES
    np.testing.assert_array_equal(disk.X, memory.X)
    assert layer_names(disk) == layer_names(memory) == ([] if stride_um is None else ["super_resolved"])
    pd.testing.assert_frame_equal(disk.obs, memory.obs, check_names=False)
    np.testing.assert_array_equal(disk.obsm["spatial"], memory.obsm["spatial"])


def test_spots_come_back_in_their_own_order(slide: Path, head: Head, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"x_px": random.uniform(150, 1450, 150), "y_px": random.uniform(150, 1250, 150)})
    table.insert(0, "spot", [f"s{number}" for number in random.permutation(150)])
    table.to_csv(tmp_path / "spots.csv", index=False)
    found = streamed(slide, head, tmp_path / "A", at=tmp_path / "spots.csv")
    assert list(found.obs_names) == list(table["spot"])
    np.testing.assert_allclose(found.obsm["spatial"], table[["x_px", "y_px"]])
    csv = pd.read_csv(tmp_path / "A" / "composition.csv")
    assert csv.columns[0] == "spot" and list(csv["spot"]) == list(table["spot"])
    np.testing.assert_array_equal(found.X, predict(slide, head, at=tmp_path / "spots.csv").X)


@pytest.mark.parametrize("parameters", [{"smooth_um": 40.0}, {"rings_um": (60.0, 120.0)}])
def test_a_head_that_looks_around_sees_over_the_edges_of_stretches(
    slide: Path, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = colour_head([Colours()], **parameters)
    assert head.context_um > 0
    in_stretches = streamed(slide, head, tmp_path / "A")
    monkeypatch.setattr(maps_module, "BLOCK", 10_000)
    at_once = predict(slide, head)
    np.testing.assert_allclose(in_stretches.X, at_once.X, atol=1e-6)
    assert np.abs(at_once.X - predict(slide, colour_head([Colours()])).X).max() > 0.01


@pytest.mark.parametrize("stride_um", [8.0, 12.0, 20.0])
def test_the_super_resolved_map_is_the_weighted_mean_of_the_tiles_over_each_cell(
    slide: Path, head: Head, stride_um: float
) -> None:
    found = predict(slide, head, stride_um=stride_um)
    overlap = 32.0 / stride_um
    column, row = np.array([name.split("x") for name in found.obs_names], int).T
    weight = tent(overlap)
    reach = len(weight) - 1
    for cell in np.random.default_rng(0).choice(found.n_obs, 40, replace=False):
        dx, dy = np.abs(column - column[cell]), np.abs(row - row[cell])
        near = (dx <= reach) & (dy <= reach)
        w = weight[dx[near]] * weight[dy[near]]
        expected = (found.X[near] * w[:, None]).sum(axis=0) / w.sum()
        np.testing.assert_allclose(found.layers["super_resolved"][cell], expected, rtol=1e-4)
    # A tile whose edge ends inside the cell has some weight, one that ends before it has none.
    assert weight[0] == weight.max() and (np.diff(weight) <= 0).all()
    assert (weight > 0).sum() == np.sum(overlap / 2 + 0.5 > np.arange(len(weight)))


@pytest.mark.parametrize(
    ("overlap", "weights"),
    [
        (1.0, [1]),
        (1.6, [1, 0.3 * (1 - 0.65 / 0.8)]),  # the next tile covers 0.3 of the cell, 0.65 strides from its own centre
        (2.0, [1, 0.5 * (1 - 0.75 / 1)]),
        (3.0, [1, 1 - 1 / 1.5]),
        (4.0, [1, 1 - 1 / 2, 0.5 * (1 - 1.75 / 2)]),
    ],
)
def test_a_tile_weighs_by_the_cell_that_it_covers_and_how_near_it_is(overlap: float, weights: list[float]) -> None:
    np.testing.assert_allclose(tent(overlap), weights, atol=1e-12)


def test_an_unreadable_tile_takes_no_part_in_the_cells_around_it(
    slide: Path, head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histomix.embedding import engine
    from histomix.errors import SlideReadError
    from histomix.slides import read_tile

    whole = predict(slide, head, stride_um=16.0)
    bad = whole.obsm["spatial"][whole.n_obs // 2]

    def fail(opened: hm.Slide, x_px: float, y_px: float, spec: hm.TileSpec) -> np.ndarray:
        if (x_px, y_px) == tuple(bad):
            raise SlideReadError("broken", where=opened.path)
        return read_tile(opened, x_px, y_px, spec)

    monkeypatch.setattr(engine, "read_tile", fail)
    found = predict(slide, head, stride_um=16.0)
    assert (~found.obs["read_ok"]).sum() == 1 and np.isnan(found.X).any(axis=1).sum() == 1
    assert np.isfinite(found.layers["super_resolved"]).all()  # its neighbours cover its cell
    assert not found.obs["in_scope"][~found.obs["read_ok"]].any()


def test_regions_are_those_of_shapely(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)

    def star(x: float, y: float, radius: float) -> list[list[float]]:
        r = radius * random.uniform(0.4, 1, len(angle))
        ring = np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], axis=1)
        return [*ring.tolist(), ring[0].tolist()]

    hole = star(500, 500, 120)
    first, second, island = star(500, 500, 450), star(1200, 400, 300), star(500, 500, 40)
    path = write_geojson(
        tmp_path / "regions.geojson",
        [
            polygon(first, hole, name="tumour"),
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": [[second], [island]]},
                "properties": {"classification": {"name": "Stroma", "color": [1, 2, 3]}},
            },
            polygon([[430.0, 430], [470, 430], [470, 470], [430, 470], [430, 430]]),
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}},
        ],
    )
    regions = read_regions(path)
    assert [region.name for region in regions] == ["tumour", "Stroma", "region 3"]
    xy = random.uniform(0, 1600, (20_000, 2))
    shapes = [
        shapely.Polygon(first, [hole]),
        shapely.unary_union([shapely.Polygon(second), shapely.Polygon(island)]),
        shapely.box(430, 430, 470, 470),
    ]
    for region, shape in zip(regions, shapes, strict=True):
        np.testing.assert_array_equal(region.contains(xy), shapely.contains_xy(shape, xy))
        assert region.area == pytest.approx(shape.area)
    found = region_at(regions, xy)
    np.testing.assert_array_equal(found == 2, regions[2].contains(xy))  # the smallest goes first


def test_an_edge_is_inside_and_rings_that_cross_count_by_the_even_odd_rule(tmp_path: Path) -> None:
    square, hole = [[0.0, 0], [90, 0], [90, 90], [0, 90], [0, 0]], [[30.0, 30], [60, 30], [60, 60], [30, 60], [30, 30]]
    eight = [[200.0, 0], [240, 40], [240, 0], [200, 40]]  # crosses itself, and is not closed
    line, around = [[300.0, 0], [340, 0], [300, 0]], [[-9.0, -9], [99, -9], [99, 99], [-9, 99], [-9, -9]]
    features = [polygon(around, name="A"), polygon(square, hole, name="B"), polygon(eight, name="C")]
    regions = read_regions(write_geojson(tmp_path / "r.geojson", [*features, polygon(line, name="D")]))
    places = [[0, 0], [90, 45], [45, 90], [30, 45], [60, 60], [45, 45], [95, 45], [99, 99], [100, 50]]
    assert region_at(regions, np.array(places, float)).tolist() == [1, 1, 1, 1, 1, 0, 0, 0, -1]
    places = [[203, 20], [237, 20], [220, 20], [220, 5], [220, 35], [320, 0]]
    assert region_at(regions, np.array(places, float)).tolist() == [2, 2, 2, -1, -1, -1]
    assert [region.area for region in regions] == [108**2, 90**2 - 30**2, 2 * 40 * 20 / 2, 0]
    assert regions[1].moved((5, 7)).contains(np.array([[95.0, 97], [4.9, 50]])).tolist() == [True, False]
    # Two polygons of one name that overlap are one area.
    doubled = read_regions(write_geojson(tmp_path / "r.geojson", [features[1], polygon(around, name="B")]))
    assert doubled[0].area == 108**2 and doubled[0].contains(np.array([[45.0, 45]])).all()


def test_only_tiles_in_regions_are_predicted_and_named(slide: Path, head: Head, tmp_path: Path) -> None:
    square = [[200.0, 300], [600, 300], [600, 900], [200, 900], [200, 300]]
    path = write_geojson(tmp_path / "regions.geojson", [polygon(square, name="left"), polygon(square, name="left")])
    found = streamed(slide, head, tmp_path / "A", regions=path)
    assert list(found.obs["region"].cat.categories) == ["left"] and (found.obs["region"] == "left").all()
    everything = predict(slide, head)
    x, y = everything.obsm["spatial"].T
    inside = (x > 200) & (x < 600) & (y > 300) & (y < 900)
    np.testing.assert_array_equal(found.X, everything[inside].X)
    assert list(pd.read_csv(tmp_path / "A" / "composition.csv")["region"].unique()) == ["left"]
    spots = pd.DataFrame({"x_px": [300.0, 1300.0], "y_px": [500.0, 500.0]}, index=["in", "out"])
    at_spots = predict(slide, head, at=spots, regions=path)
    assert at_spots.obs["region"].tolist()[0] == "left" and at_spots.obs["region"].isna().tolist() == [False, True]
    far = write_geojson(tmp_path / "far.geojson", [polygon([[9e4, 9e4], [9.1e4, 9e4], [9.1e4, 9.1e4]])])
    with pytest.raises(SlideError, match="no tile of tissue has its centre in the regions"):
        predict(slide, head, regions=far)
    for text, what in (("{", "is no JSON"), ('{"type": "FeatureCollection", "features": []}', "holds no polygon")):
        path.write_text(text)
        with pytest.raises(InputError, match=what):
            read_regions(path)
    write_geojson(path, [polygon([["a", "b"], [1, 2], [3, 4]])])  # type: ignore[list-item]
    with pytest.raises(InputError, match="feature 1 is no polygon of numbers"):
        read_regions(path)


def test_regions_count_from_the_bounds_of_the_slide(slide: Path, head: Head, tmp_path: Path) -> None:
    """QuPath's origin is the corner of the scanned part."""
    square = np.array([[200.0, 300], [600, 300], [600, 900], [200, 900], [200, 300]])
    path = write_geojson(tmp_path / "regions.geojson", [polygon((square - [96, 160]).tolist(), name="left")])
    with hm.open_slide(slide) as opened:
        opened.bounds_px = (96, 160)
        everything = plan_tiles(opened, head, Settings.of("head")).tiles
        found = plan_tiles(opened, head, Settings.of("head", regions=path)).tiles
    x, y = everything["x_px"], everything["y_px"]
    inside = (x >= 200) & (x <= 600) & (y >= 300) & (y <= 900)
    assert 0 < inside.sum() < len(inside)
    np.testing.assert_array_equal(found[["x_px", "y_px"]], everything[inside][["x_px", "y_px"]])


def test_pieces_are_numbered_from_left_to_right_across_small_gaps(slide: Path, head: Head) -> None:
    found = predict(slide, head)
    assert manifest_of(found)["fragments"] == 2
    x = found.obsm["spatial"][:, 0]
    np.testing.assert_array_equal(found.obs["fragment"], np.where(x < 900, 1, 2))
    nameless = predict(slide, head, anonymise=True)
    assert manifest_of(nameless)["fragments"] == 2
    assert list(composition_table(nameless)["fragment"]) == list(composition_table(found)["fragment"])
    mask = np.zeros((60, 200), bool)
    mask[10:20, 150:170] = mask[40:50, 20:40] = mask[40:50, 45:60] = True  # a gap of 5 px in the left piece
    labels, count = label_fragments(TissueMask(mask, 8.0), gap_um=50.0)
    assert count == 2 and set(labels[mask]) == {1, 2} and labels[45, 50] == labels[45, 30] == 1
    assert fragment_at(labels, 8.0, np.array([[160.0, 15], [160, 25], [5, 55]]) * 16, 0.5).tolist() == [2, 2, 1]
    assert label_fragments(TissueMask(mask, 8.0), gap_um=10.0)[1] == 3


def test_the_unit_stays_right_whatever_the_tile(slide: Path) -> None:
    head = colour_head([Colours()], "cells per spot", training={"spot_diameter_um": 100.0})
    own, dense = predict(slide, head), predict(slide, head, stride_um=16.0)
    area = manifest_of(own)["area"]
    assert area["label_um2"] == pytest.approx(np.pi * 50**2) and area["label_area_from"] == "training spots"
    np.testing.assert_allclose(own.layers["density per mm2"], own.X / (np.pi * 50**2 / 1e6), rtol=1e-5)
    fine = manifest_of(dense)["area"]
    assert fine["tile_um2"] == 32.0**2 and fine["cell_um2"] == pytest.approx(16.0**2)
    # The cells on the tissue are the same number, whatever the grid.
    cells = [(m.X.sum() * manifest_of(m)["area"]["cells_per_map_cell"]) for m in (own, dense)]
    assert cells[1] == pytest.approx(cells[0], rel=0.1)
    undeclared = manifest_of(predict(slide, colour_head([Colours()], "cells per spot")))["area"]
    assert undeclared["label_um2"] == 32.0**2 and undeclared["label_area_from"] == "tile"
    shares = predict(slide, colour_head([Colours()]))
    assert "density per mm2" not in shares.layers and manifest_of(shares)["area"]["label_um2"] is None


def test_the_pictures_show_the_slide_and_its_tissue(slide: Path, head: Head, tmp_path: Path) -> None:
    streamed(slide, head, tmp_path / "A")
    with Image.open(tmp_path / "A" / "tissue.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    with Image.open(tmp_path / "A" / "preview.jpg") as preview:
        assert preview.size == (400, 350)
    green = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > pixels[..., 2] + 20)
    columns = np.flatnonzero(green.any(axis=0))
    assert columns.min() == pytest.approx(24, abs=8) and columns.max() == pytest.approx(376, abs=8)
    assert not green[:, 188:240].any()  # between the pieces


def test_the_geojson_can_be_packed_and_carries_the_interval(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n = 250
    obs = pd.DataFrame(
        {
            "x_px": random.uniform(0, 999, n),
            "y_px": random.uniform(0, 999, n),
            "novelty": np.where(np.arange(n) % 50 == 0, np.nan, random.random(n)).astype(np.float32),
            "in_scope": np.arange(n) % 3 > 0,
            "read_ok": np.arange(n) % 50 > 0,
            "fragment": np.arange(n) // 200 + 1,
            "region": pd.Categorical.from_codes(np.arange(n) % 3 - 1, ["a", "é b"]),
        },
        index=pd.Index([f"{k}x0" for k in range(n)], name="key"),
    )
    whole = ad.AnnData(random.random((n, 3)).astype(np.float32), obs=obs, var=pd.DataFrame(index=TYPES))
    whole.X[::50] = np.nan
    whole.layers["lower"], whole.layers["upper"] = whole.X * 0.5, whole.X * 2
    whole.obsm["spatial"] = obs[["x_px", "y_px"]].to_numpy()
    facts = {"slide": {"bounds_px": [10, 20], "fingerprint": "f"}, "cell_px": 64.0, "places": "grid"}
    whole.uns["manifest"] = json.dumps(facts)
    for repeat in ("one", "two"):
        with composition_writer(tmp_path / repeat, compress=True) as append:
            for start in range(0, n, 70):
                append(whole[start : start + 70].copy())
    packed = (tmp_path / "one" / "tiles.geojson.gz").read_bytes()
    assert packed == (tmp_path / "two" / "tiles.geojson.gz").read_bytes()
    found = json.loads(gzip.decompress(packed))
    assert found == composition_geojson(whole)
    tile = found["features"][1]["properties"]
    assert tile["measurements"][f"{TYPES[0]} lower"] == pytest.approx(whole.layers["lower"][1, 0], abs=1e-6)
    assert "in scope" not in tile["measurements"] and "metadata" not in tile and found["use"] == RESEARCH_USE
    outside = found["features"][3]["properties"]
    assert outside["measurements"]["in scope"] == 0 and outside["classification"]["name"] == OUT_OF_SCOPE
    assert "measurements" not in found["features"][0]["properties"]
    assert len({feature["id"] for feature in found["features"]}) == n
    back = ad.read_h5ad(tmp_path / "one" / "composition.h5ad")
    pd.testing.assert_frame_equal(back.obs, whole.obs)
    for layer in ("lower", "upper"):
        np.testing.assert_array_equal(back.layers[layer], whole.layers[layer])
    table = pd.read_csv(tmp_path / "one" / "composition.csv")
    expected = composition_table(whole).reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, check_categorical=False, rtol=1e-4)


def test_a_head_that_counts_cells_says_how_wide_its_spots_were(tmp_path: Path) -> None:
    from histomix.heads.train import _spot_diameter_um

    sheet = hm.make_phantom(tmp_path / "p", donors=1, sections_per_donor=1, size_um=(500, 500), counts=False)
    cohort = hm.read_cohort(sheet)
    known = cohort.section(cohort.names[0], counts=False).spot_diameter_um
    assert known is not None and _spot_diameter_um(cohort) == known
