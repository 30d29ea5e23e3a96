"""Placements worth comparing: every orientation and shift, and scales where something speaks for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .extent import may_be_scaled
from .fit import GIVEN, ORIENTATIONS, Fit, Shifts, orientation

#: A shift or a guessed scale must earn this much more than a plain flip or turn, which is the likelier slip.
FREEDOM = 0.03

_SCALE_STEP = 1.02
_SCALE_RANGE = 4.0  # smallest to largest scale that is tried
_BLOCK_SCALES = np.array([0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25])
_IDENTITY = np.eye(2, 3)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A placement in words and as an affine (2, 3), px to px, with its overlap."""

    name: str
    affine: np.ndarray
    overlap: float
    rank: float  # the overlap less the charge for freedom
    shifted: bool = False


def placements(fit: Fit, by_pitch: float | None) -> list[Candidate]:
    """All candidates, the spots as given among them, best first; ``by_pitch`` is the scale that the pitch asks for."""
    given = Candidate(GIVEN, *_ranked(fit, _IDENTITY, 0.0))
    return sorted([given, *_candidates(fit, by_pitch)], key=lambda candidate: -candidate.rank)


def _candidates(fit: Fit, by_pitch: float | None) -> Iterator[Candidate]:
    yield from _placements(fit, 1.0, "", 0.0)
    if by_pitch == 1.0:
        return
    if by_pitch is not None:
        yield from _placements(fit, by_pitch, f"enlarged {by_pitch:.4g} times", 0.0)
        return
    if not may_be_scaled(fit.layout.xy_px, fit.size_px, max_outside=0.02):
        return
    plain = _plain_scale(fit)
    yield Candidate(f"enlarged {plain:.4g} times", *_ranked(fit, orientation(GIVEN, fit.size_px, plain), 0.0))
    block = float(np.sqrt(fit.tissue_px2 / fit.layout.covered_px2)) if fit.tissue_px2 else 1.0
    for scale in block * _BLOCK_SCALES:
        yield from _placements(fit, scale, f"enlarged about {scale:.2g} times", FREEDOM, guessed=True)


def _placements(fit: Fit, scale: float, scaled: str, charge: float, guessed: bool = False) -> Iterator[Candidate]:
    shifts = Shifts(fit, scale)
    for name in ORIENTATIONS:
        affine = orientation(name, fit.size_px, scale)
        words = [part for part in (scaled, "" if name == GIVEN else name) if part]
        if words:
            yield Candidate(", ".join(words), *_ranked(fit, affine, charge))
        for shifted in shifts.peaks(affine, count=1 if guessed else 2, refined=not guessed):
            x_px, y_px = shifted[:, 2] - affine[:, 2]
            said = ", ".join([*words, f"shifted by {x_px:+.0f}, {y_px:+.0f} px"])
            yield Candidate(said, *_ranked(fit, shifted, charge + FREEDOM), shifted=True)


def _ranked(fit: Fit, affine: np.ndarray, charge: float) -> tuple[np.ndarray, float, float]:
    overlap = fit.overlap(affine)
    return affine, overlap, overlap - charge


def _plain_scale(fit: Fit) -> float:
    """The best enlargement about the image's corner: coordinates of the same image at another size."""
    largest = float((np.asarray(fit.size_px) / np.maximum(fit.layout.xy_px.max(axis=0), 1)).min())
    steps = int(np.log(_SCALE_RANGE) / np.log(_SCALE_STEP))
    scales = _SCALE_STEP ** np.arange(1, -steps, -1) * largest
    for _ in range(2):
        overlaps = [fit.overlap(orientation(GIVEN, fit.size_px, scale)) for scale in scales]
        best = scales[int(np.argmax(overlaps))]
        scales = best * _SCALE_STEP ** np.linspace(-1, 1, 11)
    return float(best)
