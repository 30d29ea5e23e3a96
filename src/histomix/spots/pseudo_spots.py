"""Which cells lie in which spot: cell-level truth to composition per spot or tile, without deconvolution."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from ..common.naming import plain_name
from ..errors import SectionError

if TYPE_CHECKING:
    from anndata import AnnData

    from .section import Section

_log = logging.getLogger(__name__)

#: Shapes of a spot.
SHAPES = ("circle", "square")
#: Names, in lower case, by which cell tables say that a cell has no type.
UNASSIGNED = frozenset({"", "nan", "na", "none", "unassigned", "unknown", "unlabeled", "unlabelled", "undefined"})
#: A spot with a larger share of cells without a type gets no label.
MAX_UNASSIGNED = 0.5
#: Places of the lattice that are looked at, at most, and their least distance.
_MOST_PLACES, _LEAST_PITCH_PX = 50_000_000, 1e-3
#: Where readers of cell tables keep the cells of each type, and all cells, per spot.
COUNTS_KEY, CELLS_KEY = "cell_counts", "cells"


def cells_in_spots(
    cells_px: np.ndarray, spots_px: np.ndarray, size_px: float, shape: str = "circle"
) -> sparse.csr_matrix:
    """Membership of cells in spots.

    Parameters
    ----------
    cells_px, spots_px
        Centres (m, 2) and (n, 2), in the same px.
    size_px
        Diameter of the circles, or side of the squares.
    shape
        One of `SHAPES`. A circle has its rim; a square its left and upper edge, but not the opposite ones, so that
        touching squares share no cell.

    Returns
    -------
    csr float32 (n, m), 1 where the cell lies in the spot.

    Raises
    ------
    SectionError
        The size is not positive, the shape is unknown, or a coordinate is not finite.
    """
    cells_px, spots_px = (np.asarray(xy, dtype=np.float64).reshape(-1, 2) for xy in (cells_px, spots_px))
    if shape not in SHAPES:
        raise SectionError(f"'{shape}' is no shape of a spot", hint=f"Use one of {', '.join(SHAPES)}")
    if not (np.isfinite(size_px) and size_px > 0):
        raise SectionError(
            f"the size of the spots is {size_px} px", hint="Give a positive size in um and a positive mpp"
        )
    if not (np.isfinite(cells_px).all() and np.isfinite(spots_px).all()):
        raise SectionError("some coordinates are not finite", hint="Leave out cells and spots without a place")
    half = size_px / 2
    # A hair more than asked for, so that the exact test below alone decides.
    pairs = cKDTree(spots_px).sparse_distance_matrix(
        cKDTree(cells_px), half * (1 + 1e-9) + 1e-9, p=2 if shape == "circle" else np.inf, output_type="ndarray"
    )
    spot, cell = pairs["i"], pairs["j"]
    offset = cells_px[cell] - spots_px[spot]
    if shape == "circle":
        inside = (offset**2).sum(axis=1) <= half**2
    else:
        inside = ((offset >= -half) & (offset < half)).all(axis=1)
    members = sparse.coo_matrix(
        (np.ones(int(inside.sum()), dtype=np.float32), (spot[inside], cell[inside])),
        shape=(len(spots_px), len(cells_px)),
    ).tocsr()
    members.sort_indices()
    return members


def assigned(cell_types: pd.Series) -> pd.Series:
    """Cell types as text, None for cells that have none (names in `UNASSIGNED`, in any case)."""
    names = cell_types.astype(object).where(cell_types.notna(), "").astype(str)
    names = names.map({name: plain_name(name) for name in names.unique()}).astype(str)
    # As objects: the strings of pandas 3 would turn None into NaN.
    return names.astype(object).mask(names.str.lower().isin(UNASSIGNED), None)


def cell_composition(
    cells: pd.DataFrame,
    spots: pd.DataFrame,
    *,
    mpp: float,
    diameter_um: float | None = None,
    size_um: float | None = None,
    shape: str | None = None,
) -> pd.DataFrame:
    """Cells of each type in each spot or tile.

    Parameters
    ----------
    cells
        One row per cell: ``x_px``, ``y_px`` (level-0 px of the image), ``cell_type``. Cells without a type (see
        `assigned`) are not counted.
    spots
        One row per spot or tile: ``x_px``, ``y_px`` of its centre; indexed by key.
    mpp
        um per px of both.
    diameter_um, size_um
        Diameter of round spots, or side of square tiles: give one.
    shape
        ``"circle"`` or ``"square"``; by default what the size implies.

    Returns
    -------
    Spots x cell types (sorted), int64 counts, "cells per spot": 0 throughout for a spot without cells.

    Raises
    ------
    SectionError
        A column is missing, a place is not finite, or the size is not given once.
    """
    _require(cells, ("x_px", "y_px", "cell_type"), "cells")
    _require(spots, ("x_px", "y_px"), "spots")
    if (diameter_um is None) == (size_um is None):
        raise SectionError("the size of the spots is not given once", hint="Give diameter_um or size_um")
    size_px = (diameter_um if diameter_um is not None else size_um or 0.0) / mpp if mpp > 0 else float("nan")
    shape = shape or ("circle" if diameter_um is not None else "square")
    members = cells_in_spots(cells[["x_px", "y_px"]].to_numpy(), spots[["x_px", "y_px"]].to_numpy(), size_px, shape)
    return count_types(members, cells["cell_type"], spots.index)


def count_types(members: sparse.csr_matrix, cell_types: pd.Series, keys: pd.Index) -> pd.DataFrame:
    """Spots x cell types, int64, from a membership matrix (see `cells_in_spots`) and the type of each of its cells."""
    codes, names = pd.factorize(assigned(cell_types).to_numpy(), sort=True)
    known = codes >= 0
    table = sparse.csr_matrix(
        (np.ones(known.sum(), dtype=np.float64), (np.flatnonzero(known), codes[known])), shape=(len(codes), len(names))
    )
    counts = (members.astype(np.float64) @ table).toarray().round().astype(np.int64)
    return pd.DataFrame(counts, index=keys, columns=pd.Index(names, dtype=str, name=None))


def pseudo_spots(
    cells: pd.DataFrame,
    pitch_um: float,
    *,
    mpp: float,
    diameter_um: float | None = None,
    size_um: float | None = None,
    min_cells: int = 1,
    image_px: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Spots on a square lattice over the cells.

    The lattice starts at the image's origin, so it does not depend on the cells: keys stay when cells are left out.

    Parameters
    ----------
    cells
        ``x_px``, ``y_px`` in level-0 px.
    pitch_um
        Distance of neighbouring spots.
    mpp
        um per px.
    diameter_um, size_um
        Diameter of round spots or side of square ones; by default squares that touch.
    min_cells
        Spots with fewer cells are left out.
    image_px
        Width and height of the image: spots that reach beyond it are left out, since no tile there is whole.

    Returns
    -------
    Index ``spot`` (``r{row}c{column}``), columns ``x_px``, ``y_px``, ``array_x``, ``array_y`` (column and row).

    Raises
    ------
    SectionError
        A size is not positive, or no spot lies wholly in the image and has enough cells.
    """
    _require(cells, ("x_px", "y_px"), "cells")
    if not (np.isfinite([pitch_um, mpp]).all() and pitch_um > 0 and mpp > 0):
        raise SectionError(
            f"a pitch of {pitch_um} um at {mpp} um per px makes no lattice", hint="Give positive numbers"
        )
    if diameter_um is not None and size_um is not None:
        raise SectionError("the size of the spots is given twice", hint="Give diameter_um or size_um")
    shape = "square" if diameter_um is None else "circle"
    side_um = diameter_um or size_um or pitch_um
    pitch_px, xy_px = pitch_um / mpp, cells[["x_px", "y_px"]].to_numpy(dtype=np.float64)
    places_of_cell = min(max(1.0, side_um / pitch_um) + 1, 1e100)
    if len(xy_px) * places_of_cell * places_of_cell > _MOST_PLACES or pitch_px < _LEAST_PITCH_PX:
        raise SectionError(
            f"spots of {side_um:g} um that are {pitch_um:g} um apart are too many: each of {len(xy_px):,} cells would "
            f"lie in about {places_of_cell * places_of_cell:,.3g} of them",
            hint="Ask for a larger pitch (pitch_um)",
        )
    # Every lattice place a cell might belong to: its own square and, for spots larger than the pitch, those around.
    reach = int(np.ceil(max(0.0, side_um / pitch_um - 1) / 2))
    steps = np.arange(-reach, reach + 1)
    around = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    positions = np.unique(np.floor(xy_px / pitch_px).astype(np.int64), axis=0)
    positions = np.unique((positions[:, None] + around).reshape(-1, 2), axis=0)
    centres = (positions + 0.5) * pitch_px
    if image_px is not None:
        half, slack = side_um / mpp / 2, 1e-6
        whole = ((centres >= half - slack) & (centres + half <= np.asarray(image_px) + slack)).all(axis=1)
        if not whole.any():
            width, height = (side * mpp for side in image_px)
            raise SectionError(
                f"no spot of {side_um:g} um with cells lies wholly in the image of {width:.0f} x {height:.0f} um",
                hint="Check the um per px, or ask for smaller spots",
            )
        positions, centres = positions[whole], centres[whole]
    held = np.diff(cells_in_spots(xy_px, centres, side_um / mpp, shape).indptr)
    kept = held >= max(1, min_cells)
    if not kept.any():
        raise SectionError(
            f"no spot of {side_um:g} um holds {max(1, min_cells)} cells",
            hint="Check the um per px, or ask for larger spots",
        )
    column, row = positions[kept].T
    order = np.lexsort((column, row))
    table = {
        "x_px": centres[kept][order, 0],
        "y_px": centres[kept][order, 1],
        "array_x": column[order].astype(np.float64),
        "array_y": row[order].astype(np.float64),
    }
    keys = [f"r{r}c{c}" for r, c in zip(row[order], column[order], strict=True)]
    return pd.DataFrame(table, index=pd.Index(keys, name="spot"))


def cells_to_labels(section: Section | AnnData, max_unassigned: float = MAX_UNASSIGNED) -> pd.DataFrame:
    """Labels of a section that was read from a cell table: the cells of each type per spot.

    Spots in which more than ``max_unassigned`` of the cells have no type get no label, with a logged note; in the
    others, cells without a type are not counted.

    Returns
    -------
    Spots x cell types, float64; the unit is "cells per spot".

    Raises
    ------
    SectionError
        The section has no cells, no cell types, or no spot whose cells are typed.
    """
    adata: AnnData = getattr(section, "adata", section)
    name, where = getattr(section, "name", "section"), getattr(section, "where", "") or None
    if CELLS_KEY not in adata.obs:
        raise SectionError(
            f"the section '{name}' was not read from a table of cells",
            where=where,
            hint="Give it in the format xenium, cosmx, merscope or cells",
        )
    counts = adata.obsm.get(COUNTS_KEY)
    if counts is None or not len(counts.columns):
        raise SectionError(
            f"the cells of section '{name}' have no types",
            where=where,
            hint="Name a table of cell id and cell type after the spots, as in outs#types=cell_types.csv",
        )
    cells = adata.obs[CELLS_KEY].to_numpy(dtype=np.float64)
    untyped = 1 - counts.sum(axis=1).to_numpy() / np.maximum(cells, 1)
    kept = (cells > 0) & (untyped <= max_unassigned)
    if not kept.any():
        raise SectionError(
            f"in every spot of section '{name}' over {max_unassigned:.0%} of the cells have no type",
            where=where,
            hint="Check that the cell types are of this section, with the same cell ids",
        )
    if not kept.all():
        _log.info(
            "%s: %d of %d spots have more than %.0f %% cells without a type: no label",
            name, (~kept).sum(), len(kept), 100 * max_unassigned,
        )  # fmt: skip
    labels = counts[kept].astype(np.float64)
    return pd.DataFrame(labels.to_numpy(), index=pd.Index(adata.obs_names[kept], name="spot"), columns=counts.columns)


def _require(table: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise SectionError(f"the table of {what} lacks {', '.join(missing)}", hint="Name the columns so")
