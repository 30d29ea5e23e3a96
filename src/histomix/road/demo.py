"""The road on a cohort that comes with the program or is public: `histomix demo`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..common.words import counted
from ..errors import InputError, UnknownNameError
from ..progress import Progress, progress_bars
from ..provenance import atomic_path
from .summary import closing_text
from .walk import Road, walk

if TYPE_CHECKING:
    from ..abundance import Abundance

DATA_VARIABLE = "HISTOMIX_DATA"
#: Half a tile of the built-in encoder: a map in which glands and follicles have a shape.
_MAP_STRIDE_UM = 56.0
COHORTS = ("auto", "phantom", "her2st")
_HER2ST_TRAINING, _HER2ST_HELD_OUT = ("C2", "C3"), "C4"


@dataclass(frozen=True)
class DemoCohort:
    """What a demo runs on.

    Parameters
    ----------
    name
        ``"phantom"`` or ``"her2st"``.
    sheet, reference
        The cohort sheet, and the signatures of its cell types.
    held_out
        Sections that the final head does not see; the first one is mapped.
    folds
        Protocol of the evaluation.
    truth
        Known abundance, where there is any.
    title, lead
        Words at the top of the report.
    """

    name: str
    sheet: Path
    reference: Path
    held_out: tuple[str, ...]
    folds: str
    truth: dict[str, Abundance] | None
    title: str
    lead: str


@dataclass(frozen=True)
class DemoResult:
    """Where the report is, and what the demo found."""

    report: Path
    cohort: str
    seconds: float
    summary: dict[str, Any]


def demo(
    out: str | os.PathLike[str] = "histomix-demo",
    *,
    cohort: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Run every step of histomix on a cohort and write a report.

    Parameters
    ----------
    out
        Folder for everything: ``labels/``, ``features/``, ``evaluation/``, ``head/``, ``maps/``, ``viewer/`` and
        ``report/``.
    cohort
        ``"her2st"`` (sections C2, C3 and C4 of one patient, in the folder that the environment variable HISTOMIX_DATA
        names), ``"phantom"`` (synthetic, four donors), or ``"auto"``: her2st where it is, else the phantom.
    seed, threads
        Seed of everything random; CPU threads.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how far each step is.
    say
        Told each step's result in a line.

    Returns
    -------
    DemoResult

    Raises
    ------
    InputError
        ``cohort`` is unknown, or her2st was asked for and is not there.

    Examples
    --------
    It takes minutes.

    >>> result = hm.demo("demo", cohort="phantom")  # doctest: +SKIP
    """
    with progress_bars(progress) as report:
        return _demo(Path(out), cohort, seed, threads, report, say)


def _demo(
    folder: Path, cohort: str, seed: int, threads: int | None, progress: Progress, say: Callable[[str], None]
) -> DemoResult:
    from ..spots import read_cohort

    started = time.perf_counter()
    chosen = _choose(folder, cohort, seed, progress)
    sections = read_cohort(chosen.sheet)
    donors = counted(len(set(sections.donors.values())), "donor")
    say(f"cohort: {chosen.name}, {counted(len(sections), 'section')} of {donors}")
    mapped = next(row for row in sections.rows if row.section == chosen.held_out[0])
    slides = [] if mapped.image is None else [mapped.image]
    road = Road(
        cohort=sections,
        method="poisson",
        reference=chosen.reference,
        folds=chosen.folds,
        held_out=chosen.held_out,
        slides=slides,
        files=slides,
        mpp=mapped.mpp,
        stride_um=_MAP_STRIDE_UM,
        truth=chosen.truth,
        title=chosen.title,
        lead=chosen.lead,
    )
    done = walk(road, folder, seed, threads, progress, say)
    for result in done.results:
        if result.error is not None:
            raise result.error
    seconds = round(time.perf_counter() - started, 1)
    say(f"done in {seconds:.0f} s\n\n{closing_text(done.words, done.report, done.viewer)}")
    return DemoResult(done.report, chosen.name, seconds, done.scores.summary)


def _choose(folder: Path, cohort: str, seed: int, progress: Progress) -> DemoCohort:
    if cohort not in COHORTS:
        raise UnknownNameError(f"there is no demo cohort {cohort!r}", hint=f"Choose one of {', '.join(COHORTS)}")
    data = Path(os.environ[DATA_VARIABLE]) / "her2st" if os.environ.get(DATA_VARIABLE) else None
    there = data is not None and all(
        (data / "images" / f"{name}.jpg").is_file() for name in (*_HER2ST_TRAINING, _HER2ST_HELD_OUT)
    )
    if data is not None and there and cohort != "phantom":
        return _her2st(folder, data)
    if cohort == "her2st":
        named = os.environ.get(DATA_VARIABLE) or "it is not set"
        raise InputError(
            f"her2st is not in the folder that {DATA_VARIABLE} names ({named})",
            hint="Set it to a folder with her2st/images/C2.jpg, C3.jpg and C4.jpg, or run with --cohort phantom",
        )
    return _phantom(folder, seed, progress)


def _her2st(folder: Path, data: Path) -> DemoCohort:
    names = (*_HER2ST_TRAINING, _HER2ST_HELD_OUT)
    rows = [
        {
            "section": name,
            "donor": name[0],
            "spots": data / "spots" / f"{name}_selection.tsv",
            "image": data / "images" / f"{name}.jpg",
            "counts": data / "counts" / f"{name}.tsv.gz",
            "mpp": 0.69,
            "tissue": "breast",
        }
        for name in names
    ]
    sheet = folder / "sheet.csv"
    with atomic_path(sheet) as temporary:
        pd.DataFrame(rows).map(lambda value: value.resolve() if isinstance(value, Path) else value).to_csv(
            temporary, index=False, lineterminator="\n"
        )
    return DemoCohort(
        name="her2st",
        sheet=sheet,
        reference=data.parent / "reference" / "wu2021_brca_major_dwls.csv",
        held_out=(_HER2ST_HELD_OUT,),
        folds="section",
        truth=None,
        title="Cell types of breast cancer, read from H&E",
        lead="Sections C2, C3 and C4 of one HER2-positive patient (Andersson et al. 2021). Labels come from the counts "
        "of each spot by Poisson deconvolution with the breast reference of Wu et al. 2021. All sections are of one "
        "patient, so the scores are optimistic: they say how well a new section of a known patient is read, not a new "
        "patient.",
    )


def _phantom(folder: Path, seed: int, progress: Progress) -> DemoCohort:
    from ..datasets import make_phantom, phantom_truth

    sheet = make_phantom(folder / "phantom", seed=seed, progress=progress)
    donors = pd.read_csv(sheet, dtype=str).groupby("donor", sort=True)["section"].agg(list)
    return DemoCohort(
        name="phantom",
        sheet=sheet,
        reference=sheet.parent / "reference.csv",
        held_out=tuple(donors.iloc[-1]),
        folds="donor",
        truth=phantom_truth(sheet.parent),
        title="Cell types of a synthetic tissue, read from H&E",
        lead="A phantom: generated tissue of four donors with known cells, so that labels and predictions are scored "
        "against the truth. Each donor was predicted by heads trained on the other three.",
    )
