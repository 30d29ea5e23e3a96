"""Plain tables of spots: a key and a place in px."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ...common import tables
from ...common.words import counted
from ...errors import SectionError
from .base import Description, Options, SpotFile, require_unique, spots_only

_PX_COLUMNS = (("x_px", "y_px"), ("pixel_x", "pixel_y"))


class PlainTable:
    """A CSV or TSV with ``spot``, ``x_px``, ``y_px``; further columns go to obs."""

    name = "csv"
    options: Mapping[str, str] = {}

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        columns = tables.columns_or_none(path) or []
        return any(set(pair) <= set(columns) for pair in _PX_COLUMNS)

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`."""
        obs, xy_px = _read(path)
        require_unique(obs.index, path)
        return SpotFile(spots_only(obs, xy_px))

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        adata = self.read(path, False, options).adata
        contents = [counted(adata.n_obs, "spot") + " with their places in px"]
        if len(adata.obs.columns):
            contents.append(f"further columns: {', '.join(map(str, adata.obs.columns[:8]))}")
        missing = ("the image that the places belong to, and its um per px", "spot diameter and pitch in um")
        return Description(
            "a table of spots", tuple(contents), (*missing, "counts"), {"spots": str(path), "format": self.name}
        )


def _read(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = tables.read_table(path)
    pair = next((pair for pair in _PX_COLUMNS if set(pair) <= set(table.columns)), None)
    if pair is None:
        raise SectionError(
            f"lacks the columns x_px, y_px (it has: {', '.join(table.columns[:8])})",
            where=path,
            hint="Name the columns of the spot centres x_px and y_px, in px of the image",
        )
    key = "spot" if "spot" in table else table.columns[0]
    if key in pair:
        raise SectionError("lacks a column with the spot keys", where=path, hint="Add a column 'spot'")
    if (table[key] == "").any():
        row = int(np.flatnonzero(table[key] == "")[0]) + 2
        raise SectionError(f"row {row} has no spot key", where=path, hint="Give every spot its key")
    xy_px = np.column_stack([tables.numbers(table, name, path) for name in pair])
    obs = table.drop(columns=list(pair)).set_index(key).rename_axis("spot")
    for name in {"array_x", "array_y"} & set(obs.columns):
        obs[name] = tables.numbers(table, name, path)
    return obs, xy_px


FORMATS = (PlainTable(),)
