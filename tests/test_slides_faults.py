"""A damaged slide is an error with the place, never a blank."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ImageFile

from histomix.errors import SlideError, SlideReadError
from histomix.slides import open_slide

from .slide_files import PATTERN, write_flat, write_pyramid


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tif", PATTERN)


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flat(tmp_path_factory.mktemp("slides") / "flat.png")


def mutate(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    def apply(source: Path, target: Path) -> Path:
        target.write_bytes(change(source.read_bytes()))
        return target

    return apply


class TestFaults:
    def test_not_a_slide(self, tmp_path: Path) -> None:
        (tmp_path / "empty.svs").touch()
        (tmp_path / "text.svs").write_text("This is a note about a slide.\n" * 50)
        (tmp_path / "header.tif").write_bytes(b"II*\0\x08\0\0\0")
        for name, what in (
            ("absent.svs", "cannot be opened"),
            ("", "is a folder"),
            ("empty.svs", "is empty"),
            ("text.svs", "not an image that is known"),
            ("header.tif", "is truncated"),
        ):
            with pytest.raises(SlideError, match=what) as caught:
                open_slide(tmp_path / name, 0.5)
            assert str(tmp_path / name) in str(caught.value)

    def test_metadata_of_planes_without_number_is_refused_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "slide.ome.tif"
        tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), ome=True, metadata={"axes": "YXS"})
        with tifffile.TiffFile(path, mode="r+") as tif:
            text = (tif.ome_metadata or "").replace('SizeC="3"', 'SizeC="99999999"')
            tif.pages.first.tags["ImageDescription"].overwrite(text.encode())
        with pytest.raises(SlideError, match="speaks of 99,999,999 planes, and the file holds 1"):
            open_slide(path, 0.5)

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.9999])
    @pytest.mark.parametrize("kind", ["jpg", "png", "tif", "zlib.tif", "jpeg.tif"])
    def test_truncated_flat_file(
        self, tmp_path: Path, kind: str, share: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A program may have told Pillow to fill in what is missing.
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
        if kind.endswith("tif"):
            tifffile.imwrite(
                whole,
                PATTERN,
                photometric="rgb",
                rowsperstrip=64,
                compression=kind.removesuffix("tif").strip(".") or None,
            )
        else:
            write_flat(whole)
        mutate(lambda data: data[: int(len(data) * share)])(whole, cut)
        with pytest.raises(SlideError, match=r"cut\."):
            open_slide(cut, 0.5).read(0, 0, 1300, 1100, 0.5)

    def test_empty_strips_are_not_black(self, tmp_path: Path) -> None:
        path = tmp_path / "unfinished.tif"
        tifffile.imwrite(path, PATTERN, photometric="rgb", rowsperstrip=64, compression="zlib")
        with tifffile.TiffFile(path, mode="r+") as tif:
            counts = list(tif.pages.first.databytecounts)
            tif.pages.first.tags["StripByteCounts"].overwrite([0, *counts[1:]])
        with pytest.raises(SlideError, match="unfinished"):
            open_slide(path, 0.5)

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.95, 0.999])
    def test_truncated_pyramid_never_invents(self, tmp_path: Path, pyramid: Path, share: float) -> None:
        cut = mutate(lambda data: data[: int(len(data) * share)])(pyramid, tmp_path / "cut.tif")
        with pytest.raises(SlideError, match=r"cut\.tif"):
            open_slide(cut, 0.5).read(0, 0, 1300, 1100, 0.5)

    def test_tiles_beyond_all_memory(self, tmp_path: Path) -> None:
        path = write_pyramid(tmp_path / "huge.tif", PATTERN, factors=())
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages.first.tags["TileWidth"].overwrite(486_539_520)
        with pytest.raises(SlideError, match="damaged"):
            open_slide(path, 0.5)

    def test_a_bad_place_costs_nothing_else(self, tmp_path: Path) -> None:
        """Header intact, one tile gone: it is named, and the handle lives on, for other threads too."""
        path = write_pyramid(tmp_path / "bad.tif", PATTERN, compression="jpeg", factors=())
        good = open_slide(path)
        expected = good.read(0, 0, 256, 256, 0.5)
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            offset, count = page.dataoffsets[7], page.databytecounts[7]  # 6 tiles a row: the second of the second row
        with path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(bytes(count))
        slide = open_slide(path)
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"bad\.tif: the tile at x=256, y=256 \(level-0 px, level 0\)"):
                slide.read(300, 280, 40, 30, 0.5)
            np.testing.assert_array_equal(slide.read(0, 0, 256, 256, 0.5), expected)

        wrong: list[str] = []

        def spoil() -> None:
            for _ in range(20):
                with pytest.raises(SlideReadError):
                    slide.read(300, 280, 40, 30, 0.5)

        def read() -> None:
            try:
                for _ in range(60):
                    if not (slide.read(0, 0, 256, 256, 0.5) == expected).all():
                        wrong.append("pixels differ")
            except SlideError as error:
                wrong.append(str(error))

        threads = [threading.Thread(target=work) for work in (spoil, read, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_file_cut_after_it_was_opened(self, tmp_path: Path, png: Path) -> None:
        path = tmp_path / "later.png"
        path.write_bytes(png.read_bytes())
        slide = open_slide(path, 0.5)
        path.write_bytes(png.read_bytes()[:5000])
        with pytest.raises(SlideReadError, match=r"later\.png.*1300 x 1100 px"):
            slide.read(0, 0, 10, 10, 0.5)


class TestRealSlides:
    def test_aperio_cut_short(self, data_dir: Path, tmp_path: Path) -> None:
        path = data_dir / "wsi" / "CMU-1-Small-Region.svs"
        data, cut = path.read_bytes(), tmp_path / "cut.svs"
        for share in (0.01, 0.3, 0.65, 0.95, 0.999):
            cut.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(SlideError, match=r"cut\.svs"):
                open_slide(cut).read(0, 0, 2220, 2967, 0.499)
        # Only a tag of the photograph of the glass is lost here: the pixels are all there.
        cut.write_bytes(data[:-194])
        np.testing.assert_array_equal(open_slide(cut).thumbnail(0.499), open_slide(path).thumbnail(0.499))

    def test_aperio_with_a_hole(self, data_dir: Path, tmp_path: Path) -> None:
        path = tmp_path / "hole.svs"
        path.write_bytes((data_dir / "wsi" / "CMU-1-Small-Region.svs").read_bytes())
        before = open_slide(path).read(0, 0, 240, 240, 0.499)
        with tifffile.TiffFile(path) as tif:
            offset = tif.pages.first.dataoffsets[60]  # 10 tiles of 240 px a row
        with path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(bytes(2000))
        slide = open_slide(path)
        with pytest.raises(SlideReadError, match="x=0, y=1440"):
            slide.read(10, 1450, 100, 100, 0.499)
        np.testing.assert_array_equal(slide.read(0, 0, 240, 240, 0.499), before)


def test_every_damaged_header_is_refused_or_read(tmp_path: Path) -> None:
    """Bytes of a header changed at random: an error of ours, or an image; never another error."""
    rng = np.random.default_rng(1)
    small = PATTERN[:64, :80]
    path = tmp_path / "x.tif"
    for name, _ in itertools.product(("a.tif", "a.png", "a.jpg"), range(40)):
        write_flat(tmp_path / name, small)
        data = bytearray((tmp_path / name).read_bytes())
        positions = rng.integers(4, 600, 6) if name != "a.tif" else rng.integers(len(data) - 300, len(data), 6)
        for place in positions:
            data[place % len(data)] = rng.integers(256)
        path.write_bytes(data)
        try:
            slide = open_slide(path, 0.5)
            if slide.width_px * slide.height_px < 1e7:
                slide.read(0, 0, 8, 8, 0.5)
        except SlideError:
            pass
