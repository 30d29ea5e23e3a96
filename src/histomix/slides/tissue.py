"""Where on a slide the tissue is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from ..errors import InputError
from .slide import Slide

# Thresholds below are on colours divided by the background's, so that the background is white (255).
_BACKGROUND_CHROMA = 15
_BACKGROUND_LIGHT = 90
_LEAST_BACKGROUND = 0.005
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
_PEN_MARGIN_UM = 24.0
_MIN_PEN_UM2 = 20_000.0


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of one slide on a fixed grid.

    Parameters
    ----------
    mask
        bool (height, width), True on tissue; its corner is the corner of level 0.
    mpp
        um per pixel of the mask.
    """

    mask: np.ndarray
    mpp: float

    @property
    def area_mm2(self) -> float:
        """Area of the tissue."""
        return float(self.mask.sum()) * self.mpp**2 / 1e6

    @cached_property
    def _integral(self) -> np.ndarray:
        return np.pad(self.mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))

    def fraction(self, x_px: ArrayLike, y_px: ArrayLike, width_um: float, slide_mpp: float) -> np.ndarray:
        """Fraction of squares that is tissue, exact to fractions of a mask pixel; outside the slide is no tissue.

        Parameters
        ----------
        x_px, y_px
            Centres in level-0 px of a slide of ``slide_mpp``; scalars or arrays.
        width_um
            Side of the squares.

        Returns
        -------
        float64 of the shape of the centres, 0 to 1.
        """
        x, y = (np.asarray(centre, float) * slide_mpp / self.mpp for centre in (x_px, y_px))
        half = width_um / self.mpp / 2
        inside = (
            self._area_before(x + half, y + half)
            - self._area_before(x - half, y + half)
            - self._area_before(x + half, y - half)
            + self._area_before(x - half, y - half)
        )
        fraction: np.ndarray = np.clip(inside / (2 * half) ** 2, 0, 1)
        return fraction

    def contains(self, xy_px: ArrayLike, slide_mpp: float) -> np.ndarray:
        """Whether points (n, 2), in level-0 px of a slide of ``slide_mpp``, lie on tissue: bool (n,)."""
        points = np.asarray(xy_px, float).reshape(-1, 2) * slide_mpp / self.mpp
        height, width = self.mask.shape
        # Rounding may leave the mask half a pixel short of the slide's edge.
        inside: np.ndarray = np.all((points >= 0) & (points < (width + 0.5, height + 0.5)), axis=1)
        column, row = np.where(inside[:, None], np.minimum(points, (width - 1, height - 1)), 0).astype(np.int64).T
        return np.asarray(self.mask[row, column] & inside)

    def _area_before(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tissue above and left of points, in mask px; the integral of a mask is linear between its corners."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        column, row = np.minimum(x, width - 1).astype(np.int64), np.minimum(y, height - 1).astype(np.int64)
        right, down = x - column, y - row
        corner = self._integral
        above = corner[row, column] * (1 - right) + corner[row, column + 1] * right
        below = corner[row + 1, column] * (1 - right) + corner[row + 1, column + 1] * right
        area: np.ndarray = above * (1 - down) + below * down
        return area


def tissue_mask(
    slide: Slide, mpp: float = 8.0, min_fragment_um2: float = 25_000.0, max_hole_um2: float = 10_000.0
) -> TissueMask:
    """Find H&E-stained tissue by colour, on a grid of fixed um.

    The colour of the background is found and divided out; tissue is what absorbs green beyond a threshold (Otsu, 1979,
    held within fixed limits) and has the hue of a stain. Grey is not tissue, however dark: shadows, dust, black pen.
    Green and strong blue are pen, dropped with a margin. Red pen cannot be told from blood, and stays.

    Parameters
    ----------
    mpp
        um per pixel of the mask; a coarser slide sets its own.
    min_fragment_um2
        Smaller pieces of tissue are dropped, except those at the edge of the image, which may go on beyond it: an image
        that is all tissue and smaller than this (a region of interest, the inside of a core) is tissue.
    max_hole_um2
        Smaller holes are filled (the default fills lumina and single fat cells, and leaves fields of fat open).

    Raises
    ------
    SlideReadError
        The slide cannot be decoded.
    InputError
        An area is negative.
    """
    if not (min_fragment_um2 >= 0 and max_hole_um2 >= 0):
        raise InputError(
            f"areas must not be negative: min_fragment_um2={min_fragment_um2}, max_hole_um2={max_hole_um2}"
        )
    mpp = max(mpp, slide.mpp)
    mask = _find_tissue(slide.thumbnail(mpp), mpp)
    large = _drop_small(mask, min_fragment_um2, mpp, keep_at_edge=True)
    return TissueMask(_fill_holes(large, max_hole_um2, mpp), mpp)


def _find_tissue(rgb: np.ndarray, mpp: float) -> np.ndarray:
    smooth = [ndimage.uniform_filter(rgb[..., channel].astype(np.float32), 3, mode="nearest") for channel in range(3)]
    glass = _background(smooth)
    red, green, blue = (np.minimum(plane * (255 / shade), 255) for plane, shade in zip(smooth, glass, strict=True))
    strongest, chroma = _strongest_and_chroma([red, green, blue])
    saturation = chroma / np.maximum(strongest, 1)
    hue = _hue(red, green, blue, strongest, chroma)
    density = -np.log10(np.maximum(green, 1) / 255)
    pen = _within(hue, _GREEN_PEN_HUE) & (saturation > _GREEN_PEN_SATURATION)
    pen |= _within(hue, _BLUE_PEN_HUE) & (saturation > _BLUE_PEN_SATURATION)
    margin_px = round(_PEN_MARGIN_UM / mpp)
    pen = ndimage.maximum_filter(_drop_small(pen, _MIN_PEN_UM2, mpp), 2 * margin_px + 1)
    stained = (chroma >= _MIN_CHROMA) & ~_within(hue, _NOT_TISSUE_HUE) & ~pen
    threshold = np.clip(_otsu(np.where(stained, density, 0)), *_DENSITY_RANGE)
    tissue: np.ndarray = stained & (density > threshold)
    return tissue


def _background(planes: list[np.ndarray]) -> list[float]:
    """Colour of the empty glass: the lightest frequent shade of grey; white where there is hardly any."""
    light, chroma = _strongest_and_chroma(planes)
    neutral = (chroma <= _BACKGROUND_CHROMA) & (light >= _BACKGROUND_LIGHT)
    shades = np.histogram(light[neutral], bins=32, range=(0, 256))[0]
    if shades.sum() < _LEAST_BACKGROUND * light.size:
        return [255.0] * 3
    shade = np.flatnonzero(shades >= 0.2 * shades.max())[-1]
    glass = neutral & (light // 8 == shade)
    return [float(np.median(plane[glass])) for plane in planes]


def _strongest_and_chroma(planes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    red, green, blue = planes
    strongest = np.maximum(np.maximum(red, green), blue)
    return strongest, strongest - np.minimum(np.minimum(red, green), blue)


def _hue(red: np.ndarray, green: np.ndarray, blue: np.ndarray, strongest: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Hue in degrees, 0 to 360, red = 0 (0 for grey)."""
    safe = np.maximum(chroma, 1e-3)
    sector = np.where(
        strongest == red,
        (green - blue) / safe % 6,
        np.where(strongest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    degrees: np.ndarray = 60 * sector
    return degrees


def _within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values < limits[1])


def _otsu(values: np.ndarray) -> float:
    """Threshold of the largest variance between two classes (Otsu, 1979), over 256 bins of 0 to 1."""
    count, edges = np.histogram(values, bins=256, range=(0, 1))
    middle = (edges[:-1] + edges[1:]) / 2
    below, weighted = count.cumsum(), (count * middle).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = weighted / below - (weighted[-1] - weighted) / above
        between = np.nan_to_num(below * above * gap**2)
    return float(edges[between.argmax() + 1])


def _drop_small(mask: np.ndarray, area_um2: float, mpp: float, keep_at_edge: bool = False) -> np.ndarray:
    """Without the pieces (8-connected) smaller than an area; those at the edge are as large as what cannot be seen."""
    fragments, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    large = np.bincount(fragments.ravel()) * mpp**2 >= area_um2
    if keep_at_edge:
        for edge in _edges(fragments):
            large[edge] = True
    large[0] = False
    return np.asarray(large[fragments])


def _fill_holes(mask: np.ndarray, area_um2: float, mpp: float) -> np.ndarray:
    """With the enclosed holes smaller than an area filled; what reaches the edge of the slide is no hole."""
    holes, _ = ndimage.label(~mask, structure=np.ones((3, 3)))
    small = np.bincount(holes.ravel()) * mpp**2 < area_um2
    for edge in _edges(holes):
        small[edge] = False
    small[0] = True
    return np.asarray(small[holes])


def _edges(image: np.ndarray) -> tuple[np.ndarray, ...]:
    return image[0], image[-1], image[:, 0], image[:, -1]


#: Fragments nearer to each other than this belong to one piece.
GAP_UM = 100.0


def label_fragments(mask: TissueMask, gap_um: float = GAP_UM) -> tuple[np.ndarray, int]:
    """Connected pieces of tissue (8-connected, across gaps up to ``gap_um``), numbered by their left edge.

    Returns
    -------
    labels
        int32 of the mask's shape, 0 off the tissue.
    count
        How many pieces there are.
    """
    reach = gap_um / 2 / mask.mpp
    # The distance to tissue, not a dilation: its cost does not grow with the gap.
    near = ndimage.distance_transform_edt(~mask.mask) <= reach if mask.mask.any() else mask.mask
    labels, count = ndimage.label(near, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    order = sorted(range(count), key=lambda number: (boxes[number][1].start, boxes[number][0].start))
    rank = np.zeros(count + 1, np.int32)
    rank[np.asarray(order, int) + 1] = np.arange(1, count + 1)
    return np.where(mask.mask, rank[labels], 0).astype(np.int32), count


def fragment_at(labels: np.ndarray, mask_mpp: float, xy_px: np.ndarray, slide_mpp: float) -> np.ndarray:
    """The piece nearest to each place (n, 2), level-0 px: int32 (n,), 0 where the slide has none."""
    if not len(xy_px) or not labels.any():
        return np.zeros(len(xy_px), np.int32)
    column, row = np.floor(np.asarray(xy_px, float) * slide_mpp / mask_mpp).astype(int).T
    row, column = np.clip(row, 0, labels.shape[0] - 1), np.clip(column, 0, labels.shape[1] - 1)
    result = labels[row, column]
    off = result == 0
    if off.any():
        nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        result[off] = labels[tuple(axis[row[off], column[off]] for axis in nearest)]
    return np.asarray(result, np.int32)
