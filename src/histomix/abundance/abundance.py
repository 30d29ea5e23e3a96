"""Cell-type abundance per spot, in a declared unit."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..common.naming import OWN_COLUMNS, plain_name
from ..errors import LabelError
from ..spots import LABEL_UNITS

#: The units that a table of abundances may be in.
UNITS = LABEL_UNITS
#: How far the proportions of one spot may sum from 1.
SUM_TOLERANCE = 0.01

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Abundance:
    """Abundance of each cell type at each spot.

    Parameters
    ----------
    values
        Spots x cell types: finite, not negative, with unique names; kept as float64.
    unit
        ``"cells per spot"``, ``"proportion"`` (each row sums to 1 within 1 %), or ``"relative abundance"`` (as cells,
        but the totals are none: only what is more and what is less counts).
    sd
        Posterior standard deviations, same spots and cell types as ``values``, where the method has a posterior.
    median
        Posterior medians, same spots and cell types as ``values``, where ``values`` are another summary (such as the
        5 % quantile).
    reliability
        Per cell type, how well the labels agree with themselves: the correlation over spots of two labels of the same
        section from counts of this depth (1: no noise; NaN: a type that does not vary). The square root bounds the
        correlation that even a perfect predictor can reach with these labels.
    provenance
        Where the numbers come from; ``provenance["file"]`` is named in errors, ``provenance["fitted_with"]`` lists the
        sections whose counts had a part in these labels, this one included.

    Raises
    ------
    LabelError
        Any of the above does not hold.
    """

    values: pd.DataFrame
    unit: str
    sd: pd.DataFrame | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    median: pd.DataFrame | None = None
    reliability: pd.Series | None = None

    def _repr_html_(self) -> str:
        from ..notebook import card_html

        means = self.values.mean(axis=0)
        known = [None] * len(means) if self.reliability is None else self.reliability.reindex(means.index)
        rows = [[name, float(mean), one] for (name, mean), one in zip(means.items(), known, strict=True)]
        facts = [("unit", self.unit), ("method", self.provenance.get("method"))]
        lead = f"{len(self.values):,} spots, {self.values.shape[1]} cell types"
        return card_html("Abundance", lead, facts, ("cell type", "mean", "reliability"), rows)

    def __post_init__(self) -> None:
        where = self.provenance.get("file")
        check_unit(self.unit, where)
        object.__setattr__(self, "values", _checked(self.values, "label", where))
        for name, what in (("sd", "posterior sd"), ("median", "posterior median")):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._beside(_checked(getattr(self, name), what, where), what, where))
        if self.reliability is not None:
            object.__setattr__(self, "reliability", _checked_reliability(self.reliability, self.values.columns, where))
        if self.unit == "proportion":
            _check_sums(self.values.sum(axis=1), where)

    def _beside(self, table: pd.DataFrame, what: str, where: str | None) -> pd.DataFrame:
        if not (table.index.equals(self.values.index) and table.columns.equals(self.values.columns)):
            raise LabelError(
                f"the {what} has other spots or cell types than the labels",
                where=where,
                hint="Give both for the same spots and cell types, in the same order",
            )
        return table

    @property
    def cell_types(self) -> list[str]:
        """Names of the cell types."""
        return list(self.values.columns)

    def proportions(self) -> Abundance:
        """Share of each cell type at each spot: amounts over their total, or itself if already proportions.

        A spot without any cells has no proportions and is dropped, with a logged note. The sd is not carried over: the
        spread of a share also depends on correlations between types, which a table of sds does not hold. Nor is the
        median, which is that of the abundance, not of the share.

        Raises
        ------
        LabelError
            No spot has any cells.
        """
        if self.unit == "proportion":
            return self
        total = self.values.sum(axis=1)
        occupied = total > 0
        if not occupied.any():
            raise LabelError(
                "no spot has any cells, so there are no proportions",
                where=self.provenance.get("file"),
                hint="Check the labels",
            )
        if not occupied.all():
            _log.info("%d of %d spots have no cells, so no proportions: dropped", (~occupied).sum(), len(total))
        values = self.values[occupied].div(total[occupied], axis=0)
        provenance = {**self.provenance, "derived_from": self.unit}
        return Abundance(values, "proportion", provenance=provenance, reliability=self.reliability)


def check_unit(unit: str | None, where: str | os.PathLike[str] | None = None) -> str:
    """Return a declared unit.

    Raises
    ------
    LabelError
        The unit is undeclared or unknown.
    """
    *most, last = (f'"{name}"' for name in UNITS)
    choices = f"{', '.join(most)} or {last}"
    if unit is None:
        raise LabelError(
            "the unit of the labels is not declared", where=where, hint=f"Declare it (label_unit in a sheet): {choices}"
        )
    if unit not in UNITS:
        raise LabelError(f"'{unit}' is not a unit of labels", where=where, hint=f"Declare {choices}")
    return unit


def join_spots(
    abundance: Abundance,
    keys: pd.Index,
    where: str | os.PathLike[str] | None = None,
    *,
    section: str | None = None,
    quiet: bool = False,
) -> Abundance:
    """Labels of the spots that a section has, in the section's order.

    Where no key fits, keys are compared without what other tools change: an X before a number and dots for dashes (R),
    the ``-1`` behind a barcode, and the name of the section before or behind. That is logged and recorded in
    ``provenance["keys_respelled"]``.

    Labels of other spots, and spots without labels, are left out with a logged note, unless ``quiet`` (for a caller
    that says it itself).

    Parameters
    ----------
    abundance
        Labels, of these spots and maybe of others.
    keys
        Spot keys of the section.
    where
        What errors name as their place, if not the file of the labels.
    section
        Name of the section, to find its spots in a table of several.

    Raises
    ------
    LabelError
        No label belongs to a spot, the message shows keys of both; or two labels belong to the same.
    """
    place = where or abundance.provenance.get("file")
    if not keys.isin(abundance.values.index).any():
        abundance = _respelled(abundance, keys, section, place)
    index = abundance.values.index
    shared = keys[keys.isin(index)]
    if not len(shared):
        turned = keys.isin(abundance.values.columns).any()
        raise LabelError(
            f"none of the {len(index)} labels (such as {examples(index)}) "
            f"belongs to one of the {len(keys):,} spots (such as {examples(keys)})",
            where=place,
            hint="Turn the table: rows are spots, columns are cell types" if turned else "Use the same keys in both",
        )
    if len(shared) < len(index) and not quiet:
        _log.info("%s: %d of %d labels belong to no spot: dropped", where, len(index) - len(shared), len(index))
    if len(shared) < len(keys) and not quiet:
        _log.info("%s: %d of %d spots have no label", where, len(keys) - len(shared), len(keys))
    return _rows(abundance, shared)


def _rows(abundance: Abundance, index: pd.Index) -> Abundance:
    sd, median = (None if table is None else table.loc[index] for table in (abundance.sd, abundance.median))
    return replace(abundance, values=abundance.values.loc[index], sd=sd, median=median)


def _respelled(
    abundance: Abundance, keys: pd.Index, section: str | None, place: str | os.PathLike[str] | None
) -> Abundance:
    """The labels whose key is that of a spot but for its spelling, under the key of the spot."""
    labels = pd.Series(abundance.values.index, index=abundance.values.index)
    if section is not None:
        name = re.escape(section)
        bare = labels.str.replace(rf"^{name}[_:.-]|[_:.-]{name}$", "", regex=True)
        # In a table of several sections, labels without this section's name are of another.
        labels = bare[bare != labels] if (bare != labels).any() else labels
    plain_keys = pd.Series(keys.to_numpy(), index=[_plain_key(key) for key in keys])
    plain_keys = plain_keys[~plain_keys.index.duplicated(keep=False)]
    spots = labels.map(_plain_key).map(plain_keys).dropna()
    if spots.empty:
        return abundance
    if spots.duplicated().any():
        twice = spots.index[spots == spots[spots.duplicated()].iloc[0]]
        raise LabelError(
            f"several labels ({examples(twice)}) belong to the spot '{spots[twice[0]]}'",
            where=place,
            hint="Give each section its own table, or put the name of the section before its keys, as in SECTION_KEY",
        )
    _log.info("%s: keys are spelled '%s' for the spot '%s'", place, spots.index[0], spots.iloc[0])
    part = _rows(abundance, spots.index)
    sd, median = (
        None if table is None else table.set_axis(spots.to_numpy(), axis=0) for table in (part.sd, part.median)
    )
    values = part.values.set_axis(spots.to_numpy(), axis=0)
    provenance = {**part.provenance, "keys_respelled": [spots.index[0], spots.iloc[0]]}
    return replace(part, values=values, sd=sd, median=median, provenance=provenance)


def _plain_key(key: str) -> str:
    """A key without what tools add to it or change in it."""
    plain = re.sub(r"^X(?=\d)", "", str(key)).replace(".", "-")
    return re.sub(r"^([ACGT]{10,})-\d+$", r"\1", plain)


def examples(names: pd.Index, count: int = 3) -> str:
    """The first names of an index, for a message."""
    return ", ".join(f"'{name}'" for name in names[:count])


def _checked(table: pd.DataFrame, what: str, where: str | None) -> pd.DataFrame:
    if table.empty:
        raise LabelError(f"the {what} table is empty", where=where, hint="Give one row per spot, one column per type")
    table = table.rename(columns=plain_name)
    if "" in table.columns:
        raise LabelError("a column has no name", where=where, hint="Name its cell type, or leave the column out")
    for names, kind in ((table.index, "spot key"), (table.columns, "cell type")):
        if not names.is_unique:
            raise LabelError(
                f"the {kind} '{names[names.duplicated()][0]}' occurs more than once ({names.duplicated().sum()} such)",
                where=where,
                hint=f"Keep each {kind} once",
            )
    if own := sorted(OWN_COLUMNS.intersection(map(str, table.columns))):
        raise LabelError(
            f"a cell type is called '{own[0]}', as a column of every map is",
            where=where,
            hint="Give it another name; if it is no cell type, leave the column out",
        )
    wrong = [
        name
        for name, dtype in table.dtypes.items()
        if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype)
    ]
    if wrong:
        raise LabelError(
            f"column '{wrong[0]}' is not numeric ({len(wrong)} such columns)",
            where=where,
            hint="Keep the spot key and one column of numbers per cell type",
        )
    checked = table.astype(np.float64)
    checked.index = checked.index.astype(str)
    faults = ~(np.isfinite(checked.to_numpy()) & (checked.to_numpy() >= 0))
    if faults.any():
        row, column = np.argwhere(faults)[0]
        raise LabelError(
            f"the {what} of spot '{checked.index[row]}', cell type '{checked.columns[column]}' is "
            f"{checked.to_numpy()[row, column]} ({faults.sum()} such values)",
            where=where,
            hint="Abundances are finite and not negative: mend these spots or leave them out",
        )
    return checked


def _checked_reliability(reliability: pd.Series, cell_types: pd.Index, where: str | None) -> pd.Series:
    checked = reliability.astype(np.float64)
    checked = checked.rename(index=plain_name)
    if not checked.index.equals(cell_types) or not (checked.isna() | checked.between(-1, 1)).all():
        raise LabelError(
            "the reliability is not one number from -1 to 1 for each cell type of the labels",
            where=where,
            hint="Give one correlation per cell type, in the order of the labels",
        )
    return checked


def _check_sums(total: pd.Series, where: str | None) -> None:
    off = ((total - 1).abs() > SUM_TOLERANCE).to_numpy()
    if off.any():
        spot, spot_total = total.index[off][0], total[off].iloc[0]
        raise LabelError(
            f"the proportions of spot '{spot}' sum to {spot_total:.4g}, not 1 ({off.sum():,} of {len(off):,} spots)",
            where=where,
            hint='Declare "cells per spot" if that is what these are; weights that only lack the division by their '
            "total (RCTD) are divided by a vocabulary with `renormalise: true`",
        )
