"""Headers that lack a name, rows that have a cell more, names that stand twice: refused, never read as neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histomix.abundance.number_tables import read_numbers
from histomix.cohort.clinical import read_clinical
from histomix.common.tables import column_names, read_columns, read_table, read_values
from histomix.errors import InputError, LabelError
from histomix.evaluation.measured.cells import read_cells
from histomix.spots.counts import read_counts

READERS: dict[str, Callable[[Path], Any]] = {
    "table": read_table,
    "columns": lambda path: read_columns(path, ["b"]),
    "values": lambda path: read_values(path, bool),
    "numbers": read_numbers,
    "counts": read_counts,
}


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", ["spot", "Gene", "", '"barcode"'])
def test_a_header_that_lacks_a_name_but_the_first_is_refused(tmp_path: Path, reader: str, key: str) -> None:
    """Read as R's, which leaves out the first, every column would be called as its neighbour."""
    path = table(tmp_path / "t.csv", f"{key},a,b\ns1,1,2,3\ns2,4,5,6\n")
    with pytest.raises(InputError, match="3 column names for 4 columns"):
        READERS[reader](path)


def test_a_header_without_the_name_of_the_keys_is_that_of_r(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "a,b\ns1,1,2\ns2,4,5\n")
    assert column_names(path) == list(read_table(path).columns) == ["", "a", "b"]
    assert read_columns(path, ["b", ""]).to_numpy().tolist() == [["2", "s1"], ["5", "s2"]]
    assert read_values(path, lambda name: False)["b"].tolist() == read_numbers(path)["b"].tolist() == [2, 5]
    counts = read_counts(path)
    assert list(counts.genes) == ["a", "b"] and counts.matrix.toarray().tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("reader", ["table", "columns", "values", "numbers"])
def test_a_row_with_a_cell_more_is_refused(tmp_path: Path, reader: str, quote: str) -> None:
    """A cell that holds the separator and lost its quotes moves all that follow it."""
    path = table(tmp_path / "t.csv", f"spot,a,b\n{quote}s1{quote},1,2\ns2,4,5,6\ns3,7,8\n")
    with pytest.raises(InputError, match=r"row 3 has 4 cells|line 2, saw 4"):
        READERS[reader](path)


def test_a_row_may_lack_blank_cells_at_its_end(tmp_path: Path) -> None:
    """Spreadsheets leave them out."""
    path = table(tmp_path / "t.csv", "slide,age,site\nA,61\n\nB,58,lung\n")
    assert read_clinical(path).table["site"].isna().tolist() == [True, False]
    assert read_table(path)["site"].tolist() == ["", "lung"]


@pytest.mark.parametrize("reader", ["table", "columns", "numbers"])
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, reader: str) -> None:
    path = table(tmp_path / "t.csv", "spot,a,b,b\ns1,1,2,3\ns2,4,5,6\n")
    with pytest.raises(InputError, match="has the column 'b' more than once"):
        READERS[reader](path)


def test_a_column_again_under_the_name_that_pandas_gives_it_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "spot,T,T.1\ns1,1,1\ns2,4,4\n")
    with pytest.raises(LabelError, match=r"has the column 'T' again, as 'T\.1'"):
        read_numbers(path)
    table(path, "spot,T,T.1\ns1,1,2\ns2,4,4\n")  # two clusters of one kind
    assert read_numbers(path).columns.tolist() == ["T", "T.1"]


def test_cells_of_r_keep_their_columns(tmp_path: Path) -> None:
    path = table(
        tmp_path / "cells.csv", "x_px,y_px,cell_type\n" + "".join(f"{n},{n + 10},{n + 20},T\n" for n in (1, 2))
    )
    cells, _ = read_cells(path, 0.5)
    assert cells.to_numpy().tolist() == [[11, 21, "T"], [12, 22, "T"]]


def test_a_blank_count_of_one_gene_is_no_row_less(tmp_path: Path) -> None:
    path = table(tmp_path / "counts.csv", "spot,g\ns1,1.5\ns2,\ns3,2\n")
    with pytest.raises(InputError, match="row 3, column 'g'"):
        read_counts(path)
