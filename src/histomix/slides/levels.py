"""Whether the levels of a pyramid show one picture: tissue is found on a coarse one, and read from a fine one."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

from ..errors import SlideError, SlideReadError
from .slide import Slide

#: Side of what is compared, px of the coarser level, and of the blocks whose means are: levels may be a pixel apart.
_SIDE, _BLOCKS = 96, 12
#: At so much less than its um per px a level is made from the finer one.
_FINER = 0.97
#: Places of most contrast that are looked at, and the least contrast (SD of the means, of 255) that tells.
_PLACES, _CONTRAST = 3, 8.0
#: Of one picture the means correlate by .89 and more, though a level is two pixels off (four H&E sections, levels by
#: means and by every nth pixel); of one that is turned or flipped by .26 at most, in the middle of the places.
_SAME = 0.6


def check_levels(slide: Slide, overview: np.ndarray, mpp: float) -> None:
    """Refuse a slide whose levels show different pictures at most places of contrast.

    Parameters
    ----------
    slide
        The slide, open.
    overview, mpp
        Its thumbnail, uint8 RGB, and the um per px of that.

    Raises
    ------
    SlideError
        A level shows another picture than the next finer one.
    """
    scales = [slide.mpp * downsample for downsample in slide.downsamples]
    for finer, coarser in itertools.pairwise(scales):
        if coarser * _FINER <= finer:
            continue
        known = [one for x, y in _places(slide, overview, mpp, coarser) if (one := _agreement(slide, x, y, coarser))]
        told = [r for r, contrast in known if contrast >= _CONTRAST]
        if told and np.median(told) < _SAME:
            raise SlideError(
                f"its levels show different pictures: what it has at {coarser:.3g} um per px is not what it has at "
                f"{finer:.3g} (the two correlate by {np.median(told):.2f})",
                where=slide.path,
                hint="Export the slide again, with levels that are made of the finest one",
            )


def _places(slide: Slide, overview: np.ndarray, mpp: float, level_mpp: float) -> list[tuple[float, float]]:
    """Corners, level-0 px, of the parts of a level with most contrast on the overview."""
    grey = overview.mean(axis=2)
    step = max(1, round(_SIDE * level_mpp / mpp))
    rows, columns = (range(0, max(1, side - step + 1), step) for side in grey.shape)
    contrast = {(y, x): float(grey[y : y + step, x : x + step].std()) for y in rows for x in columns}
    best = sorted(contrast, key=lambda place: (-contrast[place], place))[:_PLACES]
    return [(x * mpp / slide.mpp, y * mpp / slide.mpp) for y, x in best]


def _agreement(slide: Slide, x_px: float, y_px: float, mpp: float) -> tuple[float, float] | None:
    """Correlation and contrast of a place as one level and the next finer one have it; None where one is unreadable."""
    means = []
    for scale in (mpp, mpp * _FINER):
        # Not beyond the slide: what is white around it is the same on any level.
        width, height = (
            max(1, round(min(_SIDE * mpp, (side - start) * slide.mpp) / scale))
            for side, start in ((slide.width_px, x_px), (slide.height_px, y_px))
        )
        try:
            pixels = slide.read(x_px, y_px, width, height, scale)
        except SlideReadError:
            return None
        grey = Image.fromarray(pixels).convert("L").resize((_BLOCKS, _BLOCKS), Image.Resampling.BOX)
        means.append(np.asarray(grey, np.float64).ravel())
    spread = [part.std() for part in means]
    if min(spread) < 1:
        return 0.0, max(spread)
    # The lesser: what is noise has no more than every nth pixel of it on a coarse level.
    return float(np.corrcoef(means[0], means[1])[0, 1]), min(spread)
