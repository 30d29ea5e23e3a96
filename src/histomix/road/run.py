"""`histomix.run`: the whole road for one's own data."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.storage.locks import folder_lock
from ..errors import MissingFileError
from ..progress import Progress, progress_bars
from ..provenance import atomic_path, require_writable
from ..spots import Cohort
from .facts import RoadFacts, SlideFacts, road_facts, slides_of
from .plan import RoadPlan, duration, make_plan
from .summary import closing_text
from .walk import Road, walk

_SLIDES = "slides.csv"
#: Names of sheets that say nothing of the cohort.
_ANY = ("sheet", "cohort", "samples", "sections")


@dataclass(frozen=True)
class RunResult:
    """What `run` made.

    Attributes
    ----------
    out
        The folder, with ``labels``, ``features``, ``evaluation``, ``head``, ``maps``, ``viewer`` and ``report``.
    plan
        What was planned.
    report, viewer
        Pages that open from disk; None where there was only a plan.
    summary
        ``how_good``, ``ceiling`` and ``look_at``, in sentences.
    seconds
        Time of each step of this call.
    failures
        Slides that could not be mapped, with the reason.
    """

    out: Path
    plan: RoadPlan
    report: Path | None = None
    viewer: Path | None = None
    summary: dict[str, str] | None = None
    seconds: dict[str, float] | None = None
    failures: tuple[str, ...] = ()


def run(
    sheet: Cohort | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str] | None = None,
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    method: str | None = None,
    encoder: str = "builtin",
    weights: str | os.PathLike[str] | None = None,
    mpp: float | None = None,
    stride_um: float | None = None,
    cell_type_key: str | None = None,
    trust_code: bool = False,
    dry_run: bool = False,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> RunResult:
    """Labels, features, evaluation, a head, maps, a viewer and the report of one's own data, in one folder.

    The same call goes on where an earlier one stopped, and does again only what has changed.

    Parameters
    ----------
    sheet
        The cohort sheet, or the cohort.
    out
        Folder for everything.
    reference
        Cell types for labels that are made of counts, as for `histomix.label`; it goes before labels in the sheet.
    slides
        Slides without spatial transcriptomics to be mapped: files, folders or sheets of them. None: the slides of the
        cohort, which the head has seen.
    method
        Of `histomix.label`. None: ``"poisson"`` with a reference, else the labels of the sheet (``"table"``), else the
        cells of a known type (``"cells"``).
    encoder, weights, trust_code
        As for `histomix.embed`.
    mpp
        Um per px of ``slides`` that do not say it.
    stride_um
        Distance of the tiles of the maps; None: side by side.
    cell_type_key
        Column of the cell types in a reference of single cells.
    dry_run
        Plan, and do nothing.
    seed, threads
        Seed of everything random; CPU threads.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how far each step is.
    say
        Told the plan, each step's result, and the summary.

    Returns
    -------
    RunResult

    Notes
    -----
    Folds are by donor. With one donor they are by section, with one section by random spots; plan and summary say so.

    Raises
    ------
    SheetError
        The sheet has faults; all are named.
    InputError
        A section or its image cannot be used, or there is nothing to make labels of; found before any work.
    EncoderError
        The encoder cannot be loaded; found before any work.
    HistomixError
        As the functions of the steps.

    Examples
    --------
    >>> plan = hm.run("sheet.csv", "run", reference="reference.csv", dry_run=True, progress=False).plan
    >>> [step.name for step in plan.steps]
    ['labels', 'features', 'evaluation', 'head', 'maps', 'viewer', 'report']
    """
    from ..encoders import load_encoder

    folder = Path(out)
    if reference is not None and not Path(reference).exists():
        raise MissingFileError("there is no such file", where=reference, hint="Check --reference")
    facts = road_facts(Cohort.of(sheet), method, reference)
    require_writable(folder)
    own = slides is None
    given: list[str | os.PathLike[str]] = [] if slides is None else _listed(slides)
    loaded = load_encoder(encoder, weights, threads, trust_code=trust_code)
    seen = facts.slides if own else slides_of(given, folder / "maps", mpp, loaded.tile_spec().mpp)
    plan = make_plan(
        facts,
        seen,
        folder,
        reference="" if reference is None else Path(reference).name,
        encoder=loaded,
        own_slides=own,
        stride_um=stride_um,
    )
    say(plan.text())
    if dry_run:
        return RunResult(folder, plan)
    begun = time.perf_counter()
    with folder_lock(folder, "a run"), progress_bars(progress) as report:
        road = Road(
            cohort=facts.cohort,
            method=facts.method,
            reference=None if reference is None or facts.method in ("table", "cells") else Path(reference),
            folds=facts.folds,
            slides=[_own_slides(facts, folder)] if own else given,
            title=f"Cell types of {_name(facts.cohort.sheet)}, read from H&E",
            files=[Path(one.path) for one in seen if not one.fault and Path(one.path).exists()],
            mpp=mpp,
            stride_um=stride_um,
            encoder=encoder,
            weights=None if weights is None else Path(weights),
            trust_code=trust_code,
            label_options={} if cell_type_key is None else {"cell_type_key": cell_type_key},
        )
        done = walk(road, folder, seed, threads, report, say)
    say(f"done in {duration(time.perf_counter() - begun)}\n\n{closing_text(done.words, done.report, done.viewer)}")
    failures = tuple(str(one.error) for one in done.results if one.error is not None)
    return RunResult(folder, plan, done.report, done.viewer, done.words, done.seconds, failures)


def _listed(
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[str | os.PathLike[str]]:
    return [slides] if isinstance(slides, str | os.PathLike) else list(slides)


def _own_slides(facts: RoadFacts, folder: Path) -> Path:
    """A sheet of the cohort's slides, each with the scale that its section has."""
    sheet = folder / _SLIDES
    with atomic_path(sheet) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide", "name", "mpp"])
        writer.writerows([_place(one), one.name, _scale(one)] for one in facts.slides)
    return sheet


def _name(sheet: Path) -> str:
    """What the cohort is called: its sheet, or the folder of a sheet that is called as any other."""
    return sheet.resolve().parent.name or sheet.stem if sheet.stem.lower() in _ANY else sheet.stem


def _place(one: SlideFacts) -> str:
    return str(Path(one.path).resolve())


def _scale(one: SlideFacts) -> Any:
    return "" if one.scale_given is None else one.scale_given
