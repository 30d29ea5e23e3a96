"""Tiles lie where the spots or the grid say, with their share of tissue."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histomix.errors import InputError, SlideError, SlideReadError
from histomix.slides import Slide, TileSpec, TissueMask, open_slide, read_tile, tiles_at_spots, tiles_on_grid
from histomix.slides.readers import jpeg_tiles
from histomix.slides.tiles import read_tiles, reading_order

from .slide_files import write_pyramid

PATTERN = np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8)
RNG = np.random.default_rng(1)


def block_mean(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    return blocks.mean(axis=(1, 3))


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    Image.fromarray(PATTERN).save(tmp_path / "flat.png")
    return open_slide(tmp_path / "flat.png", mpp=0.5)


class TestTiles:
    MASK = TissueMask(np.ones((138, 163), bool), 4.0)

    def test_spec(self) -> None:
        spec = TileSpec(224, 0.5, 56.0)
        assert spec.size_um == 112
        assert TileSpec.from_dict(spec.to_dict()) == spec
        for wrong in (
            {"size_px": 0},
            {"size_px": 2.5},
            {"size_px": True},
            {"mpp": 0},
            {"mpp": float("nan")},
            {"stride_um": -1},
        ):
            with pytest.raises(InputError, match=str(next(iter(wrong))).split("_")[0]):
                TileSpec(**{"size_px": 224, "mpp": 0.5} | wrong)
        with pytest.raises(InputError, match="overlap"):
            TileSpec.from_dict({"size_px": 1, "mpp": 1, "overlap": 3})

    def test_tile_is_centred(self, slide: Slide) -> None:
        np.testing.assert_array_equal(read_tile(slide, 500, 400, TileSpec(64, slide.mpp)), PATTERN[368:432, 468:532])
        half = read_tile(slide, 500, 400, TileSpec(32, slide.mpp * 2))
        assert np.abs(half - block_mean(PATTERN[368:432, 468:532], 2)).max() <= 0.51

    def test_grid_covers_the_slide(self, slide: Slide) -> None:
        tiles = tiles_on_grid(slide, TileSpec(100, 1.0), self.MASK, min_tissue=0)
        assert list(tiles.columns) == ["x_px", "y_px", "tissue"]
        assert list(tiles.index[:8]) == ["0x0", "1x0", "2x0", "3x0", "4x0", "5x0", "0x1", "1x1"]
        assert len(tiles) == 6 * 5  # 650 um x 550 um: a seventh column would be centred on the edge
        assert tiles.loc["2x1", ["x_px", "y_px"]].tolist() == pytest.approx([500, 300])
        overlapping = tiles_on_grid(slide, TileSpec(100, 1.0, stride_um=50), self.MASK)
        assert overlapping.loc["2x1", ["x_px", "y_px"]].tolist() == pytest.approx([300, 200])

    def test_grid_starts_at_the_bounds(self, slide: Slide) -> None:
        slide.bounds_px = (150, 310)
        tiles = tiles_on_grid(slide, TileSpec(100, 1.0), self.MASK, min_tissue=0)
        assert tiles.loc["0x0", ["x_px", "y_px"]].tolist() == pytest.approx([250, 410])
        assert tiles["x_px"].max() < 1300 and tiles["y_px"].max() < 1100

    def test_share_of_tissue(self, slide: Slide) -> None:
        mask = np.zeros((138, 163), bool)
        mask[20:90, 30:120] = RNG.random((70, 90)) < 0.7
        spec = TileSpec(90, 1.0, 37.0)
        everything = tiles_on_grid(slide, spec, TissueMask(mask, 4.0), min_tissue=0)
        fine = np.repeat(np.repeat(mask, 8, axis=0), 8, axis=1)  # in level-0 px
        for _, tile in everything.iterrows():
            (left, right), (top, bottom) = ((max(tile[axis] - 90, 0), tile[axis] + 90) for axis in ("x_px", "y_px"))
            weight = [
                np.clip(np.minimum(np.arange(n) + 1, high) - np.maximum(np.arange(n), low), 0, 1)
                for n, low, high in ((1104, top, bottom), (1304, left, right))
            ]
            assert tile["tissue"] == pytest.approx(weight[0] @ fine @ weight[1] / 180**2, abs=1e-9)
        some = tiles_on_grid(slide, spec, TissueMask(mask, 4.0), min_tissue=0.5)
        assert 0 < len(some) < len(everything)
        assert some.equals(everything[everything["tissue"] >= 0.5])

    def test_spots_keep_their_order_and_keys(self, slide: Slide) -> None:
        tiles = tiles_at_spots(
            slide, [[900.5, 3], [-4000, 7], [650, 550]], ["b", "a", "c"], TileSpec(100, 1.0), self.MASK
        )
        assert list(tiles.index) == ["b", "a", "c"]
        np.testing.assert_array_equal(tiles[["x_px", "y_px"]], [[900.5, 3], [-4000, 7], [650, 550]])
        np.testing.assert_allclose(tiles["tissue"], [0.515, 0, 1])
        assert tiles_at_spots(slide, np.empty((0, 2)), [], TileSpec(100, 1.0), self.MASK).empty

    @pytest.mark.parametrize(
        ("xy_px", "keys", "what"),
        [
            ([[1, 2]], ["a", "b"], "2 spots"),
            ([[1, np.nan]], ["a"], "finite"),
            ([[1, 2], [3, 4]], ["a", "a"], "twice: a"),
            ([["x", "y"]], ["a"], "not numbers"),
        ],
    )
    def test_faulty_spots(self, slide: Slide, xy_px: Any, keys: list[str], what: str) -> None:
        with pytest.raises(InputError, match=what):
            tiles_at_spots(slide, xy_px, keys, TileSpec(100, 1.0), self.MASK)


def as_openslide_reads(path: Path) -> Slide:
    slide = open_slide(path)
    slide._reader._tiles = None  # type: ignore[union-attr]
    return slide


RECTANGLES = [(0, 0, 256, 256), (-30, -20, 300, 100), (255, 511, 3, 2), (1000, 900, 500, 400), (1299, 1099, 1, 1)]


class TestSharedTiles:
    """JPEG tiles are decoded once and shared by neighbours, to the pixels that OpenSlide gives."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return write_pyramid(tmp_path / "jpeg.tif", PATTERN, compression="jpeg")

    @pytest.mark.parametrize("compression", ["jpeg", ("jpeg", 70)])
    @pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
    def test_pixels_equal_those_of_openslide(self, tmp_path: Path, compression: Any, subsampling: Any) -> None:
        arguments = {"subsampling": subsampling, "compression": compression if compression == "jpeg" else "jpeg"}
        if compression != "jpeg":
            arguments["compressionargs"] = {"level": compression[1]}
        path = write_pyramid(tmp_path / "any.tif", PATTERN, **arguments)
        slide, other = open_slide(path), as_openslide_reads(path)
        assert slide._reader._tiles is not None  # type: ignore[union-attr]
        for x, y, width, height in RECTANGLES:
            for mpp in (0.5, 0.61, 2.0, 3.7):
                found = slide.read(x, y, width, height, mpp)
                np.testing.assert_array_equal(found, other.read(x, y, width, height, mpp))

    def test_a_real_slide_too(self, data_dir: Path) -> None:
        path = data_dir / "wsi" / "CMU-1-Small-Region.svs"
        slide, other = open_slide(path), as_openslide_reads(path)
        assert slide._reader._tiles is not None  # type: ignore[union-attr]
        np.testing.assert_array_equal(slide.read(0, 0, 2220, 2967, slide.mpp), other.read(0, 0, 2220, 2967, slide.mpp))

    def test_each_tile_is_decoded_once_in_reading_order(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded: list[tuple[int, int]] = []
        decode = jpeg_tiles.JpegTiles._decode
        monkeypatch.setattr(
            jpeg_tiles.JpegTiles,
            "_decode",
            lambda self, *which: (decoded.append(which[:2]), decode(self, *which))[1],
        )
        # Room for 20 of the 30 tiles: two strips of a grid that OpenSlide's order of rows would not fit.
        monkeypatch.setattr(jpeg_tiles, "CACHE_BYTES", 20 * 256 * 256 * 3)
        with open_slide(path) as slide:
            spec = TileSpec(40, 0.5)
            grid = tiles_on_grid(slide, spec, TissueMask(np.ones((138, 163), bool), 4.0), min_tissue=0)
            xy_px = grid[["x_px", "y_px"]].to_numpy()
            order = reading_order(slide, xy_px, spec.size_um)
            assert sorted(order) == list(range(len(grid)))
            for x, y in xy_px[order]:
                read_tile(slide, x, y, spec)
            assert len(decoded) <= 1.5 * 30  # 30 tiles of the file, some on the border of two strips
            held = slide._reader._tiles._held  # type: ignore[union-attr]
            assert 0 < held <= jpeg_tiles.CACHE_BYTES

    def test_other_files_are_left_to_others(self, tmp_path: Path) -> None:
        for name, options in (("raw.tif", {}), ("zlib.tif", {"compression": "zlib"})):
            slide = open_slide(write_pyramid(tmp_path / name, PATTERN, **options))
            assert slide.reader == ("tifffile" if options else "openslide")
            assert getattr(slide._reader, "_tiles", None) in (None, {})
            np.testing.assert_array_equal(slide.read(10, 20, 50, 40, 0.5), PATTERN[20:60, 10:60])

    def test_a_stream_cut_short_is_not_filled_up(self, path: Path) -> None:
        slide = open_slide(path)
        tiles = slide._reader._tiles  # type: ignore[union-attr]
        assert tiles is not None and tiles.read(0, 0, 0, 10, 10) is not None
        page = tiles._pages[0]
        with path.open("r+b") as stream:
            stream.seek(page.dataoffsets[7] + page.databytecounts[7] - 2)
            stream.write(b"xx")
        with pytest.raises(SlideReadError, match=r"x=256, y=256 .*Premature end"):
            tiles.read(0, 300, 280, 40, 30)
        assert tiles.read(0, 0, 0, 10, 10) is not None

    def test_many_threads_and_a_closed_slide(self, path: Path) -> None:
        slide, other = open_slide(path), as_openslide_reads(path)
        expected = [other.read(*rectangle, 0.5) for rectangle in RECTANGLES]
        wrong: list[tuple[int, ...]] = []

        def read() -> None:
            for _ in range(10):
                for rectangle, pixels in zip(RECTANGLES, expected, strict=True):
                    if not (slide.read(*rectangle, 0.5) == pixels).all():
                        wrong.append(rectangle)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        reader = slide._reader
        slide.close()
        with pytest.raises(SlideError, match="closed"):
            reader.read_level(0, 0, 0, 10, 10)  # type: ignore[union-attr]

    def test_what_is_read_belongs_to_the_reader(self, path: Path) -> None:
        slide = open_slide(path)
        first = slide.read(0, 0, 100, 100, 0.5)
        kept = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(slide.read(0, 0, 100, 100, 0.5), kept)


class TestTogether:
    SPECS = (TileSpec(64, 0.5), TileSpec(50, 0.77), TileSpec(33, 2.0), TileSpec(20, 5.1), TileSpec(64, 0.4))

    @pytest.mark.filterwarnings("ignore::histomix.errors.ScaleWarning")
    @pytest.mark.parametrize("place", [(650.3, 512.8), (5.0, -3.0), (1290.0, 1090.0), (-900.0, 40.0)])
    def test_tiles_read_together_are_those_read_alone(self, tmp_path: Path, place: tuple[float, float]) -> None:
        slide = open_slide(write_pyramid(tmp_path / "any.tif", PATTERN))
        for specs in (self.SPECS, self.SPECS[::-1], self.SPECS[:1], ()):
            for spec, found in zip(specs, read_tiles(slide, *place, specs), strict=True):
                np.testing.assert_array_equal(found, read_tile(slide, *place, spec))

    def test_rectangles_far_apart_are_not_bridged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        slide = open_slide(write_pyramid(tmp_path / "any.tif", PATTERN))
        areas: list[int] = []
        read_level = slide._reader.read_level  # type: ignore[union-attr]
        monkeypatch.setattr(
            slide._reader,
            "read_level",
            lambda *request: (areas.append(request[3] * request[4]), read_level(*request))[1],
        )
        rectangles = [(0.0, 0.0, 40, 40, 0.5), (900.0, 900.0, 40, 40, 0.5)]
        for (x, y, width, height, _), found in zip(rectangles, slide.read_together(rectangles), strict=True):
            np.testing.assert_array_equal(found, PATTERN[int(y) : int(y) + height, int(x) : int(x) + width])
        assert sum(areas) == 2 * 40 * 40
