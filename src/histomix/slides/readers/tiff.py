"""TIFF that OpenSlide does not see, or sees wrong: levels in SubIFDs, separate planes, other codecs, strips."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ...errors import SlideError, SlideReadError
from ..resample import on_white
from .codestream import check_jpeg2000, check_webp
from .empty import check_white
from .jpeg import decode_jpeg
from .tiff_rules import (
    ALPHAS,
    DAMAGED,
    DECODE_ERRORS,
    check_kind,
    check_whole,
    empty_tiles,
    slide_levels,
    slide_series,
    tiff_mpp,
)

#: Bytes of decoded tiles that are kept.
CACHE_BYTES = 64 << 20
#: A tiled image of one level is read by tiles from this many pixels on; below, it is held in memory.
LARGE_PX = 1 << 26
# Codecs whose libraries fill up what is lost.
_CHECKS: dict[int, Callable[[bytes], None]] = {
    **dict.fromkeys((33003, 33004, 33005, int(tifffile.COMPRESSION.JPEG2000)), check_jpeg2000),
    **dict.fromkeys((34927, int(tifffile.COMPRESSION.WEBP)), check_webp),
}


class TiffPyramid:
    """Levels of one image in a TIFF file, read tile by tile or strip by strip. See `slide.Reader`.

    Any number of threads may read. 8-bit grey or RGB(A), its samples side by side or in separate planes; any codec
    that imagecodecs has; an orientation tag is not followed, since spots count raw pixels. A tile that holds no data
    is white where the next level is, and unreadable elsewhere.

    Raises
    ------
    SlideError
        The file is damaged, or has other pixels.
    """

    name = "tifffile"
    bounds_px = (0, 0)

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tif: tifffile.TiffFile | None = tifffile.TiffFile(path)
        except DECODE_ERRORS as error:
            raise SlideError(f"cannot be read as TIFF ({error})", where=path, hint=DAMAGED) from error
        try:
            check_whole(self._tif, path)
            self.size_px = check_kind(self._tif, path)
            self._levels = [_Level(series) for series in slide_levels(self._tif)]
            self.mpp_xy = tiff_mpp(self._tif)
        except (SlideError, *DECODE_ERRORS) as error:
            self._tif.close()
            if isinstance(error, SlideError):
                raise
            raise SlideError(f"cannot be read as TIFF ({error})", where=path, hint=DAMAGED) from error
        area = self.size_px[0] * self.size_px[1]
        self.downsamples = tuple(float(np.sqrt(area / (level.width * level.height))) for level in self._levels)
        self._tiles: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level; see `slide.Reader`.

        Raises
        ------
        SlideReadError
            A tile under the rectangle cannot be decoded.
        """
        source = self._levels[level]
        result = np.full((height, width, 3), 255, np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, source.width), min(y + height, source.height)
        if left >= right or top >= bottom:
            return result
        for row in range(top // source.tile_height, (bottom - 1) // source.tile_height + 1):
            for column in range(left // source.tile_width, (right - 1) // source.tile_width + 1):
                x0, y0 = column * source.tile_width, row * source.tile_height
                number = row * source.across + column
                if number in source.empty:
                    check_white(self, self._path, level, (x0, y0, source.tile_width, source.tile_height))
                    continue
                pixels = self._tile(level, number)
                inside = pixels[max(top - y0, 0) : bottom - y0, max(left - x0, 0) : right - x0]
                to_row, to_column = max(y0, top) - y, max(x0, left) - x
                result[to_row : to_row + inside.shape[0], to_column : to_column + inside.shape[1]] = inside
        return result

    def has_empty(self, level: int) -> bool:
        """Whether tiles or strips of a level hold no data."""
        return bool(self._levels[level].empty)

    def close(self) -> None:
        """Free the file and the memory."""
        with self._lock:
            if self._tif is not None:
                self._tif.close()
            self._tif = None
            self._tiles.clear()
            self._held = 0

    def _tile(self, level: int, number: int) -> np.ndarray:
        with self._lock:
            if self._tif is None:
                raise SlideError("the slide has been closed", where=self._path)
            tile = self._tiles.get((level, number))
            if tile is not None:
                self._tiles.move_to_end((level, number))
                return tile
            data = self._levels[level].data(self._tif, number)
        try:
            pixels = self._levels[level].decode(number, data)
        except DECODE_ERRORS as error:
            source = self._levels[level]
            x0, y0 = number % source.across * source.tile_width, number // source.across * source.tile_height
            scale = self.downsamples[level]
            raise SlideReadError(
                f"the tile at x={x0 * scale:.0f}, y={y0 * scale:.0f} (level-0 px, level {level}) cannot be decoded "
                f"({error})",
                where=self._path,
                hint=DAMAGED,
            ) from error
        with self._lock:
            if (level, number) not in self._tiles:
                self._tiles[level, number] = pixels
                self._held += pixels.nbytes
            while self._held > CACHE_BYTES:
                self._held -= self._tiles.popitem(last=False)[1].nbytes
        return pixels


class _Level:
    """One level: where its tiles (or strips) are, and how they become RGB."""

    def __init__(self, series: Any) -> None:
        self.page = series.keyframe
        self.planes = [page for page in series.pages if page is not None]
        self.width, self.height = int(self.page.imagewidth), int(self.page.imagelength)
        self.tile_width = int(self.page.tilewidth if self.page.is_tiled else self.width)
        self.tile_height = int(self.page.tilelength if self.page.is_tiled else min(self.page.rowsperstrip, self.height))
        self.across, self.down = -(-self.width // self.tile_width), -(-self.height // self.tile_height)
        separate = self.page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        self.samples = int(self.page.samplesperpixel) if separate else 1
        self.empty = frozenset[int]().union(*(empty_tiles(page, self.across * self.down) for page in self.planes))

    def data(self, tif: tifffile.TiffFile, number: int) -> list[tuple[Any, int, bytes]]:
        """Bytes of each plane of a tile, with its page and its number there."""
        parts: list[tuple[Any, int, bytes]] = []
        for page in self.planes:
            for sample in range(self.samples):
                index = number + sample * self.across * self.down
                tif.filehandle.seek(page.dataoffsets[index])
                parts.append((page, index, tif.filehandle.read(page.databytecounts[index])))
        return parts

    def decode(self, number: int, parts: list[tuple[Any, int, bytes]]) -> np.ndarray:
        """A tile as RGB, uint8 (rows, columns, 3).

        Raises
        ------
        ValueError
            The bytes are cut short or no tile; codecs raise others of `DECODE_ERRORS`.
        """
        planes = []
        for page, index, data in parts:
            if self.page.compression == tifffile.COMPRESSION.JPEG and self.page.samplesperpixel in (1, 3):
                grey = self.samples > 1 or self.page.samplesperpixel == 1
                stored_rgb = self.page.photometric == tifffile.PHOTOMETRIC.RGB and not page.is_jfif and not grey
                tables = page.jpegtables
                pixels = decode_jpeg(data, tables=tables, stored_rgb=stored_rgb, grey=grey, of_three=not grey)
            else:
                if (check := _CHECKS.get(int(self.page.compression))) is not None:
                    check(data)
                decoded = self.page.decode(data, index, jpegtables=page.jpegtables)[0]
                if decoded is None or decoded.ndim != 4 or decoded.dtype != np.uint8:
                    raise ValueError("it holds no 8-bit pixels")
                pixels = decoded[0]
            # A strip or tile at the edge may be stored in full or cut to the image.
            rows = min(self.tile_height, self.height - number // self.across * self.tile_height)
            columns = min(self.tile_width, self.width - number % self.across * self.tile_width)
            fits = rows <= pixels.shape[0] <= self.tile_height and columns <= pixels.shape[1] <= self.tile_width
            if not fits:
                raise ValueError(f"it holds {pixels.shape[1]} x {pixels.shape[0]} px of {columns} x {rows}")
            planes.append(pixels)
        samples = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
        colours = 3 if samples.shape[-1] >= 3 else 1
        rgb = np.broadcast_to(samples[..., :colours], (*samples.shape[:2], 3))
        if self.page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            rgb = 255 - rgb
        if samples.shape[-1] > colours and self.page.extrasamples[:1] and self.page.extrasamples[0] in ALPHAS:
            rgba = np.concatenate([rgb, samples[..., colours : colours + 1]], axis=-1)
            rgb = on_white(rgba, premultiplied=self.page.extrasamples[0] == tifffile.EXTRASAMPLE.ASSOCALPHA)
        return np.ascontiguousarray(rgb)


def suits_tiles(tif: tifffile.TiffFile) -> bool:
    """Whether an image is better read by tiles than held in memory: it has levels, or is tiled and large."""
    page = slide_series(tif).keyframe
    if len(slide_levels(tif)) > 1:
        return True
    return bool(page.is_tiled) and page.imagewidth * page.imagelength > LARGE_PX
