"""Space Ranger folders of Visium sections: what is read, and what is said when they cannot be used."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histomix.common.geometry.pitch import spot_pitch
from histomix.errors import MissingExtraError, SectionError
from histomix.spots import Section, check_alignment, read_cohort, read_spots
from histomix.spots.formats import SpotFile, split_location
from histomix.spots.formats.tenx.images import _require_inside
from histomix.spots.formats.tenx.visium import lattice_positions, spots_mpp
from histomix.spots.readers import detect_format, read_section_spots

from .extras import extra_module
from .ranger_files import (
    COLUMNS,
    MPP,
    SIZE_PX,
    Truth,
    lattice,
    make_outs,
    table_of_genes,
    write_factors,
    write_h5,
    write_positions,
)


def read(path: Path, with_counts: bool = True, **options: str) -> SpotFile:
    return read_section_spots(path, detect_format(path), with_counts=with_counts, options=options)


def as_download_error(path: Path, with_counts: bool = True, **options: str) -> str:
    with pytest.raises(SectionError) as caught:
        read(path, with_counts, **options)
    assert caught.value.where is not None and caught.value.hint is not None
    return str(caught.value)


def section(truth: Truth, image: Path | str = "", **more: object) -> Section:
    cells = {"section": "a", "donor": "P", "spots": truth.outs, "image": image} | more
    sheet = truth.outs / "sheet.csv"
    sheet.write_text(",".join(cells) + "\n" + ",".join(map(str, cells.values())) + "\n")
    return read_cohort(sheet).section("a")


def require_equal(found: SpotFile, truth: Truth) -> None:
    spots = truth.spots
    assert list(found.adata.obs_names) == list(spots.index)
    assert np.allclose(found.adata.obsm["spatial"], spots[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    counts = pd.DataFrame(found.adata.X.toarray(), found.adata.obs_names, found.adata.var_names)
    assert np.array_equal(counts, truth.counts.loc[spots.index]) and list(counts) == list(truth.counts)
    assert found.adata.var["gene_ids"].tolist() == table_of_genes(counts.shape[1])["id"].tolist()
    assert found.adata.X.dtype == np.float32 and found.adata.X.format == "csr"


@pytest.mark.parametrize("matrix", ["h5", "h5-v2", "mtx", "mtx-v2"])
@pytest.mark.parametrize("positions", ["tissue_positions_list.csv", "tissue_positions.csv", "tissue_positions.parquet"])
def test_all_versions(tmp_path: Path, positions: str, matrix: str) -> None:
    truth = make_outs(tmp_path, positions, matrix)
    found = read(truth.outs)
    require_equal(found, truth)
    assert found.mpp == pytest.approx(MPP) and "100 um between neighbouring spots" in str(found.mpp_source)
    assert (found.spot_diameter_um, found.spot_pitch_um, found.notes, found.image) == (55, 100, (), None)
    bare = read(truth.outs, with_counts=False).adata
    assert bare.obs_names.equals(found.adata.obs_names) and bare.n_vars == 0


def test_counts_as_scanpy_reads_them(tmp_path: Path) -> None:
    scanpy = extra_module("st", "scanpy")
    truth = make_outs(tmp_path / "h5")
    expected = scanpy.read_10x_h5(truth.outs / "filtered_feature_bc_matrix.h5")
    found = read(truth.outs).adata
    assert np.array_equal(found.X.toarray(), expected[found.obs_names].X.toarray())
    assert list(found.var_names) == list(expected.var_names)
    truth = make_outs(tmp_path / "mtx", matrix="mtx")
    expected = scanpy.read_10x_mtx(truth.outs / "filtered_feature_bc_matrix")
    assert np.array_equal(read(truth.outs).adata.X.toarray(), expected[found.obs_names].X.toarray())


def test_every_way_to_name_a_section(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    for path in (truth.outs.parent, truth.outs / "spatial", truth.outs / "spatial" / "tissue_positions.csv"):
        assert detect_format(path) == "visium"
        require_equal(read(path), truth)
    places = read_spots(truth.outs)
    assert list(places.index) == list(truth.spots.index)
    assert places["x_px"].tolist() == truth.spots["pxl_col_in_fullres"].tolist()


def test_files_of_a_download_with_a_prefix(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    for path in list(truth.outs.rglob("*")):
        if path.is_file():
            path.rename(path.with_name(f"GSM1_{path.name}"))
    require_equal(read(truth.outs), truth)
    shutil.copy(truth.outs / "GSM1_filtered_feature_bc_matrix.h5", truth.outs / "GSM2_filtered_feature_bc_matrix.h5")
    require_equal(read(truth.outs), truth)  # that of the same prefix as the positions
    (truth.outs / "GSM1_filtered_feature_bc_matrix.h5").rename(truth.outs / "GSM3_filtered_feature_bc_matrix.h5")
    assert "holds several matrices" in as_download_error(truth.outs)


def two_samples(folder: Path) -> tuple[Path, Truth, Truth]:
    """Two samples whose files stand in one ``spatial`` folder, told by the prefix of their names."""
    first, second = make_outs(folder / "one"), make_outs(folder / "two", genes=5)
    write_positions(second.outs / "spatial" / "tissue_positions.csv", lattice(mpp=0.25))
    write_factors(second.outs / "spatial", 0.25, hires=0.1)
    spatial = folder / "spatial"
    spatial.mkdir()
    for name, truth in (("A", first), ("B", second)):
        for file in (truth.outs / "spatial").iterdir():
            shutil.copy(file, spatial / f"{name}_{file.name}")
        shutil.copy(truth.outs / "filtered_feature_bc_matrix.h5", folder / f"{name}_filtered_feature_bc_matrix.h5")
    return spatial, first, second


def test_two_samples_in_one_folder_are_never_mixed(tmp_path: Path) -> None:
    spatial, first, second = two_samples(tmp_path)
    assert "holds the positions of several samples" in as_download_error(spatial)
    assert "holds the positions of several samples" in as_download_error(tmp_path)
    for name, truth, mpp in (("A", first, 0.5), ("B", second, 0.25)):
        found = read(spatial / f"{name}_tissue_positions.csv")
        assert found.mpp == pytest.approx(mpp, rel=1e-3) and found.adata.n_vars == truth.counts.shape[1]
        assert read(spatial / f"{name}_tissue_positions.csv", image="hires").image == (
            spatial / f"{name}_tissue_hires_image.png"
        )
    (spatial / "A_scalefactors_json.json").unlink()
    error = as_download_error(spatial / "A_tissue_positions.csv")
    assert "holds scale factors of other samples (B_scalefactors_json.json), and none of that of A_tissue" in error
    (spatial / "B_tissue_positions.csv").unlink()
    assert "scale factors of other samples" in as_download_error(spatial)


def test_scale_factors_that_say_another_scale_are_refused(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    write_factors(truth.outs / "spatial", microns_per_pixel=0.5)
    assert read(truth.outs).mpp == pytest.approx(0.5, rel=1e-3)
    for wrong in ({"microns_per_pixel": 0.53}, {"mpp": 0.53}):  # of the image, and of the diameter of the spots
        write_factors(truth.outs / "spatial", **wrong)
        assert "are of two images" in as_download_error(truth.outs)


def test_a_square_lattice_is_not_read_at_the_pitch_of_visium(tmp_path: Path) -> None:
    truth = make_outs(tmp_path, matrix="")
    row, column = np.divmod(np.arange(100), 10)
    barcodes = [f"{'ACGT'[n % 4]}{'ACGT'[n // 4 % 4]}{'ACGT'[n // 16 % 4]}{'ACGT'[n // 64]}-1" for n in range(100)]
    values = (barcodes, 1, row, column, row * 20.0, column * 20.0)
    table = pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
    write_positions(truth.outs / "spatial" / "tissue_positions.csv", table)
    assert "do not lie on the hexagonal array of Visium" in as_download_error(truth.outs, with_counts=False)


def test_neighbours_are_one_array_unit_apart(tmp_path: Path) -> None:
    adata = read(make_outs(tmp_path).outs).adata
    array = adata.obs[["array_x", "array_y"]].to_numpy()
    spacing = np.linalg.norm(array[:, None] - array[None], axis=2)
    np.fill_diagonal(spacing, 9)
    assert np.allclose(spacing.min(axis=1), 1)
    assert spot_pitch(adata.obsm["spatial"], array).px * MPP == pytest.approx(100)


@pytest.mark.parametrize(
    ("name", "header"),
    [("tissue_positions.csv", False), ("tissue_positions_list.csv", True), ("tissue_positions.csv.gz", True)],
)
def test_headers_that_contradict_the_name(tmp_path: Path, name: str, header: bool) -> None:
    truth = make_outs(tmp_path)
    (truth.outs / "spatial" / "tissue_positions.csv").unlink()
    write_positions(truth.outs / "spatial" / name, truth.positions, header)
    require_equal(read(truth.outs), truth)


def test_features_of_other_types_and_repeated_symbols(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    features = table_of_genes(7)
    features.loc[6, "type"], features.loc[5, "symbol"] = "Antibody Capture", "G4"
    write_h5(truth.outs / "filtered_feature_bc_matrix.h5", list(truth.counts.index), features, truth.counts.to_numpy())
    found = read(truth.outs)
    assert list(found.adata.var_names) == ["G0", "G1", "G2", "G3", "G4", "G4-1"]
    assert found.adata.var["gene_ids"].iloc[-1] == "ENSG00000000005"
    assert np.array_equal(found.adata.X.toarray(), truth.counts.loc[found.adata.obs_names].to_numpy()[:, :6])
    assert found.notes == (
        "1 feature of other types than Gene Expression left out",
        "1 repeated gene symbol given a suffix",
    )
    features["type"] = "Antibody Capture"
    write_h5(truth.outs / "filtered_feature_bc_matrix.h5", list(truth.counts.index), features, truth.counts.to_numpy())
    assert "has no features of the type Gene Expression (types: Antibody Capture)" in as_download_error(truth.outs)


def test_the_raw_matrix_serves_when_it_is_alone(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    filtered = truth.outs / "filtered_feature_bc_matrix.h5"
    everywhere = truth.counts.reindex(truth.positions["barcode"], fill_value=0)
    write_h5(truth.outs / "raw_feature_bc_matrix.h5", list(everywhere.index), table_of_genes(7), everywhere.to_numpy())
    assert read(truth.outs).notes == ()
    filtered.unlink()
    found = read(truth.outs)
    require_equal(found, truth)
    assert "only the raw matrix (raw_feature_bc_matrix.h5) is there" in found.notes[0]


def test_a_matrix_elsewhere_in_the_column_counts(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    elsewhere = (truth.outs / "filtered_feature_bc_matrix.h5").rename(tmp_path / "elsewhere.h5")
    found = section(truth, counts=elsewhere)
    assert np.array_equal(found.adata.X.toarray(), truth.counts.loc[found.keys].to_numpy())
    assert section(truth).adata.n_vars == 0


def test_spots_taken_out_by_hand_are_no_fault(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    positions = truth.positions.copy()
    taken = positions.index[positions["in_tissue"] == 1][::2]
    positions.loc[taken, "in_tissue"] = 0
    write_positions(truth.outs / "spatial" / "tissue_positions.csv", positions)
    found = read(truth.outs)
    assert found.adata.n_obs == (positions["in_tissue"] == 1).sum()
    assert found.notes == (f"{len(taken)} of {len(truth.counts)} barcodes with counts are not under tissue",)


def test_barcodes_without_their_suffix(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    positions = truth.positions.assign(barcode=truth.positions["barcode"].str.removesuffix("-1"))
    write_positions(truth.outs / "spatial" / "tissue_positions.csv", positions)
    found = read(truth.outs)
    assert list(found.adata.obs_names) == [name.removesuffix("-1") for name in truth.spots.index]
    assert np.array_equal(found.adata.X.toarray(), truth.counts.loc[truth.spots.index].to_numpy())
    assert found.notes == ("barcodes are matched without what follows their last '-'",)


def test_positions_of_another_slide(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    write_positions(truth.outs / "spatial" / "tissue_positions.csv", lattice(seed=9))
    text = as_download_error(truth.outs, with_counts=False)
    assert f"0 of its {len(truth.spots)} spots under tissue are among" in text and "of two sections" in text


def test_positions_of_another_section_of_the_samelattice_positions(tmp_path: Path) -> None:
    """All arrays of one kind have the same barcodes: only the tissue tells."""
    truth = make_outs(tmp_path)
    positions = truth.positions.assign(in_tissue=np.roll(truth.positions["in_tissue"], 40))
    write_positions(truth.outs / "spatial" / "tissue_positions.csv", positions)
    assert "spots under tissue are among" in as_download_error(truth.outs)


def test_an_image_may_lack_two_spots_in_a_hundred(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50), "white").save(tmp_path / "image.png")
    xy_px = np.column_stack([np.arange(100.0), np.full(100, 20.0)])
    xy_px[[0, -1], 1] = [-1, 50]
    _require_inside(xy_px, tmp_path / "image.png", None)
    xy_px[0, 0], xy_px[50, 0] = 1, 100
    with pytest.raises(SectionError, match="3 of 100 spots lie outside it"):
        _require_inside(xy_px, tmp_path / "image.png", None)


def test_scale_factors_of_another_image(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    spatial = truth.outs / "spatial"
    write_factors(spatial, mpp=1.0)
    text = as_download_error(truth.outs)
    assert text.startswith(f"{spatial / 'scalefactors_json.json'}: has a spot_diameter_fullres of 65.0 px")
    assert "which is 32 um by the 100 um between neighbouring spots, 200.0 px apart" in text
    write_factors(spatial, spot_diameter_fullres=55 / MPP)  # the printed size instead of the theoretical one
    assert read(truth.outs).mpp == pytest.approx(MPP)
    write_factors(spatial, hires=0.4)
    assert "spots lie outside it by the scale factors of" in as_download_error(truth.outs, image="hires")
    write_factors(spatial, tissue_hires_scalef=-1)
    assert "tissue_hires_scalef that is no positive number" in as_download_error(truth.outs)
    (spatial / "scalefactors_json.json").write_text("[1]")
    assert "not an object" in as_download_error(truth.outs)
    (spatial / "scalefactors_json.json").write_text("{")
    assert "cannot be read as JSON" in as_download_error(truth.outs)
    (spatial / "scalefactors_json.json").unlink()
    assert read(truth.outs).mpp == pytest.approx(MPP)


def test_mpp_of_few_spots_is_from_the_theoretical_diameter(tmp_path: Path) -> None:
    truth = make_outs(tmp_path, matrix="")
    write_positions(truth.outs / "spatial" / "tissue_positions.csv", truth.spots.reset_index().head(3)[COLUMNS])
    found = read(truth.outs)
    assert found.mpp == pytest.approx(MPP) and "65 um of spot_diameter_fullres" in str(found.mpp_source)
    (truth.outs / "spatial" / "scalefactors_json.json").unlink()
    assert read(truth.outs).mpp is None


def test_reduced_images_only_when_asked(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    spatial, places = truth.outs / "spatial", truth.spots[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    for name, scale in (("hires", 0.2), ("lowres", 0.05)):
        image = spatial / f"tissue_{name}_image.png"
        found = section(truth, image)
        assert np.allclose(found.spots_px, places * scale) and found.image == image
        assert found.spots_mpp == pytest.approx(MPP / scale) and f"tissue_{name}_scalef" in str(found.spots_mpp_source)
        assert f"{MPP / scale:.2g} um per px, a reduced copy" in found.notes[-1]
        with found.slide() as slide:
            assert (
                slide.mpp == pytest.approx(MPP / scale) and (found.spots_px < (slide.width_px, slide.height_px)).all()
            )
        by_option = read(truth.outs, image=name)
        assert np.allclose(by_option.adata.obsm["spatial"], places * scale) and by_option.image == image
    assert np.allclose(read_spots(f"{truth.outs}#image=hires"), places * 0.2)
    assert "image is 'hires' or 'lowres'" in as_download_error(truth.outs, image="medium")
    (spatial / "scalefactors_json.json").unlink()
    assert "has no tissue_hires_scalef" in as_download_error(truth.outs, image="hires")


def _image(path: Path, mpp: float | None = None) -> Path:
    pixels = np.full((SIZE_PX[1], SIZE_PX[0], 3), 255, np.uint8)
    if mpp is None:
        Image.fromarray(pixels).save(path)
    else:
        unit = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
        tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "YXS"} | unit, photometric="rgb", compression="zlib")
    return path


def test_the_order_of_what_tells_mpp(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = make_outs(tmp_path)
    plain, ome = _image(tmp_path / "he.png"), _image(tmp_path / "he.ome.tif", 0.51)
    with section(truth, plain).slide() as slide:
        assert slide.mpp == pytest.approx(MPP) and "between neighbouring spots" in slide.mpp_source
    with section(truth, ome).slide() as slide:
        assert slide.mpp == pytest.approx(0.51) and slide.mpp_source == "file"
    with section(truth, plain, mpp=0.49).slide() as slide:
        assert slide.mpp == pytest.approx(0.49) and slide.mpp_source == "given"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    section(truth, plain, mpp=0.55)
    assert "the sheet says 0.55 um per px, but the spots files 0.5 (the 100 um between" in caplog.text
    with pytest.raises(SectionError, match=r"the sheet says 0\.25 um per px, but the spots files 0\.5"):
        section(truth, plain, mpp=0.25)
    with pytest.raises(SectionError, match=r"the image says 0\.25 um per px, but the spots files 0\.5"):
        section(truth, _image(tmp_path / "other.ome.tif", 0.25)).slide()


def test_cytassist(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    spatial, positions = truth.outs / "spatial", truth.positions
    to_cytassist = np.array([[0.0, 0.1, 30], [-0.1, 0.0, 400], [0, 0, 1]])  # microscope px to CytAssist px

    def spot(row: pd.Series, shift_px: float = 0) -> dict[str, float]:
        x, y, _ = to_cytassist @ [row["pxl_col_in_fullres"] + shift_px, row["pxl_row_in_fullres"], 1]
        return {"row": row["array_row"], "col": row["array_col"], "imageX": x, "imageY": y}

    for shift_px, words in ((0, "through the CytAssist image where the positions do"), (400, "200 um from where")):
        alignment = {
            "serialNumber": "V42",
            "area": "B1",
            "cytAssistInfo": {"transformImages": to_cytassist.ravel().tolist()},
            "oligo": [spot(row, shift_px) for _, row in positions.iterrows()],
        }
        (truth.outs / "V42-B1.json").write_text(json.dumps(alignment))
        (note,) = read(truth.outs).notes
        assert note.startswith("V42-B1.json (V42-B1) places the spots") and words in note
        require_equal(read(truth.outs), truth)  # whatever it says
    second = _image(spatial / "cytassist_image.tiff")
    with pytest.raises(SectionError, match="what the CytAssist instrument saw"):
        section(truth, second)


_SPOT = '{"row": 0, "col": 0, "imageX": 1, "imageY": 1}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{{"oligo": [{_SPOT}, {_SPOT}]}}', "align.json names an array position more than once"),
        ('{"oligo": []}', "align.json has none of the array positions"),
        (f'{{"oligo": [{_SPOT.replace("1", "NaN")}]}}', "align.json has none of the array positions"),
        (f'{{"oligo": [{_SPOT.replace("0", "Infinity")}]}}', None),
        (f'{{"oligo": [{_SPOT.replace("1", "9" * 400)}]}}', None),
        (f'{{"oligo": [{_SPOT}], "cytAssistInfo": {{"transformImages": [0, 0, 0, 0, 0, 0, 0, 0, 0]}}}}', None),
        (f'{{"oligo": [{_SPOT}], "cytAssistInfo": {{"transformImages": [1, 2]}}}}', None),
        ('{"oligo": "words"}', None),
        ('{"oligo": {"a": 1}}', None),
        ("[" * 100_000, None),
        ('{"oligo":' * 100_000, None),
        ("pipe", None),
        ("folder", None),
        ("a link to itself", None),
        ("a device", None),
        ("large", None),
    ],
)
def test_whatever_lies_beside_as_an_alignment_the_section_is_read(tmp_path: Path, text: str, words: str | None) -> None:
    truth = make_outs(tmp_path)
    path = truth.outs / "spatial" / "align.json"
    match text:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "a link to itself":
            path.symlink_to(path.name)
        case "a device":
            path.symlink_to("/dev/zero")
        case "large":  # nothing of it is read
            path.write_text(f'{{"oligo": [{_SPOT}]}}')
            os.truncate(path, 1 << 36)
        case _:
            path.write_text(text)
    notes = [note for note in read(truth.outs).notes if "align" in note]
    assert notes == [] if words is None else len(notes) == 1 and words in notes[0]
    require_equal(read(truth.outs), truth)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("pxl_col_in_fullres", "pixel"), "lacks the column pxl_col_in_fullres"),
        (lambda text: text.splitlines()[0] + "\n", "has a header but no rows"),
        (lambda text: "", "holds no spots"),
        (lambda text: text.rpartition(",")[0], f"cells, not {len(COLUMNS)}"),
        (lambda text: text.replace(",1,", ",x,"), "column 'in_tissue'"),
        (lambda text: text.replace(",1,", ",0,"), "has no spot with in_tissue = 1"),
        (lambda text: text + text.splitlines()[-1] + "\n", "more than once"),
        (lambda text: "\x89PNG\0" + text, "not a text table"),
    ],
)
def test_broken_positions(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    truth = make_outs(tmp_path)
    path = truth.outs / "spatial" / "tissue_positions.csv"
    path.write_text(change(path.read_text()))
    text = as_download_error(truth.outs)
    assert text.startswith(str(path)) and words in text


def test_a_missing_coordinate_names_its_row(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    path = truth.outs / "spatial" / "tissue_positions.csv"
    lines = path.read_text().splitlines()
    lines[4] = lines[4].rpartition(",")[0] + ","
    path.write_text("\n".join(lines))
    assert "row 5, column 'pxl_col_in_fullres': 1 values are no numbers" in as_download_error(truth.outs)


def test_broken_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_outs(tmp_path, "tissue_positions.parquet")
    path = truth.outs / "spatial" / "tissue_positions.parquet"
    write_positions(path, truth.positions.drop(columns=COLUMNS[4:]))
    assert "lacks the columns pxl_row_in_fullres, pxl_col_in_fullres" in as_download_error(truth.outs)
    write_positions(path, truth.positions.assign(pxl_row_in_fullres=np.nan))
    assert "column 'pxl_row_in_fullres'" in as_download_error(truth.outs)
    write_positions(path, truth.positions.head(0))
    assert "holds no spots" in as_download_error(truth.outs)
    path.write_bytes(path.read_bytes()[:200])
    assert "cannot be read as parquet" in as_download_error(truth.outs)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"histomix\[st\]"):
        read(truth.outs)


@pytest.mark.parametrize("keep", [0, 100, 3000, -60])
def test_a_truncated_h5(tmp_path: Path, keep: int) -> None:
    truth = make_outs(tmp_path)
    path = truth.outs / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:keep])
    text = as_download_error(truth.outs)
    assert text.startswith(str(path)) and "cannot be read as a 10x matrix" in text
    assert "cannot be read as a 10x matrix" in as_download_error(truth.outs, with_counts=False)


def test_h5_files_that_do_not_fit(tmp_path: Path) -> None:
    import h5py

    truth = make_outs(tmp_path)
    path = truth.outs / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "a") as store:
        indices = store["matrix/indices"][:]
        store["matrix/indices"][0] = 99
    assert "it counts features that it does not list" in as_download_error(truth.outs)
    with h5py.File(path, "a") as store:
        del store["matrix/indices"]
        store["matrix/indices"] = indices[:-1]
    assert "lengths that do not fit each other" in as_download_error(truth.outs)
    with h5py.File(path, "r+") as store:
        indices = indices.copy()
        row = int(np.flatnonzero(np.diff(store["matrix/indptr"][:]) > 1)[0])
        start = int(store["matrix/indptr"][row])
        indices[start + 1] = indices[start]
        del store["matrix/indices"]
        store["matrix/indices"] = indices
    assert "it counts a feature of one barcode more than once" in as_download_error(truth.outs)
    with h5py.File(path, "w") as store:
        store["x"] = 1
    assert "it is no HDF5 file of a feature-barcode matrix: it holds x" in as_download_error(truth.outs)


def test_broken_mtx(tmp_path: Path) -> None:
    truth = make_outs(tmp_path, matrix="mtx")
    folder = truth.outs / "filtered_feature_bc_matrix"
    matrix = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(matrix[:-50])
    assert "cannot be read as Matrix Market" in as_download_error(truth.outs)
    lines = gzip.decompress(matrix).decode().splitlines()
    entries = next(number for number, line in enumerate(lines) if not line.startswith("%")) + 1
    lines[entries + 1] = lines[entries]
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert "it counts a feature of one barcode more than once" in as_download_error(truth.outs)
    (folder / "matrix.mtx.gz").unlink()
    assert "filtered_feature_bc_matrix: lacks its matrix.mtx" in as_download_error(truth.outs)
    (folder / "matrix.mtx.gz").write_bytes(matrix)
    (folder / "features.tsv.gz").unlink()
    assert "lacks its features.tsv" in as_download_error(truth.outs)
    (folder / "features.tsv").write_text("ENSG0\tG0\tGene Expression\n")
    assert "has 7 features x" in as_download_error(truth.outs)


def test_folders_that_lack_the_positions(tmp_path: Path) -> None:
    (tmp_path / "outs" / "spatial").mkdir(parents=True)
    assert "has no tissue_positions" in as_download_error(tmp_path / "outs")


def test_options(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    assert "has no option 'bin'. Its options are: image" in as_download_error(truth.outs, bin="8")
    assert split_location("a/outs#bin_um=8; tile_um=112") == (Path("a/outs"), {"bin_um": "8", "tile_um": "112"})
    odd = tmp_path / "a#b=c"
    odd.mkdir()
    assert split_location(str(odd)) == (odd, {})
    for wrong in ("outs#bin", "outs#=3", "outs#a=1;a=2"):
        with pytest.raises(SectionError, match="is no option"):
            split_location(wrong)


def test_coordinates_off_the_image(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    write_positions(
        truth.outs / "spatial" / "tissue_positions.csv",
        truth.positions.assign(pxl_col_in_fullres=truth.positions["pxl_col_in_fullres"] - 1700),
    )
    found = section(truth, _image(tmp_path / "he.png"))
    off = (found.spots_px[:, 0] < 0).mean()
    assert off > 0.3  # read as they are: whether they fit the image is the alignment check's to say
    assert any("outside" in problem for problem in check_alignment(found).problems)


@settings(max_examples=60, deadline=None)
@given(
    mpp=st.floats(0.1, 5),
    angle=st.floats(0, 2 * np.pi),
    shift=st.tuples(st.floats(-5e4, 5e4), st.floats(-5e4, 5e4)),
    mirrored=st.booleans(),
    rows=st.integers(2, 9),
    columns=st.integers(4, 12),
)
def test_px_um_and_array_agree(
    mpp: float, angle: float, shift: tuple[float, float], mirrored: bool, rows: int, columns: int
) -> None:
    """However the array lies on the image: px -> um gives 100 um between neighbours, array -> px -> array itself."""
    table = lattice(rows, columns)
    um = np.column_stack([table["array_col"] * 50.0, table["array_row"] * 100 * np.sqrt(3) / 2])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(
        [-1.0 if mirrored else 1, 1]
    )
    xy_px = um @ turn.T / mpp + shift
    positions = table.assign(x_px=xy_px[:, 0], y_px=xy_px[:, 1])
    found, _ = spots_mpp(positions, None)
    assert found == pytest.approx(mpp, rel=1e-6)
    array = lattice_positions(positions)
    affine = np.linalg.lstsq(np.column_stack([array, np.ones(len(array))]), xy_px, rcond=None)[0]
    back = (xy_px - affine[2]) @ np.linalg.inv(affine[:2])
    assert np.allclose(back, array, atol=1e-5)
    apart = np.linalg.norm(xy_px[:, None] - xy_px[None], axis=2) * found
    assert np.sort(apart[0])[1] == pytest.approx(100, rel=1e-5)


def test_block_a_section_1(data_dir: Path) -> None:
    folder = data_dir / "visium_layout" / "V1_Breast_Cancer_Block_A_Section_1"
    found = read(folder)
    expected = pd.read_csv(folder / "spatial" / "tissue_positions_list.csv", header=None, names=COLUMNS)
    expected = expected[expected["in_tissue"] == 1]
    assert list(found.adata.obs_names) == list(expected["barcode"]) and found.adata.n_vars == 0
    assert np.array_equal(found.adata.obsm["spatial"], expected[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    assert found.mpp == pytest.approx(65 / 177.48, rel=0.005)
    assert "has no tissue_hires_image.png" in as_download_error(folder, image="hires")


def test_block_a_at_low_resolution_and_rotated(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "visium_layout" / "V1_Breast_Cancer_Block_A_Section_1"
    image = folder / "spatial" / "tissue_lowres_image.png"
    turned = tmp_path / "tissue_lowres_image.png"
    Image.open(image).rotate(180).save(turned)
    verdicts = []
    for path in (image, turned):
        sheet = tmp_path / "sheet.csv"
        sheet.write_text(f"section,donor,spots,image\na,P,{folder},{path}\n")
        verdicts.append(check_alignment(read_cohort(sheet).section("a")))
    assert verdicts[0].ok and verdicts[0].on_tissue > 0.75
    assert verdicts[0].pitch_um == pytest.approx(100, rel=0.01)
    assert not verdicts[1].ok


def test_seurat_folder(data_dir: Path) -> None:
    scanpy = extra_module("st", "scanpy")
    folder = data_dir / "visium_layout" / "seurat_testdata"
    found, expected = read(folder).adata, scanpy.read_10x_h5(folder / "filtered_feature_bc_matrix.h5")
    assert found.shape == (2695, 100)
    assert np.array_equal(found.X.toarray(), expected[found.obs_names].X.toarray())
