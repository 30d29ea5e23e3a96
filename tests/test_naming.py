"""Names from users in file names, spreadsheets and figures."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histomix.common.naming import (
    file_key,
    file_name_fault,
    key_name,
    plain_text,
    repeated,
    safe_file_name,
    spreadsheet_cell,
    spreadsheet_table,
)
from histomix.common.tables import refuse_twins
from histomix.errors import InputError


@pytest.mark.parametrize("name", ["A1", "S12-03456 A", "tumour.v2", "Präparat 7", "切片", "a-b_c"])
def test_a_safe_name_stays(name: str) -> None:
    assert safe_file_name(name) == name
    assert file_name_fault(name) is None and file_name_fault(unicodedata.normalize("NFD", name)) is None


@pytest.mark.parametrize(
    "name",
    [
        *("../../etc/passwd", "a/b", "a\\b", "..", ".", "", " ", ".hidden", "CON", "nul.svs", "COM1", "a:b"),
        *("x" * 300, "ü" * 200, "a\x00b", "line\nbreak", "\u202egpj.exe", "ends.", "ends ", 'q"<>|?*', "\ud800"),
    ],
)
def test_a_hostile_name_is_mended(name: str) -> None:
    safe = safe_file_name(name)
    assert safe not in ("", ".", "..") and safe == Path(safe).name and "\\" not in safe
    assert len(safe.encode()) <= 120 and not safe.startswith(".") and safe[-1] not in ". "
    assert safe.split(".")[0].lower() not in ("con", "nul", "com1")
    assert safe.isprintable() and safe != name
    assert file_name_fault(name) is not None and file_name_fault(safe) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *(("a:b", "holds :"), ("P1/left", "holds /"), ("lpt1.tif", "device"), ("a ", "dot or a space"), ("", "empty")),
        *(("ü" * 61, "longer than 120 bytes"), ("a\u200bb", "hidden marks")),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name: str, fault: str) -> None:
    assert fault in str(file_name_fault(name))


def test_names_that_are_one_file_somewhere_have_one_key() -> None:
    assert file_key("A1") == file_key("a1") != file_key("a2")
    assert file_key("Präparat") == file_key(unicodedata.normalize("NFD", "PRÄPARAT"))


@given(st.text(max_size=400), st.text(max_size=400))
@settings(max_examples=200, deadline=None)
def test_names_make_files_and_stay_apart(first: str, second: str) -> None:
    one, two = safe_file_name(first), safe_file_name(second)
    assert Path("folder", one).parent == Path("folder")
    assert len(one.encode()) <= 120 and one.isprintable()
    if first != second:
        assert one != two or {first, second} & {one}, "only a name that looks like a mended one could meet it"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "＝1"])
def test_a_formula_is_text(text: str) -> None:
    assert spreadsheet_cell(text) == f"'{text}"
    assert (
        spreadsheet_cell(f"a{text}") == f"a{text}" and spreadsheet_cell(-1.5) == -1.5 and spreadsheet_cell(None) is None
    )


def test_a_table_keeps_its_numbers() -> None:
    table = pd.DataFrame({"=a": [-1.0, np.nan], "b": ["=x", "y"], "c": [True, False]}, index=["@1", "2"])
    safe = spreadsheet_table(table)
    assert list(safe.columns) == ["'=a", "b", "c"] and list(safe.index) == ["'@1", "2"]
    np.testing.assert_array_equal(safe["'=a"], table["=a"])
    assert safe["b"].tolist() == ["'=x", "y"] and safe["c"].dtype == bool
    assert list(table.columns) == ["=a", "b", "c"], "the table itself is left as it was"


def test_text_of_a_figure() -> None:
    assert plain_text(r"$\alpha$") == r"\$\alpha\$"
    assert plain_text("a\nb\u202ec") == "a b c" and plain_text("_x") == " _x"


@pytest.mark.parametrize(("name", "key"), [("mlp-uni2-h", "mlp-uni2-h"), ("a b/c", "a_b_c"), ("=cmd()", "_cmd__")])
def test_a_key_has_only_marks_that_spatialdata_takes(name: str, key: str) -> None:
    assert key_name(name) == key


class _Watched(list[str]):
    """Names that may be gone over, and not counted one by one: that grows with their square."""

    def count(self, value: object) -> int:
        raise AssertionError("a look at all names for each of them")


def test_what_is_repeated_is_found_in_one_pass() -> None:
    assert repeated(_Watched(["b", "a", "b", "c", "a", "b"])) == ["b", "a"] and not repeated(_Watched("abc"))
    with pytest.raises(InputError, match="the column 'b' more than once"):
        refuse_twins(_Watched(["", "", "b", "a", "b"]), Path("a.csv"))
