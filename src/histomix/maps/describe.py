"""A composition map in words and numbers, for a notebook or a script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..notebook import card_html


@dataclass(frozen=True, eq=False)
class CompositionDescription:
    """What a map holds; shown as a card in a notebook.

    Attributes
    ----------
    table
        One row a cell type: ``mean``, ``q95`` over readable tiles in scope, ``most_abundant_in`` (share of tiles), and
        ``lower``, ``upper`` (mean bounds of a tile) of a calibrated head.
    facts
        Slide, tiles, how many are readable and in scope, unit, head, and what must be said beside the numbers.
    """

    table: pd.DataFrame
    facts: dict[str, Any]

    def _repr_html_(self) -> str:
        lead = f"{self.facts['tiles']:,} tiles of {self.facts['slide']}"
        rows = [[name, *map(float, row)] for name, row in zip(self.table.index, self.table.to_numpy(), strict=True)]
        columns = ("cell type", *(str(name).replace("_", " ") for name in self.table.columns))
        listed = [
            (name.replace("_", " "), value) for name, value in self.facts.items() if name not in ("tiles", "slide")
        ]
        return card_html("Composition", lead, listed, columns, rows)


def describe(
    values: pd.DataFrame, bounds: Mapping[str, pd.DataFrame], facts: Mapping[str, Any], used: np.ndarray
) -> CompositionDescription:
    """Describe the values of a map and their ``lower`` and ``upper`` bounds, if any (tiles x types).

    Tiles that could not be read, and those that are not ``used`` (bool (n,)), are left out of every number.
    """
    readable = values.notna().all(axis=1)
    known = readable & used
    read = values[known].astype(float)
    most = read.idxmax(axis=1).value_counts(normalize=True) if len(read) else pd.Series(dtype=float)
    table = pd.DataFrame(
        {
            "mean": read.mean(),
            "q95": read.quantile(0.95),
            "most_abundant_in": most.reindex(values.columns).fillna(0.0),
        }
    )
    for name, bound in bounds.items():
        table[name] = bound[known].astype(float).mean()
    return CompositionDescription(table.sort_values("mean", ascending=False), dict(facts, readable=int(readable.sum())))
