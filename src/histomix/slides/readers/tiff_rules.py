"""One rule for a TIFF, before a reader is chosen: which image is the slide, and whether its header can be true."""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tifffile

from ...errors import SlideError

DAMAGED = "The file is damaged or cut short: copy or export it again"
TO_8_BIT = "Export it as 8-bit RGB"
# What tifffile and its codecs raise on damaged files.
DECODE_ERRORS = (
    tifffile.TiffFileError, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SyntaxError,
    struct.error, ArithmeticError,
)  # fmt: skip
COLOURS = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
ALPHAS = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
#: A scale coarser than this, um per px, speaks of print (300 dpi is 85), not of a scanner.
PRINT_MPP = 20.0
#: A level whose sides are in another proportion than the slide's is a picture of something else: its label.
SAME_SHAPE = 0.05
# How Aperio describes the pictures beside a slide, and what other writers call them.
_LABEL_PAGE = re.compile(r"\b(label|macro) \d+x\d+", re.IGNORECASE)
_LABEL_WORDS = re.compile(r"\b(label|macro|overview|slide ?preview)\b", re.IGNORECASE)
# OpenSlide ends the process when a damaged header makes it ask for more memory than there is.
_MAX_TILE_PX = 1 << 26
_UM_PER_UNIT = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "\\u00b5m"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0},
}
_OME_PIXELS, _OME_PLANES = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>"), re.compile(r"""\bSize[ZCT]\s*=\s*["'](\d{1,18})""")
_MOST_PLANES = 1 << 20
#: Tags of one value: sides, codec, colours, orientation, samples, rows of a strip, planes.
_SINGLE = (256, 257, 259, 262, 274, 277, 278, 284, 322, 323)
_HEADER_BYTES = 8
_OFFSETS, _COUNTS = {True: 324, False: 273}, {True: 325, False: 279}


def slide_series(tif: tifffile.TiffFile) -> Any:
    """The image of a file that is the slide: the largest. A label, an overview or a thumbnail may stand before it.

    Raises
    ------
    ValueError
        There is none.
    SlideError
        It speaks of images that it does not hold, or its pixels are those of another file, which OME and others may
        name anywhere on this computer.
    """
    if tif.is_ome:
        _check_planes(tif)
    largest = max(tif.series, key=lambda series: int(series.keyframe.imagewidth) * int(series.keyframe.imagelength))
    if any(page is not None and page.parent is not tif for level in largest.levels for page in level.pages):
        raise SlideError(
            "takes its pixels from another file",
            where=tif.filehandle.path,
            hint="Export the slide as one file",
        )
    return largest


def _check_planes(tif: tifffile.TiffFile) -> None:
    """Refuse OME metadata of more planes than a slide can have, before tifffile makes a list of them all."""
    for pixels in _OME_PIXELS.findall(tif.ome_metadata or ""):
        planes = math.prod(int(size) for size in _OME_PLANES.findall(pixels))
        if planes > _MOST_PLANES:
            raise SlideError(
                f"its OME metadata speaks of {planes:,} planes, and the file holds {len(tif.pages):,}",
                where=tif.filehandle.path,
                hint=DAMAGED,
            )


def slide_levels(tif: tifffile.TiffFile) -> list[Any]:
    """The levels of the slide, series of tifffile, finest first: those in SubIFDs, else smaller pages of its shape."""
    series = slide_series(tif)
    if len(series.levels) > 1:
        return list(series.levels)
    size, kind = _size(series.keyframe), _kind(series.keyframe)
    smaller = [
        one
        for one in tif.series
        if one is not series
        and len(one.pages) == len(series.pages)
        and _size(one.keyframe)[0] < size[0]
        and _kind(one.keyframe) == kind
        and is_level(_size(one.keyframe), size)
        and not says_label(one.keyframe)
    ]
    return [series, *sorted(smaller, key=lambda one: -_size(one.keyframe)[0])]


def other_images(tif: tifffile.TiffFile) -> list[tuple[int, int]]:
    """Sizes of the images of a file that are neither the slide nor a level of it, nor called its label."""
    levels = [_size(one.keyframe) for one in slide_levels(tif)]
    sizes = [_size(one.keyframe) for one in tif.series if not says_label(one.keyframe)]
    return [size for size in sizes if size not in levels and not is_level(size, levels[0])]


def is_level(size: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether an image is in the proportion of level 0, but for the rounding of its sides."""
    expected = of[1] * size[0] / of[0]
    return abs(size[1] - expected) <= max(2.0, SAME_SHAPE * expected)


def says_label(page: Any) -> bool:
    """Whether a page is described as the picture of a label or of the whole glass."""
    return bool(_LABEL_WORDS.search(page.description or ""))


def is_label_page(page: Any) -> bool:
    """Whether a page is described as Aperio's label or macro image."""
    return bool(_LABEL_PAGE.search(page.description or ""))


def check_header(pages: Sequence[Any], path: Path) -> None:
    """Refuse pages of a slide whose headers contradict themselves, or whose samples are not 8-bit.

    The number of tiles or strips must be what the size of the image and of a tile make, each with its place and its
    length. OpenSlide and tifffile would show the part that is there as the slide, or invent the rest.

    Raises
    ------
    SlideError
        Which header says what.
    """
    for page in pages:
        _check_single(page, path)
        tile = tuple(int(side) for side in page.tile or ())
        if tile and not 0 < math.prod(tile) <= _MAX_TILE_PX:
            raise SlideError(f"is damaged: its tiles are {tile} px", where=path, hint=DAMAGED)
        planar = _tag(page, 284, 1)
        if planar not in (1, 2):
            raise SlideError(f"is damaged: its PlanarConfiguration is {planar}, not 1 or 2", where=path, hint=DAMAGED)
        bits = _tag(page, 258, 1)
        if page.bitspersample != 8 or page.sampleformat != 1 or (isinstance(bits, tuple) and len(set(bits)) > 1):
            raise SlideError(
                f"has samples of {bits if isinstance(bits, int) else bits[0]} bits"
                + ("" if page.sampleformat == 1 else f" (the sample format {page.sampleformat})")
                + ", not of 8",
                where=path,
                hint=TO_8_BIT,
            )
        check_count(page, path)
        _check_places(page, path)


def check_count(page: Any, path: Path) -> None:
    """Refuse (SlideError) a page that has not as many tiles or strips as the sizes in its header make."""
    expected = _segments(page)
    for what, codes in (("places", _OFFSETS), ("lengths", _COUNTS)):
        tag = page.tags.get(codes[page.is_tiled])
        if tag is None or tag.count != expected:
            raise SlideError(
                f"is damaged: an image of {page.imagewidth} x {page.imagelength} px has {expected:,} "
                f"{'tiles' if page.is_tiled else 'strips'} by its header, which gives "
                f"{0 if tag is None else tag.count:,} {what}",
                where=path,
                hint=DAMAGED,
            )


def _check_single(page: Any, path: Path) -> None:
    """Refuse a header that gives several values where there is one, or says a thing twice: readers differ in which."""
    for code in (*_SINGLE, 258, *_OFFSETS.values(), *_COUNTS.values()):
        if len(page.tags.getall(code, default=())) > 1:
            name = page.tags[code].name
            raise SlideError(f"is damaged: its header gives {name} more than once", where=path, hint=DAMAGED)
    for code in _SINGLE:
        tag = page.tags.get(code)
        if tag is not None and tag.count != 1:
            raise SlideError(f"is damaged: its {tag.name} has {tag.count:,} values", where=path, hint=DAMAGED)


def _check_places(page: Any, path: Path) -> None:
    """Refuse pixels that lie in the header of the file, and such as are not compressed and lie in one another.

    The length of compressed ones may be given too large, by those who round it up.
    """
    places = sorted({pair for pair in zip(page.dataoffsets, page.databytecounts, strict=True) if 0 not in pair})
    overlap = page.compression == 1 and any(
        start + length > after for (start, length), (after, _) in itertools.pairwise(places)
    )
    if overlap or (places and places[0][0] < _HEADER_BYTES):
        what = "its pixels lie in one another" if overlap else "its pixels lie in its header"
        raise SlideError(f"is damaged: {what}", where=path, hint=DAMAGED)


def empty_tiles(page: Any, count: int) -> frozenset[int]:
    """Numbers of the tiles (or strips) of a page that hold no data, of ``count`` in each of its planes."""
    pairs = zip(page.dataoffsets, page.databytecounts, strict=True)
    return frozenset(number % count for number, pair in enumerate(pairs) if 0 in pair)


def empty_by_size(pages: Iterable[Any]) -> dict[tuple[int, int], EmptyTiles]:
    """By size of a tiled page: its tiles without data, where it has any."""
    empty = {}
    for page in pages:
        across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
        numbers = empty_tiles(page, across * down)
        if numbers:
            empty[_size(page)] = EmptyTiles(numbers, across, (int(page.tilewidth), int(page.tilelength)))
    return empty


def check_whole(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose directories or pixels lie beyond its end: tifffile would drop the rest or fill it up."""
    cut = SlideError("is truncated: it points to data beyond its end", where=path, hint=DAMAGED)
    stream, size = tif.filehandle, tif.tiff.offsetsize
    stream.seek(tif.pages.next_page_offset or 0)
    if stream.read(size) != bytes(size) or not tif.series:
        raise cut
    pages = list(level_pages(tif))
    ends = [
        offset + count
        for page in pages
        if page is not None
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ]
    if None in pages or not ends or max(ends) > stream.size:
        raise cut
    if not any(count for page in pages for count in page.databytecounts):
        raise SlideError("is unfinished: none of its strips or tiles holds data", where=path, hint=DAMAGED)


@dataclass(frozen=True)
class EmptyTiles:
    """Tiles of a level that hold no data: their numbers, how many there are in a row, and their size in px."""

    numbers: frozenset[int]
    across: int
    tile_px: tuple[int, int]

    def under(self, x: int, y: int, width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
        """Left, top, width and height of those under a rectangle of the level."""
        tile_width, tile_height = self.tile_px
        for row in range(y // tile_height, (y + height - 1) // tile_height + 1):
            for column in range(x // tile_width, (x + width - 1) // tile_width + 1):
                if row * self.across + column in self.numbers:
                    yield column * tile_width, row * tile_height, tile_width, tile_height


@dataclass(frozen=True)
class TiffFacts:
    """What a TIFF says of itself that OpenSlide does not look at.

    Parameters
    ----------
    labels
        Sizes of pages that are described as pictures of a label or of the whole glass.
    mpp_xy
        Scale by OME metadata, um per px.
    empty
        By size of the level: its tiles without data.
    """

    labels: frozenset[tuple[int, int]] = frozenset()
    mpp_xy: tuple[float, float] | None = None
    empty: Mapping[tuple[int, int], EmptyTiles] = field(default_factory=dict)


def level_pages(tif: tifffile.TiffFile) -> Iterator[Any]:
    """Every page of every level of the slide; None where a directory is gone."""
    for level in slide_levels(tif):
        yield from level.pages


def check_kind(tif: tifffile.TiffFile, path: Path) -> tuple[int, int]:
    """Width and height, once the samples are known to be 8-bit grey or RGB(A)."""
    page, sizes = slide_series(tif).keyframe, check_axes(tif, path)
    # The frames of a series have the header of its first page.
    check_header([one for one in level_pages(tif) if isinstance(one, tifffile.TiffPage)], path)
    # The JPEG codec hands over RGB, and so do those of JPEG 2000 and WebP.
    decoded = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.JPEG2000, 33003, 33004, 33005, tifffile.COMPRESSION.WEBP)
    if page.photometric not in COLOURS and not (
        page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression in decoded
    ):
        raise SlideError(f"has colours of the kind {page.photometric!r}, not grey or RGB", where=path, hint=TO_8_BIT)
    return sizes["X"], sizes["Y"]


def check_axes(tif: tifffile.TiffFile, path: Path) -> dict[str, int]:
    """Length of each axis of the slide; SlideError where it is several images, or none of pixels."""
    series = slide_series(tif)
    sizes: dict[str, int] = dict(zip(series.axes, series.shape, strict=True))
    if series.axes not in ("YX", "YXS", "SYX", "CYX") or sizes.get("C", 3) != 3 or sizes.get("S", 3) > 4:
        raise SlideError(
            f"is not one grey or RGB image: its axes {series.axes} have the lengths {series.shape}",
            where=path,
            hint="Export one plane as RGB",
        )
    return sizes


def tiff_mpp(tif: tifffile.TiffFile) -> tuple[float, float] | None:
    """Scale along x and y in um per pixel, None where the file does not say.

    By the OME metadata, by ImageJ's unit, or by the resolution tags where they speak of a scanner and not of print.
    """
    if tif.is_ome:
        return _ome_mpp(tif)
    page = slide_series(tif).keyframe
    um = None
    if tif.is_imagej:
        um = _UM_PER_UNIT.get(str((tif.imagej_metadata or {}).get("unit", "")).lower())
    else:
        um = {2: 25_400.0, 3: 10_000.0}.get(int(_tag(page, 296, 2)))
    x, y = (_per_unit(page, code) for code in (282, 283))
    if um is None or x is None or y is None:
        return None
    return None if max(um / x, um / y) > PRINT_MPP else (um / x, um / y)


def _ome_mpp(tif: tifffile.TiffFile) -> tuple[float, float] | None:
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


def _per_unit(page: Any, code: int) -> float | None:
    value = _tag(page, code, None)
    try:
        number = value[0] / value[1] if isinstance(value, tuple) else float(value)
    except (TypeError, ValueError, ArithmeticError, IndexError):
        return None
    return number if 0 < number < math.inf else None


def orientation(page: Any) -> int:
    """What the orientation tag of a page says; 1 is upright."""
    value = _tag(page, 274, 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _segments(page: Any) -> int:
    """How many tiles or strips the header makes."""
    planes = int(page.samplesperpixel) if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1
    if page.is_tiled:
        across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
        return int(across * down * max(1, page.imagedepth) * planes)
    rows = min(int(_tag(page, 278, page.imagelength)) or page.imagelength, page.imagelength)
    return int(-(-page.imagelength // rows) * planes)


def _size(page: Any) -> tuple[int, int]:
    return int(page.imagewidth), int(page.imagelength)


def _kind(page: Any) -> tuple[Any, ...]:
    return page.dtype, page.samplesperpixel, page.photometric


def _tag(page: Any, code: int, default: Any) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value
