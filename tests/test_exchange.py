"""Maps opened by the programs they are written for."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.common.words import RESEARCH_USE
from histomix.errors import FeatureError, HeadError, InputError
from histomix.export import (
    FORMATS,
    LazySlideHead,
    add_composition_to_wsidata,
    composition_raster,
    export_map,
    to_scverse,
    to_spatialdata,
    write_heatmap,
    write_spatialdata,
)
from histomix.maps import write_composition

from .conftest import Job, manifest_of
from .extras import extra_module


@pytest.fixture(scope="module")
def composition(job: Job) -> ad.AnnData:
    """A map of a phantom section in which one tile could not be read."""
    found = hm.predict(job.image, job.head)
    values = np.array(found.X)
    values[3] = np.nan
    found.X = values
    found.obs.loc[found.obs_names[3], "read_ok"] = False
    return found


@pytest.fixture(scope="module")
def thumbnail(job: Job) -> np.ndarray:
    with hm.open_slide(job.image) as slide:
        return slide.thumbnail(8.0)


def _manifest(composition: ad.AnnData) -> dict[str, Any]:
    return manifest_of(composition)


def test_spatialdata_opens_with_tiles_table_and_image_in_one_place(
    composition: ad.AnnData, thumbnail: np.ndarray, tmp_path: Path
) -> None:
    spatialdata = extra_module("st", "spatialdata")
    features = composition.copy()
    path = write_spatialdata(tmp_path / "map.zarr", composition, thumbnail, features)
    found = spatialdata.read_zarr(path)
    tiles, table = found.shapes["tiles"], found.tables["composition"]
    assert len(tiles) == composition.n_obs and set(found.tables) == {"composition", "features"}
    np.testing.assert_allclose(
        np.stack([tiles.geometry.centroid.x, tiles.geometry.centroid.y], axis=1), composition.obsm["spatial"], atol=1e-6
    )
    np.testing.assert_allclose(tiles.geometry.area, _manifest(composition)["cell_px"] ** 2)
    np.testing.assert_array_equal(np.asarray(table.X), np.asarray(composition.X))
    joined = spatialdata.join_spatialelement_table(sdata=found, spatial_element_names="tiles", table_name="composition")
    assert len(joined[0]["tiles"]) == composition.n_obs
    extent = spatialdata.get_extent(found["thumbnail"], coordinate_system="global")
    slide = _manifest(composition)["slide"]
    assert extent["x"] == pytest.approx((0, slide["width_px"])) and extent["y"] == pytest.approx(
        (0, slide["height_px"])
    )
    assert table.obs["dominant_type"].isna().sum() == 1
    assert found.attrs["histomix"]["slide"]["fingerprint"] == slide["fingerprint"]
    assert found.attrs["histomix"]["head"] == _manifest(composition)["head"]["name"]
    write_spatialdata(path, composition)
    assert "thumbnail" not in spatialdata.read_zarr(path)


def test_spots_are_circles(job: Job, tmp_path: Path) -> None:
    extra_module("st", "spatialdata")
    composition = hm.predict(job.image, job.head, at=job.spots)
    found = to_spatialdata(composition)
    assert set(found.shapes["tiles"].geometry.geom_type) == {"Point"}
    tile, mpp = _manifest(composition)["tile"], _manifest(composition)["slide"]["mpp"]
    np.testing.assert_allclose(found.shapes["tiles"]["radius"], tile["size_px"] * tile["mpp"] / mpp / 2)


def test_spatialdata_does_not_replace_what_is_no_store(composition: ad.AnnData, tmp_path: Path) -> None:
    extra_module("st", "spatialdata")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("mine")
    with pytest.raises(InputError, match="no Zarr store"):
        write_spatialdata(tmp_path / "mine", composition)
    with pytest.raises(InputError, match="not the"):
        to_spatialdata(composition, features=composition[:5].copy())


def test_anndata_has_the_keys_of_scanpy(composition: ad.AnnData, thumbnail: np.ndarray) -> None:
    found = to_scverse(composition, thumbnail)
    (entry,) = found.uns["spatial"].values()
    assert entry["images"]["hires"] is thumbnail
    scale = entry["scalefactors"]["tissue_hires_scalef"]
    assert scale * _manifest(composition)["slide"]["width_px"] == pytest.approx(thumbnail.shape[1])
    values = pd.DataFrame(np.asarray(composition.X), columns=composition.var_names)
    expected = values.drop(index=3).idxmax(axis=1)
    assert found.obs["dominant_type"].drop(index=found.obs_names[3]).tolist() == expected.tolist()
    (own,) = composition.uns["spatial"].values()
    assert own["images"]["hires"] is not thumbnail, "the map itself is left as it was"


@pytest.mark.parametrize("stray", [5, {"a": 1}, {"images": 3}, {"images": {"hires": np.zeros((0, 0, 3), np.uint8)}}])
def test_what_strangers_put_there_is_not_taken_over(composition: ad.AnnData, stray: object) -> None:
    table = composition.copy()
    (name,) = to_scverse(composition).uns["spatial"]
    for spoilt in (stray, {name: stray}):
        table.uns["spatial"] = spoilt
        assert "images" not in to_scverse(table).uns["spatial"][name]


def test_scanpy_draws_it(composition: ad.AnnData, thumbnail: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("agg")
    scanpy = extra_module("st", "scanpy")
    axes = scanpy.pl.spatial(to_scverse(composition, thumbnail), color="dominant_type", show=False)
    assert axes


def test_the_raster_has_every_tile_in_its_place(composition: ad.AnnData) -> None:
    raster, (left, top), cell = composition_raster(composition)
    values = np.asarray(composition.X)
    for row, (x, y) in enumerate(composition.obsm["spatial"]):
        here = raster[:, int((y - top) // cell), int((x - left) // cell)]
        np.testing.assert_array_equal(here, values[row])
    assert np.isfinite(raster).all(axis=0).sum() == composition.n_obs - 1


def test_the_heat_map_lies_over_the_slide(composition: ad.AnnData, tmp_path: Path) -> None:
    path = write_heatmap(tmp_path / "map.ome.tif", composition)
    raster, (left, top), cell = composition_raster(composition)
    mpp = _manifest(composition)["slide"]["mpp"]
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        np.testing.assert_array_equal(tiff.series[0].levels[0].asarray(), raster)
        facts = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        for level, one in enumerate(tiff.series[0].levels):
            # What programs read that know nothing of OME: px per cm.
            tags = one.keyframe.tags
            assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
            for name in ("XResolution", "YResolution"):
                pixels, cm = tags[name].value
                assert 1e4 * cm / pixels == pytest.approx(cell * mpp * 2**level, rel=1e-6)
    assert [one["Name"] for one in facts["Channel"]] == [str(name) for name in composition.var_names]
    assert facts["PhysicalSizeX"] == pytest.approx(cell * mpp)
    assert facts["Plane"][0]["PositionX"] == pytest.approx(left * mpp)
    assert facts["Plane"][0]["PositionY"] == pytest.approx(top * mpp)


def test_the_levels_of_the_heat_map_are_means(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    side = 150
    y, x = np.mgrid[0:side, 0:side]
    values = rng.random((side * side, 2)).astype(np.float32)
    table = ad.AnnData(values, var=pd.DataFrame(index=["a", "b"]))
    table.obsm["spatial"] = np.stack([x.ravel() * 10.0 + 5, y.ravel() * 10.0 + 5], axis=1)
    manifest = {"places": "grid", "cell_px": 10.0, "slide": {"mpp": 0.5, "file": "s.tif"}}
    table.uns["manifest"] = json.dumps(manifest)
    with tifffile.TiffFile(write_heatmap(tmp_path / "map.ome.tif", table)) as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    expected = values.T.reshape(2, 75, 2, 75, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(levels[1], expected, atol=1e-6)


def test_every_format_by_its_command(composition: ad.AnnData, thumbnail: np.ndarray, tmp_path: Path) -> None:
    geopandas = extra_module("st", "geopandas")
    write_composition(tmp_path / "maps" / "slide", composition, thumbnail)
    for name, suffix in (
        ("spatialdata", ".zarr"),
        ("anndata", ".h5ad"),
        ("parquet", ".parquet"),
        ("csv", ".csv"),
        ("ome-tiff", ".ome.tif"),
        ("geojson.gz", ".geojson.gz"),
    ):
        result = CliRunner().invoke(
            app, ["export", str(tmp_path / "maps"), "--to", name, "--out", str(tmp_path / "out")]
        )
        assert result.exit_code == 0, result.output
        assert (tmp_path / "out" / f"slide{suffix}").exists()
    table = pd.read_parquet(tmp_path / "out" / "slide.parquet")
    np.testing.assert_allclose(table[list(composition.var_names)], np.asarray(composition.X))
    (tmp_path / "tiles.geojson").write_bytes(gzip.decompress((tmp_path / "out" / "slide.geojson.gz").read_bytes()))
    assert len(geopandas.read_file(tmp_path / "tiles.geojson")) == composition.n_obs
    assert ad.read_h5ad(tmp_path / "out" / "slide.h5ad").uns["spatial"]
    (tmp_path / "empty").mkdir()
    nothing = [str(tmp_path / "empty"), "--to", "parquet", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, ["export", *nothing]).exit_code == 2


def test_a_map_of_spots_is_no_raster(job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no grid"):
        write_heatmap(tmp_path / "map.ome.tif", hm.predict(job.image, job.head, at=job.spots))
    assert not list(tmp_path.iterdir())


class TestLazySlide:
    @pytest.fixture
    def wsi(self, job: Job, tmp_path: Path) -> Any:
        extra_module("dev", "lazyslide")
        from wsidata import open_wsi

        with hm.open_slide(job.image) as slide:
            pixels = slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp)
        path = tmp_path / "slide.tif"
        facts = {"resolution": (1e4 / 0.5, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **facts)
        return open_wsi(path)

    def test_a_head_is_served_by_feature_prediction(self, job: Job, wsi: Any) -> None:
        import lazyslide as zs

        from histomix.embedding import add_to_wsidata

        name = hm.read_cohort(job.sheet).names[0]
        features = hm.read_features(job.features)[name]
        key = add_to_wsidata(features, wsi)
        head = hm.load_head(job.head)
        for name, smooth_um in (("plain", 0.0), ("smoothed", 150.0)):
            head.estimator.smooth_um = smooth_um
            model = LazySlideHead(head, mpp=0.5)
            zs.tl.feature_prediction(wsi, model, key, batch_size=7, key_added=name, pbar=False)
            table = wsi.tables[name]
            own = model.predict(features.X, np.asarray(features.obsm["spatial"]))
            expected = model.predict(features.X, wsi.shapes["tiles"].bounds[["minx", "miny"]].to_numpy())
            assert list(table.var_names)[: len(head.card["cell_types"])] == head.card["cell_types"]
            assert list(table.var_names)[-2:] == ["novelty", "in_scope"]
            for column, values in expected.items():
                np.testing.assert_allclose(np.asarray(table[:, column].X).ravel(), values, atol=1e-6)
                # What LazySlide draws is moved by a quarter of the spots' distance at most, which a head that does not
                # look around its tiles cannot notice. The end of an interval jumps where a prediction comes to be among
                # the low or the high ones.
                moved = np.abs(np.asarray(values) - own[column]) > (1e-6 if smooth_um == 0 else 0.1)
                assert moved.mean() <= (0.05 if smooth_um and column.endswith(("lower", "upper")) else 0), column
        plain = wsi.tables["plain"][:, head.card["cell_types"]].X
        assert not np.allclose(plain, wsi.tables["smoothed"][:, head.card["cell_types"]].X)

    def test_what_it_predicts_is_what_histomix_predicts(self, job: Job, wsi: Any) -> None:
        from lazyslide_models.base import FeaturePredictionModelProtocol

        head = hm.load_head(job.head)
        model = LazySlideHead(head, mpp=0.5)
        assert isinstance(model, FeaturePredictionModelProtocol)
        features = hm.read_features(job.features)[hm.read_cohort(job.sheet).names[0]]
        found = model.predict(np.vstack([np.asarray(features.X), np.full((1, features.n_vars), np.nan)]))
        expected = head.output(features)
        for place, name in enumerate(head.card["cell_types"]):
            np.testing.assert_allclose(found[name][:-1], expected.values[:, place], rtol=1e-5)
            if expected.lower is not None and expected.upper is not None:
                np.testing.assert_allclose(found[f"{name} lower"][:-1], expected.lower[:, place], rtol=1e-5, atol=1e-7)
                np.testing.assert_allclose(found[f"{name} upper"][:-1], expected.upper[:, place], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found["novelty"][:-1], expected.novelty)
        np.testing.assert_array_equal(found["in_scope"][:-1], expected.in_scope)
        assert all(np.isnan(values[-1]) for values in found.values()), "a tile that could not be read"

    def test_it_is_drawn_on_the_slide(self, composition: ad.AnnData, wsi: Any) -> None:
        import lazyslide as zs
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt

        key = add_composition_to_wsidata(composition, wsi)
        pictures = []
        for name in [*map(str, composition.var_names[:2]), str(composition.var_names[0])]:
            figure, axes = plt.subplots(figsize=(4, 4))
            zs.pl.tiles(wsi, feature_key=key, color=name, ax=axes)
            figure.canvas.draw()
            pictures.append(np.asarray(figure.canvas.buffer_rgba()).copy())
        first, second, again = pictures
        np.testing.assert_array_equal(first, again)
        assert (first != second).any(axis=2).mean() > 0.01, "another cell type is another map"
        scored = plt.subplots(figsize=(4, 4))[1]
        zs.pl.tiles(wsi, color="novelty", ax=scored)
        assert scored.images
        plt.close("all")

    def test_features_of_another_encoder_are_refused(self, job: Job) -> None:
        model = LazySlideHead(hm.load_head(job.head), mpp=0.5)
        with pytest.raises(FeatureError, match=r"544 columns of builtin"):
            model.predict(np.zeros((3, 5)))

    def test_a_head_on_two_encoders_is_refused(self, job: Job) -> None:
        head = hm.load_head(job.head)
        head.card["encoders"].append(head.card["encoders"][0])
        with pytest.raises(HeadError, match="joins 2 encoders"):
            LazySlideHead(head, mpp=0.5)

    def test_a_map_stands_in_its_keys(self, composition: ad.AnnData, wsi: Any) -> None:
        key = add_composition_to_wsidata(composition, wsi)
        assert key == f"{_manifest(composition)['head']['name']}_tiles"
        np.testing.assert_array_equal(np.asarray(wsi.tables[key].X), np.asarray(composition.X))
        bounds = wsi.shapes["tiles"].bounds
        middle = np.stack([(bounds.minx + bounds.maxx) / 2, (bounds.miny + bounds.maxy) / 2], axis=1)
        np.testing.assert_allclose(middle, composition.obsm["spatial"], atol=1.0)
        assert wsi.shapes["tiles"]["read_ok"].sum() == composition.n_obs - 1


def test_the_preview_is_optional(composition: ad.AnnData, tmp_path: Path) -> None:
    write_composition(tmp_path / "slide", composition)
    result = CliRunner().invoke(
        app, ["export", str(tmp_path / "slide"), "--to", "anndata", "--out", str(tmp_path / "out"), "--json"]
    )
    assert json.loads(result.stdout)["written"] == [str(tmp_path / "out" / "slide.h5ad")]
    Image.new("RGB", (5, 5)).save(tmp_path / "slide" / "preview.jpg")


HOSTILE = ["=cmd|' /C calc'!A0", "@SUM(1)", "-1+1", "T & B <b>", "+x"]


@pytest.fixture
def hostile(composition: ad.AnnData) -> ad.AnnData:
    found = composition[:, :5].copy()
    found.var_names = HOSTILE
    return found


def test_a_spreadsheet_runs_no_name(hostile: ad.AnnData, tmp_path: Path) -> None:
    write_composition(tmp_path / "maps" / "slide", hostile)
    path = export_map(tmp_path / "maps" / "slide", "csv", tmp_path / "out")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert not [cell for cell in header if cell.startswith(("=", "+", "-", "@"))]
    assert [cell.removeprefix("'") for cell in header][3:8] == HOSTILE
    values = np.array([[float(cell or "nan") for cell in row[3:8]] for row in rows])
    np.testing.assert_allclose(values, np.asarray(hostile.X), rtol=1e-5, err_msg="numbers are untouched")
    contract = pd.read_csv(tmp_path / "maps" / "slide" / "composition.csv")
    assert list(contract.columns)[2:7] == HOSTILE, "what programs read keeps the names"


def test_long_files_are_told_of_in_stretches_that_change_nothing(
    composition: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_composition(tmp_path / "slide", composition)
    whole = {
        name: export_map(tmp_path / "slide", name, tmp_path / "whole").read_bytes() for name in ("csv", "geojson.gz")
    }
    monkeypatch.setattr("histomix.export.exporting._STRETCH", 7)
    told: list[tuple[str, int, int]] = []
    for name, expected in whole.items():
        told.clear()
        (path,), _ = hm.export_maps(
            tmp_path / "slide", name, tmp_path / "few", progress=lambda *step: told.append(step)
        )
        assert path.read_bytes() == expected
        tiles = [step[1:] for step in told if step[0] == "tiles of slide"]
        assert tiles == [(done, len(composition)) for done in [*range(0, len(composition), 7), len(composition)]]


def test_hostile_names_pass_through_every_format(hostile: ad.AnnData, thumbnail: np.ndarray, tmp_path: Path) -> None:
    spatialdata = extra_module("st", "spatialdata")
    ome_types = extra_module("st", "ome_types")
    write_composition(tmp_path / "a b", hostile, thumbnail)
    paths = {name: export_map(tmp_path / "a b", name, tmp_path / "out") for name in FORMATS}
    assert list(spatialdata.read_zarr(paths["spatialdata"]).tables["composition"].var_names) == HOSTILE
    assert list(ad.read_h5ad(paths["anndata"]).var_names) == HOSTILE
    assert set(HOSTILE) < set(pd.read_parquet(paths["parquet"]).columns)
    described = ome_types.from_tiff(paths["ome-tiff"])
    assert [channel.name for channel in described.images[0].pixels.channels] == HOSTILE
    features = json.loads(gzip.decompress(paths["geojson.gz"].read_bytes()))["features"]
    assert {
        one["properties"]["classification"]["name"] for one in features if "classification" in one["properties"]
    } <= set(HOSTILE)


def test_kept_features_go_into_spatialdata(composition: ad.AnnData, tmp_path: Path) -> None:
    spatialdata = extra_module("st", "spatialdata")
    folder = tmp_path / "slide"
    write_composition(folder, composition)
    values = np.random.default_rng(0).normal(size=(composition.n_obs, 7)).astype(np.float16)
    (folder / "features").mkdir()
    np.save(folder / "features" / "features.npy", values)
    found = spatialdata.read_zarr(export_map(folder, "spatialdata", tmp_path / "out"))
    np.testing.assert_array_equal(np.asarray(found.tables["features"].X), values.astype(np.float32))
    assert found.tables["features"].obs["tile"].tolist() == found.shapes["tiles"].index.tolist()
    np.save(folder / "features" / "features.npy", values[:3])
    with pytest.raises(InputError, match="3 rows for a map"):
        export_map(folder, "spatialdata", tmp_path / "out")
    (folder / "features" / "features.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="cannot be read as an array"):
        export_map(folder, "spatialdata", tmp_path / "out")


def test_every_export_says_what_it_is_for_and_hides_no_scope(composition: ad.AnnData, tmp_path: Path) -> None:
    spatialdata = extra_module("st", "spatialdata")
    ome_types = extra_module("st", "ome_types")
    half = composition.copy()
    half.obs["in_scope"] = np.arange(half.n_obs) % 2 == 0
    write_composition(tmp_path / "slide", half)
    paths = {name: export_map(tmp_path / "slide", name, tmp_path / "out") for name in FORMATS}
    assert ome_types.from_tiff(paths["ome-tiff"]).images[0].description.endswith(RESEARCH_USE)
    tables = pd.read_parquet(paths["parquet"]), pd.read_csv(paths["csv"], encoding="utf-8-sig")
    assert all(set(table["use"]) == {RESEARCH_USE} for table in tables)
    store, found = spatialdata.read_zarr(paths["spatialdata"]), ad.read_h5ad(paths["anndata"])
    assert store.attrs["histomix"]["use"] == RESEARCH_USE
    assert all(one["metadata"]["use"] == RESEARCH_USE for one in found.uns["spatial"].values())
    for table in (store.tables["composition"], found):
        used = (half.obs["in_scope"] & half.obs["read_ok"]).tolist()
        assert table.obs["dominant_type"].notna().tolist() == used
        assert {"good_for", "slide_error"} <= set(table.var)
