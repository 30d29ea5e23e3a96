"""A map scored against single cells and regions, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..common.palette import SIGNED_MAP
from ..pages.page import Drawer
from ..pl.matrices import draw_matrix
from ..pl.scores import number
from .panel_parts import Panel, interval_words, panel, plain_table, shown_figure

_METRICS = {"pearson": "Pearson", "spearman": "Spearman", "rmse": "RMSE", "js_composition": "JS distance"}


def orthogonal_view(facts: Mapping[str, Any], draw: Drawer) -> dict[str, Any]:
    """What a page shows of the ``summary.json`` of ``histomix score``: cells, regions, and cautions."""
    orthogonal = facts["orthogonal"]
    panels = [_cells(facts, orthogonal["cells"])] if "cells" in orthogonal else []
    panels += [_regions(orthogonal["regions"], draw)] if "regions" in orthogonal else []
    name = str((facts.get("folds") or [{"name": "slide"}])[0]["name"])
    notes = [facts["interval"]["caution"], *facts["notes"]]
    return {
        "name": name,
        "text": f"{facts['protocol_means']}; {facts['n_spots']:,} tiles, unit: {facts['unit']}.",
        "notes": [note for note in notes if note],
        "panels": [{**one, "id": ""} for one in panels],
    }


def _cells(facts: Mapping[str, Any], cells: Mapping[str, Any]) -> Panel:
    scores = facts["scores"].get("truth", {})
    rows = [
        [head, *((number(entry[name]["mean"]), "") if name in entry else "–" for name in _METRICS)]
        for head, entry in scores.items()
    ]
    own = cells["pearson"]
    types = scores.get("map", {}).get("pearson", {}).get("types", {})
    listed = [[str(name), number(one["mean"])] for name, one in types.items()]
    lead = (
        f"{cells['n_counted']:,} of {cells['n_cells']:,} typed cells were counted in {cells['n_tiles']:,} tiles of "
        f"{cells['counted_in_um']:g} µm. Pearson of the map: {number(own['mean'])}"
    )
    interval = interval_words(own.get("low"), own.get("high"))
    return panel(
        "Against single cells",
        f"{lead} ({interval}, blocks of this slide)." if interval else f"{lead}.",
        tables=[
            plain_table(["", *_METRICS.values()], rows, "Constant: the mean of the map everywhere."),
            plain_table(["cell type", "Pearson"], listed, "Over the tiles of this slide."),
        ],
    )


def _regions(regions: Mapping[str, Any], draw: Drawer) -> Panel:
    table = pd.DataFrame(regions["auroc"]).astype(float)
    figure = Figure(figsize=(2.6 + 0.5 * table.shape[1], 1.8 + 0.34 * len(table)), layout="constrained")
    draw_matrix(figure.subplots(), table, norm=Normalize(0, 1), cmap=SIGNED_MAP)
    rows = [
        [
            f"{' + '.join(map(str, one['cell_types']))} in {one['region']}",
            (number(one["auroc"]), interval_words(one.get("low"), one.get("high"))),
            f"{one['n_inside']:,} in, {one['n_outside']:,} out",
        ]
        for one in regions.get("expected") or []
    ]
    ari = regions.get("ari")
    lead = (
        ""
        if ari is None or not np.isfinite(ari)
        else f"Domains of the map against regions: adjusted Rand index {ari:.3f}."
    )
    tables = [plain_table(["expected", "AUROC", "tiles"], rows, "What was said beforehand.")] if rows else []
    shown = shown_figure(
        draw.chart(figure, "regions"), "AUROC of each cell type for each region", caption=str(regions["auroc_words"])
    )
    return panel("Against regions", lead, figures=[shown], tables=tables)
