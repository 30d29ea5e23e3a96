"""Names that look the same are the same, whoever reads them: odd spaces, hidden marks, forms of accents, capitals."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from histomix.abundance import Abundance, read_reference
from histomix.abundance.vocabulary import read_vocabulary
from histomix.common.geometry.polygons import read_regions
from histomix.common.naming import plain_name
from histomix.errors import LabelError, SheetError
from histomix.spots import read_cohort
from histomix.spots.pseudo_spots import assigned

ODD = ("T cells", "T\u00a0cells", " T  cells ", "T\u2009cells\u200b", "\ufeffT cells")


@pytest.mark.parametrize("name", ODD)
def test_a_type_is_told_from_no_type_by_more_than_its_spaces(name: str) -> None:
    assert plain_name(name) == "T cells"
    values = pd.DataFrame({name: [0.5, 0.25], "B": [0.5, 0.75]}, index=["s1", "s2"])
    assert Abundance(values, "proportion").cell_types == ["T cells", "B"]
    assert assigned(pd.Series([name, "B", None])).tolist() == ["T cells", "B", None]


def test_accents_are_composed() -> None:
    assert plain_name("Zelle\u0308") == plain_name("Zell\u00eb") == "Zell\u00eb"


def test_two_types_that_look_the_same_are_refused() -> None:
    values = pd.DataFrame([[0.5, 0.5]], index=["s1"], columns=["T cells", "T\u00a0cells"])
    with pytest.raises(LabelError, match="the cell type 'T cells' occurs more than once"):
        Abundance(values, "proportion")
    with pytest.raises(LabelError, match="has the cell type 'T cells' more than once"):
        read_reference(pd.DataFrame(np.ones((3, 2)), index=["a", "b", "c"], columns=["T cells", "T\u00a0cells"]))
    with pytest.raises(LabelError, match="a column has no name"):
        Abundance(pd.DataFrame([[0.5, 0.5]], index=["s1"], columns=["T", "\u00a0"]), "proportion")


def test_cells_of_one_type_in_two_spellings_are_averaged_together(tmp_path: Path) -> None:
    types = ["T cells", "T\u00a0cells", "B ", "B", " ", "B"]
    cells = ad.AnnData(
        np.arange(12, dtype=np.float32).reshape(6, 2),
        obs=pd.DataFrame({"cell_type": pd.Categorical(types)}, index=[f"c{n}" for n in range(6)]),
        var=pd.DataFrame(index=["g1", "g2"]),
    )
    cells.write_h5ad(tmp_path / "cells.h5ad")
    found = read_reference(tmp_path / "cells.h5ad").table
    assert found["T cells"].tolist() == [1, 2]
    np.testing.assert_allclose(found["B"], [np.mean([4, 6, 10]), np.mean([5, 7, 11])])
    assert found.shape[1] == 2


def test_a_vocabulary_and_regions_are_read_in_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("rename: {'T\u00a0cells': ' Lymphocytes '}\n", encoding="utf-8")
    assert dict(read_vocabulary(tmp_path / "words.yaml").rename) == {"T cells": "Lymphocytes"}
    square = [[0, 0], [9, 0], [9, 9], [0, 9]]
    features = [
        {"geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {"name": name}}
        for name in ("Tumour 1", "Tumour\u00a01 ")
    ]
    (tmp_path / "r.geojson").write_text(json.dumps(features), encoding="utf-8")
    assert [region.name for region in read_regions(tmp_path / "r.geojson")] == ["Tumour 1"]


def test_a_donor_in_two_spellings_is_one_or_refused(tmp_path: Path) -> None:
    """Taken for two, what was learnt of one would be tested on the other."""
    (tmp_path / "s.csv").write_text("spot,x_px,y_px\na,1,2\n", encoding="utf-8")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("section,donor,spots,image\nA,P 1,s.csv,\nB,P\u00a01,s.csv,\n", encoding="utf-8")
    assert set(read_cohort(sheet).donors.values()) == {"P 1"}
    sheet.write_text("section,donor,spots,image\nA,P1,s.csv,\nB,p1,s.csv,\n", encoding="utf-8")
    with pytest.raises(SheetError, match=r"row 3, column 'donor': 'p1' is written 'P1' in row 2"):
        read_cohort(sheet)
