"""SpatialData stores: written with spatialdata in Zarr v2 and v3, read back in px of the image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import histomix as hm
from histomix.errors import SectionError, SlideError, SlideReadError
from histomix.slides import open_slide
from histomix.slides.readers.zarr import ZarrImage, image_names, open_spatialdata_image
from histomix.slides.slide import Slide
from histomix.spots import read_spots
from histomix.spots.formats import SpotFile, find_format, load_format
from histomix.spots.readers import read_section_spots

from .extras import needs_extra

pytestmark = needs_extra("st", "spatialdata")
#: Image px -> global: turned by 90 degrees, half the size, shifted.
TO_GLOBAL = np.array([[0.0, -0.5, 700.0], [0.5, 0.0, 30.0], [0.0, 0.0, 1.0]])
PITCH_PX = 80.0


def _visium() -> tuple[pd.DataFrame, np.ndarray]:
    row, column = (part.ravel() for part in np.mgrid[:5, :6])
    column = 2 * column + row % 2
    xy_px = np.column_stack([60 + column * PITCH_PX / 2, 50 + row * PITCH_PX * np.sqrt(0.75)])
    return pd.DataFrame({"array_row": row, "array_col": column}), xy_px


def _pixels(height: int = 400, width: int = 560) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, (x + y) % 251]).astype(np.uint8)


def _table(
    instances: np.ndarray, region: str | list[str] = "spots", seed: int = 0, of: list[str] | None = None, **obs: Any
) -> AnnData:
    from spatialdata.models import TableModel

    counts = sparse.csr_matrix(np.random.default_rng(seed).poisson(1.0, (len(instances), 3)).astype(np.float32))
    frame = pd.DataFrame({"instance": instances, **obs}, index=[f"BC{i}-1" for i in range(len(instances))])
    frame["region"] = pd.Categorical(of or [region] * len(frame))
    adata = AnnData(counts, obs=frame, var=pd.DataFrame(index=list("abc")))
    return TableModel.parse(adata, region=region, region_key="region", instance_key="instance")


def _store(path: Path, change: str = "", version: int = 3) -> Path:
    """Visium-like spots as circles in global, an image turned against them, and a table in another order."""
    import spatialdata
    from spatialdata.models import Image2DModel, ShapesModel
    from spatialdata.transformations import Affine, Identity

    obs, xy_px = _visium()
    xy_global = xy_px @ TO_GLOBAL[:2, :2].T + TO_GLOBAL[:2, 2]
    ids = np.arange(100, 100 + len(xy_px))
    affine = Affine(TO_GLOBAL, input_axes=("x", "y"), output_axes=("x", "y"))
    image = Image2DModel.parse(
        _pixels(), dims=("c", "y", "x"), transformations={"global": affine}, scale_factors=[2, 2], c_coords=list("rgb")
    )
    shapes = ShapesModel.parse(
        xy_global, geometry=0, radius=27.5 * 0.5 * PITCH_PX / 100, index=ids, transformations={"global": Identity()}
    )
    order = np.random.default_rng(0).permutation(len(ids))
    columns = {} if change == "no array" else {name: obs[name].to_numpy()[order] for name in obs}
    tables = {"table": _table(ids[order], **columns)}
    images, elements = {"he": image}, {"spots": shapes}
    if change == "two tables":
        tables["second"] = _table(ids[order], seed=1)
    if change == "two images":
        images["dapi"] = Image2DModel.parse(np.zeros((1, 20, 20), np.uint16), dims=("c", "y", "x"))
    if change == "microns":
        spatialdata.transformations.set_transformation(
            image, Affine(np.diag([0.4, 0.4, 1]), ("x", "y"), ("x", "y")), to_coordinate_system="microns"
        )
    if change == "apart":
        spatialdata.transformations.set_transformation(shapes, {"elsewhere": Identity()}, set_all=True)
    if change == "other instances":
        tables = {"table": _table(ids + 1000)}
    if change == "no table":
        tables = {}
    data = spatialdata.SpatialData(images=images, shapes=elements, tables=tables)
    if change == "free table":
        data.tables["table"] = AnnData(np.ones((3, 2)))
        del data.shapes["spots"]
    if version == 2:
        from spatialdata._io.format import SpatialDataContainerFormatV01

        data.write(path, sdata_formats=SpatialDataContainerFormatV01())
    else:
        data.write(path)
    return path


def _read(path: Path, with_counts: bool = False, **options: str) -> SpotFile:
    return read_section_spots(path, "spatialdata", None, with_counts, options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _store(tmp_path_factory.mktemp("store") / "visium.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_spots_come_back_in_px_of_the_image(tmp_path: Path, version: int) -> None:
    path = _store(tmp_path / "visium.zarr", version=version)
    assert (path / "zarr.json").exists() == (version == 3)
    assert find_format(path) is load_format("spatialdata")
    found = _read(path, with_counts=True)
    _, xy_px = _visium()
    order = np.random.default_rng(0).permutation(len(xy_px))
    np.testing.assert_allclose(found.adata.obsm["spatial"], xy_px[order], atol=1e-6)
    np.testing.assert_array_equal(found.adata.X.toarray(), _table(order).X.toarray())
    assert list(found.adata.obs_names[:2]) == ["BC0-1", "BC1-1"] and list(found.adata.var_names) == list("abc")
    assert found.mpp == pytest.approx(100 / PITCH_PX) and found.mpp_source == "the 100 um pitch of the Visium array"
    assert (found.spot_pitch_um, found.spot_diameter_um) == (100, 55)
    assert found.image == path / "images" / "he"
    image, mpp = open_spatialdata_image(path)
    np.testing.assert_array_equal(image[:50, 20:90], _pixels().transpose(1, 2, 0)[:50, 20:90])
    assert mpp is None


def test_spots_without_an_array_take_mpp_by_option_and_size_by_radius(tmp_path: Path) -> None:
    path = _store(tmp_path / "loose.zarr", "no array")
    bare = _read(path)
    assert bare.mpp is None and bare.spot_diameter_um is None
    given = _read(path, mpp="1.25")
    assert given.mpp == 1.25 and given.spot_diameter_um == pytest.approx(55)


def test_a_coordinate_system_in_um_gives_the_scale(tmp_path: Path) -> None:
    found = _read(_store(tmp_path / "um.zarr", "microns"))
    assert found.mpp == pytest.approx(0.4) and found.mpp_source == "the coordinate system 'microns'"


@pytest.mark.parametrize(
    ("change", "message", "choice"),
    [
        ("two tables", "holds 2 tables: second, table", {"table": "table"}),
        ("two images", "holds 2 images: dapi, he", {"image": "he"}),
    ],
)
def test_several_of_a_kind_must_be_told_apart(
    tmp_path: Path, change: str, message: str, choice: dict[str, str]
) -> None:
    path = _store(tmp_path / "several.zarr", change)
    with pytest.raises(SectionError, match=message) as caught:
        _read(path)
    name = next(iter(choice))
    assert f"several.zarr#{name}=" in str(caught.value)
    assert _read(path, **choice).adata.n_obs == 30
    with pytest.raises(SectionError, match=f"has no {name} 'x'"):
        _read(path, **{name: "x"})
    described = load_format("spatialdata").describe(path, {})
    assert any(message in text for text in described.missing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("free table", "the table 'table' annotates no region"),
        ("other instances", "0 of the 30 instances of the table are in 'spots'"),
        ("apart", "share no coordinate system"),
    ],
)
def test_stores_whose_spots_have_no_place_are_refused(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(SectionError, match=message):
        _read(_store(tmp_path / "faulty.zarr", change))


def test_shapes_without_a_table_are_spots_without_counts(tmp_path: Path) -> None:
    found = _read(_store(tmp_path / "shapes.zarr", "no table"), with_counts=True)
    np.testing.assert_allclose(found.adata.obsm["spatial"], _visium()[1], atol=1e-6)
    assert found.adata.n_vars == 0 and found.adata.obs_names[0] == "100"


def test_a_table_of_two_regions_must_be_told_which(tmp_path: Path) -> None:
    import spatialdata
    from spatialdata.models import ShapesModel

    positions = {
        "left": np.array([[10.0, 20.0], [30.0, 40.0]]),
        "right": np.array([[5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]),
    }
    shapes = {name: ShapesModel.parse(xy, geometry=0, radius=1.0) for name, xy in positions.items()}
    table = _table(np.array([0, 1, 0, 1, 2]), ["left", "right"], of=["left"] * 2 + ["right"] * 3)
    path = tmp_path / "two.zarr"
    spatialdata.SpatialData(shapes=shapes, tables={"table": table}).write(path)
    with pytest.raises(SectionError, match="holds 2 regions: left, right"):
        _read(path)
    found = _read(path, with_counts=True, region="right")
    np.testing.assert_array_equal(found.adata.obsm["spatial"], positions["right"])
    np.testing.assert_array_equal(found.adata.X.toarray(), table.X.toarray()[2:])
    assert any("'global' is taken to be px" in note for note in found.notes)


def test_centres_of_labels_are_those_of_their_pixels(tmp_path: Path) -> None:
    import spatialdata
    from spatialdata.models import Image2DModel, Labels2DModel

    labels = np.zeros((60, 80), np.int32)
    labels[10:20, 30:50], labels[40:44, 8:10] = 7, 9
    data = spatialdata.SpatialData(
        images={"he": Image2DModel.parse(np.zeros((3, 60, 80), np.uint8), dims=("c", "y", "x"))},
        labels={"cells": Labels2DModel.parse(labels, dims=("y", "x"))},
        tables={"table": _table(np.array([9, 7]), "cells")},
    )
    data.write(tmp_path / "labels.zarr")
    np.testing.assert_allclose(_read(tmp_path / "labels.zarr").adata.obsm["spatial"], [[9, 42], [40, 15]])


def test_damaged_stores_are_refused(tmp_path: Path) -> None:
    path = _store(tmp_path / "damaged.zarr")
    (path / "tables" / "table" / "obs" / "zarr.json").write_text("{")
    with pytest.raises(SectionError, match="cannot be read as SpatialData"):
        _read(path)
    (path / "zarr.json").unlink()  # what is left is still known for what it was
    assert find_format(path) is load_format("spatialdata")
    assert find_format(tmp_path) is not load_format("spatialdata")


@pytest.mark.parametrize("value", [1_000_000, -1])
def test_counts_of_genes_that_are_not_there_are_refused(tmp_path: Path, value: int) -> None:
    import zarr

    path = _store(tmp_path / "s.zarr")
    zarr.open_group(str(path), mode="r+")["tables/table/X/indices"][0] = value
    with pytest.raises(SectionError, match=r"no whole sparse matrix|cannot be read as SpatialData"):
        _read(path, with_counts=True)


def test_a_sheet_row_of_a_store_gives_a_section(store: Path) -> None:
    sheet = store.parent / "sheet.csv"
    sheet.write_text("section,donor,spots,image\nS1,D1,visium.zarr#table=table,\n")
    section = hm.read_cohort(sheet).section("S1")
    assert section.adata.n_obs == 30 and section.spots_mpp == pytest.approx(1.25)
    described = load_format("spatialdata").describe(store, {"table": "table"})
    assert described.row["spots"].endswith("visium.zarr#table=table") and "images: he" in described.contents


def test_an_image_in_a_store_reads_like_any_slide(store: Path) -> None:
    pixels = _pixels().transpose(1, 2, 0)
    image = ZarrImage(store / "images" / "he")
    assert (image.size_px, image.downsamples, image_names(store)) == ((560, 400), (1, 2, 4), ["he"])
    with Slide(store / "images" / "he", image, 0.5, "given") as slide:
        np.testing.assert_array_equal(slide.read(100, 60, 32, 24, 0.5), pixels[60:84, 100:132])
        edge = slide.read(550, 390, 20, 20, 0.5)
        np.testing.assert_array_equal(edge[:10, :10], pixels[390:, 550:])
        assert (edge[10:] == 255).all() and (edge[:, 10:] == 255).all()
        assert slide.thumbnail(5.0).shape == (40, 56, 3)
    with pytest.raises(SlideError, match="closed"):
        image.read_level(0, 0, 0, 5, 5)


def test_images_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = _store(tmp_path / "images.zarr", "two images")
    with pytest.raises(SlideError, match=r"holds 2 images \(it has: dapi, he\)"):
        open_spatialdata_image(path)
    with pytest.raises(SlideError, match="no RGB image of 8 bits"):
        open_spatialdata_image(path, "dapi")
    with pytest.raises(SlideError, match="has no image 'x'"):
        open_spatialdata_image(path, "x")
    with pytest.raises(SlideError, match="is no image of OME-Zarr"):
        ZarrImage(path)
    chunks = [file for file in (path / "images" / "he").rglob("*") if file.is_file() and file.name != "zarr.json"]
    for file in chunks:
        file.write_bytes(b"not a chunk")
    image, _ = open_spatialdata_image(path, "he")
    with pytest.raises(SlideReadError, match="cannot be decoded"):
        image.read_level(0, 0, 0, 10, 10)


def test_a_scale_in_um_on_the_axes_is_believed(store: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(store / "images" / "he", tmp_path / "he")
    content = json.loads((copy / "zarr.json").read_text())
    multiscale = content["attributes"]["ome"]["multiscales"][0]
    for axis in multiscale["axes"][1:]:
        axis["unit"] = "micrometer"
    multiscale["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [1.0, 0.25, 0.25]}]
    (copy / "zarr.json").write_text(json.dumps(content))
    assert open_spatialdata_image(copy)[1] == 0.25


def test_a_store_opens_as_a_slide(store: Path, tmp_path: Path) -> None:
    for path in (store, store / "images" / "he"):
        with open_slide(path, 0.5) as slide:
            assert (slide.width_px, slide.height_px, slide.mpp) == (560, 400, 0.5)
    with pytest.raises(SlideError, match="is a folder, not a slide"):
        open_slide(tmp_path, 0.5)


def test_an_image_that_is_laid_on_a_point_is_refused(store: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(store, tmp_path / "flat.zarr"))
    facts = json.loads((path / "images" / "he" / "zarr.json").read_text())
    for one in facts["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"]:
        one["affine"] = [[0.0] * 4] * 3
    (path / "images" / "he" / "zarr.json").write_text(json.dumps(facts))
    with pytest.raises(SectionError, match="makes a line or a point of it"):
        _read(path)


@pytest.mark.parametrize("part", ["X/data", "obsm/spatial"])
def test_a_table_that_lost_a_chunk_is_refused(tmp_path: Path, part: str) -> None:
    """It would be read as zeros: counts of nothing, or spots in the corner."""
    path = _store(tmp_path / "s.zarr")
    with_places = AnnData(
        sparse.csr_matrix(np.eye(3, dtype=np.float32)),
        obsm={"spatial": np.ones((3, 2))},
        obs=pd.DataFrame(index=list("abc")),
    )
    with_places.write_zarr(tmp_path / "t.zarr")
    for whole, read in (
        (path / "tables" / "table", lambda: _read(path)),
        (tmp_path / "t.zarr", lambda: read_spots(tmp_path / "t.zarr")),
    ):
        read()
        if (array := whole / part).is_dir():
            chunk = next(
                one for one in array.rglob("*") if one.is_file() and one.name not in ("zarr.json", ".zarray", ".zattrs")
            )
            chunk.unlink()
            with pytest.raises(SectionError, match=f"lacks 1 of the chunks of .*{part}"):
                read()
