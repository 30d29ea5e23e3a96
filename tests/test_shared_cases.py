"""Small inputs that failed once, kept beside the real data (``cases/``): each does what is right."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.encoders.torch.weights import read_weights
from histomix.slides import open_slide

from .conftest import Job
from .extras import needs_extra

pytestmark = pytest.mark.once


@pytest.fixture
def case(data_dir: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the folder of a case, which commands may write beside."""
    found = sorted((data_dir.parent / "cases").glob(f"{request.param}-*"))
    if not found:
        pytest.skip(f"needs the case {request.param} beside HISTOMIX_DATA")
    return Path(shutil.copytree(found[0], tmp_path / "case"))


def told(*argv: str | Path, code: int | None = 0) -> dict[str, Any]:
    """What a command answers; it ends by itself, without a traceback."""
    result = CliRunner().invoke(app, [*map(str, argv), "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert code is None or result.exit_code == code, result.stderr
    answer = json.loads(result.stdout)
    return {**answer, "text": f"{json.dumps(answer)} {result.stderr}", "code": result.exit_code}


def of(number: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [number], indirect=True)


@of("01")
def test_any_anndata_predicts(case: Path, job: Job) -> None:
    told("predict", case / "slide.png", "--mpp", "0.5", "--head", job.head, "--out", case / "out")
    assert (case / "out" / "slide" / "composition.csv").is_file()


@needs_extra("st", "pyarrow")
@of("02")
def test_bins_are_bins_by_their_content(case: Path) -> None:
    for path in ("P1_8um", "square_008um", "square_008um/spatial/tissue_positions.parquet"):
        answer = told("inspect", case / path)
        assert "Visium HD" in answer["text"] and "0.5 um per px" in answer["text"]


@of("04")
def test_orientation_scrambles_no_tiles(case: Path) -> None:
    with open_slide(case / "o3_zlib.tif", 0.5) as slide:
        found = slide.read(0, 0, slide.width_px, slide.height_px, 0.5)
    np.testing.assert_array_equal(found, tifffile.imread(case / "o3_zlib.tif"))


@of("05")
def test_codecs_of_other_programs(case: Path) -> None:
    for name in ("jpeg2000_2.tif", "webp_2.tif"):
        with open_slide(case / name) as slide:
            found = slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp)
        np.testing.assert_array_equal(found, tifffile.imread(case / name, key=0))


@of("07")
def test_the_slide_and_not_its_macro(case: Path) -> None:
    for name in ("macro_first.ome.tif", "thumb_first.tif"):
        with open_slide(case / name) as slide:
            assert (slide.width_px, slide.height_px, slide.mpp) == (700, 500, pytest.approx(0.5))


@of("08")
def test_an_old_h5ad_has_no_traceback(case: Path) -> None:
    assert "old.h5ad" in told("inspect", case / "old.h5ad", code=None)["text"]


@of("10")
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("cellxgene.h5ad", ""),
        ("counts_ensembl.h5ad", ""),
        ("no_key.h5ad", "--cell-type-key"),
        ("mouse_case.h5ad", "mouse"),
        ("types_x_genes.csv", "Turn the table"),
    ],
)
def test_references_as_people_have_them(case: Path, reference: str, words: str) -> None:
    answer = told("label", case / "sheet.csv", "--reference", case / reference, "--out", case / "out", code=None)
    assert words in answer["text"] and "report" not in answer["text"]
    if not words:
        assert answer["code"] == 0 and len(pd.read_csv(case / "out" / "S.csv")) == 49


@of("10")
def test_single_cells_are_told_to_be_a_reference(case: Path) -> None:
    for name in ("cellxgene", "counts_ensembl", "no_key", "mouse_case"):
        assert "a reference for labels" in told("inspect", case / f"{name}.h5ad")["what"]
    assert "spots" in told("inspect", case / "section.h5ad")["what"]


@of("15")
def test_pictures_that_are_no_slides_are_called_by_name(case: Path) -> None:
    for name, kind in (
        ("a.webp", "WEBP"),
        ("a.bmp", "BMP"),
        ("a.gif", "GIF"),
        ("a.jp2", "JPEG2000"),
        ("rgb16.png", "8 bits"),
    ):
        answer = told("inspect", case / name, code=2)
        assert kind in answer["text"] and "damaged" not in answer["text"]


@of("16")
def test_two_genomes_are_called_so(case: Path) -> None:
    answer = told("inspect", case / "two_genomes.h5", code=None)
    assert "genome" in answer["text"] and "damaged" not in answer["text"]


@of("18")
def test_segmented_cells_are_read(case: Path) -> None:
    assert "cell" in told("inspect", case / "outs" / "segmented_outputs")["text"]


@of("19")
def test_anndata_in_zarr_is_anndata(case: Path) -> None:
    assert "AnnData" in told("inspect", case / "section.zarr")["what"]


@of("21")
def test_a_teacher_is_no_unknown_file(case: Path) -> None:
    state = read_weights(case / "teacher.pth")
    assert "backbone.cls_token" in state


@of("22")
def test_frames_are_believed_in_their_colours(case: Path, data_dir: Path) -> None:
    picture = runpy.run_path(str(data_dir.parent / "cases" / "common.py"))["he"](600, 500, 1)
    with open_slide(case / "a.dcm") as slide:
        found = slide.read(0, 0, 600, 500, slide.mpp)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=3)


@of("24")
def test_a_region_of_tissue_alone(case: Path, job: Job) -> None:
    told("embed", case / "sheet.csv", "--out", case / "features")
    answer = told("predict", case / "roi.png", "--mpp", "0.25", "--head", job.head, "--out", case / "out")
    assert answer["slides"][0]["tiles"] >= 1


def test_every_case_is_here(data_dir: Path) -> None:
    """Every case of the folder stands here."""
    folder = data_dir.parent / "cases"
    if not folder.is_dir():
        pytest.skip("needs the cases beside HISTOMIX_DATA")
    here = Path(__file__).read_text(encoding="utf-8")
    numbers = [path.name.partition("-")[0] for path in folder.iterdir() if path.is_dir() and path.name[0].isdigit()]
    assert all(f'@of("{number}")' in here for number in numbers)
