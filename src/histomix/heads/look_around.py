"""The part of every head that looks around a tile: before its regressor, and after."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..errors import HeadError
from .neighbourhood import (
    Context,
    Neighbourhood,
    Positions,
    SlideScale,
    choose_rings,
    choose_smoothing,
    smooth,
    with_rings,
)

#: No slide is longer, um.
_FARTHEST_UM = 1e6


class NeighbourhoodMixin:
    """Adds what stands around a tile to its features, and smooths predictions; `CompositionRegressor` calls it."""

    #: A head on the graph of the spots: it is given all rows of a prediction at once, with their places.
    needs_positions: ClassVar[bool] = False
    n_features_in_: int
    rings_um_: np.ndarray
    smooth_um_: float
    slide_mean_: np.ndarray
    slide_variance_: np.ndarray
    #: Outer radii, um, of the rings around a tile whose mean features are joined to its own; "auto" for two rings of
    #: 1.5 and 2.5 spot pitches, none where no places are given.
    rings_um: tuple[float, ...] | str = ()
    #: Standard deviation, um, of the Gaussian that predictions of one section are smoothed with; 0 for none, "auto" to
    #: choose it on held-out predictions.
    smooth_um: float | str = 0.0
    #: Put features on the scale of their slide (`SlideScale`), where places are given.
    slide_scale: bool = False

    @property
    def context(self) -> Context:
        """What the head looks at; what is left to be chosen is nothing before it is fitted."""
        rings = getattr(self, "rings_um_", ()) if self.rings_um == "auto" else self.rings_um
        length = getattr(self, "smooth_um_", 0.0) if self.smooth_um == "auto" else self.smooth_um
        slide = self.slide_scale and bool(np.any(getattr(self, "slide_variance_", 0.0)))
        return Context(tuple(float(radius) for radius in rings), float(length), slide)

    @property
    def reach_um(self) -> float:
        """How far around a tile rings, smoothing and graph reach, um: the neighbourhood without its whole slide."""
        return self.context.reach_um

    @property
    def context_um(self) -> float:
        """How far around a tile the head looks, um from centre to centre; 0 for the tile alone, inf for its slide."""
        return np.inf if self.context.slide else self.reach_um

    def check_look(self) -> None:
        """Raise (HeadError) on rings and a smoothing that are no lengths on a slide."""
        try:
            rings, length = self.context.rings_um, self.context.smooth_um
        except (TypeError, ValueError):
            rings, length = (), np.nan
        if any(not 0 < radius <= _FARTHEST_UM for radius in rings) or sorted(set(rings)) != [*rings]:
            given = getattr(self, "rings_um_", self.rings_um)
            raise HeadError(f"rings_um must be positive radii, ascending, on a slide; it is {given!r}")
        if not 0 <= length <= _FARTHEST_UM:
            given = getattr(self, "smooth_um_", self.smooth_um)
            raise HeadError(f"smooth_um must be a non-negative length on a slide; it is {given!r}")

    def _start_context(self, X: np.ndarray, positions: Positions | None, kept: np.ndarray) -> None:
        """Set what of the look is not fixed by a parameter; smoothing is chosen after the fit."""
        _require_as_many(positions, len(X))
        there = None if positions is None else positions[kept]
        if self.rings_um == "auto":
            self.rings_um_ = np.array([] if there is None else choose_rings(there))
        if self.smooth_um == "auto":
            self.smooth_um_ = 0.0
        if self.slide_scale:
            scale = SlideScale.fitted(X[kept], there)
            self.slide_mean_, self.slide_variance_ = scale.mean, scale.variance

    def _scales(self, X: Any, positions: Positions) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        return SlideScale(self.slide_mean_, self.slide_variance_).of(X, positions) if self.context.slide else None

    def _seen(
        self,
        X: Any,
        rows: np.ndarray | slice,
        neighbourhood: Neighbourhood | None,
        scales: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    ) -> np.ndarray:
        """Rows with their rings, on the scale of their slide."""
        rings = self.context.rings_um
        if neighbourhood is not None and rings:
            numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            block = with_rings(X, numbers, neighbourhood, rings)
        else:
            block = X[rows]
        if scales is None:
            return block
        code, mean, spread = scales[0][rows], *scales[1:]
        parts = np.asarray(block, dtype=np.float32).reshape(len(code), -1, self.n_features_in_)
        scaled: np.ndarray = (parts - mean[code][:, None]) / spread[code][:, None]
        return scaled.reshape(len(code), -1)

    def _neighbourhood(self, positions: Positions | None, n_rows: int) -> Neighbourhood | None:
        """Check that places are there where the head needs them, and find neighbours where it looks for any."""
        self.check_look()
        rings, length = self.context.rings_um, self.context.smooth_um
        needs_neighbours = bool(rings) or length > 0
        if positions is None:
            if needs_neighbours or self.needs_positions or self.context.slide:
                raise HeadError(
                    "this head looks at the neighbours of a tile, and no places were given",
                    hint="Give positions=Positions(section, xy_um), or rings_um=() and smooth_um=0",
                )
            return None
        _require_as_many(positions, n_rows)
        return Neighbourhood(positions) if needs_neighbours or self.smooth_um == "auto" else None

    def _smoothed(self, values: np.ndarray, neighbourhood: Neighbourhood | None) -> np.ndarray:
        length = self.context.smooth_um
        return smooth(values, neighbourhood, length) if neighbourhood is not None and length else values

    def _context_fitted(self) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """Names of the arrays (with their axes) and numbers of the look that are not parameters."""
        arrays: dict[str, tuple[str, ...]] = {"rings_um_": ("rings",)} if self.rings_um == "auto" else {}
        if self.slide_scale:
            arrays |= {"slide_mean_": ("own features",), "slide_variance_": ("own features",)}
        return arrays, ("smooth_um_",) if self.smooth_um == "auto" else ()

    def _choose_smoothing(self, held_out: np.ndarray, Y: np.ndarray, positions: Positions) -> None:
        if self.smooth_um == "auto":
            self.smooth_um_ = choose_smoothing(held_out, Y, positions)


def _require_as_many(positions: Positions | None, n_rows: int) -> None:
    if positions is not None and len(positions) != n_rows:
        raise HeadError(f"there are {len(positions)} places and {n_rows} rows of features")
