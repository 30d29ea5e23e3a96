"""What an encoder sees: squares of fixed um, at spots or on a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..errors import InputError
from .slide import Slide
from .tissue import TissueMask, tissue_mask

#: No microscope scan is coarser than this, um per px.
MAX_MPP = 100.0
_STRIP_TILES = 8
# Places of a grid that are looked up on the tissue mask at once.
_GRID_POSITIONS = 1 << 16


@dataclass(frozen=True)
class TileSpec:
    """Size and scale of a tile.

    Parameters
    ----------
    size_px
        Side in px of ``mpp``.
    mpp
        um per pixel.
    stride_um
        Distance of neighbours on a grid; None: side by side.
    """

    size_px: int
    mpp: float
    stride_um: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size_px, bool) or not isinstance(self.size_px, int) or self.size_px < 1:
            raise InputError(f"the size of a tile must be a whole number of px from 1 on, not {self.size_px!r}")
        for name, value in (("mpp", self.mpp), ("stride_um", self.stride_um)):
            if not (value is None and name == "stride_um") and not (value is not None and 0 < value < math.inf):
                raise InputError(f"the {name} of a tile must be a positive number, not {value!r}")
        if self.mpp > MAX_MPP:
            raise InputError(f"the mpp of a tile must be at most {MAX_MPP:g} um per px, not {self.mpp!r}")

    @property
    def size_um(self) -> float:
        """Side in um."""
        return self.size_px * self.mpp

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TileSpec:
        """The inverse of `to_dict`."""
        if not {"size_px", "mpp"} <= set(values) <= {"size_px", "mpp", "stride_um"}:
            raise InputError(f"a tile needs size_px and mpp, and may have stride_um; found {sorted(values)}")
        return cls(**values)


def tiles_at_spots(
    slide: Slide, xy_px: ArrayLike, keys: Sequence[str] | pd.Index, spec: TileSpec, mask: TissueMask | None = None
) -> pd.DataFrame:
    """One tile around each spot, on tissue or not, in the order of the spots.

    Parameters
    ----------
    xy_px
        (n, 2) centres of the spots in level-0 px.
    keys
        (n,) unique names of the spots.
    mask
        Tissue; found by `tissue_mask` when left out.

    Returns
    -------
    DataFrame indexed by key: ``x_px``, ``y_px`` (centre, level-0 px), ``tissue`` (share of the tile, 0 to 1).

    Raises
    ------
    InputError
        Positions are not (n, 2) finite numbers, or keys are not n unique names.
    """
    index = pd.Index(keys, name="spot")
    try:
        centres = np.asarray(xy_px, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"the positions of the spots are not numbers ({error})", where=slide.path) from error
    if centres.shape != (len(index), 2) or not np.isfinite(centres).all():
        raise InputError(
            f"{len(index):,} spots need as many finite positions (x, y); found an array of {centres.shape}",
            where=slide.path,
        )
    if not index.is_unique:
        twice = ", ".join(map(str, index[index.duplicated()].unique()[:3]))
        raise InputError(f"spots come twice: {twice}", where=slide.path)
    return _table(slide, index, centres[:, 0], centres[:, 1], spec, mask)


def tiles_on_grid(
    slide: Slide, spec: TileSpec, mask: TissueMask | None = None, min_tissue: float = 0.5
) -> pd.DataFrame:
    """Tiles on a regular grid that starts at the corner of the scanned part (``slide.bounds_px``), row by row.

    Parameters
    ----------
    mask
        Tissue; found by `tissue_mask` when left out.
    min_tissue
        Tiles with a smaller share of tissue are left out; 0 keeps every tile whose centre is on the slide.

    Returns
    -------
    As `tiles_at_spots`; keys are ``{column}x{row}`` of the grid.
    """
    grid = grid_positions(slide, spec, tissue_mask(slide) if mask is None else mask, min_tissue)
    names = pd.Series(grid.column.astype(str)) + "x" + pd.Series(grid.row.astype(str))
    table = {"x_px": grid.x_px, "y_px": grid.y_px, "tissue": grid.tissue}
    return pd.DataFrame(table, index=pd.Index(names.astype(object), name="spot"))


@dataclass(frozen=True, eq=False)
class GridPositions:
    """Places of a regular grid that lie on tissue, row by row.

    Parameters
    ----------
    column, row
        (n,) int32 numbers of each place in the grid.
    x_px, y_px
        (n,) centres, level-0 px.
    tissue
        (n,) share of the tile on tissue, 0 to 1.
    shape
        Columns and rows of the whole grid.
    """

    column: np.ndarray
    row: np.ndarray
    x_px: np.ndarray
    y_px: np.ndarray
    tissue: np.ndarray
    shape: tuple[int, int]


def grid_positions(slide: Slide, spec: TileSpec, mask: TissueMask, min_tissue: float = 0.5) -> GridPositions:
    """What `tiles_on_grid` finds, as arrays; memory follows the places on tissue, not the whole grid.

    Raises
    ------
    InputError
        ``min_tissue`` is no share.
    """
    if not 0 <= min_tissue <= 1:
        raise InputError(f"min_tissue is a share between 0 and 1, not {min_tissue}")
    half = spec.size_um / slide.mpp / 2
    stride = (spec.stride_um or spec.size_um) / slide.mpp
    x, y = (
        start + half + stride * np.arange(max(1, math.ceil((side - start - half) / stride)))
        for start, side in zip(slide.bounds_px, (slide.width_px, slide.height_px), strict=True)
    )
    step = max(1, _GRID_POSITIONS // len(x))
    parts: list[tuple[np.ndarray, ...]] = []
    for first in range(0, len(y), step):
        row, column = (number.ravel() for number in np.indices((len(y[first : first + step]), len(x))))
        row = row + first
        coverage = mask.fraction(x[column], y[row], spec.size_um, slide.mpp)
        keep = coverage >= min_tissue
        column, row = column[keep], row[keep]
        parts.append((column.astype(np.int32), row.astype(np.int32), x[column], y[row], coverage[keep]))
    columns, rows, x_px, y_px, tissue = (np.concatenate(part) for part in zip(*parts, strict=True))
    return GridPositions(columns, rows, x_px, y_px, tissue, (len(x), len(y)))


def read_tile(slide: Slide, x_px: float, y_px: float, spec: TileSpec) -> np.ndarray:
    """Pixels of the tile centred at level-0 px: uint8 RGB (size_px, size_px, 3). Raises as `Slide.read`."""
    half = spec.size_um / slide.mpp / 2
    return slide.read(x_px - half, y_px - half, spec.size_px, spec.size_px, spec.mpp)


def read_tiles(slide: Slide, x_px: float, y_px: float, specs: Sequence[TileSpec]) -> list[np.ndarray]:
    """Tiles of several sizes and scales around one place: what `read_tile` gives for each, read once."""
    rectangles = []
    for spec in specs:
        half = spec.size_um / slide.mpp / 2
        rectangles.append((x_px - half, y_px - half, spec.size_px, spec.size_px, spec.mpp))
    return slide.read_together(rectangles)


def reading_order(slide: Slide, xy_px: np.ndarray, size_um: float) -> np.ndarray:
    """An order of places (n, 2), in level-0 px, that keeps neighbours together: strips a few tiles wide, top to bottom.

    Tiles next to each other share file tiles that need then be decoded only once, however wide the slide is.
    """
    strip = xy_px[:, 0] // (_STRIP_TILES * size_um / slide.mpp)
    return np.lexsort((xy_px[:, 0], xy_px[:, 1], strip))


def _table(
    slide: Slide, keys: pd.Index, x_px: np.ndarray, y_px: np.ndarray, spec: TileSpec, mask: TissueMask | None
) -> pd.DataFrame:
    mask = tissue_mask(slide) if mask is None else mask
    tissue = mask.fraction(x_px, y_px, spec.size_um, slide.mpp)
    return pd.DataFrame({"x_px": x_px, "y_px": y_px, "tissue": tissue}, index=keys)
