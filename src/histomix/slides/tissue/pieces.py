"""Pieces of a mask, and its holes, by their size in um2."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# Rows counted together.
_BAND = 256


def pixels(labels: np.ndarray) -> np.ndarray:
    """Pixels of every label, int64 (labels,), counted a band of rows at a time: counting copies what it counts."""
    count = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int64)
    for start in range(0, len(labels), _BAND):
        count += np.bincount(labels[start : start + _BAND].ravel(), minlength=len(count))
    return count


def areas_um2(labels: np.ndarray, mpp: float) -> np.ndarray:
    """Area of every label, float64 (labels,)."""
    area: np.ndarray = pixels(labels) * mpp**2
    return area


def drop_small(mask: np.ndarray, area_um2: float, mpp: float, keep_at_edge: bool = False) -> np.ndarray:
    """Without the pieces (8-connected) smaller than an area; those at the edge are as large as what cannot be seen."""
    fragments, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    large = areas_um2(fragments, mpp) >= area_um2
    if keep_at_edge:
        for edge in _edges(fragments):
            large[edge] = True
    large[0] = False
    return np.asarray(large[fragments])


def fill_holes(mask: np.ndarray, area_um2: float, mpp: float) -> np.ndarray:
    """With the enclosed holes smaller than an area filled; what reaches the edge of the slide is no hole."""
    holes, _ = ndimage.label(~mask, structure=np.ones((3, 3)))
    small = areas_um2(holes, mpp) < area_um2
    for edge in _edges(holes):
        small[edge] = False
    small[0] = True
    return np.asarray(small[holes])


def _edges(image: np.ndarray) -> tuple[np.ndarray, ...]:
    return image[0], image[-1], image[:, 0], image[:, -1]
