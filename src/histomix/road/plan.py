"""What a road will do, how long it takes about, and how much disk, before it does anything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.words import counted
from .facts import RoadFacts, SlideFacts

if TYPE_CHECKING:
    from ..encoders import Encoder

#: Seconds a spot of each method of labels takes on one core, by the benchmarks; a fit of cell2location dominates.
_LABEL_S = {"poisson": 0.003, "nnls": 0.002, "cell2location": 0.05}
#: The default head with its baselines, fitted once: a constant, and by spots x features (133 s for 50,000 x 1,536).
_FIT_S, _FIT_S_OF = 12.0, 133 / (50_000 * 1_536)
#: A head is fitted about so many times more for its intervals than it is for one fold.
_HEAD_FITS = 2
#: Share of a slide that is tissue, where nobody has looked.
_TISSUE = 0.5
_VIEW_PX_MM2 = (1000 / 0.5) ** 2
#: A pyramid of JPEGs: seconds and bytes for each pixel of its finest level.
_VIEW_S_PX, _VIEW_BYTES_PX = 1.2e-7, 0.35
_REPORT_S, _REPORT_S_SECTION = 6.0, 1.5
_BATCH = 16
_SHOWN = 4


@dataclass(frozen=True)
class Step:
    """One step: its folder, what it does in words, and what it takes: seconds of work and MB of disk, about."""

    name: str
    what: str
    seconds: float
    mb: float


@dataclass(frozen=True)
class RoadPlan:
    """The steps of a road, in order.

    Attributes
    ----------
    steps
        In the order in which they are done.
    notes
        What will be done about what is missing, as sentences without a final stop.
    free_mb
        MB that are free where they are written.
    title
        What the plan is for.
    """

    title: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    free_mb: float

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def mb(self) -> float:
        """Of all steps."""
        return sum(step.mb for step in self.steps)

    def text(self) -> str:
        """The plan in words, for a terminal."""
        width = max(len(step.what) for step in self.steps)
        lines = [self.title]
        lines += [
            f"  {number} {step.name:<11} {step.what:<{width}}  {duration(step.seconds):>9}  {size(step.mb):>7}"
            for number, step in enumerate(self.steps, start=1)
        ]
        lines.append(
            f"  about {duration(self.seconds)} and {size(self.mb)} of disk where nothing is done yet "
            f"({size(self.free_mb)} are free); stopped, the same command goes on"
        )
        return "\n".join([*lines, *(f"  - {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        facts = {"steps": [asdict(step) for step in self.steps], "notes": list(self.notes)}
        return {**facts, "seconds": round(self.seconds, 1), "mb": round(self.mb, 1), "free_mb": round(self.free_mb)}


def make_plan(
    facts: RoadFacts,
    slides: Sequence[SlideFacts],
    out: Path,
    *,
    reference: str,
    encoder: Encoder,
    own_slides: bool,
    stride_um: float | None,
    seen: bool = True,
) -> RoadPlan:
    """Plan a road.

    Parameters
    ----------
    facts
        The cohort.
    slides
        The slides to be mapped.
    out
        Folder of everything.
    reference
        Name of the reference of the cell types, empty where labels are ready.
    encoder
        Is timed on a few tiles.
    own_slides
        Whether the slides are those of the sheet.
    stride_um
        Distance of the tiles of maps; None: the tile.
    seen
        Whether the head is trained on the slides that it maps.
    """
    rate, dim, tile_um = _speed(encoder)
    n, sections = facts.n_spots, len(facts.cohort)
    folds = {"donor": facts.n_donors, "section": sections, "random": 5}[facts.folds]
    fit_s = _FIT_S + _FIT_S_OF * n * dim
    good = [one for one in slides if not one.fault]
    tiles = sum(one.mm2 for one in good) * 1e6 * _TISSUE / (stride_um or tile_um) ** 2
    px = sum(one.mm2 for one in [*good, *facts.slides]) * _VIEW_PX_MM2
    pictures = len(good) + sections
    by = f"by {facts.method}" + (f" with {reference}" if reference else "")
    by = {"table": "as the sheet names them", "cells": "by the cells in each spot"}.get(facts.method, by)
    whose = "of the sheet" if own_slides else "without spatial data"
    steps = (
        Step("labels", f"{counted(n, 'spot')}, {by}", _LABEL_S.get(facts.method, 0.001) * n + 1, n * 5e-4 + 0.1),
        Step(
            "features", f"{counted(n, 'tile')} through {encoder.card.name}, {rate:.0f} tiles/s here", n / rate,
            n * dim * 2e-6 + 0.3 * sections,
        ),
        Step(
            "evaluation", f"{counted(folds, 'fold')} by {_FOLD_WORDS[facts.folds]}", folds * fit_s + sections,
            n * 2e-3,
        ),
        Step("head", f"on {counted(sections, 'section')}", _HEAD_FITS * fit_s, 1 + n * dim * 1e-7),
        Step("maps", f"{counted(len(good), 'slide')} {whose}, some {tiles:,.0f} tiles", tiles / rate, tiles * 1.5e-3),
        Step("viewer", counted(pictures, "picture"), px * _VIEW_S_PX + 1, px * _VIEW_BYTES_PX / 1e6),
        Step("report", "a page that opens from disk", _REPORT_S + _REPORT_S_SECTION * sections, 1 + 0.5 * sections),
    )  # fmt: skip
    title = f"plan for {counted(sections, 'section')} of {counted(facts.n_donors, 'donor')}: {out}"
    labelled = sum(row.labels is not None for row in facts.cohort.rows)
    notes = [*_fold_notes(facts), *_slide_notes(slides, own_slides, seen)]
    if labelled and facts.method != "table":
        notes.append(f"labels in the sheet ({counted(labelled, 'section')}) are not used, as they are made anew {by}")
    plan = RoadPlan(title, steps, tuple(notes), _free_mb(out))
    if plan.mb > plan.free_mb:
        short = f"the disk has {size(plan.free_mb)}, which may not be enough"
        plan = RoadPlan(title, steps, (*notes, short), plan.free_mb)
    return plan


_FOLD_WORDS = {
    "donor": "donor: each is predicted by heads that never saw it",
    "section": "section, of one donor (optimistic)",
    "random": "random spots of one section (leaky)",
}


def _fold_notes(facts: RoadFacts) -> list[str]:
    if facts.folds == "section":
        donor = next(iter(facts.cohort.donors.values()))
        return [
            f"all sections are of one donor ({donor}): sections are held out instead, and the scores are optimistic; "
            "they say nothing of a new patient"
        ]
    if facts.folds == "random":
        return [
            "there is one section: a head is trained and maps are made, but nothing can be said of another section or "
            "donor; random spots are held out, whose scores are leaky, and maps have no intervals"
        ]
    if facts.n_donors == 2:
        return ["with two donors each is read by a head that saw one: the scores vary by which two they are"]
    return []


def _slide_notes(slides: Sequence[SlideFacts], own_slides: bool, seen: bool) -> list[str]:
    notes = []
    if own_slides and seen:
        notes.append(
            "no --slides: the maps are of the slides in the sheet, which the head has seen; they fill what lies "
            "between the spots and are no test"
        )
    without = [one for one in slides if one.fault and "scale" in one.fault]
    broken = [one for one in slides if one.fault and one not in without]
    if without:
        listed = ", ".join(Path(one.path).name for one in without[:_SHOWN]) + (", ..." if len(without) > _SHOWN else "")
        notes.append(
            f"{counted(len(without), 'slide')} without um per px will fail, the others are mapped ({listed}): give "
            "--mpp, or a sheet with the columns slide and mpp as --slides"
        )
    notes += [f"{Path(one.path).name} will fail: it {one.fault}" for one in broken[:_SHOWN]]
    return notes


def _speed(encoder: Encoder) -> tuple[float, int, float]:
    """Tiles/s on this computer, features, and um of a tile."""
    spec = encoder.tile_spec()
    tiles = np.random.default_rng(0).integers(0, 255, (_BATCH, spec.size_px, spec.size_px, 3), dtype=np.uint8)
    encoder.embed(tiles[:2])  # the first call sets up what later ones use
    begun = time.perf_counter()
    encoder.embed(tiles)
    return _BATCH / max(time.perf_counter() - begun, 1e-6), encoder.dim, spec.size_um


def _free_mb(out: Path) -> float:
    place = out.resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free / 1e6


def duration(seconds: float) -> str:
    """A time in words, as exact as an estimate is: ``duration(130)`` is ``"2 min"``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(mb: float) -> str:
    """Megabytes in words: ``size(2300)`` is ``"2.3 GB"``."""
    return f"{max(1, round(mb))} MB" if mb < 1000 else f"{mb / 1000:.1f} GB"
