"""Damage and hostility in tables: refused in words, never read as data, never a crash or a wait without end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

from histomix.abundance import read_abundance, read_reference
from histomix.cli.app import app
from histomix.common.geometry.polygons import read_regions
from histomix.common.h5ad import write_h5ad
from histomix.common.strangers.annotated import find_counts
from histomix.common.tables import columns_or_none, read_bytes
from histomix.common.yaml_text import YamlFile
from histomix.errors import InputError, LabelError, SectionError
from histomix.provenance import read_json
from histomix.spots import inspect_data, read_cohort, read_spots
from histomix.spots.formats.cells.tables import read_h5ad_cells
from histomix.spots.readers import detect_format, read_section_spots


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
    pytest.importorskip("zarr")
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


@pytest.mark.parametrize("arguments", [["head", "pull", "{}", "--out", "h"], ["head", "show", "{}"]])
def test_a_head_that_is_nested_too_deeply_ends_in_one_line(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "card.json").write_text('{"a": ' * 5000 + "1" + "}" * 5000)
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
