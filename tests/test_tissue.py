"""The tissue mask takes stained tissue, and neither glass, grey nor pen; sizes are in um."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from histomix.errors import InputError
from histomix.slides import TissueMask, open_slide, tissue_mask
from histomix.slides.tissue import FAT, FOLD, PEN, SMALL

GLASS = (244, 243, 244)
PALE_STROMA = (233, 196, 210)
TUMOUR = (120, 90, 150)
BLUE_TUMOUR = (90, 92, 140)
GREEN_PEN, BLUE_PEN, DARK_BLUE_PEN, BLACK_PEN = (71, 170, 153), (60, 85, 190), (10, 13, 82), (25, 24, 26)


def paint(
    *patches: tuple[tuple[int, int, int, int], tuple[int, int, int]],
    glass: tuple[int, int, int] = GLASS,
    noise: float = 3,
) -> np.ndarray:
    """A section of 400 x 300 px, with patches (left, top, right, bottom) and a little noise."""
    image = np.empty((300, 400, 3))
    image[:] = glass
    for (left, top, right, bottom), colour in patches:
        image[top:bottom, left:right] = colour
    grain = np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)


def find(folder: Path, pixels: np.ndarray, mpp: float = 8.0, **options: float) -> np.ndarray:
    Image.fromarray(pixels).save(folder / "image.png")
    with open_slide(folder / "image.png", mpp) as slide:
        return tissue_mask(slide, **options).mask


TISSUE = (100, 100, 300, 200)


@pytest.mark.parametrize("colour", [PALE_STROMA, TUMOUR, BLUE_TUMOUR, (225, 110, 120)])
@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (205, 205, 203), (226, 221, 232)])
def test_stained_tissue_on_glass(tmp_path: Path, colour: tuple[int, int, int], glass: tuple[int, int, int]) -> None:
    seen = tuple(round(channel * light / 244) for channel, light in zip(colour, glass, strict=True))
    mask = find(tmp_path, paint((TISSUE, seen), glass=glass))  # type: ignore[arg-type]
    assert mask[103:197, 103:297].all()
    mask[98:202, 98:302] = False
    assert not mask.any()


def test_dim_photograph(tmp_path: Path) -> None:
    mask = find(tmp_path, paint((TISSUE, (106, 72, 110)), glass=(129, 130, 127)))
    assert mask[103:197, 103:297].all() and mask.sum() < 104 * 204


def test_pale_beside_dark_is_not_split_off(tmp_path: Path) -> None:
    mask = find(tmp_path, paint((TISSUE, TUMOUR), ((200, 100, 300, 200), PALE_STROMA)))
    assert mask[103:197, 103:297].all()


@pytest.mark.parametrize("colours", [(TUMOUR, PALE_STROMA), (TUMOUR, TUMOUR), (PALE_STROMA, PALE_STROMA)])
def test_slide_full_of_tissue(tmp_path: Path, colours: tuple[tuple[int, int, int], ...]) -> None:
    left, right = ((0, 0, 200, 300), colours[0]), ((200, 0, 400, 300), colours[1])
    assert find(tmp_path, paint(left, right)).all()


@pytest.mark.parametrize(
    "glass", [(255, 255, 255), GLASS, (180, 180, 180), (70, 70, 70), (0, 0, 0), (238, 222, 231), (240, 232, 215)]
)
def test_slide_without_tissue(tmp_path: Path, glass: tuple[int, int, int]) -> None:
    assert not find(tmp_path, paint(glass=glass)).any()


def test_uniform_and_tiny_images(tmp_path: Path) -> None:
    for shape in ((300, 400, 3), (1, 1, 3), (1, 50, 3)):
        assert not find(tmp_path, np.full(shape, 255, np.uint8)).any()


@pytest.mark.parametrize(
    "colour", [(150, 150, 150), (200, 197, 202), BLACK_PEN, GREEN_PEN, (209, 236, 232), BLUE_PEN, DARK_BLUE_PEN]
)
def test_grey_and_pen_are_dropped(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    beside, across = ((20, 20, 380, 60), colour), ((180, 100, 220, 200), colour)
    mask = find(tmp_path, paint((TISSUE, TUMOUR), beside, across))
    assert not mask[:97].any() and not mask[103:197, 182:218].any()
    assert mask[103:197, 103:174].all() and mask[103:197, 226:297].all()


def test_sizes_are_um2(tmp_path: Path) -> None:
    speck, hole = (20, 20, 60, 60), (150, 130, 170, 150)  # 40 and 20 px a side
    pixels = paint((TISSUE, TUMOUR), (speck, TUMOUR), (hole, GLASS))
    for mpp in (8.0, 16.0):
        sides = {"speck": (40 * mpp) ** 2, "hole": (20 * mpp) ** 2}
        for name, centre in (("speck", (40, 40)), ("hole", (140, 160))):
            option = "min_fragment_um2" if name == "speck" else "max_hole_um2"
            # The edge is uncertain by a pixel to each side.
            assert find(tmp_path, pixels, mpp, **{option: sides[name] * 0.8})[centre] == (name == "speck")
            assert find(tmp_path, pixels, mpp, **{option: sides[name] * 1.25})[centre] == (name == "hole")


def test_resolution_is_fixed_in_um(tmp_path: Path) -> None:
    pixels = paint((TISSUE, TUMOUR))
    Image.fromarray(pixels).save(tmp_path / "image.png")
    fine = tissue_mask(open_slide(tmp_path / "image.png", 2.0))
    assert (fine.mask.shape, fine.mpp) == ((75, 100), 8.0)
    assert 0.4 * 0.2 <= fine.area_mm2 <= 0.416 * 0.216  # up to a pixel of the mask wider on each side
    coarse = tissue_mask(open_slide(tmp_path / "image.png", 20.0))
    assert (coarse.mask.shape, coarse.mpp) == ((300, 400), 20.0)
    assert coarse.area_mm2 == pytest.approx(4 * 2, rel=0.05)
    with pytest.raises(InputError, match="negative"):
        tissue_mask(open_slide(tmp_path / "image.png", 2.0), min_fragment_um2=-1)


def lacunae(left: int, top: int, right: int, bottom: int, colour: tuple[int, int, int]) -> list:
    """Septa of a pixel (8 um) around lacunae of 10 x 10 pixels, as patches to paint."""
    upright = [((x, top, x + 1, bottom), colour) for x in range(left, right, 11)]
    return upright + [((left, y, right, y + 1), colour) for y in range(top, bottom, 11)]


@pytest.mark.parametrize("septa", [(238, 228, 236), (225, 190, 205), (190, 140, 170)])
def test_fat_is_tissue_and_what_only_looks_like_it_is_not(tmp_path: Path, septa: tuple[int, int, int]) -> None:
    pixels = paint((TISSUE, TUMOUR), *lacunae(210, 200, 300, 290, septa), noise=1)
    hole, notch = (140, 130, 170, 160), (180, 100, 190, 150)  # a lumen of 240 um, and a tear of 80 um
    for left, top, right, bottom in (hole, notch):
        pixels[top:bottom, left:right] = GLASS
    Image.fromarray(pixels).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png", 8.0) as slide:
        mask = tissue_mask(slide)
    kinds = mask.kinds
    assert kinds is not None
    assert mask.mask[203:286, 213:286].mean() > 0.97 and (kinds[205:280, 215:280] == FAT).any()
    assert not mask.mask[135:155, 145:165].any() and not mask.mask[105:145, 183:188].any()
    assert (kinds == FAT).sum() < 1.1 * 90 * 90 and not mask.mask[:, :95].any()
    assert not mask.without_fat().mask[225:280, 225:280].mean() > 0.3


def test_noise_dust_and_a_ruled_sheet_are_not_fat(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    grainy = paint((TISSUE, TUMOUR), noise=6)
    dusty = paint((TISSUE, TUMOUR), noise=1)
    for x, y in rng.integers(0, (400, 300), (400, 2)):
        dusty[y : y + 2, x : x + 2] = 150
    ruled = paint((TISSUE, TUMOUR), *lacunae(0, 202, 400, 300, (200, 200, 200)), noise=1)
    for name, pixels in {"grainy": grainy, "dusty": dusty, "ruled in grey": ruled}.items():
        Image.fromarray(pixels).save(tmp_path / "image.png")
        with open_slide(tmp_path / "image.png", 8.0) as slide:
            assert tissue_mask(slide).mm2(FAT) < 0.02, name


def test_what_was_found_is_told_apart(tmp_path: Path) -> None:
    speck, dust, across, beside = (20, 20, 38, 38), (60, 20, 62, 22), (180, 100, 220, 200), (20, 240, 380, 270)
    Image.fromarray(
        paint((TISSUE, TUMOUR), (speck, TUMOUR), (dust, TUMOUR), (across, BLUE_PEN), (beside, BLACK_PEN))
    ).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png", 8.0) as slide:
        mask = tissue_mask(slide)
    assert mask.kinds is not None
    # At its ends glass is as near as tissue.
    assert (mask.kinds[125:175, 183:217] == PEN).all() and not (mask.kinds[242:268, 25:375]).any()
    assert (mask.kinds[22:36, 22:36] == SMALL).all() and not mask.kinds[15:30, 55:70].any()
    assert mask.pen_mm2 == pytest.approx((46 * 100 + 366 * 36) * 64e-6, rel=0.1)
    assert mask.area_mm2 == pytest.approx(sum(mask.mm2(kind) for kind in range(1, 6)))


def test_folds_are_found_and_dense_tissue_is_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.normal(0, 12, (75, 100, 1)), np.ones((4, 4, 1)))
    pink, blue = np.array([190.0, 120, 165]), np.array([90.0, 70, 150])
    pixels = np.full((300, 400, 3), 244.0)
    pixels[40:260, 40:360] = pink + texture[40:260, 40:360]
    y, x = np.mgrid[:300, :400]
    fold = (np.abs(y - 100 - 10 * np.sin(x / 25)) < 4) & (np.abs(x - 170) < 60)  # 480 um of the section lie double
    fold |= (np.abs(x - 300) < 5) & (np.abs(y - 150) < 45)
    pixels[fold] = (pixels * pixels / 244)[fold] * 0.93
    aggregate = ((y - 200) / 12.0) ** 2 + ((x - 140) / 40.0) ** 2 < 1
    pixels[aggregate] = blue
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png", 8.0) as slide:
        mask = tissue_mask(slide)
    found = mask.of(FOLD)
    assert (found & fold).sum() > 0.6 * fold.sum() and (found & ~fold).sum() < 0.6 * fold.sum()
    assert not found[aggregate].any() and not (mask.mask & found).any()


def test_contains_and_share() -> None:
    mask = np.zeros((10, 20), bool)
    mask[4:, 10:] = True
    tissue = TissueMask(mask, 8.0)
    # At 2 um per level-0 px, a pixel of the mask has 4 px a side.
    points = [[39, 30], [41, 15], [41, 17], [79.9, 39.9], [81.9, 30], [82.1, 30], [-0.1, 30], [41, -5]]
    assert tissue.contains(points, 2.0).tolist() == [False, False, True, True, True, False, False, False]
    assert tissue.contains(np.empty((0, 2)), 2.0).shape == (0,)
    np.testing.assert_allclose(
        tissue.fraction([40, 60, 80, 41, 500], [28, 28, 28, 16, 0], 16.0, 2.0), [0.5, 1, 0.5, 5 / 16, 0]
    )
    assert float(tissue.fraction(40, 28, 16.0, 2.0)) == 0.5


class TestRealSlides:
    def test_spots_of_a_section_lie_on_tissue(self, data_dir: Path) -> None:
        spots = pd.read_csv(data_dir / "her2st" / "spots" / "C2_selection.tsv", sep="\t")
        mask = tissue_mask(open_slide(data_dir / "her2st" / "images" / "C2.jpg", 0.69))
        assert mask.contains(spots[["pixel_x", "pixel_y"]], 0.69).mean() > 0.97
        assert 0.13 < mask.mask.mean() < 0.2
        # Eosin that ran into the glass on the right of the section.
        assert not mask.contains([[8300, 4800], [7700, 3000]], 0.69).any()

    def test_whole_section_with_pen(self, data_dir: Path) -> None:
        mask = tissue_mask(open_slide(data_dir / "he_images" / "TCGA-A1-A0SB-DX1_level2.jpg", 4.0))
        scale = 7019 / 1100
        positions = {
            "tumour": [(900, 440), (930, 300), (860, 500)],
            "stroma": [(680, 350), (690, 640), (215, 505), (365, 190)],
            "pen": [(580, 440), (820, 125), (695, 515), (690, 480), (1055, 420), (860, 640)],
            "glass": [(300, 720), (1080, 760), (600, 20), (20, 10), (820, 410)],
            "fat": [(300, 600), (1000, 640), (715, 660), (580, 735)],  # the last under a smudge
            "emptied": [(850, 220), (470, 495), (580, 540)],
            "smudge": [(745, 235)],
        }
        for name, points in positions.items():
            found = mask.contains(np.array(points) * scale, 4.0)
            assert found.tolist() == [name in ("tumour", "stroma", "fat")] * len(points), name
            assert mask.without_fat().contains(np.array(points) * scale, 4.0).sum() == found.sum() * (name != "fat")
        assert 0.1 < mask.without_fat().mask.mean() < 0.18
        assert 100 < mask.mm2(FAT) < 170  # most of the fat of this section, whose septa are faint at 4 um/px
        assert 10 < mask.pen_mm2 < 20 and 2 < mask.mm2(PEN) < 8

    def test_scanner_slide_and_dim_photograph(self, data_dir: Path) -> None:
        slide = tissue_mask(open_slide(data_dir / "wsi" / "CMU-1-Small-Region.svs"))
        found = slide.contains([[1200, 2000], [1000, 1500], [300, 300], [1900, 1000], [600, 2000]], 0.499)
        assert found.tolist() == [True, True, False, False, False]
        photo = tissue_mask(open_slide(data_dir / "he_images" / "squidpy_mousebrain_crop.jpg", 1.0))
        assert photo.contains([[600, 1000], [40, 40], [60, 1300]], 1.0).tolist() == [True, False, False]
        assert 0.6 < photo.mask.mean() < 0.8
        crop = tissue_mask(open_slide(data_dir / "he_images" / "stardist_histo.jpg", 0.5))
        assert crop.mask.mean() > 0.95


def test_memory_follows_the_mask_by_few_bytes_a_pixel() -> None:
    # Of a slide of 80,000 px the mask has 12 million pixels: 69 bytes each were 830 MB, more than all else.
    side = 900
    rng = np.random.default_rng(0)
    blob = ndimage.gaussian_filter(rng.normal(size=(side, side)), 20) > 0
    rgb = np.where(blob[..., None], [200, 120, 170], 245) + rng.normal(0, 6, (side, side, 3))
    slide = SimpleNamespace(
        mpp=0.5, downsamples=(1.0,), thumbnail=lambda mpp, pixels=np.clip(rgb, 0, 255).astype(np.uint8): pixels
    )
    tissue_mask(slide)  # what is loaded on first use
    tracemalloc.start()
    try:
        mask = tissue_mask(slide)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.2 < mask.mask.mean() < 0.8
    assert peak < 36 * side**2


def test_bands_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    blob = ndimage.gaussian_filter(rng.normal(size=(301, 210)), 12) > 0
    rgb = np.clip(np.where(blob[..., None], [200, 120, 170], 245) + rng.normal(0, 6, (301, 210, 3)), 0, 255)
    rgb[100:160, 50:110] = (20, 30, 20)  # pen
    slide = SimpleNamespace(mpp=0.5, downsamples=(1.0,), thumbnail=lambda mpp: rgb.astype(np.uint8))
    found = []
    for rows in (1, 7, 64, 1000):
        for module in ("find", "pieces"):
            monkeypatch.setattr(f"histomix.slides.tissue.{module}._BAND", rows)
        found.append(tissue_mask(slide))
    for one in found[1:]:
        np.testing.assert_array_equal(one.mask, found[0].mask)
        np.testing.assert_array_equal(one.kinds, found[0].kinds)
    assert (found[0].kinds == PEN).any()
