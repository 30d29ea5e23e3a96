"""From a path to a `Slide`: which reader, and which scale."""

from __future__ import annotations

import logging
import math
import os
import re
from pathlib import Path

import openslide
import tifffile

from ..common.words import reason
from ..errors import MissingSlideError, SlideError
from ..provenance import refuse_pipe
from .dicom import dicom_series
from .readers.flat import ArrayReader
from .readers.openslide import OpenSlideReader
from .readers.tiff import TiffPyramid, suits_tiles
from .readers.tiff_rules import (
    DAMAGED,
    DECODE_ERRORS,
    TiffFacts,
    check_axes,
    check_count,
    check_header,
    empty_by_size,
    is_label_page,
    level_pages,
    orientation,
    other_images,
    says_label,
    slide_series,
    tiff_mpp,
)
from .readers.zarr import is_image_group, open_spatialdata_image
from .slide import Reader, Slide
from .tiles import MAX_MPP

logger = logging.getLogger(__name__)

#: Scales that differ by more than this share are held to be different scales.
MPP_TOLERANCE = 0.05
#: Um per px of an objective of 1x, roughly.
_MPP_OF_1X = 10.0
_GENERIC = "generic-tiff"
# Scanners whose TIFFs are plain enough for their headers to be checked against themselves.
_CHECKED = ("aperio", "philips")
# How pictures of a label are named when exported.
_LABEL_NAME = re.compile(r"(^|[^a-z])(label|macro)([ _-]?image)?$", re.IGNORECASE)
_LABEL_PX = 4000
_GIVE_MPP = "Give the um per pixel of level 0: --mpp, or the mpp column of the cohort sheet"


def open_slide(path: str | os.PathLike[str], mpp: float | None = None) -> Slide:
    """Open a whole-slide image (anything OpenSlide reads), a pyramid of OME-TIFF, a flat image, or one of OME-Zarr.

    Flat images are JPEG, PNG or TIFF.

    Parameters
    ----------
    path
        The slide; of DICOM, one of its files or their folder; of a SpatialData store, ``STORE.zarr/images/NAME``, or
        the store itself if it has one image.
    mpp
        um per level-0 pixel. Needed where the file does not say (flat images; a JPEG's dpi is not believed); where
        the file says otherwise, the given value is taken and a warning is logged.

    Raises
    ------
    SlideError
        The file is absent, empty, damaged, of no known format, or the picture of a label; its scale is unknown, differs
        between x and y by over 5 %, or is not between 0 and 100 um per pixel.

    Examples
    --------
    >>> with hm.open_slide("slides/patient-9.tif") as slide:
    ...     slide.mpp, slide.read(0, 0, 100, 100, 1.0).shape
    (0.5, (100, 100, 3))
    """
    return open_at(path, mpp)


def open_at(path: str | os.PathLike[str], mpp: float | None, *, warns: bool = True) -> Slide:
    """`open_slide`, without its warning for those who refuse a scale that is not the file's."""
    path = Path(path)
    refuse_pipe(path, SlideError)
    if path.is_dir():
        return _with_scale(path, _folder_reader(path), mpp, warns)
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        kind = MissingSlideError if isinstance(error, FileNotFoundError) else SlideError
        raise kind(f"cannot be opened ({error.strerror})", where=path, hint="Check the path") from error
    if size == 0:
        raise SlideError("is empty (0 bytes)", where=path, hint="Copy or export it again")
    return _with_scale(path, _reader(path), mpp, warns)


def _with_scale(path: Path, reader: Reader, mpp: float | None, warns: bool) -> Slide:
    try:
        value, source = _scale(path, mpp, reader.mpp_xy, getattr(reader, "power", None), warns)
    except SlideError:
        reader.close()
        raise
    return Slide(path, reader, value, source)


def _folder_reader(path: Path) -> Reader:
    series = dicom_series(path)
    if len(series) > 1:
        raise SlideError(
            f"holds {len(series)} slides (DICOM series), not one",
            where=path,
            hint=f"Name a file of the one that is meant, such as {min(series.values())[0].name}",
        )
    for files in series.values():
        # Beside those of the slide there may be files of a label or an overview, which OpenSlide does not open.
        for file in files:
            try:
                return OpenSlideReader(file)
            except SlideError:
                if file == files[-1]:
                    raise
    if not is_image_group(path) and path.suffix != ".zarr":
        raise SlideError("is a folder, not a slide", where=path, hint="Name the slide file in it")
    return open_spatialdata_image(path)[0]


def _reader(path: Path) -> Reader:
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    by_tifffile, by_tiles, facts = False, False, TiffFacts()
    try:
        with tifffile.TiffFile(path) as tif:
            if vendor in (None, _GENERIC):
                by_tifffile, by_tiles, facts = _plain_tiff(tif, path, vendor)
            else:
                facts = _vendor_tiff(tif, path, vendor)
    except SlideError:
        raise
    except DECODE_ERRORS as error:
        logger.debug("%s: not read as TIFF (%s)", path, error)
    if by_tiles:
        return TiffPyramid(path)
    if vendor is None or by_tifffile:
        flat = ArrayReader(path)
        if _LABEL_NAME.search(path.stem) and max(flat.size_px) <= _LABEL_PX:
            raise _no_slide(path)
        return flat
    try:
        return OpenSlideReader(path, facts)
    except SlideError:
        if vendor != _GENERIC:
            raise
    # OpenSlide knows few codecs; what is damaged is refused by the other reader too, in its own words.
    return _by_tifffile(path)


def _plain_tiff(tif: tifffile.TiffFile, path: Path, vendor: str | None) -> tuple[bool, bool, TiffFacts]:
    """Whether tifffile must read a TIFF of no vendor, whether by tiles, and what OpenSlide must be told of it."""
    first = slide_series(tif).keyframe
    if is_label_page(first):
        raise _no_slide(path)
    pages = [page for page in level_pages(tif) if isinstance(page, tifffile.TiffPage)]
    others = other_images(tif)
    if others:
        sizes = ", ".join(f"{width} x {height}" for width, height in others)
        logger.warning(
            "%s: holds other images too (%s px); the largest, %d x %d px, is taken for the slide",
            path, sizes, first.imagewidth, first.imagelength,
        )  # fmt: skip
    # A size that is too small makes another image the largest.
    for series in tif.series:
        if 273 in series.keyframe.tags or 324 in series.keyframe.tags:
            check_count(series.keyframe, path)
    if vendor is None:
        return True, suits_tiles(tif), TiffFacts()
    check_axes(tif, path)
    check_header([first, *(page for page in pages if page.is_tiled)], path)
    # Of several images OpenSlide takes the first with tiles, and any tiles after it for levels of it.
    wrong_first = first is not tif.series[0].keyframe
    # It knows nothing of OME: it shows the first of separate planes as grey, and takes no scale from it.
    planes = tif.is_ome and first.samplesperpixel == 1 and slide_series(tif).axes != "YX"
    # The levels of a plain pyramid are pages, which OpenSlide reads; those in SubIFDs it does not see. It turns
    # each tile by itself where the whole image is to be turned.
    # And it takes what a damaged deflate or LZW stream still gives; imagecodecs checks the stream.
    packed = first.compression not in (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.NONE)
    by_tifffile = wrong_first or planes or packed or bool(first.subifds) or orientation(first) != 1
    labels = frozenset(
        (int(page.imagewidth), int(page.imagelength))
        for page in tif.pages
        if isinstance(page, tifffile.TiffPage) and says_label(page)
    )
    tiled = [page for page in pages if page.is_tiled]
    return by_tifffile, by_tifffile and suits_tiles(tif), TiffFacts(labels, tiff_mpp(tif), empty_by_size(tiled))


def _vendor_tiff(tif: tifffile.TiffFile, path: Path, vendor: str) -> TiffFacts:
    """What OpenSlide must be told of a scanner's TIFF."""
    first = tif.pages.first
    if is_label_page(first):
        raise _no_slide(path)
    if vendor not in _CHECKED:
        return TiffFacts()
    tiled = [page for page in tif.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
    check_header(tiled, path)
    if orientation(first) != 1:
        raise SlideError(
            f"asks to be turned (its orientation tag is {orientation(first)}), which is not done here",
            where=path,
            hint="Export it upright",
        )
    # A coarser level of Aperio's that lacks a tile is filled by OpenSlide from the finer one.
    return TiffFacts(empty=empty_by_size(tiled if vendor != "aperio" else tiled[:1]))


def _by_tifffile(path: Path) -> Reader:
    try:
        with tifffile.TiffFile(path) as tif:
            by_tiles = suits_tiles(tif)
    except SlideError:
        raise
    except DECODE_ERRORS as error:
        what = f"is damaged: its header cannot be read ({reason(error)})"
        raise SlideError(what, where=path, hint=DAMAGED) from error
    return TiffPyramid(path) if by_tiles else ArrayReader(path)


def _no_slide(path: Path) -> SlideError:
    return SlideError(
        "is the picture of a slide's label or of the whole glass, not the slide",
        where=path,
        hint="Name the slide file itself (a picture that is one all the same can be renamed or exported again)",
    )


def _scale(
    path: Path, given: float | None, in_file: tuple[float, float] | None, power: float | None, warns: bool
) -> tuple[float, str]:
    """The mpp to use, and where it comes from; the objective's power serves for a hint only."""
    if given is not None and not 0 < given <= MAX_MPP:
        raise SlideError(f"mpp is given as {given}, which is no scale of a slide", where=path, hint=_GIVE_MPP)
    if in_file is None:
        if given is None:
            hint = _GIVE_MPP
            if power is not None:
                hint += f". It names an objective of {power:g}x: with most scanners that is {_MPP_OF_1X / power:g}"
            raise SlideError("does not say its scale (um per pixel)", where=path, hint=hint)
        return float(given), "given"
    x, y = in_file
    credible = min(x, y) > 0 and max(x, y) <= MAX_MPP and math.isfinite(x + y)
    square = credible and max(x, y) <= min(x, y) * (1 + MPP_TOLERANCE)
    if given is not None:
        if warns and not (square and 1 / (1 + MPP_TOLERANCE) <= given / ((x + y) / 2) <= 1 + MPP_TOLERANCE):
            logger.warning("%s: mpp is given as %g, the file says %g x %g; the given one is taken", path, given, x, y)
        return float(given), "given"
    if not credible:
        raise SlideError(f"says that it has {x:g} x {y:g} um per pixel, which is no scale", where=path, hint=_GIVE_MPP)
    if not square:
        raise SlideError(f"says that its pixels are not square ({x:g} x {y:g} um)", where=path, hint=_GIVE_MPP)
    return (x + y) / 2, "file"
