"""Groups of cell types that labels bring with them: the user's, or a coarser column of the reference."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.hierarchy import Hierarchy
from ..common.words import NO_ANSWERS
from ..provenance import read_json, write_json
from .abundance import Abundance
from .tables import MANIFEST

#: Words in the names of columns that say less of a cell than its type.
_COARSER = re.compile(
    r"(^|[^a-z])(major|main|coarse|broad|lineage|compartment|super_?type|level_?[01]|l[01])([^a-z0-9]|$)", re.IGNORECASE
)
#: What provenance and manifest call it.
_FACT = "hierarchy"


def coarser_column(obs: pd.DataFrame, types: pd.Series) -> dict[str, str]:
    """Cell type -> group, by the coarser column of the cells of a reference; empty where there is none.

    A column is taken where its name says that it is coarser (``celltype_major``, ``lineage``, ...) and the cells of
    every type have one value of it: of several, the one with the most groups.

    Parameters
    ----------
    obs
        The table of the cells.
    types
        Their cell types.
    """
    names = types.astype(str)
    found: dict[str, str] = {}
    for column in obs:
        values = obs[column]
        if not _COARSER.search(str(column)) or pd.api.types.is_numeric_dtype(values) or values.isna().any():
            continue
        pairs = pd.DataFrame({"type": names.to_numpy(), "group": values.astype(str).str.strip().to_numpy()})
        pairs = pairs.drop_duplicates()
        n_types, n_groups = names.nunique(), pairs["group"].nunique()
        if len(pairs) == n_types and 1 < n_groups < n_types and n_groups > len(set(found.values())):
            found = dict(zip(pairs["type"], pairs["group"], strict=True))
    return _apart(found)


def _apart(parents: Mapping[str, str]) -> dict[str, str]:
    """The same without groups of one, and with others called apart from the cell types."""
    sizes = pd.Series(parents, dtype=object).value_counts()
    named = {group: group for group in sizes.index[sizes > 1]}
    for group in named:
        while named[group] in parents or named[group] in NO_ANSWERS or not named[group]:
            named[group] += " (group)"
    return {name: named[group] for name, group in parents.items() if group in named}


def with_groups(
    labels: Mapping[str, Abundance],
    parents: Mapping[str, str] | None,
    where: str | os.PathLike[str] | None,
    reference: Mapping[str, str],
    out: str | os.PathLike[str] | None,
) -> dict[str, Abundance]:
    """Labels whose provenance, and manifest in ``out``, have the groups of their cell types.

    Parameters
    ----------
    labels
        By section.
    parents, where
        Of the user: name -> name of its group, and the file that they were read from.
    reference
        Of the reference, taken where the user has none; types that labels do not have are left out.
    out
        The folder of the labels; None: in memory.

    Raises
    ------
    InputError
        The user's are none of the labels' cell types.
    """
    types = next(iter(labels.values())).cell_types
    facts: dict[str, Any] = {"source": "user" if parents is not None else "reference"}
    if parents is None:
        facts["parents"] = _apart({name: group for name, group in reference.items() if name in types})
    else:
        facts["parents"] = Hierarchy.of(parents, types, where).parents
    if not facts["parents"]:
        return dict(labels)
    if out is not None:
        path = Path(out) / MANIFEST
        manifest: dict[str, Any] = read_json(path)
        write_json(path, {**manifest, _FACT: facts})
    return {name: replace(table, provenance={**table.provenance, _FACT: facts}) for name, table in labels.items()}
