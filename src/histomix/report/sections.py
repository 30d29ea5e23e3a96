"""Sections of a report: small multiples of the cohort, and maps beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..common.palette import type_colours
from ..common.words import counted
from ..evaluation import Evaluation
from ..pages.page import Drawer
from ..pl.figures import compare_figure, composition_figure, thumbnail_figure
from ..pl.matrices import draw_composition_bars
from ..pl.scores import number, section_ceiling
from ..pl.tables import composition_means
from .inputs import ReportInputs

#: Pictures of one cell type in one section that a page carries at most; a browser copes and a run stays short.
_MOST_PAIRS = 240
_FEWEST_TYPES = 3


class Budget:
    """Which cell types are drawn in every section, when all of all would be too many.

    Parameters
    ----------
    evaluation
        Its shown cell types are ranked by their mean score, and taken evenly from best to worst.
    n_sections
        How many sections are drawn.
    """

    def __init__(self, evaluation: Evaluation, n_sections: int) -> None:
        every = [str(name) for name in evaluation.summary["cell_types"]]
        room = max(_FEWEST_TYPES, _MOST_PAIRS // max(n_sections, 1))
        self.words = ""
        self.types = every
        if len(every) > room:
            rows = evaluation.metrics
            rows = rows[(rows["metric"] == "pearson") & (rows["target"] == "label") & (rows["cell_type"] != "")]
            ranked = (
                rows.groupby("cell_type")["value"]
                .mean()
                .reindex(every)
                .sort_values(ascending=False, na_position="last")
            )
            places = np.unique(np.linspace(0, len(every) - 1, room).round().astype(int))
            chosen = set(ranked.index[places])
            self.types = [name for name in every if name in chosen]
            self.words = (
                f" {len(self.types)} of {len(every)} cell types are drawn, taken evenly from the best to the worst "
                "predicted; histomix.pl.beside draws any other."
            )


def legend(types: Sequence[str]) -> list[dict[str, str]]:
    """Cell types with their colours, for the page."""
    return [
        {"name": name, "colour": "#" + "".join(f"{round(255 * part):02x}" for part in colour)}
        for name, colour in type_colours([str(one) for one in types]).items()
    ]


def cohort_view(
    evaluation: Evaluation, shown: str, target: str, ids: dict[str, str], sources: ReportInputs, draw: Drawer
) -> dict[str, Any]:
    """Small multiples of all sections, and their mean composition as bars."""
    facts = evaluation.summary
    names = facts["sections"]
    tables = {
        f"{name} · {words}": table.loc[:, facts["cell_types"]]
        for name in names
        for words, table in (("label", evaluation.labels[name]), (shown, evaluation.predictions[shown][name]))
    }
    height = 0.9 + 0.2 * len(tables) + 0.18 * math.ceil(len(facts["cell_types"]) / 4)
    figure = Figure(figsize=(8.6, height), layout="constrained")
    draw_composition_bars(figure.subplots(), composition_means(tables))
    views = []
    for name in names:
        canvas, label = sources.canvases.get(name), evaluation.labels[name]
        picture = None
        if canvas is not None:
            places = evaluation.positions[name].loc[label.index, ["x_px", "y_px"]].to_numpy(float)
            picture = draw.picture(thumbnail_figure(canvas, places, label), name, "small")
        pearson = float(_section_pearson(evaluation, name, shown, target).mean())
        text = f"{len(label):,} spots · Pearson {number(pearson)}"
        views.append(
            {"name": name, "donor": _donor(evaluation, name), "id": ids[name], "figure": picture, "text": text}
        )
    donors = counted(facts["n_donors"], "donor")
    return {
        "text": f"{counted(facts['n_sections'], 'section')} of {donors}, {facts['n_spots']:,} spots. Small maps: the "
        "most abundant cell type of each spot, as labelled. Choose one to see label and prediction.",
        "bars": draw.chart(figure, "cohort-composition"),
        "caption": f"Mean composition of each section as labelled, and as {shown} predicts it without having seen it.",
        "sections": views,
    }


def section_view(
    evaluation: Evaluation, name: str, shown: str, place: str, sources: ReportInputs, budget: Budget, draw: Drawer
) -> dict[str, Any]:
    """One section: its most abundant types, and each cell type's label and prediction."""
    label, predicted = evaluation.labels[name], evaluation.predictions[shown][name]
    facts: dict[str, Any] = {
        "id": place,
        "name": name,
        "caption": f"{name}, donor {_donor(evaluation, name)}: {len(label):,} spots and the most abundant type of each",
        "figure": None,
        "pairs": [],
    }
    canvas = sources.canvases.get(name)
    if canvas is None:
        return facts
    maps = {"label": label, f"prediction ({shown})": predicted}
    target = "label"
    if name in evaluation.truth:
        maps = {"truth": evaluation.truth[name].reindex(label.index), **maps}
        target = "truth"
    ceiling = section_ceiling(evaluation, name) if target == "label" else {}
    places = evaluation.positions[name].loc[label.index, ["x_px", "y_px"]].to_numpy(float)
    scores = _section_pearson(evaluation, name, shown, target)
    facts["figure"] = draw.picture(composition_figure(canvas, places, maps), name, "composition")
    for cell_type in budget.types:
        score = number(scores.get(cell_type, math.nan))
        columns = {title: table[cell_type] for title, table in maps.items()}
        figure = compare_figure(canvas, places, columns, f"Pearson {score}")
        pair = {"name": cell_type, "pearson": score, "figure": draw.picture(figure, name, cell_type)}
        facts["pairs"].append({**pair, "ceiling": number(ceiling.get(cell_type)) if ceiling else ""})
    return facts


def _section_pearson(evaluation: Evaluation, section: str, head: str, target: str) -> pd.Series:
    rows = evaluation.metrics
    rows = rows[(rows["section"] == section) & (rows["head"] == head) & (rows["target"] == target)]
    return rows[rows["metric"] == "pearson"].groupby("cell_type")["value"].mean()


def _donor(evaluation: Evaluation, section: str) -> str:
    rows = evaluation.metrics
    return str(rows.loc[rows["section"] == section, "donor"].iloc[0])
