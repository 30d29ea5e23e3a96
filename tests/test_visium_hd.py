"""Visium HD: bins as they are, and summed to tiles, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histomix.errors import SectionError
from histomix.spots import aggregate_bins, read_cohort, read_spots
from histomix.spots.formats import SpotFile
from histomix.spots.formats.tenx import bins, visium_hd
from histomix.spots.formats.tenx.bins import bin_positions
from histomix.spots.readers import detect_format, read_section_spots

from .ranger_files import Truth, make_hd, table_of_genes, write_factors, write_h5, write_positions, write_small_images


def read(path: Path, with_counts: bool = True, **options: str) -> SpotFile:
    return read_section_spots(path, detect_format(path), with_counts=with_counts, options=options)


def as_download_error(path: Path, **options: str) -> str:
    with pytest.raises(SectionError) as caught:
        read(path, **options)
    assert caught.value.where is not None and caught.value.hint is not None
    return str(caught.value)


def outs_of(truth: Truth) -> Path:
    return truth.outs.parent.parent


@pytest.mark.parametrize("bin_um", [2, 8, 16])
def test_bins_as_they_are(tmp_path: Path, bin_um: int) -> None:
    truth = make_hd(tmp_path)[bin_um]
    found = read(outs_of(truth), bin_um=str(bin_um))
    assert list(found.adata.obs_names) == list(truth.spots.index)
    assert np.array_equal(found.adata.X.toarray(), truth.counts.loc[truth.spots.index])
    assert np.allclose(found.adata.obsm["spatial"], truth.spots[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    assert (found.spot_diameter_um, found.spot_pitch_um, found.notes) == (bin_um, bin_um, ())
    assert found.mpp == 0.25 and found.mpp_source == "microns_per_pixel of scalefactors_json.json"
    assert read(truth.outs).adata.obs_names.equals(found.adata.obs_names)
    (truth.outs / "spatial" / "scalefactors_json.json").unlink()
    found = read(truth.outs)
    assert found.mpp == pytest.approx(0.25) and "between neighbours" in str(found.mpp_source)


def test_which_bins_are_read_is_said(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    outs = outs_of(truth)
    for path in (outs, outs / "binned_outputs", outs.parent):
        assert detect_format(path) == "visium-hd"
        found = read(path)
        assert found.spot_diameter_um == 8 and found.notes == ("of the bins of 2, 8, 16 um those of 8 um are read",)
    assert read(truth.outs / "spatial").spot_diameter_um == 8
    assert "has no bins of 4 um. It has 2, 8, 16." in as_download_error(outs, bin_um="4")
    assert "not a whole number of um" in as_download_error(outs, tile_um="12.5")
    assert len(read_spots(f"{outs}#bin_um=16")) == (make_hd(tmp_path / "again")[16].positions["in_tissue"] == 1).sum()


def tiles_by_hand(truth: Truth, factor: int, min_tissue: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Centre and number of bins, and summed counts, by pandas on whole tables."""
    positions = truth.positions.assign(row=truth.positions["array_row"] // factor)
    positions["column"] = positions["array_col"] // factor
    groups = positions.groupby(["row", "column"])
    table = groups[["pxl_col_in_fullres", "pxl_row_in_fullres"]].mean().assign(bins=groups["in_tissue"].sum())
    table = table[(groups.size() == factor**2) & (table["bins"] >= min_tissue * factor**2)]
    place = positions.set_index("barcode").loc[truth.counts.index, ["row", "column"]]
    sums = truth.counts.groupby([place["row"], place["column"]]).sum().reindex(table.index, fill_value=0)
    return table, sums


@pytest.mark.parametrize(("bin_um", "tile_um"), [(2, 32), (2, 36), (8, 32), (8, 48), (16, 64)])
@pytest.mark.parametrize("block", [90, 1 << 21])
def test_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bin_um: int, tile_um: int, block: int) -> None:
    monkeypatch.setattr(bins, "_BLOCK", 40 * block if bin_um == 2 else block)
    truth = make_hd(tmp_path)[bin_um]
    table, sums = tiles_by_hand(truth, tile_um // bin_um, 0.5)
    found = aggregate_bins(truth.outs, tile_um)
    assert [tuple(place) for place in found.adata.obs[["array_row", "array_col"]].to_numpy()] == list(table.index)
    assert np.allclose(found.adata.obsm["spatial"], table[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    assert found.adata.obs["bins"].tolist() == table["bins"].tolist()
    assert np.array_equal(found.adata.X.toarray(), sums)
    assert list(found.adata.var_names) == list(truth.counts) and found.adata.X.dtype == np.float32
    assert (found.spot_diameter_um, found.spot_pitch_um, found.mpp) == (tile_um, tile_um, 0.25)
    assert found.adata.obs_names[0] == f"s_{tile_um:03d}um_{table.index[0][0]:05d}_{table.index[0][1]:05d}"
    assert found.notes[-1] == f"{bin_um} um bins are summed to {len(table)} tiles of {tile_um} um"


def test_tiles_do_not_depend_on_the_bins(tmp_path: Path) -> None:
    outs = outs_of(make_hd(tmp_path)[2])
    of_2, of_16 = (aggregate_bins(outs, 32, bin_um=size, min_tissue=1) for size in (2, 16))
    assert of_2.adata.obs_names.equals(of_16.adata.obs_names)
    assert np.allclose(of_2.adata.obsm["spatial"], of_16.adata.obsm["spatial"])
    assert np.array_equal(of_2.adata.X.toarray(), of_16.adata.X.toarray())
    assert "of the bins of 2, 8, 16 um those of 16 um are read" in aggregate_bins(outs, 32).notes
    assert "of the bins of 2, 8, 16 um those of 8 um are read" in aggregate_bins(outs, 24).notes


def test_min_tissue(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    sizes = {share: aggregate_bins(truth.outs, 32, min_tissue=share).adata.n_obs for share in (0, 0.5, 1)}
    assert sizes[0] == 25 > sizes[0.5] >= sizes[1] > 0  # 160 um hold 5 x 5 tiles


def test_tiles_as_a_section(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    sheet = outs_of(truth) / "sheet.csv"
    sheet.write_text(f"section,donor,spots,image\na,P,{outs_of(truth)}#tile_um=32,\n")
    (row,) = read_cohort(sheet).rows
    assert row.format == "visium-hd" and row.options == {"tile_um": "32"}
    whole, bare = (read_cohort(sheet).section("a", counts=counts) for counts in (True, False))
    assert whole.keys.equals(bare.keys) and np.array_equal(whole.spots_px, bare.spots_px)
    assert whole.adata.n_vars == 5 and bare.adata.n_vars == 0
    assert (whole.spot_diameter_um, whole.spot_pitch_um, whole.spots_mpp) == (32, 32, 0.25)


def test_a_reduced_image(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    write_small_images(truth.outs / "spatial", (800, 800))
    found, small = read(truth.outs, tile_um="32"), read(truth.outs, tile_um="32", image="hires")
    assert np.allclose(small.adata.obsm["spatial"], found.adata.obsm["spatial"] * 0.2) and small.mpp == 1.25


def test_only_the_bins_under_tissue_of_a_raw_matrix(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    expected = aggregate_bins(truth.outs, 32).adata.X.toarray()
    (truth.outs / "filtered_feature_bc_matrix.h5").unlink()
    everywhere = truth.counts.reindex(truth.positions["barcode"], fill_value=50)
    write_h5(truth.outs / "raw_feature_bc_matrix.h5", list(everywhere.index), table_of_genes(5), everywhere.to_numpy())
    assert np.array_equal(aggregate_bins(truth.outs, 32).adata.X.toarray(), expected)


def test_sizes_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_hd(tmp_path)[8]
    text = as_download_error(truth.outs, tile_um="100")
    assert "tiles of 100 um cannot be made of whole bins of 8 um. Choose a multiple of the bin, such as 96, 104" in text
    assert "cannot be made" in as_download_error(truth.outs, tile_um="4")
    assert "has no tile of 320 um with 50% of its bins under tissue" in as_download_error(truth.outs, tile_um="320")
    monkeypatch.setattr(visium_hd, "MAX_BINS", 100)
    assert "has over 100 bins of 8 um under tissue" in as_download_error(truth.outs)


def test_parts_of_two_sections(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    write_factors(truth.outs / "spatial", microns_per_pixel=0.5)
    for options in ({}, {"tile_um": "32"}):
        text = as_download_error(truth.outs, **options)
        assert "says 0.5 um per px" in text and "which is 0.25" in text
    truth = make_hd(tmp_path / "b")[8]
    path = truth.outs / "spatial" / "tissue_positions.parquet"
    write_positions(path, truth.positions.assign(in_tissue=1 - truth.positions["in_tissue"]))
    assert "of which only 0 are under tissue" in as_download_error(truth.outs, tile_um="32")
    write_positions(path, truth.positions.assign(array_row=truth.positions["array_row"] + 1))
    assert "barcodes that name other array positions" in as_download_error(truth.outs, tile_um="32")
    write_positions(path, make_hd(tmp_path / "c")[16].positions)
    assert "barcodes that are not those of 16 um bins (s_008um_" in as_download_error(truth.outs, tile_um="32")
    path.unlink()
    assert "has no spatial/tissue_positions.parquet" in as_download_error(truth.outs)


def test_a_truncated_matrix(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    path = truth.outs / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:-500])
    for options in ({}, {"tile_um": "32"}):
        assert "cannot be read as a 10x matrix" in as_download_error(truth.outs, **options)


@settings(max_examples=50, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 16383), st.integers(0, 16383)), min_size=1), size=st.sampled_from([2, 8])
)
def test_array_positions_of_barcodes(places: list[tuple[int, int]], size: int) -> None:
    names = np.array([f"s_{size:03d}um_{row:05d}_{column:05d}-1" for row, column in places], dtype="S")
    rows, columns = bin_positions(names, size, Path("x"))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == places


@pytest.mark.parametrize("name", [b"AAACCTG-1", b"s_008um_00001_0000x-1", b"s_008um_00001_20000-1", b"s_008um_0"])
def test_names_that_are_no_bins(name: bytes) -> None:
    with pytest.raises(SectionError):
        bin_positions(np.array([b"s_008um_00001_00001-1", name]), 8, Path("x"))


SIDE = 3350  # bins of 2 um along a capture area of 6.5 mm, and a little more

WRITE = f"""
import sys, json, h5py, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
side, genes, square = {SIDE}, 200, Path(sys.argv[1])
(square / "spatial").mkdir(parents=True)
(square / "spatial" / "scalefactors_json.json").write_text(json.dumps(
    dict(microns_per_pixel=0.25, bin_size_um=2.0, spot_diameter_fullres=8.0)))
names = lambda row: ["s_002um_%05d_%05d-1" % (row, column) for column in range(side)]
schema = pa.schema([("barcode", pa.string()), ("in_tissue", pa.int64()), ("array_row", pa.int64()),
    ("array_col", pa.int64()), ("pxl_row_in_fullres", pa.float64()), ("pxl_col_in_fullres", pa.float64())])
column = np.arange(side)
with pq.ParquetWriter(square / "spatial" / "tissue_positions.parquet", schema) as table:
    for first in range(0, side, 100):
        rows = range(first, min(first + 100, side))
        table.write_table(pa.table([
            [name for row in rows for name in names(row)], np.ones(len(rows) * side, int), np.repeat(rows, side),
            np.tile(column, len(rows)), np.repeat(np.array(rows) * 8.0 + 4, side),
            np.tile(column * 8.0 + 4, len(rows))], schema=schema))
rng = np.random.default_rng(0)
with h5py.File(square / "filtered_feature_bc_matrix.h5", "w") as store:
    group = store.create_group("matrix")
    total = side * side * 3  # three counts in every bin
    barcodes = group.create_dataset("barcodes", (side * side,), "S21", chunks=True)
    data = group.create_dataset("data", (total,), "i4", chunks=True, compression="gzip", compression_opts=1)
    indices = group.create_dataset("indices", (total,), "i8", chunks=True, compression="gzip", compression_opts=1)
    for row in range(side):
        barcodes[row * side : (row + 1) * side] = np.array(names(row), "S21")
        part = slice(row * side * 3, (row + 1) * side * 3)
        data[part] = 1
        indices[part] = (rng.integers(0, genes - 2, side)[:, None] + np.arange(3)).ravel()
    group["indptr"], group["shape"] = np.arange(0, total + 1, 3), np.array([genes, side * side], "i4")
    features = group.create_group("features")
    for name in ("id", "name"):
        features[name] = np.array(["G%d" % n for n in range(genes)], "S")
    features["feature_type"] = np.full(genes, b"Gene Expression")
"""

READ = """
import sys, resource, time
from histomix.spots import aggregate_bins
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
found = aggregate_bins(sys.argv[1], 112).adata
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.n_obs, int(found.X.sum()), before // 1024, peak // 1024, round(time.perf_counter() - start, 1))
"""


@pytest.mark.slow
def test_memory_on_a_full_capture_area(tmp_path: Path) -> None:
    """11.2 million bins and 33.7 million counts: about as many as fit beside each other as text and numbers in 3 GB."""
    square = tmp_path / "square_002um"
    subprocess.run([sys.executable, "-c", WRITE, str(square)], check=True)
    told = subprocess.run([sys.executable, "-c", READ, str(square)], check=True, capture_output=True, text=True).stdout
    tiles, counts, _, peak_mb, seconds = told.split()
    side = SIDE // 56
    assert int(tiles) == side**2 and int(counts) == 3 * (side * 56) ** 2
    assert int(peak_mb) < 1500, f"peak {peak_mb} MB in {seconds} s"


def test_bins_are_known_by_what_they_hold_and_not_by_the_name_of_their_folder(tmp_path: Path) -> None:
    truth = make_hd(tmp_path)[8]
    right = read(truth.outs)
    other = truth.outs.parent.parent.parent.parent / "P1"
    truth.outs.rename(other)
    for path in (other, other / "spatial", other / "spatial" / "tissue_positions.parquet"):
        assert detect_format(path) == "visium-hd"
        found = read(path)
        assert (found.mpp, found.spot_diameter_um, found.spot_pitch_um) == (0.25, 8, 8)
        assert found.adata.obs_names.equals(right.adata.obs_names) and abs(found.adata.X - right.adata.X).sum() == 0
    table = pd.read_parquet(other / "spatial" / "tissue_positions.parquet")
    (other / "spatial" / "tissue_positions.parquet").unlink()
    table.to_csv(other / "spatial" / "tissue_positions.csv", index=False)
    assert detect_format(other) == "visium-hd" and read(other, tile_um="32").spot_diameter_um == 32
    for format in (other, other / "spatial" / "tissue_positions.csv"):
        with pytest.raises(
            SectionError, match=r"holds bins of 8 um of Visium HD, not spots of Visium\. Give the format"
        ):
            read_section_spots(format, "visium")
    # The name of the folder is that of other bins.
    other.rename(tmp_path / "square_016um")
    assert read(tmp_path / "square_016um").spot_diameter_um == 8


def test_bins_whose_barcodes_and_columns_differ_are_refused(tmp_path: Path) -> None:
    truth = make_hd(tmp_path, sizes=(8,))[8]
    table = truth.positions.assign(array_row=truth.positions["array_row"][::-1].to_numpy())
    write_positions(truth.outs / "spatial" / "tissue_positions.parquet", table)
    assert "name other array positions" in as_download_error(truth.outs)


def test_scale_factors_of_other_bins_are_refused(tmp_path: Path) -> None:
    truth = make_hd(tmp_path, sizes=(8,))[8]
    write_factors(truth.outs / "spatial", 0.25, microns_per_pixel=0.25, bin_size_um=16.0)
    assert "is of bins of 16 um, and the positions are of bins of 8 um" in as_download_error(truth.outs)
    write_factors(truth.outs / "spatial", 0.25, microns_per_pixel=0.26, bin_size_um=8.0)
    assert "says 0.26 um per px" in as_download_error(truth.outs, tile_um="32")


def test_bins_kept_as_anndata_keep_their_scale(tmp_path: Path) -> None:
    truth = make_hd(tmp_path, sizes=(8,))[8]
    adata = read(truth.outs).adata
    factors = {"bin_size_um": 8.0, "microns_per_pixel": 0.25, "spot_diameter_fullres": 32.0}
    adata.uns["spatial"] = {"P1": {"scalefactors": factors}}
    adata.write_h5ad(tmp_path / "bins.h5ad")
    found = read(tmp_path / "bins.h5ad")
    assert (found.mpp, found.spot_diameter_um, found.spot_pitch_um) == (0.25, 8, 8)
    del adata.uns["spatial"]["P1"]["scalefactors"]["bin_size_um"]
    adata.write_h5ad(tmp_path / "unknown.h5ad")
    assert read(tmp_path / "unknown.h5ad").mpp is None  # a square lattice is not that of Visium
