"""Runs in which no slide is named in what is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..common.anonymity.marked_output import mark_output
from ..common.anonymity.nameless import nameless_keys, patient_fact
from ..common.anonymity.pseudonyms import Pseudonyms
from ..common.geometry.polygons import read_regions
from ..common.storage.altered import STATUS
from ..maps.streaming import GEOJSON_FILES
from .job import FILES, SlideJob

#: All that the folder of a slide may hold: one with anything else is no map's, or not only that.
_OURS = {*FILES, *GEOJSON_FILES, STATUS, "features", ".work"}


def anonymous_jobs(jobs: Sequence[SlideJob], names: Pseudonyms) -> list[SlideJob]:
    """The same slides in folders of their pseudonyms; of what a sheet says of them only the patient's stays."""
    private_jobs = []
    for job in jobs:
        name, patient = names.slide(job.name), patient_fact(dict(job.facts))
        facts = (("patient", names.patient(patient)),) if patient else ()
        private_jobs.append(replace(job, name=name, folder=job.folder.parent / name, facts=facts, seal=names.seal))
    return private_jobs


def nameless_spots(spots: pd.DataFrame) -> pd.DataFrame:
    """Spots under keys that name nobody: barcodes and places of a grid stay, others become the number of the row."""
    keys = nameless_keys([str(key) for key in spots.index])
    named = spots.copy()
    named.index = pd.Index(keys, name=spots.index.name)
    return named


def region_names(path: str | os.PathLike[str], names: Pseudonyms) -> tuple[tuple[str, str], ...]:
    """The regions of a file with their pseudonyms, for `Settings`.

    Raises
    ------
    InputError
        The regions cannot be read.
    """
    return tuple((region.name, names.region(region.name)) for region in read_regions(path))


def remove_names(out: Path, named: Sequence[SlideJob], names: Pseudonyms) -> None:
    """Mark an output folder, and remove maps of the same slides that an earlier run made under their names.

    Raises
    ------
    InputError
        The folder holds anything else, or pseudonyms of another key.
    StorageError
        It cannot be written.
    """
    folders = {job.folder.name for job in named}

    def earlier(path: Path) -> bool:
        inside = [entry.name for entry in path.iterdir()] if path.name in folders and path.is_dir() else ["?"]
        return all(name in _OURS or name.startswith((".partial-", ".slide", ".band-")) for name in inside)

    mark_output(out, names.key, earlier)
