"""Places of cells in AnnData: numbers, wherever and however they are kept, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from histomix.errors import SectionError
from histomix.spots.formats.cells.tables import read_h5ad_cells
from histomix.spots.readers import read_section_spots

from .ranger_files import table_of_genes, write_h5
from .torture import inputs


def written(path: Path, obs: dict[str, Any], **obsm: Any) -> Path:
    table = pd.DataFrame({"cell_type": ["T", "B", "T"], **obs}, index=["a", "b", "c"])
    ad.AnnData(obs=table, obsm=obsm).write_h5ad(path)
    return path


@pytest.mark.parametrize("kind", ["float", "text", "category"])
def test_places_in_columns(tmp_path: Path, kind: str) -> None:
    values = pd.Series([1.5, 2.5, 3.5])
    column = values if kind == "float" else values.astype(str).astype(object if kind == "text" else kind)
    found = read_h5ad_cells(written(tmp_path / "c.h5ad", {"x_px": list(column), "y_px": 7.0}), False).table
    assert found[["x", "y"]].to_numpy().tolist() == [[1.5, 7], [2.5, 7], [3.5, 7]]
    with pytest.raises(SectionError, match="row 3, column 'x_px': 'far' is not a number"):
        read_h5ad_cells(written(tmp_path / "d.h5ad", {"x_px": ["1", "far", "2"], "y_px": 7.0}), False)


@pytest.mark.parametrize("places", [np.zeros((3, 1)), np.array([["1", "2"]] * 3), np.zeros((3, 2), bool)])
def test_places_that_are_none(tmp_path: Path, places: np.ndarray) -> None:
    with pytest.raises(SectionError, match=r"has an obsm\['spatial'\] that is not cells x 2 numbers"):
        read_h5ad_cells(written(tmp_path / "c.h5ad", {}, spatial=places), False)


def test_places_in_a_table(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": 4.0}, index=["a", "b", "c"])
    found = read_h5ad_cells(written(tmp_path / "c.h5ad", {}, spatial=table), False).table
    assert found[["x", "y"]].to_numpy().tolist() == [[1, 4], [2, 4], [3, 4]]


def test_cells_of_xenium_without_counts_are_told(tmp_path: Path) -> None:
    inputs.xenium("csv")(tmp_path)
    cells = inputs.cells()
    counts = np.ones((len(cells) - 5, 7), int)
    write_h5(tmp_path / "xenium" / "cell_feature_matrix.h5", list(cells.index[5:]), table_of_genes(7), counts)
    found = read_section_spots(tmp_path / "xenium", "xenium", None, True, {"types": "types.csv", "at": "cells"})
    assert found.adata.n_obs == len(cells) - 5
    assert "5 cells of 300 have no counts and are dropped" in found.notes
