"""A section, its slide and its tissue, measured once for the check, the proposal and the overlay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .lattice import layout_of
from .matching import Fit, OnTissue

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask
    from .section import Section

#: Fewer spots than this have no outline to match.
MIN_SPOTS = 25
#: So many spots that cover so much of a plain rectangle (loose points: of their hull) are an array that was kept whole.
MIN_WHOLE, WHOLE = 100, 0.95


@contextlib.contextmanager
def opened(section: Section, slide: Slide | None, mask: TissueMask | None) -> Iterator[tuple[Slide, TissueMask]]:
    """The slide (closed again if it was opened here) and its tissue mask."""
    with contextlib.ExitStack() as stack:
        if slide is None:
            slide = stack.enter_context(section.slide())
        if mask is None:
            from ..slides import tissue_mask

            mask = tissue_mask(slide)
        yield slide, mask


def placed_spots(section: Section) -> np.ndarray:
    """Which spots are said to be on tissue: those with obs ``in_tissue`` = 1, or all where nobody says."""
    obs = section.adata.obs
    if "in_tissue" not in obs:
        return np.ones(len(obs), dtype=bool)
    flags = obs["in_tissue"].map(lambda flag: flag if isinstance(flag, bool | np.bool_) else str(flag) in ("1", "True"))
    return np.asarray(flags, dtype=bool) if flags.any() else np.ones(len(obs), dtype=bool)


def fit_of(section: Section, size_px: tuple[int, int], on_tissue: OnTissue) -> tuple[Fit | None, str]:
    """What measures placements of the section, and why they cannot be compared (empty when they can).

    The fit is None when there are too few spots even for a pitch.
    """
    placed = placed_spots(section)
    xy_px, obs = section.spots_px[placed], section.adata.obs[placed]
    layout = layout_of(xy_px, pd.DataFrame(obs))
    fit = None if layout is None else Fit(layout, size_px, on_tissue)
    if layout is None or len(xy_px) < MIN_SPOTS:
        return fit, f"too few spots ({len(xy_px)}) to compare with flipped, turned and shifted ones"
    if len(xy_px) >= MIN_WHOLE and layout.filled >= WHOLE:
        return (
            fit,
            "the spots fill a plain shape, whether on tissue or not, so their place cannot be told from the tissue",
        )
    return fit, ""
