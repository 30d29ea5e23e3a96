"""Cohort tables that name nobody."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..common.anonymity.pseudonyms import Pseudonyms
from ..errors import InputError
from .clinical import Clinical

logger = logging.getLogger(__name__)
#: Greater numbers are taken for numbers of a patient, a case or a date.
_GREATEST = 9999
_YEARS = (1880, 2100)
_YES_OR_NO = {"yes", "no", "y", "n", "true", "false", "0", "1"}
_IDENTITY = re.compile(
    r"(^|[\W_])(id|ids|mrn|nhs|ssn|no|nr|num|number|accession|case|name|zip|postcode|phone|birth|born|dob|date|year)"
    r"($|[\W_])",
    re.IGNORECASE,
)


def clinical_columns(clinical: Clinical, keep: Sequence[str] = ()) -> Clinical:
    """A clinical table with only those columns that cannot name a patient.

    These hold numbers up to 9,999 that are not all years, or yes and no, and their heading is not that of an id, a
    number or a date. All text goes: nobody can tell a name from a remark.

    Parameters
    ----------
    clinical
        The table.
    keep
        Headings of columns that stay as they are: who names them has looked.

    Raises
    ------
    InputError
        A column to keep is not there.
    """
    absent = [name for name in keep if name not in clinical.table]
    if absent:
        raise InputError(
            f"the clinical table has no column {absent[0]!r}",
            hint=f"Its columns are: {', '.join(map(str, clinical.table.columns))}",
        )
    others = [name for name in clinical.table if name != clinical.key]
    kept = [name for name in others if name in keep or _is_safe(str(name), clinical.table[name])]
    lost = [str(name) for name in others if name not in kept]
    if lost:
        logger.warning(
            "left out of the clinical table, since they may name a patient: %s; --keep-column NAME keeps one",
            ", ".join(lost),
        )
    return replace(clinical, table=clinical.table[[clinical.key, *kept]])


def _is_safe(heading: str, values: pd.Series) -> bool:
    known = values.dropna()
    if _IDENTITY.search(heading) or known.empty:
        return False
    if pd.api.types.is_bool_dtype(known):
        return True
    if pd.api.types.is_numeric_dtype(known):
        return bool((known.abs() <= _GREATEST).all()) and not bool(known.between(*_YEARS).all())
    return {str(value).strip().casefold() for value in known} <= _YES_OR_NO


def private_frame(table: pd.DataFrame, names: Pseudonyms) -> pd.DataFrame:
    """A table with pseudonyms in its columns ``slide`` and ``patient``, and in ``part`` where that is a region."""
    private = table.copy()
    for column, pseudonym in (("slide", names.slide), ("patient", names.patient)):
        private[column] = [pseudonym(name) if isinstance(name, str) else name for name in table[column]]
    if "level" in table:
        private["part"] = [
            names.region(part) if level == "region" else part
            for level, part in zip(table["level"], table["part"], strict=True)
        ]
    return private


def private_facts(facts: Mapping[str, Any], names: Pseudonyms) -> dict[str, Any]:
    """Facts of cohort tables; of patients without a slide only how many they are."""
    private = {**facts, "anonymised": names.key}
    if isinstance(facts.get("clinical"), Mapping):
        private["clinical"] = {"digest": facts["clinical"].get("digest")}
    if "slides_without_clinical" in facts:
        private["slides_without_clinical"] = [names.slide(name) for name in facts["slides_without_clinical"]]
        private["clinical_without_slide"] = len(facts["clinical_without_slide"])
    return private
