"""What a command reads, or somebody else made, is never replaced by what it writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.common.paths import refuse_replacing
from histomix.errors import InputError
from histomix.export import export_maps

from .command_line import histomix
from .conftest import Job

READ = "is read by this command"


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def maps(small_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one map."""
    folder = tmp_path_factory.mktemp("maps")
    (result,) = hm.predict_slides([small_job.image], small_job.head, folder, progress=False)
    assert result.error is None
    return folder


@pytest.fixture
def data(small_job: Job, tmp_path: Path) -> Path:
    """Sections whose spots and counts lie beside the sheet, called after them."""
    keys = [f"s{number}" for number in range(6)]
    places = np.linspace(300.0, 900, 6)
    spots = ad.AnnData(np.ones((6, 3), np.float32), pd.DataFrame(index=keys), pd.DataFrame(index=list("abc")))
    spots.obsm["spatial"] = np.stack([places, places], axis=1)
    folder = tmp_path / "data"
    folder.mkdir()
    spots.write_h5ad(folder / "A.h5ad")
    table = pd.DataFrame({"x_px": places, "y_px": places}, index=keys).rename_axis("spot")
    table.to_csv(folder / "B.csv")
    spots.to_df().to_csv(folder / "counts.csv")
    image = hm.read_cohort(small_job.sheet).rows[0].image
    row = f"{image},0.5,55,100"
    (folder / "sheet.csv").write_text(
        "section,donor,spots,counts,image,mpp,spot_diameter_um,spot_pitch_um\n"
        f"A,P,A.h5ad,,{row}\nB,Q,B.csv,counts.csv,{row}\n"
    )
    return folder


def test_spots_are_not_replaced_by_features_or_labels(data: Path) -> None:
    before = held(data)
    reference = pd.DataFrame(np.eye(3) + 1, list("abc"), ["T", "B", "C"]).rename_axis("gene")
    with pytest.raises(InputError, match=f"A.h5ad: {READ}"):
        hm.embed(data / "sheet.csv", out=data, progress=False)
    with pytest.raises(InputError, match=f"B.csv: {READ}"):
        hm.label(data / "sheet.csv", reference=reference, out=data, progress=False)
    assert held(data) == before


def test_features_are_not_replaced_by_their_import(small_job: Job, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(small_job.features, theirs, ignore=lambda _, names: {name for name in names if "." not in name})
    (theirs / "manifest.json").unlink()
    before = held(theirs)
    with pytest.raises(InputError, match=READ):
        hm.import_features(theirs, small_job.sheet, out=theirs, progress=False)
    assert held(theirs) == before


@pytest.mark.parametrize(("to", "suffix"), [("csv", ".csv"), ("anndata", ".h5ad")])
def test_an_export_replaces_an_export_and_nothing_else(
    small_job: Job, maps: Path, tmp_path: Path, to: str, suffix: str
) -> None:
    for _ in range(2):
        (path,), failures = export_maps(maps, to, tmp_path, progress=False)
        assert path.suffix == suffix and not failures
    if to == "csv":
        path.write_text("spot,x_px,y_px\na,1,2\n")
    else:
        shutil.copy(small_job.spots, path)
    before = held(tmp_path)
    written, (failure,) = export_maps(maps, to, tmp_path, progress=False)
    assert not written and "is no export of a map" in str(failure) and held(tmp_path) == before


def test_a_sheet_of_slides_is_not_replaced_by_the_table_of_slides(maps: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide,mpp\na.svs,0.5\n")
    code, _, error = histomix("cohort", maps, "--out", tmp_path)
    assert code == 2 and "slides.csv: is no table of this command" in error
    assert sheet.read_text() == "slide,mpp\na.svs,0.5\n" and [path.name for path in tmp_path.iterdir()] == [sheet.name]
    sheet.unlink()
    for _ in range(2):
        hm.cohort_tables(maps, tmp_path, progress=False)
    (tmp_path / "manifest.json").unlink()  # as a run that was stopped leaves it
    hm.cohort_tables(maps, tmp_path, progress=False)


def test_a_file_is_the_same_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    refuse_replacing([tmp_path / "a", None], [tmp_path / "c"])
    with pytest.raises(InputError, match=READ):
        refuse_replacing([tmp_path / "a"], [tmp_path / "c", tmp_path / "b"])
