"""Cell-level truth: composition per spot, the way to the image, and the platforms' tables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse

import histomix as hm
from histomix.abundance import read_labels
from histomix.errors import LabelError, SectionError
from histomix.spots import read_cohort
from histomix.spots.formats import SHEET_IMAGE, SpotFile, find_format, load_format
from histomix.spots.formats.cells.placement import TO_IMAGE, fit_affine, read_affine, read_landmarks
from histomix.spots.formats.cells.tables import PLAIN, read_cells
from histomix.spots.pseudo_spots import cell_composition, cells_in_spots, cells_to_labels, pseudo_spots
from histomix.spots.readers import detect_format, read_section_spots

from .extras import extra_module

SIZE = (1200, 900)
PIXEL_UM = 0.2125
#: H&E px -> px of the morphology image: turned by 90 degrees, enlarged, shifted (as in a real export).
MATRIX = np.array([[0.011, 1.29, 300.0], [-1.29, 0.011, 4000.0], [0.0, 0.0, 1.0]])
TYPES = ("B", "T", "Tumour")


def _cells(count: int = 400, seed: int = 0) -> pd.DataFrame:
    """Cells in px of the H&E image."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((5, 5), (SIZE[0] - 5, SIZE[1] - 5), (count, 2))
    table = {"x_px": xy[:, 0], "y_px": xy[:, 1], "cell_type": rng.choice(TYPES, count)}
    return pd.DataFrame(table, index=pd.Index([f"aaaa{i:04d}-1" for i in range(count)], name="cell_id"))


def _um(cells: pd.DataFrame) -> np.ndarray:
    """Where Xenium has these cells, by the definition of its alignment file."""
    homogeneous = np.column_stack([cells[["x_px", "y_px"]].to_numpy(), np.ones(len(cells))])
    return (homogeneous @ MATRIX.T)[:, :2] * PIXEL_UM


def _in_whole_tiles(cells: pd.DataFrame, tile_px: float) -> int:
    """Cells in those tiles of the lattice from the image's corner that end within the image."""
    ends = [np.floor(side / tile_px) * tile_px for side in SIZE]
    return int(((cells["x_px"] < ends[0]) & (cells["y_px"] < ends[1])).sum())


def _image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    Image.new("RGB", size, (200, 150, 200)).save(path)
    return path


def _xenium(folder: Path, cells: pd.DataFrame, parquet: bool = True) -> Path:
    folder.mkdir()
    um = _um(cells)
    table = pd.DataFrame({"cell_id": cells.index, "x_centroid": um[:, 0], "y_centroid": um[:, 1], "cell_area": 40.0})
    if parquet:
        extra_module("st", "pyarrow")
        table.to_parquet(folder / "cells.parquet")
    else:
        table.to_csv(folder / "cells.csv.gz", index=False)
    (folder / "experiment.xenium").write_text(json.dumps({"pixel_size": PIXEL_UM, "major_version": 2}))
    pd.DataFrame(MATRIX).to_csv(folder / "run_he_imagealignment.csv", header=False, index=False)
    cells[["cell_type"]].rename(columns={"cell_type": "group"}).to_csv(folder / "types.csv")
    return folder


def _read(path: Path, format: str, image: Path | None = None, with_counts: bool = False, **options: str) -> SpotFile:
    sheet = {} if image is None else {SHEET_IMAGE: str(image)}
    return read_section_spots(path, format, None, with_counts, {**options, **sheet})


def _brute(cells: pd.DataFrame, spots: pd.DataFrame, size_px: float, circle: bool) -> pd.DataFrame:
    counts = pd.DataFrame(0, index=spots.index, columns=sorted(set(cells["cell_type"])))
    for cell in cells.itertuples():
        dx, dy = cell.x_px - spots["x_px"], cell.y_px - spots["y_px"]
        near = np.hypot(dx, dy) <= size_px / 2 if circle else np.maximum(abs(dx), abs(dy)) < size_px / 2
        counts[cell.cell_type] += near.astype(int)
    return counts


@pytest.mark.parametrize("circle", [True, False])
def test_composition_equals_counting_by_hand(circle: bool) -> None:
    cells = _cells(150)
    rng = np.random.default_rng(1)
    spots = pd.DataFrame(rng.uniform(0, 900, (12, 2)), columns=["x_px", "y_px"], index=[f"s{i}" for i in range(12)])
    size = {"diameter_um": 90.0} if circle else {"size_um": 90.0}
    found = cell_composition(cells, spots, mpp=0.5, **size)
    expected = _brute(cells, spots, 180, circle)
    assert expected.to_numpy().sum() > 20
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_touching_squares_share_no_cell_even_on_their_edges() -> None:
    cells = np.array([[100.0, 50.0], [0.0, 0.0], [200.0, 50.0], [99.999, 50.0]])
    members = cells_in_spots(cells, np.array([[50.0, 50.0], [150.0, 50.0]]), 100, "square")
    assert members.toarray().tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]
    assert cells_in_spots(np.array([[100.0, 50.0]]), np.array([[50.0, 50.0]]), 100, "circle").nnz == 1


def test_no_cells_give_no_members() -> None:
    assert cells_in_spots(np.empty((0, 2)), np.array([[1.0, 1.0]]), 10).shape == (1, 0)


def test_cells_without_a_type_are_not_counted() -> None:
    names = ["B", "Unassigned", "unknown", None, "nan", " B ", ""]
    cells = pd.DataFrame({"x_px": 5.0, "y_px": 5.0, "cell_type": names})
    spots = pd.DataFrame({"x_px": [5.0], "y_px": [5.0]}, index=["s"])
    assert cell_composition(cells, spots, mpp=1, diameter_um=4).to_dict() == {"B": {"s": 2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_um": 10.0, "diameter_um": 10.0}, "not given once"),
        ({}, "not given once"),
        ({"size_um": -1.0}, "size of the spots"),
        ({"size_um": 1.0, "shape": "star"}, "no shape"),
    ],
)
def test_sizes_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    cells = _cells(5)
    with pytest.raises(SectionError, match=message):
        cell_composition(cells, cells[["x_px", "y_px"]], mpp=0.5, **change)


def test_every_cell_is_in_one_pseudo_spot_and_keys_do_not_depend_on_the_cells() -> None:
    cells = _cells(300)
    spots = pseudo_spots(cells, 50, mpp=0.5)
    counts = cell_composition(cells, spots, mpp=0.5, size_um=50)
    assert counts.to_numpy().sum() == 300 and (counts.sum(axis=1) >= 1).all()
    fewer = pseudo_spots(cells.iloc[:100], 50, mpp=0.5)
    pd.testing.assert_frame_equal(fewer, spots.loc[fewer.index])
    many = pseudo_spots(cells, 50, mpp=0.5, min_cells=5)
    assert set(many.index) == set(counts.index[counts.sum(axis=1) >= 5])
    # Spots larger than the pitch overlap, and reach cells of the squares beside their own.
    wide = pseudo_spots(cells, 50, mpp=0.5, diameter_um=150)
    expected = cells_in_spots(cells[["x_px", "y_px"]].to_numpy(), wide[["x_px", "y_px"]].to_numpy(), 300).sum()
    assert len(wide) > len(spots) and expected > 300


@pytest.mark.parametrize("parquet", [True, False])
def test_xenium_cells_land_where_the_image_has_them(tmp_path: Path, parquet: bool) -> None:
    cells = _cells()
    outs = _xenium(tmp_path / "outs", cells, parquet)
    assert find_format(outs) is load_format("xenium")
    found = _read(outs, "xenium", _image(tmp_path / "he.png"), at="cells", types="types.csv")
    assert list(found.adata.obs_names) == list(cells.index)
    np.testing.assert_allclose(found.adata.obsm["spatial"], cells[["x_px", "y_px"]], atol=1e-6)
    assert found.mpp == pytest.approx(PIXEL_UM * np.sqrt(0.011**2 + 1.29**2))


def test_xenium_labels_equal_the_composition_of_the_cells(tmp_path: Path) -> None:
    cells = _cells()
    outs = _xenium(tmp_path / "outs", cells)
    found = _read(outs, "xenium", _image(tmp_path / "he.png"), types="types.csv", tile_um="40")
    labels = cells_to_labels(found.adata)
    assert found.spot_diameter_um == found.spot_pitch_um == 40
    assert found.mpp is not None
    positions = pd.DataFrame(found.adata.obsm["spatial"], index=found.adata.obs_names, columns=["x_px", "y_px"])
    expected = _brute(cells, positions, 40 / found.mpp, False)
    pd.testing.assert_frame_equal(labels, expected.astype(float), check_names=False)
    assert labels.to_numpy().sum() == _in_whole_tiles(cells, 40 / found.mpp)


def test_the_direction_of_the_alignment_is_that_of_spatialdata_io(tmp_path: Path) -> None:
    xenium = extra_module("st", "spatialdata_io.readers.xenium")
    from spatialdata.transformations import get_transformation

    cells = _cells(10)
    outs = _xenium(tmp_path / "outs", cells)
    image = _image(outs / "run_he_image.png")
    element = xenium.xenium_aligned_image(image, outs / "run_he_imagealignment.csv", dims=("page", "y", "x", "c"))
    matrix = get_transformation(element).to_affine_matrix(("x", "y"), ("x", "y"))
    morphology = cells[["x_px", "y_px"]].to_numpy() @ matrix[:2, :2].T + matrix[:2, 2]
    placement = read_affine(outs / "run_he_imagealignment.csv", PIXEL_UM)
    np.testing.assert_allclose(placement.apply(morphology * PIXEL_UM), cells[["x_px", "y_px"]], atol=1e-6)


def test_an_alignment_of_the_wrong_direction_is_found_and_named(tmp_path: Path) -> None:
    cells = _cells()
    outs, image = _xenium(tmp_path / "outs", cells), _image(tmp_path / "he.png")
    pd.DataFrame(np.linalg.inv(MATRIX)).to_csv(outs / "run_he_imagealignment.csv", header=False, index=False)
    with pytest.raises(SectionError, match=r"100% of 400 cells lie outside.*other way round, 100% lie on it") as caught:
        _read(outs, "xenium", image)
    assert "direction=cells-to-image" in str(caught.value)
    alignment = {"alignment": "run_he_imagealignment.csv", "direction": TO_IMAGE}
    found = _read(outs, "xenium", image, at="cells", **alignment)
    np.testing.assert_allclose(found.adata.obsm["spatial"], cells[["x_px", "y_px"]], atol=1e-6)


def test_cells_of_another_image_are_refused_and_single_strays_dropped(tmp_path: Path) -> None:
    cells = _cells()
    outs = _xenium(tmp_path / "outs", cells)
    with pytest.raises(SectionError, match="cells lie outside the image of 100 x 90 px"):
        _read(outs, "xenium", _image(tmp_path / "small.png", (100, 90)))
    cut = _image(tmp_path / "cut.png", (1100, 900))
    found = _read(outs, "xenium", cut, at="cells")
    strays = int((cells["x_px"] >= 1100).sum())
    assert strays > 0 and found.adata.n_obs == len(cells) - strays
    assert f"{strays} cells outside the image are dropped" in found.notes
    assert any("not checked that the cells lie on it" in note for note in _read(outs, "xenium", at="cells").notes)


def test_negative_px_are_said_where_no_image_can_refuse_them(tmp_path: Path) -> None:
    cells = _cells(20).assign(x_px=lambda table: table["x_px"] - 600)
    cells.to_csv(tmp_path / "cells.csv")
    negative = int((cells["x_px"] < 0).sum())
    found = _read(tmp_path / "cells.csv", "cells", mpp="0.5")
    assert any(f"{negative} cells have negative px" in note for note in found.notes)
    kept = _read(tmp_path / "cells.csv", "cells", _image(tmp_path / "he.png"), mpp="0.5", at="cells").adata.n_obs
    assert kept == 20 - negative


def test_cosmx_and_merscope_tables(tmp_path: Path) -> None:
    cells = _cells(60)
    xy = cells[["x_px", "y_px"]].to_numpy()
    fov, number = np.arange(60) // 10, np.arange(60) % 10
    px = xy * 0.5 / 0.12028
    table = {"fov": fov, "cell_ID": number, "CenterX_global_px": px[:, 0], "CenterY_global_px": px[:, 1]}
    pd.DataFrame(table).to_csv(tmp_path / "run_metadata_file.csv", index=False)
    assert find_format(tmp_path) is load_format("cosmx")
    found = _read(tmp_path, "cosmx", at="cells", um_per_px="0.5")
    np.testing.assert_allclose(found.adata.obsm["spatial"], xy)
    assert list(found.adata.obs_names[:2]) == ["0_0", "0_1"] and any("0.12028 um" in note for note in found.notes)

    vizgen = tmp_path / "vizgen"
    vizgen.mkdir()
    ids = [1110000 + i for i in range(60)]
    pd.DataFrame({"fov": 1, "center_x": xy[:, 0] / 2, "center_y": xy[:, 1] / 2}, index=ids).to_csv(
        vizgen / "cell_metadata.csv"
    )
    assert find_format(vizgen) is load_format("merscope")
    found = _read(vizgen, "merscope", at="cells", um_per_px="0.5")
    np.testing.assert_allclose(found.adata.obsm["spatial"], xy)
    assert list(found.adata.obs_names) == [str(i) for i in ids]
    with pytest.raises(SectionError, match="nothing leads from the um of the cells"):
        _read(vizgen, "merscope")


def test_landmarks_recover_an_affine_map_and_tell_their_residual(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    px = rng.uniform(0, 1000, (8, 2))
    um = (px - 20) @ np.array([[0.5, 0.02], [-0.02, 0.5]])
    table = pd.DataFrame(np.column_stack([um, px]), columns=["x_um", "y_um", "x_px", "y_px"])
    table.to_csv(tmp_path / "landmarks.csv", index=False)
    exact = read_landmarks(tmp_path / "landmarks.csv")
    np.testing.assert_allclose(exact.apply(um), px, atol=1e-6)
    assert exact.residual_um == pytest.approx(0, abs=1e-6)
    assert exact.mpp == pytest.approx(np.sqrt(0.5**2 + 0.02**2))
    noisy = fit_affine(um + rng.normal(0, 3, um.shape), px)
    assert noisy.residual_um is not None and 0.5 < noisy.residual_um < 8
    assert fit_affine(um[:3], px[:3]).residual_um is None

    keypoints = pd.DataFrame(
        np.column_stack([um / PIXEL_UM, px]), columns=["fixedX", "fixedY", "alignmentX", "alignmentY"]
    )
    keypoints.to_csv(tmp_path / "keypoints.csv", index=False)
    np.testing.assert_allclose(read_landmarks(tmp_path / "keypoints.csv", PIXEL_UM).apply(um), px, atol=1e-6)


def test_landmarks_that_fix_no_map_are_refused(tmp_path: Path) -> None:
    line = np.column_stack([np.arange(6.0), 2 * np.arange(6.0)])
    spread = np.random.default_rng(0).uniform(0, 100, (6, 2))
    with pytest.raises(SectionError, match=r"one line \(those of the cells\)"):
        fit_affine(line, spread)
    with pytest.raises(SectionError, match=r"one line \(those of the image\)"):
        fit_affine(spread, line)
    with pytest.raises(SectionError, match="2 different landmarks"):
        fit_affine(spread[[0, 1, 1, 0]], spread[[0, 1, 1, 0]])
    pd.DataFrame({"a": [1], "b": [2]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(SectionError, match="has no landmarks"):
        read_landmarks(tmp_path / "other.csv")


@pytest.mark.parametrize("text", ["1,2,3\n4,5,6", "a,b,c\n1,2,3\n0,0,1", "1,0,0\n0,1,0\n0,0,2", "1,2,0\n2,4,0\n0,0,1"])
def test_files_that_are_no_affine_map(tmp_path: Path, text: str) -> None:
    (tmp_path / "matrix.csv").write_text(text)
    if text == "1,2,3\n4,5,6":  # two rows of an affine map are one
        assert read_affine(tmp_path / "matrix.csv", 1, TO_IMAGE).apply(np.array([[1.0, 1.0]])).tolist() == [[6, 15]]
        return
    with pytest.raises(SectionError, match=r"not an affine matrix|onto a line"):
        read_affine(tmp_path / "matrix.csv")


@settings(max_examples=40, deadline=None)
@given(
    angle=st.floats(-3.2, 3.2),
    scale=st.floats(0.1, 10),
    shift=st.tuples(*[st.floats(-1e4, 1e4)] * 2),
    flip=st.booleans(),
)
def test_um_to_px_and_back(
    tmp_path_factory: pytest.TempPathFactory, angle: float, scale: float, shift: tuple[float, float], flip: bool
) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.vstack([np.column_stack([turn @ np.diag([1, -1 if flip else 1]), shift]), [0, 0, 1]])
    path = tmp_path_factory.mktemp("affine") / "m.csv"
    np.savetxt(path, matrix, delimiter=",")
    placement = read_affine(path, 0.25)
    px = np.array([[0.0, 0.0], [123.0, 45.0], [-7.0, 900.0]])
    um = (px @ matrix[:2, :2].T + matrix[:2, 2]) * 0.25
    np.testing.assert_allclose(placement.apply(um), px, atol=1e-5)
    assert placement.mpp == pytest.approx(0.25 * scale) and placement.distortion == pytest.approx(1)


def _spoil(table: pd.DataFrame, how: str) -> pd.DataFrame:
    if how == "duplicate":
        return pd.concat([table, table.iloc[[3]]])
    if how == "nan":
        table.loc[table.index[:7], "x_centroid"] = np.nan
    if how == "all nan":
        table["y_centroid"] = np.nan
    if how == "no coordinates":
        return table.drop(columns="x_centroid")
    return table


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("duplicate", "'aaaa0003-1' more than once"),
        ("all nan", "no cell with a place"),
        ("no coordinates", "lacks the column x_centroid"),
    ],
)
def test_faulty_cell_tables_are_refused(tmp_path: Path, how: str, message: str) -> None:
    outs = _xenium(tmp_path / "outs", _cells(30))
    _spoil(pd.read_parquet(outs / "cells.parquet"), how).to_parquet(outs / "cells.parquet")
    with pytest.raises(SectionError, match=message):
        _read(outs, "xenium")


def test_cells_without_coordinates_are_dropped_and_said(tmp_path: Path) -> None:
    outs = _xenium(tmp_path / "outs", _cells(30))
    _spoil(pd.read_parquet(outs / "cells.parquet"), "nan").to_parquet(outs / "cells.parquet")
    found = _read(outs, "xenium", at="cells")
    assert found.adata.n_obs == 23 and "7 cells without coordinates are dropped" in found.notes


def test_damaged_parquet_and_missing_files_are_named(tmp_path: Path) -> None:
    outs = _xenium(tmp_path / "outs", _cells(30))
    whole = (outs / "cells.parquet").read_bytes()
    (outs / "cells.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SectionError, match="cannot be read as Parquet"):
        _read(outs, "xenium")
    (outs / "cells.parquet").unlink()
    with pytest.raises(SectionError, match="without a cell table"):
        _read(outs, "xenium")


@pytest.mark.parametrize("size", [0, -1, "NaN", 1e300, "true", "null", '"0.2125"'])
def test_px_of_no_size_are_refused(size: object, tmp_path: Path) -> None:
    outs = _xenium(tmp_path / "outs", _cells(30))
    (outs / "experiment.xenium").write_text(f'{{"pixel_size": {size}}}')
    with pytest.raises(SectionError, match=r"experiment.xenium: does not tell the pixel_size in um"):
        _read(outs, "xenium")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_in_the_place_of_the_specs_is_not_waited_for(tmp_path: Path) -> None:
    outs = _xenium(tmp_path / "outs", _cells(30))
    (outs / "experiment.xenium").unlink()
    os.mkfifo(outs / "experiment.xenium")
    with pytest.raises(SectionError, match="is a pipe"):
        _read(outs, "xenium")


def test_types_of_other_cells(tmp_path: Path) -> None:
    cells = _cells(40)
    outs = _xenium(tmp_path / "outs", cells)
    types = cells[["cell_type"]]
    strangers = types.iloc[:5].rename(index=lambda key: f"zzzz{key}")
    pd.concat([types.iloc[:30], strangers]).to_csv(outs / "types.csv")
    found = _read(outs, "xenium", types="types.csv", at="cells")
    assert "5 cells of types.csv are not in the section and are ignored" in found.notes
    assert "10 cells are not in types.csv: without a type" in found.notes
    types.rename(index=lambda key: key.removesuffix("-1")).to_csv(outs / "types.csv")
    with pytest.raises(SectionError, match="holds 0 of the 40 cells: these are called aaaa0000-1"):
        _read(outs, "xenium", types="types.csv")
    pd.concat([types, types.iloc[[0]]]).to_csv(outs / "types.csv")
    with pytest.raises(SectionError, match="more than once"):
        _read(outs, "xenium", types="types.csv")
    types.to_csv(outs / "types.csv", header=False)
    with pytest.raises(SectionError, match="has no header: it begins with the cell"):
        _read(outs, "xenium", types="types.csv")
    types.to_csv(outs / "types.csv", index=False)
    with pytest.raises(SectionError, match="has no column of cell ids"):
        _read(outs, "xenium", types="types.csv")
    (outs / "types.csv").write_text("")
    with pytest.raises(SectionError, match="is empty"):
        _read(outs, "xenium", types="types.csv")
    types.assign(other=1).rename(columns={"cell_type": "what"}).to_csv(outs / "types.csv")
    with pytest.raises(SectionError, match="no column of cell types"):
        _read(outs, "xenium", types="types.csv")
    assert _read(outs, "xenium", types="types.csv", type_column="what").adata.obsm["cell_counts"].shape[1] == 3


def test_spots_of_mostly_untyped_cells_get_no_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    positions = {"x_px": [10, 12, 14, 210, 212, 214], "y_px": [10.0] * 6}
    types = ["B", "T", "Unassigned", "B", "Unknown", ""]
    pd.DataFrame({"cell_id": list("abcdef"), **positions, "cell_type": types}).to_csv(
        tmp_path / "cells.csv", index=False
    )
    found = _read(tmp_path / "cells.csv", "cells", mpp="0.5", tile_um="50")
    assert found.adata.obs["cells"].tolist() == [3, 3]
    with caplog.at_level("INFO"):
        labels = cells_to_labels(found.adata)
    assert labels.to_dict("index") == {"r0c0": {"B": 1.0, "T": 1.0}} and "1 of 2 spots" in caplog.text
    assert len(cells_to_labels(found.adata, max_unassigned=0.7)) == 2
    with pytest.raises(SectionError, match="in every spot"):
        cells_to_labels(found.adata, max_unassigned=0.1)


def test_labels_of_what_has_no_cells_or_no_types() -> None:
    bare = AnnData(np.zeros((2, 0)))
    with pytest.raises(SectionError, match="not read from a table of cells"):
        cells_to_labels(bare)
    bare.obs["cells"] = 3
    with pytest.raises(SectionError, match="have no types"):
        cells_to_labels(bare)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_um": "-5"}, "option tile_um: '-5' is not a number above 0"),
        ({"tile_um": "50", "spot_um": "55"}, "both tile_um and spot_um"),
        ({"types": "nothing.csv"}, "there is no file"),
        ({"alignment": "types.csv", "um_per_px": "1"}, "both alignment and um_per_px"),
        ({"direction": "up"}, "'up' is none of"),
        ({"size": "3"}, "has no option 'size'"),
    ],
)
def test_faulty_options(tmp_path: Path, options: dict[str, str], message: str) -> None:
    outs = _xenium(tmp_path / "outs", _cells(10))
    with pytest.raises(SectionError, match=message):
        _read(outs, "xenium", **options)


def test_a_folder_with_two_alignments_must_be_told_which(tmp_path: Path) -> None:
    outs = _xenium(tmp_path / "outs", _cells(10))
    (outs / "run_if_imagealignment.csv").write_text((outs / "run_he_imagealignment.csv").read_text())
    with pytest.raises(SectionError, match="several alignment files"):
        _read(outs, "xenium")
    assert _read(outs, "xenium", at="cells", alignment="run_he_imagealignment.csv").adata.n_obs == 10


def _write_10x(path: Path, matrix: sparse.csr_matrix, barcodes: list[str], genes: list[str]) -> None:
    """The HDF5 layout of 10x Genomics: genes x cells, by column."""
    stored = sparse.csc_matrix(matrix.T)
    with h5py.File(path, "w") as store:
        group = store.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"], group["indptr"] = stored.data.astype("i4"), stored.indices, stored.indptr
        group["shape"] = np.array(stored.shape)
        features = group.create_group("features")
        for name, values in (("id", [f"ENSG{i}" for i in range(len(genes))]), ("name", genes)):
            features[name] = np.array(values, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * len(genes), dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(genes), dtype="S")


def test_counts_of_cells_are_summed_over_their_spot(tmp_path: Path) -> None:
    cells = _cells(80)
    outs = _xenium(tmp_path / "outs", cells)
    matrix = sparse.random(80, 6, 0.5, "csr", random_state=0)
    matrix.data = np.ceil(matrix.data * 9)
    order = np.random.default_rng(0).permutation(80)
    _write_10x(outs / "cell_feature_matrix.h5", matrix[order], list(cells.index[order]), list("uvwxyz"))
    each = _read(outs, "xenium", at="cells", with_counts=True).adata
    np.testing.assert_array_equal(each.X.toarray(), matrix.toarray())
    assert list(each.var_names) == list("uvwxyz")
    pooled = _read(outs, "xenium", tile_um="60", with_counts=True).adata
    assert 1 < pooled.n_obs < 80
    np.testing.assert_allclose(pooled.X.toarray().sum(axis=0), matrix.toarray().sum(axis=0))
    assert _read(outs, "xenium", tile_um="60").adata.n_vars == 0


def test_a_sheet_row_of_xenium_gives_a_section_with_labels(tmp_path: Path) -> None:
    cells = _cells()
    _xenium(tmp_path / "outs", cells)
    _image(tmp_path / "he.png")
    sheet = "section,donor,spots,image\nS1,D1,outs#types=types.csv;tile_um=40,he.png\n"
    (tmp_path / "sheet.csv").write_text(sheet)
    section = hm.read_cohort(tmp_path / "sheet.csv").section("S1")
    labels = cells_to_labels(section)
    assert list(labels.columns) == sorted(TYPES) and labels.to_numpy().sum() == _in_whole_tiles(
        cells, 40 / section.spots_mpp
    )
    assert section.spot_diameter_um == 40 and section.spots_mpp == pytest.approx(PIXEL_UM * 1.29005, rel=1e-4)
    with section.slide() as slide:
        assert slide.mpp == pytest.approx(section.spots_mpp)


def test_typed_cells_become_labels_without_deconvolution(tmp_path: Path) -> None:
    cells = _cells()
    few = cells[cells["cell_type"] != "B"]
    _image(tmp_path / "he.png")
    for name, table in (("all", cells), ("few", few)):
        table.to_csv(tmp_path / f"{name}.csv")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(
        "section,donor,spots,image,mpp,format\n"
        "A,D1,all.csv#tile_um=100,he.png,0.5,cells\nB,D2,few.csv#tile_um=100,he.png,0.5,cells\n"
    )
    labels = hm.label(hm.read_cohort(sheet), method="cells", out=tmp_path / "labels")
    assert labels["A"].unit == "cells per spot" and labels["A"].cell_types == labels["B"].cell_types == sorted(TYPES)
    # Tiles of 100 um are 200 px wide; those cut by the edge of the image are none.
    tile = cells[(cells["x_px"] < 200) & (cells["y_px"] < 200)]["cell_type"].value_counts()
    first = labels["A"].values.iloc[0]
    assert first.to_dict() == {name: float(tile.get(name, 0)) for name in TYPES}
    assert labels["A"].values.to_numpy().sum() == _in_whole_tiles(cells, 200) and (labels["B"].values["B"] == 0).all()
    stored = read_labels(tmp_path / "labels")
    pd.testing.assert_frame_equal(stored["B"].values, labels["B"].values, check_names=False)
    cells.drop(columns="cell_type").to_csv(tmp_path / "all.csv")
    with pytest.raises(LabelError, match="no types"):
        hm.label(hm.read_cohort(sheet), method="cells")


def test_descriptions_say_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    outs = _xenium(tmp_path / "outs", _cells(30))
    xenium = load_format("xenium")
    bare = xenium.describe(outs, {})
    assert "30 cells with their places in um" in bare.contents and any("cell types" in text for text in bare.missing)
    typed = xenium.describe(outs, {"types": "types.csv"})
    assert "3 cell types: B, T, Tumour" in typed.contents and not any("cell types" in text for text in typed.missing)
    assert bare.row == {"spots": str(outs), "format": "xenium"}


def test_the_real_xenium_core(data_dir: Path) -> None:
    path, image = data_dir / "xenium_lung_core" / "NCBI858.h5ad", data_dir / "xenium_lung_core" / "NCBI858.jpg"
    with h5py.File(path) as store:
        x, y = store["obs/x_pixel"][:], store["obs/y_pixel"][:]
        total = store["X/data"][:].sum() if isinstance(store["X"], h5py.Group) else store["X"][:].sum()
    assert load_format("cells").matches(path) and not load_format("cells").matches(image)
    width, height = Image.open(image).size
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    assert (len(x), int(inside.sum())) == (200, 184)
    whole = _read(path, "cells", with_counts=True, at="cells").adata
    assert whole.shape == (200, 338) and whole.X.sum() == pytest.approx(total)
    np.testing.assert_allclose(whole.obsm["spatial"], np.column_stack([x, y]))
    placed = _read(path, "cells", image, with_counts=True, mpp="0.36")
    assert placed.adata.obs["cells"].sum() == 184 and "16 cells outside the image are dropped" in placed.notes
    with pytest.raises(SectionError, match="have no types"):
        cells_to_labels(placed.adata)
    with pytest.raises(SectionError, match="nothing tells their um"):
        _read(path, "cells", image)


@pytest.mark.parametrize("types", ["cell_type", "type"])
@pytest.mark.parametrize("format", ["", "cells"])
def test_cells_without_an_id_are_told_by_their_rows(tmp_path: Path, types: str, format: str) -> None:
    """What ``score --cells`` takes, and the phantom's own truth; two cells share x."""
    (tmp_path / "cells.csv").write_text(f"x_px,y_px,{types}\n100.5,20,T\n100.5,90,B\n300,40,T\n")
    (tmp_path / "sheet.csv").write_text(f"section,donor,spots,image,mpp,format\na,P,cells.csv,,0.5,{format}\n")
    section = read_cohort(tmp_path / "sheet.csv").section("a")
    assert section.adata.obsm["cell_counts"].sum().to_dict() == {"B": 1, "T": 2}
    assert list(read_cells(tmp_path / "cells.csv", PLAIN[0]).table.index) == ["1", "2", "3"]


def test_a_table_of_spots_with_a_type_stays_one_of_spots(tmp_path: Path) -> None:
    for header in ("spot,x_px,y_px,cell_type", "barcode,x_px,y_px,annotation", "name,x_px,y_px,cell_type"):
        (tmp_path / "s.csv").write_text(f"{header}\na,1,2,T\n")
        assert detect_format(tmp_path / "s.csv") == "csv"
