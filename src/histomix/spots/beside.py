"""What lies beside a section, by name: its image, its counts and its labels."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..common import tables
from ..common.naming import file_key
from ..common.units import PROPORTION
from ..errors import SectionError
from .counts import match_barcodes, read_keys

#: Endings of tables, which may follow another: A1.tsv.gz.
_TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_MATRIX = ".h5"
#: Pictures that Space Ranger writes: reduced copies and controls.
_BYPRODUCT = re.compile(r"tissue_(hires|lowres)_image|detected_tissue|aligned_|cytassist_image|spatial_enrichment")
#: Words in the names of pictures that are no slide but a piece or a copy of one.
_COPY = re.compile(r"thumb|lowres|hires|preview|overview|label|macro|mask", re.IGNORECASE)
#: A table of more columns is of genes, of fewer of cell types.
_MOST_TYPES = 200
#: Share of the spots that a table must have to be theirs.
_SHARED = 0.5
_SUM_TOLERANCE = 0.02


def stem_of(path: Path) -> str:
    """The name of a file without its endings: ``A1`` of ``A1.tsv.gz``."""
    name = path.name
    for ending in (*_TABLES, ".ome.tif", ".ome.tiff"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


class Named:
    """Files by their names, so that those of a section are found without a look at all of them.

    Parameters
    ----------
    files
        In their order; each counts once.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._all = list(dict.fromkeys(files))
        self._allowed: Callable[[Path], bool] | None = None
        self._whole: dict[str, list[int]] = {}
        self._stems: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        for number, path in enumerate(self._all):
            stem = stem_of(path)
            key, bare = file_key(stem), file_key(re.sub(r"[^\w-]+", "_", stem).strip("_"))
            self._stems.setdefault(key, []).append(number)
            for name in {key, bare}:
                self._whole.setdefault(name, []).append(number)
            marks = [mark.start() for mark in re.finditer(r"[_. -]", key)]
            for name in {key[:mark] for mark in marks} | {key[mark + 1 :] for mark in marks}:
                self._ends.setdefault(name, []).append(number)

    def within(self, allowed: Callable[[Path], bool]) -> Named:
        """Those of the files that are allowed."""
        some = copy.copy(self)
        some._allowed = allowed
        return some

    def __iter__(self) -> Iterator[Path]:
        return (path for path in self._all if self._allowed is None or self._allowed(path))

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def after(self, section: str) -> list[Path]:
        """The files that belong to a section by their names.

        Those of the very name; else those whose name has it at an end (``A1_counts.tsv``, ``HE_A1.jpg``); else those
        whose name is a word of the section's (``MOB1.jpg`` of ``alignment_table_MOB1``).
        """
        wanted = file_key(section)
        words = {number for word in re.split(r"[_-]", section) for number in self._stems.get(file_key(word), ())}
        for numbers in (self._whole.get(wanted, ()), self._ends.get(wanted, ()), sorted(words)):
            paths = (self._all[number] for number in numbers)
            found = [path for path in paths if self._allowed is None or self._allowed(path)]
            if found:
                return found
        return []


def image_of(section: str, images: Named) -> list[Path]:
    """The images that may be a section's, of those that are slides (`is_slide`): one where names tell, else all."""
    named = images.after(section)
    if len(named) > 1:
        named = [image for image in named if not _COPY.search(image.stem)] or named
    if len(named) > 1:  # copies of one picture in several folders: the largest is the slide
        sizes = sorted(named, key=lambda image: image.stat().st_size)
        if {file_key(image.name) for image in named} == {file_key(named[0].name)}:
            named = sizes[-1:]
    return named if len(named) == 1 else list(images)


def is_slide(image: Path) -> bool:
    """Whether an image may be the one that spots were placed on, and is none of Space Ranger's by-products."""
    return not _BYPRODUCT.search(image.name)


def is_table(path: Path) -> bool:
    """Whether a file may be one of counts or labels, by its name."""
    return path.name.lower().endswith((*_TABLES, _MATRIX))


@dataclass(frozen=True)
class Beside:
    """Tables that lie beside a section and are of its spots.

    Parameters
    ----------
    counts, labels
        Each where there is just one.
    label_unit
        Of the labels, where their rows tell it.
    unsure
        Sentences on tables of which several may be meant.
    """

    counts: Path | None = None
    labels: Path | None = None
    label_unit: str | None = None
    unsure: tuple[str, ...] = ()


def tables_of(section: str, spots: pd.Index, files: Named) -> Beside:
    """Find the counts and labels of a section among tables, by their names and then by the keys of its spots."""
    kinds: dict[str, list[Path]] = {"counts": [], "labels": []}
    for path in files.after(section):
        kind = _kind(path)
        if kind is not None and _is_of(path, spots):
            kinds[kind].append(path)
    unsure = tuple(
        f"which of {len(found)} tables are its {kind}: {', '.join(str(path) for path in found)}"
        for kind, found in kinds.items()
        if len(found) > 1
    )
    counts, labels = (found[0] if len(found) == 1 else None for found in kinds.values())
    unit = None if labels is None else _unit(labels)
    if labels is not None and unit is None:
        unsure += (f"the unit of the labels in {labels}, whose rows do not sum to 1",)
        labels = None
    return Beside(counts, labels, unit, unsure)


def _kind(path: Path) -> str | None:
    """``"counts"`` of whole numbers in many columns, ``"labels"`` of other numbers in few, else None."""
    if path.name.lower().endswith(_MATRIX):
        return "counts"
    columns = tables.columns_or_none(path) or []
    if len(columns) < 3:
        return None
    try:
        values = _head(path)
    except (SectionError, ValueError):
        return None
    if values is None or (values < 0).any():
        return None
    if not (values == np.round(values)).all():
        return "labels" if len(columns) <= _MOST_TYPES else None
    return "counts" if len(columns) > 20 else None


def _head(path: Path, rows: int = 20) -> np.ndarray | None:
    """The numbers of the first rows of a table, None where it holds anything else."""
    cells = [row[1:] for row in tables.first_rows(path, rows)]
    if not cells or not cells[0] or len({len(row) for row in cells}) > 1:
        return None
    try:  # cell by cell: pandas takes seconds for a table with a column for each of twenty thousand genes
        numbers = np.array([[float(cell) for cell in row] for row in cells])
    except ValueError:
        return None
    return None if np.isnan(numbers).any() else numbers


def _is_of(path: Path, spots: pd.Index) -> bool:
    try:
        rows, _ = match_barcodes(spots, read_keys(path))
    except SectionError:
        return False
    return len(rows) > 0 and float((rows >= 0).mean()) >= _SHARED


def _unit(path: Path) -> str | None:
    values = _head(path)
    sums = np.zeros(1) if values is None else values.sum(axis=1)
    return PROPORTION if (abs(sums - 1) < _SUM_TOLERANCE).all() else None
