"""Slide-seq-like bead tables, and STNet's tables as published; fixtures are written with pandas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histomix.errors import SectionError
from histomix.spots.formats import SpotFile, find_format, load_format
from histomix.spots.readers import detect_format, read_section_spots


def _beads(folder: Path, count: int = 30, header: tuple[str, str, str] = ("barcodes", "xcoord", "ycoord")) -> Path:
    rng = np.random.default_rng(0)
    keys = ["".join(rng.choice(list("ACGT"), 14)) for _ in range(count)]
    table = pd.DataFrame(rng.uniform(0, 5000, (count, 2)), columns=header[1:], index=pd.Index(keys, name=header[0]))
    table.to_csv(folder / "Puck_BeadLocationsForR.csv")
    genes = pd.Index(["Actb", "Gad1", "Slc17a7"], name="GENE")
    counts = pd.DataFrame(rng.poisson(0.7, (3, count)), index=genes, columns=keys)
    counts.iloc[:, rng.permutation(count)].to_csv(folder / "Puck_MappedDGEForR.csv")
    return folder / "Puck_BeadLocationsForR.csv"


def _read(path: Path, format: str = "slideseq", with_counts: bool = False, **options: str) -> SpotFile:
    return read_section_spots(path, format, None, with_counts, options)


@pytest.mark.parametrize("header", [("barcodes", "xcoord", "ycoord"), ("barcode", "x", "y")])
def test_beads_and_counts_are_read_as_written(tmp_path: Path, header: tuple[str, str, str]) -> None:
    path = _beads(tmp_path, header=header)
    assert detect_format(path) == "slideseq"
    positions = pd.read_csv(path, index_col=0)
    counts = pd.read_csv(tmp_path / "Puck_MappedDGEForR.csv", index_col=0)
    found = _read(path, with_counts=True, mpp="0.65")
    assert list(found.adata.obs_names) == list(positions.index) and found.spot_diameter_um == 10 and found.mpp == 0.65
    np.testing.assert_allclose(found.adata.obsm["spatial"], positions.to_numpy())
    np.testing.assert_array_equal(found.adata.X.toarray(), counts[positions.index].to_numpy().T)
    assert list(found.adata.var_names) == list(counts.index)


def test_landmarks_and_an_affine_file_lead_beads_to_the_slide(tmp_path: Path) -> None:
    path = _beads(tmp_path)
    units = pd.read_csv(path, index_col=0).to_numpy()
    um = units * 0.65
    px = um @ np.array([[0.0, 2.0], [-2.0, 0.0]]) + 10_000
    marks = pd.DataFrame(np.column_stack([um, px])[:6], columns=["x_um", "y_um", "x_px", "y_px"])
    marks.to_csv(tmp_path / "marks.csv", index=False)
    found = _read(path, landmarks="marks.csv")
    np.testing.assert_allclose(found.adata.obsm["spatial"], px, atol=1e-6)
    assert found.mpp == pytest.approx(0.5) and any("0.00 um (rms)" in note for note in found.notes)
    # The file maps px of the image to the beads' own units, as Xenium's does.
    linear = np.array([[0.0, 2.0], [-2.0, 0.0]]).T * 0.65
    to_px = np.vstack([np.column_stack([linear, [10_000, 10_000]]), [0, 0, 1]])
    pd.DataFrame(np.linalg.inv(to_px)).to_csv(tmp_path / "affine.csv", header=False, index=False)
    np.testing.assert_allclose(_read(path, alignment="affine.csv").adata.obsm["spatial"], px, atol=1e-6)
    with pytest.raises(SectionError, match="exclude each other"):
        _read(path, landmarks="marks.csv", mpp="1")


def test_beads_without_counts_are_dropped_and_those_of_another_puck_refused(tmp_path: Path) -> None:
    path = _beads(tmp_path)
    dge = tmp_path / "Puck_MappedDGEForR.csv"
    table = pd.read_csv(dge, index_col=0)
    table.iloc[:, :25].to_csv(dge)
    found = _read(path, with_counts=True)
    assert found.adata.n_obs == 25 and "5 beads have no counts and are dropped" in found.notes
    table.rename(columns=lambda key: f"N{key}").to_csv(dge)
    with pytest.raises(SectionError, match=r"0 of its 30 beads are in the counts Puck_MappedDGEForR\.csv"):
        _read(path, with_counts=True)


def test_faulty_bead_tables(tmp_path: Path) -> None:
    path = _beads(tmp_path)
    table = pd.read_csv(path)
    pd.concat([table, table.iloc[[2]]]).to_csv(path, index=False)
    with pytest.raises(SectionError, match="more than once"):
        _read(path)
    table.assign(xcoord=["?", *table["xcoord"][1:]]).to_csv(path, index=False)
    with pytest.raises(SectionError, match=r"row 2, column 'xcoord': '\?' is not a number"):
        _read(path)
    table.rename(columns={"xcoord": "u"}).to_csv(path, index=False)
    with pytest.raises(SectionError, match="is no table of beads"):
        _read(path)


def _stnet(folder: Path, keys: str = "x") -> Path:
    rng = np.random.default_rng(0)
    x, y = (part.ravel() for part in np.mgrid[3:8, 10:14])
    table = pd.DataFrame({"": [f"{a}{keys}{b}" for a, b in zip(x, y, strict=True)], "X": 300.0 * x, "Y": 300.0 * y})
    path = folder / "spots_BT23209_C1.csv.gz"
    table.to_csv(path, index=False)
    counts = pd.DataFrame(
        rng.poisson(2, (len(x), 3)), index=[f"{a}x{b}" for a, b in zip(x, y, strict=True)], columns=["g1", "g2", "g3"]
    )
    counts.iloc[::-1].iloc[:-1].to_csv(folder / "BC23209_C1_stdata.tsv.gz", sep="\t")
    annotation = {"": 0, "xcoord": x + 0.02, "ycoord": y, "lab": "a", "tumor": np.where(x > 5, "tumor", "non")}
    pd.DataFrame(annotation).to_csv(folder / "BC23209_C1_Coords.tsv", sep="\t", index=False)
    Image.new("RGB", (20, 20)).save(folder / "HE_BT23209_C1.jpg")
    return path


def test_stnet_tables_are_joined_by_the_name_of_the_section(tmp_path: Path) -> None:
    path = _stnet(tmp_path)
    assert find_format(path) is load_format("stnet")
    found = _read(path, "stnet", with_counts=True)
    counts = pd.read_csv(tmp_path / "BC23209_C1_stdata.tsv.gz", sep="\t", index_col=0)
    assert found.adata.n_obs == 19 and "1 spot of 20 have no counts and are dropped" in found.notes
    np.testing.assert_array_equal(found.adata.X.toarray(), counts.loc[found.adata.obs_names].to_numpy())
    grid = found.adata.obs[["array_x", "array_y"]].to_numpy()
    np.testing.assert_array_equal(found.adata.obsm["spatial"], 300 * grid)
    assert ((found.adata.obs["tumour"] == "tumor") == (grid[:, 0] > 5)).all()
    assert found.image == tmp_path / "HE_BT23209_C1.jpg" and (found.spot_diameter_um, found.spot_pitch_um) == (100, 200)
    assert list(_read(path, "stnet").adata.obs_names) == list(found.adata.obs_names)


def test_stnet_counts_of_another_section_are_refused(tmp_path: Path) -> None:
    path = _stnet(tmp_path)
    other = pd.DataFrame({"g1": [1, 2]}, index=["90x90", "91x90"])
    other.to_csv(tmp_path / "BC23209_C1_stdata.tsv.gz", sep="\t")
    with pytest.raises(SectionError, match="shares no spot with the counts"):
        _read(path, "stnet")


def test_the_real_olfactory_bulb(data_dir: Path) -> None:
    folder = data_dir / "st_mob" / "stutility"
    path, counts = folder / "alignment_table_MOB1.tsv", folder / "MOB1.tsv"
    assert detect_format(path) == "st"
    found = read_section_spots(path, "st", counts, True).adata
    expected = pd.read_csv(counts, sep="\t", index_col=0)
    shared = [key for key in found.obs_names if key in expected.index]
    assert shared == list(found.obs_names) and len(shared) > 200
    np.testing.assert_array_equal(found.X.toarray(), expected.loc[shared].to_numpy())
    small = data_dir / "st_mob" / "xfuse_fixture"
    assert detect_format(small / "spots.tsv") == "st"
    spots = read_section_spots(small / "spots.tsv", "st", small / "counts.tsv", True).adata
    assert spots.n_vars == 10 and "Apoe" in spots.var_names and spots.n_obs > 100
