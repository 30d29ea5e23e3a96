"""The cohort sheet: what is read, and that every fault is named by row and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from histomix.common.naming import identity_key
from histomix.errors import SectionError, SheetError
from histomix.spots import formats, read_cohort

SELECTION = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n1\t2\t1.0\t2.0\t10\t20\t1\n"
HEADER = "section,donor,spots,image"
NAME, PLAIN = "row 2, column 'section':", "use letters, digits, '-' and '_'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a_selection.tsv").write_text(SELECTION)
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "a.csv").write_text("spot,x_px,y_px\n1x2,10,20\n")
    return tmp_path


def write(folder: Path, text: str, name: str = "sheet.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def faults(folder: Path, text: str, name: str = "sheet.csv") -> list[str]:
    path = write(folder, text, name)
    with pytest.raises(SheetError) as caught:
        read_cohort(path)
    assert caught.value.where == str(path)
    return caught.value.problems


def test_a_full_row(folder: Path) -> None:
    columns = ",mpp,labels,label_unit,counts,tissue,site,spot_diameter_um,spot_pitch_um,format,remark"
    text = f"{HEADER}{columns}\nA1,P,a_selection.tsv,a.jpg,0.69,a.csv,proportion,a.csv,breast,KTH,110,210,st,mine\n"
    cohort = read_cohort(write(folder, text))
    (row,) = cohort.rows
    assert (row.section, row.donor, row.format, row.label_unit) == ("A1", "P", "st", "proportion")
    assert (row.mpp, row.spot_diameter_um, row.spot_pitch_um) == (0.69, 110.0, 210.0)
    assert (row.spots, row.image) == (folder / "a_selection.tsv", folder / "a.jpg")
    assert (row.tissue, row.site, row.labels) == ("breast", "KTH", folder / "a.csv")
    assert row.where.endswith("sheet.csv, row 2")
    assert cohort.names == ["A1"] and cohort.donors == {"A1": "P"} and len(cohort) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{HEADER},mpp\r\nA1 , P,a_selection.tsv, a.jpg ,0.69 \r\n\r\n",
        "section;donor;spots;image;mpp\nA1;P;a_selection.tsv;a.jpg;0.69\n",
        "section\tdonor\tspots\timage\tmpp\nA1\tP\ta_selection.tsv\ta.jpg\t0.69\n",
        'mpp,"image","spots","donor","section"\n0.69,a.jpg,a_selection.tsv,"P",A1\n',
    ],
)
def test_sheets_as_spreadsheets_save_them(folder: Path, text: str) -> None:
    (row,) = read_cohort(write(folder, text)).rows
    assert (row.section, row.donor, row.mpp, row.image) == ("A1", "P", 0.69, folder / "a.jpg")
    assert row.format == "st"


@pytest.mark.parametrize("start", ["", "sections:\n"])
def test_yaml_keeps_names_as_written(folder: Path, start: str) -> None:
    text = start + "- {section: 007, donor: 1e3, spots: a.csv, image: ~, mpp: 0.5}\n- section: b\n"
    text += "  donor: Q\n  spots: a_selection.tsv\n  image: a.jpg\n"
    cohort = read_cohort(write(folder, text, "sheet.yaml"))
    assert cohort.donors == {"007": "1e3", "b": "Q"}
    assert cohort.rows[0].image is None and cohort.rows[0].mpp == 0.5 and cohort.rows[0].format == "csv"
    assert cohort.rows[1].where.endswith(f"sheet.yaml, entry 2 (line {3 if start else 2})")


def test_yaml_faults(folder: Path) -> None:
    text = "- {section: a, donor: P, donor: Q, spots: a.csv, image: }\n- {section: b, spots: [a.csv], image: }\n- c\n"
    found = faults(folder, text, "sheet.yml")
    assert any("entry 1 (line 1), column 'donor': the column occurs more than once" in fault for fault in found)
    assert any("entry 2 (line 2), column 'donor': is empty" in fault for fault in found)
    assert any("entry 2 (line 2), column 'spots': must be one value" in fault for fault in found)
    assert any("entry 3 (line 3): is not a mapping" in fault for fault in found)
    assert faults(folder, "a: [", "sheet.yml")[0].startswith("it cannot be read as YAML")
    assert faults(folder, "cohort: 1", "sheet.yml") == ["it must be a list of sections, or hold one under 'sections:'"]


def test_a_renamed_required_column_is_suggested(folder: Path) -> None:
    assert faults(folder, "section,doner,spots,image\na,P,a.csv,\n") == [
        "column 'donor' is missing; there is a column 'doner': rename it to 'donor'"
    ]
    (fault,) = faults(folder, "section,Patient,spots,image\na,P,a.csv,\n")
    assert "'Patient': rename it to 'donor'" in fault
    assert faults(folder, "section,donor,spots\na,P,a.csv\n") == ["column 'image' is missing"]


@pytest.mark.parametrize(("wrong", "right"), [("mmp", "mpp"), ("label", "labels"), ("spot_pitch", "spot_pitch_um")])
def test_a_misspelt_optional_column_is_a_fault(folder: Path, wrong: str, right: str) -> None:
    (fault,) = faults(folder, f"{HEADER},{wrong}\na,P,a.csv,,1\n")
    assert f"'{wrong}'" in fault and f"did you mean '{right}'" in fault


def test_unrelated_columns_are_left_alone(folder: Path) -> None:
    text = f"{HEADER},mpp,age,notes,mpp2\na,P,a.csv,,1,60,old block,2\n"
    assert len(read_cohort(write(folder, text))) == 1


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (",P,a.csv,,,,", "row 2, column 'section': is empty"),
        ("a,,a.csv,,,,", "row 2, column 'donor': is empty; folds are by donor, so it has no default"),
        ("a, ,a.csv,,,,", "row 2, column 'donor': is empty; folds are by donor, so it has no default"),
        ("a,NA,a.csv,,,,", "row 2, column 'donor': 'NA' names no donor; folds are by donor, so find out whose it is"),
        ("a,P,,,,,", "row 2, column 'spots': is empty"),
        ("../a,P,a.csv,,,,", f"{NAME} '../a' cannot name a file: it holds /; {PLAIN}"),
        ("P1/left,P,a.csv,,,,", f"{NAME} 'P1/left' cannot name a file: it holds /; {PLAIN}"),
        ("a:b*,P,a.csv,,,,", f"{NAME} 'a:b*' cannot name a file: it holds : *; {PLAIN}"),
        ("..,P,a.csv,,,,", f"{NAME} '..' cannot name a file: it begins or ends with a dot or a space; {PLAIN}"),
        ("a.,P,a.csv,,,,", f"{NAME} 'a.' cannot name a file: it begins or ends with a dot or a space; {PLAIN}"),
        ("CON,P,a.csv,,,,", f"{NAME} 'CON' cannot name a file: it is the name of a device on Windows; {PLAIN}"),
        ("Aux.1,P,a.csv,,,,", f"{NAME} 'Aux.1' cannot name a file: it is the name of a device on Windows; {PLAIN}"),
        ("a\u202eb,P,a.csv,,,,", f"{NAME} 'a\u202eb' cannot name a file: it holds hidden marks; {PLAIN}"),
        ("a,P,a.csv,,0,,", "row 2, column 'mpp': '0' is not a number above 0 and at most 100 (with a decimal point)"),
        (
            "a,P,a.csv,,nan,,",
            "row 2, column 'mpp': 'nan' is not a number above 0 and at most 100 (with a decimal point)",
        ),
        (
            "a,P,a.csv,,half,,",
            "row 2, column 'mpp': 'half' is not a number above 0 and at most 100 (with a decimal point)",
        ),
        (
            'a,P,a.csv,,"0,69",,',
            "row 2, column 'mpp': '0,69' is not a number above 0 and at most 100 (with a decimal point)",
        ),
    ],
)
def test_one_fault_in_a_row(folder: Path, row: str, fault: str) -> None:
    assert faults(folder, f"{HEADER},mpp,label_unit,format\n{row}\n") == [fault]


def test_faults_that_suggest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = f"{HEADER},mpp,label_unit,format\n"
    (fault,) = faults(folder, header + "a,P,a_selections.tsv,,,,\n")
    assert "row 2, column 'spots': there is no file" in fault and "did you mean 'a_selection.tsv'" in fault
    (fault,) = faults(folder, header + "a,P,a.csv,b/c.jpg,,,\n")
    assert f"row 2, column 'image': there is no file {folder / 'b/c.jpg'}" in fault
    (fault,) = faults(folder, header + "a,P,a.csv,,,proportions,\n")
    assert "row 2, column 'label_unit'" in fault and "did you mean 'proportion'?" in fault
    (fault,) = faults(folder, header + "a,P,a.csv,,,cells_per_spot,\n")
    assert "did you mean 'cells per spot'?" in fault
    (fault,) = faults(folder, header + "a,P,a.csv,,,,h5da\n")
    assert "row 2, column 'format': 'h5da' is not known (did you mean 'h5ad'?)" in fault
    with monkeypatch.context() as patch:
        patch.setitem(formats._MODULES, "xenium", "none")
        (fault,) = faults(folder, header + "a,P,a.csv,,,,xenium\n")
        assert "the format 'xenium' is not read by this version; it reads" in fault
    (fault,) = faults(folder, header + "a,P,a.csv#bin=3,,,,\n")
    assert "row 2, column 'spots'" in fault and "the format 'csv' has no option 'bin'" in fault
    (fault,) = faults(folder, header + "a,P,a.csv#bin,,,,\n")
    assert "row 2, column 'spots'" in fault and "'bin' is no option" in fault
    (fault,) = faults(folder, header + f"a,P,a.csv,{folder},,,\n")
    assert "row 2, column 'image'" in fault and "is a folder" in fault


def test_formats_found_from_the_files(folder: Path) -> None:
    (folder / "other.txt").write_text("gene,count\na,1\n")
    (folder / "empty").mkdir()
    (folder / "zip.tsv").write_bytes(b"PK\x03\x04\x00\xff")
    (folder / "cut.tsv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    rows = "".join(f"{n},P,{name},\n" for n, name in enumerate(["other.txt", "empty", "zip.tsv", "cut.tsv.gz"]))
    found = faults(folder, f"{HEADER}\n{rows}")
    expected = [
        "gene, count",
        "folder of no known format",
        "not a text table",
        "cannot be read",
    ]
    assert len(found) == 4
    for row, (fault, words) in enumerate(zip(found, expected, strict=True), start=2):
        assert fault.startswith(f"row {row}, column 'spots'") and words in fault


def test_all_faults_at_once(folder: Path) -> None:
    text = f"{HEADER},mmp\na,P,a.csv,,\n\na,,nothing.csv,,\nb,P,a.csv,,,x\nA,P,a.csv,,\n"
    found = faults(folder, text)
    assert len(found) == 6
    starts = ["row 5: has 6 cells", "column 'mmp'", "row 4, column 'donor'", "row 4, column 'spots'"]
    starts += [
        "row 4, column 'section': 'a' is already the section of row 2",
        "row 6, column 'section': 'A' is already",
    ]
    for fault, start in zip(found, starts, strict=True):
        assert fault.startswith(start)


def test_a_sheet_written_on_windows(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "a.jpg").rename(folder / "images" / "a.jpg")
    text = f"{HEADER},mpp\r\nA1,P,.\\a_selection.tsv,images\\a.jpg,0.69\r\n"
    (row,) = read_cohort(write(folder, text)).rows
    assert (row.spots, row.image) == (folder / "a_selection.tsv", folder / "images" / "a.jpg")


def test_names_that_some_systems_take_for_one(folder: Path) -> None:
    (fault,) = faults(folder, f"{HEADER}\n\u00e41,P,a.csv,\na\u03081,P,a.csv,\n")
    assert fault.endswith("is already the section of row 2")


@pytest.mark.parametrize("twin", ["p1", "P01", "P001"])
def test_one_donor_written_in_two_ways(folder: Path, twin: str) -> None:
    (fault,) = faults(folder, f"{HEADER}\na,P1,a.csv,\nb,{twin},a.csv,\n")
    assert fault.startswith(f"row 3, column 'donor': '{twin}' is written 'P1' in row 2")


def test_ids_that_are_taken_for_one() -> None:
    alike = ["1", "01", "1.0", "1.00"], ["Pat 7", "pat-07", "PAT_7"], ["P1\u200b", "p1"]
    for names in alike:
        assert len({identity_key(name) for name in names}) == 1, names
    other = ["1", "10", "11", "1-1", "1.1", "0.1", "P1", "P 1", "P10", "P1a", "100"]
    assert len({identity_key(name) for name in other}) == len(other) - 1  # 1-1 and 1.1


def test_sheets_that_are_none(folder: Path) -> None:
    with pytest.raises(SheetError, match="there is no such file"):
        read_cohort(folder / "nothing.csv")
    with pytest.raises(SheetError, match="cannot be read"):
        read_cohort(folder)
    assert faults(folder, HEADER + "\n") == ["there are no sections in it"]
    assert "column 'section' is missing" in faults(folder, "")
    (folder / "sheet.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(SheetError, match="save it as CSV"):
        read_cohort(folder / "sheet.xlsx")
    assert faults(folder, f"{HEADER},donor\na,P,a.csv,,P\n") == [
        "row 1, column 'donor': the column occurs more than once"
    ]


def test_subset_and_unknown_section(folder: Path) -> None:
    cohort = read_cohort(write(folder, f"{HEADER}\na1,P,a.csv,\na2,Q,a_selection.tsv,\n"))
    assert cohort.subset(["a2", "a1"]).names == ["a2", "a1"]
    assert [section.name for section in cohort] == ["a1", "a2"]
    with pytest.raises(SectionError, match=r"no section 'a3'\. It has a[12], a[12]\."):
        cohort.section("a3")
    with pytest.raises(SectionError, match="no section 'zz'"):
        cohort.subset(["zz"])
    with pytest.raises(SectionError, match=r"sheet.csv, row 2: the section 'a1' has no image"):
        cohort.section("a1").slide()
