"""Nuclei counted in H&E: against the phantom's cells, and where there is nothing to see."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from histomix.datasets import make_phantom, phantom_truth
from histomix.errors import InputError, ScaleWarning, SlideError, SlideReadError
from histomix.slides import Slide, count_nuclei, find_nuclei, open_slide
from histomix.spots import read_cohort

pytestmark = pytest.mark.once


class Discs:
    """A reader of a white slide with dark blue discs of 6 um, 20 um apart; every other column of another radius."""

    name = "discs"
    downsamples = (1.0,)
    bounds_px = (0, 0)

    def __init__(
        self, size_px: tuple[int, int], mpp: float, broken: tuple[int, int] | None = None, other_um: float = 3.0
    ) -> None:
        self.size_px, self.mpp_xy, self.mpp, self.broken, self.other_um = size_px, (mpp, mpp), mpp, broken, other_um
        self.largest = 0

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        self.largest = max(self.largest, width * height)
        if self.broken and x < self.broken[1] and x + width > self.broken[0]:
            raise SlideReadError("the tile is damaged", where="discs")
        gap = 20 / self.mpp
        columns, rows = np.arange(x, x + width) + 0.5, np.arange(y, y + height) + 0.5
        off = [np.abs((place % gap) - gap / 2) for place in (columns, rows)]
        radius_um = np.where(columns // gap % 2 == 0, 3.0, self.other_um)
        inside = np.hypot(off[0][None, :], off[1][:, None]) * self.mpp <= radius_um
        on_slide = (rows < self.size_px[1])[:, None] & (columns < self.size_px[0]) & (rows > 0)[:, None] & (columns > 0)
        pixels = np.full((height, width, 3), 240, np.uint8)
        pixels[inside & on_slide] = (60, 40, 140)
        return pixels

    def close(self) -> None:
        pass


def discs(size_px: tuple[int, int] = (2400, 1600), mpp: float = 0.5, broken: tuple[int, int] | None = None) -> Slide:
    return Slide(Path("discs"), Discs(size_px, mpp, broken), mpp, "given")


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7, 1.0])
def test_every_disc_is_found_once_at_its_place(mpp: float) -> None:
    size_px = (round(1200 / mpp), round(800 / mpp))
    slide = discs(size_px, mpp)
    middle = np.array([size_px]) / 2
    found = find_nuclei(slide, middle, 1200)
    assert len(found.xy_px) == 60 * 40
    um = found.xy_px * mpp
    np.testing.assert_array_equal(np.unique(np.round(um / 10), axis=0), np.unique(um // 20 * 2 + 1, axis=0))
    assert len(np.unique(um // 20, axis=0)) == 60 * 40
    assert np.abs(um % 20 - 10).max() <= mpp


@pytest.mark.parametrize(("mpp", "speck_um"), [(0.5, 1.0), (0.7, 1.2), (1.0, 1.4)])
def test_specks_smaller_than_a_nucleus_are_none(mpp: float, speck_um: float) -> None:
    """What is small is so in um, whatever the scale; lymphocytes, cut off their middle, are not."""
    size_px = (round(300 / mpp), round(300 / mpp))
    for other_um, count in ((speck_um, 15 * 8), (1.8, 15 * 15)):
        slide = Slide(Path("discs"), Discs(size_px, mpp, other_um=other_um), mpp, "given")
        assert len(find_nuclei(slide, np.array([size_px]) / 2, 300).xy_px) == count


def test_circles_and_squares_of_one_search() -> None:
    slide = discs()
    positions = np.array([[800.0, 800.0], [1010.0, 620.0], [1024.0, 1024.0], [60.0, 1540.0]])
    found = find_nuclei(slide, positions, 120)
    x, y = np.meshgrid(np.arange(60) * 20 + 10.0, np.arange(40) * 20 + 10.0)
    um = positions * 0.5
    away = np.stack([x.ravel(), y.ravel()], axis=1)[None] - um[:, None]
    circles = (np.hypot(away[..., 0], away[..., 1]) <= 50.4).sum(axis=1)
    np.testing.assert_array_equal(found.in_circles(positions, 100.8), circles)
    squares = (np.abs(away).max(axis=2) <= 56.0).sum(axis=1)
    np.testing.assert_array_equal(found.in_squares(positions, 112.0), squares)
    np.testing.assert_array_equal(count_nuclei(slide, positions, 100.8), circles)


def test_what_was_not_searched_or_read_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    slide = discs((4000, 1000), broken=(1900, 1950))
    positions = np.array(
        [[300.0, 500.0], [1925.0, 500.0], [2500.0, 500.0], [3800.0, 500.0], [-5.0, 500.0], [300.0, 1001.0]]
    )
    counts = count_nuclei(slide, positions, 100)
    assert (counts[[0, 2, 3]] > 0).all()
    assert np.isnan(counts[[1, 4, 5]]).all()
    assert "cannot be read" in caplog.text
    found = find_nuclei(slide, positions[:1], 100)
    assert np.isnan(found.in_circles(positions[2:3], 100)).all()
    assert np.isnan(found.in_circles(positions[:1], 1000)).all()
    with pytest.raises(SlideReadError, match="damaged"):
        count_nuclei(discs(broken=(0, 9999)), positions[:1], 100)


def test_memory_does_not_grow_with_the_slide() -> None:
    reader = Discs((200_000, 150_000), 0.5)
    steps: list[tuple[int, int]] = []
    slide = Slide(Path("discs"), reader, 0.5, "given")
    count_nuclei(
        slide, [[100_000, 75_000], [199_000, 2_000]], 55, lambda task, done, total: steps.append((done, total))
    )
    assert reader.largest <= 1200**2
    assert steps[-1][0] == steps[-1][1] == len(steps) <= 8


def test_empty_glass_has_no_nuclei_and_no_spots_no_counts(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    noise = rng.normal(235, 4, size=(1200, 1200, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "glass.png")
    with open_slide(tmp_path / "glass.png", 0.5) as slide:
        assert count_nuclei(slide, [[600, 600]], 200).tolist() == [0.0]
        assert count_nuclei(slide, np.empty((0, 2)), 55).shape == (0,)


def test_coarse_slides() -> None:
    with pytest.warns(ScaleWarning, match="counts are too low"):
        count_nuclei(discs(mpp=1.2), [[500, 500]], 55)
    with pytest.raises(SlideError, match=r"nuclei cannot be seen above 1\.5"):
        count_nuclei(discs(mpp=1.6), [[500, 500]], 55)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_nuclei(discs(mpp=0.9), [[500, 500]], 55)


@pytest.mark.parametrize(
    ("xy", "size"),
    [
        ([[1.0, np.nan]], 55),
        ([[1.0, 2.0, 3.0]], 55),
        ([1.0, 2.0], 55),
        ([["a", "b"]], 55),
        ([[1, 2]], 0),
        ([[1, 2]], np.inf),
    ],
)
def test_bad_places_are_refused(xy: list[object], size: float) -> None:
    with pytest.raises(InputError):
        count_nuclei(discs(), xy, size)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, seed=11, donors=2, sections_per_donor=1, size_um=(1000, 1000), counts=False)
    return folder


def test_counts_follow_the_cells_of_the_phantom(phantom: Path) -> None:
    truth = phantom_truth(phantom)
    counted, true = [], []
    for section in read_cohort(phantom / "sheet.csv"):
        assert section.spot_diameter_um is not None
        with section.slide() as slide:
            counts = count_nuclei(slide, section.spots_px, section.spot_diameter_um)
        cells = truth[section.name].values.sum(axis=1).loc[section.keys].to_numpy()
        # Of a donor with pale nuclei up to a third are missed.
        assert np.corrcoef(counts, cells)[0, 1] > 0.87, section.name
        assert abs(counts.sum() / cells.sum() - 1) < 0.35, section.name
        counted.append(counts)
        true.append(cells)
    assert np.corrcoef(np.concatenate(counted), np.concatenate(true))[0, 1] > 0.88
    assert abs(np.concatenate(counted).sum() / np.concatenate(true).sum() - 1) < 0.3


def test_counts_do_not_depend_on_the_other_spots_asked_for(phantom: Path) -> None:
    section = read_cohort(phantom / "sheet.csv").section("P1S1")
    with section.slide() as slide:
        every = count_nuclei(slide, section.spots_px, 55.0)
        part = count_nuclei(slide, section.spots_px[:3], 55.0)
    np.testing.assert_array_equal(part, every[:3])


def test_the_edge_of_an_image_that_is_all_tissue_is_no_nucleus(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    tissue = rng.normal((190, 120, 190), 6, size=(300, 420, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(tissue).save(tmp_path / "tissue.png")
    with open_slide(tmp_path / "tissue.png", 0.5) as slide:
        assert count_nuclei(slide, [[210, 150]], 300).tolist() == [0.0]


def test_her2st(data_dir: Path, tmp_path: Path) -> None:
    root = data_dir / "her2st"
    (tmp_path / "sheet.csv").write_text(
        "section,donor,spots,counts,image,mpp\n"
        f"C2,C,{root}/spots/C2_selection.tsv,{root}/counts/C2.tsv.gz,{root}/images/C2.jpg,0.69\n"
    )
    section = read_cohort(tmp_path / "sheet.csv").section("C2")
    with section.slide() as slide:
        counts = count_nuclei(slide, section.spots_px, 100.0)
    assert not np.isnan(counts).any()
    assert 20 < np.median(counts) < 150
    total = np.asarray(section.adata.X.sum(axis=1)).ravel()
    assert np.corrcoef(counts, total)[0, 1] > 0.2
