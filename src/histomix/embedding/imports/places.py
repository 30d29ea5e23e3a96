"""Where foreign tiles are on their slide, and whether that can be true."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ...errors import FeatureError
from ...slides import TissueMask
from .settle import Settled
from .tiles import ORIGINS, ForeignTiles

_LOG = logging.getLogger(__name__)
#: More of the tiles beyond the slide's edges are of another slide or scale.
_MAX_OUTSIDE = 0.02
#: Levels of slides are so many times smaller than level 0.
_SMALLER = (2, 4, 8, 16, 32, 64)
#: Places that cover less of what they should are looked at in px of smaller levels, which must cover more than this.
_COVERS_LITTLE, _COVERS_WELL = 0.35, 0.6
#: Centres nearer than this share of a tile are the same; so many spots must have one for a scale or corner to be told.
_SAME, _MOST = 0.1, 0.8


@dataclass(frozen=True, eq=False)
class Ground:
    """What places are checked against; None for what is not at hand.

    Parameters
    ----------
    mpp
        Um per px of level 0.
    size_px
        Width and height of the slide.
    tissue
        Its tissue.
    spots_px
        (n, 2) centres of the section's spots.
    """

    mpp: float
    size_px: tuple[int, int] | None = None
    tissue: TissueMask | None = None
    spots_px: np.ndarray | None = None


def centres_px(tiles: ForeignTiles, settled: Settled, side_px0: float, origin: str | None = None) -> np.ndarray:
    """Centres of the tiles, (n, 2) level-0 px; of another ``origin`` where that is asked."""
    xy = np.asarray(tiles.xy, float) * (settled.facts.scale or 1.0)
    return xy + side_px0 / 2 if (origin or settled.facts.origin) == "corner" else xy


def check_places(tiles: ForeignTiles, settled: Settled, side_px0: float, ground: Ground) -> np.ndarray:
    """Centres of the tiles, (n, 2) level-0 px, which can be true on this slide.

    Raises
    ------
    FeatureError
        The file is of a slide of another size or scale, tiles lie beyond its edges, or the places are in px of a
        smaller level, or half a tile off: corners taken for centres, or the other way round.
    """
    where, facts = tiles.where, settled.facts
    if ground.size_px is not None and facts.slide_size_px is not None and facts.slide_size_px != ground.size_px:
        raise FeatureError(
            f"it is of a slide with {facts.slide_size_px[0]:,} x {facts.slide_size_px[1]:,} px, and this one has "
            f"{ground.size_px[0]:,} x {ground.size_px[1]:,}",
            where=where,
            hint="Give the features of this very slide",
        )
    if facts.slide_mpp is not None and abs(facts.slide_mpp - ground.mpp) > 0.05 * ground.mpp:
        _LOG.warning("%s: its slide had %g um/px, and this one has %g", where, facts.slide_mpp, ground.mpp)
    centres = centres_px(tiles, settled, side_px0)
    _check_level(centres, tiles, settled, side_px0, ground)
    _check_origin(centres, tiles, settled, side_px0, ground)
    if ground.size_px is not None:
        out = ((centres < 0) | (centres > np.asarray(ground.size_px))).any(axis=1)
        if out.mean() > _MAX_OUTSIDE:
            reach = centres.max(axis=0)
            raise FeatureError(
                f"{out.sum():,} of {len(centres):,} tiles lie off the slide of {ground.size_px[0]:,} x "
                f"{ground.size_px[1]:,} px: they reach x {reach[0]:,.0f}, y {reach[1]:,.0f}",
                where=where,
                hint="Check that it is the same slide; --scaled states the px of the places",
            )
    return centres


def _check_level(centres: np.ndarray, tiles: ForeignTiles, settled: Settled, side_px0: float, ground: Ground) -> None:
    """Refuse places in px of a smaller level: they crowd in the upper left; enlarged they are on the tissue."""
    targets = [box for box in (_tissue_box(ground), _box(ground.spots_px)) if box is not None]
    if not targets or any(_overlap(_box(centres), target) > _COVERS_LITTLE for target in targets):
        return
    half = side_px0 / 2 if settled.facts.origin == "corner" else 0.0
    fits = {}
    for times in _SMALLER:
        larger = (centres - half) * times + half
        inside = ground.size_px is None or (larger <= np.asarray(ground.size_px) + side_px0).all(axis=1).mean() > 0.98
        fits[times] = max(_overlap(_box(larger), target) for target in targets) if inside else 0.0
    best = max(fits, key=lambda times: fits[times])
    if fits[best] > _COVERS_WELL:
        x, y = centres.max(axis=0)
        raise FeatureError(
            f"its places reach only x {x:,.0f}, y {y:,.0f} px; {best} times larger they are where the tissue is: they "
            f"are in px of a level {best} times smaller, not of level 0",
            where=tiles.where,
            hint=f"State it with --scaled {best * (settled.facts.scale or 1.0):g}",
        )


def _check_origin(centres: np.ndarray, tiles: ForeignTiles, settled: Settled, side_px0: float, ground: Ground) -> None:
    """Say that tiles are half a tile off, where the other reading of their places is surely right."""
    other = next(one for one in ORIGINS if one != settled.facts.origin)
    moved = centres_px(tiles, settled, side_px0, other)
    if ground.spots_px is not None and _at_spots(centres, ground.spots_px, side_px0) < 0.5:
        shares = _at_spots(moved, ground.spots_px, side_px0)
        if shares > _MOST:
            shift_um = side_px0 / 2 * ground.mpp
            raise FeatureError(
                f"its tiles lie half a tile ({shift_um:.4g} um) off the spots in x and in y; taken for the {other}s of "
                f"the tiles, {shares:.0%} of its places are those of spots",
                where=tiles.where,
                hint=f"State it with --origin {other}",
            )
    # Grids that start at the corner of the slide have corners at multiples of the side, and centres half a side after.
    phase = (np.asarray(tiles.xy, float) * (settled.facts.scale or 1.0)) / side_px0 % 1.0
    off = np.minimum(phase, 1 - phase) if other == "corner" else np.abs(phase - 0.5)
    if len(phase) > 3 and (off < _SAME / 2).all():
        _LOG.warning(
            "%s: its places look like the %ss of a grid of tiles, and are taken for %ss: if that is wrong, all is half "
            "a tile (%.4g um) off; state it with --origin %s",
            tiles.where,
            other,
            settled.facts.origin,
            side_px0 / 2 * ground.mpp,
            other,
        )


def _at_spots(centres: np.ndarray, spots_px: np.ndarray, side_px0: float) -> float:
    """Share of the tiles whose centre is that of a spot."""
    distance, _ = cKDTree(spots_px).query(centres)
    return float((distance < _SAME * side_px0).mean())


def _box(xy: np.ndarray | None) -> np.ndarray | None:
    return None if xy is None or len(xy) < 2 else np.stack([xy.min(axis=0), xy.max(axis=0)])


def _tissue_box(ground: Ground) -> np.ndarray | None:
    if ground.tissue is None or not ground.tissue.mask.any():
        return None
    rows, columns = np.nonzero(ground.tissue.mask)
    factor = ground.tissue.mpp / ground.mpp
    return np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]) * factor


def _overlap(one: Any, other: Any) -> float:
    """Area that two boxes share, as a part of the area of either."""
    if one is None or other is None:
        return 0.0
    shared = np.prod(np.clip(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0, None))
    both = np.prod(one[1] - one[0]) + np.prod(other[1] - other[0]) - shared
    return float(shared / both) if both > 0 else 0.0
