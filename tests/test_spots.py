"""Sections in: legacy ST, h5ad and CSV, their counts, and what is said when they cannot be used."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from histomix.errors import HistomixError, SectionError
from histomix.spots import Section, formats, read_cohort, read_spots
from histomix.spots.counts import read_counts
from histomix.spots.readers import read_section_spots

from .ranger_files import lattice

SELECTION = """x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected
10\t12\t10.1\t12.2\t100.5\t120.25\t1
3\t4\t3.0\t4.1\t30\t41\t0
11\t12\t11.0\t11.9\t110.5\t119\t1
9\t13\t9.0\t13\t90\t130\t1
"""
COUNTS = "\tg1\tg2\tg3\n9x13\t0\t12\t0\n10x12\t3\t0\t1000\n77x1\t1\t1\t1\n"


def st_section(folder: Path, selection: str = SELECTION, counts: str | bytes | None = COUNTS, **more: str) -> Section:
    (folder / "a_selection.tsv").write_text(selection)
    columns, cells = ["section", "donor", "spots", "image"], ["a", "P", "a_selection.tsv", ""]
    if counts is not None:
        (folder / "counts.tsv").write_bytes(counts.encode() if isinstance(counts, str) else counts)
        columns, cells = [*columns, "counts"], [*cells, "counts.tsv"]
    for name, value in more.items():
        columns, cells = [*columns, name], [*cells, value]
    (folder / "sheet.csv").write_text(f"{','.join(columns)}\n{','.join(cells)}\n")
    return read_cohort(folder / "sheet.csv").section("a")


def as_download_error(call, *arguments: object, **named: object) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(SectionError) as caught:
        call(*arguments, **named)
    assert caught.value.where is not None and caught.value.hint is not None
    return str(caught.value)


def test_legacy_st(tmp_path: Path) -> None:
    section = st_section(tmp_path)
    assert list(section.keys) == ["10x12", "9x13"]  # 3x4 is not selected, 11x12 has no counts
    assert section.spots_px.tolist() == [[100.5, 120.25], [90, 130]]
    assert section.adata.uns["spots_without_counts"] == 1
    assert sparse.isspmatrix_csr(section.adata.X) and section.adata.X.dtype == np.float32
    assert section.adata.X.toarray().tolist() == [[3, 0, 1000], [0, 12, 0]]
    assert list(section.adata.var_names) == ["g1", "g2", "g3"]
    assert section.adata.obs[["array_x", "array_y"]].to_numpy().tolist() == [[10.1, 12.2], [9, 13]]
    assert (section.spot_diameter_um, section.spot_pitch_um) == (100, 200)


def test_the_same_spots_with_and_without_counts(tmp_path: Path) -> None:
    section = st_section(tmp_path)
    bare = read_cohort(tmp_path / "sheet.csv").section("a", counts=False)
    assert bare.keys.equals(section.keys) and bare.adata.n_vars == 0
    assert np.array_equal(bare.spots_px, section.spots_px)
    assert list(st_section(tmp_path, counts=None).keys) == ["10x12", "11x12", "9x13"]


def test_the_sheet_overrides_the_geometry_of_the_format(tmp_path: Path) -> None:
    section = st_section(tmp_path, spot_pitch_um="150", spot_diameter_um="55")
    assert (section.spot_diameter_um, section.spot_pitch_um) == (55, 150)


def test_spots_that_match_no_counts(tmp_path: Path) -> None:
    text = as_download_error(st_section, tmp_path, counts="\tg1\nAAAC-1\t1\nAAAG-1\t2\n")
    assert text.startswith(f"{tmp_path / 'a_selection.tsv'}: none of its 3 spots are in the counts {tmp_path}")
    assert "10x12, 11x12, 9x13" in text and "AAAC-1, AAAG-1" in text
    selection = SELECTION + "1\t1\t1\t1\t1\t1\t1\n2\t2\t2\t2\t2\t2\t1\n"
    assert "only 2 of its 5 spots" in as_download_error(st_section, tmp_path, selection=selection)


def test_counts_the_wrong_way_round(tmp_path: Path) -> None:
    text = as_download_error(st_section, tmp_path, counts="gene\t10x12\t11x12\t9x13\ng1\t1\t2\t3\ng2\t0\t0\t1\n")
    assert (
        text
        == f"{tmp_path / 'counts.tsv'}: is genes x spots: its columns are the spots. Transpose it to spots x genes."
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pixel_y", "pixel_q", "is of no known spots format"),
        ("30\t41", "30\tNA", "row 3, column 'pixel_y': 'NA' is not a number"),
        ("10\t12\t10.1", "10.5\t12\t10.1", "no whole numbers"),
        ("11\t12\t11.0", "10\t12\t11.0", "has the spot '10x12' more than once"),
        ("\t1\n", "\t0\n", "no spot with selected = 1"),
    ],
)
def test_broken_selections(tmp_path: Path, old: str, new: str, words: str) -> None:
    (tmp_path / "s.tsv").write_text(SELECTION.replace(old, new))
    assert words in as_download_error(read_spots, tmp_path / "s.tsv")


def test_a_selection_without_columns_of_later_versions(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text("x\ty\tpixel_x\tpixel_y\n1\t2\t3\t4\n")
    adata = read_section_spots(tmp_path / "s.tsv", "st").adata
    assert list(adata.obs_names) == ["1x2"] and adata.obs["array_x"].tolist() == [1]
    assert "lacks the columns pixel_x, pixel_y" in as_download_error(
        read_section_spots, _written(tmp_path / "t.tsv", "x\ty\tselected\n1\t2\t1\n"), "st"
    )


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("mark", "corner"), [("\t", "\t"), (",", ","), ("\t", ""), ("\t", "spot\t")])
def test_count_tables(tmp_path: Path, zipped: bool, mark: str, corner: str) -> None:
    values = np.random.default_rng(0).choice([0, 0, 0, 1, 9, 10, 250, 123456], size=(7, 11))
    keys, genes = [f"{n}x1" for n in range(7)], [f"g{n}" for n in range(11)]
    rows = [mark.join([key, *map(str, row)]) for key, row in zip(keys, values, strict=True)]
    text = "\r\n".join([corner + mark.join(genes), *rows]).encode()
    path = tmp_path / "counts"
    path.write_bytes(gzip.compress(text) if zipped else text)
    found = read_counts(path)
    assert np.array_equal(found.matrix.toarray(), values)
    assert list(found.keys) == keys and list(found.genes) == genes


def test_counts_that_are_no_plain_integers(tmp_path: Path) -> None:
    found = read_counts(_written(tmp_path / "c.tsv", "\tg1\tg1\na\t1.5\t0.0\nb\t1e2\t7\n"))
    assert found.matrix.toarray().tolist() == [[1.5, 0], [100, 7]] and found.matrix.nnz == 3
    assert list(found.genes) == ["g1", "g1-1"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("a\t1\t-2\n", "row 2, column 'g2': '-2' is not a count"),
        ("a\t1\t2\nb\t\t3\n", "row 3, column 'g1'"),
        ("a\t1\t2\nb\tx\t3\n", "row 3, column 'g1': 'x' is not a count"),
        ("a\t1\t2\nb\t3\n", "row 3 has 1 counts for 2 genes"),
        ("a\t1\t2\na\t3\t4\n", "has the spot key 'a' more than once"),
        ("", "is not a table of spots x genes"),
        ("a\nb\n", "is not a table of spots x genes"),
    ],
)
def test_broken_counts(tmp_path: Path, body: str, words: str) -> None:
    path = _written(tmp_path / "c.tsv", "\tg1\tg2\n" + body)
    text = as_download_error(read_counts, path)
    assert text.startswith(f"{path}: ") and words in text


def test_damaged_files(tmp_path: Path) -> None:
    whole = gzip.compress(COUNTS.encode())
    (tmp_path / "cut.tsv.gz").write_bytes(whole[:-12])
    assert "cannot be read" in as_download_error(read_counts, tmp_path / "cut.tsv.gz")
    assert "no such file" in as_download_error(read_counts, tmp_path / "none.tsv")
    assert "no such file" in as_download_error(read_spots, tmp_path / "none.tsv")
    assert "has a header but no rows" in as_download_error(read_spots, _written(tmp_path / "b.csv", "spot,x_px,y_px\n"))
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe")
    assert "not a text table" in as_download_error(read_spots, tmp_path / "image.csv")
    (tmp_path / "cut.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert "cannot be read as h5ad" in as_download_error(read_spots, tmp_path / "cut.h5ad")
    ragged = _written(tmp_path / "r.csv", "spot,x_px,y_px\na,1,2\nb,1,2,3\n")
    assert "row 3 has 4 cells, and the table 3 columns" in as_download_error(read_spots, ragged)


@pytest.mark.parametrize(
    "text",
    [
        "spot,x_px,y_px,cluster\n007,1.5,2,k\nb,3,4,m\n",
        "cluster;spot;pixel_x;pixel_y\nk;007;1.5;2\nm;b;3;4\n",
        "\ufeff\tx_px\ty_px\tcluster\n007\t1.5\t2\tk\nb\t3\t4\tm\n",
        '"x_px" "y_px"'.replace(" ", "\t") + "\n007\t1.5\t2\nb\t3\t4\n",
    ],
)
def test_csv_spots(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spots.csv"
    path.write_text(text, encoding="utf-8")
    found = read_spots(path)
    assert list(found.index) == ["007", "b"] and found.index.name == "spot"
    assert list(found.columns) == ["x_px", "y_px"] and found.to_numpy().tolist() == [[1.5, 2], [3, 4]]
    adata = read_section_spots(path, "csv").adata
    assert "cluster" not in text or adata.obs["cluster"].tolist() == ["k", "m"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x_px,y_px\n1,2\n", "lacks a column with the spot keys"),
        ("spot,x_px,y_px\na,1,2\n,3,4\n", "row 3 has no spot key"),
        ("spot,x_px,y_px\na,1,2\na,3,4\n", "has the spot 'a' more than once"),
        ("spot,x_px,y_px\na,1,2\nb,3,\n", "row 3, column 'y_px': '' is not a number"),
    ],
)
def test_broken_csv_spots(tmp_path: Path, text: str, words: str) -> None:
    assert words in as_download_error(read_spots, _written(tmp_path / "s.csv", text))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    obs = pd.DataFrame({"batch": [1, 2, 3]}, index=["s3", "s1", "s2"])
    adata = AnnData(X=np.array([[1, 0], [0, 2], [3, 4]]), obs=obs, uns={"note": "kept"})
    adata.obsm["spatial"] = np.array([[5, 6, 0], [7, 8, 0], [9, 10, 0]])
    adata.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def test_h5ad(stored: Path) -> None:
    sheet = _written(stored.parent / "s.csv", "section,donor,spots,image\na,P,a.h5ad,\n")
    section = read_cohort(sheet).section("a")
    assert list(section.keys) == ["s3", "s1", "s2"] and section.spots_px.tolist() == [[5, 6], [7, 8], [9, 10]]
    assert sparse.isspmatrix_csr(section.adata.X) and section.adata.X.toarray().tolist() == [[1, 0], [0, 2], [3, 4]]
    assert section.adata.obs["batch"].tolist() == [1, 2, 3] and section.adata.uns["note"] == "kept"
    assert section.spot_pitch_um is None and section.spot_diameter_um is None
    bare = read_cohort(sheet).section("a", counts=False)
    assert bare.keys.equals(section.keys) and bare.adata.n_vars == 0 and bare.adata.obs["batch"].tolist() == [1, 2, 3]
    assert read_spots(stored).loc["s1"].tolist() == [7, 8]


def test_h5ad_with_a_count_table(stored: Path) -> None:
    counts = _written(stored.parent / "c.csv", "spot,g\ns2,2\ns3,3\n")
    adata = read_section_spots(stored, "h5ad", counts, with_counts=True).adata
    assert list(adata.obs_names) == ["s3", "s2"] and adata.X.toarray().tolist() == [[3], [2]]
    assert adata.obs["batch"].tolist() == [1, 3] and adata.obsm["spatial"].tolist() == [[5, 6], [9, 10]]


def test_broken_h5ad(tmp_path: Path) -> None:
    index = pd.DataFrame(index=["a", "b"])
    AnnData(obs=index, obsm={"X_pca": np.ones((2, 2))}).write_h5ad(tmp_path / "none.h5ad")
    assert "has no obsm['spatial'] (obsm: X_pca)" in as_download_error(read_spots, tmp_path / "none.h5ad")
    AnnData(obs=index, obsm={"spatial": np.array([[1, 2], [np.nan, 3]])}).write_h5ad(tmp_path / "nan.h5ad")
    assert "not spots x 2 finite numbers" in as_download_error(read_spots, tmp_path / "nan.h5ad")


def test_h5ad_of_several_libraries(tmp_path: Path) -> None:
    obs = pd.DataFrame({"library_id": ["L1", "L2", "L2"]}, index=["a", "b", "c"])
    adata = AnnData(np.eye(3, dtype=np.float32), obs=obs, obsm={"spatial": np.array([[1, 2], [3, 4], [5, 6]])})
    adata.uns["spatial"] = {"L1": {"images": {}}, "L2": {"images": {}}}
    adata.write_h5ad(tmp_path / "two.h5ad")
    assert "holds 2 libraries with an image each: L1, L2" in as_download_error(read_spots, tmp_path / "two.h5ad")
    assert read_spots(f"{tmp_path / 'two.h5ad'}#library=L2").index.tolist() == ["b", "c"]
    assert "has no library 'L3'" in as_download_error(read_spots, f"{tmp_path / 'two.h5ad'}#library=L3")


def test_h5ad_of_a_visium_section(tmp_path: Path) -> None:
    table = lattice(mpp=0.4).set_index("barcode")
    adata = AnnData(obs=table[["array_row", "array_col"]], obsm={"spatial": table.iloc[:, [4, 3]].to_numpy()})
    for diameter_px, mpp in ((65 / 0.4, 0.4), (100 / 0.4, None)):  # the latter is of no Visium array
        adata.uns["spatial"] = {"L": {"scalefactors": {"spot_diameter_fullres": diameter_px}}}
        adata.write_h5ad(tmp_path / "v.h5ad")
        found = read_section_spots(tmp_path / "v.h5ad", "h5ad")
        assert found.mpp == (None if mpp is None else pytest.approx(mpp))
        assert (found.spot_diameter_um, found.spot_pitch_um) == ((None, None) if mpp is None else (55, 100))


def test_formats_known_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats._MODULES, "xenium", "none")
    text = as_download_error(read_section_spots, tmp_path, "xenium")
    assert "the format 'xenium' is not read by this version; it reads" in text and "h5ad" in text
    assert "the format 'xeniun' is not known (did you mean 'xenium'?)" in as_download_error(
        read_section_spots, tmp_path, "xeniun"
    )


def test_every_format_keeps_the_contract(tmp_path: Path) -> None:
    """Whatever is shown to it, a format says yes or no, and reads or refuses with a reason."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "store.zarr").mkdir()
    for name, content in {
        "a.csv": b"x,y\n1,2\n",
        "a.h5ad": b"\x89HDF",
        "a.parquet": b"PAR1",
        "a.bin": b"\0\xff",
    }.items():
        (tmp_path / name).write_bytes(content)
    strange = [*tmp_path.iterdir(), tmp_path / "none"]
    for name in formats.readable():
        format = formats.load_format(name)
        assert format.name == name and all(format.options.values())
        for path in strange:
            assert format.matches(path) in (True, False)
            with pytest.raises(HistomixError):
                format.read(path, False, {})
            with pytest.raises(HistomixError):
                format.describe(path, {})


def test_a_slide_opens_at_the_mpp_of_the_sheet(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (60, 40), "white").save(tmp_path / "a.png")
    with _with_image(tmp_path, "0.5").slide() as slide:
        assert (slide.width_px, slide.height_px, slide.mpp, slide.mpp_source) == (60, 40, 0.5, "given")
    with pytest.raises(HistomixError, match=r"a\.png.*mpp"):
        _with_image(tmp_path, "").slide()


def _with_image(folder: Path, mpp: str) -> Section:
    _written(folder / "a_selection.tsv", SELECTION)
    sheet = _written(folder / "s.csv", f"section,donor,spots,image,mpp\na,P,a_selection.tsv,a.png,{mpp}\n")
    return read_cohort(sheet).section("a")


def test_her2st_counts_against_pandas(data_dir: Path) -> None:
    path = data_dir / "her2st" / "counts" / "C4.tsv.gz"
    found, expected = read_counts(path), pd.read_csv(path, sep="\t", index_col=0)
    assert np.array_equal(found.matrix.toarray(), expected.to_numpy())
    assert list(found.genes) == list(expected.columns) and list(found.keys) == list(expected.index)


def test_her2st_sections(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "her2st"
    names = sorted(path.name.split("_")[0] for path in (folder / "spots").glob("*_selection.tsv"))
    rows = [f"{n},{n[0]},{folder}/spots/{n}_selection.tsv,,{folder}/counts/{n}.tsv.gz" for n in names]
    cohort = read_cohort(_written(tmp_path / "sheet.csv", "\n".join(["section,donor,spots,image,counts", *rows])))
    sections = [cohort.section(name, counts=False) for name in cohort.names]
    assert len(sections) == 33 and len(set(cohort.donors.values())) == 8
    dropped = {section.name: section.adata.uns["spots_without_counts"] for section in sections}
    assert max(dropped.values()) == 3 and dropped["C4"] == 3 and dropped["C2"] == 0
    assert sum(section.adata.n_obs for section in sections) == 12978


def test_olfactory_bulb(data_dir: Path) -> None:
    folder = data_dir / "st_mob" / "stutility"
    spots, counts = folder / "alignment_table_MOB1.tsv", folder / "MOB1.tsv"
    adata = read_section_spots(spots, "st", counts, with_counts=True).adata
    table = pd.read_csv(spots, sep="\t").query("selected == 1")
    assert adata.shape == (len(table), 1000)
    assert np.allclose(adata.obsm["spatial"], table[["pixel_x", "pixel_y"]])
    expected = pd.read_csv(counts, sep="\t", index_col=0).loc[adata.obs_names]
    assert np.array_equal(adata.X.toarray(), expected)
