"""Legacy Spatial Transcriptomics: a ``*_selection.tsv`` of array and pixel positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ...common import tables
from ...common.words import counted
from ...errors import SectionError
from .base import Description, Options, SpotFile, require_unique, spots_only

_COLUMNS = ("x", "y", "pixel_x", "pixel_y")
#: Spot diameter and pitch of the printed array, um (Stahl et al. 2016, Science 353:78).
DIAMETER_UM, PITCH_UM = 100.0, 200.0


class LegacyST:
    """Legacy ST selections; spot keys are ``{x}x{y}``. Counts come from the sheet's column ``counts``."""

    name = "st"
    options: Mapping[str, str] = {}

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        columns = tables.columns_or_none(path) or []
        return set(_COLUMNS) <= set(columns) and "spot" not in columns

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`."""
        obs, xy_px = _read(path)
        require_unique(obs.index, path)
        return SpotFile(spots_only(obs, xy_px), spot_diameter_um=DIAMETER_UM, spot_pitch_um=PITCH_UM)

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        from ...common.geometry.pitch import spot_pitch

        adata = self.read(path, False, options).adata
        row = {"spots": str(path), "format": self.name}
        missing = ["the image that the pixel positions belong to", "its counts, a table of their own (spots x genes)"]
        pitch = spot_pitch(adata.obsm["spatial"], adata.obs[["array_x", "array_y"]].to_numpy())
        contents = [f"{counted(adata.n_obs, 'selected spot')}, by array and pixel position"]
        if pitch is not None:
            mpp = PITCH_UM / pitch.px
            contents.append(f"spots are {pitch.px:.0f} px apart, which is {mpp:.3g} um per px at {PITCH_UM:g} um")
            missing.append("the um per px by the scanner: the row has the value that the spots give, so check it")
            row["mpp"] = f"{mpp:.3g}"
        return Description(
            "the spots of one legacy Spatial Transcriptomics section",
            tuple(contents),
            tuple(missing),
            row,
        )


def _read(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = tables.read_table(path)
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise SectionError(
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} of legacy ST",
            where=path,
            hint="Give a *_selection.tsv with x, y, pixel_x, pixel_y (new_x, new_y, selected)",
        )
    if "selected" in table:
        selected = tables.numbers(table, "selected", path) == 1
        if not selected.any():
            raise SectionError("has no spot with selected = 1", where=path, hint="Select the spots under the tissue")
    else:
        selected = np.ones(len(table), dtype=bool)
    grid = np.column_stack([tables.numbers(table, "x", path), tables.numbers(table, "y", path)])
    if (grid != np.round(grid)).any():
        raise SectionError("has x or y that are no whole numbers", where=path, hint="Keys are made of array positions")
    xy_px = np.column_stack([tables.numbers(table, "pixel_x", path), tables.numbers(table, "pixel_y", path)])
    adjusted = [tables.numbers(table, f"new_{axis}", path) if f"new_{axis}" in table else None for axis in "xy"]
    array = [grid[:, axis] if values is None else values for axis, values in enumerate(adjusted)]
    keys = [f"{x}x{y}" for x, y in grid.astype(int)]
    obs = pd.DataFrame({"array_x": array[0], "array_y": array[1]}, index=pd.Index(keys, name="spot"))
    return obs[selected], xy_px[selected]


FORMATS = (LegacyST(),)
