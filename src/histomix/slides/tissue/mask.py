"""The tissue of a slide on a grid of fixed um: how much of a square it covers, and what else was found there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

#: What a pixel of the grid is. Tissue and fat make the mask; under pen, in folds and in small pieces is tissue that is
#: not part of it.
GLASS, TISSUE, FAT, PEN, FOLD, SMALL = range(6)


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of one slide on a fixed grid.

    Parameters
    ----------
    mask
        bool (height, width), True on tissue; its corner is the corner of level 0.
    mpp
        um per pixel of the mask.
    kinds
        uint8 of the mask's shape: `GLASS`, `TISSUE`, `FAT`, `PEN` (over tissue), `FOLD` or `SMALL` (stained pieces that
        were dropped); None where only the mask is known.
    pen_mm2
        Area of all pen marks, over tissue or glass.
    """

    mask: np.ndarray
    mpp: float
    kinds: np.ndarray | None = None
    pen_mm2: float = 0.0

    @property
    def area_mm2(self) -> float:
        """Area of all tissue: of the mask, and of what lies under pen, in folds and in pieces that were dropped."""
        return float((self.mask if self.kinds is None else self.kinds != GLASS).sum()) * self.mpp**2 / 1e6

    def of(self, kind: int) -> np.ndarray:
        """Where something was found, bool (height, width); a mask of unknown kinds is all `TISSUE`."""
        if self.kinds is None:
            return self.mask if kind == TISSUE else np.zeros_like(self.mask)
        there: np.ndarray = self.kinds == kind
        return there

    def mm2(self, kind: int) -> float:
        """Area of what `of` gives."""
        return float(self.of(kind).sum()) * self.mpp**2 / 1e6

    def without_fat(self) -> TissueMask:
        """The same with fat left out of the mask."""
        if self.kinds is None:
            return self
        return TissueMask(self.mask & (self.kinds != FAT), self.mpp, self.kinds, self.pen_mm2)

    @cached_property
    def _integral(self) -> np.ndarray:
        return np.pad(self.mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))

    def fraction(self, x_px: ArrayLike, y_px: ArrayLike, width_um: float, slide_mpp: float) -> np.ndarray:
        """Fraction of squares that is tissue, exact to fractions of a mask pixel; outside the slide is no tissue.

        Parameters
        ----------
        x_px, y_px
            Centres in level-0 px of a slide of ``slide_mpp``; scalars or arrays.
        width_um
            Side of the squares.

        Returns
        -------
        float64 of the shape of the centres, 0 to 1.
        """
        x, y = (np.asarray(centre, float) * slide_mpp / self.mpp for centre in (x_px, y_px))
        half = width_um / self.mpp / 2
        inside = (
            self._area_before(x + half, y + half)
            - self._area_before(x - half, y + half)
            - self._area_before(x + half, y - half)
            + self._area_before(x - half, y - half)
        )
        fraction: np.ndarray = np.clip(inside / (2 * half) ** 2, 0, 1)
        return fraction

    def contains(self, xy_px: ArrayLike, slide_mpp: float) -> np.ndarray:
        """Whether points (n, 2), in level-0 px of a slide of ``slide_mpp``, lie on tissue: bool (n,)."""
        points = np.asarray(xy_px, float).reshape(-1, 2) * slide_mpp / self.mpp
        height, width = self.mask.shape
        # Rounding may leave the mask half a pixel short of the slide's edge.
        inside: np.ndarray = np.all((points >= 0) & (points < (width + 0.5, height + 0.5)), axis=1)
        column, row = np.where(inside[:, None], np.minimum(points, (width - 1, height - 1)), 0).astype(np.int64).T
        return np.asarray(self.mask[row, column] & inside)

    def _area_before(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tissue above and left of points, in mask px; the integral of a mask is linear between its corners."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        column, row = np.minimum(x, width - 1).astype(np.int64), np.minimum(y, height - 1).astype(np.int64)
        right, down = x - column, y - row
        corner = self._integral
        above = corner[row, column] * (1 - right) + corner[row, column + 1] * right
        below = corner[row + 1, column] * (1 - right) + corner[row + 1, column + 1] * right
        area: np.ndarray = above * (1 - down) + below * down
        return area
