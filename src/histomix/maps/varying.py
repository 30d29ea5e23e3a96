"""Which cell types differ over a slide by more than their intervals: what a first look should show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..common.words import NEITHER
from .map import CompositionMap

#: Types that a first picture shows, at most and at least.
MOST, LEAST = 5, 3


@dataclass(frozen=True, eq=False)
class Varying:
    """The cell types that vary most reliably on a slide.

    Attributes
    ----------
    table
        One row a cell type, the most reliable first: ``mean`` over the tiles used, ``excess`` (root mean square
        over them of the distance from that mean to the tile's interval, 0 inside; NaN without intervals),
        ``beyond`` (share of the tiles used whose interval leaves the mean out) and ``reach`` (95th percentile of the
        difference from the mean, over the half-width of the interval on that side; without intervals, in the unit of
        the map).
    words
        How they were chosen, in a sentence.
    shown
        Their names: up to `MOST`, those that differ anywhere; at least `LEAST` where the map has so many.
    """

    table: pd.DataFrame
    words: str
    shown: list[str]


def varying_types(one: CompositionMap) -> Varying:
    """Rank the cell types of a map by how far tiles differ from the slide's mean beyond their intervals.

    Only readable tiles in scope count. Types that the head predicts neither between slides nor within one come last,
    and are shown only where there are no others.

    Parameters
    ----------
    one
        The map.
    """
    reading = one.reading
    names, values = one.cell_types, one.values().to_numpy(float)
    rows = reading.used & np.isfinite(values).all(axis=1)
    columns = dict.fromkeys(("mean", "excess", "beyond", "reach"), np.full(len(names), np.nan))
    if not rows.any():
        return Varying(pd.DataFrame(columns, index=names), "No tile of this slide is in scope.", [])
    used = values[rows]
    mean = used.mean(axis=0)
    difference = np.abs(used - mean)
    bounds = {name: table.to_numpy(float)[rows] for name, table in one.bounds.items()}
    if len(bounds) == 2:
        lower, upper = bounds["lower"], bounds["upper"]
        half = np.where(used > mean, used - lower, upper - used)
        excess = np.sqrt(np.square(np.maximum(np.maximum(lower - mean, mean - upper), 0)).mean(axis=0))
        beyond = ((mean < lower) | (mean > upper)).mean(axis=0)
        reach = np.quantile(np.divide(difference, half, out=np.zeros_like(half), where=half > 0), 0.95, axis=0)
        enough = beyond > 0
        words = "Cell types in the order of how far tiles differ from the slide's mean by more than their intervals."
        if not enough.any():
            words = "No cell type differs anywhere from the slide's mean by more than its interval; these come nearest."
    else:
        excess = beyond = np.full(len(names), np.nan)
        reach = np.quantile(difference, 0.95, axis=0)
        enough = np.zeros(len(names), bool)
        words = "Cell types that vary most on this slide; the head has no intervals that would say how reliably."
    poor = np.array([reading.good_for[name] == NEITHER for name in names])
    order = np.lexsort((-reach, -np.nan_to_num(excess), poor))
    able = int((~poor).sum()) or len(names)
    n_shown = min(max(min(int((enough & ~poor).sum()), MOST), LEAST), able)
    told = {"mean": mean, "excess": excess, "beyond": beyond, "reach": reach}
    table = pd.DataFrame(told, index=names).iloc[order]
    return Varying(table, words, [str(name) for name in table.index[:n_shown]])
