"""A clinical table, and which of its rows belongs to which slide."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.anonymity.nameless import PATIENT_KEYS
from ..common.naming import identity_key, is_unknown
from ..common.tables import read_values
from ..common.words import counted
from ..errors import InputError
from ..slides.files import SUFFIXES

logger = logging.getLogger(__name__)

SLIDE_KEYS = ("slide", "slide_id", "slide_name", "image")


@dataclass(frozen=True, eq=False)
class Clinical:
    """A clinical table.

    Parameters
    ----------
    table
        One row per slide or patient; values as they were written.
    key
        The column that names them.
    by
        ``"slide"`` or ``"patient"``.
    path
        Where it was read from.
    """

    table: pd.DataFrame
    key: str
    by: str
    path: Path | None = None

    @property
    def ids(self) -> list[str]:
        """The slides or patients."""
        return self.table[self.key].tolist()


def read_clinical(path: str | os.PathLike[str]) -> Clinical:
    """Read a clinical table: CSV, TSV or Parquet with a column ``slide`` or ``patient`` (or one like them).

    With both, rows are slides where the slides are unique, else it is refused.

    Raises
    ------
    InputError
        It cannot be read, names neither slides nor patients, or names one twice.
    MissingExtraError
        It is Parquet, and pyarrow is not installed.
    """
    place = Path(path)
    # Ids such as 007 stay what they are.
    table = read_values(place, lambda name: _plain(name) in (*SLIDE_KEYS, *PATIENT_KEYS))
    for by, keys in (("slide", SLIDE_KEYS), ("patient", PATIENT_KEYS)):
        key = next((column for wanted in keys for column in table.columns if _plain(column) == wanted), None)
        if key is None:
            continue
        table[key] = _ids(table[key])
        named = table[~table[key].map(is_unknown)]
        if len(named) < len(table):
            logger.warning("%s: %s without a %s left out", place, counted(len(table) - len(named), "row"), by)
        twice = named[key][named[key].duplicated()].unique().tolist()
        if twice:
            raise InputError(
                f"names {by} {', '.join(twice[:5])} in several rows",
                where=place,
                hint=f"Give one row per {by}",
            )
        return Clinical(named, key, by, place)
    raise InputError(
        f"names no slides and no patients; its columns are: {', '.join(map(str, table.columns))}",
        where=place,
        hint="Call the column with the ids 'slide' or 'patient'",
    )


def patient_of(slide: str, patients: Sequence[str], pattern: re.Pattern[str] | None) -> str:
    """The patient of a slide by its name; "" where it does not say.

    Parameters
    ----------
    slide
        Its name.
    patients
        Known patients: the longest one is taken that the name begins with, up to its end or a character that is
        neither a letter nor a digit (``P1`` is of ``P1-a``, not of ``P12``).
    pattern
        Finds the patient instead: its first group, or all that it matches.
    """
    if pattern is not None:
        match = pattern.search(slide)
        return "" if match is None else match[1] if pattern.groups else match[0]
    fitting = [name for name in patients if slide.startswith(name) and not slide[len(name) : len(name) + 1].isalnum()]
    return max(fitting, key=len, default="")


def joined_with(clinical: Clinical | None, slides: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of slides with the clinical columns before the measures, and the ids without a partner.

    Raises
    ------
    InputError
        No slide has a row.
    """
    if clinical is None:
        return slides, {}
    own, ids = slides[clinical.by], set(clinical.ids)
    if clinical.by == "slide":
        names = _names_of_files(clinical)
        own = own.map(lambda name: name if name in ids else names.get(name, name))
    without = slides["slide"][~own.isin(ids)].tolist()
    unused = sorted(ids - set(own))
    if len(without) == len(slides):
        raise InputError(
            f"none of the {len(slides)} slides ({', '.join(slides['slide'][:3])}...) belongs to one of the clinical "
            f"table's {clinical.by}s ({', '.join(clinical.ids[:3])}...)",
            where=clinical.path,
            hint=f"Check the column '{clinical.key}'"
            + ("; --patient-pattern finds the patient in a slide's name" if clinical.by == "patient" else ""),
        )
    if without:
        logger.warning("no clinical row for %s: %s", counted(len(without), "slide"), ", ".join(without[:5]))
    more = clinical.table.set_index(clinical.key).reindex(own).reset_index(drop=True)
    _tell_other_patients(clinical, slides, more)
    taken = set(slides.columns)
    more.columns = [f"clinical_{name}" if name in taken else str(name) for name in more.columns]
    joined = pd.concat([slides[["slide", "patient"]], more, slides.drop(columns=["slide", "patient"])], axis=1)
    return joined, {"joined_by": clinical.by, "slides_without_clinical": without, "clinical_without_slide": unused}


def _names_of_files(clinical: Clinical) -> dict[str, str]:
    """Slides by name of those ids that name a file, where no two files have it (P1.svs and P1.tif)."""
    files = {name: Path(name).stem for name in clinical.ids if name.lower().endswith(SUFFIXES)}
    shared = Counter(files.values())
    return {stem: name for name, stem in files.items() if shared[stem] == 1}


def _tell_other_patients(clinical: Clinical, slides: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Say where a table of slides names another patient than the prediction was told."""
    column = next((one for wanted in PATIENT_KEYS for one in rows.columns if _plain(one) == wanted), None)
    if column is None:
        return
    said = zip(slides["slide"], slides["patient"], _ids(rows[column]), strict=True)
    pairs = [one for one in said if not is_unknown(str(one[1])) and not is_unknown(one[2])]
    others = [one for one in pairs if identity_key(str(one[1])) != identity_key(one[2])]
    if others:
        slide, patient, other = others[0]
        words = "%s: names another patient for %s than the prediction was told (%s: %s, not %s); check whose they are"
        logger.warning(words, clinical.path, counted(len(others), "slide"), slide, other, patient)


def _ids(column: pd.Series) -> pd.Series:
    """Ids as text: whole numbers that stand as fractions, as Parquet has them beside a blank cell, without their .0."""
    if column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype(object).where(column.notna(), "").astype(str).str.strip()


def _plain(column: object) -> str:
    return str(column).strip().lower().replace(" ", "_")
