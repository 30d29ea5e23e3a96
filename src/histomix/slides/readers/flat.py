"""Flat image files: what their header says, and how they are decoded whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from ...common.memory import available_memory
from ...errors import SlideError, SlideReadError
from ..resample import on_white
from .jpeg import decode_jpeg
from .tiff import TiffPyramid
from .tiff_rules import DAMAGED, DECODE_ERRORS, TO_8_BIT

#: A flat image is held in memory whole; beyond this many bytes of RGB it is refused.
MAX_BYTES = 4 << 30
# What decoding takes at its height: Pillow's own pixels (of RGB 4 bytes too), ours, and coarser levels.
_BYTES_A_PIXEL = 9
_COMMON = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
_CONVERT = "Convert it, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class FlatImage:
    """The header of a flat image; ``decode()`` gives all of its pixels, uint8 RGB (height, width, 3)."""

    size_px: tuple[int, int]
    mpp_xy: tuple[float, float] | None
    decode: Callable[[], np.ndarray]


def open_flat(path: Path) -> FlatImage:
    """Read the header of a JPEG, PNG or TIFF file. Orientation tags are ignored: spots count raw pixels.

    Raises
    ------
    SlideError
        The file is of another kind, damaged, too large to be held, or has pixels that are not 8-bit grey or RGB(A).
    """
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic[:4] in _TIFF_MAGIC:
        image = _open_tiff(path)
    elif magic[:3] == b"\xff\xd8\xff":
        image = _open_pillow(path, JpegImagePlugin.JpegImageFile, b"\xff\xd9")
    elif magic == b"\x89PNG\r\n\x1a\n":
        image = _open_pillow(path, PngImagePlugin.PngImageFile, b"IEND\xaeB`\x82")
    elif (kind := image_kind(path)) is not None:
        raise SlideError(f"is a {kind} image, which histomix does not read", where=path, hint=_CONVERT)
    else:
        raise SlideError(
            "is not an image that is known here: OpenSlide does not recognise it, and it is no JPEG, PNG or TIFF",
            where=path,
            hint="Check that the path names the slide itself, and that it was copied whole",
        )
    width, height = image.size_px
    free = available_memory()
    if width * height * 3 > MAX_BYTES or (free is not None and width * height * _BYTES_A_PIXEL > free):
        limit = "" if free is None else f", {free / 2**30:.1f} GiB are free"
        raise SlideError(
            f"is a flat image of {width} x {height} px, which takes {width * height * _BYTES_A_PIXEL / 2**30:.1f} GiB "
            f"of memory to decode (the limit is {MAX_BYTES / 3 * _BYTES_A_PIXEL / 2**30:.1f} GiB{limit})",
            where=path,
            hint="Convert it to a tiled pyramid, for example: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
        )
    return image


def image_kind(path: Path) -> str | None:
    """What Pillow calls the format of an image file, of the common ones ("WEBP", "JPEG2000", ...); else None."""
    try:
        with Image.open(path, formats=_COMMON) as image:
            return image.format
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        return None


def _open_pillow(path: Path, plugin: type[Image.Image], end: bytes) -> FlatImage:
    # The plugin is called directly: Image.open refuses or warns of images above a size set for the web.
    def load() -> Image.Image:
        return plugin(path)  # type: ignore[call-arg]

    try:
        with load() as image:
            size, mode, layout = image.size, image.mode, str(getattr(image, "tile", ""))
    except DECODE_ERRORS as error:
        raise SlideError(f"cannot be decoded ({error})", where=path, hint=DAMAGED) from error
    if ";16" in layout or mode.startswith(("I", "F")):
        raise SlideError("has samples of more than 8 bits", where=path, hint=TO_8_BIT)
    if mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise SlideError(f"has pixels of the kind {mode}, not grey or RGB", where=path, hint=TO_8_BIT)
    # Pillow fills the missing part of a truncated file with grey when a program has set LOAD_TRUNCATED_IMAGES.
    with path.open("rb") as stream:
        stream.seek(-min(path.stat().st_size, 1 << 16), 2)
        if end not in stream.read():
            raise SlideError("is truncated: its end mark is missing", where=path, hint=DAMAGED)

    def decode() -> np.ndarray:
        if plugin is JpegImagePlugin.JpegImageFile:
            return decode_jpeg(path.read_bytes())
        with load() as image:
            image.load()
            wanted = "RGBA" if image.has_transparency_data else "RGB"
            width, height = image.size
            pixels = np.empty((height, width, 3), np.uint8)
            # In bands: colours that are mixed with white take 28 bytes a pixel. Pillow cuts none that are larger than
            # the images it opens.
            rows = min(_DECODED_PX, max(1, (Image.MAX_IMAGE_PIXELS or height * width) // width))
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                band = image.crop((0, top, width, bottom))
                pixels[top:bottom] = on_white(np.asarray(band if band.mode == wanted else band.convert(wanted)))
            return pixels

    return FlatImage(size, None, decode)


def _open_tiff(path: Path) -> FlatImage:
    tif = TiffPyramid(path)
    tif.close()
    if tif.has_empty(0):
        raise SlideError("is unfinished: some of its strips or tiles hold no data", where=path, hint=DAMAGED)

    def decode() -> np.ndarray:
        # Strip by strip: each is checked as it is decoded.
        source = TiffPyramid(path)
        try:
            return source.read_level(0, 0, 0, *source.size_px)
        finally:
            source.close()

    return FlatImage(tif.size_px, tif.mpp_xy, decode)


_FACTOR = 4
_DECODED_PX = 256
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
        except SlideError:
            raise  # it says which tile or strip
        except DECODE_ERRORS as error:
            raise SlideReadError(
                f"the image cannot be decoded ({error}); all of its {width} x {height} px are lost",
                where=self._path,
                hint="The file is damaged or cut short: copy or export it again",
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
