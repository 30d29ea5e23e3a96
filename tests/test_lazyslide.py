"""What LazySlide itself does with our maps, features, heads and encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
import tifffile

import histomix as hm
from histomix.embedding import LazySlideEncoder, add_to_wsidata
from histomix.embedding.features import build_features
from histomix.embedding.lazyslide import on_lattice
from histomix.encoders import card, cards, load_encoder
from histomix.encoders.cards import zoo_name
from histomix.errors import EncoderError
from histomix.export import LazySlideHead, add_composition_to_wsidata, write_spatialdata

from .conftest import Job
from .extras import extra_module

matplotlib.use("agg")

#: Of scanners (Aperio, Hamamatsu, legacy ST, 40x): none makes 0.5 um per px a whole number of px.
SCALES = (0.499, 0.5021, 0.69, 0.2527)
SIDE, N = 224, 7


def _slide(folder: Path, mpp: float, side_px: int) -> Any:
    wsidata = extra_module("zoo", "wsidata")
    path = folder / "slide.tif"
    facts: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.full((side_px, side_px, 3), 240, np.uint8), tile=(256, 256), photometric="rgb", **facts)
    return wsidata.open_wsi(path, store=None)


def _drawn(wsi: Any, **options: Any) -> np.ndarray:
    """Colours and centres, (n, 6), of the cells that can be seen on a picture by ``lazyslide.pl.tiles``."""
    import lazyslide as zs
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    zs.pl.tiles(wsi, ax=axes, cmap="viridis", **options)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    cells = []
    for image in axes.images[1:]:  # the first is the slide
        colours = np.asarray(image.get_array())
        x0, x1, y1, y0 = image.get_extent()
        row, column = np.nonzero(colours[..., 3])
        x, y = x0 + (column + 0.5) * (x1 - x0) / colours.shape[1], y0 + (row + 0.5) * (y1 - y0) / colours.shape[0]
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        cells.append(np.column_stack([colours[row, column], x, y])[inside])
    plt.close(figure)
    return np.concatenate(cells)


def _grid(mpp: float, pitch_um: float, n: int = N) -> tuple[np.ndarray, float]:
    pitch = pitch_um / mpp
    steps = (np.arange(n) + 0.5) * pitch
    return np.stack([axis.ravel() for axis in np.meshgrid(steps, steps)], axis=1), pitch


def _facts(mpp: float, side_px: int) -> dict[str, Any]:
    return {"width_px": side_px, "height_px": side_px, "mpp": mpp, "file": "slide.tif", "bounds_px": [0, 0]}


def _map(xy_px: np.ndarray, mpp: float, side_px: int, pitch: float, stride_um: float) -> ad.AnnData:
    """A map of one cell type on a grid."""
    obs = pd.DataFrame({"x_px": xy_px[:, 0], "y_px": xy_px[:, 1]}, index=[str(one) for one in range(len(xy_px))])
    table = ad.AnnData(np.linspace(0, 1, len(xy_px), dtype=np.float32)[:, None], obs, pd.DataFrame(index=["a"]))
    table.obsm["spatial"] = xy_px
    tile = {"size_px": SIDE, "mpp": 0.5, "stride_um": stride_um}
    facts = {"slide": _facts(mpp, side_px), "tile": tile, "cell_px": pitch, "places": "grid", "unit": "proportion"}
    table.uns["manifest"] = json.dumps({**facts, "head": {"name": "head"}})
    return table


def _all_are_drawn(wsi: Any, xy_px: np.ndarray, within_px: float, **options: Any) -> None:
    cells = _drawn(wsi, **options)
    assert len(cells) == len(xy_px) == len(np.unique(cells[:, :4], axis=0)), "each tile in its own colour"
    distance = np.abs(cells[:, None, 4:] - xy_px[None]).max(axis=2)
    assert distance.min(axis=0).max() <= within_px and distance.min(axis=1).max() <= within_px


@pytest.mark.client("lazyslide", "`zs.pl.tiles` draws every tile of a map, at 0.499, 0.5021, 0.69 and 0.2527 um per px")
@pytest.mark.parametrize("stride_um", [112.0, 56.0])
@pytest.mark.parametrize("mpp", SCALES)
def test_every_tile_of_a_map_is_drawn_in_its_place(mpp: float, stride_um: float, tmp_path: Path) -> None:
    xy_px, pitch = _grid(mpp, stride_um)
    side_px = int(xy_px.max() + SIDE)
    wsi = _slide(tmp_path, mpp, side_px)
    table = _map(xy_px, mpp, side_px, pitch, stride_um)
    key = add_composition_to_wsidata(table, wsi)
    _all_are_drawn(wsi, xy_px, 4.0, feature_key=key, color="a")
    np.testing.assert_array_equal(wsi.shapes["tiles"][["x_px", "y_px"]], xy_px)


@pytest.mark.parametrize("mpp", SCALES)
def test_every_tile_of_a_section_is_drawn_in_its_place(mpp: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    square, pitch = _grid(mpp, 200.0)
    uneven = square + rng.uniform(-0.3, 0.3, square.shape) * pitch
    side_px = int(square.max() + pitch)
    wsi = _slide(tmp_path, mpp, side_px)
    for name, xy_px, within in (("square", square, 4.0), ("uneven", uneven, pitch / 4)):
        tiles = pd.DataFrame({"x_px": xy_px[:, 0], "y_px": xy_px[:, 1], "tissue": 1.0})
        encoder = {"name": "uni2-h", "digest": "d", "dim": 2, "views": 1}
        manifest = {"section": "A", "identity": "i", "slide": _facts(mpp, side_px), "encoder": encoder}
        manifest["tile"] = {"size_px": SIDE, "mpp": 0.5, "stride_um": None}
        values = np.column_stack([np.linspace(0, 1, len(xy_px)), np.ones(len(xy_px))]).astype(np.float32)
        key = add_to_wsidata(build_features(values, tiles, manifest), wsi, name)
        assert key == f"uni2_{name}"
        _all_are_drawn(wsi, xy_px, within, feature_key=key, color="0", tile_key=name)


def test_a_large_map_keeps_every_tile_within_half_a_tile() -> None:
    step = np.arange(2000) * (112 / 0.499)
    snapped = on_lattice(np.column_stack([step, step]) + 0.3, 224)
    assert len(np.unique(snapped[:, 0])) == 2000 and len(np.unique(snapped % 224, axis=0)) == 1
    assert np.abs(snapped - step[:, None]).max() <= 113
    assert on_lattice(np.zeros((0, 2)), 224).shape == (0, 2)


def test_our_names_and_those_of_the_zoo_mean_the_same() -> None:
    models = extra_module("zoo", "lazyslide_models").MODEL_REGISTRY
    for name in ("uni2", "gigapath", "midnight", "phikonv2", "conch_v1.5", "lunit-dino-s8", "lunit-dino-s16"):
        ours = card(name)
        assert zoo_name(ours.name) == name and models[name].encode_dim == ours.dim
    shared = [one for one in cards() if zoo_name(one.name) in models]
    assert len(shared) >= 20
    for one in shared:
        assert models[zoo_name(one.name)].encode_dim == one.dim, one.name


@pytest.mark.client("lazyslide", "the built-in encoder as its model, and a head on it by `zs.tl.feature_prediction`")
def test_the_builtin_encoder_and_a_head_on_it_work_inside(job: Job, tmp_path: Path) -> None:
    wsidata, zs = extra_module("zoo", "wsidata"), extra_module("dev", "lazyslide")
    model, side = LazySlideEncoder(load_encoder("builtin")), 112
    with hm.open_slide(job.image) as slide:
        pixels = slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp)[::2, ::2]
    facts: dict[str, Any] = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(256, 256), photometric="rgb", **facts)
    wsi = wsidata.open_wsi(tmp_path / "slide.tif", store=None)
    steps = np.arange(0, min(pixels.shape[:2]) - side, side)
    xy = np.stack([axis.ravel() for axis in np.meshgrid(steps, steps)], axis=1)
    wsidata.io.add_tiles(wsi, "tiles", xy, wsidata.TileSpec(side, side, side, side, 1.0), [0] * len(xy))
    zs.tl.feature_extraction(wsi, model, num_workers=0, pbar=False)
    found = np.asarray(wsi.tables["builtin_tiles"].X)
    tiles = np.stack([pixels[y : y + side, x : x + side] for x, y in xy])
    np.testing.assert_allclose(found, model.model.embed(tiles), rtol=1e-4, atol=1e-4)
    head = LazySlideHead(hm.load_head(job.head), mpp=1.0)
    zs.tl.feature_prediction(wsi, head, pbar=False)  # no key is given: it is found by the encoder's name
    shares = np.asarray(wsi.tables[f"{head.name}_tiles"][:, head.head.card["cell_types"]].X)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-3)


def test_tiles_of_another_size_are_refused() -> None:
    with pytest.raises(EncoderError, match="takes 112 x 112 px") as refusal:
        LazySlideEncoder(load_encoder("builtin")).encode_image(np.zeros((2, 224, 224, 3), np.uint8))
    assert "tile_tissues(wsi, 112, mpp=1)" in str(refusal.value.hint)


@pytest.mark.client("wsidata", "opens the exported SpatialData store, which `zs.pl.tiles` draws")
@pytest.mark.parametrize("mpp", [*SCALES, 0.5])
def test_our_own_store_is_drawn_as_it_is(mpp: float, tmp_path: Path) -> None:
    spatialdata, wsidata = extra_module("st", "spatialdata"), extra_module("zoo", "wsidata")
    xy_px, pitch = _grid(mpp, 112.0)
    side_px = int(xy_px.max() + SIDE)
    _slide(tmp_path, mpp, side_px)
    write_spatialdata(tmp_path / "map.zarr", _map(xy_px, mpp, side_px, pitch, 112.0))
    wsi = wsidata.open_wsi(tmp_path / "slide.tif", store=str(tmp_path / "map.zarr"))
    assert spatialdata.get_extent(wsi["tiles"], coordinate_system="micrometres")["x"] == pytest.approx((0, N * 112.0))
    _all_are_drawn(wsi, xy_px, 2.0 * N, feature_key="composition", color="a")
