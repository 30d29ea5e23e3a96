"""Single cells with types, from a table or a platform's files, counted in the tiles of a composition map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ...common.tables import column_names, numbers, read_columns
from ...errors import InputError, MissingFileError, SectionError
from ...spots.formats import check_options, find_format, split_location
from ...spots.formats.cells.tables import PLAIN
from ...spots.pseudo_spots import COUNTS_KEY, MAX_UNASSIGNED, assigned, cells_in_spots, count_types

#: Columns, in lower case, that may hold the type of a cell.
_TYPES = ("cell_type", "celltype", "cell_types", "cell type", "type", "annotation", "group", "cluster")
#: Sides of a slide beside it, beyond which nothing was measured.
_FAR = 10
_HINT = "Give a table with x_px, y_px (or x_um, y_um) and cell_type, one row per cell, or the folder of a platform"


@dataclass(frozen=True, eq=False)
class TileCells:
    """Cells of each type in each tile.

    Attributes
    ----------
    counts
        Tiles x cell types, cells; only tiles that were measured (see `cells_in_tiles`).
    n_cells, n_counted
        Typed cells of the table, and those of them in a counted tile.
    notes
        What was left out, as sentences without a final stop.
    """

    counts: pd.DataFrame
    n_cells: int
    n_counted: int
    notes: tuple[str, ...] = ()


def read_cells(path: str | os.PathLike[str], mpp: float) -> tuple[pd.DataFrame, list[str]]:
    """Read cells in px of the slide.

    Parameters
    ----------
    path
        A table (CSV, TSV, Parquet) with ``x_px, y_px`` or ``x_um, y_um`` (from the slide's corner) and ``cell_type``;
        or the files of Xenium, CosMx or MERSCOPE with their options after a ``#``
        (``outs#types=cell_types.csv;alignment=alignment.csv``).
    mpp
        um per px of the slide.

    Returns
    -------
    Table with ``x_px, y_px`` and ``cell_type`` (None for a cell without), and notes.

    Raises
    ------
    InputError
        The file is absent, has no cells with types, or a coordinate that is no number.
    """
    place, options = split_location(os.fspath(path))
    if not place.exists():
        raise MissingFileError("there is no such file", where=place, hint=_HINT)
    plain = _plain(place, mpp, options.get("type_column")) if place.is_file() and place.suffix != ".h5ad" else None
    table, notes = plain if plain is not None and not set(options) - {"type_column"} else _platform(place, options)
    if not table["cell_type"].notna().any():
        raise InputError("has no cell with a type", where=place, hint=_HINT)
    return table, notes


def cells_in_tiles(
    cells: pd.DataFrame, tiles: pd.DataFrame, side_px: float, *, min_cells: int = 1, round_spots: bool = False
) -> TileCells:
    """Count the cells of each type in each tile.

    A tile is measured where a cell lies within one side of its centre: a table of cells may cover a part of the slide
    only, and a tile in fat or in a lumen beside cells is truly empty. Tiles with fewer than ``min_cells`` typed cells,
    or in which more than half of the cells have no type, are left out.

    Parameters
    ----------
    cells
        From `read_cells`.
    tiles
        ``x_px, y_px`` of the centres, indexed by key.
    side_px
        Side of the square tiles (diameter, with ``round_spots``).
    min_cells
        Fewest cells of a tile; 0 keeps tiles that are truly empty.
    round_spots
        Count in circles.

    Raises
    ------
    InputError
        No tile is left.
    """
    xy_cells, xy = (table[["x_px", "y_px"]].to_numpy(np.float64) for table in (cells, tiles))
    measured = cKDTree(xy_cells).query(xy)[0] <= side_px
    members = cells_in_spots(xy_cells, xy, side_px, "circle" if round_spots else "square")
    counts = count_types(members, cells["cell_type"], tiles.index)
    typed, every = counts.sum(axis=1).to_numpy(), np.asarray(members.sum(axis=1)).ravel()
    untyped = (every > 0) & ((every - typed) > MAX_UNASSIGNED * every)
    few = measured & ~untyped & (typed < min_cells)
    kept = measured & ~untyped & ~few
    notes = [
        f"{count:,} of {len(tiles):,} tiles {why}"
        for count, why in (
            (int((~measured).sum()), "have no cell within reach and count as not measured"),
            (int((measured & untyped).sum()), "are left out: over half of their cells have no type"),
            (int(few.sum()), f"are left out: they hold fewer than {min_cells:,} cells"),
        )
        if count
    ]
    if not kept.any():
        raise InputError(
            f"no tile of the map holds {max(min_cells, 1)} of the {len(cells):,} cells (cells: {_range(xy_cells)}; "
            f"tiles: {_range(xy)})",
            hint="Give the cells of this slide, in level-0 px",
        )
    inside = np.asarray(members[np.flatnonzero(kept)].sum(axis=0)).ravel() > 0
    named = cells["cell_type"].notna().to_numpy()
    return TileCells(counts[kept], int(named.sum()), int((named & inside).sum()), tuple(notes))


def check_near(xy_px: NDArray[np.float64], size_px: Sequence[float], what: str, where: str) -> None:
    """Refuse places (n, 2) that are nowhere near a slide: they are no places, but a mark or a slip.

    A table may hold more than the slide shows, so what lies a few slides off is left to be counted nowhere.

    Raises
    ------
    InputError
        A place lies more than ten sides of the slide beside it.
    """
    size = np.asarray(size_px, dtype=np.float64)
    far = ((xy_px < -_FAR * size) | (xy_px > (1 + _FAR) * size)).any(axis=1)
    if far.any():
        x, y = xy_px[np.argmax(far)]
        raise InputError(
            f"{int(far.sum()):,} of its {what} lie nowhere near the slide of {size[0]:.0f} x {size[1]:.0f} px "
            f"(the first at {x:.6g}, {y:.6g} px)",
            where=where,
            hint="Correct them or take them out; places are in level-0 px of this slide",
        )


def _plain(path: Path, mpp: float, type_column: str | None) -> tuple[pd.DataFrame, list[str]] | None:
    """A plain table; None where it has not the columns of one."""
    present = column_names(path)
    lower = {name.lower(): name for name in reversed(present)}
    layout = next((one for one in PLAIN if {one.x, one.y} <= set(present)), None)
    column = type_column or next((lower[name] for name in _TYPES if name in lower), None)
    if layout is None or column not in present:
        return None
    table = read_columns(path, [layout.x, layout.y, column])
    scale = 1.0 if layout.unit == "image px" else 1.0 / mpp
    places = {axis: numbers(table, name, path) * scale for axis, name in (("x_px", layout.x), ("y_px", layout.y))}
    cells = pd.DataFrame({**places, "cell_type": assigned(table[column])})
    # Two cells of one type lie in one place only where a row was written twice.
    again = cells.duplicated().to_numpy()
    notes = [f"{int(again.sum()):,} rows repeat another and are dropped"] if again.any() else []
    if layout.unit != "image px":
        notes.append(f"{layout.x}, {layout.y} are taken as um from the slide's corner")
    return cells[~again].reset_index(drop=True), notes


def _platform(path: Path, options: dict[str, str]) -> tuple[pd.DataFrame, list[str]]:
    reader = find_format(path)
    if reader is None or "at" not in reader.options:
        raise InputError("is no table of cells", where=path, hint=_HINT)
    check_options(reader, options, path)
    section = reader.read(path, False, {**options, "at": "cells"})
    adata = section.adata
    if COUNTS_KEY not in adata.obsm:
        raise SectionError(
            "has no cell types", where=path, hint="Name them after the cells, as in outs#types=cell_types.csv"
        )
    table = pd.DataFrame(np.asarray(adata.obsm["spatial"], dtype=np.float64), columns=["x_px", "y_px"])
    counts = adata.obsm[COUNTS_KEY]
    typed = counts.sum(axis=1).to_numpy() > 0
    table["cell_type"] = pd.Series(counts.columns.to_numpy()[counts.to_numpy().argmax(axis=1)]).where(typed, None)
    return table, list(section.notes)


def _range(xy: NDArray[np.float64]) -> str:
    low, high = xy.min(axis=0), xy.max(axis=0)
    return f"x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f} px"
