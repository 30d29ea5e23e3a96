"""Tables as people save them: whoever reads one, the file may look the same ways and errors are the reader's own."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histomix.abundance.number_tables import read_numbers
from histomix.cohort.clinical import read_clinical
from histomix.common.tables import (
    column_names,
    header_of,
    read_columns,
    read_table,
    read_values,
    to_numeric,
)
from histomix.errors import InputError, LabelError, MissingFileError, SectionError
from histomix.evaluation.groups import read_groups
from histomix.spots.counts import read_counts

from .extras import extra_module

ROWS = [["slide", "age, in years", "007"], ["A", "61", "1"], ["B", "58", "2"]]


def saved(path: Path, rows: list[list[str]], separator: str, *, mark: bool, packed: bool) -> Path:
    lines = [separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in rows]
    content = ("\ufeff" * mark + "\r\n".join(lines) + "\r\n").encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("mark", "packed"), [(False, False), (True, False), (True, True)])
def test_a_table_is_the_same_however_it_was_saved(tmp_path: Path, separator: str, mark: bool, packed: bool) -> None:
    path = saved(tmp_path / "t.csv", ROWS, separator, mark=mark, packed=packed)
    assert header_of(path) == column_names(path) == ROWS[0]
    table = read_table(path)
    assert [list(table.columns), *table.to_numpy().tolist()] == ROWS
    assert read_columns(path, ["007", "slide"]).to_numpy().tolist() == [["1", "A"], ["2", "B"]]
    values = read_values(path, lambda name: name == "007")
    assert values["007"].tolist() == ["1", "2"] and values["age, in years"].tolist() == [61, 58]
    np.testing.assert_array_equal(read_numbers(path), [[61, 1], [58, 2]])
    assert read_clinical(path).ids == ["A", "B"]
    groups = [["group", "cell_type"], ["lymphoid", "T cells"]]
    assert read_groups(saved(tmp_path / "g.csv", groups, separator, mark=mark, packed=packed)) == {
        "T cells": "lymphoid"
    }


@pytest.mark.parametrize(
    ("reader", "kind"),
    [
        (lambda path: read_table(path, InputError), InputError),
        (read_table, SectionError),
        (lambda path: read_values(path, bool), InputError),
        (read_numbers, LabelError),
        (read_clinical, InputError),
        (read_groups, InputError),
    ],
)
def test_errors_are_of_the_reader_and_name_the_file(reader: Callable, kind: type, tmp_path: Path) -> None:
    with pytest.raises(kind, match="no such file") as caught:
        reader(tmp_path / "absent.csv")
    assert isinstance(caught.value, MissingFileError)
    for content in (b"spot,a\n\xff\xfe,1\n", b"spot\0,a\n", gzip.compress(b"spot,a\n" * 99)[:-9], b""):
        path = tmp_path / "broken.csv"
        path.write_bytes(content)
        with pytest.raises(kind) as caught:
            reader(path)
        assert caught.value.where == str(path) and caught.value.hint and type(caught.value) is kind


def test_parquet_is_a_table_too(tmp_path: Path) -> None:
    extra_module("st", "pyarrow")
    path = tmp_path / "t.pq"
    pd.DataFrame({"slide": ["A", "B"], "age": [61, 58]}).to_parquet(path)
    assert column_names(path) == ["slide", "age"] and read_columns(path, ["age"])["age"].tolist() == [61, 58]
    assert read_clinical(path).ids == ["A", "B"]
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_clinical(path)


@pytest.mark.parametrize("cell", ["0e" + "4" * 64 + ".1", "1e" + "9" * 20, "1e-" + "9" * 400])
def test_an_exponent_that_no_float_has_is_no_number(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"spot,a\ns0,1e3\ns1,{cell}\n", encoding="utf-8")
    assert np.isnan(to_numeric(read_table(path)["a"]).to_numpy()[1])
    read_values(path, lambda name: name == "spot")


def test_a_small_file_that_unpacks_to_more_than_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histomix.common.tables.available_memory", lambda: 4 << 20)
    bomb = tmp_path / "counts.tsv.gz"
    bomb.write_bytes(gzip.compress(b"spot\tA\n" + b"1x1\t1\n" * (1 << 20)))
    assert bomb.stat().st_size < 1 << 16
    with pytest.raises(SectionError, match=r"counts\.tsv\.gz.*more than 0\.0 GiB of text, a quarter of the memory"):
        read_counts(bomb)
    plain = tmp_path / "plain.tsv"
    plain.write_bytes(b"spot\tA\n" + b"1x1\t1\n" * (1 << 18))
    with pytest.raises(SectionError, match="a quarter of the memory that is free"):
        read_counts(plain)
    # Several members one after the other, with zeros behind, are one text.
    members = tmp_path / "members.tsv.gz"
    members.write_bytes(gzip.compress(b"spot\tA\n1x1\t1\n") + gzip.compress(b"1x2\t7\n") + bytes(64))
    assert read_counts(members).matrix.toarray().tolist() == [[1], [7]]
