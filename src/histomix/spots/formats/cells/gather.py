"""Cells placed on the image and gathered into pseudo-spots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from ....common.words import counted
from ....errors import MissingSectionError, SectionError, SlideError
from ...pseudo_spots import CELLS_KEY, COUNTS_KEY, cells_in_spots, count_types, pseudo_spots
from ..base import SHEET_IMAGE, Options, SpotFile, no_counts
from .placement import DISTORTION, TO_CELLS, TO_IMAGE, Placement, read_affine, read_landmarks, uniform
from .tables import Cells

#: Side of the square spots, um: the field of view of most encoders (224 px at 0.5 um), so labels and tiles cover the
#: same area.
TILE_UM = 112.0
#: More cells outside the image than this, and they are not placed on it.
MAX_OUTSIDE = 0.5
OPTIONS: Mapping[str, str] = {
    "types": "table of cell id and cell type",
    "type_column": "its column of cell types",
    "alignment": "affine matrix, a CSV of 3 x 3 numbers",
    "direction": f"of that matrix: {TO_CELLS} (default) or {TO_IMAGE}",
    "landmarks": "table of x_um, y_um, x_px, y_px",
    "um_per_px": "um per px of the image, when both have one origin",
    "pixel_um": "um per px of the platform",
    "mpp": "um per px of the image, for cells that are in its px",
    "tile_um": f"side of the square spots (default {TILE_UM:g})",
    "spot_um": "diameter of round spots, instead",
    "pitch_um": "distance of the spots (default: tile_um, or 100 for round ones)",
    "min_cells": "cells that a spot must have (default 1)",
    "at": "cells: every cell is a spot of its own",
}
_NUMBERS = ("um_per_px", "pixel_um", "mpp", "tile_um", "spot_um", "pitch_um", "min_cells")
_FILES = ("types", "alignment", "landmarks")
_ROUND_PITCH_UM = 100.0


@dataclass(frozen=True)
class CellOptions:
    """Options of the cell formats, checked; see `OPTIONS`."""

    types: Path | None = None
    alignment: Path | None = None
    landmarks: Path | None = None
    type_column: str | None = None
    direction: str = TO_CELLS
    um_per_px: float | None = None
    pixel_um: float | None = None
    mpp: float | None = None
    tile_um: float | None = None
    spot_um: float | None = None
    pitch_um: float | None = None
    min_cells: float | None = None
    at: str | None = None
    image: Path | None = None


def cell_options(options: Options, folder: Path, where: Path) -> CellOptions:
    """Check options; paths are relative to ``folder``.

    Raises
    ------
    SectionError
        A value is no positive number, a file is absent, or two options contradict each other.
    """
    values: dict[str, object] = {}
    for name, text in options.items():
        if name == SHEET_IMAGE:
            values["image"] = Path(text)
        elif name in _NUMBERS:
            values[name] = positive(text, name, where)
        elif name in _FILES:
            values[name] = folder / text
            if not (folder / text).is_file():
                raise MissingSectionError(
                    f"option {name}: there is no file {folder / text}",
                    where=where,
                    hint="Paths are relative to the cells",
                )
        else:
            values[name] = text
    for pair in (
        ("tile_um", "spot_um"),
        ("alignment", "landmarks"),
        ("alignment", "um_per_px"),
        ("landmarks", "um_per_px"),
    ):
        if set(pair) <= set(values):
            raise SectionError(f"both {pair[0]} and {pair[1]} are given", where=where, hint="Give one of them")
    for name, choices in (("direction", (TO_CELLS, TO_IMAGE)), ("at", ("cells",))):
        if name in values and values[name] not in choices:
            raise SectionError(
                f"option {name}: '{values[name]}' is none of {', '.join(choices)}", where=where, hint="Correct it"
            )
    return CellOptions(**values)  # type: ignore[arg-type]


def positive(text: str, name: str, where: Path) -> float:
    """A number above 0, or a SectionError that names the option."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise SectionError(f"option {name}: '{text}' is not a number above 0", where=where, hint="Correct it")
    return value


def to_spots(cells: Cells, options: CellOptions, where: Path) -> SpotFile:
    """Place cells on the image and gather them into spots.

    ``obs["cells"]`` holds the cells of each spot and ``obsm["cell_counts"]`` those of each type, for
    `cells_to_labels`; ``X`` the sum of their counts.

    Raises
    ------
    SectionError
        Nothing leads from the cells to the image, or they come to lie off it.
    """
    from anndata import AnnData

    xy_px, placement, notes = _place(cells, options, where)
    mpp = placement.mpp if placement else options.mpp or cells.mpp
    source = placement.source if placement else ("option mpp" if options.mpp else cells.mpp_source)
    size_px, image_mpp = _image_facts(options.image)
    if mpp is None and image_mpp is not None:
        mpp, source = image_mpp, "the image itself"
    if size_px is not None:
        inside = _inside(xy_px, size_px)
        _refuse_outside(inside, xy_px, size_px, cells, options, placement, where)
        if not inside.all():
            notes.append(f"{counted(int((~inside).sum()), 'cell')} outside the image are dropped")
            cells, xy_px = cells.keep(inside), xy_px[inside]
    else:
        notes.append("no image is named, so it is not checked that the cells lie on it")
        if (xy_px < 0).any():
            outside = (xy_px >= 0).all(axis=1)
            notes.append(f"{counted(int((~outside).sum()), 'cell')} have negative px, which no image has")
    types = cells.table["cell_type"]
    if types.isna().any() and cells.typed:
        notes.append(f"{counted(int(types.isna().sum()), 'cell')} of {len(types):,} have no type and are not counted")
    if options.at == "cells":
        members = sparse.identity(len(xy_px), dtype=np.float32, format="csr")
        spots = pd.DataFrame(xy_px, columns=["x_px", "y_px"], index=cells.table.index.rename("spot"))
        size_um, pitch_um = None, None
    else:
        if mpp is None:
            raise SectionError(
                "is in px of the image, and nothing tells their um",
                where=where,
                hint=f"Give the um per px after the spots, as in {where.name}#mpp=0.5",
            )
        size_um = options.spot_um or options.tile_um or TILE_UM
        pitch_um = options.pitch_um or (_ROUND_PITCH_UM if options.spot_um else size_um)
        shape = {"diameter_um": size_um} if options.spot_um else {"size_um": size_um}
        positions = pd.DataFrame(xy_px, columns=["x_px", "y_px"])
        least = int(options.min_cells or 1)
        spots = pseudo_spots(positions, pitch_um, mpp=mpp, min_cells=least, image_px=size_px, **shape)
        kind = "circle" if options.spot_um else "square"
        members = cells_in_spots(xy_px, spots[["x_px", "y_px"]].to_numpy(), size_um / mpp, kind)
        held = len(np.unique(members.indices))
        beyond = "" if held == len(xy_px) else f"; {counted(len(xy_px) - held, 'cell')} lie in none"
        gathered = f"{counted(held, 'cell')} are gathered into {kind} spots of {size_um:g} um, {pitch_um:g} um apart"
        notes.append(gathered + beyond)
    obs = spots.drop(columns=["x_px", "y_px"]).assign(**{CELLS_KEY: np.diff(members.indptr).astype(np.int64)})
    counts = (
        no_counts(len(obs)) if cells.counts is None else sparse.csr_matrix(members @ cells.counts, dtype=np.float32)
    )
    adata = AnnData(X=counts, obs=obs, var=cells.genes, obsm={"spatial": spots[["x_px", "y_px"]].to_numpy(np.float64)})
    if cells.typed:
        adata.obsm[COUNTS_KEY] = count_types(members, types, obs.index)
    return SpotFile(adata, mpp, source, size_um, pitch_um, notes=(*cells.notes, *notes))


def _place(cells: Cells, options: CellOptions, where: Path) -> tuple[np.ndarray, Placement | None, list[str]]:
    """Cells in level-0 px, how they came there (None when they are in px already), and what to say."""
    xy = cells.table[["x", "y"]].to_numpy(dtype=np.float64)
    pixel_um = options.pixel_um or cells.pixel_um or 1.0
    if cells.unit == "image px":
        if options.alignment or options.landmarks:
            raise SectionError(
                "is in px of the image already, so it needs no alignment", where=where, hint="Remove that option"
            )
        return xy, None, []
    notes = []
    if cells.unit == "px":
        xy = xy * pixel_um
        if options.pixel_um is None:
            notes.append(f"px of the platform are taken to be {pixel_um} um (option pixel_um)")
    if options.landmarks:
        placement = read_landmarks(options.landmarks, pixel_um)
    elif options.alignment:
        placement = read_affine(options.alignment, pixel_um, options.direction)
    elif options.um_per_px:
        placement = uniform(options.um_per_px)
    else:
        raise SectionError(
            "nothing leads from the um of the cells to px of the image",
            where=where,
            hint="Name an affine file or landmarks after the spots, as in "
            f"{where.name}#alignment=he_imagealignment.csv, or um_per_px when both have one origin",
        )
    notes.append(f"cells are placed by {placement.source}: {placement.mpp:.4g} um per px of the image")
    if placement.residual_um is not None:
        notes.append(f"the landmarks are {placement.residual_um:.2f} um (rms) from where the fitted map puts them")
    elif options.landmarks:
        notes.append("three landmarks leave nothing to judge the fit by: give more")
    if placement.distortion > DISTORTION:
        notes.append(f"the map stretches one direction {placement.distortion:.2f} times more than the other")
    return placement.apply(xy), placement, notes


def _image_facts(image: Path | None) -> tuple[tuple[int, int] | None, float | None]:
    """Size of the sheet's image in px, and its own um per px, as far as they are known."""
    if image is None or image.is_dir():
        return None, None
    from ....slides import open_slide

    try:
        slide, scaled = open_slide(image), True
    except SlideError:  # most often for want of a scale, which is not needed here
        slide, scaled = open_slide(image, 1.0), False
    with slide:
        return (slide.width_px, slide.height_px), slide.mpp if scaled else None


def _inside(xy_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    return np.asarray(((xy_px >= 0) & (xy_px < size_px)).all(axis=1))


def _refuse_outside(
    inside: np.ndarray,
    xy_px: np.ndarray,
    size_px: tuple[int, int],
    cells: Cells,
    options: CellOptions,
    placement: Placement | None,
    where: Path,
) -> None:
    if (~inside).mean() <= MAX_OUTSIDE:
        return
    low, high = np.quantile(xy_px, [0.05, 0.95], axis=0)
    what = (
        f"{(~inside).mean():.0%} of {len(xy_px):,} cells lie outside the image of {size_px[0]} x {size_px[1]} px "
        f"(most are at x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f})"
    )
    hint = "Check that the image, the cells and what places them belong together"
    if placement is not None and options.alignment:
        pixel_um = options.pixel_um or cells.pixel_um or 1.0
        other = placement.inverted(pixel_um)
        scale = pixel_um if cells.unit == "px" else 1.0
        turned = _inside(other.apply(cells.table[["x", "y"]].to_numpy(dtype=np.float64) * scale), size_px).mean()
        if turned > max(1 - MAX_OUTSIDE, inside.mean()):
            direction = TO_IMAGE if options.direction == TO_CELLS else TO_CELLS
            what += f"; with the matrix read the other way round, {turned:.0%} lie on it"
            hint = f"The matrix maps {direction}: say so with the option direction={direction}"
    raise SectionError(what, where=where, hint=hint)
