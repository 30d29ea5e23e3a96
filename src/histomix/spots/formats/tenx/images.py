"""The images in Space Ranger's ``spatial/``: reduced copies, used only when asked for, and CytAssist's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ....errors import SectionError
from ..base import SHEET_IMAGE, Options, SpotFile
from .positions import ScaleFactors, of_sample

_SMALL = {"hires": "tissue_hires_image.png", "lowres": "tissue_lowres_image.png"}
_MAX_OUTSIDE = 0.02


def small_image(spatial: Path, name: str, positions: Path | None = None) -> Path | None:
    """``"hires"`` or ``"lowres"`` to the file, None where it is absent; see `of_sample` for several."""
    return of_sample(sorted(spatial.glob(f"*{_SMALL[name]}")), positions, "images")


def small_image_named(image: Path) -> str | None:
    """Whether an image is Space Ranger's reduced one, by its name: ``"hires"``, ``"lowres"`` or None."""
    return next((name for name, file in _SMALL.items() if image.name.endswith(file)), None)


def at_reduced_image(
    spots: SpotFile, spatial: Path, factors: ScaleFactors | None, options: Options, positions: Path | None = None
) -> SpotFile:
    """Coordinates in px of the hires or lowres image when that is asked for, by the sheet or by an option.

    Raises
    ------
    SectionError
        There is no factor for it, the image is not there or is another's, or the sheet names the CytAssist image.
    """
    named = Path(options[SHEET_IMAGE]) if SHEET_IMAGE in options else None
    if named is not None and named.name.startswith("cytassist_image"):
        raise SectionError(
            "is what the CytAssist instrument saw; the positions are in px of the microscope's image",
            where=named,
            hint="Name the full-resolution H&E image that Space Ranger was given",
        )
    asked = options.get("image") or (small_image_named(named) if named is not None else None)
    if asked is None:
        return spots
    if asked not in ("hires", "lowres"):
        raise SectionError(f"has no image '{asked}'", where=spatial, hint="image is 'hires' or 'lowres'")
    scale = getattr(factors, asked, None)
    if scale is None:
        raise SectionError(
            f"has no tissue_{asked}_scalef, so coordinates cannot be given in px of that image",
            where=spatial,
            hint="Copy scalefactors_json.json into the spatial folder, or name the full-resolution image",
        )
    image = named or small_image(spatial, asked, positions)
    if image is None:
        raise SectionError(f"has no tissue_{asked}_image.png", where=spatial, hint="Copy the image, or name another")
    xy_px = spots.adata.obsm["spatial"] * scale
    _require_inside(xy_px, image, factors)
    spots.adata.obsm["spatial"] = xy_px
    mpp = None if spots.mpp is None else spots.mpp / scale
    coarse = "" if mpp is None else f", {mpp:.2g} um per px,"
    note = f"coordinates are in px of {image.name}{coarse} a reduced copy: most encoders want 0.5 um per px or finer"
    source = None if mpp is None else f"{spots.mpp_source}; divided by tissue_{asked}_scalef"
    return dataclasses.replace(spots, mpp=mpp, mpp_source=source, image=image, notes=(*spots.notes, note))


def _require_inside(xy_px: np.ndarray, image: Path, factors: ScaleFactors | None) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(image) as opened:
            size = opened.size
    except (OSError, UnidentifiedImageError) as error:
        raise SectionError(f"cannot be opened ({error})", where=image, hint="Copy it again") from error
    outside = int(((xy_px < 0) | (xy_px >= size)).any(axis=1).sum())
    if outside > _MAX_OUTSIDE * len(xy_px):
        raise SectionError(
            f"has {size[0]} x {size[1]} px, but {outside:,} of {len(xy_px):,} spots lie outside it by the "
            f"scale factors of {factors.path if factors else 'the section'}",
            where=image,
            hint="The scale factors are of another image: copy the spatial folder of this section again",
        )


def describe_images(
    spatial: Path, factors: ScaleFactors | None, mpp: float | None, positions: Path | None = None
) -> list[str]:
    """Sentences on the images in a ``spatial`` folder."""
    sentences = []
    for name in ("hires", "lowres"):
        image, scale = small_image(spatial, name, positions), getattr(factors, name, None)
        if image is not None:
            size = f" of {mpp / scale:.2g} um per px" if mpp and scale else ""
            sentences.append(f"{image.name}, a reduced copy{size}: used only when the sheet names it")
    if any(spatial.glob("cytassist_image*")):
        sentences.append("CytAssist's own image; positions are in px of the microscope's image, not of this one")
    return sentences
