"""Finding the tissue of a slide by its colours at low resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from ...errors import InputError
from ..levels import check_levels
from ..slide import Slide
from .adipose import find_fat
from .colour import background, hue, otsu, strongest_and_chroma, within
from .folds import find_folds
from .mask import FAT, FOLD, PEN, SMALL, TISSUE, TissueMask
from .pieces import drop_small, fill_holes

# Thresholds below are on colours divided by the background's, so that the background is white (255).
_MIN_CHROMA = 10.0
# Optical density of green, which both haematoxylin and eosin absorb. Otsu's threshold is held in this range: a slide
# full of tissue, or with none, has no two classes to split.
_DENSITY_RANGE = (0.055, 0.08)
# Hues in degrees, red = 0. Stained tissue runs from violet-blue through magenta to red-orange.
_NOT_TISSUE_HUE = (30.0, 205.0)
_GREEN_PEN_HUE = (80.0, 205.0)
_BLUE_PEN_HUE = (205.0, 252.0)
_GREEN_PEN_SATURATION = 0.15
_BLUE_PEN_SATURATION = 0.5
_BLACK_PEN_LIGHT = 60.0
_BLACK_PEN_CHROMA = 20.0
_PEN_MARGIN_UM = 24.0
_MIN_PEN_UM2 = 20_000.0
# Rows of the mask that are looked at together.
_BAND = 256
# Stained specks smaller than this are dust, not tissue that was dropped.
_MIN_SPECK_UM2 = 1_000.0


def tissue_mask(
    slide: Slide, mpp: float = 8.0, min_fragment_um2: float = 25_000.0, max_hole_um2: float = 10_000.0
) -> TissueMask:
    """Find H&E-stained tissue by colour, on a grid of fixed um.

    The colour of the background is found and divided out; tissue is what absorbs green beyond a threshold (Otsu, 1979,
    held within fixed limits) and has the hue of a stain. Grey is not tissue, however dark: shadows, dust. Fields of fat
    beside or between tissue are tissue too (`histomix.slides.tissue.adipose`). Black, green and strong blue are pen,
    dropped with a margin; what lies under it is told by the nearest pixels. Red pen cannot be told from blood, and
    stays. Bands where the section lies double are dropped too (`histomix.slides.tissue.folds`).

    Parameters
    ----------
    mpp
        um per pixel of the mask; a coarser slide sets its own.
    min_fragment_um2
        Smaller pieces of tissue are dropped, except those at the edge of the image, which may go on beyond it: an image
        that is all tissue and smaller than this (a region of interest, the inside of a core) is tissue.
    max_hole_um2
        Smaller holes are filled (the default fills lumina and single fat cells).

    Raises
    ------
    SlideReadError
        The slide cannot be decoded.
    SlideError
        Its levels show different pictures.
    InputError
        An area is negative.
    """
    if not (min_fragment_um2 >= 0 and max_hole_um2 >= 0):
        raise InputError(
            f"areas must not be negative: min_fragment_um2={min_fragment_um2}, max_hole_um2={max_hole_um2}"
        )
    mpp = max(mpp, slide.mpp)
    rgb = slide.thumbnail(mpp)
    check_levels(slide, rgb, mpp)
    glass = background(lambda: (planes for _, planes in _smooth(rgb)))
    stained, pen = _stained(rgb, glass, mpp)
    tissue = fill_holes(drop_small(stained, min_fragment_um2, mpp, keep_at_edge=True), max_hole_um2, mpp)
    sharp = _Planes(rgb, pen, glass)
    fat = find_fat(sharp, glass, tissue, mpp) & ~pen
    mask = fill_holes(tissue | fat, max_hole_um2, mpp) if fat.any() else tissue
    kinds = np.where(tissue, TISSUE, np.where(mask, FAT, 0)).astype(np.uint8)
    fold = find_folds(sharp, glass, tissue, mpp)
    kinds[fold] = FOLD
    mask = mask & ~fold
    kinds[drop_small(stained & ~mask & ~fold, _MIN_SPECK_UM2, mpp)] = SMALL
    kinds[pen & ~mask & _under(pen & ~mask, mask | fold)] = PEN
    return TissueMask(mask, mpp, kinds, float(pen.sum()) * mpp**2 / 1e6)


class _Planes(Sequence[np.ndarray]):
    """Red, green and blue, float32, made when they are asked for; glass where there is pen."""

    def __init__(self, rgb: np.ndarray, pen: np.ndarray, glass: Sequence[float]) -> None:
        self.rgb, self.pen, self.glass = rgb, pen, glass

    def __len__(self) -> int:
        return 3

    def __getitem__(self, channel: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= channel < 3:
            raise IndexError(channel)
        plane = self.rgb[..., channel].astype(np.float32)
        plane[self.pen] = self.glass[channel]
        return plane


def _smooth(rgb: np.ndarray) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Red, green and blue, each the mean of 3 x 3 pixels, a band of rows at a time."""
    height = len(rgb)
    for start in range(0, height, _BAND):
        stop = min(start + _BAND, height)
        # One row more at either side, as the mean wants.
        first, last = max(start - 1, 0), min(stop + 1, height)
        planes = [
            ndimage.uniform_filter(rgb[first:last, :, channel].astype(np.float32), 3, mode="nearest")
            for channel in range(3)
        ]
        yield slice(start, stop), [plane[start - first : stop - first] for plane in planes]


def _stained(rgb: np.ndarray, glass: list[float], mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Where stain is, and where pen is with its margin."""
    density = np.empty(rgb.shape[:2], np.float32)
    coloured, pen = np.empty(rgb.shape[:2], bool), np.empty(rgb.shape[:2], bool)
    for rows, planes in _smooth(rgb):
        red, green, blue = (np.minimum(plane * (255 / shade), 255) for plane, shade in zip(planes, glass, strict=True))
        strongest, chroma = strongest_and_chroma([red, green, blue])
        saturation = chroma / np.maximum(strongest, 1)
        degrees = hue(red, green, blue, strongest, chroma)
        density[rows] = -np.log10(np.maximum(green, 1) / 255)
        pen[rows] = within(degrees, _GREEN_PEN_HUE) & (saturation > _GREEN_PEN_SATURATION)
        pen[rows] |= within(degrees, _BLUE_PEN_HUE) & (saturation > _BLUE_PEN_SATURATION)
        pen[rows] |= (strongest < _BLACK_PEN_LIGHT) & (chroma < _BLACK_PEN_CHROMA)
        coloured[rows] = (chroma >= _MIN_CHROMA) & ~within(degrees, _NOT_TISSUE_HUE)
    pen = drop_small(pen, _MIN_PEN_UM2, mpp)
    if pen.any():
        pen = ndimage.maximum_filter(pen, 2 * round(_PEN_MARGIN_UM / mpp) + 1)
    stained = coloured & ~pen
    threshold = np.clip(otsu(np.where(stained, density, 0)), *_DENSITY_RANGE)
    return stained & (density > threshold), pen


def _under(pen: np.ndarray, mask: np.ndarray, step: int = 4) -> np.ndarray:
    """Whether the nearest pixel without pen is tissue, on a grid ``step`` times coarser."""
    if not pen.any():
        return pen
    covered = pen[::step, ::step]
    if covered.all():
        return np.zeros_like(pen)
    row, column = ndimage.distance_transform_edt(covered, return_distances=False, return_indices=True)
    under = mask[::step, ::step][row, column]
    height, width = mask.shape
    return np.asarray(np.repeat(np.repeat(under, step, axis=0), step, axis=1)[:height, :width])
