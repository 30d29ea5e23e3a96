"""From a path to a `Slide`: which reader, and which scale."""

from __future__ import annotations

import logging
import math
import os
import re
from pathlib import Path

import openslide
import tifffile

from ..errors import MissingSlideError, SlideError
from .readers.flat import DECODE_ERRORS, ArrayReader, ome_mpp, slide_series
from .readers.openslide import OpenSlideReader
from .readers.tiff import TiffPyramid, suits_tiles
from .readers.zarr import is_image_group, open_spatialdata_image
from .slide import Reader, Slide

logger = logging.getLogger(__name__)

#: Scales that differ by more than this share are held to be different scales.
MPP_TOLERANCE = 0.05
#: No microscope scan is coarser than this.
MAX_MPP = 100.0
# OpenSlide ends the process when a damaged header makes it ask for more memory than there is.
_MAX_TILE_PX = 1 << 26
# How Aperio describes the pictures beside a slide, and how exports of them are named.
_LABEL_PAGE = re.compile(r"\b(label|macro) \d+x\d+", re.IGNORECASE)
# What other writers call them, in the description of a page.
_LABEL_WORDS = re.compile(r"\b(label|macro|overview|slide ?preview)\b", re.IGNORECASE)
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
    """
    path = Path(path)
    if path.is_dir():
        return _with_scale(path, _folder_reader(path), mpp)
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        kind = MissingSlideError if isinstance(error, FileNotFoundError) else SlideError
        raise kind(f"cannot be opened ({error.strerror})", where=path, hint="Check the path") from error
    if size == 0:
        raise SlideError("is empty (0 bytes)", where=path, hint="Copy or export it again")
    return _with_scale(path, _reader(path), mpp)


def _with_scale(path: Path, reader: Reader, mpp: float | None) -> Slide:
    try:
        value, source = _scale(path, mpp, reader.mpp_xy)
    except SlideError:
        reader.close()
        raise
    return Slide(path, reader, value, source)


def _folder_reader(path: Path) -> Reader:
    dicom = sorted(path.glob("*.dcm"))
    for number, file in enumerate(dicom, start=1):
        # Beside those of the slide there may be files of a label or an overview, which OpenSlide does not open.
        try:
            return OpenSlideReader(file)
        except SlideError:
            if number == len(dicom):
                raise
    if not is_image_group(path) and path.suffix != ".zarr":
        raise SlideError("is a folder, not a slide", where=path, hint="Name the slide file in it")
    return open_spatialdata_image(path)[0]


def _reader(path: Path) -> Reader:
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    by_tiles, planes, other, mpp_xy = False, False, False, None
    labels: frozenset[tuple[int, int]] = frozenset()
    try:
        with tifffile.TiffFile(path) as tif:
            plain = vendor in (None, "generic-tiff")
            first = slide_series(tif).keyframe if plain else tif.pages.first
            if _LABEL_PAGE.search(first.description or ""):
                raise _no_slide(path)
            by_tiles = plain and suits_tiles(tif)
            # Of several images OpenSlide takes the first with tiles, and any tiles after it for levels of it.
            other = plain and first is not tif.series[0].keyframe
            if plain:
                pages = [page for page in tif.pages if isinstance(page, tifffile.TiffPage)]
                labels = frozenset(
                    (int(page.imagewidth), int(page.imagelength))
                    for page in pages
                    if _LABEL_WORDS.search(page.description or "")
                )
            if first.tile and math.prod(first.tile) > _MAX_TILE_PX:
                raise SlideError(
                    f"is damaged: its tiles are {first.tile} px", where=path, hint="Copy or export it again"
                )
            # OpenSlide knows nothing of OME: it shows the first of separate planes as grey, and takes no scale from it.
            if vendor == "generic-tiff" and tif.is_ome:
                planes, mpp_xy = first.samplesperpixel == 1 and slide_series(tif).axes != "YX", ome_mpp(tif)
            # The levels of a plain pyramid are pages, which OpenSlide reads; those in SubIFDs it does not see.
            by_tiles = by_tiles and (vendor is None or planes or other or bool(first.subifds))
    except SlideError:
        raise
    except DECODE_ERRORS as error:
        logger.debug("%s: not read as TIFF (%s)", path, error)
    if by_tiles:
        return TiffPyramid(path)
    if vendor is None or planes or other:
        flat = ArrayReader(path)
        if _LABEL_NAME.search(path.stem) and max(flat.size_px) <= _LABEL_PX:
            raise _no_slide(path)
        return flat
    reader = OpenSlideReader(path, labels)
    reader.mpp_xy = mpp_xy or reader.mpp_xy
    return reader


def _no_slide(path: Path) -> SlideError:
    return SlideError(
        "is the picture of a slide's label or of the whole glass, not the slide",
        where=path,
        hint="Name the slide file itself (a picture that is one all the same can be renamed or exported again)",
    )


def _scale(path: Path, given: float | None, in_file: tuple[float, float] | None) -> tuple[float, str]:
    """The mpp to use, and where it comes from."""
    if given is not None and not 0 < given <= MAX_MPP:
        raise SlideError(f"mpp is given as {given}, which is no scale of a slide", where=path, hint=_GIVE_MPP)
    if in_file is None:
        if given is None:
            raise SlideError("does not say its scale (um per pixel)", where=path, hint=_GIVE_MPP)
        return float(given), "given"
    x, y = in_file
    credible = min(x, y) > 0 and max(x, y) <= MAX_MPP and math.isfinite(x + y)
    square = credible and max(x, y) <= min(x, y) * (1 + MPP_TOLERANCE)
    if given is not None:
        if not square or not 1 / (1 + MPP_TOLERANCE) <= given / ((x + y) / 2) <= 1 + MPP_TOLERANCE:
            logger.warning("%s: mpp is given as %g, the file says %g x %g; the given one is taken", path, given, x, y)
        return float(given), "given"
    if not credible:
        raise SlideError(f"says that it has {x:g} x {y:g} um per pixel, which is no scale", where=path, hint=_GIVE_MPP)
    if not square:
        raise SlideError(f"says that its pixels are not square ({x:g} x {y:g} um)", where=path, hint=_GIVE_MPP)
    return (x + y) / 2, "file"
