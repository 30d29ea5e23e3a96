"""JPEG 2000 tiles that OpenSlide decodes. It fills up what is lost without a word, so streams are looked at before.

They are those of Aperio (compression 33003 and 33005) and of DICOM. Each tile is looked at once.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from ...errors import SlideReadError
from ..dicom import same_series
from .codestream import check_jpeg2000, has_end
from .tiff_rules import DAMAGED, DECODE_ERRORS

_TIFF = (33003, 33004, 33005, int(tifffile.COMPRESSION.JPEG2000))
_DICOM = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
# Tag, kind and length of the element that holds the pixels.
_PIXELS_HEADER = 12
#: Tiles that tell whether the encoder of a slide writes the mark of an end.
_SAMPLE = 9


@dataclass(frozen=True, eq=False)
class Streams:
    """Where the tiles of one level lie: row by row, (offset, length) int64 (n, 2) in a file."""

    path: Path
    tile_px: tuple[int, int]
    across: int
    places: np.ndarray


class Jpeg2000Tiles:
    """Looks at the streams of tiles before they are decoded; any number of threads may.

    Parameters
    ----------
    path
        The slide.
    levels
        Its levels, finest first; None for one of another coding.
    downsamples
        Of the levels.
    """

    def __init__(self, path: Path, levels: Sequence[Streams | None], downsamples: Sequence[float]) -> None:
        self._path, self._levels, self._downsamples = path, list(levels), list(downsamples)
        self._whole = [None if one is None else np.zeros(len(one.places), bool) for one in levels]
        self._files: dict[Path, BinaryIO] = {}
        self._lock = threading.Lock()
        self._ends = self._writes_ends()

    def check(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Look at the tiles under a rectangle inside a level.

        Raises
        ------
        SlideReadError
            A stream is cut, has a hole, or its parts do not follow each other.
        """
        source, whole = self._levels[level], self._whole[level]
        if source is None or whole is None:
            return
        tile_width, tile_height = source.tile_px
        for row in range(y // tile_height, (y + height - 1) // tile_height + 1):
            for column in range(x // tile_width, (x + width - 1) // tile_width + 1):
                number = row * source.across + column
                if number >= len(whole) or whole[number] or not source.places[number, 1]:
                    continue
                try:
                    check_jpeg2000(self._data(source, number), ends=self._ends)
                except (ValueError, OSError, struct.error) as error:
                    scale = self._downsamples[level]
                    raise SlideReadError(
                        f"the tile at x={column * tile_width * scale:.0f}, y={row * tile_height * scale:.0f} "
                        f"(level-0 px, level {level}) cannot be decoded ({error})",
                        where=self._path,
                        hint=DAMAGED,
                    ) from error
                whole[number] = True

    def close(self) -> None:
        """Free the files."""
        with self._lock:
            for stream in self._files.values():
                stream.close()
            self._files.clear()

    def _writes_ends(self) -> bool:
        source = next(one for one in self._levels if one is not None)
        numbers = np.linspace(0, len(source.places) - 1, min(_SAMPLE, len(source.places))).astype(int)
        found = [has_end(self._data(source, int(number))) for number in numbers]
        return any(found) or all(one is None for one in found)

    def _data(self, source: Streams, number: int) -> bytes:
        offset, length = (int(value) for value in source.places[number])
        with self._lock:
            if source.path not in self._files:
                self._files[source.path] = source.path.open("rb")
            stream = self._files[source.path]
            stream.seek(offset)
            return stream.read(length)


def open_jpeg2000_tiles(
    path: Path, sizes: Sequence[tuple[int, int]], downsamples: Sequence[float], vendor: str
) -> Jpeg2000Tiles | None:
    """The JPEG 2000 tiles of a slide whose levels have the given sizes; None where it has none."""
    try:
        found = _dicom_streams(path) if vendor == "dicom" else _tiff_streams(path)
    except DECODE_ERRORS:
        return None  # OpenSlide has opened the file: it reads what is not understood here
    levels = [found.get(size) for size in sizes]
    return Jpeg2000Tiles(path, levels, downsamples) if any(levels) else None


def _tiff_streams(path: Path) -> dict[tuple[int, int], Streams]:
    found: dict[tuple[int, int], Streams] = {}
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            if isinstance(page, tifffile.TiffPage) and page.is_tiled and int(page.compression) in _TIFF:
                places = np.array([page.dataoffsets, page.databytecounts], np.int64).T
                tile_px = (int(page.tilewidth), int(page.tilelength))
                size = (int(page.imagewidth), int(page.imagelength))
                found.setdefault(size, Streams(path, tile_px, -(-size[0] // tile_px[0]), places))
    return found


def _dicom_streams(path: Path) -> dict[tuple[int, int], Streams]:
    import pydicom

    found = {}
    for file in same_series(path):
        with file.open("rb") as stream:
            data: Any = pydicom.dcmread(stream, stop_before_pixels=True)
            if str(data.file_meta.get("TransferSyntaxUID", "")) not in _DICOM:
                continue
            size = (int(data.TotalPixelMatrixColumns), int(data.TotalPixelMatrixRows))
            tile_px = (int(data.Columns), int(data.Rows))
            across, down = (-(-whole // part) for whole, part in zip(size, tile_px, strict=True))
            full = str(data.get("DimensionOrganizationType", "")) == "TILED_FULL"
            places = _fragments(stream) if full else None
        # A frame in several pieces, or frames in an order of their own, are left to OpenSlide.
        if places is not None and len(places) == across * down:
            found[size] = Streams(file, tile_px, across, places)
    return found


def _fragments(stream: BinaryIO) -> np.ndarray | None:
    """Places of the pieces of encapsulated pixels, which begin where ``stream`` is; None where they do not add up."""
    stream.seek(_PIXELS_HEADER, os.SEEK_CUR)
    places = []
    while (header := stream.read(8))[:4] == _ITEM:
        length = int.from_bytes(header[4:], "little")
        places.append((stream.tell(), length))
        stream.seek(length, os.SEEK_CUR)
    # The first is the table of offsets.
    return np.array(places[1:], np.int64) if header[:4] == _SEQUENCE_END and len(places) > 1 else None
