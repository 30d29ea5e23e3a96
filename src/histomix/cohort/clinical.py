"""A clinical table, and which of its rows belongs to which slide."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..common.anonymity.nameless import PATIENT_KEYS
from ..common.tables import read_values
from ..errors import InputError

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
        named = table[table[key].notna()].copy()
        named[key] = named[key].astype(str).str.strip()
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


def _plain(column: object) -> str:
    return str(column).strip().lower().replace(" ", "_")
