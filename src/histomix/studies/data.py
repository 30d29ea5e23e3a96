"""Where the cohorts, the reference and the weights of a study are, and what of them is missing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..abundance.deconvolve.svi import require_cell2location
from ..datasets.catalogue import public_cohort
from ..datasets.fetch import SHEET, fetch_cohort, write_sheet
from ..datasets.references import find_reference
from ..encoders import availability
from ..errors import EncoderError, InputError, MissingExtraError
from ..progress import Progress
from ..spots import Cohort, read_cohort
from .study import Study, StudyCohort

#: What stands in for encoders whose weights are not here.
BUILTIN = "builtin"


@dataclass(frozen=True)
class Means:
    """What a study is run with here, and in which it differs from its publication.

    Attributes
    ----------
    encoders, heads
        Those that can be used.
    method
        Of the labels.
    missing
        What is not here, in sentences.
    """

    encoders: tuple[str, ...]
    heads: tuple[str, ...]
    method: str
    missing: list[str] = field(default_factory=list)


def find_means(
    study: Study,
    encoders: Sequence[str] | None,
    heads: Sequence[str] | None,
    method: str | None,
    weights: Sequence[str],
    labelled: bool,
    partial: bool,
) -> Means:
    """Encoders, heads and method that can be used, found before any work.

    Parameters
    ----------
    study
        The study.
    encoders, heads, method
        Instead of the study's; None for those.
    weights
        Encoders of which local weights were given.
    labelled
        Whether labels were given, so that none have to be made.
    partial
        Whether to go on with what is here.

    Raises
    ------
    EncoderError
        Weights are missing; the message has the one command that gets those of each encoder.
    MissingExtraError
        A library that a head or the labels need is not installed.
    """
    missing: list[str] = []
    wanted = tuple(encoders or study.encoders)
    absent = {
        name: state
        for name in dict.fromkeys(part for joined in wanted for part in joined.split("+"))
        if name not in weights and not (state := availability(name)).loadable
    }
    if absent:
        lines = "".join(f"\n  - {name}: {state.reason}\n    -> {state.hint}" for name, state in absent.items())
        if not partial:
            raise EncoderError(
                f"the weights of {', '.join(absent)} are missing:{lines}\n",
                where=study.name,
                hint="Get them, name local ones with --weights NAME=FILE, or run on what is here with --partial",
            )
        wanted = tuple(joined for joined in wanted if not absent.keys() & set(joined.split("+"))) or (BUILTIN,)
        missing.append(
            f"the weights of {', '.join(absent)}: run with {', '.join(wanted)}. "
            + " ".join(f"{name}: {state.hint}." for name, state in absent.items())
        )
    chosen = tuple(heads or study.heads)
    if any(head.startswith("hist2cell") for head in chosen) and importlib.util.find_spec("torch_geometric") is None:
        error = MissingExtraError("torch-geometric", "baselines", "the head hist2cell")
        if not partial:
            raise error
        missing.append(f"the head hist2cell: {error.hint}")
        chosen = tuple(head for head in chosen if not head.startswith("hist2cell"))
    how = method or study.labels["method"]
    if how == "cell2location" and not labelled:
        try:
            require_cell2location()
        except MissingExtraError as error:
            if not partial:
                raise
            missing.append(f"cell2location: labels by Poisson deconvolution instead. {error.hint}")
            how = "poisson"
    return Means(wanted, chosen, how, missing)


def find_cohort(
    one: StudyCohort,
    data: str | os.PathLike[str] | None,
    out: Path,
    partial: bool,
    mirror: str | None,
    progress: Progress,
) -> tuple[Cohort, list[str]]:
    """A cohort of a study: fetched, or found in a folder; and what of it is missing, in sentences.

    Parameters
    ----------
    one
        The cohort.
    data
        A folder with ``<cohort>/sheet.csv``, ``sheet.csv`` or the files as they are published; None: it is fetched.
    out
        For the sheet, where the folder has none.
    partial
        Whether to go on with fewer donors.
    mirror, progress
        As for `histomix.fetch_cohort`.

    Raises
    ------
    InputError
        The folder has no such cohort, or donors of it are missing.
    DownloadError
        It cannot be fetched.
    """
    sheet = fetch_cohort(one.fetch, None, None, mirror, progress) if data is None else _sheet(one, Path(data), out)
    cohort = read_cohort(sheet)
    with_image = [row.section for row in cohort.rows if row.image is not None]
    missing = []
    if len(with_image) < len(cohort.rows):
        missing.append(f"{one.name}: images of {len(cohort.rows) - len(with_image)} sections")
    if not with_image:
        raise InputError("has no section with an image", where=sheet, hint="Add the images, and run the same command")
    cohort = cohort.subset(with_image)
    donors = len(set(cohort.donors.values()))
    if one.donors is not None and donors < one.donors:
        missing.append(f"{one.name}: {one.donors - donors} of {one.donors} donors")
    elif one.sections is not None and len(cohort.names) < one.sections:
        missing.append(f"{one.name}: {one.sections - len(cohort.names)} of {one.sections} sections")
    if missing and not partial:
        raise InputError(
            f"the study is not whole: missing are {'; '.join(missing)}",
            where=sheet,
            hint="Get the rest (histomix fetch says where from), or run on what is here with --partial",
        )
    return cohort, missing


def _sheet(one: StudyCohort, data: Path, out: Path) -> Path:
    for place in (data / one.name / SHEET, data / SHEET):
        if place.is_file():
            return place
    public = public_cohort(one.fetch)
    for folder in (data / one.name, data):
        rows = public.rows(folder) if folder.is_dir() else []
        if rows:
            files = ("spots", "image", "counts", "labels")
            placed = [
                {key: (folder / value).resolve() if key in files and value else value for key, value in row.items()}
                for row in rows
            ]
            sheet = out / "cohorts" / f"{one.name}.csv"
            sheet.parent.mkdir(parents=True, exist_ok=True)
            # The labels of a study are made anew; those that a repository brings are others.
            write_sheet(sheet, [{k: v for k, v in row.items() if k not in ("labels", "label_unit")} for row in placed])
            return sheet
    raise InputError(
        f"holds no cohort {one.name}",
        where=data,
        hint=f"Put it into {data / one.name} as it is published or with a {SHEET}, or leave --data out to fetch it",
    )


def study_reference(study: Study, given: str | os.PathLike[str] | None, data: str | os.PathLike[str] | None) -> Path:
    """The reference of a study: the one given, the one beside the data, or the one prepared in the cache.

    Raises
    ------
    InputError
        There is none; the message says how it is prepared.
    """
    if given is not None:
        return find_reference(given)
    beside = Path(data) / study.reference["file"] if data is not None else None
    return beside if beside is not None and beside.is_file() else find_reference(study.reference["name"])
