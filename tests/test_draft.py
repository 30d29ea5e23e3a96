"""``init`` and ``inspect --out``: sheets that work as written, and say what was guessed and is missing."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.common.naming import file_key
from histomix.errors import InputError
from histomix.spots.beside import Named, _kind, stem_of
from histomix.spots.donor_names import guess_donors

from .conftest import Job
from .ranger_files import SIZE_PX, make_outs

pytestmark = pytest.mark.once

RUN = CliRunner()


def selection(path: Path, side: int = 5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["x\ty\tpixel_x\tpixel_y"]
    lines += [f"{x}\t{y}\t{x * 290}\t{y * 290}" for x in range(side) for y in range(side)]
    path.write_text("\n".join(lines), encoding="utf-8")


def counts(path: Path, side: int = 5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    keys = [f"{x}x{y}" for x in range(side) for y in range(side)]
    table = pd.DataFrame(rng.poisson(2, (len(keys), 40)), index=keys, columns=[f"G{n}" for n in range(40)])
    table.to_csv(path, sep="\t")


def shares(path: Path, side: int = 5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = [f"{x}x{y}" for x in range(side) for y in range(side)]
    values = np.random.default_rng(1).dirichlet(np.ones(4), len(keys))
    pd.DataFrame(values, index=keys, columns=["T", "B", "M", "E"]).to_csv(path)


def image(path: Path, size: tuple[int, int] = (1200, 1200)) -> None:
    """Large enough that the spots lie on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, "white").save(path)


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """Legacy ST in folders by kind: two sections of A, one of B without an image, and an annotation of A1."""
    root = tmp_path / "mine"
    for name in ("A1", "A2", "B1"):
        selection(root / "spots" / f"{name}_selection.tsv")
        counts(root / "counts" / f"{name}.tsv.gz")
    for name in ("A1", "A2"):
        image(root / "images" / f"{name}.jpg")
    (root / "pathologist").mkdir()
    lines = (root / "spots" / "A1_selection.tsv").read_text().splitlines()
    labelled = [lines[0] + "\tlabel", *(f"{line}\tcancer" for line in lines[1:])]
    (root / "pathologist" / "A1_labeled_coordinates.tsv").write_text("\n".join(labelled))
    return root


def test_a_sheet_of_files_in_folders_by_kind(legacy: Path, tmp_path: Path) -> None:
    draft = hm.draft_sheet(legacy, tmp_path / "sheet.csv")
    assert [(row["section"], row["donor"], row["mpp"]) for row in draft.rows] == [
        ("A1", "A", "0.69"),
        ("A2", "A", "0.69"),
    ]
    cohort = hm.read_cohort(tmp_path / "sheet.csv")
    first = cohort.section("A1")
    assert first.adata.shape == (25, 40) and first.image == tmp_path / "mine" / "images" / "A1.jpg"
    text = (tmp_path / "sheet.csv").read_text()
    assert str(tmp_path) not in text and "mine/counts/A2.tsv.gz" in text
    assert [(row["section"], why) for row, why in draft.lacking] == [("B1", "its image (full resolution)")]
    assert "# B1, missing: its image" in text and "#B1,B1,mine/spots/B1_selection.tsv,," in text.replace(
        "#B1,B,", "#B1,B1,"
    )
    assert any("donors by the beginnings of the names (A: A1, A2" in guess for guess in draft.guesses)
    assert any("um per px by the pitch" in guess for guess in draft.guesses) and "# guessed: " in text
    assert any("A1_labeled_coordinates" in one for one in draft.passed_over)


def test_a_remark_that_is_filled_in_counts(legacy: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    hm.draft_sheet(legacy, sheet)
    image(legacy / "images" / "late.jpg")
    text = (
        sheet.read_text().replace("#B1,", "B1,").replace("B1_selection.tsv,,", "B1_selection.tsv,mine/images/late.jpg,")
    )
    sheet.write_text(text)
    assert hm.read_cohort(sheet).names == ["A1", "A2", "B1"]


def test_labels_beside_the_spots_are_found_with_their_unit(legacy: Path, tmp_path: Path) -> None:
    for name in ("A1", "A2"):
        shares(legacy / "proportions" / f"{name}.csv")
    draft = hm.draft_sheet(legacy, tmp_path / "sheet.csv")
    assert {(Path(row["labels"]).name, row["label_unit"]) for row in draft.rows} == {
        ("A1.csv", "proportion"), ("A2.csv", "proportion")
    }  # fmt: skip
    assert set(hm.label(tmp_path / "sheet.csv", method="table")) == {"A1", "A2"}
    shares(legacy / "other" / "A1.csv")  # two tables of one name: a person must choose
    draft = hm.draft_sheet(legacy, tmp_path / "second.csv")
    assert not draft.rows[0].get("labels")
    (said,) = draft.undecided
    assert said.startswith("A1: which of 2 tables are its labels: other/*.csv, proportions/*.csv")
    assert "Left for you to choose" in draft.text() and "A1: which of 2" in draft.text()


def test_two_tables_of_the_places_of_one_section_are_one_section(legacy: Path, tmp_path: Path) -> None:
    """As her2st has them, spots/A1_selection.tsv and clusters/A1.tsv: not one tissue of two donors."""
    for name in ("A1", "A2", "B1"):
        lines = (legacy / "spots" / f"{name}_selection.tsv").read_text().splitlines()
        (legacy / "clusters").mkdir(exist_ok=True)
        (legacy / "clusters" / f"{name}.tsv").write_text("\n".join(lines[:-2]))
    draft = hm.draft_sheet(legacy, tmp_path / "sheet.csv")
    assert [(row["section"], row["donor"], Path(row["spots"]).parent.name) for row in draft.rows] == [
        ("A1", "A", "spots"), ("A2", "A", "spots")
    ]  # fmt: skip
    assert [row["section"] for row, _ in draft.lacking] == ["B1"]
    assert sum("another table of places" in one for one in draft.passed_over) == 4  # and pathologist/A1


def test_an_image_that_the_spots_do_not_lie_on_is_none(legacy: Path, tmp_path: Path) -> None:
    Image.new("L", (300, 300), "white").save(legacy / "images" / "A2.jpg")  # a reduced copy
    draft = hm.draft_sheet(legacy, tmp_path / "sheet.csv")
    assert [row["section"] for row in draft.rows] == ["A1"]
    (why,) = [why for row, why in draft.lacking if row["section"] == "A2"]
    assert "the image that its spots were placed on" in why and "16 % of them lie on A2.jpg, 300 x 300 px" in why


def test_a_wide_table_is_known_by_its_first_rows(tmp_path: Path) -> None:
    """The kind of a table with a column for each gene, by its numbers and without pandas, which takes seconds."""
    rows = ["\t".join(f"G{n}" for n in range(20_000)), *("\t".join([f"{n}x1", *["0"] * 20_000]) for n in range(30))]
    (tmp_path / "A1.tsv").write_text("\n".join(rows))
    assert _kind(tmp_path / "A1.tsv") == "counts"
    (tmp_path / "A2.tsv").write_text("\n".join([*rows[:3], rows[3].replace("\t0\t", "\tNA\t", 1)]))
    (tmp_path / "A3.tsv").write_text("\n".join([*rows[:3], rows[3] + "\t0"]))
    assert _kind(tmp_path / "A2.tsv") is None and _kind(tmp_path / "A3.tsv") is None


def test_counts_of_another_section_are_not_taken(legacy: Path, tmp_path: Path) -> None:
    counts(legacy / "counts" / "A1.tsv.gz", side=3)
    with gzip.open(legacy / "counts" / "A1.tsv.gz", "rt") as file:
        assert len(file.readlines()) == 10
    draft = hm.draft_sheet(legacy, tmp_path / "sheet.csv")
    assert "counts" not in draft.rows[0] and draft.rows[1]["counts"].endswith("A2.tsv.gz")


def test_space_ranger_folders_of_patients(tmp_path: Path) -> None:
    for patient, sections in (("patient1", ("rep1", "rep2")), ("patient2", ("rep1",))):
        for section in sections:
            made = make_outs(tmp_path / "made").outs.parent
            (tmp_path / "cohort" / patient).mkdir(parents=True, exist_ok=True)
            made.rename(tmp_path / "cohort" / patient / section)
            image(tmp_path / "cohort" / patient / section / "he.tif", SIZE_PX)
    draft = hm.draft_sheet(tmp_path / "cohort", tmp_path / "sheet.csv")
    assert [(row["section"], row["donor"]) for row in draft.rows] == [
        ("patient1_rep1", "patient1"), ("patient1_rep2", "patient1"), ("patient2_rep1", "patient2")
    ]  # fmt: skip
    assert {Path(row["image"]).parent.name for row in draft.rows} == {"rep1", "rep2"}
    assert hm.read_cohort(tmp_path / "sheet.csv").donors["patient2_rep1"] == "patient2"


def test_an_archive_of_samples_in_one_folder(tmp_path: Path) -> None:
    """As GEO keeps them: all files of all samples side by side, the sample before the name that Space Ranger gives."""
    flat = tmp_path / "GSE1_RAW"
    flat.mkdir()
    samples = ("GSM11_P1_rep1", "GSM12_P1_rep2", "GSM13_P2_rep1")
    for sample in samples:
        outs = make_outs(tmp_path / "made").outs
        for file in [*(outs / "spatial").iterdir(), outs / "filtered_feature_bc_matrix.h5"]:
            file.rename(flat / f"{sample}_{file.name}")
        shutil.rmtree(tmp_path / "made")
        image(flat / f"{sample}_HE.tif", SIZE_PX)
    draft = hm.draft_sheet(flat, tmp_path / "sheet.csv")
    assert not draft.lacking, draft.lacking
    assert [(row["section"], row["donor"]) for row in draft.rows] == list(zip(samples, ("P1", "P1", "P2"), strict=True))
    cohort = hm.read_cohort(tmp_path / "sheet.csv")
    for sample in samples:
        section = cohort.section(sample)
        assert section.image == flat / f"{sample}_HE.tif" and section.adata.n_vars > 0


def test_a_section_without_a_scale_waits_for_it(tmp_path: Path) -> None:
    AnnData(np.ones((30, 4), np.float32), obsm={"spatial": np.random.default_rng(0).random((30, 2))}).write_h5ad(
        tmp_path / "S.h5ad"
    )
    image(tmp_path / "S.png")
    draft = hm.draft_sheet(tmp_path, tmp_path / "sheet.csv")
    ((_, why),) = draft.lacking
    assert not draft.rows and why == "um per px of its image (column mpp), which the image does not say"
    header, remark, waiting = (tmp_path / "sheet.csv").read_text().splitlines()[:3]
    assert header == "section,donor,spots,image,format,mpp" or "mpp" in header.split(",")
    assert remark.startswith("# S, missing") and waiting.startswith("#S,S,S.h5ad,S.png,")
    with pytest.raises(InputError, match="there are no sections in it"):
        hm.read_cohort(tmp_path / "sheet.csv")


def test_the_sheet_of_the_phantom(job: Job, tmp_path: Path) -> None:
    draft = hm.draft_sheet(job.sheet.parent, tmp_path / "sheet.csv")
    drafted, made = hm.read_cohort(tmp_path / "sheet.csv"), hm.read_cohort(job.sheet)
    assert drafted.donors == made.donors and not draft.lacking
    for name in made.names:
        one, other = drafted.section(name), made.section(name)
        assert one.image and one.image.resolve() == other.image and (one.spots_px == other.spots_px).all()


def test_a_sheet_is_never_replaced_and_a_folder_without_sections_is_refused(legacy: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("mended by hand")
    result = RUN.invoke(app, ["init", str(legacy), "--out", str(sheet)])
    assert result.exit_code == 2 and "is there already" in result.stderr and sheet.read_text() == "mended by hand"
    result = RUN.invoke(app, ["init", str(legacy / "images"), "--out", str(tmp_path / "other.csv")])
    assert result.exit_code == 2 and "holds no section" in result.stderr and "2 images" in result.stderr
    assert not (tmp_path / "other.csv").exists()


def test_init_says_what_comes_next(legacy: Path, tmp_path: Path) -> None:
    result = RUN.invoke(app, ["init", str(legacy), "--out", str(tmp_path / "sheet.csv")])
    assert result.exit_code == 0, result.output
    assert "2 sections of 1 donor" in result.stdout and "Guessed, to be checked:" in result.stdout
    assert f"Next: histomix run {tmp_path / 'sheet.csv'} --reference REFERENCE --out run" in result.stdout
    told = json.loads(RUN.invoke(app, ["init", str(legacy), "--out", str(tmp_path / "b.csv"), "--json"]).stdout)
    assert told["ok"] and len(told["rows"]) == 2 and told["lacking"][0]["row"]["section"] == "B1"


@pytest.mark.parametrize(
    ("names", "donors"),
    [
        (["A1", "A2", "B1", "D1", "D2"], ["A", "A", "B", "D", "D"]),
        (["P1S1", "P1S2", "P2S1"], ["P1", "P1", "P2"]),
        (["patient1", "patient2"], ["patient1", "patient2"]),
        (["P1", "P2", "P3"], ["P1", "P2", "P3"]),
        (["patientA_1", "patientA_2", "patientB_1"], ["patientA", "patientA", "patientB"]),
        (["V1_Breast_Section_1", "V1_Breast_Section_2", "V2_Lung_Section_1"], ["V1_Breast", "V1_Breast", "V2_Lung"]),
        (["NCBI856"], ["NCBI856"]),
        # Numbers of samples in an archive, or of an array, say nothing of whose they are.
        (["NCBI856", "NCBI858"], ["NCBI", "NCBI"]),
        (["151507", "151508", "151669"], ["one", "one", "one"]),
        (["GSM4284316_P2_ST_rep1", "GSM4284317_P2_ST_rep2", "GSM4284322_P9_ST_rep1"], ["P2", "P2", "P9"]),
        (["GSM1_tumor_A1", "GSM2_tumor_A2", "GSM3_normal_A1"], ["tumor_A", "tumor_A", "normal_A"]),
        (["roi_099", "roi_100", "roi_101"], ["roi", "roi", "roi"]),
        (["S18-1234_A", "S18-1234_B", "S18-1299_A"], ["S18-1234", "S18-1234", "S18-1299"]),
        (
            ["TCGA-49-6743-01Z-00-DX2_001", "TCGA-49-6743-01Z-00-DX1_002", "TCGA-2Z-A9JN-01Z-00-DX1_1"],
            ["TCGA-49-6743", "TCGA-49-6743", "TCGA-2Z-A9JN"],
        ),
        (["GTEX-1117F-0126", "GTEX-1117F-0226", "GTEX-111CU-0126"], ["GTEX-1117F", "GTEX-1117F", "GTEX-111CU"]),
        (["C3L-00001-21", "C3L-00001-22", "C3N-00002-21"], ["C3L-00001", "C3L-00001", "C3N-00002"]),
        (["section_1", "section_2"], ["one", "one"]),
        (["kidney", "lung"], ["kidney", "lung"]),
        (["MOB1", "MOB2", "MOB3"], ["MOB", "MOB", "MOB"]),
    ],
)
def test_donors_by_names(names: list[str], donors: list[str]) -> None:
    guess = guess_donors(dict.fromkeys(names, ""))
    assert [guess.donors[name] for name in names] == donors and guess.words


def test_the_row_of_inspect_works_as_written(legacy: Path, tmp_path: Path) -> None:
    for kind in ("counts", "images"):
        for path in (legacy / kind).iterdir():
            path.rename(legacy / "spots" / path.name)
    sheet = tmp_path / "sheet.csv"
    result = RUN.invoke(app, ["inspect", str(legacy / "spots" / "A1_selection.tsv"), "--out", str(sheet)])
    assert result.exit_code == 0, result.output
    assert sheet.read_text().strip() in result.stdout
    assert (
        sheet.read_text().splitlines()[1]
        == "A1,A,mine/spots/A1_selection.tsv,mine/spots/A1.jpg,0.69,mine/spots/A1.tsv.gz,st"
    )
    assert hm.read_cohort(sheet).section("A1").adata.shape == (25, 40)
    result = RUN.invoke(app, ["inspect", str(legacy / "spots" / "A1.jpg"), "--out", str(tmp_path / "b.csv")])
    assert result.exit_code == 2 and "no section" in result.stderr


def test_of_two_images_the_one_of_the_same_name_is_taken(tmp_path: Path) -> None:
    AnnData(np.ones((3, 4), np.float32), obsm={"spatial": np.ones((3, 2))}).write_h5ad(tmp_path / "patientA_1.h5ad")
    for name in ("patientA_1.tif", "patientA_2.tif"):
        image(tmp_path / name)
    (row,) = hm.inspect_data(tmp_path / "patientA_1.h5ad").rows
    assert Path(row["image"]).name == "patientA_1.tif" and row["donor"] == "patientA"


def test_remarks_of_a_sheet_are_passed_over_and_rows_keep_their_numbers(tmp_path: Path) -> None:
    selection(tmp_path / "a.tsv")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text('# "an open quote\nsection,donor,spots,image\n#B,,b.tsv,\nA,P,a.tsv,\nC,,a.tsv,\n')
    with pytest.raises(InputError, match="row 5, column 'donor': is empty") as caught:
        hm.read_cohort(sheet)
    assert "1 fault" in str(caught.value)
    sheet.write_text(sheet.read_text().replace("C,,", "C,Q,"))
    assert hm.read_cohort(sheet).names == ["A", "C"]


def test_files_of_a_section_are_those_that_a_look_at_each_name_finds() -> None:
    """The rules, one file at a time, beside the index of names that stands for them."""

    def by_the_book(files: list[Path], section: str) -> list[Path]:
        wanted = file_key(section)
        words = [file_key(word) for word in re.split(r"[_-]", section)]
        stems = {path: file_key(stem_of(path)) for path in files}
        bare = {path: file_key(re.sub(r"[^\w-]+", "_", stem).strip("_")) for path, stem in stems.items()}
        ends = rf"{re.escape(wanted)}[_. -]|.*[_. -]{re.escape(wanted)}$"
        rules = (
            lambda path: wanted in (stems[path], bare[path]),
            lambda path: re.match(ends, stems[path]) is not None,
            lambda path: stems[path] in words,
        )
        return next((found for rule in rules if (found := [path for path in stems if rule(path)])), [])

    rng = np.random.default_rng(0)
    parts, marks = ["A1", "a1", "B", "HE", "7", "counts"], ["_", "-", ".", " ", ""]
    names = {"".join(f"{rng.choice(parts)}{rng.choice(marks)}" for _ in range(rng.integers(1, 4))) for _ in range(300)}
    files = [Path(f"{name}{ending}") for name in sorted(names) for ending in (".csv", ".tif")]
    named, found = Named(files), 0
    for section in [*parts, *sorted(names)]:
        expected = by_the_book(files, section)
        found += bool(expected)
        assert named.after(section) == expected
        tables = named.within(lambda path: path.suffix == ".csv")
        assert tables.after(section) == by_the_book([path for path in files if path.suffix == ".csv"], section)
    assert found > 100 and bool(named) and not named.within(lambda _: False)
