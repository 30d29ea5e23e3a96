"""DICOM files of whole slides: which belong together, and what colours their frames have."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import SlideError
from .readers.jpeg import says_rgb
from .readers.tiff_rules import DECODE_ERRORS

_TAGS = ("SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns", "TotalPixelMatrixRows")
# Tag, kind and length of the element that holds the pixels.
_PIXELS_HEADER = 12
# A DICOM file begins with an empty preamble and its mark.
_PREAMBLE, _MAGIC = 128, b"DICM"
_PLACE = ("ColumnPositionInTotalImagePixelMatrix", "RowPositionInTotalImagePixelMatrix")
# JPEG baseline and extended: the frames whose markers say what their samples are.
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")


def dicom_series(folder: Path) -> dict[str, list[Path]]:
    """The DICOM files (``*.dcm``) of a folder by the series that they are of, the one with the slide's pixels first.

    Files that say nothing of a series are left out, unless there are no others: reading them will say what is wrong.
    """
    series: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*.dcm")):
        if path.is_file():
            uid, pixels, is_level = _facts(path, *_state(path))
            series.setdefault(uid or "", []).append((-pixels * is_level, path))
    return {uid: [path for _, path in sorted(files)] for uid, files in series.items() if uid or len(series) == 1}


def same_series(path: Path) -> list[Path]:
    """The files of the slide that a DICOM file is of, in its folder, that file among them."""
    files = next((files for files in dicom_series(path.parent).values() if path in files), [path])
    return [path, *(file for file in files if file != path)]


def check_series(path: Path) -> None:
    """Refuse a DICOM slide without its finest level, or that leaves out tiles and does not say where the others are.

    A label or an overview is smaller than the slide: where it is larger, the levels are coarse ones. A slide that
    leaves out tiles has tiles of glass left out; of tiles whose place is lost, libdicom makes glass as well, or ends
    the process. Every file of the series is looked at, since OpenSlide opens them all.

    Raises
    ------
    SlideError
        A file of the slide is such a one.
    """
    if not _is_dicom(path):
        return
    files = same_series(path)
    facts = [_facts(file, *_state(file)) for file in files]
    finest = max((pixels for _, pixels, is_level in facts if is_level), default=0)
    for file, (_, pixels, is_level) in zip(files, facts, strict=True):
        if finest and not is_level and pixels > finest:
            raise SlideError(
                "is called a label or an overview, and is larger than every level of the slide",
                where=file,
                hint="Copy all files of the slide again, the finest level among them",
            )
    for file in files:
        placed, frames = _places(file, *_state(file))
        if placed is not None and placed != frames:
            raise SlideError(
                f"is damaged: its header says where {placed:,} of its {frames:,} tiles are",
                where=file,
                hint="Export it again",
            )


def is_ycbcr_called_rgb(path: Path) -> bool:
    """Whether the header says RGB though the markers of its JPEG frames say YCbCr."""
    import pydicom
    from pydicom.encaps import generate_frames

    try:
        with path.open("rb") as stream:
            data = pydicom.dcmread(stream, stop_before_pixels=True)
            if str(data.get("PhotometricInterpretation", "")) != "RGB" or _syntax(data) not in _JPEG:
                return False
            stream.seek(_PIXELS_HEADER, os.SEEK_CUR)
            frame = next(generate_frames(stream, number_of_frames=int(data.get("NumberOfFrames", None) or 1)))
    except (pydicom.errors.InvalidDicomError, EOFError, StopIteration, *DECODE_ERRORS):
        return False  # whatever is wrong with it, OpenSlide says it
    return says_rgb(frame) is False


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE + len(_MAGIC)).endswith(_MAGIC)
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _places(path: Path, size: int, mtime_ns: int) -> tuple[int | None, int]:
    """How many tiles a sparse file has a place of, and how many it has; None where it is not sparse."""
    import pydicom

    def read(*tags: str) -> Any:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))

    try:
        if "SPARSE" not in str(read("DimensionOrganizationType").get("DimensionOrganizationType", "")):
            return None, 0
        data = read("NumberOfFrames", "PerFrameFunctionalGroupsSequence")
        groups = data.get("PerFrameFunctionalGroupsSequence", None) or ()
        placed = [one for group in groups for one in group.get("PlanePositionSlideSequence", None) or ()]
        whole = [one for one in placed if all(one.get(name, None) is not None for name in _PLACE)]
        return len(whole), int(data.get("NumberOfFrames", None) or 1)
    except (pydicom.errors.InvalidDicomError, EOFError, *DECODE_ERRORS):
        return None, 0  # whatever is wrong with it, OpenSlide says it


def _syntax(data: Any) -> str:
    return str(data.file_meta.get("TransferSyntaxUID", ""))


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _facts(path: Path, size: int, mtime_ns: int) -> tuple[str | None, int, bool]:
    """Series of a file, its number of pixels, and whether it is a level: no label, overview or thumbnail."""
    import pydicom

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (pydicom.errors.InvalidDicomError, EOFError, *DECODE_ERRORS):
        return None, 0, False  # whatever is wrong with it, OpenSlide says it
    kinds = [str(one) for one in data.get("ImageType", None) or ()]
    pixels = int(data.get("TotalPixelMatrixColumns", 0) or 0) * int(data.get("TotalPixelMatrixRows", 0) or 0)
    uid = data.get("SeriesInstanceUID", None)
    return None if uid is None else str(uid), pixels, "VOLUME" in kinds
