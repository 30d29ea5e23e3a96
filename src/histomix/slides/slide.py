"""A slide at a known scale: any rectangle at any um per pixel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from ..common.threads import side_by_side
from ..errors import ScaleWarning, SlideError
from ..progress import told
from .resample import Taps, axis_taps, resample

#: A stored level serves a request when it is at most this much coarser than asked.
LEVEL_TOLERANCE = 1.01
#: Above this factor, interpolated pixels are announced by a `ScaleWarning`.
UPSAMPLING_TOLERANCE = 1.05
# Pixels per side that are held at once while a rectangle is assembled.
_BLOCK_PX = 2048
# A rectangle of more blocks than this is read in smaller ones, several at once, and told of.
_MANY_BLOCKS, _SIDE_BY_SIDE = 16, 8
# A rectangle whose scale drifts from the stored one by less than this many pixels is copied, not interpolated.
_DRIFT_PX = 0.1
#: No overview is as coarse, um per px; who asks a thumbnail by as much means px, most likely.
_COARSE = 64.0


class Reader(Protocol):
    """What a file format must offer. ``downsamples`` rise from 1; bounds are level-0 px."""

    name: str
    size_px: tuple[int, int]
    downsamples: tuple[float, ...]
    bounds_px: tuple[int, int]
    mpp_xy: tuple[float, float] | None

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, x and y in its own px; uint8 RGB (height, width, 3), white outside and under alpha."""

    def close(self) -> None:
        """Free the file and the memory."""


@dataclass(frozen=True)
class _Plan:
    """Which pixels of a stored level make a rectangle; ``scale`` is source px per px of the result."""

    level: int
    scale: float
    columns: Taps
    rows: Taps

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height in px of the level."""
        (x, right), (y, bottom) = self.columns.span, self.rows.span
        return x, y, right - x, bottom - y

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """The rectangle, from the pixels of its `box`."""
        return pixels if self.scale == 1 else resample(pixels, self.rows, self.columns)


def _credible(mpp_xy: tuple[float, float] | None) -> float | None:
    """The scale of square pixels that a file tells, um per px."""
    if mpp_xy is None or not all(0 < value < math.inf for value in mpp_xy) or max(mpp_xy) > 1.05 * min(mpp_xy):
        return None
    return (mpp_xy[0] + mpp_xy[1]) / 2


class Slide:
    """An open slide of known scale; make one with `open_slide`. Reads may come from several threads at once.

    Attributes
    ----------
    path, name
        The file, and its name without the suffix.
    width_px, height_px
        Size of level 0.
    mpp, mpp_source
        um per level-0 pixel, and who said so: ``"given"`` or ``"file"``.
    mpp_of_file
        What the file says, whatever was given; None where it says nothing that can be believed.
    reader
        ``"openslide"``, ``"tifffile"``, ``"array"`` or ``"zarr"``.
    bounds_px
        Left and top of the scanned part in level-0 px (QuPath counts from here), else (0, 0).
    """

    def __init__(self, path: Path, reader: Reader, mpp: float, mpp_source: str) -> None:
        self.path = path
        self.name = path.stem
        self.width_px, self.height_px = reader.size_px
        self.mpp = mpp
        self.mpp_source = mpp_source
        self.mpp_of_file = _credible(reader.mpp_xy)
        self.reader = reader.name
        self.bounds_px = reader.bounds_px
        self._reader: Reader | None = reader
        self._downsamples = np.asarray(reader.downsamples, dtype=float)
        self._announced: set[float] = set()

    def __repr__(self) -> str:
        return f"Slide({self.name!r}, {self.width_px} x {self.height_px} px at {self.mpp:g} um/px, {self.reader})"

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def downsamples(self) -> tuple[float, ...]:
        """How much coarser than level 0 each stored level is, from 1."""
        return tuple(self._downsamples.tolist())

    def close(self) -> None:
        """Free the file; later reads raise `SlideError`."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def upsampling(self, mpp: float) -> float:
        """How many times finer ``mpp`` is than the slide, 1.0 when it is not finer."""
        self._check_scale(mpp)
        return max(1.0, self.mpp / mpp)

    def read(self, x_px: float, y_px: float, width_px: int, height_px: int, mpp: float) -> np.ndarray:
        """Read a rectangle at any scale.

        The coarsest stored level that is fine enough is averaged over the exact area of each output pixel. At the
        scale of a stored level its pixels are handed over untouched, from the nearest whole pixel.

        Parameters
        ----------
        x_px, y_px
            Top-left corner in level-0 px; may lie outside the slide.
        width_px, height_px
            Size of the result, in px of ``mpp``.
        mpp
            um per pixel of the result. Finer than the slide by over 5 %: interpolated, with a `ScaleWarning`
            (once per slide and scale).

        Returns
        -------
        uint8 RGB (height_px, width_px, 3); white outside the slide and where it is transparent.

        Raises
        ------
        SlideReadError
            The pixels cannot be decoded; other places can still be read.
        SlideError
            The rectangle or the scale makes no sense, or the slide is closed.
        """
        reader = self._open_reader()
        plan = self._plan(x_px, y_px, width_px, height_px, mpp)
        height, width = len(plan.rows.index), len(plan.columns.index)
        result = np.empty((height, width, 3), np.uint8)
        large = height * width * plan.scale**2 > _MANY_BLOCKS * _BLOCK_PX**2
        step = max(1, int(_BLOCK_PX / (2 if large else 1) / max(plan.scale, 1)))
        corners = [(row, column) for row in range(0, height, step) for column in range(0, width, step)]

        def fill(corner: tuple[int, int]) -> None:
            rows, columns = (slice(start, start + step) for start in corner)
            part = replace(plan, rows=plan.rows.part(rows), columns=plan.columns.part(columns))
            result[rows, columns] = part.apply(reader.read_level(part.level, *part.box))

        if not large:
            for corner in corners:
                fill(corner)
            return result
        # Mostly a slide without small levels, all of which is decoded.
        with side_by_side(most=_SIDE_BY_SIDE) as each:
            for _ in each(fill, told("look over the slide (blocks)", corners)):
                pass
        return result

    def read_together(self, rectangles: Sequence[tuple[float, float, int, int, float]]) -> list[np.ndarray]:
        """Read rectangles that overlap, such as one place at several scales: what they share is read once.

        Parameters
        ----------
        rectangles
            (x_px, y_px, width_px, height_px, mpp) of each, as for `read`.

        Returns
        -------
        The pixels of each, the same as `read` gives. Raises as `read`, for all of them.
        """
        reader = self._open_reader()
        plans = [self._plan(*rectangle) for rectangle in rectangles]
        images: dict[int, np.ndarray] = {}
        for level in sorted({plan.level for plan in plans}):
            numbers = [number for number, plan in enumerate(plans) if plan.level == level]
            boxes = np.array([plans[number].box for number in numbers])
            x, y = (int(start) for start in boxes[:, :2].min(axis=0))
            width, height = (int(side) for side in (boxes[:, :2] + boxes[:, 2:]).max(axis=0) - (x, y))
            if max(width, height) > _BLOCK_PX or width * height > (boxes[:, 2] * boxes[:, 3]).sum():
                images |= {number: self.read(*rectangles[number]) for number in numbers}
                continue
            pixels = reader.read_level(level, x, y, width, height)
            for number, (left, top, across, down) in zip(numbers, boxes - (x, y, 0, 0), strict=True):
                images[number] = plans[number].apply(pixels[top : top + down, left : left + across])
        return [images[number] for number in range(len(plans))]

    def _plan(self, x_px: float, y_px: float, width_px: int, height_px: int, mpp: float) -> _Plan:
        """Level and source pixels of a rectangle."""
        width, height = int(width_px), int(height_px)
        whole = (width, height) == (width_px, height_px) and min(width, height) >= 1
        if not (whole and math.isfinite(x_px) and math.isfinite(y_px)):
            raise SlideError(f"cannot read {width_px} x {height_px} px at x={x_px}, y={y_px}", where=self.path)
        self._announce_upsampling(mpp)
        scale_0 = mpp / self.mpp
        level = int(np.flatnonzero(self._downsamples <= scale_0 * LEVEL_TOLERANCE).max(initial=0))
        downsample = float(self._downsamples[level])
        scale, left, top = scale_0 / downsample, x_px / downsample, y_px / downsample
        if abs(scale - 1) * max(width, height) < _DRIFT_PX:
            scale, left, top = 1.0, math.floor(left + 0.5), math.floor(top + 0.5)
        return _Plan(level, scale, axis_taps(left, scale, width), axis_taps(top, scale, height))

    def thumbnail(self, mpp: float) -> np.ndarray:
        """The whole of level 0, uint8 RGB.

        Parameters
        ----------
        mpp
            um per px of the picture: 8 is a common overview. It is no width in px.

        Raises
        ------
        SlideError
            The scale is coarser than any overview, and nothing of the slide is left at it: a width in px, most likely.
        """
        self._check_scale(mpp)
        if mpp >= _COARSE and max(self.width_px, self.height_px) * self.mpp < 1.5 * mpp:
            wide_um = self.width_px * self.mpp
            raise SlideError(
                f"is {wide_um:,.0f} um wide and has no 2 px at {mpp:g} um per px, which a thumbnail is asked for by",
                where=self.path,
                hint=f"Give um per px, not px: thumbnail({wide_um / 1000:.2g}) is 1,000 px wide",
            )
        width, height = (max(1, round(side * self.mpp / mpp)) for side in (self.width_px, self.height_px))
        return self.read(0, 0, width, height, mpp)

    def _open_reader(self) -> Reader:
        if self._reader is None:
            raise SlideError("the slide has been closed", where=self.path, hint="Open it again with open_slide")
        return self._reader

    def _check_scale(self, mpp: float) -> None:
        if not 0 < mpp < math.inf:
            raise SlideError(f"cannot be read at {mpp} um/px", where=self.path, hint="Ask for a positive scale")

    def _announce_upsampling(self, mpp: float) -> None:
        if self.upsampling(mpp) > UPSAMPLING_TOLERANCE and mpp not in self._announced:
            self._announced.add(mpp)
            warnings.warn(
                f"{self.path}: {mpp:g} um/px is asked for, the slide has {self.mpp:g} um/px: pixels are interpolated "
                f"{self.upsampling(mpp):.2f} times",
                ScaleWarning,
                stacklevel=4,
            )
