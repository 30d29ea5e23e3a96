"""Nuclei seen in H&E: roughly where they are, and how many lie in circles or squares."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.spatial import cKDTree

from ..errors import InputError, ScaleWarning, SlideError, SlideReadError
from ..progress import Progress, silent
from .slide import Slide

#: um per pixel of the work; a coarser slide sets its own.
WORK_MPP = 0.5
#: Above this, small nuclei are lost and close ones merge; above the second, nuclei are not seen at all.
COARSE_MPP, COARSEST_MPP = 1.0, 1.5

_BLOCK_PX = 1024
# Holds the largest nucleus and half of the window of the local mean, so that blocks meet without seams.
_MARGIN_UM = 32.0
_SMOOTH_UM = 0.75
_WINDOW_UM = 50.0
#: Scales of the blobs that are nuclei, and of the specks that are not.
_NUCLEUS_UM, _SPECK_UM = (2.0, 3.0), 1.0
_GAP_UM = 2.0
#: Least response of a nucleus, in standard deviations of the density around it, in density, and in the response of a
#: speck; least density.
_LEAST_SHARE, _LEAST_RESPONSE, _LEAST_OF_SPECK, _LEAST_DENSITY = 0.6, 0.03, 0.65, 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Nuclei of the searched parts of a slide; make it with `find_nuclei`.

    Parameters
    ----------
    xy_px
        (m, 2) centres in level-0 px.
    searched
        bool (rows, columns) of square blocks that start at the corner of level 0: True where the slide was searched.
    block_px
        Side of a block in level-0 px.
    mpp
        um per level-0 px.
    size_px
        Width and height of the slide, level-0 px.
    """

    xy_px: np.ndarray
    searched: np.ndarray
    block_px: float
    mpp: float
    size_px: tuple[int, int]

    def in_circles(self, xy_px: ArrayLike, diameter_um: float) -> np.ndarray:
        """How many nuclei have their centre inside circles.

        Parameters
        ----------
        xy_px
            (n, 2) centres in level-0 px.

        Returns
        -------
        float64 (n,): NaN where the centre is off the slide, or the circle may touch a part that was not searched or
        could not be read.
        """
        return self._count(xy_px, diameter_um, 2)

    def in_squares(self, xy_px: ArrayLike, side_um: float) -> np.ndarray:
        """As `in_circles`, for upright squares (tiles)."""
        return self._count(xy_px, side_um, np.inf)

    def _count(self, xy_px: ArrayLike, size_um: float, norm: float) -> np.ndarray:
        xy, radius = _checked(xy_px, size_um), size_um / self.mpp / 2
        if not len(xy):
            return np.empty(0)
        count = np.zeros(len(xy))
        if len(self.xy_px):
            count += cKDTree(self.xy_px).query_ball_point(xy, radius, p=norm, return_length=True)
        missing = np.pad((~self.searched).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        rows, columns = self.searched.shape
        left, top = np.clip(np.floor((xy - radius) / self.block_px), 0, (columns, rows)).astype(np.intp).T
        right, bottom = np.clip(np.floor((xy + radius) / self.block_px) + 1, 0, (columns, rows)).astype(np.intp).T
        unknown = missing[bottom, right] - missing[top, right] - missing[bottom, left] + missing[top, left] > 0
        outside = ((xy < 0) | (xy >= self.size_px)).any(axis=1)
        count[unknown | outside] = np.nan
        return count


def count_nuclei(slide: Slide, xy_px: ArrayLike, diameter_um: float, progress: Progress = silent) -> np.ndarray:
    """How many nuclei lie under each spot: those whose centre is inside its circle; see `find_nuclei`.

    Parameters
    ----------
    slide
        H&E.
    xy_px
        (n, 2) centres of the spots in level-0 px.
    diameter_um
        Diameter of a spot.
    progress
        See `find_nuclei`.

    Returns
    -------
    float64 (n,): NaN, not 0, where the slide cannot be read, and for spots off the slide.

    Raises
    ------
    As `find_nuclei`.
    """
    return find_nuclei(slide, xy_px, diameter_um, progress).in_circles(xy_px, diameter_um)


def find_nuclei(slide: Slide, xy_px: ArrayLike, size_um: float, progress: Progress = silent) -> Nuclei:
    """Find nuclei around some places of an H&E slide, by the stain alone.

    A nucleus is a blob of haematoxylin: a peak, over places and scales, of the Laplacian of Gaussians (Lindeberg 1998)
    of the optical density of red light, which eosin and blood hardly absorb. It is as strong as the spread of the
    density around it (50 um) asks, darker than the mean there, and larger than a speck. Nothing is taken from farther
    away, so what is counted in one place does not change with what else of the slide is read. Counts follow cellularity
    well enough to tell how many cells a spot holds and to compare spots of one slide. This is not a cell detector:
    overlapping, out-of-focus and very pale nuclei are missed, dense clumps are under-counted, and dark debris, folds
    and pen marks are counted. Nothing tells the cell type. Cells whose nucleus is out of the plane of the section are
    not seen.

    The slide is worked through in blocks of 512 um, so memory does not grow with it.

    Parameters
    ----------
    slide
        H&E; worked at 0.5 um per pixel, or at its own scale if that is coarser.
    xy_px
        (n, 2) places in level-0 px.
    size_um
        Blocks that touch a square of this side around a place are searched: the diameter of the spots, or the side of
        the tiles, that will be asked for.
    progress
        Told ``"nuclei"``, blocks done and blocks in all.

    Returns
    -------
    Nuclei
        Counts of any circles and squares inside the searched part.

    Raises
    ------
    SlideError
        The slide is coarser than 1.5 um per pixel: nuclei are not seen. From 1.0 on a `ScaleWarning` is given.
    SlideReadError
        No block can be read. If only some cannot, that is logged and their counts are NaN.
    InputError
        Places are not (n, 2) finite numbers, or the size is not positive.
    """
    xy = _checked(xy_px, size_um)
    _check_scale(slide)
    mpp = max(WORK_MPP, slide.mpp)
    side = _BLOCK_PX * mpp / slide.mpp
    shape = (math.ceil(slide.height_px / side), math.ceil(slide.width_px / side))
    blocks = _blocks_around(xy, size_um / slide.mpp / 2, side, shape)
    searched = np.zeros(shape, dtype=bool)
    parts: list[np.ndarray] = []
    error: SlideReadError | None = None
    for done, (row, column) in enumerate(blocks, start=1):
        try:
            density = _density(slide, row, column, side, mpp)
        except SlideReadError as failure:
            error = failure
        else:
            parts.append(_centres(density, mpp) * (mpp / slide.mpp) + (column * side, row * side))
            searched[row, column] = True
        progress("nuclei", done, len(blocks))
    if error is not None:
        if not parts:
            raise error
        _log.warning(
            "%d of %d blocks cannot be read: no nuclei there (%s)", len(blocks) - len(parts), len(blocks), error
        )
    centres = np.concatenate(parts) if parts else np.empty((0, 2))
    inside = (centres < (slide.width_px, slide.height_px)).all(axis=1)
    return Nuclei(centres[inside], searched, side, slide.mpp, (slide.width_px, slide.height_px))


def _checked(xy_px: ArrayLike, size_um: float) -> np.ndarray:
    if not 0 < size_um < math.inf:
        raise InputError(f"the size of a spot must be a positive number of um, not {size_um!r}")
    try:
        xy = np.asarray(xy_px, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the positions are not numbers ({error})") from error
    if xy.size == 0:
        return np.empty((0, 2))
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise InputError(f"positions must be finite (x, y), shape (n, 2); found an array of {xy.shape}")
    return xy


def _check_scale(slide: Slide) -> None:
    if slide.mpp > COARSEST_MPP:
        raise SlideError(
            f"has {slide.mpp:.3g} um per pixel: nuclei cannot be seen above {COARSEST_MPP:g}",
            where=slide.path,
            hint="Use the full-resolution image, or give the number of cells per spot",
        )
    if slide.mpp > COARSE_MPP:
        warnings.warn(
            f"{slide.path}: at {slide.mpp:.3g} um per pixel small and touching nuclei are missed: counts are too low",
            ScaleWarning,
            stacklevel=3,
        )


def _blocks_around(xy: np.ndarray, radius: float, side: float, shape: tuple[int, int]) -> np.ndarray:
    """Row and column, (k, 2), of the blocks of the slide that touch squares around places."""
    wanted = np.zeros(shape, dtype=bool)
    first, last = (np.floor((xy + shift) / side).astype(np.int64) for shift in (-radius, radius))
    steps = np.arange((last - first).max(initial=0) + 1)
    columns = np.minimum(first[:, 0, None] + steps, last[:, 0, None])
    rows = np.minimum(first[:, 1, None] + steps, last[:, 1, None])
    rows, columns = np.broadcast_arrays(rows[:, :, None], columns[:, None, :])
    on_slide = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    wanted[rows[on_slide], columns[on_slide]] = True
    return np.argwhere(wanted)


def _density(slide: Slide, row: int, column: int, side: float, mpp: float) -> np.ndarray:
    """Optical density of red of a block and its margin, float32; the slide is mirrored beyond its edges."""
    margin, width = round(_MARGIN_UM / mpp), _BLOCK_PX + 2 * round(_MARGIN_UM / mpp)
    corner = np.array([column, row]) * side - margin * mpp / slide.mpp
    red = slide.read(corner[0], corner[1], width, width, mpp)[..., 0]
    rows, columns = (
        _mirrored(start * slide.mpp / mpp, length * slide.mpp / mpp, width)
        for start, length in ((corner[1], slide.height_px), (corner[0], slide.width_px))
    )
    return np.asarray(_DENSITY_OF[red[np.ix_(rows, columns)]])


def _mirrored(start: float, length: float, width: int) -> np.ndarray:
    """Which of ``width`` px, the first at ``start``, stands for each; those off 0 to ``length`` are mirrored in."""
    place = np.arange(width)
    first, last = max(0, math.ceil(-start)), min(width, max(1, math.floor(length - start))) - 1
    inside = np.where(place < first, 2 * first - place - 1, np.where(place > last, 2 * last - place + 1, place))
    return np.clip(inside, first, last)


_DENSITY_OF = -np.log10(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)


def _centres(density: np.ndarray, mpp: float) -> np.ndarray:
    """Centres (m, 2) as x, y in px of the block, without those in its margin."""
    from skimage.feature import peak_local_max

    def response(scale_um: float) -> np.ndarray:
        sigma = scale_um / mpp
        return np.asarray(ndimage.gaussian_laplace(density, sigma, truncate=3.0) * -(sigma**2))

    blob = np.maximum(*(response(scale) for scale in _NUCLEUS_UM))
    gap = max(1, round(_GAP_UM / mpp))
    peaks = peak_local_max(blob, min_distance=gap, threshold_abs=_LEAST_RESPONSE, exclude_border=False)
    at = tuple(peaks.T)
    smooth = ndimage.gaussian_filter(density, _SMOOTH_UM / mpp)
    window = round(_WINDOW_UM / mpp)
    mean = ndimage.uniform_filter(smooth, window)[at]
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(np.square(smooth), window)[at] - mean**2, 0.0))
    nuclear = (smooth[at] > np.maximum(mean, _LEAST_DENSITY)) & (blob[at] > _LEAST_SHARE * spread)
    nuclear &= blob[at] > _LEAST_OF_SPECK * response(_SPECK_UM)[at]
    centres = peaks[nuclear, ::-1] + 0.5 - round(_MARGIN_UM / mpp)
    return np.asarray(centres[((centres >= 0) & (centres < _BLOCK_PX)).all(axis=1)])
