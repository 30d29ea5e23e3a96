"""The whole road in one call: labels, features, evaluation, a head, a map, a viewer and the report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .errors import InputError, UnknownNameError
from .progress import Progress, progress_bars
from .provenance import atomic_path

if TYPE_CHECKING:
    from .abundance import Abundance

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
        Folder for everything: ``labels/``, ``features/``, ``evaluation/``, ``head/``, ``map/``, ``viewer/`` and
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
    from .abundance import label
    from .embedding import embed
    from .evaluation import evaluate
    from .heads import train
    from .prediction import predict_slides
    from .report import write_report
    from .spots import read_cohort
    from .viewer import write_viewer

    started = time.perf_counter()
    chosen = _choose(folder, cohort, seed, progress)
    sections = read_cohort(chosen.sheet)
    say(f"cohort: {chosen.name}, {len(sections)} sections of {len(set(sections.donors.values()))} donors")

    labels = label(sections, reference=chosen.reference, out=folder / "labels", seed=seed, progress=progress)
    say(f"labels: {sum(len(one.values) for one in labels.values()):,} spots, by Poisson deconvolution of their counts")
    features = embed(sections, out=folder / "features", threads=threads, progress=progress)
    say(f"features: {next(iter(features.values())).n_vars} per tile, from the built-in encoder")
    scores = evaluate(
        sections,
        features,
        labels,
        folds=chosen.folds,
        truth=chosen.truth,
        out=folder / "evaluation",
        seed=seed,
        progress=progress,
        features_folders=[folder / "features"],
    )
    say("\n" + scores.text() + "\n")
    training = sections.subset([name for name in sections.names if name not in chosen.held_out])
    train(training, features, labels, seed=seed, out=folder / "head", progress=progress, scores=scores)
    mapped = next(row for row in sections.rows if row.section == chosen.held_out[0])
    slides = [] if mapped.image is None else [mapped.image]
    say(f"head: trained on {', '.join(training.names)}")
    results = predict_slides(
        slides,
        folder / "head",
        folder / "map",
        mpp=mapped.mpp,
        stride_um=_MAP_STRIDE_UM,
        threads=threads,
        progress=progress,
    )
    for result in results:
        if result.error is not None:
            raise result.error
        say(f"map: {result.tiles:,} tiles of {result.slide}, which the head has not seen")
    viewer = write_viewer(
        [folder / "map", folder / "evaluation"],
        folder / "viewer",
        cohort=sections,
        title=chosen.title,
        progress=progress,
    )
    say(f"viewer: {viewer.page}, {len(viewer.slides)} slides")
    report = write_report(
        [folder / name for name in ("evaluation", "labels", "features", "head", "map", "viewer")],
        folder / "report",
        title=chosen.title,
        lead=chosen.lead,
        progress=progress,
    )
    seconds = round(time.perf_counter() - started, 1)
    say(f"done in {seconds:.0f} s")
    return DemoResult(report, chosen.name, seconds, scores.summary)


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
    from .datasets import make_phantom, phantom_truth

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
