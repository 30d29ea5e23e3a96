"""Tables of features that others computed: their columns in any order, their places numbers, each tile once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histomix.embedding.imports import table_files
from histomix.embedding.imports.tiles import Part, join_parts
from histomix.errors import FeatureError

VALUES = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)


def table(prefix: str = "f", first: int = 0) -> pd.DataFrame:
    found = pd.DataFrame(VALUES, columns=[f"{prefix}{first + number}" for number in range(20)])
    return found.assign(x_px=np.arange(5.0), y_px=1.0, spot=list("abcde"))


def read(path: Path, content: pd.DataFrame) -> Part:
    content.to_csv(path, index=False)
    return table_files.read(path)


@pytest.mark.parametrize(("prefix", "first"), [("f", 0), ("feat_", 1), ("", 0)])
def test_columns_that_were_sorted_as_text(tmp_path: Path, prefix: str, first: int) -> None:
    """f0, f1, f10, f2: every feature would be taken for another one."""
    part = read(tmp_path / "t.csv", table(prefix, first)[sorted(table(prefix, first).columns)])
    np.testing.assert_allclose(part.vectors, VALUES, rtol=1e-6)


def test_columns_of_other_names_stay_in_their_order(tmp_path: Path) -> None:
    names = {f"f{number}": f"f{number * 2}" for number in range(20)}  # no run of numbers
    turned = table().rename(columns=names)[[*reversed(names.values()), "x_px", "y_px"]]
    np.testing.assert_allclose(read(tmp_path / "t.csv", turned).vectors, VALUES[:, ::-1], rtol=1e-6)


def test_a_tile_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    part = read(tmp_path / "t.csv", table().assign(spot=list("abcda")))
    with pytest.raises(FeatureError, match="it holds the tile 'a' more than once"):
        join_parts("s", [part])


def test_a_place_that_is_text_is_no_place(tmp_path: Path) -> None:
    part = read(tmp_path / "t.csv", table().assign(x_px=["1", "2", "far", "4", "5"]))
    with pytest.raises(FeatureError, match="some places are no numbers"):
        join_parts("s", [part])
