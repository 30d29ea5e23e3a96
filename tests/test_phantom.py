"""The phantom cohort: determinism, truth that can be recounted, and files other rooms can read."""

from __future__ import annotations

import errno
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile

from histomix.datasets import PHANTOM_CELL_TYPES, make_phantom, phantom_truth
from histomix.datasets.phantom import make as phantom
from histomix.datasets.phantom.counts import draw_counts, make_signatures, spot_lattice
from histomix.errors import InputError, StorageError
from histomix.provenance import digest_file

SIZE_UM = (700.0, 600.0)
MPP = 1.0


def make(folder: Path, **changes: object) -> Path:
    options: dict[str, object] = {"donors": 2, "sections_per_donor": 1, "size_um": SIZE_UM, "mpp": MPP, "genes": 400}
    return make_phantom(folder, **{**options, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("phantom") / "cohort").parent


def digests(folder: Path) -> dict[str, str]:
    parts = ("sheet.csv", "reference.csv", "images/*", "truth/*")
    return {path.name: digest_file(path) for part in parts for path in sorted(folder.glob(part))}


def test_same_seed_same_bytes_whatever_the_workers(cohort: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again", workers=1).parent
    assert len(digests(cohort)) == 8
    assert digests(again) == digests(cohort)
    for name in ("P1S1", "P2S1"):
        first, second = (ad.read_h5ad(folder / "spots" / f"{name}.h5ad") for folder in (cohort, again))
        assert (first.X != second.X).nnz == 0
        pd.testing.assert_frame_equal(first.obs, second.obs)


def test_another_seed_is_another_phantom(cohort: Path, tmp_path: Path) -> None:
    other = digests(make(tmp_path / "other", seed=1).parent)
    same = [name for name, digest in digests(cohort).items() if other[name] == digest]
    assert same == ["sheet.csv"]


def test_truth_can_be_recounted_from_the_cells(cohort: Path) -> None:
    truth = phantom_truth(cohort)
    assert list(truth) == ["P1S1", "P2S1"]
    for name, abundance in truth.items():
        assert abundance.unit == "cells per spot"
        assert tuple(abundance.values.columns) == PHANTOM_CELL_TYPES
        cells = pd.read_csv(cohort / "truth" / f"{name}.cells.csv.gz")
        spots = ad.read_h5ad(cohort / "spots" / f"{name}.h5ad")
        assert list(spots.obs_names) == list(abundance.values.index)
        x, y = spots.obsm["spatial"].T
        distance = np.hypot(
            cells["x_px"].to_numpy()[None, :] - x[:, None], cells["y_px"].to_numpy()[None, :] - y[:, None]
        )
        inside = distance * MPP <= 27.5
        recount = np.stack([inside[:, cells["type"] == kind].sum(axis=1) for kind in PHANTOM_CELL_TYPES], axis=1)
        np.testing.assert_array_equal(recount, abundance.values.to_numpy())
        assert recount.sum() > 5 * len(x)


def test_spots_lie_on_a_hexagonal_lattice_of_100_um(cohort: Path) -> None:
    spots = ad.read_h5ad(cohort / "spots" / "P1S1.h5ad")
    x, y = spots.obsm["spatial"].T * MPP
    distance = np.hypot(x[:, None] - x[None, :], y[:, None] - y[None, :])
    np.fill_diagonal(distance, np.inf)
    assert distance.min() == pytest.approx(100.0)
    assert np.median(np.isclose(distance, 100.0).sum(axis=1)) >= 4
    row, column = spots.obs["array_row"].to_numpy(), spots.obs["array_col"].to_numpy()
    assert ((row + column) % 2 == 0).all()
    np.testing.assert_allclose(np.diff(x) - 50.0 * np.diff(column), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.diff(y) - 100.0 * np.sqrt(0.75) * np.diff(row), 0.0, atol=1e-9)
    assert (x > 0).all() and (x < SIZE_UM[0]).all() and (y > 0).all() and (y < SIZE_UM[1]).all()


def test_sheet_names_files_that_are_there(cohort: Path) -> None:
    sheet = pd.read_csv(cohort / "sheet.csv")
    assert list(sheet["section"]) == ["P1S1", "P2S1"]
    assert list(sheet["donor"]) == ["P1", "P2"]
    assert (sheet["mpp"] == MPP).all() and (sheet["spot_pitch_um"] == 100).all()
    assert (sheet["spot_diameter_um"] == 55).all()
    assert all((cohort / path).is_file() for path in [*sheet["spots"], *sheet["image"]])


def test_images_look_like_stained_tissue_on_glass(cohort: Path) -> None:
    for name in ("P1S1", "P2S1"):
        with tifffile.TiffFile(cohort / "images" / f"{name}.tif") as tiff:
            picture = tiff.pages[0].asarray()
            assert len(tiff.pages) == 3
        assert picture.shape == (600, 700, 3) and picture.dtype == np.uint8
        corner = picture[:20, :20].reshape(-1, 3).mean(axis=0)
        assert (corner > 225).all()
        stained = picture.min(axis=2) < 215
        assert 0.3 < stained.mean() < 0.9
        red, green, blue = picture[stained].reshape(-1, 3).mean(axis=0)
        assert green < red and green < blue  # purple and pink


def test_nuclei_are_where_the_cells_are(cohort: Path) -> None:
    picture = tifffile.imread(cohort / "images" / "P1S1.tif").astype(float)
    cells = pd.read_csv(cohort / "truth" / "P1S1.cells.csv.gz")
    cells = cells[cells["type"] != "Adipocytes"]  # their nucleus is at the rim
    inside = cells[cells["x_px"].between(2, 697) & cells["y_px"].between(2, 597)]
    rows, columns = inside["y_px"].astype(int).to_numpy(), inside["x_px"].astype(int).to_numpy()
    at_cells = picture[rows, columns, 0].mean()
    tissue = picture.min(axis=2) < 215
    assert at_cells < picture[tissue][:, 0].mean() - 25


def test_openslide_reads_the_image_and_its_scale(cohort: Path) -> None:
    import openslide

    with openslide.OpenSlide(cohort / "images" / "P1S1.tif") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP)
        region = np.asarray(slide.read_region((200, 150), 0, (300, 300)).convert("RGB")).astype(int)
    picture = tifffile.imread(cohort / "images" / "P1S1.tif").astype(int)[150:450, 200:500]
    assert np.abs(region - picture).mean() < 2


def test_counts_are_integers_and_overdispersed(cohort: Path) -> None:
    spots = ad.read_h5ad(cohort / "spots" / "P1S1.h5ad")
    reference = pd.read_csv(cohort / "reference.csv", index_col=0)
    assert list(reference.columns) == list(PHANTOM_CELL_TYPES)
    assert list(reference.index) == list(spots.var_names)
    assert spots.X.dtype == np.int32 and spots.X.min() >= 0
    assert 500 < np.median(np.asarray(spots.X.sum(axis=1))) < 20_000


def test_counts_of_identical_spots_vary_more_than_poisson() -> None:
    # The same spot 400 times: at a fixed depth only the gamma of each gene widens the Poisson.
    from histomix.datasets.phantom.cells import Cells

    spots = pd.concat([spot_lattice((400.0, 400.0)).iloc[[0]]] * 400)
    x, y = spots["x_um"].iloc[0], spots["y_um"].iloc[0]
    n = 12
    positions, nothing = (np.full(n, x), np.full(n, y)), np.zeros(n)
    cells = Cells(*positions, np.arange(n) % 8, nothing, nothing.astype(int), *positions)
    rng = np.random.default_rng(0)
    counts = draw_counts(rng, 0, 0, make_signatures(0, 400), spots, cells).toarray().astype(float)
    scaled = counts / counts.sum(axis=1, keepdims=True) * counts.sum(axis=1).mean()
    high = scaled.mean(axis=0) > 10
    assert high.sum() > 50
    assert np.median(scaled[:, high].var(axis=0) / scaled[:, high].mean(axis=0)) > 2.5


def test_reference_recovers_the_truth_but_not_perfectly(tmp_path: Path) -> None:
    from scipy.optimize import nnls

    folder = make(tmp_path / "cohort", donors=1, size_um=(1000.0, 1000.0), mpp=2.0, genes=600).parent
    spots = ad.read_h5ad(folder / "spots" / "P1S1.h5ad")
    reference = pd.read_csv(folder / "reference.csv", index_col=0).to_numpy()
    weights = np.array([nnls(reference, counts)[0] for counts in spots.X.toarray().astype(float)])
    truth = phantom_truth(folder)["P1S1"].values.to_numpy()
    some = truth.sum(axis=1) > 2
    found = weights[some] / weights[some].sum(axis=1, keepdims=True)
    true = truth[some] / truth[some].sum(axis=1, keepdims=True)
    assert 0.75 < np.corrcoef(found[:, 0], true[:, 0])[0, 1] < 0.995
    assert 0.3 < np.corrcoef(found[:, 3], true[:, 3])[0, 1] < 0.98


def test_without_counts_there_are_spots_and_truth_and_no_genes(cohort: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "cohort", donors=1, counts=False).parent
    assert not (folder / "reference.csv").exists()
    spots = ad.read_h5ad(folder / "spots" / "P1S1.h5ad")
    assert spots.shape[1] == 0 and spots.shape[0] > 10
    assert digest_file(folder / "truth" / "P1S1.csv") == digest_file(cohort / "truth" / "P1S1.csv")


def test_a_phantom_that_is_there_is_kept(cohort: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cohort.rglob("*")}
    assert make(cohort) == cohort / "sheet.csv"
    assert {path: path.stat().st_mtime_ns for path in cohort.rglob("*")} == before


def test_a_folder_with_something_else_is_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another phantom"):
        make(cohort, seed=5)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="in use"):
        make(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="no such file"):
        phantom_truth(tmp_path)


def test_a_damaged_phantom_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "cohort", donors=1, counts=False).parent
    (folder / "images" / "P1S1.tif").write_bytes(b"")
    with pytest.raises(InputError, match=r"images/P1S1\.tif"):
        make(folder, donors=1, counts=False)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(phantom, "_write_image", full)
    with pytest.raises(StorageError, match="disk is full"):
        make(tmp_path / "cohort", counts=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"donors": 0},
        {"sections_per_donor": 0},
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"genes": 10},
        {"size_um": (100.0, 600.0)},
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        make(tmp_path / "cohort", **changes)
    assert not (tmp_path / "cohort").exists()
