"""Do the spots of a section lie where the tissue of its image is?

Two facts are compared with what they would be if the image were flipped, rotated, transposed or shifted: the share of
spots on tissue, and the overlap (intersection over union) of the ground that the spots cover with the tissue in their
neighbourhood. The first saturates when spots sit well inside the tissue; the second uses the outline, so it decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...errors import AlignmentError
from . import extent
from .fit import GIVEN, MIN_SPOTS, ORIENTATIONS, Fit, OnTissue, Shifts, fit_of, opened, orientation, placed_spots
from .proposal import MIN_OVERLAP, Proposal, pitch_scale, propose

if TYPE_CHECKING:
    from ...slides import Slide, TissueMask
    from ..section import Section

#: Fewer spots on tissue than this, and the section is refused. Of her2st C2, C3 and C4, .97 or more lie on their own
#: tissue; of the other sections on these images .8 at most, mostly less than .6; overlap and pitch refuse the rest.
MIN_ON_TISSUE = 0.6
#: More spots outside the image than this, and the coordinates belong to another image.
MAX_OUTSIDE = 0.02
#: An alternative whose overlap is this much higher than the given one's refuses the section. her2st C2, C3 and C4 gain
#: nothing from any alternative, .03 to .12 if they are one pitch off, .15 or more if they are further off or turned.
MIN_GAIN = 0.12
#: The same for a section with a smaller share of its spots on tissue, which needs less to speak against it, if it has
#: enough spots for so little to be more than chance (the overlap of 150 spots has a standard error of .04).
MIN_GAIN_DOUBTFUL, DOUBTFUL, MANY_SPOTS = 0.06, 0.8, 150
#: The same for a plain flip or turn that leads everything else clearly: unlike a shift, it is no matter of degree.
MIN_GAIN_TURN = 0.08
#: Spots that cover less of the tissue than `PART`, nearly all on it, are a part that somebody chose: their outline
#: tells nothing.
PART, PART_ON_TISSUE = 0.35, 0.97
#: An image whose border runs through tissue for this share of its length was cut from a larger section: what of that
#: lies beyond it is unknown, so the outline of the tissue in it tells as little.
CUT = 0.5
#: An array that was kept whole lies partly off the tissue; it is refused when less than this of it is on tissue and
#: less than half of the tissue is under it.
MIN_ON_TISSUE_WHOLE, MIN_COVERED_WHOLE = 0.3, 0.5
#: Less spread of the overlap than this over all flips and turns cannot tell them apart.
TIE = 0.03
#: Relative difference of measured and expected pitch that print, cut and resampling explain.
PITCH_TOLERANCE = 0.08
#: Rms distance from the array positions, in pitches, beyond which keys and pixels belong to different spots.
MAX_RESIDUAL = 0.5

_BORDER_POINTS = 100  # a side of the image
_REACH = 6  # shifts tried, in steps, each way
_SHIFT_STEPS = 40  # a step is the pitch, or this share of a large section


@dataclass(frozen=True)
class Alignment:
    """What `check_alignment` found.

    ``on_tissue``, ``outside`` and ``overlap`` are shares (0..1); ``alternatives`` and ``overlaps`` hold the first and
    the last for every alternative by name, the best shift among them. ``problems`` refuse the section, ``notes`` do
    not. ``proposal`` says what would mend it (or that the spots fit); it is never applied.
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
    proposal: Proposal | None = None

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
            hint = "Check that image, spots and mpp belong together and that the image was not turned or resized"
            if self.proposal is not None and self.proposal.changes:
                summary = self.proposal.summary()
                said = any(summary in problem for problem in self.problems)
                hint += "" if said else f". A proposal, not applied: {summary}"
                hint += (
                    f". If the overlay bears {'that change' if said else 'it'} out, "
                    "histomix.spots.alignment.write.write_spots_csv writes the corrected spots for the sheet"
                )
            raise AlignmentError(
                f"the spots of section '{self.section}' do not fit its image: {'; '.join(self.problems)}",
                where=self.where or None,
                hint=hint,
            )
        return self


def check_alignment(section: Section, slide: Slide | None = None, mask: TissueMask | None = None) -> Alignment:
    """Compare the spots with the tissue of the image, and their pitch with the pitch they were printed at.

    Works on any layout: printed lattices, square or hexagonal (array positions in obs sharpen the pitch), bins that
    touch, and loose points, which have no pitch. What cannot be told is said in ``notes`` and refuses nothing.

    Parameters
    ----------
    section
        The section; obs ``array_x``, ``array_y`` or ``array_row``, ``array_col`` give the pitch when it has them, and
        spots with ``in_tissue`` = 0 do not count as lying on tissue.
    slide
        Its open slide; opened (and closed) here when left out.
    mask
        Tissue mask of the slide; made here when left out.

    Raises
    ------
    SlideError
        The slide cannot be opened or read. A misfit does not raise: see `Alignment.require`.
    """
    with opened(section, slide, mask) as (slide, mask):
        mpp = slide.mpp
        return compare(section, (slide.width_px, slide.height_px), mpp, lambda xy_px: mask.contains(xy_px, mpp))


def compare(section: Section, size_px: tuple[int, int], mpp: float, on_tissue: OnTissue) -> Alignment:
    """`check_alignment` without a slide: image size in px, um per px, and a function (n, 2) px -> (n,) bool."""
    xy_px = section.spots_px
    fraction = float(on_tissue(xy_px[placed_spots(section)]).mean())
    fit, why_not = fit_of(section, size_px, on_tissue)
    fractions: dict[str, float] = {GIVEN: fraction}
    overlaps: dict[str, float] = {}
    if fit is not None and not why_not:
        fractions, overlaps = _alternatives(fit)
    pitch_problems, notes = _pitch_verdict(fit, mpp, section.spot_pitch_um)
    problems = [*pitch_problems]
    outside = float(extent.outside(xy_px, size_px).mean())
    if outside:
        said = extent.outside_text(xy_px, size_px)
        if outside > MAX_OUTSIDE:
            problems.append(f"{said} (their coordinates are of another image, or of this one at another size)")
        else:
            notes.append(said)
    if why_not:
        notes.append(why_not)
        problems.extend(_fraction_verdict(fit, fraction))
    if fit is not None and not why_not:
        more_problems, more_notes = _place_verdict(fit, fractions, overlaps)
        problems.extend(more_problems)
        notes.extend(more_notes)
    pitch = fit.layout.pitch if fit else None
    by_pitch = pitch_scale(fit, mpp, section.spot_pitch_um, PITCH_TOLERANCE)
    proposal = propose(section.name, fit, why_not, by_pitch)
    part = fit is not None and not why_not and _is_part(fit, fraction)
    needed = MIN_GAIN if proposal.precision_px else MIN_GAIN_TURN
    if not problems and not part and proposal.overlap - proposal.overlap_before >= needed:
        problems.append(f"{fraction:.0%} of the spots lie on tissue, but {proposal.summary()}")
    given, given_overlap = fractions.pop(GIVEN), overlaps.pop(GIVEN, float("nan"))
    scale = _scale(fit, proposal, by_pitch, given_overlap)
    if problems and scale != 1.0:
        problems.append(extent.scale_text(xy_px, size_px, scale))
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
        expected_pitch_um=section.spot_pitch_um,
        alternatives=fractions,
        overlaps=overlaps,
        problems=tuple(problems),
        notes=tuple(notes),
        proposal=proposal,
    )


def _alternatives(fit: Fit) -> tuple[dict[str, float], dict[str, float]]:
    """Share on tissue and overlap, by name, as given and for every alternative."""
    affines = {name: orientation(name, fit.size_px) for name in ORIENTATIONS}
    step_px = max(fit.layout.spacing_px, fit.layout.extent_px / _SHIFT_STEPS)
    for shifted in Shifts(fit).peaks(affines[GIVEN], count=1, within_px=_REACH * step_px):
        affines[f"shifted by {shifted[0, 2]:+.0f}, {shifted[1, 2]:+.0f} px"] = shifted
    fractions = {name: fit.fraction(affine) for name, affine in affines.items()}
    return fractions, {name: fit.overlap(affine) for name, affine in affines.items()}


def _place_verdict(fit: Fit, fractions: dict[str, float], overlaps: dict[str, float]) -> tuple[list[str], list[str]]:
    problems, notes = [], []
    fraction, given = fractions[GIVEN], overlaps[GIVEN]
    better = max((name for name in overlaps if name != GIVEN), key=overlaps.__getitem__)
    doubtful = fraction < DOUBTFUL and len(fit.layout.xy_px) >= MANY_SPOTS
    gain, needed = overlaps[better] - given, MIN_GAIN_DOUBTFUL if doubtful else MIN_GAIN
    part = _is_part(fit, fraction)
    if fraction < MIN_ON_TISSUE:
        problems.append(f"only {fraction:.0%} of the spots lie on tissue")
    if gain >= needed and not part:
        problems.append(
            f"{fraction:.0%} of the spots lie on tissue and their overlap with it is {given:.2f}, "
            f"but {fractions[better]:.0%} and {overlaps[better]:.2f} if {better}"
        )
    elif gain > MIN_GAIN / 3 and not part:
        notes.append(f"the overlap with the tissue would rise from {given:.2f} to {overlaps[better]:.2f}, {better}")
    if part:
        notes.append(
            "the spots or the image are a part of the tissue, so the place of the spots cannot be told from its outline"
        )
    turned = [value for name, value in overlaps.items() if not name.startswith("shifted")]
    if fraction >= MIN_ON_TISSUE and max(turned) - min(turned) < TIE:
        notes.append("the tissue fills the area of the spots, so flips and turns cannot be told from the tissue")
    return problems, notes


def _is_part(fit: Fit, fraction: float) -> bool:
    """Whether the spots, or the image, were chosen from within the tissue, so that they need not follow its outline."""
    chosen = fit.layout.covered_px2 < PART * fit.tissue_px2
    return fraction >= PART_ON_TISSUE and (chosen or _border_on_tissue(fit) >= CUT)


def _border_on_tissue(fit: Fit) -> float:
    """Share of the image's border that runs through tissue."""
    width, height = fit.size_px
    along = (np.arange(_BORDER_POINTS) + 0.5) / _BORDER_POINTS
    near = np.full_like(along, 0.5)
    columns = [along * width, along * width, near, width - near]
    rows = [near, height - near, along * height, along * height]
    share = fit.on_tissue(np.column_stack([np.concatenate(columns), np.concatenate(rows)]))
    length = np.repeat([width, width, height, height], _BORDER_POINTS)
    return float(np.average(share, weights=length))


def _fraction_verdict(fit: Fit | None, fraction: float) -> list[str]:
    """Problems of spots that cannot be compared with flipped, turned and shifted ones."""
    limit = MIN_ON_TISSUE
    if fit is not None and len(fit.layout.xy_px) >= MIN_SPOTS:
        covered = fit.on_tissue(fit.layout.probes_px) & fit.layout.covered
        if covered.sum() * fit.layout.step_px**2 >= MIN_COVERED_WHOLE * fit.tissue_px2 > 0:
            return []
        limit = MIN_ON_TISSUE_WHOLE
    return [f"only {fraction:.0%} of the spots lie on tissue"] if fraction < limit else []


def _scale(fit: Fit | None, proposal: Proposal, by_pitch: float | None, overlap: float) -> float:
    """How much the coordinates seem to be too small by; 1.0 when nothing says so."""
    if fit is None or overlap >= MIN_OVERLAP:
        return 1.0
    if proposal.verdict == "proposed":
        return proposal.scale if abs(proposal.scale - 1) > PITCH_TOLERANCE else 1.0
    # Nothing but the pitch speaks: believe it where the coordinates would then fit the canvas.
    if by_pitch is None or extent.outside(by_pitch * fit.layout.xy_px, fit.size_px).mean() > MAX_OUTSIDE:
        return 1.0
    return by_pitch


def _pitch_verdict(fit: Fit | None, mpp: float, expected_um: float | None) -> tuple[list[str], list[str]]:
    if fit is None:
        return [], ["too few spots to measure their pitch, so mpp was not checked"]
    pitch = fit.layout.pitch
    if pitch is None:
        return [], ["the spots lie on no lattice, so mpp was not checked against a pitch"]
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
