"""OME-TIFF pyramids as bioformats2raw, QuPath and tifffile write them, and what is no slide."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from histomix.errors import SlideError, SlideReadError
from histomix.slides import open_slide
from histomix.slides.files import slide_digest, slide_files
from histomix.slides.readers import tiff as tiff_pyramid

from .slide_files import PATTERN, block_mean


def write_ome(path: Path, planes: bool = False, levels: int = 2, mpp: float = 0.25, **options: Any) -> Path:
    """A pyramid in SubIFDs; coarser levels are darker by 5 per level, so that a test sees which one was read."""
    kind = {"photometric": "minisblack" if planes else "rgb", "tile": (256, 256), **options}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for number in range(levels + 1):
            mean = block_mean(PATTERN, 2**number) - 5 * number
            level = np.clip(np.rint(mean), 0, 255).astype(np.uint8)
            samples = np.moveaxis(level, -1, 0) if planes else level
            if number == 0:
                scale = {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
                tif.write(samples, subifds=levels, metadata={"axes": "CYX" if planes else "YXS", **scale}, **kind)
            else:
                tif.write(samples, subfiletype=1, metadata=None, **kind)
    return path


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "jpeg", "jpeg2000", "webp"])
def test_levels_in_sub_directories_are_seen(tmp_path: Path, planes: bool, compression: str | None) -> None:
    if planes and compression == "webp":
        pytest.skip("WebP holds no grey planes")
    options = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    path = write_ome(tmp_path / "a.ome.tif", planes, compression=compression, **options)
    with tifffile.TiffFile(path) as tif:
        levels = [level.asarray() for level in tif.series[0].levels]
    levels = [np.moveaxis(level, 0, -1) if planes else level for level in levels]
    with open_slide(path) as slide:
        assert slide.reader == "tifffile" and slide.mpp == 0.25
        for number, level in enumerate(levels):
            scale = 2**number
            found = slide.read(100 * scale, 60 * scale, 150, 170, 0.25 * scale)
            np.testing.assert_array_equal(found, level[60:230, 100:250])
        outside = slide.read(1290, 1090, 40, 40, 0.25)
        np.testing.assert_array_equal(outside[:10, :10], levels[0][1090:, 1290:])
        assert (outside[10:] == 255).all() and (outside[:, 10:] == 255).all()


def test_memory_does_not_follow_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pyramid, "CACHE_BYTES", 4 * 256 * 256 * 3)
    path = write_ome(tmp_path / "a.ome.tif")
    with open_slide(path) as slide:
        for x in range(0, 1100, 200):
            slide.read(x, 0, 200, 1000, 0.25)
            assert slide._reader is not None and slide._reader._held <= tiff_pyramid.CACHE_BYTES  # type: ignore[attr-defined]


def test_a_large_tiled_image_without_levels_is_read_by_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pyramid, "LARGE_PX", 1000)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, np.moveaxis(PATTERN, -1, 0), photometric="minisblack", tile=(256, 256), metadata={"axes": "CYX"}
    )
    with open_slide(path, 0.5) as slide:
        assert slide.reader == "tifffile"
        np.testing.assert_array_equal(slide.read(300, 200, 300, 300, 0.5), PATTERN[200:500, 300:600])


def test_damage_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", compression="jpeg")
    with tifffile.TiffFile(path) as tif:
        page = tif.series[0].levels[0].keyframe
        offset, count = page.dataoffsets[8], page.databytecounts[8]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(data)
    with open_slide(path) as slide:
        slide.read(0, 0, 200, 200, 0.25)
        with pytest.raises(SlideReadError, match=r"x=512, y=256 .* cannot be decoded .Premature end of JPEG"):
            slide.read(600, 300, 100, 100, 0.25)
    for share in (0.3, 0.6, 0.9):
        short = tmp_path / "short.ome.tif"
        short.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SlideError):
            open_slide(short).read(0, 0, 1300, 1100, 0.25)


@pytest.mark.parametrize("name", ["S1 label.png", "macro.jpg", "S1_macro_image.png", "Label.png"])
def test_pictures_beside_a_slide_are_refused_by_their_name(tmp_path: Path, name: str) -> None:
    Image.fromarray(PATTERN[:400, :400]).save(tmp_path / name)
    with pytest.raises(SlideError, match="picture of a slide's label"):
        open_slide(tmp_path / name, 0.5)


@pytest.mark.parametrize("tile", [None, (256, 256)])
def test_exported_label_pages_are_refused(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    path = tmp_path / "export.tif"
    text = "Aperio Image Library v12\r\nmacro 1280x431"
    tifffile.imwrite(path, PATTERN, photometric="rgb", description=text, metadata=None, tile=tile)
    with pytest.raises(SlideError, match="Name the slide file itself"):
        open_slide(path, 0.5)


def test_a_name_that_only_sounds_like_it_is_no_label(tmp_path: Path) -> None:
    for name in ("macrophages.png", "relabel.png", "labelled.png"):
        Image.fromarray(PATTERN[:200, :200]).save(tmp_path / name)
        open_slide(tmp_path / name, 0.5).close()


def test_every_file_of_a_slide_counts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Index.dat", "a/Data0000.dat", "b.mrxs"):
        (tmp_path / name).write_bytes(name.encode())
    assert [file.name for file in slide_files(tmp_path / "a.mrxs")] == ["a.mrxs", "Data0000.dat", "Index.dat"]
    before = slide_digest(tmp_path / "a.mrxs")
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"other pixels")
    assert slide_digest(tmp_path / "a.mrxs", before)["digest"] != before["digest"]
    dicom = tmp_path / "d"
    dicom.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (dicom / name).write_bytes(name.encode())
    assert len(slide_files(dicom)) == len(slide_files(dicom / "2.dcm")) == 2
    with pytest.raises(SlideError, match="cannot be opened by OpenSlide"):
        open_slide(dicom)
    with pytest.raises(SlideError, match="cannot be read"):
        slide_digest(tmp_path / "none.svs")


def test_a_folder_of_dicom_files_is_a_slide(data_dir: Path, tmp_path: Path) -> None:
    shutil.copy(data_dir / "wsi" / "camelyon_jpeg.dcm", tmp_path / "2.dcm")
    (tmp_path / "1.dcm").write_bytes(b"what a viewer left here")
    with open_slide(tmp_path) as folder, open_slide(tmp_path / "2.dcm") as file:
        assert (folder.width_px, folder.mpp, folder.reader) == (file.width_px, file.mpp, "openslide")
        np.testing.assert_array_equal(folder.thumbnail(200), file.thumbnail(200))
