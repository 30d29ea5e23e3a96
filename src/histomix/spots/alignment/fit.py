"""How well spots fit tissue when they are flipped, turned, shifted and scaled; arrays only.

The fit is the overlap (intersection over union) of the ground that the spots cover with the tissue in their
neighbourhood. It counts a spot off the tissue and a lattice position on it that has no spot alike. All shifts of one
orientation are compared at once by correlation in the Fourier domain; the best are measured again at the probes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import fft

from .layout import Layout, layout_of

if TYPE_CHECKING:
    from ...slides import Slide, TissueMask
    from ..section import Section

#: Says of points (n, 2), level-0 px, whether they lie on tissue: bool (n,).
OnTissue = Callable[[np.ndarray], np.ndarray]

GIVEN = "as given"
#: The eight orientations (dihedral group of the square): names, and (swap x and y, mirror x, mirror y) in this order.
ORIENTATIONS: dict[str, tuple[bool, bool, bool]] = {
    GIVEN: (False, False, False),
    "flipped left-right": (False, True, False),
    "flipped top-bottom": (False, False, True),
    "rotated by 180 degrees": (False, True, True),
    "x and y swapped": (True, False, False),
    "rotated by 90 degrees": (True, True, False),
    "rotated by 270 degrees": (True, False, True),
    "x and y swapped and rotated by 180 degrees": (True, True, True),
}

_CELLS = 320  # of the longer side of the image, at most, in the correlation
_SAMPLE = 1000  # spots at most that tell how far two placements are apart
_PEAK_RADIUS = 0.15  # of the spots' extent: shifts nearer than this are the same peak


def move(xy_px: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Points (n, 2) after an affine map (2, 3)."""
    return np.asarray(xy_px @ affine[:, :2].T + affine[:, 2])


def orientation(name: str, size_px: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """Affine (2, 3) that enlarges by ``scale`` and then lays the coordinates on an image of ``size_px`` by name."""
    swap, *mirrors = ORIENTATIONS[name]
    linear = scale * (np.array([[0.0, 1.0], [1.0, 0.0]]) if swap else np.eye(2))
    shift = np.zeros(2)
    for axis, mirror in enumerate(mirrors):
        if mirror:
            linear[axis] *= -1
            shift[axis] = size_px[axis]
    return np.column_stack([linear, shift])


def scale_of(affine: np.ndarray) -> float:
    """How much an affine map enlarges."""
    return float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))


@dataclass(frozen=True, eq=False)
class Fit:
    """Measures a placement: ``size_px`` of the image, and what is tissue on it."""

    layout: Layout
    size_px: tuple[int, int]
    on_tissue: OnTissue

    def fraction(self, affine: np.ndarray) -> float:
        """Fraction of the spots on tissue."""
        return float(self.on_tissue(move(self.layout.xy_px, affine)).mean())

    def overlap(self, affine: np.ndarray) -> float:
        """Overlap of the spots' ground with the tissue around it, 0 to 1."""
        tissue, covered = self.on_tissue(move(self.layout.probes_px, affine)), self.layout.covered
        return float((tissue & covered).sum() / max(1, (tissue | covered).sum()))

    @cached_property
    def tissue_px2(self) -> float:
        """Area of all tissue on the image."""
        step_px = max(self.size_px) / _CELLS
        axes = [np.arange(step_px / 2, side, step_px) for side in self.size_px]
        return float(self.on_tissue(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)).sum()) * step_px**2

    def apart(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether two placements are different ones, not one and the same a little moved."""
        xy_px = self.layout.xy_px[:: max(1, len(self.layout.xy_px) // _SAMPLE)]
        distance = np.sqrt(np.mean(np.sum((move(xy_px, one) - move(xy_px, other)) ** 2, axis=1)))
        return bool(distance > _PEAK_RADIUS * self.layout.extent_px * scale_of(one))


class Shifts:
    """Overlap of every shift of the spots over one image.

    Parameters
    ----------
    fit
        Layout, image size and tissue.
    scale
        Of the placements that will be asked for.
    """

    def __init__(self, fit: Fit, scale: float = 1.0) -> None:
        self.fit = fit
        # A cell narrower than the distance of the probes would be one that none of them falls in.
        self.cell_px = max(scale * fit.layout.step_px, max(fit.size_px) / _CELLS)
        columns, rows = (int(np.ceil(side / self.cell_px)) for side in fit.size_px)
        centres = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1).reshape(-1, 2)
        self._tissue = fit.on_tissue(centres * self.cell_px).reshape(rows, columns).astype(np.float32)
        self._spectra: dict[tuple[int, ...], np.ndarray] = {}

    def peaks(
        self, affine: np.ndarray, count: int = 2, within_px: float | None = None, refined: bool = True
    ) -> Iterator[np.ndarray]:
        """The best shifts of a placement as affines (2, 3), best first, peaks apart from each other.

        ``within_px`` limits how far, in x and in y, they may be from the placement itself. Unless ``refined``, they are
        good to half a cell of the raster only.
        """
        overlap, first_px = self._overlaps(affine)
        shape = overlap.shape
        reach = max(2.0, _PEAK_RADIUS * self.fit.layout.extent_px * scale_of(affine) / self.cell_px)
        offsets = [np.arange(length) for length in shape]
        if within_px is not None:
            for axis in (0, 1):
                moved = np.abs(first_px[axis] + offsets[1 - axis] * self.cell_px) > within_px
                overlap[(slice(None), moved) if axis == 0 else (moved, slice(None))] = -1
        for _ in range(count):
            row, column = np.unravel_index(int(overlap.argmax()), shape)
            if overlap[row, column] <= 0:
                return
            shift = first_px + self.cell_px * np.array([column, row])
            placement = np.column_stack([affine[:, :2], affine[:, 2] + shift])
            yield self._refine(placement) if refined else placement
            near = np.abs(offsets[0] - row)[:, None] <= reach, np.abs(offsets[1] - column)[None] <= reach
            overlap[near[0] & near[1]] = -1

    def _overlaps(self, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Overlap by row and column of the shift, in cells, and the shift (x, y) in px of the first of them."""
        template, low = self._template(affine)
        rows, columns = template.shape
        height, width = self._tissue.shape
        shape = (height + rows - 1, width + columns - 1)
        padded = tuple(fft.next_fast_len(length, real=True) for length in shape)
        if padded not in self._spectra:
            self._spectra[padded] = fft.rfft2(self._tissue, padded)
        both = fft.irfft2(self._spectra[padded] * fft.rfft2(template, padded).conj(), padded)
        around = fft.irfft2(self._spectra[padded] * fft.rfft2(np.ones_like(template), padded).conj(), padded)
        # A negative shift stands at the end; the first one of use is that of a template just touching the image.
        both, around = (
            np.roll(part, (rows - 1, columns - 1), axis=(0, 1))[: shape[0], : shape[1]] for part in (both, around)
        )
        first_px = -low - self.cell_px * np.array([columns - 1, rows - 1])
        return both / np.maximum(1, template.sum() + around - both), first_px

    def _template(self, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Covered ground on the raster, and the px of its corner."""
        layout = self.fit.layout
        probes = move(layout.probes_px, affine)
        low, high = probes.min(axis=0), probes.max(axis=0)
        columns, rows = (int(length) for length in np.ceil((high - low) / self.cell_px) + 1)
        # A quarter of a cell: probes at the distance of the cells do not fall on their edges.
        column, row = np.floor((probes - low) / self.cell_px + 0.25).astype(np.int64).T
        positions = row * columns + column
        hits = np.bincount(positions, minlength=rows * columns)
        covered = np.bincount(positions, weights=layout.covered, minlength=rows * columns)
        template = (covered / np.maximum(hits, 1)).reshape(rows, columns).astype(np.float32)
        return template, low - 0.25 * self.cell_px

    def _refine(self, affine: np.ndarray) -> np.ndarray:
        best, score = affine, self.fit.overlap(affine)
        for step_px in (self.cell_px / 2, self.cell_px / 4):
            centre = best
            for shift in ((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y):
                trial = centre + step_px * np.array([[0, 0, shift[0]], [0, 0, shift[1]]])
                if (overlap := self.fit.overlap(trial)) > score:
                    best, score = trial, overlap
        return best


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
            from ...slides import tissue_mask

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
