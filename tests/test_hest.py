"""HEST-1k samples, and AnnData with several libraries; fixtures are written with anndata and json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

import histomix as hm
from histomix.errors import InputError, SectionError
from histomix.spots.formats import find_format, load_format
from histomix.spots.formats.h5ad import library_names, one_library
from histomix.spots.readers import read_section_spots

MPP = 0.46
META: dict[str, Any] = {
    "id": "TENX1",
    "patient": "Patient 7",
    "organ": "Breast",
    "species": "Homo sapiens",
    "st_technology": "Visium",
    "pixel_size_um_embedded": 0.4599,
    "pixel_size_um_estimated": MPP,
    "spot_diameter": 55.0,
    "inter_spot_dist": 100.0,
}


def _adata(seed: int = 0, rows: int = 5, columns: int = 6) -> ad.AnnData:
    """A hexagonal Visium array in the layout that HEST stores."""
    row, column = (part.ravel() for part in np.mgrid[:rows, :columns])
    column = 2 * column + row % 2
    pitch_px = 100 / MPP
    xy = np.column_stack([200 + column * pitch_px / 2, 150 + row * pitch_px * np.sqrt(0.75)])
    counts = np.random.default_rng(seed).poisson(1.0, (len(xy), 4)).astype(np.float32)
    obs = pd.DataFrame(
        {"in_tissue": 1, "array_row": row, "array_col": column},
        index=[f"{r:03d}x{c:03d}" for r, c in zip(row, column, strict=True)],
    )
    factors = {"tissue_downscaled_fullres_scalef": 0.1, "spot_diameter_fullres": 65 / MPP}
    image = np.zeros((12, 12, 3), np.uint8)
    uns = {"spatial": {"ST": {"images": {"downscaled_fullres": image}, "scalefactors": factors}}}
    return ad.AnnData(
        sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list("WXYZ")), obsm={"spatial": xy}, uns=uns
    )


def _hest(root: Path, name: str = "TENX1", meta: dict[str, Any] | None = None, image: bool = True) -> Path:
    for folder in ("st", "wsis", "metadata", "patches"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _adata(len(name)).write_h5ad(root / "st" / f"{name}.h5ad")
    if meta is not None:
        (root / "metadata" / f"{name}.json").write_text(json.dumps(meta))
    if image:
        Image.new("RGB", (1600, 1200), (220, 170, 210)).save(root / "wsis" / f"{name}.tif")
    return root / "st" / f"{name}.h5ad"


def test_a_sample_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = _hest(tmp_path, meta=META)
    written = _adata(5)
    assert find_format(path) is load_format("hest") and find_format(tmp_path) is load_format("hest")
    found = read_section_spots(path, "hest", with_counts=True)
    assert list(found.adata.obs_names) == list(written.obs_names)
    np.testing.assert_array_equal(found.adata.obsm["spatial"], written.obsm["spatial"])
    np.testing.assert_array_equal(found.adata.X.toarray(), written.X.toarray())
    assert (found.mpp, found.spot_diameter_um, found.spot_pitch_um) == (MPP, 55, 100)
    assert found.mpp_source == "pixel_size_um_estimated of the HEST metadata"
    assert found.image == tmp_path / "wsis" / "TENX1.tif" and found.notes == ()


def test_a_sheet_row_with_the_root_opens_the_wsi_at_its_scale(tmp_path: Path) -> None:
    _hest(tmp_path / "hest", meta=META)
    (tmp_path / "sheet.csv").write_text("section,donor,spots,image\nTENX1,P7,hest,\n")
    section = hm.read_cohort(tmp_path / "sheet.csv").section("TENX1")
    with section.slide() as slide:
        assert (slide.width_px, slide.height_px, slide.mpp) == (1600, 1200, MPP)
    assert section.adata.n_obs == 30 and section.spot_pitch_um == 100


def test_a_root_of_several_samples_must_be_told_which(tmp_path: Path) -> None:
    _hest(tmp_path, "TENX1", META)
    _hest(tmp_path, "NCBI22", META | {"pixel_size_um_estimated": 0.3})
    with pytest.raises(SectionError, match=r"holds 2 samples \(in st/: NCBI22, TENX1\)") as caught:
        read_section_spots(tmp_path, "hest")
    assert "#id=NCBI22" in str(caught.value)
    assert read_section_spots(tmp_path, "hest", options={"id": "NCBI22"}).mpp == 0.3
    with pytest.raises(SectionError, match="has no sample 'X'"):
        read_section_spots(tmp_path, "hest", options={"id": "X"})


@pytest.mark.parametrize("technology", ["Xenium", "Visium HD"])
def test_pooled_technologies_have_no_printed_pitch(tmp_path: Path, technology: str) -> None:
    meta = META | {"st_technology": technology, "spot_diameter": float("nan"), "inter_spot_dist": None}
    found = read_section_spots(_hest(tmp_path, meta=meta), "hest")
    assert found.spot_pitch_um is None and found.spot_diameter_um == pytest.approx(65)
    assert any(f"{technology}, pooled by HEST" in note for note in found.notes)


def test_a_sample_without_metadata_or_image_says_so(tmp_path: Path) -> None:
    path = _hest(tmp_path, image=True)
    found = read_section_spots(path, "hest")
    assert found.mpp is None and any("no metadata/TENX1.json" in note for note in found.notes)
    (tmp_path / "wsis" / "TENX1.tif").unlink()
    (tmp_path / "metadata" / "TENX1.json").write_text(json.dumps(META))
    found = read_section_spots(path, "hest")
    assert found.image is None and "there is no wsis/TENX1.tif" in found.notes


def test_scales_that_differ_are_both_told(tmp_path: Path) -> None:
    found = read_section_spots(_hest(tmp_path, meta=META | {"pixel_size_um_embedded": 0.25}), "hest")
    assert found.mpp == MPP and any("the original image said 0.25" in note for note in found.notes)


def test_damaged_samples_are_named(tmp_path: Path) -> None:
    path = _hest(tmp_path, meta=META)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(SectionError, match="cannot be read as h5ad"):
        read_section_spots(path, "hest")
    path.write_bytes(whole)
    (tmp_path / "metadata" / "TENX1.json").write_text("{")
    with pytest.raises(InputError, match=r"TENX1.json: cannot be read as JSON"):
        read_section_spots(path, "hest")


def test_the_description_fills_in_the_row(tmp_path: Path) -> None:
    path = _hest(tmp_path, meta=META)
    found = load_format("hest").describe(path, {})
    assert found.row["donor"] == "Patient 7" and found.row["tissue"] == "Breast"
    assert found.row["image"] == str(tmp_path / "wsis" / "TENX1.tif")
    assert "sample TENX1 (Visium, Homo sapiens, Breast)" in found.contents and found.missing == ()


def _two_libraries(column: str = "library_id") -> ad.AnnData:
    both = ad.concat({"left": _adata(0), "right": _adata(1)}, label=column, index_unique="-")
    both.uns["spatial"] = {"left": {"scalefactors": {}}, "right": {"scalefactors": {}}}
    return both


@pytest.mark.parametrize("column", ["library_id", "slice"])
def test_one_library_of_two(column: str) -> None:
    both = _two_libraries(column)
    assert library_names(both) == ("left", "right")
    right = one_library(both, "right")
    np.testing.assert_array_equal(right.X.toarray(), _adata(1).X.toarray())
    assert all(name.endswith("-right") for name in right.obs_names) and list(right.uns["spatial"]) == ["right"]
    assert list(both.uns["spatial"]) == ["left", "right"]


def test_two_libraries_must_be_told_apart() -> None:
    both = _two_libraries()
    with pytest.raises(SectionError, match="holds 2 libraries with an image each: left, right") as caught:
        one_library(both, where=Path("both.h5ad"))
    assert "both.h5ad#library=left" in str(caught.value)
    with pytest.raises(SectionError, match="has no library 'top'"):
        one_library(both, "top")
    del both.obs["library_id"]
    with pytest.raises(SectionError, match="no column of obs tells"):
        one_library(both, "left")


def test_one_library_or_none_is_left_alone() -> None:
    one = _adata()
    assert one_library(one) is one and one_library(one, "ST").n_obs == one.n_obs
    del one.uns["spatial"]
    assert one_library(one) is one
