"""One map of the phantom, as `predict` leaves it and as `export` writes it, in the programs that it is for.

Each test is a row of the table in ``docs/clients.md``, which ``python scripts/clients.py --write`` makes from a run.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.common.palette import type_colours
from histomix.export import export_map
from histomix.maps import CompositionMap

from .conftest import Job
from .extras import extra_module

matplotlib.use("agg")

client = pytest.mark.client


@pytest.fixture(scope="module")
def folder(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one slide that ``predict`` wrote; the slide says its scale as its sheet does."""
    out = tmp_path_factory.mktemp("maps")
    mpp = float(hm.read_cohort(job.sheet).rows[0].mpp or 0.5)
    (result,) = hm.predict_slides(job.image, job.head, out, mpp=mpp, progress=False)
    assert result.error is None
    return result.folder


@pytest.fixture(scope="module")
def one(folder: Path) -> CompositionMap:
    return CompositionMap.open(folder)


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    extra_module("st", "spatialdata")
    return export_map(folder, "spatialdata", tmp_path_factory.mktemp("store"))


def _hex(types: list[str]) -> list[str]:
    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in type_colours(types).values()]


def _inked(figure: Any) -> float:
    """The share of a drawn figure that is not background."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    return float((np.abs(pixels - 255).sum(axis=2) > 30).mean())


def _lies_on_the_picture(table: ad.AnnData, width_px: int) -> None:
    (entry,) = table.uns["spatial"].values()
    picture, scale = entry["images"]["hires"], entry["scalefactors"]["tissue_hires_scalef"]
    assert max(picture.shape[:2]) <= 1000 and scale * width_px == pytest.approx(picture.shape[1])
    places = np.asarray(table.obsm["spatial"]) * scale
    assert (places >= 0).all() and (places <= picture.shape[1::-1]).all()
    # The tissue of the phantom is darker than its glass: tiles lie on it.
    row, column = places[:, 1].astype(int), places[:, 0].astype(int)
    assert picture[row, column].mean() < 250


@client("anndata", "reads `composition.h5ad`; one index name, types as categories in our colours")
def test_anndata(folder: Path, one: CompositionMap) -> None:
    found = ad.read_h5ad(folder / "composition.h5ad")
    assert found.obs.index.name == "spot"
    dominant = found.obs["dominant_type"]
    assert list(dominant.cat.categories) == one.cell_types
    assert list(found.uns["dominant_type_colors"]) == _hex(one.cell_types)
    known = one.reading.used
    assert dominant.notna().tolist() == known.tolist()
    assert dominant[known].tolist() == one.values()[known].idxmax(axis=1).tolist()
    _lies_on_the_picture(found, one.slide["width_px"])


@client("scanpy", "`sc.pl.spatial` on `composition.h5ad` as it is: picture, types in our colours, shares")
def test_scanpy(folder: Path, one: CompositionMap) -> None:
    scanpy = extra_module("st", "scanpy")
    from matplotlib import pyplot as plt

    found = ad.read_h5ad(folder / "composition.h5ad")
    for color in ("dominant_type", one.cell_types[0], "novelty"):
        (axes,) = scanpy.pl.spatial(found, color=color, show=False)
        assert axes.images and _inked(axes.figure) > 0.1
    assert list(found.uns["dominant_type_colors"]) == _hex(one.cell_types), "it took ours and made none of its own"
    plt.close("all")


@client("squidpy", "`sq.pl.spatial_scatter` and the neighbourhood statistics on `composition.h5ad` as it is")
def test_squidpy(folder: Path, one: CompositionMap) -> None:
    squidpy = extra_module("clients", "squidpy")
    from matplotlib import pyplot as plt

    found = ad.read_h5ad(folder / "composition.h5ad")
    for color in ("dominant_type", one.cell_types[0]):
        squidpy.pl.spatial_scatter(found, color=color, shape="square")
        assert plt.gca().images and _inked(plt.gcf()) > 0.1
        plt.close("all")
    known = found[found.obs["dominant_type"].notna()].copy()
    squidpy.gr.spatial_neighbors(known)
    squidpy.gr.interaction_matrix(known, cluster_key="dominant_type")
    pairs = known.uns["dominant_type_interactions"]
    assert pairs.shape == (known.obs["dominant_type"].nunique(),) * 2 and pairs.sum() > 0


@client("spatialdata", "reads the exported store: tiles, table and picture in one place, in px and in micrometres")
def test_spatialdata(store: Path, one: CompositionMap) -> None:
    spatialdata = extra_module("st", "spatialdata")
    found = spatialdata.read_zarr(store)
    assert set(found.coordinate_systems) == {"global", "micrometres"}
    width, height = (one.slide[name] for name in ("width_px", "height_px"))
    for system, scale in (("global", 1.0), ("micrometres", one.mpp)):
        extent = spatialdata.get_extent(found["thumbnail"], coordinate_system=system)
        assert extent["x"] == pytest.approx((0, width * scale)) and extent["y"] == pytest.approx((0, height * scale))
        tiles = spatialdata.transform(found["tiles"], to_coordinate_system=system).geometry
        places = np.stack([tiles.centroid.x, tiles.centroid.y], axis=1)
        np.testing.assert_allclose(places, one.xy_px * scale, atol=1e-6)
        np.testing.assert_allclose(tiles.area, (one.cell_px * scale) ** 2)
    assert max(found["thumbnail"].shape[1:]) <= 2000
    table = found.tables["composition"]
    ours = dict(zip(one.cell_types, _hex(one.cell_types), strict=True))
    types = list(table.obs["dominant_type"].cat.categories)
    assert "spatial" not in table.uns and list(table.uns["dominant_type_colors"]) == [ours[name] for name in types]


@client("spatialdata-plot", "draws the exported store over its picture, by type and by share, in both systems")
def test_spatialdata_plot(store: Path, one: CompositionMap) -> None:
    spatialdata = extra_module("st", "spatialdata")
    extra_module("clients", "spatialdata_plot")
    from matplotlib import pyplot as plt
    from matplotlib.colors import to_hex

    found = spatialdata.read_zarr(store)
    for system in ("global", "micrometres"):
        for color in ("dominant_type", one.cell_types[0]):
            figure, axes = plt.subplots()
            found.pl.render_images("thumbnail").pl.render_shapes("tiles", color=color).pl.show(
                coordinate_systems=system, ax=axes
            )
            assert _inked(figure) > 0.1
            if color == "dominant_type":
                legend = axes.get_legend()
                handles = zip(legend.get_texts(), legend.legend_handles, strict=True)
                drawn = {text.get_text(): to_hex(mark.get_facecolor()[0]) for text, mark in handles}
                ours = dict(zip(one.cell_types, _hex(one.cell_types), strict=True))
                assert drawn and drawn.items() <= ours.items(), "its colours are those of the viewer"
            plt.close("all")


@client("geopandas", "reads `tiles.geojson`: squares with their measurements")
def test_geopandas(folder: Path, one: CompositionMap) -> None:
    geopandas = extra_module("st", "geopandas")
    found = geopandas.read_file(folder / "tiles.geojson")
    assert len(found) == len(one) and found.geometry.is_valid.all()


@client("ome-types", "the exported OME-TIFF is valid: channels with names and colours, sizes and places in um")
def test_ome_types(folder: Path, one: CompositionMap, tmp_path: Path) -> None:
    ome_types = extra_module("st", "ome_types")
    validate = any(importlib.util.find_spec(name) for name in ("lxml", "xmlschema"))
    extras = ("intervals", "novelty") if one.bounds else ("novelty",)
    path = export_map(folder, "ome-tiff", tmp_path, also=extras)
    pixels = ome_types.from_tiff(path, validate=validate).images[0].pixels
    names = [channel.name for channel in pixels.channels]
    bounds = [f"{name} {end}" for end in one.bounds for name in one.cell_types]
    assert names == [*one.cell_types, *bounds, "novelty"]
    colours = [channel.color.as_rgb_tuple(alpha=False) for channel in pixels.channels]
    expected = [tuple(round(255 * part) for part in colour) for colour in type_colours(one.cell_types).values()]
    assert colours == [*expected * (1 + len(one.bounds)), (255, 255, 255)]
    left, top = one.xy_px.min(axis=0) - one.cell_px / 2
    assert pixels.physical_size_x == pytest.approx(one.cell_px * one.mpp)
    assert (pixels.planes[0].position_x, pixels.planes[0].position_y) == pytest.approx((left * one.mpp, top * one.mpp))


@client("tifffile", "reads the exported OME-TIFF, its pyramid and its place on the slide")
def test_tifffile(folder: Path, one: CompositionMap, tmp_path: Path) -> None:
    import tifffile

    with tifffile.TiffFile(export_map(folder, "ome-tiff", tmp_path)) as tiff:
        values, tags = tiff.asarray(), tiff.pages[0].tags  # type: ignore[union-attr]
    left, top = (one.xy_px.min(axis=0) - one.cell_px / 2) * one.mpp / 1e4
    for name, cm in (("XPosition", left), ("YPosition", top)):
        numerator, denominator = tags[name].value
        assert numerator / denominator == pytest.approx(cm, abs=1e-7)
    known = np.isfinite(values[0])
    assert known.sum() == np.isfinite(one.values()).all(axis=1).sum()


@client("pandas", "reads the exported Parquet and CSV, with the ends of intervals")
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_pandas(folder: Path, one: CompositionMap, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        extra_module("st", "pyarrow")
    path = export_map(folder, form, tmp_path)
    table = pd.read_parquet(path) if form == "parquet" else pd.read_csv(path, index_col=0, encoding="utf-8-sig")
    assert table.index.name == "spot" and list(table.index) == list(one.adata.obs_names)
    np.testing.assert_allclose(table[one.cell_types], one.values(), rtol=1e-5)
    for end, bounds in one.bounds.items():
        np.testing.assert_allclose(table[[f"{name} {end}" for name in one.cell_types]], bounds, rtol=1e-5, atol=1e-9)
    assert table.columns[-1] == "use"


@client("vitessce", "a configuration of the exported store: its scale bar is right in `micrometres`")
def test_vitessce(store: Path) -> None:
    vitessce = extra_module("clients", "vitessce")
    wrapper = vitessce.SpatialDataWrapper(
        sdata_url=f"http://localhost/{store.name}",
        image_path="images/thumbnail",
        table_path="tables/composition",
        obs_feature_matrix_path="tables/composition/X",
        obs_spots_path="shapes/tiles",
        coordinate_system="micrometres",
        region="tiles",
    )
    config = vitessce.VitessceConfig(schema_version="1.0.18", name="composition")
    config.add_dataset(name="map").add_object(wrapper)
    made = json.dumps(config.to_dict(base_url="http://localhost"))
    assert "micrometres" in made and "shapes/tiles" in made
