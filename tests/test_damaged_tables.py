"""Damage and hostility in tables: refused in words, never read as data, never a crash or a wait without end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

from histomix.abundance import label, read_abundance, read_reference
from histomix.abundance.deconvolve.checks import check_counts
from histomix.cli.app import app
from histomix.common.geometry.polygons import read_regions
from histomix.common.storage.h5ad import write_h5ad
from histomix.common.strangers.annotated import find_counts
from histomix.common.strangers.hdf5 import check_hdf5
from histomix.common.tables import columns_or_none, read_bytes, read_columns
from histomix.common.words import reason
from histomix.common.yaml_text import YamlFile
from histomix.errors import InputError, LabelError, SectionError, SlideError
from histomix.heads.files import read_arrays
from histomix.prediction.plan import refuse_vast_grid
from histomix.provenance import digest_file, read_json
from histomix.slides import TileSpec, TissueMask
from histomix.spots import inspect_data, read_cohort, read_spots
from histomix.spots.formats.cells.tables import PLAIN, Cells, checked, read_h5ad_cells
from histomix.spots.formats.cells.tables import read_cells as read_cell_table
from histomix.spots.formats.tenx.matrix import read_barcodes, read_matrix
from histomix.spots.formats.tenx.positions import read_positions
from histomix.spots.pseudo_spots import pseudo_spots
from histomix.spots.readers import detect_format, read_section_spots

from .extras import needs_extra


def spots(x: Any = None, **layers: Any) -> ad.AnnData:
    """Nine spots with two genes."""
    matrix = sparse.csr_matrix(np.arange(18, dtype=np.float32).reshape(9, 2)) if x is None else x
    obs = pd.DataFrame({"x_px": 1.0, "y_px": 2.0, "cell_type": ["a", "b", "c"] * 3}, index=[f"s{n}" for n in range(9)])
    places = {"spatial": np.column_stack([np.arange(9.0), np.arange(9.0)])}
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=["g1", "g2"]), obsm=places, layers=layers)


def damage(path: Path, place: str, values: np.ndarray) -> None:
    with h5py.File(path, "r+") as file:
        file[place][: len(values)] = values


READERS: dict[str, tuple[type[InputError], Callable[[Path], Any]]] = {
    "spots": (SectionError, lambda path: read_section_spots(path, "h5ad", with_counts=True)),
    "cells": (SectionError, lambda path: read_h5ad_cells(path, True)),
    "reference": (LabelError, read_reference),
    "labels": (LabelError, read_abundance),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("index", [2, 10**6, -1, -(2**31)])
def test_indices_that_name_no_column_are_refused(tmp_path: Path, reader: str, index: int) -> None:
    kind, read = READERS[reader]
    write_h5ad(tmp_path / "t.h5ad", spots())
    if reader != "labels":  # which have no unit, and are refused for that
        read(tmp_path / "t.h5ad")
    damage(tmp_path / "t.h5ad", "X/indices", np.array([0, 1, index], np.int32))
    with pytest.raises(kind, match=r"cannot be read as h5ad \(X is no whole sparse matrix"):
        read(tmp_path / "t.h5ad")


@pytest.mark.parametrize("part", ["layers/more", "raw/X", "obsm/far"])
def test_every_sparse_matrix_of_a_file_is_looked_at(tmp_path: Path, part: str) -> None:
    data = spots(more=sparse.csr_matrix(np.ones((9, 2), np.float32)))
    data.obsm["far"] = sparse.csr_matrix(np.ones((9, 2)))
    data.raw = data
    write_h5ad(tmp_path / "t.h5ad", data)
    damage(tmp_path / "t.h5ad", f"{part}/indices", np.array([-1], np.int32))
    with pytest.raises(SectionError, match=part.split("/")[0]):
        read_section_spots(tmp_path / "t.h5ad", "h5ad", with_counts=True)


def test_layouts_of_old_versions_are_read(tmp_path: Path) -> None:
    """Before anndata 0.7, tables were arrays of records."""
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = np.ones((4, 3), np.float32)
        file["obs"] = np.array([(f"c{n}".encode(), n) for n in range(4)], dtype=[("index", "S4"), ("louvain", "i4")])
        file["var"] = np.array([(f"g{n}".encode(),) for n in range(3)], dtype=[("index", "S4")])
    assert detect_format(path) == "h5ad"
    with pytest.raises(SectionError, match=r"has no obsm\['spatial'\]"):
        inspect_data(path)
    with h5py.File(path, "r+") as file:
        file["obsm"] = np.array([((n, 2.0),) for n in range(4)], dtype=[("spatial", "f4", 2)])
    assert list(read_spots(path).index) == ["c0", "c1", "c2", "c3"]
    assert read_section_spots(path, "h5ad", with_counts=True).adata.X.sum() == 12
    assert "3 genes" in " ".join(inspect_data(path).description.contents)


def test_anndata_in_zarr_is_read_like_h5ad(tmp_path: Path) -> None:
    write_h5ad(tmp_path / "t.h5ad", spots())
    spots().write_zarr(tmp_path / "t.zarr")
    assert detect_format(tmp_path / "t.zarr") == "h5ad"
    found, known = (
        read_section_spots(tmp_path / name, "h5ad", with_counts=True).adata for name in ("t.zarr", "t.h5ad")
    )
    assert found.obs_names.equals(known.obs_names) and (found.X != known.X).nnz == 0
    pd.testing.assert_frame_equal(read_spots(tmp_path / "t.zarr"), read_spots(tmp_path / "t.h5ad"))
    assert "2 genes" in inspect_data(tmp_path / "t.zarr").description.contents


def test_genes_without_counts_are_no_counts(tmp_path: Path) -> None:
    data = spots()
    data.X = None
    write_h5ad(tmp_path / "t.h5ad", data)
    described = inspect_data(tmp_path / "t.h5ad").description
    assert "counts" in described.missing and not any("gene" in line for line in described.contents)


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["sheet.yaml", "head/card.json", "regions.geojson", "manifest.json", "encoder.yaml"])
def test_what_is_nested_too_deeply_is_refused_in_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(DEEP)
    read: dict[str, Callable[[], Any]] = {
        "sheet.yaml": lambda: read_cohort(path),
        "head/card.json": lambda: read_json(path),
        "manifest.json": lambda: read_json(path),
        "regions.geojson": lambda: read_regions(path),
        "encoder.yaml": lambda: YamlFile(path, InputError, "Mend it").values(),
    }
    with pytest.raises(InputError, match="nested too deeply"):
        read[name]()


@pytest.mark.parametrize("reader", READERS)
def test_groups_in_groups_without_end_are_refused_at_once(tmp_path: Path, reader: str) -> None:
    kind, read = READERS[reader]
    with h5py.File(tmp_path / "t.h5ad", "w") as file:
        group: Any = file
        for _ in range(3000):
            group = group.create_group("a")
    with pytest.raises(kind, match="its groups are nested too deeply"):
        read(tmp_path / "t.h5ad")


def test_a_group_that_holds_itself_is_walked_once(tmp_path: Path) -> None:
    write_h5ad(tmp_path / "t.h5ad", spots())
    with h5py.File(tmp_path / "t.h5ad", "r+") as file:
        file["obs/again"] = file["obs"]
    check_hdf5(tmp_path / "t.h5ad")


@pytest.mark.parametrize("arguments", [["head", "pull", "{}", "--out", "h"], ["head", "show", "{}"]])
def test_a_head_that_is_nested_too_deeply_ends_in_one_line(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "card.json").write_text('{"a": ' * 200_000 + "1" + "}" * 200_000)
    (tmp_path / "deep" / "head.safetensors").write_bytes(b"x")
    found = CliRunner().invoke(app, [part.format("deep") for part in arguments])
    assert found.exit_code == 2 and "nested too deeply" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["s.csv", "s.h5ad", "s.h5", "s.geojson", "s.json", "s.yaml", "s.parquet", "s.tsv.gz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    path = tmp_path / name
    readers: list[Callable[[], Any]] = [
        lambda: read_spots(path),
        lambda: inspect_data(path),
        lambda: read_bytes(path),
        lambda: read_json(path),
        lambda: read_regions(path),
        lambda: read_cohort(path),
        lambda: read_abundance(path),
        lambda: read_reference(path),
        lambda: digest_file(path),
        lambda: read_arrays(path, None),
    ]
    for read in readers:
        with pytest.raises(InputError, match="is a pipe, a socket or a device"):
            read()
    assert columns_or_none(path) is None
    (tmp_path / "sheet.csv").write_text(f"section,donor,spots,image,labels\nA,D,{name},{name},{name}\n")
    with pytest.raises(InputError, match=r"column 'image'(.|\n)*is a pipe"):
        read_cohort(tmp_path / "sheet.csv")


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["inspect", str(tmp_path / ("a" * 300))])
    assert found.exit_code == 2 and "File name too long" in found.stderr


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "null", '"x"'])
def test_a_polygon_with_a_vertex_that_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    ring = f"[[0, 0], [9, 0], [9, {value}], [0, 9], [0, 0]]"
    (tmp_path / "r.geojson").write_text(f'{{"type": "Polygon", "coordinates": [{ring}]}}')
    with pytest.raises(InputError, match="is no polygon of numbers"):
        read_regions(tmp_path / "r.geojson")


def test_rings_that_are_no_rings_are_refused_without_words_of_python(tmp_path: Path) -> None:
    path = tmp_path / "regions.geojson"
    ring = [[0, 0], [4, 0], [4, 4], [0, 0]]
    for kind, coordinates in (("MultiPolygon", [ring]), ("Polygon", ring), ("Polygon", 7), ("MultiPolygon", None)):
        geometry = {"type": kind, "coordinates": coordinates}
        path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
        with pytest.raises(InputError, match="feature 1 is no polygon of numbers") as caught:
            read_regions(path)
        assert "object" not in caught.value.what and "int" not in caught.value.what


def test_classes_of_qupath_by_their_names_and_zipped(tmp_path: Path) -> None:
    import gzip

    square = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}
    classes = [{"name": "Stroma"}, {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, None]
    features = [{"geometry": square, "properties": {"classification": one}} for one in classes]
    collection = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    (tmp_path / "r.geojson.gz").write_bytes(gzip.compress(collection))
    assert [region.name for region in read_regions(tmp_path / "r.geojson.gz")] == [
        "Stroma",
        "Tumor: Positive",
        "region 3",
    ]


def test_counts_are_found_where_people_keep_them() -> None:
    counts = sparse.csr_matrix(np.arange(18, dtype=np.float32).reshape(9, 2))
    logs = counts.copy()
    logs.data = np.log1p(logs.data)
    assert find_counts(spots(counts)).place == "X"
    assert find_counts(spots(logs, counts=counts)).place == "counts"
    assert find_counts(spots(logs, raw_counts=counts)).place == "raw_counts"
    assert find_counts(spots(logs, one=counts, two=counts)).place == "X"
    assert find_counts(spots(logs, one=counts, two=counts), "two").place == "two"
    kept = spots(logs)
    kept.raw = spots(counts)
    assert find_counts(kept).place == "raw" and list(find_counts(kept).var.index) == ["g1", "g2"]
    with pytest.raises(ValueError, match=r"has no counts in 'umi' \(it has: X, raw\)"):
        find_counts(kept, "umi")


GENES = 60


@pytest.fixture
def tissue(tmp_path: Path) -> Callable[..., Path]:
    """Writes a section of 49 spots and its sheet; gives the folder for references."""

    def make(genes: list[str], prefix: str = "") -> Path:
        mixtures = np.random.default_rng(1).dirichlet(np.ones(3), 49)
        counts = np.random.default_rng(2).poisson(mixtures @ signatures().T * 3).astype(np.float32)
        places = {"spatial": np.array([[100 + 100 * (n % 7), 100 + 100 * (n // 7)] for n in range(49)], float)}
        var = pd.DataFrame(index=[prefix + gene for gene in genes])
        data = ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(index=[f"s{n}" for n in range(49)]), var=var)
        data.obsm = places
        write_h5ad(tmp_path / "S.h5ad", data)
        (tmp_path / "sheet.csv").write_text("section,donor,spots,image\nS,D,S.h5ad,\n")
        return tmp_path

    return make


def signatures() -> np.ndarray:
    """Genes x types, with the few strong genes that tissue has."""
    return np.random.default_rng(0).gamma(0.4, 6, (GENES, 3)) * np.random.default_rng(3).lognormal(0, 0.7, (GENES, 1))


def symbols(spelling: Callable[[str], str] = str) -> list[str]:
    return [spelling(f"GENE{n}") for n in range(GENES)]


def cells(genes: list[str], key: str = "cell_type", n: int = 150, **var: Any) -> ad.AnnData:
    types = np.random.default_rng(4).integers(0, 3, n)
    counts = np.random.default_rng(5).poisson(signatures().T[types]).astype(np.float32)
    obs = pd.DataFrame({key: np.array(["T", "B", "stroma"])[types]}, index=[f"c{k}" for k in range(n)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(var, index=genes))


def table(values: np.ndarray | None = None) -> pd.DataFrame:
    return pd.DataFrame(signatures() if values is None else values, index=symbols(), columns=["T", "B", "stroma"])


def shares(folder: Path, **options: Any) -> pd.DataFrame:
    return label(folder / "sheet.csv", progress=False, **options)["S"].values


def test_references_as_public_files_have_them(tissue: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = tissue(symbols())
    write_h5ad(folder / "plain.h5ad", cells(symbols()))
    expected = shares(folder, reference=folder / "plain.h5ad")
    ids = [f"ENSG{n:011d}" for n in range(GENES)]
    raw = cells(ids, feature_name=symbols())
    raw.raw = raw.copy()
    raw.X = raw.X.log1p()
    layered = cells(symbols())
    layered.layers["umi"], layered.X = layered.X.copy(), layered.X.log1p()
    two = layered.copy()
    two.layers["more"] = two.layers["umi"] * 2
    for name, data in (("raw", raw), ("layered", layered), ("ids", cells(ids, feature_name=symbols()))):
        write_h5ad(folder / f"{name}.h5ad", data)
        with caplog.at_level("INFO", logger="histomix"):
            pd.testing.assert_frame_equal(shares(folder, reference=folder / f"{name}.h5ad"), expected)
    assert "its counts are those of raw" in caplog.text and "its counts are those of umi" in caplog.text
    write_h5ad(folder / "two.h5ad", two)
    with pytest.raises(LabelError, match=r"X: .* are fractions(.|\n)*--layer"):
        shares(folder, reference=folder / "two.h5ad")
    pd.testing.assert_frame_equal(shares(folder, reference=folder / "two.h5ad", layer="umi"), expected)
    with pytest.raises(LabelError, match=r"has no counts in 'spliced' \(it has: X, more, umi\)"):
        shares(folder, reference=folder / "two.h5ad", layer="spliced")


def test_mitochondrial_genes_are_known_by_any_of_their_names(tmp_path: Path) -> None:
    names = ["MT-CO1", *symbols()[1:]]
    write_h5ad(tmp_path / "r.h5ad", cells([f"ENSG{n:011d}" for n in range(GENES)], feature_name=names))
    found = read_reference(tmp_path / "r.h5ad")
    assert found.mitochondrial == ("ENSG00000000000",) and len(found.other_names) == len(found.table)


@pytest.mark.parametrize("n", [30, 150])
def test_cells_are_not_taken_for_cell_types(tmp_path: Path, n: int) -> None:
    path = tmp_path / "r.h5ad"
    write_h5ad(path, cells(symbols(), key="celltype_major", n=n))
    with pytest.raises(LabelError, match=r"no column 'cell_type' in obs \(it has: celltype_major\).*cell-type-key"):
        read_reference(path)
    assert list(read_reference(path, "celltype_major").table.columns) == ["B", "T", "stroma"]
    bare = cells(symbols(), n=n)
    bare.obs = pd.DataFrame(index=[f"{'ACGT' * 4}{k}-1" for k in range(n)])
    bare.obs.index = [f"ACGTACGTACGTACG{'ACGT'[k % 4]}-{k}" for k in range(n)]
    write_h5ad(path, bare)
    with pytest.raises(LabelError, match="no column 'cell_type'"):
        read_reference(path)


def test_cells_whose_genes_are_rows_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "r.h5ad"
    for key in (None, "kind"):
        write_h5ad(path, cells(symbols(), key=key or "cell_type", n=60).T.copy())
        with pytest.raises(LabelError, match=rf"has the column '{key or 'cell_type'}' in var(.|\n)*adata\.T"):
            read_reference(path, key)


def test_a_reference_of_another_species_is_warned_of(
    tissue: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tissue(symbols())
    table().rename(index=str.capitalize).to_csv(folder / "mouse.csv")
    shares(folder, reference=folder / "mouse.csv")
    assert "spelt as those of a mouse, and the section's as those of a human" in caplog.text
    caplog.clear()
    write_h5ad(folder / "ids.h5ad", cells([f"ENSMUSG{n:011d}" for n in range(GENES)], feature_name=symbols(str.title)))
    shares(folder, reference=folder / "ids.h5ad")
    assert "of a mouse" in caplog.text
    caplog.clear()
    table().to_csv(folder / "human.csv")
    shares(folder, reference=folder / "human.csv")
    assert not caplog.text


def test_turned_signatures_are_said_to_be_turned(tissue: Callable[..., Path]) -> None:
    folder = tissue(symbols())
    table().T.to_csv(folder / "turned.csv")
    with pytest.raises(LabelError, match=r"has the genes in its columns \(60 of them(.|\n)*Turn the table"):
        shares(folder, reference=folder / "turned.csv")


@pytest.mark.parametrize("kind", ["log1p", "log1p of counts per 10,000"])
def test_logarithms_are_no_counts(tissue: Callable[..., Path], kind: str) -> None:
    folder, values = tissue(symbols()), signatures()
    per_cell = values if kind == "log1p" else values / values.sum(axis=0) * 1e4
    table(np.log1p(per_cell)).to_csv(folder / "logs.csv")
    with pytest.raises(LabelError, match="logarithms of counts"):
        shares(folder, reference=folder / "logs.csv")
    table(per_cell).to_csv(folder / "counts.csv")
    shares(folder, reference=folder / "counts.csv")
    marked = ad.AnnData(np.log1p(per_cell).T.astype(np.float32), var=pd.DataFrame(index=symbols()))
    marked.uns["log1p"] = {"base": None}
    write_h5ad(folder / "marked.h5ad", marked)
    with pytest.raises(LabelError, match="is marked as logarithms"):
        shares(folder, reference=folder / "marked.h5ad")


@pytest.mark.parametrize("printed", [None, 2])
def test_logarithms_tell_themselves(tmp_path: Path, printed: int | None) -> None:
    """Means over some cells, or as they are printed, are multiples of one step, and logarithms of them are not."""
    rng = np.random.default_rng(0)
    sizes = np.array([37, 212, 90, 1300])
    means = rng.gamma(0.4, 5, (300, 4))
    counts = rng.poisson(means * sizes) / sizes
    counts = counts if printed is None else means.round(printed)
    genes = [f"G{number}" for number in range(300)]

    def written(values: np.ndarray) -> Path:
        pd.DataFrame(values, index=genes, columns=list("ABCD")).to_csv(tmp_path / "a.csv")
        return tmp_path / "a.csv"

    for values in (counts, means, counts / 30, np.minimum(counts, 15), counts / counts.sum(axis=0) * 1e4):
        read_reference(written(values))
    for values in (np.log1p(counts), np.log1p(counts).astype(np.float32), np.log1p(means / means.sum(axis=0) * 1e4)):
        with pytest.raises(LabelError, match="holds logarithms of counts"):
            read_reference(written(values))


def test_signatures_without_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("G0,0.5,1.5\nG1,2,3\nG2,4,1\n")
    with pytest.raises(LabelError, match=r"has numbers for names.*header"):
        read_reference(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("gene,0,1\nG1,2,3\nG2,4,1\n")  # numbered clusters
    assert list(read_reference(tmp_path / "b.csv").table.columns) == ["0", "1"]


def test_numbers_that_no_cell_and_no_spot_has_are_refused(tissue: Callable[..., Path]) -> None:
    folder, values = tissue(symbols()), signatures()
    values[3, 1] = 1e12
    table(values).to_csv(folder / "r.csv")
    with pytest.raises(LabelError, match=r"gene 'GENE3', cell type 'B' is 1000000000000\.0"):
        read_reference(folder / "r.csv")
    with pytest.raises(LabelError, match="above 100,000,000"):
        check_counts(np.array([[1.0, 1e12]]))


@pytest.mark.parametrize("bar", ["_", "___"])
def test_one_genome_of_a_xenograft(tissue: Callable[..., Path], bar: str) -> None:
    folder = tissue([f"GRCh38{bar}{gene}" for gene in symbols()[:50]] + [f"mm10{bar}Gene{n}" for n in range(50, 60)])
    table().to_csv(folder / "r.csv")
    with pytest.raises(LabelError, match=r"several genomes, by their prefixes \(GRCh38, mm10\)(.|\n)*--genome"):
        shares(folder, reference=folder / "r.csv")
    found = shares(folder, reference=folder / "r.csv", genome="GRCh38")
    (folder / "sheet.csv").write_text("section,donor,spots,image\nS,D,S.h5ad#genome=GRCh38,\n")
    pd.testing.assert_frame_equal(shares(folder, reference=folder / "r.csv"), found)
    (folder / "sheet.csv").write_text("section,donor,spots,image\nS,D,S.h5ad#genome=hg19,\n")
    with pytest.raises(LabelError, match=r"has no genes of 'hg19' \(prefixes: GRCh38, mm10\)"):
        shares(folder, reference=folder / "r.csv")


def test_a_genome_that_genes_do_not_tell(tissue: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = tissue(symbols())
    table().to_csv(folder / "r.csv")
    plain = shares(folder, reference=folder / "r.csv")
    assert "genome" not in caplog.text
    pd.testing.assert_frame_equal(shares(folder, reference=folder / "r.csv", genome="GRCh38"), plain)
    assert "S.h5ad: the genes do not say of which genome they are, and all are taken (GRCh38)" in caplog.text
    stored = ad.read_h5ad(folder / "S.h5ad")
    stored.var["genome"] = ["GRCh38"] * 50 + ["mm10"] * (stored.n_vars - 50)
    write_h5ad(folder / "S.h5ad", stored)
    found = shares(folder, reference=folder / "r.csv", genome="GRCh38")
    write_h5ad(folder / "S.h5ad", stored[:, :50].copy())
    pd.testing.assert_frame_equal(shares(folder, reference=folder / "r.csv"), found)
    with pytest.raises(LabelError, match=r"has no genes of 'mm10' \(GRCh38\)"):
        shares(folder, reference=folder / "r.csv", genome="mm10")
    folder = tissue([f"mm10_{gene}" for gene in symbols()])
    with pytest.raises(LabelError, match=r"has no genes of 'GRCh38' \(prefixes: mm10\)"):
        shares(folder, reference=folder / "r.csv", genome="GRCh38")


def test_the_prefix_of_a_genome_that_all_genes_have_is_no_part_of_their_names(tissue: Callable[..., Path]) -> None:
    folder = tissue(symbols())
    table().to_csv(folder / "r.csv")
    plain = shares(folder, reference=folder / "r.csv")
    for prefix in ("GRCh38_", "GRCh38___"):
        table().rename(index=lambda gene, prefix=prefix: prefix + gene).to_csv(folder / "prefixed.csv")
        pd.testing.assert_frame_equal(shares(folder, reference=folder / "prefixed.csv"), plain)


def test_a_matrix_of_10x_with_two_genomes(tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        for name, start in (("GRCh38", "G"), ("mm10", "M")):
            group = file.create_group(name)
            group["barcodes"] = np.array([b"AAAC-1", b"AAAG-1"])
            group["genes"] = group["gene_names"] = np.array([f"{start}{n}".encode() for n in range(3)])
            group["data"], group["indices"] = np.array([1, 2]), np.array([0, 2])
            group["indptr"], group["shape"] = np.array([0, 1, 2]), np.array([3, 2])
    assert "genomes GRCh38, mm10" in " ".join(inspect_data(path).description.contents)
    assert list(read_barcodes(path)) == ["AAAC-1", "AAAG-1"]
    with pytest.raises(SectionError, match=r"holds the counts of 2 genomes \(GRCh38, mm10\)\. Name one"):
        read_matrix(path)
    assert list(read_matrix(path, "mm10").var.index) == ["M0", "M1", "M2"]
    with pytest.raises(SectionError, match=r"has no genome 'hg19' \(it has: GRCh38, mm10\)"):
        read_matrix(path, "hg19")
    with h5py.File(path, "a") as file:
        del file["mm10"]
    assert list(read_matrix(path).var.index) == list(read_matrix(path, "GRCh38").var.index) == ["G0", "G1", "G2"]
    with pytest.raises(SectionError, match=r"has no genome 'mm10' \(it has: GRCh38\)"):
        read_matrix(path, "mm10")


@pytest.mark.parametrize(("stride_um", "count"), [(0.001, "10,240,000,000,000"), (1e-200, "")])
def test_a_grid_of_more_tiles_than_anybody_waits_for_is_refused(stride_um: float, count: str) -> None:
    slide: Any = SimpleNamespace(path="slide.svs")
    mask = TissueMask(np.ones((400, 400), bool), 8.0)  # 10.24 mm2
    with pytest.raises(SlideError, match=rf"are about {count}") as caught:
        refuse_vast_grid(slide, TileSpec(224, 0.5, stride_um), mask)
    assert "Give a --stride-um of 1.1 or more" in str(caught.value)
    refuse_vast_grid(slide, TileSpec(224, 0.5, 1.1), mask)
    refuse_vast_grid(slide, TileSpec(224, 0.5), mask)


@pytest.mark.parametrize("pitch_um", [0.001, 1e-300])
def test_a_lattice_of_more_spots_than_memory_holds_is_refused(pitch_um: float) -> None:
    cells = pd.DataFrame({"x_px": [10.0, 900.0], "y_px": [10.0, 900.0]})
    with pytest.raises(SectionError, match="are too many"):
        pseudo_spots(cells, pitch_um, mpp=0.5, size_um=112.0)
    assert len(pseudo_spots(cells, 56.0, mpp=0.5, size_um=112.0)) > 0


def test_counts_of_spots_are_found_like_those_of_references(tissue: Callable[..., Path]) -> None:
    folder = tissue(symbols())
    table().to_csv(folder / "r.csv")
    expected = shares(folder, reference=folder / "r.csv")
    plain = ad.read_h5ad(folder / "S.h5ad")
    logs = plain.copy()
    logs.X = logs.X.log1p()
    raw, layered = logs.copy(), logs.copy()
    raw.raw = plain
    layered.layers["umi"] = plain.X.copy()
    for data, place in ((raw, "raw"), (layered, "umi")):
        write_h5ad(folder / "S.h5ad", data)
        assert read_section_spots(folder / "S.h5ad", "h5ad", with_counts=True).notes == (
            f"its counts are those of {place}",
        )
        pd.testing.assert_frame_equal(shares(folder, reference=folder / "r.csv"), expected)
    (folder / "sheet.csv").write_text("section,donor,spots,image\nS,D,S.h5ad#layer=X,\n")
    with pytest.raises(LabelError, match="are fractions"):
        shares(folder, reference=folder / "r.csv")
    (folder / "sheet.csv").write_text("section,donor,spots,image\nS,D,S.h5ad#layer=spliced,\n")
    with pytest.raises(LabelError, match=r"has no counts in 'spliced' \(it has: X, umi\)"):
        shares(folder, reference=folder / "r.csv")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("\n", "\r"), None),
        (lambda text: text + "a" * 200_000 + "\n", "cannot be read as CSV"),
        (lambda text: text.replace("array_col", "array_row", 1), "array_row more than once|lacks the column array_col"),
        (lambda text: "".join(f"{line},{line.split(',')[-1]}\n" for line in text.splitlines()), "more than once"),
    ],
    ids=["old-mac", "wide", "renamed", "twice"],
)
def test_positions_that_an_editor_has_changed(tmp_path: Path, change: Callable[[str], str], words: str | None) -> None:
    path = tmp_path / "tissue_positions.csv"
    row = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
    path.write_text(change(row + "AAAC-1,1,0,0,10,20\nAAAG-1,1,0,2,10,40\n"), newline="")
    if words is None:
        assert read_positions(path)["x_px"].tolist() == [20, 40]
        return
    with pytest.raises(SectionError, match=words):
        read_positions(path)


def test_words_of_libraries_lose_the_names_of_their_errors() -> None:
    error = OSError(
        "Couldn't deserialize thrift: TProtocolException: Invalid data\nDeserializing page header failed.\n"
    )
    assert reason(error) == "Couldn't deserialize thrift: Invalid data"
    assert reason(ValueError("Terror: no error in it")) == "Terror: no error in it"


@needs_extra("st", "pyarrow")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_positions_in_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tissue_positions.parquet")
    with pytest.raises(SectionError, match="is a pipe"):
        read_positions(tmp_path / "tissue_positions.parquet")


@pytest.mark.parametrize("place", [np.nan, np.inf, -np.inf, 1e300, -1e10])
def test_cells_nowhere_are_dropped_and_told(tmp_path: Path, place: float) -> None:
    table = pd.DataFrame({"x": [1.0, 2.0, place], "y": 1.0}, index=["a", "b", "c"])
    found = checked(Cells(table.assign(cell_type="T"), "um", None), tmp_path / "cells.csv")
    assert list(found.table.index) == ["a", "b"] and "1 cell without coordinates" in str(found.notes)


def test_a_table_that_ends_within_a_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    rows = "".join(f"c{number},{number}.5,7,T\n" for number in range(9))
    ends = {
        "": True,
        "\n\n": True,
        "c9,1.5,7,T": True,
        "c9,1.5,7,": True,
        "c9": False,
        "c9,1": False,
        "c9,1.5,7": False,
    }
    for end, right in ends.items():
        path.write_text(f"cell_id,x_px,y_px,cell_type\n{rows}{end}")
        if right:
            assert len(read_columns(path, ["x_px"])) in (9, 10)
            continue
        with pytest.raises(SectionError, match=r"cells\.csv: ends within a row"):
            read_columns(path, ["x_px"])


def test_a_place_that_is_text_is_damage_and_a_gap_is_none(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    for text in ("abc", "1,5", "--", "0x1F"):
        path.write_text(f'cell_id,x_px,y_px,cell_type\na,1,2,T\nb,"{text}",2,T\nc,3,2,T\n')
        with pytest.raises(SectionError, match=r"row 3, column 'x_px': .* is not a number \(1 such row\)"):
            read_cell_table(path, PLAIN[0])
    for text in ("", "NA", "nan"):
        path.write_text(f"cell_id,x_px,y_px,cell_type\na,1,2,T\nb,{text},2,T\nc,3,2,T\n")
        assert list(read_cell_table(path, PLAIN[0]).table.index) == ["a", "c"]
