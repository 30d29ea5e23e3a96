"""Whole-slide formats through OpenSlide."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from ...errors import SlideError, SlideReadError
from ..dicom import check_series, is_ycbcr_called_rgb
from ..files import named_files
from ..resample import on_white
from .empty import check_white
from .jpeg2000_tiles import open_jpeg2000_tiles
from .jpeg_tiles import open_jpeg_tiles
from .tiff_rules import DAMAGED, PRINT_MPP, TiffFacts, is_level

# Formats whose JPEG tiles lie side by side, whole and without overlap.
_PLAIN_TILES = ("aperio", "generic-tiff")
_CODING = (
    "Its coding is none that is read here: export it with JPEG, for example: vips tiffsave IN OUT.tif --tile --pyramid"
)
# Formats that leave out the tiles of empty glass.
_SPARSE = ("philips",)
_LOG = logging.getLogger(__name__)


class OpenSlideReader:
    """Tiled, mostly pyramidal slides (SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF...). See `slide.Reader`.

    Any number of threads may read. An OpenSlide handle is dead after its first error, so a failed read is tried once
    more on a fresh handle; what fails there is the file's fault.
    """

    name = "openslide"

    def __init__(self, path: Path, facts: TiffFacts | None = None) -> None:
        self._path = path
        facts = facts or TiffFacts()
        named_files(path)
        check_series(path)
        self._handle: openslide.OpenSlide | None = self._open()
        self.size_px = self._handle.dimensions
        properties = self._handle.properties
        # Any image with tiles may be among its levels: a label, another focus, another stain.
        sizes = self._handle.level_dimensions
        self._levels = [
            number
            for number, size in enumerate(sizes)
            if number == 0 or (size not in facts.labels and is_level(size, sizes[0]) and size not in sizes[:number])
        ]
        self._sizes = [sizes[number] for number in self._levels]
        self.downsamples = tuple(self._handle.level_downsamples[number] for number in self._levels)
        self.bounds_px = (
            int(properties.get(openslide.PROPERTY_NAME_BOUNDS_X, 0)),
            int(properties.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0)),
        )
        self.mpp_xy = facts.mpp_xy or _mpp_xy(properties)
        self.power = _power(properties)
        plain = properties.get(openslide.PROPERTY_NAME_VENDOR) in _PLAIN_TILES
        self._tiles = open_jpeg_tiles(path, self._sizes) if plain else None
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "")
        coded = (*_PLAIN_TILES, "dicom")
        self._jpeg2000 = open_jpeg2000_tiles(path, self._sizes, self.downsamples, vendor) if vendor in coded else None
        self._empty = [facts.empty.get(size) for size in self._sizes]
        self._sparse = properties.get(openslide.PROPERTY_NAME_VENDOR) in _SPARSE
        # The header of a DICOM may contradict the markers of its JPEG frames: libdicom believes the header.
        self._ycbcr = properties.get(openslide.PROPERTY_NAME_VENDOR) == "dicom" and is_ycbcr_called_rgb(path)
        if self._ycbcr:
            _LOG.warning("%s: its header says RGB, its JPEG frames YCbCr; the frames are believed", path)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level; see `slide.Reader`.

        Raises
        ------
        SlideReadError
            The tiles under the rectangle cannot be decoded.
        """
        level_width, level_height = self._sizes[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, level_width), min(y + height, level_height)
        if (left, top, right, bottom) == (x, y, x + width, y + height):
            return self._pixels(level, x, y, width, height)
        result = np.full((height, width, 3), 255, np.uint8)
        if left < right and top < bottom:
            pixels = self._pixels(level, left, top, right - left, bottom - top)
            result[top - y : bottom - y, left - x : right - x] = pixels
        return result

    def close(self) -> None:
        """Free the file."""
        if self._tiles is not None:
            self._tiles.close()
        if self._jpeg2000 is not None:
            self._jpeg2000.close()
        # A thread may still read: the handle is freed when its last user lets go of it.
        self._handle = None

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        if (empty := self._empty[level]) is not None:
            for box in empty.under(x, y, width, height):
                check_white(self, self._path, level, box, sparse=self._sparse)
        tiles, handle = self._tiles, self._handle
        pixels = tiles.read(level, x, y, width, height) if tiles is not None and handle is not None else None
        if pixels is not None:
            return pixels
        if self._jpeg2000 is not None and handle is not None:
            self._jpeg2000.check(level, x, y, width, height)
        region = self._region(level, x, y, width, height)
        return on_white(_from_ycbcr(region) if self._ycbcr else region)

    def _region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        downsample = self.downsamples[level]
        request = ((round(x * downsample), round(y * downsample)), self._levels[level], (width, height))
        handle = self._handle
        if handle is None:
            raise SlideError("the slide has been closed", where=self._path)
        try:
            return np.asarray(handle.read_region(*request))
        except openslide.OpenSlideError:
            fresh = self._open()
        try:
            pixels = np.asarray(fresh.read_region(*request))
        except openslide.OpenSlideError as error:
            self._handle = self._open()
            left, top = request[0]
            raise SlideReadError(
                f"the pixels at x={left}, y={top} (level-0 px; {width} x {height} px of level {level}) "
                f"cannot be decoded ({error})",
                where=self._path,
                hint=DAMAGED,
            ) from error
        self._handle = fresh
        return pixels

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self._path)
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"cannot be opened by OpenSlide ({error})",
                where=self._path,
                hint=_CODING if "nsupported" in str(error) else DAMAGED,
            ) from error


def _from_ycbcr(rgba: np.ndarray) -> np.ndarray:
    """Pixels whose three samples are YCbCr, as RGB; alpha stays."""
    rgb = np.asarray(Image.fromarray(np.ascontiguousarray(rgba[..., :3]), mode="YCbCr").convert("RGB"))
    return np.concatenate([rgb, rgba[..., 3:]], axis=-1)


def _power(properties: Mapping[str, str]) -> float | None:
    """Power of the objective, where the file says so."""
    try:
        power = float(properties[openslide.PROPERTY_NAME_OBJECTIVE_POWER])
    except (KeyError, ValueError):
        return None
    return power if 0 < power < 1000 else None


def _mpp_xy(properties: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        x, y = (float(properties[name]) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    except (KeyError, ValueError):
        return None
    plain = properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff"
    if plain and math.isfinite(x) and max(x, y) > PRINT_MPP:
        return None
    return x, y
