"""What a cohort and its slides are, before anything is done with them; every fault is named at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import HistomixError, InputError, SlideError
from ..prediction import slide_jobs
from ..prediction.plan import MAX_UPSAMPLING
from ..slides import is_remote, open_slide
from ..spots import Cohort

#: Formats that bring no counts of their own: the sheet names them.
_WITHOUT_COUNTS = ("st", "csv")
#: Formats of cells, whose types are counted in the spots.
_OF_CELLS = ("xenium", "cosmx", "merscope", "cells", "visium-hd-cells")
_SHOWN = 6


@dataclass(frozen=True)
class SlideFacts:
    """One slide: its file, and its area where it could be opened; ``scale_given`` is what its sheet says."""

    path: str
    name: str
    mm2: float = 0.0
    scale_given: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class RoadFacts:
    """What the road is for.

    Attributes
    ----------
    spots
        Spots of each section.
    slides
        Slides of the sections, each file once.
    method
        How labels are made: a method of `histomix.label`.
    folds
        Protocol of the evaluation.
    """

    cohort: Cohort
    spots: dict[str, int]
    slides: tuple[SlideFacts, ...]
    method: str
    folds: str

    @property
    def n_spots(self) -> int:
        """Spots of all sections."""
        return sum(self.spots.values())

    @property
    def n_donors(self) -> int:
        """Donors of all sections."""
        return len(set(self.cohort.donors.values()))


def road_facts(cohort: Cohort, method: str | None, reference: object | None) -> RoadFacts:
    """Look at every section and its image.

    Raises
    ------
    InputError
        Labels can be had of none of the ways, or sections cannot be used; all faults are named.
    """
    chosen = _method(cohort, method, reference)
    faults: list[str] = []
    spots: dict[str, int] = {}
    slides: dict[str, SlideFacts] = {}
    for row in cohort.rows:
        try:
            section = cohort.section(row.section, counts=False)
            spots[row.section] = len(section.keys)
            with section.slide() as slide:
                mm2 = slide.width_px * slide.height_px * slide.mpp**2 / 1e6
                given = row.mpp if row.mpp is not None or slide.mpp_source == "file" else slide.mpp
                slides.setdefault(str(slide.path), SlideFacts(str(slide.path), row.section, mm2, given))
        except HistomixError as error:
            faults.append(f"{row.section}: {error}")
        if chosen not in ("table", "cells") and row.counts is None and row.format in _WITHOUT_COUNTS:
            faults.append(f"{row.section}: it has no counts to make labels of: fill in the column counts")
    if faults:
        lines = "".join(f"\n  - {fault}" for fault in faults)
        raise InputError(f"{len(faults)} of its sections cannot be used:{lines}\n", where=cohort.sheet, hint=_MEND)
    folds = "donor" if len(set(cohort.donors.values())) > 1 else "section" if len(cohort) > 1 else "random"
    return RoadFacts(cohort, spots, tuple(slides.values()), chosen, folds)


_MEND = "Mend the sheet, or put a # before the rows to be passed over"


def slides_of(
    slides: Sequence[str | os.PathLike[str]], out: Path, mpp: float | None, read_mpp: float
) -> tuple[SlideFacts, ...]:
    """Look at slides without spatial transcriptomics: those that cannot be read say why, and stop nothing.

    Parameters
    ----------
    slides, out, mpp
        As `histomix.predict` takes them.
    read_mpp
        um per px at which the encoder reads.

    Raises
    ------
    InputError
        A folder holds no slide, or two would share a name.
    """
    found = []
    for job in slide_jobs(slides, out, mpp):
        if is_remote(job.slide):
            found.append(SlideFacts(job.source, job.name))
            continue
        try:
            with open_slide(job.path, job.mpp) as slide:
                mm2 = slide.width_px * slide.height_px * slide.mpp**2 / 1e6
                coarser, fault = slide.upsampling(read_mpp), ""
                if coarser > MAX_UPSAMPLING:
                    fault = f"has {slide.mpp:.3g} um per px, {coarser:.0f} times coarser than what the encoder reads"
                found.append(SlideFacts(str(job.path), job.name, mm2, job.mpp, fault=fault))
        except SlideError as error:
            found.append(SlideFacts(str(job.path), job.name, fault=error.what))
    return tuple(found)


def _method(cohort: Cohort, method: str | None, reference: object | None) -> str:
    unlabelled = [row.section for row in cohort.rows if row.labels is None]
    if method is not None:
        chosen = method
    elif reference is not None:
        return "poisson"
    elif not unlabelled:
        return "table"
    elif all(row.format in _OF_CELLS for row in cohort.rows):
        return "cells"
    else:
        chosen = ""
    if chosen not in ("table", "cells") and reference is None:
        names = ", ".join(unlabelled[:_SHOWN]) + (", ..." if len(unlabelled) > _SHOWN else "")
        raise InputError(
            f"{len(unlabelled)} of {len(cohort)} sections have no labels ({names}), and there is no reference of cell "
            "types to make them of their counts",
            where=cohort.sheet,
            hint="Give --reference (single cells as h5ad, or signatures, genes x cell types), or fill in the columns "
            "labels and label_unit of the sheet",
        )
    return chosen
