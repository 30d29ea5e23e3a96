"""Damage that decoders fill up, and headers that cannot be true: an error, never pixels."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image

from histomix.errors import SlideError, SlideReadError
from histomix.prediction.inputs.sources import find_slides
from histomix.slides import open_slide
from histomix.slides.files import slide_files
from histomix.slides.readers import flat
from histomix.slides.readers.jpeg import decode_jpeg, says_rgb
from histomix.spots import inspect_data

from .slide_files import write_pyramid
from .torture.families.dicom import write as write_dicom

SMOOTH = np.kron(
    np.random.default_rng(1).integers(60, 200, (35, 41, 3), dtype=np.uint8), np.ones((32, 32, 1), np.uint8)
)
HEIGHT, WIDTH = SMOOTH.shape[:2]


def zero(start: float, stop: float) -> Callable[[bytes], bytes]:
    """Zeros in the place of a part of a stream; its header and end mark stay."""
    return lambda data: (
        data[: int(len(data) * start)]
        + bytes(int(len(data) * stop) - int(len(data) * start))
        + data[int(len(data) * stop) :]
    )


def damage_tile(path: Path, number: int, change: Callable[[bytes], bytes], level: int = 0) -> None:
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[level]
        offset, count = page.dataoffsets[number], page.databytecounts[number]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = change(bytes(data[offset : offset + count]))
    path.write_bytes(data)


def overwrite(path: Path, changes: dict[str, Any], level: int = 0) -> None:
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name, value in changes.items():
            tif.pages[level].tags[name].overwrite(value)


class TestJpeg:
    @pytest.mark.parametrize("part", [(0.4, 0.9), (0.6, 0.99), (0.7, 0.8)])
    @pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
    def test_a_tile_with_a_hole_is_unreadable_and_the_others_are_not(
        self, tmp_path: Path, photometric: str, part: tuple[float, float]
    ) -> None:
        path = write_pyramid(
            tmp_path / "a.tif", SMOOTH, compression="jpeg", compressionargs={"outcolorspace": photometric}
        )
        with open_slide(path) as slide:
            whole = slide.read(256, 0, 256, 256, 0.5)
        damage_tile(path, 0, zero(*part))
        with open_slide(path) as slide:
            assert slide.reader == "openslide"
            with pytest.raises(SlideReadError, match="cannot be decoded"):
                slide.read(0, 0, 256, 256, 0.5)
            np.testing.assert_array_equal(slide.read(256, 0, 256, 256, 0.5), whole)

    @pytest.mark.parametrize("part", [(0.4, 0.9), (0.6, 0.99), (0.7, 0.8)])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_flat_image_with_a_hole_is_unreadable(
        self, tmp_path: Path, progressive: bool, part: tuple[float, float]
    ) -> None:
        whole, broken = tmp_path / "whole.jpg", tmp_path / "broken.jpg"
        Image.fromarray(SMOOTH).save(whole, quality=90, progressive=progressive)
        broken.write_bytes(zero(*part)(whole.read_bytes()))
        with open_slide(whole, 0.5) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT, 0.5), np.asarray(Image.open(whole)))
        with pytest.raises(SlideError, match=r"broken\.jpg.*cannot be decoded"):
            open_slide(broken, 0.5).read(0, 0, WIDTH, HEIGHT, 0.5)

    def test_every_layout_of_samples_decodes_as_elsewhere(self, tmp_path: Path) -> None:
        for photometric, subsampling in (("rgb", (1, 1)), ("ycbcr", (2, 2)), ("ycbcr", (1, 1)), ("minisblack", (1, 1))):
            path = tmp_path / f"{photometric}{subsampling[0]}.tif"
            pixels = SMOOTH[..., 0] if photometric == "minisblack" else SMOOTH
            options = {} if photometric == "minisblack" else {"subsampling": subsampling}
            tifffile.imwrite(path, pixels, tile=(256, 256), photometric=photometric, compression="jpeg", **options)
            expected = tifffile.imread(path)
            expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
            with open_slide(path, 0.5) as slide:
                np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT, 0.5), expected)

    def test_the_markers_say_the_colours(self, tmp_path: Path) -> None:
        Image.fromarray(SMOOTH).save(tmp_path / "jfif.jpg")
        data = (tmp_path / "jfif.jpg").read_bytes()
        assert says_rgb(data) is False
        assert says_rgb(b"\xff\xd8" + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + data[20:]) is True
        Image.fromarray(SMOOTH[..., 0]).save(tmp_path / "grey.jpg")
        assert says_rgb((tmp_path / "grey.jpg").read_bytes()) is None
        for wrong in (b"", b"\xff\xd8", b"GIF89a", data[:200]):
            with pytest.raises(ValueError):
                decode_jpeg(wrong)


class TestEmptyTiles:
    """A tile without data is white only where the next level is."""

    @staticmethod
    def image() -> np.ndarray:
        pixels = np.full((1024, 1024, 3), 245, np.uint8)
        pixels[:512] = SMOOTH[:512, :1024]
        return pixels

    @pytest.mark.parametrize("codec", ["jpeg", "zlib"])
    @pytest.mark.parametrize("sub", [False, True])
    def test_glass_is_white_and_tissue_unreadable(self, tmp_path: Path, codec: str, sub: bool) -> None:
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as tif:
            for number, factor in enumerate((1, 4)):
                tif.write(
                    self.image()[::factor, ::factor],
                    tile=(256, 256),
                    photometric="rgb",
                    compression=codec,
                    subfiletype=number,
                    metadata=None,
                    subifds=int(sub) if not number else None,
                )
        with tifffile.TiffFile(path, mode="r+") as tif:
            tag = tif.pages.first.tags["TileByteCounts"]
            counts = list(tag.value)
            counts[0] = counts[-1] = 0
            tag.overwrite(counts)
        with open_slide(path, 0.5) as slide:
            assert slide.reader == ("tifffile" if sub or codec == "zlib" else "openslide")
            with pytest.raises(SlideReadError, match=r"x=0, y=0 .*holds no data"):
                slide.read(0, 0, 256, 256, 0.5)
            assert (slide.read(768, 768, 256, 256, 0.5) == 255).all()

    def test_without_a_coarser_level_nothing_tells(self, tmp_path: Path) -> None:
        path = write_pyramid(tmp_path / "a.tif", self.image(), factors=(), compression="jpeg")
        with tifffile.TiffFile(path, mode="r+") as tif:
            tag = tif.pages.first.tags["TileByteCounts"]
            tag.overwrite([*tag.value[:-1], 0])
        with open_slide(path) as slide, pytest.raises(SlideReadError, match="no coarser level"):
            slide.read(768, 768, 256, 256, 0.5)


class TestHeaders:
    @pytest.mark.parametrize("codec", ["jpeg", "zlib", None])
    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"ImageWidth": WIDTH * 10}, "by its header"),
            ({"ImageLength": HEIGHT // 2}, "by its header"),
            ({"TileWidth": 128}, "by its header"),
            ({"PlanarConfiguration": 0}, "damaged|cannot be"),
        ],
    )
    def test_contradictions_are_refused(
        self, tmp_path: Path, codec: str | None, changes: dict[str, Any], what: str
    ) -> None:
        path = write_pyramid(tmp_path / "a.tif", SMOOTH, compression=codec)
        overwrite(path, changes)
        with pytest.raises(SlideError, match=what):
            open_slide(path).read(0, 0, 256, 256, 0.5)

    def test_strips_too(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, SMOOTH, photometric="rgb", rowsperstrip=64, compression="zlib")
        overwrite(path, {"ImageLength": HEIGHT // 2})
        with pytest.raises(SlideError, match="by its header"):
            open_slide(path, 0.5)

    @pytest.mark.parametrize("tile", [(256, 256), None])
    @pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.float32])
    def test_other_samples_are_refused(self, tmp_path: Path, dtype: type, tile: tuple[int, int] | None) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, SMOOTH.astype(dtype), photometric="rgb", tile=tile, metadata=None)
        with pytest.raises(SlideError, match="8-bit"):
            open_slide(path, 0.5)

    @pytest.mark.parametrize("orientation", [2, 3, 6])
    @pytest.mark.parametrize("codec", ["jpeg", "zlib"])
    def test_an_orientation_is_not_followed_tile_by_tile(self, tmp_path: Path, orientation: int, codec: str) -> None:
        path = tmp_path / "a.tif"
        tags = [("Orientation", "H", 1, orientation, False)]
        tifffile.imwrite(
            path, SMOOTH, photometric="rgb", tile=(256, 256), metadata=None, extratags=tags, compression=codec
        )
        expected = tifffile.imread(path)
        with open_slide(path, 0.5) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT, 0.5), expected)

    def test_the_largest_image_is_the_slide(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as tif:
            tif.write(SMOOTH[:200, :100], photometric="rgb", tile=(64, 64), metadata=None, compression="zlib")
            tif.write(SMOOTH, photometric="rgb", tile=(256, 256), metadata=None, compression="zlib")
        with open_slide(path, 0.5) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT, 0.5), SMOOTH)
        assert "100 x 200" in caplog.text
        assert f"{WIDTH} x {HEIGHT}" in caplog.text

    @pytest.mark.parametrize("levels", [1, 2])
    @pytest.mark.parametrize("codec", ["jpeg2000", "webp", "jpegxl", "zstd"])
    def test_codecs_that_openslide_lacks(self, tmp_path: Path, codec: str, levels: int) -> None:
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as tif:
            for number in range(levels):
                tif.write(
                    SMOOTH[:: 2**number, :: 2**number],
                    photometric="rgb",
                    tile=(256, 256),
                    compression=codec,
                    metadata=None,
                    subfiletype=int(number > 0),
                    resolution=(20000 / 2**number,) * 2,
                    resolutionunit="CENTIMETER",
                )
        with open_slide(path) as slide:
            assert slide.mpp == pytest.approx(0.5)
            np.testing.assert_array_equal(slide.read(0, 0, WIDTH, HEIGHT, 0.5), tifffile.imread(path))
            if levels == 2:
                assert slide.read(0, 0, 200, 200, 1.0).shape == (200, 200, 3)


class TestScale:
    @pytest.mark.parametrize("tile", [(256, 256), None])
    def test_resolution_tags_are_read_from_tiles_and_strips(self, tmp_path: Path, tile: tuple[int, int] | None) -> None:
        options: dict[str, Any] = {"photometric": "rgb", "tile": tile, "metadata": None}
        tifffile.imwrite(tmp_path / "a.tif", SMOOTH, resolution=(40000, 40000), resolutionunit="CENTIMETER", **options)
        tifffile.imwrite(tmp_path / "b.tif", SMOOTH, resolution=(300, 300), resolutionunit="INCH", **options)
        with open_slide(tmp_path / "a.tif") as slide:
            assert slide.mpp == pytest.approx(0.25)
        with pytest.raises(SlideError, match="does not say its scale"):  # 300 dpi is print
            open_slide(tmp_path / "b.tif")

    def test_imagej_says_its_unit(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, SMOOTH[None, None], imagej=True, resolution=(2.0, 2.0), metadata={"unit": "um"})
        with open_slide(path) as slide:
            assert slide.mpp == pytest.approx(0.5)

    def test_a_magnification_is_a_hint_not_a_scale(self, tmp_path: Path) -> None:
        path = write_pyramid(tmp_path / "a.svs", SMOOTH, mpp=None, compression="jpeg")
        with tifffile.TiffWriter(path) as tif:
            tif.write(
                SMOOTH,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                metadata=None,
                description="Aperio Image Library v1\r\nx|AppMag = 20",
            )
        with pytest.raises(SlideError, match=r"objective of 20x.* 0\.5"):
            open_slide(path)


def test_memory_is_asked_for_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")
    monkeypatch.setattr(flat, "available_memory", lambda: 1_000_000)
    with pytest.raises(SlideError, match=r"takes .* GiB .*are free.*vips"):
        open_slide(tmp_path / "a.png", 0.5)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".bmp", "BMP"), (".webp", "WEBP"), (".gif", "GIF"), (".jp2", "JPEG2000")]
)
def test_other_images_are_called_by_their_name(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(SMOOTH).save(path)
    with pytest.raises(SlideError, match=f"is a {kind} image.*Convert"):
        open_slide(path, 0.5)
    assert not inspect_data(path).usable


class TestDicom:
    @staticmethod
    def write(source: Path, target: Path, uid: str | None = None, **tags: str) -> Path:
        data = pydicom.dcmread(source)
        if uid is not None:
            data.SeriesInstanceUID = uid
            data.SOPInstanceUID = f"{uid}.1"
            data.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1"
        for name, value in tags.items():
            setattr(data, name, value)
        data.save_as(target)
        return target

    @staticmethod
    def names(paths: Sequence[Path]) -> list[str]:
        return [path.name for path in paths]

    def test_a_folder_holds_as_many_slides_as_series(self, data_dir: Path, tmp_path: Path) -> None:
        source = data_dir / "wsi" / "camelyon_jpeg.dcm"
        self.write(source, tmp_path / "a.dcm", "1.2.3")
        assert find_slides(tmp_path) == [tmp_path]
        self.write(source, tmp_path / "b.dcm", "1.2.4")
        assert self.names(find_slides(tmp_path)) == ["a.dcm", "b.dcm"]
        assert self.names(slide_files(tmp_path / "a.dcm")) == ["a.dcm"]
        with pytest.raises(SlideError, match="holds 2 slides"):
            open_slide(tmp_path)
        write_pyramid(tmp_path / "c.tif", SMOOTH)
        assert self.names(find_slides(tmp_path)) == ["a.dcm", "b.dcm", "c.tif"]
        (tmp_path / "b.dcm").unlink()
        assert self.names(find_slides(tmp_path)) == ["a.dcm", "c.tif"]

    @pytest.mark.parametrize(("placed", "right"), [(None, False), (3, False), (28, True)])
    def test_tiles_without_a_place_are_no_glass(self, tmp_path: Path, placed: int | None, right: bool) -> None:
        """OpenSlide ends the process on the first, and shows glass for the second."""
        pixels = np.random.default_rng(0).integers(0, 256, (224, 448, 3), dtype=np.uint8)
        path = tmp_path / "a.dcm"
        write_dicom(path, pixels)
        data = pydicom.dcmread(path)
        data.DimensionOrganizationType = "TILED_SPARSE"
        groups = []
        for number in range(placed or 0):
            group, place = pydicom.Dataset(), pydicom.Dataset()
            place.ColumnPositionInTotalImagePixelMatrix = 64 * (number % 7) + 1
            place.RowPositionInTotalImagePixelMatrix = 64 * (number // 7) + 1
            group.PlanePositionSlideSequence = [place]
            groups.append(group)
        if placed is not None:
            data.PerFrameFunctionalGroupsSequence = groups
        data.save_as(path)
        if right:
            with open_slide(path) as slide:
                assert slide.read(0, 0, 448, 224, 0.5).std() > 20
            return
        with pytest.raises(SlideError, match=r"where [03] of its 28 tiles are"):
            open_slide(path)

    def test_frames_are_believed_against_the_header(
        self, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = data_dir / "wsi" / "camelyon_jpeg.dcm"
        if "YBR" not in pydicom.dcmread(source, stop_before_pixels=True).PhotometricInterpretation:
            pytest.skip("the file's frames are no YCbCr")
        shutil.copy(source, tmp_path / "right.dcm")
        (tmp_path / "x").mkdir()
        wrong = self.write(source, tmp_path / "x" / "wrong.dcm", PhotometricInterpretation="RGB")
        with open_slide(tmp_path / "right.dcm") as slide:
            expected = slide.thumbnail(slide.mpp * 4).astype(int)
        assert not caplog.text
        with open_slide(wrong) as slide:
            difference = np.abs(slide.thumbnail(slide.mpp * 4).astype(int) - expected)
        assert difference.mean() < 1  # chroma is smoothed before the colours are made, or after
        assert "the frames are believed" in caplog.text


@pytest.mark.parametrize("codec", ["jpeg", "jpegxl", "jpeg2000", "zlib", "zstd", "lzw", "packbits", "png"])
@pytest.mark.parametrize("tile", [(256, 256), None])
@pytest.mark.parametrize("kind", ["zeros", "noise", "cut"])
def test_no_codec_fills_up_what_is_lost(tmp_path: Path, codec: str, tile: tuple[int, int] | None, kind: str) -> None:
    path = tmp_path / "a.tif"
    rng = np.random.default_rng(0)
    noisy = np.clip(SMOOTH.astype(int) + rng.integers(-9, 9, SMOOTH.shape), 0, 255).astype(np.uint8)
    strips = {} if tile else {"rowsperstrip": 64}
    tifffile.imwrite(path, noisy, photometric="rgb", tile=tile, compression=codec, metadata=None, **strips)

    def damage(data: bytes) -> bytes:
        first, last = len(data) // 3, len(data) * 2 // 3
        if kind == "cut":
            return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        lost = bytes(last - first) if kind == "zeros" else rng.integers(0, 256, last - first, dtype=np.uint8).tobytes()
        return data[:first] + lost + data[last:]

    damage_tile(path, 3, damage)
    with pytest.raises(SlideError, match="cannot be"):
        open_slide(path, 0.5).read(0, 0, WIDTH, HEIGHT, 0.5)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("codec", ["jpeg2000", "webp"])
@pytest.mark.parametrize("part", [(0.0, 1.0), (0.0, 0.1), (0.3, 0.7), (0.5, 1.0), (0.9, 1.0)])
def test_streams_whose_libraries_fill_up_are_looked_at(
    tmp_path: Path, codec: str, lossless: bool, part: tuple[float, float]
) -> None:
    path = tmp_path / "a.tif"
    rng = np.random.default_rng(0)
    noisy = np.clip(SMOOTH.astype(int) + rng.integers(-9, 9, SMOOTH.shape), 0, 255).astype(np.uint8)
    arguments = {} if lossless and codec == "jpeg2000" else {"lossless": lossless} if codec == "webp" else {"level": 60}
    write_pyramid(path, noisy, compression=codec, compressionargs=arguments)
    with open_slide(path, 0.5) as slide:
        whole = slide.read(0, 0, WIDTH, HEIGHT, 0.5)
    damage_tile(path, 1, zero(*part))
    with open_slide(path, 0.5) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 256, 256, 0.5), whole[:256, :256])
        with pytest.raises(SlideReadError, match="cannot be decoded"):
            slide.read(256, 0, 256, 256, 0.5)


@pytest.mark.parametrize("codec", ["jpeg2000", "webp"])
@pytest.mark.parametrize("value", [0, 255])
def test_plain_glass_has_no_hole(tmp_path: Path, codec: str, value: int) -> None:
    path = tmp_path / "a.tif"
    pixels = np.full((1024, 1024, 3), value, np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(1024, 1024), compression=codec, metadata=None)
    with open_slide(path, 0.5) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 1024, 1024, 0.5), pixels)


def test_a_label_that_is_larger_than_every_level_is_the_level_that_is_missing(tmp_path: Path) -> None:
    pixels = np.full((128, 256, 3), 200, np.uint8)
    write_dicom(tmp_path / "a.dcm", pixels)
    write_dicom(tmp_path / "b.dcm", pixels[::4, ::4], instance=2, mpp=2.0)
    for path in (tmp_path / "a.dcm", tmp_path / "b.dcm", tmp_path):
        with open_slide(path) as slide:
            assert slide.width_px == 256
    data = pydicom.dcmread(tmp_path / "a.dcm")
    data.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    data.save_as(tmp_path / "a.dcm")
    for path in (tmp_path / "a.dcm", tmp_path / "b.dcm", tmp_path):
        with pytest.raises(SlideError, match="larger than every level of the slide"):
            open_slide(path)


class TestJpeg2000ThroughOpenSlide:
    """OpenSlide decodes the tiles of Aperio and DICOM itself, and fills up what is lost."""

    PIXELS = np.random.default_rng(0).integers(90, 220, (128, 192, 3), np.uint8).repeat(2, axis=0).repeat(2, axis=1)

    def write(self, folder: Path, kind: str) -> Path:
        if kind == "dicom":
            write_dicom(folder / "a.dcm", self.PIXELS, jpeg2000=True)
            return folder / "a.dcm"
        described = "Aperio Image Library\r\n384x256 (64x64) J2K/KDU Q=30|AppMag = 20|MPP = 0.5"
        options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "description": described, "metadata": None}
        tifffile.imwrite(folder / "a.svs", self.PIXELS, compression="aperio_jp2000_rgb", **options)
        return folder / "a.svs"

    @pytest.mark.parametrize("kind", ["aperio", "dicom"])
    def test_a_damaged_tile_is_an_error_and_the_others_are_read(self, tmp_path: Path, kind: str) -> None:
        path = self.write(tmp_path, kind)
        whole = path.read_bytes()
        with open_slide(path) as slide:
            np.testing.assert_allclose(slide.read(0, 0, 384, 256, 0.5).mean(), self.PIXELS.mean(), atol=3)
        starts = [found.start() for found in re.finditer(rb"\xff\x4f\xff\x51", whole)]
        assert len(starts) == 24
        start, stop = starts[7], whole.index(b"\xff\xd9", starts[7])  # the second tile of the second row
        middle = (start + stop) // 2
        for damage in (bytes(stop + 2 - middle), bytes(300) + whole[middle + 300 : stop + 2]):
            path.write_bytes(whole[:middle] + damage + whole[stop + 2 :])
            with open_slide(path) as slide:
                with pytest.raises(SlideReadError, match=r"tile at x=64, y=64 .* JPEG 2000"):
                    slide.read(0, 0, 384, 256, 0.5)
                slide.read(128, 0, 256, 256, 0.5)

    def test_a_coder_that_never_writes_an_end_is_believed(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "aperio")
        data = path.read_bytes()
        with tifffile.TiffFile(path) as tif:
            places = list(zip(tif.pages.first.dataoffsets, tif.pages.first.databytecounts, strict=True))
        for offset, count in places:
            end = data.rindex(b"\xff\xd9", offset, offset + count)
            data = data[:end] + b"\0\0" + data[end + 2 :]
        path.write_bytes(data)
        with open_slide(path) as slide:
            slide.read(0, 0, 384, 256, 0.5)
        offset, count = places[7]
        path.write_bytes(data[: offset + count // 2] + bytes(count - count // 2) + data[offset + count :])
        with open_slide(path) as slide, pytest.raises(SlideReadError, match=r"tile at x=64, y=64"):
            slide.read(0, 0, 384, 256, 0.5)


@pytest.mark.parametrize("code", [256, 257, 259, 262, 274, 277, 284, 322, 323])
def test_a_tag_of_one_value_has_one(code: int, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (128, 192, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", extratags=[("Orientation", "H", 1, 1, True)])
    with tifffile.TiffFile(path) as tif:
        place = tif.pages.first.tags[code].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, place + 4, 2)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="is damaged"):
        open_slide(path, mpp=0.5)


@pytest.mark.parametrize("place", [3, 5000])
def test_pixels_lie_neither_in_the_header_nor_in_one_another(place: int, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (128, 192, 3), np.uint8), rowsperstrip=16)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages.first.tags["StripOffsets"]
        offset = tag.valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, offset, place)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="its pixels lie in"):
        open_slide(path, mpp=0.5)
