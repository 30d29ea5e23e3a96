"""Tiles lie where the spots or the grid say, with their share of tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histomix.errors import InputError
from histomix.slides import Slide, TileSpec, TissueMask, open_slide, read_tile, tiles_at_spots, tiles_on_grid

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
