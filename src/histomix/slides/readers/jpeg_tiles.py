"""Tiles of a JPEG-compressed TIFF pyramid: each decoded once and kept while its neighbours need it.

OpenSlide composes every rectangle anew, which takes several times longer than decoding it does. The commonest slides
(Aperio SVS and plain tiled TIFF with JPEG tiles) hold nothing but whole tiles side by side, so they are decoded here by
libjpeg (see `jpeg`), to the same pixels; whatever is out of the ordinary, or damaged, is left to OpenSlide.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from ...errors import SlideReadError
from .jpeg import decode_jpeg
from .tiff_rules import DAMAGED, DECODE_ERRORS

#: Bytes of decoded tiles that are kept: two rows of 256 px tiles of a slide 40,000 px wide.
CACHE_BYTES = 64 << 20


class JpegTiles:
    """Decoded tiles of the levels of one file; any number of threads may read.

    Parameters
    ----------
    tif
        The open file.
    pages
        The page of each level.
    path
        Of the file.
    """

    def __init__(self, tif: tifffile.TiffFile, pages: Sequence[tifffile.TiffPage], path: Path) -> None:
        self._path = path
        self._tif = tif
        self._pages = list(pages)
        self._across = [-(-page.imagewidth // page.tilewidth) for page in pages]
        self._tiles: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray | None:
        """Pixels inside a level, uint8 RGB (height, width, 3); None where OpenSlide must try.

        Raises
        ------
        SlideReadError
            A tile is damaged: OpenSlide would fill it up without a word.
        """
        page = self._pages[level]
        tile_width, tile_height = page.tilewidth, page.tilelength
        result = np.empty((height, width, 3), np.uint8)
        for row in range(y // tile_height, (y + height - 1) // tile_height + 1):
            top = row * tile_height
            inside_rows = slice(max(y - top, 0), min(y + height - top, tile_height))
            for column in range(x // tile_width, (x + width - 1) // tile_width + 1):
                left = column * tile_width
                pixels = self._tile(level, row * self._across[level] + column)
                if pixels is None:
                    return None
                inside = pixels[inside_rows, max(x - left, 0) : min(x + width - left, tile_width)]
                to_row, to_column = top + inside_rows.start - y, max(left - x, 0)
                result[to_row : to_row + inside.shape[0], to_column : to_column + inside.shape[1]] = inside
        return result

    def close(self) -> None:
        """Free the file and the memory."""
        with self._lock:
            self._tif.close()
            self._tiles.clear()
            self._held = 0

    def _tile(self, level: int, number: int) -> np.ndarray | None:
        with self._lock:
            tile = self._tiles.get((level, number))
            if tile is not None:
                self._tiles.move_to_end((level, number))
                return tile
            data = self._data(level, number)
        pixels = None if data is None else self._decode(level, number, data)
        if pixels is not None:
            with self._lock:
                self._keep((level, number), pixels)
        return pixels

    def _data(self, level: int, number: int) -> bytes | None:
        page, file = self._pages[level], self._tif.filehandle
        try:
            file.seek(page.dataoffsets[number])
            data = file.read(page.databytecounts[number])
        except (OSError, ValueError, IndexError):
            return None
        return data

    def _decode(self, level: int, number: int, data: bytes) -> np.ndarray | None:
        page = self._pages[level]
        stored_rgb = page.photometric == tifffile.PHOTOMETRIC.RGB and not page.is_jfif
        try:
            pixels = decode_jpeg(data, tables=page.jpegtables, stored_rgb=stored_rgb, of_three=True)
        except ValueError as error:
            across = self._across[level]
            x, y = number % across * page.tilewidth, number // across * page.tilelength
            scale = self._pages[0].imagewidth / page.imagewidth
            raise SlideReadError(
                f"the tile at x={x * scale:.0f}, y={y * scale:.0f} (level-0 px, level {level}) cannot be decoded "
                f"({error})",
                where=self._path,
                hint=DAMAGED,
            ) from error
        return pixels if pixels.shape == (page.tilelength, page.tilewidth, 3) else None

    def _keep(self, key: tuple[int, int], pixels: np.ndarray) -> None:
        if key not in self._tiles:
            self._tiles[key] = pixels
            self._held += pixels.nbytes
        while self._held > CACHE_BYTES:
            self._held -= self._tiles.popitem(last=False)[1].nbytes


def open_jpeg_tiles(path: Path, sizes: Sequence[tuple[int, int]]) -> JpegTiles | None:
    """The tiles of a pyramid whose levels have the given sizes; None unless all are whole JPEG tiles of RGB."""
    tif = None
    try:
        tif = tifffile.TiffFile(path)
        tiled = [page for page in tif.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
        by_size = {(page.imagewidth, page.imagelength): page for page in reversed(tiled)}
        pages = [by_size.get(size) for size in sizes]
        levels = [page for page in pages if page is not None and _is_plain(page)]
        if len(levels) == len(sizes):
            return JpegTiles(tif, levels, path)
    except DECODE_ERRORS:
        pass  # OpenSlide has opened the file: it reads what tifffile cannot
    if tif is not None:
        tif.close()
    return None


def _is_plain(page: tifffile.TiffPage) -> bool:
    across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    return (
        page.compression == tifffile.COMPRESSION.JPEG
        and page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        and page.samplesperpixel == 3
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and page.dtype == np.uint8
        and page.imagedepth == 1
        and len(page.dataoffsets) == across * down
        and min(page.databytecounts) > 0
    )
