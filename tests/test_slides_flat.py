"""Flat images of every kind are read as they are, or refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from histomix.errors import SlideError
from histomix.slides import Slide, open_slide
from histomix.slides.readers import flat
from histomix.slides.readers import flat as array_reader

PATTERN = np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8)


def block_mean(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    return blocks.mean(axis=(1, 3))


def write_flat(path: Path, pixels: np.ndarray = PATTERN) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flat(tmp_path_factory.mktemp("slides") / "flat.png")


def test_alpha_lies_on_white(tmp_path: Path) -> None:
    pixels = np.dstack(
        [PATTERN[:600, :700], np.repeat([[0], [128], [255]], 200, axis=0) * np.ones((1, 700), int)]
    ).astype(np.uint8)
    expected = 255 - (255.0 - pixels[..., :3]) * pixels[..., 3:] / 255
    tiled, flat_png, flat_tiff = tmp_path / "tiled.tif", tmp_path / "flat.png", tmp_path / "flat.tif"
    tifffile.imwrite(tiled, pixels, tile=(256, 256), photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    tifffile.imwrite(flat_tiff, pixels, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    Image.fromarray(pixels).save(flat_png)
    for path, reader in ((tiled, "openslide"), (flat_png, "array"), (flat_tiff, "array")):
        slide = open_slide(path, mpp=0.5)
        assert slide.reader == reader
        # OpenSlide holds colours multiplied by alpha, in whole numbers.
        assert np.abs(slide.read(0, 0, 700, 600, 0.5) - expected).max() <= (2 if reader == "openslide" else 0.51)


class TestFlatFiles:
    def check(self, path: Path, expected: np.ndarray = PATTERN, mpp: float | None = 0.5) -> Slide:
        slide = open_slide(path, mpp)
        assert slide.reader == "array"
        np.testing.assert_array_equal(slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp), expected)
        return slide

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"compression": "zlib", "rowsperstrip": 50},
            {"compression": "lzw", "predictor": True},
            {"planarconfig": "separate"},
            {"bigtiff": True, "byteorder": ">"},
        ],
        ids=str,
    )
    def test_tiff(self, tmp_path: Path, options: dict[str, Any]) -> None:
        pixels = PATTERN.transpose(2, 0, 1) if "planarconfig" in options else PATTERN
        tifffile.imwrite(tmp_path / "flat.tif", pixels, photometric="rgb", **options)
        self.check(tmp_path / "flat.tif")

    def test_grey(self, tmp_path: Path) -> None:
        grey, expected = PATTERN[..., 0], np.repeat(PATTERN[..., :1], 3, axis=-1)
        self.check(write_flat(tmp_path / "grey.png", grey), expected)
        tifffile.imwrite(tmp_path / "black.tif", grey, photometric="minisblack")
        self.check(tmp_path / "black.tif", expected)
        tifffile.imwrite(tmp_path / "white.tif", 255 - grey, photometric="miniswhite")
        self.check(tmp_path / "white.tif", expected)

    def test_premultiplied_alpha(self, tmp_path: Path) -> None:
        pixels = np.zeros((40, 50, 4), np.uint8)
        pixels[:, 25:] = (60, 30, 0, 128)
        tifffile.imwrite(tmp_path / "alpha.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
        shown = open_slide(tmp_path / "alpha.tif", 0.5).read(0, 0, 50, 40, 0.5)
        assert (shown[:, :25] == 255).all() and (shown[:, 25:] == (187, 157, 127)).all()

    @pytest.mark.parametrize("tile", [None, (256, 256)])
    @pytest.mark.parametrize("planes", [True, False])
    def test_ome_tiff(self, tmp_path: Path, tile: tuple[int, int] | None, planes: bool) -> None:
        # OpenSlide would show the red plane of a tiled one as grey.
        path = tmp_path / "slide.ome.tif"
        meta = {
            "axes": "CYX" if planes else "YXS",
            "PhysicalSizeX": 250.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.25,
        }
        pixels = PATTERN.transpose(2, 0, 1) if planes else PATTERN
        tifffile.imwrite(path, pixels, photometric="minisblack" if planes else "rgb", tile=tile, metadata=meta)
        slide = open_slide(path)
        assert (slide.mpp, slide.mpp_source) == (0.25, "file")
        np.testing.assert_array_equal(slide.read(0, 0, 1300, 1100, 0.25), PATTERN)

    def test_orientation_is_ignored(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(PATTERN).save(tmp_path / "turned.png", exif=exif)
        self.check(tmp_path / "turned.png")

    def test_jpeg_dpi_is_no_scale(self, tmp_path: Path) -> None:
        Image.fromarray(PATTERN).save(tmp_path / "photo.jpg", dpi=(50_800, 50_800))
        with pytest.raises(SlideError, match=r"photo\.jpg: does not say its scale.*--mpp.*mpp column"):
            open_slide(tmp_path / "photo.jpg")
        assert open_slide(tmp_path / "photo.jpg", 0.7).mpp == 0.7

    def test_larger_than_pillow_allows(self, png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.check(png)

    def test_own_limit_is_stated(self, png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flat, "MAX_BYTES", 1_000_000)
        with pytest.raises(SlideError, match=r"1300 x 1100 px.*the limit is.*vips"):
            open_slide(png, 0.5)

    @pytest.mark.parametrize(
        ("pixels", "options", "what"),
        [
            (PATTERN.astype(np.uint16), {"photometric": "rgb"}, "16 bits"),
            (np.stack([PATTERN[..., 0]] * 5), {"photometric": "minisblack"}, "not one grey or RGB"),
            (np.dstack([PATTERN, PATTERN[..., 0]]), {"photometric": "separated"}, "SEPARATED"),
        ],
    )
    def test_other_pixels_are_refused(
        self, tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], what: str
    ) -> None:
        tifffile.imwrite(tmp_path / "odd.tif", pixels, **options)
        with pytest.raises(SlideError, match=what):
            open_slide(tmp_path / "odd.tif", 0.5)

    def test_other_pillow_pixels_are_refused(self, tmp_path: Path) -> None:
        Image.fromarray(PATTERN).convert("CMYK").save(tmp_path / "print.jpg")
        Image.fromarray(PATTERN[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
        for name in ("print.jpg", "deep.png"):
            with pytest.raises(SlideError, match="8-bit"):
                open_slide(tmp_path / name, 0.5)

    def test_coarser_copies_are_means(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(array_reader, "_BAND_PX", 128)
        reduced = array_reader._reduce(PATTERN)
        assert reduced.shape == (275, 325, 3)
        assert np.abs(reduced - block_mean(PATTERN, 4)).max() <= 0.51
