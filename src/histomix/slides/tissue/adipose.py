"""Fields of fat: lacunae as white as the glass, between septa that are only just stained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .pieces import areas_um2, pixels

# A septum is thinner than this, and darker than what lies around it by this density of green or by so many times the
# noise of a pixel. Its colour shows in the mean of many only (JPEG keeps little of the colour of thin lines): so much
# of their density must be stain, which is 0 for grey.
_SEPTUM_UM = 24.0
_SEPTUM_DENSITY = 0.01
_LEAST_COLOUR = 0.08
_ABOVE_NOISE = 7.0
_SEPTUM_LENGTH_UM = 32.0
# A fat cell is at most about 140 um wide, so that no point of a field lies farther than this from a septum or tissue.
_LACUNA_UM = 72.0
# In a square of this side, at least this share of what is not tissue is septum, and at least this share is as pale as
# glass: a tear or a lumen has no septa in it, and loose stroma has no lacunae.
_AROUND_UM = 240.0
_LEAST_SEPTA = 0.08
_LEAST_PALE = 0.4
_PALE_DENSITY = 0.03
# What of the tissue is wider than this is no septum; it ends gradually, and so near to it nothing is taken for one.
_BULK_UM = 40.0
_EDGE_UM = 16.0
_LEAST_FIELD_UM2 = 10_000.0
# A field that touches no tissue must be this large.
_LEAST_ALONE_UM2 = 250_000.0
_TOUCH_UM = 48.0


def find_fat(planes: Sequence[np.ndarray], glass: Sequence[float], tissue: np.ndarray, mpp: float) -> np.ndarray:
    """Fields of fat beside or between tissue.

    Septa are thin lines of stain (a white top-hat of the stain's density). Where they stand so close that a disc of a
    fat cell's size fits nowhere between them (a morphological closing), the lacunae among them are fat.

    Parameters
    ----------
    planes
        Red, green and blue, float32 (height, width), 0 to 255; white where nothing is to be found (pen).
    glass
        Their values on empty glass.
    tissue
        bool (height, width), what has been found by its stain.
    mpp
        um per pixel.

    Returns
    -------
    bool (height, width), nowhere on ``tissue``.
    """
    nothing = np.zeros_like(tissue)
    if min(tissue.shape) * mpp < _AROUND_UM or tissue.all():
        return nothing
    stain, density = _stain(planes, glass)
    bulk = _opened(tissue, round(_BULK_UM / mpp) | 1)
    clear = ~ndimage.maximum_filter(bulk, 2 * max(1, round(_EDGE_UM / mpp)) + 1)
    septa = _septa(density, clear, mpp)
    if not septa.any():
        return nothing
    # Lacunae are large: half the resolution serves, at a quarter of the cost.
    coarse_mpp, height, width = 2 * mpp, *tissue.shape
    some_tissue = _pooled(tissue, np.maximum)
    side = round(_AROUND_UM / coarse_mpp) | 1

    def around(image: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.uniform_filter(_pooled(image.astype(np.float32), np.add), side, mode="constant"))

    room = np.maximum(around(clear), 1e-3)
    field = _closed(_pooled(septa, np.maximum) | some_tissue, _LACUNA_UM / coarse_mpp)
    field &= (around(septa) >= _LEAST_SEPTA * room) & (around((density < _PALE_DENSITY) & clear) >= _LEAST_PALE * room)
    field &= around(stain * septa) >= _LEAST_COLOUR * around(density * septa)
    field = _opened(field & ~_pooled(bulk, np.minimum), 3)
    field = _large_enough(field, some_tissue, coarse_mpp)
    fat: np.ndarray = np.repeat(np.repeat(field, 2, axis=0), 2, axis=1)[:height, :width] & ~tissue
    return fat


def _stain(planes: Sequence[np.ndarray], glass: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Density of stain (0 for grey), and of green."""
    densities = (
        -np.log10(np.clip(plane * np.float32(1 / shade), 1 / 255, 1))
        for plane, shade in zip(planes, glass, strict=True)
    )
    red, green = next(densities), next(densities)
    least = np.minimum(red, next(densities), out=red)
    return green - least, green


def _septa(density: np.ndarray, clear: np.ndarray, mpp: float) -> np.ndarray:
    width = 2 * max(1, round(_SEPTUM_UM / mpp)) + 1
    thin = density - ndimage.grey_opening(density, size=(width, width))
    threshold = max(_SEPTUM_DENSITY, _ABOVE_NOISE * _noise(density, clear))
    septa = (thin > threshold) & clear
    lines, _ = ndimage.label(septa, np.ones((3, 3)))
    long = pixels(lines) >= max(2, round(_SEPTUM_LENGTH_UM / mpp))
    long[0] = False
    return np.asarray(long[lines])


def _noise(density: np.ndarray, clear: np.ndarray) -> float:
    """Standard deviation of a pixel of glass, or of lacunae: from the median step between neighbours."""
    steps = np.abs(np.diff(density, axis=1))[clear[:, 1:] & clear[:, :-1]]
    return float(1.4826 * np.median(steps) / 2**0.5) if steps.size else 0.0


def _opened(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(ndimage.maximum_filter(ndimage.minimum_filter(image, side), side))


def _closed(seeds: np.ndarray, radius: float) -> np.ndarray:
    """Morphological closing by a disc, through distances: its cost does not grow with the disc.

    What touches the edge of the image goes on beyond it, so that lacunae there are closed and glass is not.
    """
    margin = 2 * int(radius) + 2
    near = ndimage.distance_transform_edt(~np.pad(seeds, margin, mode="edge")) <= radius
    if near.all():
        return np.ones_like(seeds)
    return np.asarray((ndimage.distance_transform_edt(near) > radius)[margin:-margin, margin:-margin])


def _large_enough(field: np.ndarray, tissue: np.ndarray, mpp: float) -> np.ndarray:
    labels, count = ndimage.label(field)
    area = areas_um2(labels, mpp)
    beside = np.zeros(count + 1, bool)
    beside[np.unique(labels[ndimage.maximum_filter(tissue, 2 * max(1, round(_TOUCH_UM / mpp)) + 1)])] = True
    keep = (area >= _LEAST_FIELD_UM2) & (beside | (area >= _LEAST_ALONE_UM2))
    keep[0] = False
    return np.asarray(keep[labels])


def _pooled(image: np.ndarray, how: np.ufunc) -> np.ndarray:
    """Half the resolution: the greatest, least or sum of each four pixels."""
    even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2)), mode="edge")
    return np.asarray(how(how(even[::2, ::2], even[1::2, ::2]), how(even[::2, 1::2], even[1::2, 1::2])))
