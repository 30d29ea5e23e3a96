"""Words for where spots lie on, or beside, the canvas of their image."""

from __future__ import annotations

import numpy as np

_HALF = 0.5


def outside(xy_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Which spots (n, 2) lie outside an image: bool (n,)."""
    return np.asarray(((xy_px < 0) | (xy_px >= size_px)).any(axis=1))


def outside_text(xy_px: np.ndarray, size_px: tuple[int, int]) -> str:
    """How many spots lie outside the image, beyond which edges and corners, and how far; empty when none does."""
    out = outside(xy_px, size_px)
    if not out.any():
        return ""
    beyond = np.where(xy_px < 0, -1, np.where(xy_px >= size_px, 1, 0))[out]
    sides, counts = np.unique(beyond, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = [f"{counts[place]} beyond its {_side(*sides[place])}" for place in order]
    far_px = np.maximum(-xy_px, xy_px - np.asarray(size_px)).max()
    negative = int((xy_px < 0).any(axis=1).sum())
    tail = f"; {negative} have negative coordinates" if negative else ""
    return (
        f"{out.sum():,} of {len(xy_px):,} spots ({out.mean():.1%}) lie outside the image of "
        f"{size_px[0]} x {size_px[1]} px: {', '.join(parts)}, up to {far_px:.0f} px away{tail}"
    )


def _side(x: int, y: int) -> str:
    column, row = ("left", "", "right")[x + 1], ("upper", "", "lower")[y + 1]
    return f"{row} {column} corner" if row and column else f"{row or column} edge"


def scale_text(xy_px: np.ndarray, size_px: tuple[int, int], scale: float) -> str:
    """What it looks like when coordinates had to be enlarged ``scale`` times to fit the image."""
    reach = xy_px.max(axis=0) / size_px
    if scale >= 1:
        filled = float(np.prod(np.clip(reach, 0, 1)))
        return (
            f"the coordinates fill only the upper left {_percent(filled)} of the image: "
            f"they look like those of an image {scale:.3g} times smaller"
        )
    return (
        f"the coordinates reach {reach.max():.3g} times as far as the image: "
        f"they look like those of an image {1 / scale:.3g} times larger"
    )


def may_be_scaled(xy_px: np.ndarray, size_px: tuple[int, int], max_outside: float) -> bool:
    """Whether the coordinates keep to the upper left quarter of the image, or leave it."""
    reach = xy_px.max(axis=0) / size_px
    return bool((reach < _HALF).all() or outside(xy_px, size_px).mean() > max_outside)


def _percent(fraction: float) -> str:
    return f"{fraction:.0%}" if fraction >= 0.01 else f"{fraction:.1%}"
