"""Exact fractional resampling along one axis at a time, as sparse weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Taps:
    """Which source pixels make each output pixel, along one axis.

    Parameters
    ----------
    index, weight
        Both (outputs, taps): source pixel numbers, and weights that sum to 1 along a row.
    """

    index: np.ndarray
    weight: np.ndarray

    def part(self, outputs: slice) -> Taps:
        """The taps of some outputs."""
        return Taps(self.index[outputs], self.weight[outputs])

    @property
    def span(self) -> tuple[int, int]:
        """First and last + 1 source pixel that carry weight."""
        used = self.index[self.weight > 0]
        return int(used.min()), int(used.max()) + 1

    def matrix(self) -> sparse.csr_array:
        """The weights as a matrix (outputs, source pixels of `span`)."""
        outputs, taps = self.index.shape
        low, high = self.span
        columns = np.clip(self.index - low, 0, high - low - 1)
        rows = np.arange(0, outputs * taps + 1, taps)
        return sparse.csr_array(
            (self.weight.astype(np.float32).ravel(), columns.ravel(), rows), shape=(outputs, high - low)
        )


def axis_taps(start: float, scale: float, outputs: int) -> Taps:
    """Weights that turn an axis of source pixels into ``outputs`` pixels of ``scale`` source pixels each.

    Down-sampling (``scale`` >= 1) takes the mean over the exact, fractional stretch of source pixels that an output
    pixel covers. Up-sampling interpolates linearly between pixel centres. The two agree at a scale of 1.

    Parameters
    ----------
    start
        Left edge of the first output pixel, in source pixels (pixel 0 covers 0 to 1).
    """
    if scale >= 1:
        edges = start + scale * np.arange(outputs + 1)
        left, right = edges[:-1, None], edges[1:, None]
        index = np.floor(left).astype(np.int64) + np.arange(math.ceil(scale) + 1)
        weight = np.minimum(index + 1, right) - np.maximum(index, left)
    else:
        centre = start + scale * (np.arange(outputs) + 0.5) - 0.5
        first = np.floor(centre)
        beyond = centre - first
        index = first.astype(np.int64)[:, None] + np.arange(2)
        weight = np.stack([1 - beyond, beyond], axis=1)
    # Rounding errors of the edges must not pull in a further source pixel.
    weight = np.where(weight > _NEGLIGIBLE, weight, 0)
    return Taps(index, weight / weight.sum(axis=1, keepdims=True))


def resample(pixels: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Apply taps to an image that covers exactly their spans.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, channels).

    Returns
    -------
    uint8 (outputs of ``rows``, outputs of ``columns``, channels), rounded to nearest.
    """
    height, width, channels = pixels.shape
    tall = rows.matrix() @ pixels.reshape(height, width * channels).astype(np.float32)
    across = tall.reshape(-1, width, channels).transpose(1, 0, 2).reshape(width, -1)
    both = columns.matrix() @ across
    # Means of values from 0 to 255 stay there up to a rounding error, which rint takes away.
    result = np.rint(both, out=both).astype(np.uint8)
    return np.ascontiguousarray(result.reshape(result.shape[0], -1, channels).transpose(1, 0, 2))


def on_white(pixels: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """Lay RGBA over white.

    Parameters
    ----------
    pixels
        uint8 (height, width, 4); RGB (3 channels) comes back as it is.
    premultiplied
        The colours have already been multiplied by alpha.

    Returns
    -------
    uint8 RGB (height, width, 3).
    """
    colour = pixels[..., :3]
    if pixels.shape[-1] == 3:
        return colour
    alpha = pixels[..., 3:]
    if (alpha == 255).all():
        return colour
    share = alpha.astype(np.uint16)
    parts = colour.astype(np.uint16) if premultiplied else (colour * share + 127) // 255
    opaque: np.ndarray = np.minimum(parts + 255 - share, 255).astype(np.uint8)
    return opaque
