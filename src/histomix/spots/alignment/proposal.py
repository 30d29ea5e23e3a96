"""A flip, turn, shift or scale that brings the spots onto the tissue: proposed, never applied by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ...errors import SectionError
from .candidates import placements
from .fit import GIVEN, Fit, fit_of, move, opened, scale_of

if TYPE_CHECKING:
    from anndata import AnnData

    from ...slides import Slide, TissueMask
    from ..section import Section

#: A placement fits well when its spots overlap with the tissue at least so much, and so many of them lie on it. her2st
#: C2, C3 and C4 on their own images: .88 and .98 at least; another patient's, best placed: .80 and .87 at most.
GOOD_OVERLAP, GOOD_FRACTION = 0.75, 0.92
#: Pale tissue is only partly found, and its spots reach this; it is then proposed only if it leads clearly.
MIN_OVERLAP, MIN_FRACTION = 0.7, 0.8
#: A clear lead over the next placement. On those images it is .11; another patient's best leads by .04 at most.
MIN_MARGIN = 0.05
#: Spots as given that nothing clearly beats fit when at least this share of them lies on tissue.
MIN_GIVEN_FRACTION = 0.6


Affine = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Proposal:
    """What `propose_alignment` found; nothing has been changed.

    Attributes
    ----------
    verdict
        ``"fits"``: nothing fits clearly better than the spots as given. ``"proposed"``: they fit after ``affine``.
        ``"ambiguous"``: another change fits about as well. ``"none"``: nothing tried makes them fit, or there is too
        little to go by (``reason``).
    change
        The best change in words.
    affine
        Its 2 x 3 matrix, given px to px of the image: ``x' = a x + b y + c``, ``y' = d x + e y + f``. The identity
        unless ``verdict`` is ``"proposed"`` or ``"ambiguous"``.
    on_tissue_before, on_tissue, overlap_before, overlap
        Share of the spots on tissue, and overlap (intersection over union) of their ground with the tissue around it.
    runner_up, runner_up_overlap
        The best clearly different placement; its name is empty when there is none.
    margin
        Lead over the runner-up in overlap, after a small charge for every shift and guessed scale.
    precision_px
        What a shift may be off by; 0 when nothing was shifted.
    """

    section: str
    verdict: str
    change: str = GIVEN
    affine: Affine = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    on_tissue_before: float = float("nan")
    on_tissue: float = float("nan")
    overlap_before: float = float("nan")
    overlap: float = float("nan")
    runner_up: str = ""
    runner_up_overlap: float = float("nan")
    margin: float = float("nan")
    precision_px: float = 0.0
    reason: str = ""

    @property
    def scale(self) -> float:
        """How many times the coordinates are enlarged."""
        return scale_of(np.asarray(self.affine))

    @property
    def changes(self) -> bool:
        """Whether there is something to look at: a change that fits, ambiguous or not."""
        return self.verdict in ("proposed", "ambiguous")

    def summary(self) -> str:
        """One line for an error or a log."""
        numbers = (
            f"{self.on_tissue:.0%} of the spots on tissue instead of {self.on_tissue_before:.0%}, "
            f"overlap {self.overlap:.2f} instead of {self.overlap_before:.2f}"
        )
        next_best = (
            f"next best: {self.runner_up} with {self.runner_up_overlap:.2f}" if self.runner_up else "no other fits"
        )
        return {
            "fits": f"the spots fit as given ({self.on_tissue:.0%} on tissue, overlap {self.overlap:.2f}), "
            "and nothing else fits clearly better",
            "proposed": f"they would fit {self.change}: {numbers}; {next_best}",
            "ambiguous": f"they would fit {self.change} ({numbers}), or as well {self.runner_up} "
            f"(overlap {self.runner_up_overlap:.2f}): ambiguous",
            "none": f"nothing to propose: {self.reason}",
        }[self.verdict]

    def text(self) -> str:
        """The proposal in plain words, with its matrix and what to do with it."""
        lines = [f"Section '{self.section}': {self.summary()}."]
        if self.changes:
            (a, b, c), (d, e, f) = self.affine
            lines.append(f"In px: x' = {a:.6g} x {b:+.6g} y {c:+.6g},  y' = {d:.6g} x {e:+.6g} y {f:+.6g}.")
            if self.precision_px:
                lines.append(
                    f"The shift is read from the tissue's outline and good to about {self.precision_px:.0f} px."
                )
            if self.verdict == "ambiguous":
                lines.append(
                    "The tissue cannot tell the two apart: look for landmarks (holes, folds, fiducials) first."
                )
            lines.append(
                "The spots of a neighbouring section of the same block may fit as well: make sure that the image is "
                "theirs. Nothing was changed: look at the overlay, then write the corrected spots with "
                "write_spots_csv and name that file in the sheet."
            )
        return "\n".join(lines)


def propose_alignment(section: Section, slide: Slide | None = None, mask: TissueMask | None = None) -> Proposal:
    """Look for a missing flip, quarter turn, transposition, shift or scale.

    All eight orientations of the image are tried with every shift, by correlation of the ground that the spots cover
    with the tissue mask; scales too, when pitch or extent speak for one. What counts is the overlap: spots on tissue,
    and positions between and around the spots that have none off it.

    Parameters
    ----------
    section, slide, mask
        As in `check_alignment`.

    Raises
    ------
    SlideError
        The slide cannot be opened or read.
    """
    with opened(section, slide, mask) as (slide, mask):
        mpp = slide.mpp
        fit, why_not = fit_of(section, (slide.width_px, slide.height_px), lambda xy_px: mask.contains(xy_px, mpp))
        return propose(section.name, fit, why_not, pitch_scale(fit, mpp, section.spot_pitch_um))


def propose(name: str, fit: Fit | None, why_not: str, by_pitch: float | None) -> Proposal:
    """`propose_alignment` on what `fit_of` measured; ``by_pitch`` is the scale that the pitch asks for."""
    if fit is None or why_not:
        return Proposal(name, "none", reason=why_not)
    candidates = placements(fit, by_pitch)
    best, given = candidates[0], next(candidate for candidate in candidates if candidate.name == GIVEN)
    fraction = fit.fraction(given.affine)
    fits = best.rank - given.rank < MIN_MARGIN and fraction >= MIN_GIVEN_FRACTION
    if fits:
        best = given
    best_fraction = fit.fraction(best.affine)
    sharpness_px = max(fit.layout.spacing_px, fit.layout.step_px) * scale_of(best.affine) / 2
    other = next((candidate for candidate in candidates if fit.apart(candidate.affine, best.affine)), None)
    margin = best.rank - other.rank if other else float("inf")
    clear = margin >= MIN_MARGIN and best.overlap >= MIN_OVERLAP and best_fraction >= MIN_FRACTION
    good = best.overlap >= GOOD_OVERLAP and best_fraction >= GOOD_FRACTION
    if not (fits or clear or good):
        return Proposal(
            name,
            "none",
            on_tissue_before=fraction,
            overlap_before=given.overlap,
            reason="no flip, turn, shift or scale makes the spots fit "
            f"(the best, {best.name}: {best_fraction:.0%} on tissue, overlap {best.overlap:.2f}); "
            "the image is probably of another section",
        )
    return Proposal(
        name,
        "fits" if fits else "proposed" if clear else "ambiguous",
        best.name,
        _as_tuples(best.affine),
        on_tissue_before=fraction,
        on_tissue=best_fraction,
        overlap_before=given.overlap,
        overlap=best.overlap,
        runner_up=other.name if other else "",
        runner_up_overlap=other.overlap if other else float("nan"),
        margin=margin,
        precision_px=sharpness_px if best.shifted else 0.0,
    )


def pitch_scale(fit: Fit | None, mpp: float, expected_um: float | None, tolerance: float = 0.08) -> float | None:
    """The scale that would give the spots their pitch; 1.0 when they have it, None when nobody knows."""
    if fit is None or fit.layout.pitch is None or expected_um is None:
        return None
    scale = expected_um / (fit.layout.pitch.px * mpp)
    return 1.0 if abs(1 / scale - 1) <= tolerance else scale


def _as_tuples(affine: np.ndarray) -> Affine:
    first, second = ((float(a), float(b), float(c)) for a, b, c in affine)
    return first, second


def as_affine(affine: Proposal | ArrayLike) -> np.ndarray:
    """The matrix (2, 3) of a proposal, or of anything that is one.

    Raises
    ------
    SectionError
        It is no finite, invertible 2 x 3 matrix.
    """
    matrix = np.asarray(affine.affine if isinstance(affine, Proposal) else affine, dtype=float)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or not scale_of(matrix) > 0:
        raise SectionError(
            f"the affine of shape {matrix.shape} is no invertible 2 x 3 matrix of finite numbers",
            hint="Give [[a, b, c], [d, e, f]] with x' = a x + b y + c, y' = d x + e y + f, all in px",
        )
    return matrix


def apply_alignment(spots: AnnData | ArrayLike, affine: Proposal | ArrayLike) -> np.ndarray:
    """Spot centres (n, 2) px after an affine; the input stays as it is.

    Parameters
    ----------
    spots
        AnnData with ``obsm["spatial"]``, or centres (n, 2), px.
    affine
        2 x 3 matrix, px to px, or the `Proposal` that holds one.

    Raises
    ------
    SectionError
        The affine is no invertible 2 x 3 matrix, or the spots are not n x 2.
    """
    positions = spots.obsm["spatial"] if hasattr(spots, "obsm") else spots
    xy_px = np.asarray(positions, dtype=float)
    if xy_px.ndim != 2 or xy_px.shape[1] != 2:
        raise SectionError(f"the spots of shape {xy_px.shape} are not n x 2", hint="Give x, y of every spot in px")
    return move(xy_px, as_affine(affine))
