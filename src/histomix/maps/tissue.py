"""A picture of what was taken for tissue, to be checked at a glance."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MapError
from ..provenance import atomic_path
from ..slides import Slide, TissueMask

#: The finest scale of ``preview.jpg``, um per px, and its longest side: a larger slide is shown coarser.
PREVIEW_UM = 2.0
PREVIEW_PX = 2000
PREVIEW_FILE = "preview.jpg"
LONGEST_PX = 1600
_EDGE = (0, 140, 90)
_FADED = 0.55
# Where around a pixel of the outline the tissue ends.
_AROUND = ((-2, 0), (2, 0), (0, -2), (0, 2), (-1, -1), (1, 1), (-1, 1), (1, -1))


def preview_pixels(slide: Slide) -> np.ndarray:
    """The whole slide, uint8 (height, width, 3), as `PREVIEW_UM` and `PREVIEW_PX` say (SlideReadError as reading)."""
    longest_um = max(slide.width_px, slide.height_px) * slide.mpp
    return slide.thumbnail(max(PREVIEW_UM, slide.mpp, longest_um / PREVIEW_PX))


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture beside a map, uint8 (height, width, 3).

    Raises
    ------
    MapError
        The file is damaged or no picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        hint = "Run predict again for this slide"
        raise MapError(f"cannot be read as a picture ({error})", where=path, hint=hint) from error


def write_previews(folder: Path, slide: Slide, mask: TissueMask) -> None:
    """Write ``preview.jpg``, the slide at low resolution, and ``tissue.png``, what was taken for tissue on it.

    Raises
    ------
    SlideReadError
        The slide cannot be decoded.
    StorageError
        A file cannot be written.
    """
    pixels = preview_pixels(slide)
    with atomic_path(folder / PREVIEW_FILE) as temporary:
        Image.fromarray(pixels).save(temporary, quality=88)
    write_tissue_preview(folder / "tissue.png", pixels, mask.mask)


def write_tissue_preview(path: str | os.PathLike[str], pixels: np.ndarray, mask: np.ndarray) -> None:
    """Write the slide with its tissue outlined in green and all else faded.

    Parameters
    ----------
    path
        A PNG.
    pixels
        The slide at low resolution, uint8 (height, width, 3).
    mask
        bool (rows, columns) over the same area, at any resolution.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    tissue = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127
    padded = np.pad(tissue, 2)
    inner = np.logical_and.reduce(
        [padded[2 + dy : padded.shape[0] - 2 + dy, 2 + dx : padded.shape[1] - 2 + dx] for dy, dx in _AROUND]
    )
    result = small.astype(np.float32)
    result[~tissue] = 255 - (255 - result[~tissue]) * _FADED
    result[tissue & ~inner] = _EDGE
    with atomic_path(path) as temporary:
        Image.fromarray(np.rint(result).astype(np.uint8)).save(temporary)
