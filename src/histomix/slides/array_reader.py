"""Flat images (JPEG, PNG, TIFF) held in memory."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SlideError, SlideReadError
from .flat import DECODE_ERRORS, open_flat

_FACTOR = 4
_SMALLEST_PX = 1024
_BAND_PX = 1024


class ArrayReader:
    """A flat image, decoded whole at the first read, and coarser copies of it made when first asked for.

    Any number of threads may read. See `slide.Reader`.
    """

    name = "array"
    bounds_px = (0, 0)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._image = open_flat(path)
        self.size_px = self._image.size_px
        self.mpp_xy = self._image.mpp_xy
        self.downsamples: tuple[float, ...] = (1.0,)
        while max(self.size_px) / self.downsamples[-1] > _SMALLEST_PX:
            self.downsamples += (self.downsamples[-1] * _FACTOR,)
        self._levels: list[np.ndarray] | None = []
        self._lock = threading.Lock()

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level; see `slide.Reader`.

        Raises
        ------
        SlideReadError
            The file cannot be decoded.
        """
        pixels = self._level(level)
        result = np.full((height, width, 3), 255, np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, pixels.shape[1]), min(y + height, pixels.shape[0])
        if left < right and top < bottom:
            result[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
        return result

    def close(self) -> None:
        """Free the memory."""
        self._levels = None

    def _level(self, level: int) -> np.ndarray:
        with self._lock:
            levels = self._levels
            if levels is None:
                raise SlideError("the slide has been closed", where=self._path)
            while len(levels) <= level:
                levels.append(_reduce(levels[-1]) if levels else self._decode())
            return levels[level]

    def _decode(self) -> np.ndarray:
        width, height = self.size_px
        try:
            pixels = self._image.decode()
        except DECODE_ERRORS as error:
            raise SlideReadError(
                f"the image cannot be decoded ({error}); all of its {width} x {height} px are lost",
                where=self._path,
                mend="The file is damaged or cut short: copy or export it again",
            ) from error
        if pixels.shape != (height, width, 3):
            raise SlideReadError(
                f"decodes to {pixels.shape}, but its header says {width} x {height} px", where=self._path
            )
        return pixels


def _reduce(pixels: np.ndarray) -> np.ndarray:
    """Block means; in bands, since Pillow's own copy of the pixels takes more room than the pixels."""
    bands = [
        np.asarray(Image.fromarray(pixels[row : row + _BAND_PX]).reduce(_FACTOR))
        for row in range(0, pixels.shape[0], _BAND_PX)
    ]
    return np.concatenate(bands)
