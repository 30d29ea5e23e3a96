"""Do the spots of a section lie where the tissue of its image is?

Two facts are compared with what they would be if the image were flipped, rotated, transposed or shifted: the share of
spots on tissue, and the overlap (intersection over union) of the ground that the spots cover with the tissue in their
neighbourhood. The first saturates when spots sit well inside the tissue; the second uses the outline, so it decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..errors import AlignmentError
from .pitch import Pitch, spot_pitch
from .section import Section

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask

#: Fewer spots on tissue than this, and the section is refused. Of her2st C2, C3 and C4, .95 or more lie on their own
#: tissue; of the other sections on these images .8 at most, mostly less than .6; overlap and pitch refuse the rest.
MIN_ON_TISSUE = 0.6
#: More spots outside the image than this, and the coordinates belong to another image.
MAX_OUTSIDE = 0.02
#: An alternative whose overlap is this much higher than the given one's refuses the section. her2st C2, C3 and C4 gain
#: nothing from any alternative, .03 to .12 if they are one pitch off, .15 or more if they are further off or turned.
MIN_GAIN = 0.12
#: Less spread of the overlap than this over all flips and turns cannot tell them apart.
TIE = 0.03
#: Relative difference of measured and expected pitch that print, cut and resampling explain.
PITCH_TOLERANCE = 0.08
#: Rms distance from the array positions, in pitches, beyond which keys and pixels belong to different spots.
MAX_RESIDUAL = 0.5

_GIVEN = "as given"
_REACH = 6  # shifts tried, in steps, each way
_SHIFT_STEPS = 40  # a step is the pitch, or this share of a large section
_PROBES = 20_000  # places at most where the overlap is sampled


@dataclass(frozen=True)
class Alignment:
    """What `check_alignment` found.

    ``on_tissue`` and ``overlap`` are shares (0..1); ``alternatives`` and ``overlaps`` hold the same two for every
    alternative by name, the best shift among them. ``problems`` refuse the section, ``notes`` do not.
    """

    section: str
    where: str
    spots: int
    on_tissue: float
    outside: float
    overlap: float
    mpp: float
    pitch_px: float | None
    pitch_um: float | None
    expected_pitch_um: float | None
    alternatives: dict[str, float] = field(default_factory=dict)
    overlaps: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the section."""
        return not self.problems

    def require(self) -> Alignment:
        """Return itself, or raise.

        Raises
        ------
        AlignmentError
            With the numbers of every problem.
        """
        if self.problems:
            raise AlignmentError(
                f"the spots of section '{self.section}' do not fit its image: {'; '.join(self.problems)}",
                where=self.where or None,
                mend="Check that image, spots and mpp belong together and that the image was not turned or resized",
            )
        return self


def check_alignment(section: Section, slide: Slide | None = None, mask: TissueMask | None = None) -> Alignment:
    """Compare the spots with the tissue of the image, and their pitch with the pitch they were printed at.

    Parameters
    ----------
    section
        The section; its array coordinates (obs ``array_x``, ``array_y``) give the pitch when it has them.
    slide
        Its open slide; opened (and closed) here when left out.
    mask
        Tissue mask of the slide; made here when left out.

    Raises
    ------
    SlideError
        The slide cannot be opened or read. A misfit does not raise: see `Alignment.require`.
    """
    with contextlib.ExitStack() as stack:
        if slide is None:
            slide = stack.enter_context(section.slide())
        if mask is None:
            from ..slides import tissue_mask

            mask = tissue_mask(slide)
        size_px, mpp = (slide.width_px, slide.height_px), slide.mpp
    return compare(section, size_px, mpp, lambda xy_px: mask.contains(xy_px, mpp))


def compare(
    section: Section, size_px: tuple[int, int], mpp: float, on_tissue: Callable[[np.ndarray], np.ndarray]
) -> Alignment:
    """`check_alignment` without a slide: image size in px, um per px, and a function (n, 2) px -> (n,) bool."""
    xy_px = section.spots_px
    pitch = spot_pitch(xy_px, _array_xy(section))
    outside = float(np.mean(((xy_px < 0) | (xy_px >= size_px)).any(axis=1)))
    shares = {_GIVEN: float(on_tissue(xy_px).mean())}
    overlaps: dict[str, float] = {}
    if pitch is not None:
        shares, overlaps = _alternatives(xy_px, pitch.px, size_px, on_tissue)
    expected_um = section.spot_pitch_um
    problems, notes = _pitch_verdict(pitch, mpp, expected_um)
    if outside > MAX_OUTSIDE:
        problems.append(
            f"{outside:.0%} of {len(xy_px)} spots lie outside the image of {size_px[0]} x {size_px[1]} px "
            "(their coordinates are of another image, or of this one at another size)"
        )
    more_problems, more_notes = _place_verdict(shares, overlaps)
    given, given_overlap = shares.pop(_GIVEN), overlaps.pop(_GIVEN, float("nan"))
    return Alignment(
        section=section.name,
        where=section.where,
        spots=len(xy_px),
        on_tissue=given,
        outside=outside,
        overlap=given_overlap,
        mpp=mpp,
        pitch_px=pitch.px if pitch else None,
        pitch_um=pitch.px * mpp if pitch else None,
        expected_pitch_um=expected_um,
        alternatives=shares,
        overlaps=overlaps,
        problems=(*problems, *more_problems),
        notes=(*notes, *more_notes),
    )


def _array_xy(section: Section) -> np.ndarray | None:
    obs = section.adata.obs
    if not {"array_x", "array_y"} <= set(obs.columns):
        return None
    array = obs[["array_x", "array_y"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    return array if np.isfinite(array).all() else None


def _alternatives(
    xy_px: np.ndarray, pitch_px: float, size_px: tuple[int, int], on_tissue: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[str, float], dict[str, float]]:
    """Share on tissue and overlap, by name, as given and for every alternative."""
    probes, covered = _probes(xy_px, pitch_px)

    def overlap(places_px: np.ndarray) -> float:
        tissue = on_tissue(places_px)
        return float((tissue & covered).sum() / max(1, (tissue | covered).sum()))

    shares, overlaps = {}, {}
    for name, turn in _turns(*size_px).items():
        shares[name], overlaps[name] = float(on_tissue(turn(xy_px)).mean()), overlap(turn(probes))
    step_px = max(pitch_px, np.ptp(xy_px, axis=0).max() / _SHIFT_STEPS)
    steps = np.arange(-_REACH, _REACH + 1)
    shifts = [(dx, dy) for dx in steps for dy in steps if dx or dy]
    gained = [overlap(probes + step_px * np.array(shift)) for shift in shifts]
    best = step_px * np.array(shifts[int(np.argmax(gained))])
    name = f"shifted by {best[0]:+.0f}, {best[1]:+.0f} px"
    shares[name], overlaps[name] = float(on_tissue(xy_px + best).mean()), max(gained)
    return shares, overlaps


def _probes(xy_px: np.ndarray, pitch_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Places on and one pitch around the spots, and which of them lie on ground that a spot stands for."""
    low, high = xy_px.min(axis=0) - 1.5 * pitch_px, xy_px.max(axis=0) + 1.5 * pitch_px
    step_px = max(pitch_px / 4, float(np.sqrt(np.prod(high - low) / _PROBES)))
    axes = [np.arange(low[axis] + step_px / 2, high[axis], step_px) for axis in (0, 1)]
    probes = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    distance = np.asarray(cKDTree(xy_px).query(probes, p=np.inf)[0])
    return probes, distance <= 0.55 * pitch_px  # half a pitch, and a little for the jitter of the spots


def _turns(width_px: int, height_px: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The eight ways to lay an image on its spots (dihedral group of the square), on coordinates (n, 2)."""

    def turn(swap: bool, mirror_x: bool, mirror_y: bool) -> Callable[[np.ndarray], np.ndarray]:
        def apply(xy: np.ndarray) -> np.ndarray:
            x, y = (xy[:, 1], xy[:, 0]) if swap else (xy[:, 0], xy[:, 1])
            return np.column_stack([width_px - x if mirror_x else x, height_px - y if mirror_y else y])

        return apply

    return {
        _GIVEN: turn(False, False, False),
        "flipped left-right": turn(False, True, False),
        "flipped top-bottom": turn(False, False, True),
        "rotated by 180 degrees": turn(False, True, True),
        "x and y swapped": turn(True, False, False),
        "rotated by 90 degrees": turn(True, True, False),
        "rotated by 270 degrees": turn(True, False, True),
        "x and y swapped and rotated by 180 degrees": turn(True, True, True),
    }


def _place_verdict(shares: dict[str, float], overlaps: dict[str, float]) -> tuple[list[str], list[str]]:
    problems, notes = [], []
    given = overlaps.get(_GIVEN)
    if given is None:
        notes.append("too few spots to compare with flipped, turned and shifted ones")
        better = None
    else:
        better = max((name for name in overlaps if name != _GIVEN), key=overlaps.__getitem__)
        gain = overlaps[better] - given
        if gain < MIN_GAIN:
            if gain > MIN_GAIN / 3:
                notes.append(
                    f"the overlap with the tissue would rise from {given:.2f} to {overlaps[better]:.2f}, {better}"
                )
            better = None
    if shares[_GIVEN] < MIN_ON_TISSUE:
        problems.append(f"only {shares[_GIVEN]:.0%} of the spots lie on tissue")
    if given is not None and better:
        problems.append(
            f"{shares[_GIVEN]:.0%} of the spots lie on tissue and their overlap with it is {given:.2f}, "
            f"but {shares[better]:.0%} and {overlaps[better]:.2f} if {better}"
        )
    turned = [value for name, value in overlaps.items() if not name.startswith("shifted")]
    if turned and max(turned) - min(turned) < TIE:
        notes.append("the tissue fills the area of the spots, so flips and turns cannot be told from the tissue")
    return problems, notes


def _pitch_verdict(pitch: Pitch | None, mpp: float, expected_um: float | None) -> tuple[list[str], list[str]]:
    if pitch is None:
        return [], ["too few spots to measure their pitch, so mpp was not checked"]
    problems, notes = [], []
    if pitch.residual > MAX_RESIDUAL:
        problems.append(
            f"spots lie {pitch.residual:.1f} pitches (rms) from where their array coordinates put them "
            "(keys and pixel coordinates belong to different spots)"
        )
    elif expected_um is None:
        notes.append("no spot_pitch_um is known, so mpp was not checked against the pitch")
    elif abs(pitch.px * mpp / expected_um - 1) > PITCH_TOLERANCE:
        problems.append(
            f"spots are {pitch.px:.0f} px apart, which is {pitch.px * mpp:.0f} um at {mpp:g} um/px, "
            f"but {expected_um:g} um is expected: an mpp of {expected_um / pitch.px:.3g} would fit"
        )
    return problems, notes
