"""Flat image files: what their header says, and how they are decoded whole."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, JpegImagePlugin, PngImagePlugin

from ...errors import SlideError, SlideReadError
from ..resample import on_white

#: A flat image is held in memory whole; beyond this many bytes of RGB it is refused.
MAX_BYTES = 4 << 30
_DAMAGED = "The file is damaged or cut short: copy or export it again"
_TO_8_BIT = "Export it as 8-bit RGB"
# What tifffile and its codecs raise on damaged files.
DECODE_ERRORS = (
    tifffile.TiffFileError, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SyntaxError,
    struct.error, ArithmeticError,
)  # fmt: skip
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UM_PER_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
COLOURS = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
ALPHAS = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)


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
    else:
        raise SlideError(
            "is not an image that is known here: OpenSlide does not recognise it, and it is no JPEG, PNG or TIFF",
            where=path,
            hint="Check that the path names the slide itself, and that it was copied whole",
        )
    width, height = image.size_px
    if width * height * 3 > MAX_BYTES:
        raise SlideError(
            f"is a flat image of {width} x {height} px, which would take {width * height * 3 / 2**30:.1f} GiB of "
            f"memory (the limit is {MAX_BYTES / 2**30:g} GiB)",
            where=path,
            hint="Convert it to a tiled pyramid, for example: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
        )
    return image


def _open_pillow(path: Path, plugin: type[Image.Image], end: bytes) -> FlatImage:
    # The plugin is called directly: Image.open refuses or warns of images above a size set for the web.
    def load() -> Image.Image:
        return plugin(path)  # type: ignore[call-arg]

    try:
        with load() as image:
            size, mode, layout = image.size, image.mode, str(getattr(image, "tile", ""))
    except DECODE_ERRORS as error:
        raise SlideError(f"cannot be decoded ({error})", where=path, hint=_DAMAGED) from error
    if mode not in ("1", "L", "LA", "P", "RGB", "RGBA") or ";16" in layout:
        raise SlideError(f"has pixels of the kind {mode}, not 8-bit grey or RGB", where=path, hint=_TO_8_BIT)
    # Pillow fills the missing part of a truncated file with grey when a program has set LOAD_TRUNCATED_IMAGES.
    with path.open("rb") as stream:
        stream.seek(-min(path.stat().st_size, 1 << 16), 2)
        if end not in stream.read():
            raise SlideError("is truncated: its end mark is missing", where=path, hint=_DAMAGED)

    def decode() -> np.ndarray:
        with load() as image:
            return on_white(np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB")))

    return FlatImage(size, None, decode)


def _open_tiff(path: Path) -> FlatImage:
    try:
        with tifffile.TiffFile(path) as tif:
            check_whole(tif, path)
            size = check_kind(tif, path)
            mpp_xy = ome_mpp(tif)
    except SlideError:
        raise
    except DECODE_ERRORS as error:
        raise SlideError(f"cannot be read as TIFF ({error})", where=path, hint=_DAMAGED) from error

    def decode() -> np.ndarray:
        with tifffile.TiffFile(path) as tif:
            series = slide_series(tif)
            page = series.keyframe
            samples = series.asarray()
            if series.axes[0] in "SC":
                samples = np.moveaxis(samples, 0, -1)
            if samples.ndim == 2:
                samples = samples[..., None]
            colours = 3 if samples.shape[-1] >= 3 else 1
            rgb = np.broadcast_to(samples[..., :colours], (*samples.shape[:2], 3))
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                rgb = 255 - rgb
            if samples.shape[-1] > colours and page.extrasamples[:1] and page.extrasamples[0] in ALPHAS:
                rgba = np.concatenate([rgb, samples[..., colours : colours + 1]], axis=-1)
                rgb = on_white(rgba, premultiplied=page.extrasamples[0] == tifffile.EXTRASAMPLE.ASSOCALPHA)
            return np.ascontiguousarray(rgb)

    return FlatImage(size, mpp_xy, decode)


def slide_series(tif: tifffile.TiffFile) -> Any:
    """The image of a file that is the slide: the largest. A label, an overview or a thumbnail may stand before it.

    Raises
    ------
    ValueError
        There is none.
    SlideError
        Its pixels are those of another file, which OME and others may name anywhere on this computer.
    """
    largest = max(tif.series, key=lambda series: int(series.keyframe.imagewidth) * int(series.keyframe.imagelength))
    if any(page is not None and page.parent is not tif for level in largest.levels for page in level.pages):
        raise SlideError(
            "takes its pixels from another file",
            where=tif.filehandle.path,
            hint="Export the slide as one file",
        )
    return largest


def check_whole(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose directories or pixels lie beyond its end: tifffile would drop the rest or fill it up."""
    cut = SlideError("is truncated: it points to data beyond its end", where=path, hint=_DAMAGED)
    stream, size = tif.filehandle, tif.tiff.offsetsize
    stream.seek(tif.pages.next_page_offset or 0)
    if stream.read(size) != bytes(size) or not tif.series:
        raise cut
    pages = slide_series(tif).pages
    ends = [
        (offset + count, count)
        for page in pages
        if page is not None
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ]
    if None in pages or not ends or max(ends)[0] > stream.size:
        raise cut
    if min(count for _, count in ends) == 0:
        raise SlideError("is unfinished: some of its strips or tiles hold no data", where=path, hint=_DAMAGED)


def check_kind(tif: tifffile.TiffFile, path: Path) -> tuple[int, int]:
    """Width and height, once the samples are known to be 8-bit grey or RGB(A)."""
    series = slide_series(tif)
    page = series.keyframe
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if series.axes not in ("YX", "YXS", "SYX", "CYX") or sizes.get("C", 3) != 3 or sizes.get("S", 3) > 4:
        raise SlideError(
            f"is not one grey or RGB image: its axes {series.axes} have the lengths {series.shape}",
            where=path,
            hint="Export one plane as RGB",
        )
    if series.dtype != np.uint8:
        raise SlideError(f"has samples of the type {series.dtype}, not 8-bit", where=path, hint=_TO_8_BIT)
    # The JPEG codec hands over RGB.
    in_jpeg = page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if page.photometric not in COLOURS and not in_jpeg:
        raise SlideError(f"has colours of the kind {page.photometric!r}, not grey or RGB", where=path, hint=_TO_8_BIT)
    return sizes["X"], sizes["Y"]


def ome_mpp(tif: tifffile.TiffFile) -> tuple[float, float] | None:
    """Scale along x and y in um per pixel by the OME metadata, None where it does not say."""
    if not tif.is_ome:
        return None
    image = tifffile.xml2dict(tif.ome_metadata or "").get("OME", {}).get("Image", {})
    try:
        number = tif.series.index(slide_series(tif))
        pixels = (image[number] if isinstance(image, list) else image).get("Pixels", {})
        x, y = (
            float(pixels[f"PhysicalSize{axis}"]) * _UM_PER_UNIT[pixels.get(f"PhysicalSize{axis}Unit", "µm")]
            for axis in "XY"
        )
    except (KeyError, ValueError, TypeError, IndexError):
        return None
    return x, y


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
