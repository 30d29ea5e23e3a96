"""A composition map in words and numbers, for a notebook or a script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..notebook import card_html
from .map import CompositionMap

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class CompositionDescription:
    """What a map holds; shown as a card in a notebook.

    Attributes
    ----------
    table
        One row a cell type: ``mean``, ``q95`` over readable tiles, ``most_abundant_in`` (share of tiles), and
        ``lower``, ``upper`` (mean bounds of a tile) of a calibrated head.
    facts
        Slide, tiles, how many are readable and in scope, unit and head.
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


def describe_composition(composition: AnnData | CompositionMap) -> CompositionDescription:
    """Describe a map from `histomix.predict`: put it last in a cell of a notebook.

    Tiles that could not be read are left out of every number.
    """
    one = CompositionMap.of(composition)
    values = one.values().astype(float)
    known = values.notna().all(axis=1)
    read = values[known]
    most = read.idxmax(axis=1).value_counts(normalize=True) if len(read) else pd.Series(dtype=float)
    table = pd.DataFrame(
        {
            "mean": read.mean(),
            "q95": read.quantile(0.95),
            "most_abundant_in": most.reindex(values.columns).fillna(0.0),
        }
    )
    for name, bound in one.bounds.items():
        table[name] = bound.to_numpy(float)[known.to_numpy()].mean(axis=0)
    facts = {
        "slide": str(one.slide["file"]),
        "tiles": len(one),
        "readable": int(known.sum()),
        "in_scope": int(one.in_scope.sum()),
        "unit": one.unit,
        "head": str(one.head.get("name", "")),
    }
    return CompositionDescription(table.sort_values("mean", ascending=False), facts)
