"""Folds: narrow bands where the section lies double, and absorbs about twice what the tissue beside them does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .pieces import drop_small

# A fold is so many times as dense as the tissue within this distance, and of nearly its hue: a lymphoid aggregate is
# dense too, but bluer than what lies around it, and blood is redder.
_TIMES_DENSER = 1.7
_AROUND_UM = 800.0
_LEAST_DENSITY = 0.75
_MOST_OTHER_HUE = 0.1
# Of red, green and blue together, at 16 um per px. Longer than this, narrower than this, and much longer than wide.
_LENGTH_UM = 250.0
_WIDTH_UM = (24.0, 200.0)
_ELONGATION = 3.5
_MOST_BENT = 0.35


def find_folds(planes: Sequence[np.ndarray], glass: Sequence[float], tissue: np.ndarray, mpp: float) -> np.ndarray:
    """Folds in stained tissue.

    The rule is meant to be sure rather than to find all, since what it finds is not read. Small folds, folds at the
    border of a dense region and folds of pale tissue are missed.

    Parameters
    ----------
    planes
        Red, green and blue, float32 (height, width), 0 to 255.
    glass
        Their values on empty glass.
    tissue
        bool (height, width), stained tissue.
    mpp
        um per pixel.

    Returns
    -------
    bool (height, width), on ``tissue`` alone.
    """
    folds = np.zeros_like(tissue)
    height, width = (side // 2 * 2 for side in tissue.shape)
    if min(height, width) < 6 or not tissue.any():
        return folds
    coarse_mpp, here = 2 * mpp, _halved(tissue[:height, :width].astype(np.float32)) > 0.75
    densities = [
        -np.log10(np.clip(_smooth(plane[:height, :width]) / np.float32(shade), 1 / 255, 1))
        for plane, shade in zip(planes, glass, strict=True)
    ]
    density = densities[0] + densities[1] + densities[2]
    hue = densities[0] / np.maximum(density, 1e-3)
    weight, side = here.astype(np.float32), round(_AROUND_UM / coarse_mpp) | 1
    room = np.maximum(ndimage.uniform_filter(weight, side, mode="constant"), 1e-3)
    usual, usual_red = (
        ndimage.uniform_filter(one * weight, side, mode="constant") / room for one in (density, densities[0])
    )
    dark = here & (density > _TIMES_DENSER * usual) & (density > _LEAST_DENSITY)
    dark &= np.abs(hue - usual_red / np.maximum(usual, 1e-3)) < _MOST_OTHER_HUE
    dark = ndimage.binary_closing(dark, np.ones((3, 3))) & here
    dark = drop_small(dark, _LENGTH_UM * _WIDTH_UM[0], coarse_mpp)
    narrow = ndimage.binary_dilation(_narrow(dark, coarse_mpp), np.ones((3, 3))) & here
    folds[:height, :width] = np.repeat(np.repeat(narrow, 2, axis=0), 2, axis=1)
    return np.asarray(folds & tissue)


def _narrow(dark: np.ndarray, mpp: float) -> np.ndarray:
    """The pieces that are long bands."""
    from skimage.measure import regionprops_table

    labels, count = ndimage.label(dark, np.ones((3, 3)))
    if not count:
        return dark
    names = ("axis_major_length", "axis_minor_length", "area", "intensity_max")
    table = regionprops_table(labels, ndimage.distance_transform_edt(dark), properties=names)
    wide = np.maximum(2 * table["intensity_max"] - 1, 1) * mpp
    # Axes are those of the ellipse with the same moments, longer than the band.
    long, across = table["axis_major_length"] * mpp, table["axis_minor_length"] * mpp
    length = table["area"] * mpp**2 / wide
    keep = (
        (np.minimum(0.87 * long, length) >= _LENGTH_UM) & (length >= _ELONGATION * wide) & (across <= _MOST_BENT * long)
    )
    keep &= (wide >= _WIDTH_UM[0]) & (wide <= _WIDTH_UM[1])
    return np.asarray(np.concatenate([[False], keep])[labels])


def _smooth(plane: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.uniform_filter(_halved(plane), 3, mode="nearest"))


def _halved(plane: np.ndarray) -> np.ndarray:
    half: np.ndarray = (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) * np.float32(0.25)
    return half
