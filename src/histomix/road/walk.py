"""The seven steps in order, each kept where nothing it was made of has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..errors import InputError, StorageError
from ..progress import Progress
from ..provenance import digest_bytes, digest_file, digest_json, digest_sealed, read_json, write_json
from .summary import closing_words

if TYPE_CHECKING:
    from anndata import AnnData

    from ..abundance import Abundance
    from ..evaluation import Evaluation
    from ..prediction import SlideResult
    from ..spots import Cohort

STEPS = ("labels", "features", "evaluation", "head", "maps", "viewer", "report")
_RECORD = "run.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Road:
    """What is done with a cohort.

    Parameters
    ----------
    cohort
        All sections: they are labelled, embedded and evaluated.
    method, reference
        How labels are made, see `histomix.label`; ``label_options`` are further ones.
    folds
        Protocol of the evaluation.
    held_out
        Sections that the final head does not see.
    slides
        What is mapped: slides, folders or sheets of them.
    files
        Their files on this computer, for the viewer.
    mpp, stride_um
        Of the slides and their maps, as for `histomix.predict_slides`.
    encoder, weights, trust_code
        As for `histomix.embed`.
    truth
        Known abundance, where there is any.
    title, lead
        Words at the top of the report; without a lead the summary stands there.
    """

    cohort: Cohort
    method: str
    reference: Path | None
    folds: str
    slides: Sequence[str | os.PathLike[str]]
    title: str
    lead: str = ""
    held_out: tuple[str, ...] = ()
    files: Sequence[Path] = ()
    mpp: float | None = None
    stride_um: float | None = None
    encoder: str = "builtin"
    weights: Path | None = None
    trust_code: bool = False
    truth: Mapping[str, Abundance] | None = None
    label_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Walked:
    """What the steps left: the pages, the scores and what became of each slide."""

    report: Path
    viewer: Path
    scores: Evaluation
    results: list[SlideResult]
    words: dict[str, str]
    seconds: dict[str, float]


class _Record:
    """``run.json``: of what each finished step was made, so that it is not done again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _RECORD
        try:
            self.facts: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        except InputError:  # damaged: the steps are done again, and the file is written anew
            self.facts = {}
        self.seconds: dict[str, float] = {}

    def is_done(self, step: str, identity: str) -> bool:
        """Whether a step was finished with the same inputs, and every file of it is as it was left."""
        told = (self.facts.get("steps") or {}).get(step) or {}
        place = self.path.parent / step
        return told.get("identity") == identity and place.is_dir() and told.get("digest") == _digest_folder(place)

    def done(self, step: str, begun: float, identity: str = "") -> None:
        """Note that a step is finished; one with an identity is not done again while its files stay as they are."""
        self.seconds[step] = round(time.perf_counter() - begun, 1)
        digest = _digest_folder(self.path.parent / step) if identity else ""
        steps = {**(self.facts.get("steps") or {}), step: {"identity": identity, "digest": digest}}
        self.facts = {**self.facts, "version": __version__, "steps": steps}
        write_json(self.path, self.facts)


def walk(road: Road, out: Path, seed: int, threads: int | None, progress: Progress, say: Say) -> Walked:
    """Do every step that is not done; parameters and errors are those of `histomix.run`."""
    from ..abundance import label, read_labels
    from ..embedding import embed
    from ..evaluation import evaluate, read_evaluation
    from ..heads import train
    from ..prediction import predict_slides

    record = _Record(out)
    sections = road.cohort

    def step(name: str) -> float:
        progress("run", STEPS.index(name), len(STEPS))
        return time.perf_counter()

    begun = step("labels")
    folder = out / "labels"
    label(sections, road.method, road.reference, folder, seed=seed, progress=progress, **road.label_options)
    # As they stand in the folder, whether they were made now or before: a head's card says where its labels are from.
    stored = read_labels(folder)
    labels = {name: stored[name] for name in sections.names}
    say(f"labels: {sum(len(one.values) for one in labels.values()):,} spots, {_of_method(road.method)}")
    record.done("labels", begun)

    begun = step("features")
    features = embed(
        sections,
        road.encoder,
        road.weights,
        out / "features",
        threads=threads,
        progress=progress,
        trust_code=road.trust_code,
    )
    named = "the built-in encoder" if road.encoder == "builtin" else road.encoder
    say(f"features: {next(iter(features.values())).n_vars} per tile, from {named}")
    record.done("features", begun)

    begun = step("evaluation")
    made_of = [__version__, _identity(labels, features), sections.donors, road.folds, seed, road.truth is None]
    identity = digest_json(made_of)
    if record.is_done("evaluation", identity):
        scores = read_evaluation(out / "evaluation")
    else:
        scores = evaluate(
            sections,
            features,
            labels,
            folds=road.folds,
            truth=road.truth,
            out=out / "evaluation",
            seed=seed,
            progress=progress,
            features_folders=[out / "features"],
        )
    say(f"\n{scores.text()}\n")
    record.done("evaluation", begun, identity)

    begun = step("head")
    training = sections.subset([name for name in sections.names if name not in road.held_out])
    identity = digest_json([identity, training.names, [row.tissue for row in training.rows]])
    if not record.is_done("head", identity):
        train(training, features, labels, seed=seed, out=out / "head", progress=progress, scores=scores)
    say(f"head: trained on {_listed(training.names)}")
    record.done("head", begun, identity)

    begun = step("maps")
    results = predict_slides(
        road.slides,
        out / "head",
        out / "maps",
        mpp=road.mpp,
        stride_um=road.stride_um,
        weights=None if road.weights is None else [road.weights],
        trust_code=road.trust_code,
        threads=threads,
        progress=progress,
    )
    full = next((one.error for one in results if isinstance(one.error, StorageError)), None)
    if full is not None:  # nor can what follows be written
        raise full
    mapped = [one for one in results if one.error is None]
    for one in mapped:
        seen = "" if not road.held_out else ", which the head has not seen"
        say(f"map: {one.tiles:,} tiles of {one.slide}{seen}")
    record.done("maps", begun)

    words = closing_words(scores, results)
    pages = _write_pages(road, out, scores, mapped, words, record, progress, say)
    progress("run", len(STEPS), len(STEPS))
    return Walked(*pages, scores, results, words, record.seconds)


def _write_pages(
    road: Road,
    out: Path,
    scores: Evaluation,
    mapped: Sequence[SlideResult],
    words: Mapping[str, str],
    record: _Record,
    progress: Progress,
    say: Say,
) -> tuple[Path, Path]:
    """The viewer, and the report that leads to it."""
    from ..report import write_report
    from ..viewer import write_viewer

    shown = [*(one.folder for one in mapped), out / "evaluation"]
    begun = time.perf_counter()
    progress("run", STEPS.index("viewer"), len(STEPS))
    maps = {str(one.folder.name): digest_file(one.folder / "composition.h5ad") for one in mapped}
    made_of = [__version__, digest_file(out / "evaluation" / "metrics.csv"), maps, road.title]
    identity = digest_json(made_of)
    page = out / "viewer" / "index.html"
    if not record.is_done("viewer", identity):
        write_viewer(shown, out / "viewer", slides=road.files, cohort=road.cohort, title=road.title, progress=progress)
    say(f"viewer: {page}")
    record.done("viewer", begun, identity)

    begun = time.perf_counter()
    progress("run", STEPS.index("report"), len(STEPS))
    folders = [out / name for name in ("evaluation", "labels", "features", "head")]
    report = write_report(
        [*folders, *([out / "maps"] if mapped else []), out / "viewer"],
        out / "report",
        title=road.title,
        lead=road.lead or "\n".join(words.values()),
        progress=progress,
    )
    record.done("report", begun)
    return report, page


def _digest_folder(folder: Path) -> str:
    """Digest of all files of a folder but hidden ones, which file managers leave."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return digest_json({path.relative_to(folder).as_posix(): digest_sealed(path) for path in files})


def _identity(labels: Mapping[str, Abundance], features: Mapping[str, AnnData]) -> str:
    """Digest of the numbers that heads are fitted to and fitted on."""
    facts: list[Any] = []
    for name, one in labels.items():
        values = one.values
        facts.append([name, one.unit, list(values.columns), digest_bytes("\n".join(values.index).encode())])
        facts.append(digest_bytes(values.to_numpy(float).tobytes()))
    for name, table in features.items():
        facts.append([name, digest_bytes("\n".join(table.obs_names).encode()), digest_bytes(table.X.tobytes())])
    return digest_json(facts)


def _of_method(method: str) -> str:
    words = {
        "poisson": "by Poisson deconvolution of their counts",
        "table": "as the sheet names them",
        "cells": "by the cells in each",
    }
    return words.get(method, f"by {method}")


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
