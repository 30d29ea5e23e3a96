"""Laying sections onto each other, turned and mirrored, and how well they fit."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse
from scipy.spatial import cKDTree

from ...common.threads import side_by_side
from ...progress import tell

#: Radius of the larger section of a pair in px of the raster, and the raster's width: room for both, shifted.
_RADIUS_PX, _CANVAS_PX = 18, 48
_STEP_DEGREES = 6.0
_ANGLES = np.arange(0.0, 360.0, _STEP_DEGREES)
#: Poses turned further from the best one than this, and those mirrored to it, say how well the pair fits by chance.
_AWAY_DEGREES = 30.0
#: The best shift is at most this share of the radius.
_SHIFT = 0.5
#: The smaller of two levels of a block has at least this share of the other's area.
_LEAST_AREA = 0.55
#: At most so many components stand for the values.
_COMPONENTS = 6
_SMOOTH_PX, _COVERED = 0.8, 0.4
#: Sections that are laid onto one at once.
_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class SectionPoints:
    """A section at low resolution: places on its tissue, and what is there.

    Parameters
    ----------
    xy_um
        ``(n, 2)``, on some lattice of ``pitch_um``.
    values
        ``(n, n_values)``; only how they vary within the section counts.
    pitch_um
        Distance of neighbouring places.
    """

    xy_um: NDArray[np.float64]
    values: NDArray[np.float64]
    pitch_um: float

    @classmethod
    def of(cls, xy_um: NDArray[np.float64], values: NDArray[np.float64]) -> SectionPoints:
        """Points whose pitch is the usual distance of nearest neighbours."""
        return cls(xy_um, values, float(np.median(cKDTree(xy_um).query(xy_um, k=2)[0][:, 1])))

    @property
    def radius_um(self) -> float:
        """From the centroid to the edge."""
        return float(np.quantile(np.hypot(*(self.xy_um - self.xy_um.mean(axis=0)).T), 0.99)) + self.pitch_um / 2

    @property
    def area_um2(self) -> float:
        """Of the tissue with points."""
        return len(self.xy_um) * self.pitch_um**2

    @property
    def step_um(self) -> float:
        """Px of the raster on which this section fills the canvas."""
        return max(self.radius_um / _RADIUS_PX, self.pitch_um)


@dataclass(frozen=True)
class Fit:
    """How well two sections fit in their best pose.

    Attributes
    ----------
    outline
        Overlap of the tissues, over the geometric mean of their areas.
    structure
        Correlation of their values.
    gap
        How far the sum of these two lies above that of the best pose of another orientation: what only looks alike by
        its round or square outline, or by few large domains, fits as well in another.
    """

    outline: float
    structure: float
    gap: float

    @property
    def score(self) -> float:
        """Sum of the three, at most 3 (about .9 to 1.3 for unrelated sections)."""
        return self.outline + self.structure + self.gap


def fit_pairs(
    sections: Mapping[str, SectionPoints], pairs: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Fit | None]:
    """Lay the sections of each pair onto each other; None where their areas differ too much for levels of one block."""
    ordered = _reduced({name: _standardised(one) for name, one in sections.items()})
    radius = {name: one.radius_um for name, one in ordered.items()}
    by_larger: dict[str, list[tuple[str, tuple[str, str]]]] = {}
    found: dict[tuple[str, str], Fit | None] = {}
    for pair in pairs:
        small, large = sorted(pair, key=lambda name: (radius[name], name))
        areas = sorted(ordered[name].area_um2 for name in pair)
        if areas[0] < _LEAST_AREA * areas[1]:
            found[pair] = None
        else:
            by_larger.setdefault(large, []).append((small, pair))

    def laid_onto(large: str) -> dict[tuple[str, str], Fit | None]:
        fits, step_um = dict[tuple[str, str], Fit | None](), ordered[large].step_um
        raster = _raster(ordered[large], step_um)
        poses, energy = _poses(raster), (raster**2).sum(axis=(1, 2))
        for first in range(0, len(by_larger[large]), _AT_ONCE):
            few = by_larger[large][first : first + _AT_ONCE]
            rasters = np.stack([_raster(ordered[small], step_um) for small, _ in few])
            fits |= zip([pair for _, pair in few], _fits(rasters, poses, energy), strict=True)
        return fits

    with side_by_side() as each:
        for done, fits in enumerate(each(laid_onto, by_larger)):
            tell("look for one tissue under two donors", done, len(by_larger))
            found |= fits
    if by_larger:
        tell("look for one tissue under two donors", len(by_larger), len(by_larger))
    return found


def _standardised(section: SectionPoints) -> SectionPoints:
    spread = section.values.std(axis=0)
    values = (section.values - section.values.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)
    return replace(section, values=values)


def _reduced(sections: dict[str, SectionPoints]) -> dict[str, SectionPoints]:
    """The same with few values: the components that vary most over all sections, at low resolution."""
    n_values = next((one.values.shape[1] for one in sections.values()), 0)
    if n_values <= _COMPONENTS:
        return sections
    products = np.zeros((n_values, n_values))
    for one in sections.values():
        raster = _raster(one, one.step_um)
        pixels = raster[1:, raster[0] > 0].astype(np.float64)
        products += pixels @ pixels.T / max(pixels.shape[1], 1)
    components = np.linalg.eigh(products)[1][:, -_COMPONENTS:]
    return {name: replace(one, values=one.values @ components) for name, one in sections.items()}


def _raster(section: SectionPoints, step_um: float) -> NDArray[np.float32]:
    """Coverage, and values of zero mean, around the centroid: ``(1 + n_values, _CANVAS_PX, _CANVAS_PX)``."""
    place = np.floor((section.xy_um - section.xy_um.mean(axis=0)) / step_um + _CANVAS_PX / 2).astype(np.intp)
    inside = ((place >= 0) & (place < _CANVAS_PX)).all(axis=1)
    flat = place[inside, 1] * _CANVAS_PX + place[inside, 0]
    columns = [np.ones(len(flat)), *section.values[inside].T]
    sums = np.stack([np.bincount(flat, one, _CANVAS_PX**2).reshape(_CANVAS_PX, _CANVAS_PX) for one in columns])
    sums = ndimage.gaussian_filter(sums, (0, _SMOOTH_PX, _SMOOTH_PX))
    covered = sums[0] * (section.pitch_um / step_um) ** 2 > _COVERED
    values = np.where(covered, sums[1:] / np.where(covered, sums[0], 1.0), 0.0)
    values -= covered * (values.sum(axis=(1, 2)) / max(int(covered.sum()), 1))[:, None, None]
    return np.concatenate([covered[None], values]).astype(np.float32)


def _poses(raster: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Fourier transforms of a raster in every orientation, ``(frequencies, channels, 2 x n_angles)``."""
    turned = _turns() @ raster.reshape(len(raster), -1).T
    turned = turned.reshape(-1, _CANVAS_PX, _CANVAS_PX, len(raster))
    spectra = fft.rfft2(turned, axes=(1, 2))
    return np.ascontiguousarray(spectra.reshape(len(turned), -1, len(raster)).transpose(1, 2, 0))


@cache
def _turns() -> sparse.csr_matrix:
    """What takes a raster's pixels to those of all orientations, interpolated; nothing lies beyond the raster."""
    middle = (_CANVAS_PX - 1) / 2
    down, right = (part.ravel() for part in np.mgrid[:_CANVAS_PX, :_CANVAS_PX] - middle)
    mirror, angle = (part.ravel()[:, None] for part in np.meshgrid([1.0, -1.0], np.deg2rad(_ANGLES), indexing="ij"))
    rows = (np.cos(angle) * down - np.sin(angle) * right + middle).ravel()
    columns = (mirror * (np.sin(angle) * down + np.cos(angle) * right) + middle).ravel()
    inside = (np.minimum(rows, columns) >= 0) & (np.maximum(rows, columns) <= _CANVAS_PX - 1)
    pixels, corners, weights = np.flatnonzero(inside), [], []
    for below, beside in itertools.product((0, 1), (0, 1)):
        top, left = (np.floor(part[inside]).astype(np.intp) for part in (rows, columns))
        share = np.abs(1 - below - (rows[inside] - top)) * np.abs(1 - beside - (columns[inside] - left))
        corners.append(np.minimum(top + below, _CANVAS_PX - 1) * _CANVAS_PX + np.minimum(left + beside, _CANVAS_PX - 1))
        weights.append(share.astype(np.float32))
    places = (np.tile(pixels, 4), np.concatenate(corners))
    return sparse.csr_matrix((np.concatenate(weights), places), (len(rows), _CANVAS_PX**2))


def _fits(rasters: NDArray[np.float32], poses: NDArray[np.complex64], energy: NDArray[np.float32]) -> Iterator[Fit]:
    """Best of all orientations and shifts (normalised cross-correlation by Fourier transforms) of some rasters."""
    own = (rasters**2).sum(axis=(2, 3))
    transform = np.conj(fft.rfft2(rasters)).reshape(*rasters.shape[:2], -1)
    scale = np.sqrt(own[:, 1:].sum(axis=1) * energy[1:].sum())
    transform[:, 0] /= np.sqrt(np.maximum(own[:, 0] * energy[0], 1.0))[:, None]
    transform[:, 1:] /= np.where(scale > 1e-9, scale, np.inf).astype(np.float32)[:, None, None]
    # By frequency one product of matrices, and one back to the few shifts that are tried.
    both = _correlations(np.matmul(np.ascontiguousarray(transform.transpose(2, 0, 1)), poses))
    for number, total in enumerate(both):
        best = np.where(_NEAR, total, -np.inf).reshape(len(total), -1)
        most = best.max(axis=1)
        pose = int(most.argmax())
        at = int(best[pose].argmax())
        alone = transform[number] * poses[:, :, pose].T
        outline, structure = _correlations(np.stack([alone[0], alone[1:].sum(axis=0)], axis=1)[:, :, None])[:, 0]
        yield Fit(
            outline=float(outline.flat[at]),
            structure=float(structure.flat[at]),
            gap=float(most[pose] - most[_other_orientations(pose)].max()),
        )


def _correlations(spectra: NDArray[np.complex64]) -> NDArray[np.float32]:
    """From ``(frequencies, n, n_poses)`` to ``(n, n_poses, shifts, shifts)``."""
    down, across = _back()
    rows = down @ spectra.reshape(_CANVAS_PX, -1)
    values = np.matmul(across, rows.reshape(len(down), across.shape[1], -1)).real
    return np.asarray(values.reshape(len(down), len(across), *spectra.shape[1:]).transpose(2, 3, 0, 1))


@cache
def _back() -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """The inverse transform of real values, down and across, to the shifts that are tried."""
    frequencies = np.arange(_CANVAS_PX)
    wave = np.exp(2j * np.pi * _SHIFTS[:, None] * frequencies / _CANVAS_PX) / _CANVAS_PX
    half = _CANVAS_PX // 2 + 1
    # Of real values each frequency but the first and the last stands for two.
    twice = np.where((frequencies[:half] == 0) | (frequencies[:half] == half - 1), 1.0, 2.0)
    return wave.astype(np.complex64), (wave[:, :half] * twice).astype(np.complex64)


def _other_orientations(pose: int) -> NDArray[np.bool_]:
    mirrored, turn = np.divmod(np.arange(2 * len(_ANGLES)), len(_ANGLES))
    away = np.abs(_ANGLES[turn] - _ANGLES[turn[pose]])
    other: NDArray[np.bool_] = (mirrored != mirrored[pose]) | (np.minimum(away, 360.0 - away) >= _AWAY_DEGREES)
    return other


#: Shifts that are tried, down and across, and which of their pairs are no further than the best may be.
_SHIFTS = np.arange(-int(_SHIFT * _RADIUS_PX), int(_SHIFT * _RADIUS_PX) + 1)
_NEAR = np.hypot(_SHIFTS[:, None], _SHIFTS[None, :]) <= _SHIFT * _RADIUS_PX
