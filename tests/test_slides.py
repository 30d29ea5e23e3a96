"""A slide reads what the file holds, at the scale that was asked for."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from threadpoolctl import threadpool_limits

from histomix.errors import ScaleWarning, SlideError
from histomix.progress import progress_bars
from histomix.slides import Slide, open_slide
from histomix.slides.resample import axis_taps

from .slide_files import PATTERN, block_mean, write_flat, write_pyramid


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tif", PATTERN)


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flat(tmp_path_factory.mktemp("slides") / "flat.png")


@pytest.fixture(params=["openslide", "array"])
def slide(request: pytest.FixtureRequest, pyramid: Path, png: Path) -> Slide:
    return open_slide(pyramid) if request.param == "openslide" else open_slide(png, mpp=0.5)


class TestRead:
    def test_facts(self, slide: Slide) -> None:
        assert (slide.width_px, slide.height_px) == (1300, 1100)
        assert slide.mpp == pytest.approx(0.5)
        assert slide.mpp_source == ("file" if slide.reader == "openslide" else "given")
        assert slide.bounds_px == (0, 0)
        assert slide.name == slide.path.stem

    @pytest.mark.parametrize("x_px", [100, 99.6, 100.4])
    def test_stored_scale_is_untouched(self, slide: Slide, x_px: float) -> None:
        pixels = slide.read(x_px, 37, 64, 48, slide.mpp)
        np.testing.assert_array_equal(pixels, PATTERN[37:85, 100:164])

    def test_nearly_the_stored_scale_is_untouched(self, slide: Slide) -> None:
        np.testing.assert_array_equal(slide.read(10, 20, 64, 64, slide.mpp * 1.001), PATTERN[20:84, 10:74])

    @pytest.mark.parametrize("factor", [2, 3])
    def test_block_means(self, slide: Slide, factor: int) -> None:
        pixels = slide.read(30, 60, 40, 50, slide.mpp * factor)
        expected = block_mean(PATTERN[60 : 60 + 50 * factor, 30 : 30 + 40 * factor], factor)
        assert np.abs(pixels - expected).max() <= 0.5 + 1e-3

    @pytest.mark.parametrize(("scale", "x_px", "y_px"), [(1.38, 200.3, 150.7), (2.7, 0, 11.25), (3.9, 17.5, 0)])
    def test_fractional_area_means(self, slide: Slide, scale: float, x_px: float, y_px: float) -> None:
        # Integrals of the pattern are linear between pixel corners, so interpolating them gives exact means.
        integral = np.pad(PATTERN.astype(float).cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
        width, height = 33, 21

        def at(values: np.ndarray, where: np.ndarray) -> np.ndarray:
            low = np.floor(where).astype(int)
            part = (where - low).reshape(-1, *[1] * (values.ndim - 1))
            return values[low] * (1 - part) + values[low + 1] * part

        rows = at(integral, y_px + scale * np.arange(height + 1))
        corners = at(rows.swapaxes(0, 1), x_px + scale * np.arange(width + 1)).swapaxes(0, 1)
        expected = np.diff(np.diff(corners, axis=0), axis=1) / scale**2
        pixels = slide.read(x_px, y_px, width, height, slide.mpp * scale)
        assert np.abs(pixels - expected).max() <= 0.5 + 1e-2

    def test_coarser_level_is_used_once_it_is_fine_enough(self, pyramid: Path) -> None:
        slide = open_slide(pyramid)
        stored = np.clip(np.rint(block_mean(PATTERN, 4)) - 5, 0, 255)
        np.testing.assert_array_equal(slide.read(40, 80, 60, 50, slide.mpp * 4), stored[20:70, 10:70])
        coarser = slide.read(0, 0, 30, 30, slide.mpp * 8)
        assert np.abs(coarser - block_mean(stored[:60, :60], 2)).max() <= 0.5 + 1e-3
        finer = slide.read(0, 0, 30, 30, slide.mpp * 3.9)
        assert finer.mean() > coarser.mean() + 3  # level 0, which is lighter

    def test_thumbnail(self, slide: Slide) -> None:
        pixels = slide.thumbnail(slide.mpp * 20)
        assert pixels.shape == (55, 65, 3)
        darker = 5.0 if slide.reader == "openslide" else 0.0
        assert np.abs(pixels + darker - block_mean(PATTERN, 20)).max() <= 1.01
        assert slide.thumbnail(99).shape == (6, 7, 3)

    def test_a_large_rectangle_is_the_sum_of_its_parts(self, slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = slide.read(-20.5, 3.3, 400, 380, slide.mpp * 1.7)
        monkeypatch.setattr("histomix.slides.slide._BLOCK_PX", 100)
        np.testing.assert_array_equal(slide.read(-20.5, 3.3, 400, 380, slide.mpp * 1.7), whole)

    def test_a_very_large_rectangle_is_read_side_by_side_and_told_of(
        self, slide: Slide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[tuple[str, int, int]] = []
        rectangle = (-20.5, 3.3, 400, 380, slide.mpp * 1.7)
        whole = slide.read(*rectangle)
        monkeypatch.setattr("histomix.slides.slide._BLOCK_PX", 100)
        monkeypatch.setattr("histomix.common.threads.cores", lambda: 2)
        with progress_bars(lambda *step: told.append(step)), threadpool_limits(2):
            monkeypatch.setattr("histomix.slides.slide._MANY_BLOCKS", 400)
            np.testing.assert_array_equal(slide.read(*rectangle), whole)
            assert told == []
            monkeypatch.setattr("histomix.slides.slide._MANY_BLOCKS", 4)
            np.testing.assert_array_equal(slide.read(*rectangle), whole)
        count = told[0][2]
        assert count > 100 and told == [("look over the slide (blocks)", done, count) for done in range(count + 1)]

    def test_white_outside(self, slide: Slide) -> None:
        pixels = slide.read(-10, -20, 1330, 1140, slide.mpp)
        np.testing.assert_array_equal(pixels[20:1120, 10:1310], PATTERN)
        pixels[20:1120, 10:1310] = 255
        assert (pixels == 255).all()
        assert (slide.read(5000, -9000, 30, 20, slide.mpp * 1.7) == 255).all()

    def test_upsampling_is_announced_once_per_scale(self, slide: Slide) -> None:
        assert slide.upsampling(0.25) == pytest.approx(2)
        assert slide.upsampling(2) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            slide.read(0, 0, 30, 30, slide.mpp / 1.04)
        with pytest.warns(ScaleWarning, match=r"0\.25 um/px.*0\.5 um/px.*2\.00 times"):
            pixels = slide.read(10, 10, 30, 30, 0.25)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            slide.read(90, 90, 30, 30, 0.25)
        with pytest.warns(ScaleWarning):
            slide.read(0, 0, 30, 30, 0.2)
        # Twice as fine: outputs lie a quarter of a pixel beside the centres of their two neighbours.
        row = PATTERN[10].astype(float)
        column = np.arange(1, 29)
        near, far = 10 + column // 2, 10 + column // 2 + np.where(column % 2, 1, -1)
        above = 0.75 * row[near] + 0.25 * row[far]
        row = PATTERN[11].astype(float)
        below = 0.75 * row[near] + 0.25 * row[far]
        assert np.abs(pixels[1, 1:29] - (0.75 * above + 0.25 * below)).max() <= 0.51

    @pytest.mark.parametrize(
        "request_", [(0, 0, 0, 5, 1), (0, 0, 5, 2.5, 1), (np.nan, 0, 5, 5, 1), (0, 0, 5, 5, 0), (0, 0, 5, 5, np.nan)]
    )
    def test_senseless_requests_are_refused(self, slide: Slide, request_: tuple[Any, ...]) -> None:
        with pytest.raises(SlideError, match="cannot"):
            slide.read(*request_)

    def test_closed(self, slide: Slide) -> None:
        with slide:
            slide.read(0, 0, 5, 5, 0.5)
        with pytest.raises(SlideError, match="closed"):
            slide.read(0, 0, 5, 5, 0.5)

    def test_threads_read_the_same(self, slide: Slide) -> None:
        found: dict[int, bool] = {}

        def work(number: int) -> None:
            x, y = 37 * number, 29 * number
            found[number] = all(
                (slide.read(x, y, 90, 80, 0.5) == PATTERN[y : y + 80, x : x + 90]).all() for _ in range(5)
            )

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == dict.fromkeys(range(8), True)


def test_taps_agree_where_the_two_kinds_meet() -> None:
    mean, linear = axis_taps(3.3, 1.0, 5), axis_taps(3.3, 1 - 1e-9, 5)
    np.testing.assert_array_equal(mean.index, linear.index)
    np.testing.assert_allclose(mean.weight, linear.weight, atol=1e-6)


class TestScale:
    @pytest.mark.parametrize("mpp", [0, -0.5, float("nan"), float("inf"), 101])
    def test_absurd_scale_is_refused(self, pyramid: Path, png: Path, mpp: float) -> None:
        for path in (pyramid, png):
            with pytest.raises(SlideError, match="no scale"):
                open_slide(path, mpp)

    def test_given_scale_wins_and_a_difference_is_logged(self, pyramid: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="histomix"):
            assert open_slide(pyramid, 0.51).mpp == 0.51
            assert not caplog.records
            slide = open_slide(pyramid, 0.25)
        assert (slide.mpp, slide.mpp_source) == (0.25, "given")
        assert "0.25" in caplog.text and "0.5" in caplog.text and "pyramid.tif" in caplog.text

    def test_scale_of_print_is_not_believed(self, tmp_path: Path) -> None:
        with pytest.raises(SlideError, match="does not say its scale"):
            open_slide(write_pyramid(tmp_path / "print.tif", PATTERN, mpp=25_400 / 300))

    def test_pixels_that_are_not_square_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "wide.tif"
        tifffile.imwrite(path, PATTERN, tile=(256, 256), resolution=(20_000, 10_000), resolutionunit="CENTIMETER")
        with pytest.raises(SlideError, match=r"not square.*--mpp"):
            open_slide(path)
        assert open_slide(path, 0.5).mpp == 0.5


class TestRealSlides:
    def test_aperio(self, data_dir: Path) -> None:
        path = data_dir / "wsi" / "CMU-1-Small-Region.svs"
        slide = open_slide(path)
        assert (slide.width_px, slide.height_px, slide.mpp, slide.reader) == (2220, 2967, 0.499, "openslide")
        pixels = tifffile.imread(path, key=0)
        # Two JPEG decoders may round differently.
        assert np.abs(slide.read(1000, 1500, 224, 224, 0.499).astype(int) - pixels[1500:1724, 1000:1224]).mean() < 1
        means = block_mean(pixels[1000:1400, 800:1200], 2)
        assert np.abs(slide.read(800, 1000, 200, 200, 0.998) - means).mean() < 1

    def test_flat_photograph(self, data_dir: Path) -> None:
        path = data_dir / "he_images" / "TCGA-A1-A0SB-DX1_level2.jpg"
        slide = open_slide(path, 4.0)
        thumbnail = slide.thumbnail(40.0)
        with Image.open(path) as image:
            expected = np.asarray(image.reduce(10))
        assert thumbnail.shape == (518, 702, 3)
        assert np.abs(thumbnail[:518, :701].astype(int) - expected[:518, :701]).mean() < 1
