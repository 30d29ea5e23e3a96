"""What ``inspect`` says of files and folders, and that the row it prints can be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.common.naming import safe_file_name
from histomix.errors import InputError, SectionError
from histomix.spots import inspect_data, read_cohort
from histomix.spots.inspect import section_name

from .conftest import Job
from .ranger_files import make_hd, make_outs
from .test_spots import SELECTION


def told(path: Path | str, *more: str, exit_code: int = 0) -> dict:  # type: ignore[type-arg]
    result = CliRunner().invoke(app, ["inspect", str(path), "--json", *more])
    assert result.exit_code == exit_code, result.stderr
    answer = json.loads(result.stdout)
    assert answer["ok"] == (exit_code == 0) == (not answer["failures"])
    return answer


def test_a_visium_section_and_its_row(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    found = told(truth.outs)
    assert found["what"] == "the Space Ranger output of one Visium section"
    text = " ".join(found["contents"])
    assert f"{len(truth.spots)} spots under tissue of {len(truth.positions)}" in text
    assert "0.5 um per px" in text and "filtered_feature_bc_matrix.h5" in text and "tissue_hires_image.png" in text
    assert any("full-resolution image" in line for line in found["missing"])
    (row,) = found["rows"]
    assert (row["section"], row["donor"], row["spots"], row["format"]) == (
        "sample",
        "sample",
        str(truth.outs),
        "visium",
    )
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(found["sheet"])
    assert len(read_cohort(sheet).section("sample").keys) == len(truth.spots)


def test_the_only_image_beside_a_section_is_proposed(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    Image.new("RGB", (64, 48), "white").save(truth.outs.parent / "he.tif")
    (row,) = told(truth.outs)["rows"]
    assert row["image"] == str(truth.outs.parent / "he.tif")
    assert "64 x 48 px; the file does not say its scale" in " ".join(told(truth.outs)["contents"])
    Image.new("RGB", (64, 48), "white").save(truth.outs.parent / "other.tif")
    found = told(truth.outs)
    assert found["rows"][0]["image"] == "" and "which image is this section's" in " ".join(found["missing"])
    (truth.outs.parent / "he.tif").rename(truth.outs.parent / "sample.tif")
    assert told(truth.outs)["rows"][0]["image"].endswith("sample.tif")


def test_visium_hd(tmp_path: Path) -> None:
    found = told(make_hd(tmp_path)[8].outs.parent.parent)
    assert found["what"] == "the Space Ranger output of one Visium HD section"
    assert "bins of 2 um, 8 um, 16 um" in found["contents"][0] and found["rows"][0]["spots"].endswith("#tile_um=112")


def test_legacy_st_with_the_mpp_that_its_spots_give(tmp_path: Path) -> None:
    lines = ["x\ty\tpixel_x\tpixel_y"] + [f"{x}\t{y}\t{x * 290}\t{y * 290}" for x in range(5) for y in range(5)]
    (tmp_path / "C9_selection.tsv").write_text("\n".join(lines))
    found = told(tmp_path / "C9_selection.tsv")
    assert found["rows"][0]["section"] == "C9" and found["rows"][0]["mpp"] == "0.69"
    assert any("so check it" in line for line in found["missing"])


def test_tables_and_h5ad(tmp_path: Path) -> None:
    (tmp_path / "spots.csv").write_text("spot,x_px,y_px\na,1,2\n")
    assert told(tmp_path / "spots.csv")["rows"][0]["format"] == "csv"
    adata = AnnData(np.ones((3, 4), np.float32), obsm={"spatial": np.ones((3, 2))})
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = told(tmp_path / "a.h5ad")
    assert found["contents"] == ["3 spots with their places in obsm['spatial']", "4 genes"]
    (tmp_path / "counts.tsv").write_text("\tg1\tg2\tg3\na\t1\t2\t3\nb\t0\t0\t1\n")
    found = told(tmp_path / "counts.tsv")
    assert found["what"] == "a table of numbers, without places" and found["contents"][0].startswith(
        "2 rows x 3 columns"
    )
    assert not found["rows"]


def test_single_cells_are_a_reference(tmp_path: Path) -> None:
    types = pd.Categorical(["T cell", "B cell"] * 10)
    cells = AnnData(np.ones((20, 3)), obs=pd.DataFrame({"n_counts": range(20), "author_type": types}))
    cells.obs_names = [f"c{number}" for number in range(20)]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    found = inspect_data(tmp_path / "cells.h5ad")
    text = " ".join([found.description.what, *found.description.contents])
    assert found.usable and "a reference for labels" in text and "20 cells x 3 genes" in text
    assert "--cell-type-key author_type" in text and not found.rows
    cells.obs["cell_type"] = types
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert "--cell-type-key" not in " ".join(inspect_data(tmp_path / "cells.h5ad").description.contents)
    cells.obsm["spatial"] = np.arange(40.0).reshape(20, 2)
    cells.write_h5ad(tmp_path / "spots.h5ad")
    assert inspect_data(tmp_path / "spots.h5ad").description.what == "an AnnData file of spots"
    del cells.obsm["spatial"], cells.obs["cell_type"], cells.obs["author_type"]
    cells.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(SectionError, match="has no obsm"):
        inspect_data(tmp_path / "none.h5ad")


def test_a_matrix_alone(tmp_path: Path) -> None:
    truth = make_outs(tmp_path)
    found = told(truth.outs / "filtered_feature_bc_matrix.h5")
    assert found["contents"][0] == f"{len(truth.counts)} barcodes x 7 features" and not found["rows"]


def test_images(tmp_path: Path, data_dir: Path) -> None:
    Image.new("RGB", (64, 48), "white").save(tmp_path / "a.png")
    found = told(tmp_path / "a.png")
    assert found["contents"][0] == "64 x 48 px; the file does not say its scale (um per pixel)" and found["missing"]
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    found = told(tmp_path / "a.png", exit_code=2)
    assert found["what"] == "an image file that cannot be used" and "it cannot be used: it" in found["missing"][0]
    result = CliRunner().invoke(app, ["inspect", str(data_dir / "wsi" / "CMU-1-Small-Region.svs")])
    assert "2,220 x 2,967 px at 0.499 um per px, by the file" in result.stdout and "warning" not in result.stderr


def test_a_cohort_sheet(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(SELECTION)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("section,donor,spots,image\na,P,a.tsv,\nb,Q,a.tsv,\n")
    found = told(sheet)
    assert found["contents"][0] == "2 sections of 2 donors, of the format st"
    assert "image for 2 sections, which embed needs" in found["missing"]
    sheet.write_text("section,donor,spots,image\na,,a.tsv,\nb,Q,none.tsv,\n")
    found = told(sheet, exit_code=2)
    assert found["what"] == "a cohort sheet that cannot be used yet" and len(found["missing"]) == 2


def test_what_histomix_itself_wrote(job: Job) -> None:
    kinds = [told(path)["what"] for path in (job.labels, job.features, job.head)]
    assert [kind.split(" by ")[0] for kind in kinds] == [
        "a folder of labels", "a folder of features", "a head that histomix trained"
    ]  # fmt: skip


def test_a_folder_of_nothing_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "b.h5").write_bytes(b"\x89HDF")
    found = told(tmp_path, exit_code=2)
    assert not found["contents"] and len(found["missing"]) == 2
    Image.new("RGB", (64, 48), "white").save(tmp_path / "c.png")
    assert told(tmp_path)["contents"] == ["c.png: an image of a slide"]


def test_a_map_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "composition.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="is damaged or no composition map"):
        inspect_data(tmp_path / "map")


def test_a_folder_of_sections(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_outs(tmp_path / "cohort").outs.parent.rename(tmp_path / "cohort" / name)
    (tmp_path / "cohort" / "broken.h5").write_bytes(b"\x89HDF")
    found = told(tmp_path / "cohort")
    assert [row["section"] for row in found["rows"]] == ["a", "b"]
    assert any("broken.h5 cannot be used" in line for line in found["missing"])
    assert found["sheet"].count("\n") == 3


@pytest.mark.parametrize(("name", "content"), [("none", None), ("a.txt", b"hello world"), ("b.bin", b"\0\1\2\xff")])
def test_what_is_of_no_known_kind(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        inspect_data(tmp_path / name)
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / name)])
    assert result.exit_code == 2 and name in result.stderr
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it holds: nothing"):
        inspect_data(tmp_path / "empty")


def test_for_a_person(tmp_path: Path) -> None:
    truth = make_outs(tmp_path, matrix="")
    text = CliRunner().invoke(app, ["inspect", str(truth.outs)]).stdout
    assert text.startswith(f"{truth.outs}: the Space Ranger output of one Visium section\n\nIn it:\n  - ")
    assert "Missing:" in text and "so it has no counts" in text
    assert text.rstrip().splitlines()[-2:] == [
        "section,donor,spots,image,format",
        f"sample,sample,{truth.outs},,visium",
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [("S1/outs", "S1"), ("S1/outs/spatial", "S1"), ("x/C3_selection.tsv", "C3"), ("x/a b.zarr", "a_b"),
     ("x/alignment_table_MOB1.tsv", "MOB1"), ("S3/spots.tsv", "S3"), ("x/spots_A1.csv", "A1"), ("x/spots", "spots"),
     ("CON/outs", safe_file_name("CON")), ("S2/outs/binned_outputs/square_008um", "S2")],
)  # fmt: skip
def test_names_of_sections(tmp_path: Path, path: str, name: str) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.mkdir() if "." not in place.name or place.suffix == ".zarr" else place.write_text("")
    assert section_name(place) == name


def test_real_folders(data_dir: Path) -> None:
    assert len(inspect_data(data_dir / "visium_layout").rows) == 2
    assert len(inspect_data(data_dir / "her2st" / "spots").rows) == 33
    found = inspect_data(data_dir / "st_mob" / "stutility")
    assert [row["image"].endswith(f"MOB{n}.jpg") for n, row in enumerate(found.rows, start=1)] == [True] * 4
