"""Panels on where cell types lie, and on what leaky folds claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..evaluation import Evaluation
from ..pages.page import Drawer
from ..pl.charts import draw_protocols
from ..pl.matrices import draw_agreement, draw_matrix
from ..pl.scores import number
from ..pl.tables import colocalisation_tables
from .panel_parts import Panel, as_number, p_value, plain_table, shown_figure


def colocalisation_panel(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    """Co-localisation of cell types in labels and in the prediction of ``shown``; None where there are none."""
    tables = colocalisation_tables(evaluation, shown)
    if tables is None:
        return None
    label, predicted, rows = tables
    side = 1.7 + 0.36 * len(label)
    figure = Figure(figsize=(2 * side + 0.9, side + 0.1), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    most = float(np.nanmax(np.abs(np.concatenate([_off_diagonal(label), _off_diagonal(predicted)])))) or 1.0
    for axes, table, words in ((left, label, "labels"), (right, predicted, f"prediction ({shown})")):
        draw_matrix(axes, table, norm=Normalize(-most, most), bar=axes is right)
        axes.set_title(words, fontsize=10)
    radius = rows[0].get("radius_um")
    agreement = plain_table(
        ["section", "agreement off the diagonal", "by chance", "p"],
        [
            [str(one["section"]), number(one.get("correlation")), number(one.get("null_mean")), p_value(one.get("p"))]
            for one in rows
        ],
        "Agreement: correlation of the two matrices without their diagonals. By chance: mean where every type is "
        "shifted by itself.",
        fold=len(rows) > 4,
    )
    within = f" within {radius:g} µm" if isinstance(radius, int | float) else ""
    mean = np.nanmean([as_number(one.get("correlation")) for one in rows])
    return {
        "title": "Who lives beside whom?",
        "lead": f"Co-localisation of cell types{within}, mean over {len(rows)} sections. Labels and prediction agree "
        f"with a correlation of {number(float(mean))}.",
        "figures": [
            shown_figure(
                draw.chart(figure, "colocalisation"), "Co-localisation of cell types: labels and prediction", wide=True
            )
        ],
        "tables": [agreement],
        "key": "colocalisation",
    }


def _off_diagonal(table: pd.DataFrame) -> np.ndarray:
    values = table.to_numpy(float)
    return values[~np.eye(len(values), dtype=bool)]


def structure_panel(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    """Moran's I and domains in labels and in the prediction of ``shown``; None where there are neither."""
    spatial = evaluation.summary.get("spatial") or {}
    moran = [one for one in spatial.get("moran") or [] if one["head"] == shown]
    domains = [one for one in spatial.get("domains") or [] if one["head"] == shown]
    if not moran and not domains:
        return None
    figures, tables = [], []
    if moran:
        frame = pd.DataFrame(
            {name: [as_number(one[name]) for one in moran] for name in ("label", "prediction")},
            index=[str(one["cell_type"]) for one in moran],
        ).dropna()
        figure = Figure(figsize=(6.2, 4.0), layout="constrained")
        draw_agreement(figure.subplots(), frame, what="Moran's I")
        caption = (
            "Moran's I of each cell type in each section: how smooth it lies. Above the line, a map is smoother than "
            "its labels."
        )
        figures.append(shown_figure(draw.chart(figure, "moran"), "Moran's I of labels and prediction", caption=caption))
    if domains:
        names = ("ari_label", "ari_prediction", "ari_regions")
        present = [name for name in names if any(one.get(name) is not None for one in domains)]
        heads = {
            "ari_label": "prediction against domains of the labels",
            "ari_prediction": "prediction against the regions",
            "ari_regions": "labels against the regions",
        }
        columns = ["section", *(heads[name] for name in present)]
        tables.append(
            plain_table(
                columns,
                [[str(one["section"]), *(number(one.get(name)) for name in present)] for one in domains],
                "Domains are clusters of composition. Adjusted Rand index of two partitions: 1 the same, 0 by chance.",
                fold=len(domains) > 4,
            )
        )
    return {"title": "Spatial structure", "lead": "", "figures": figures, "tables": tables, "key": "spatial"}


def inflation_panel(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    """Scores of the same heads under other kinds of folds, None where the evaluation has one kind."""
    rows = [one for one in evaluation.summary.get("inflation") or [] if one.get("metric", "pearson") == "pearson"]
    if not rows:
        return None
    known = ["transfer", "site", "donor", "section", "random"]
    protocols = sorted(
        {str(one["protocol"]) for one in rows}, key=lambda name: (known.index(name) if name in known else -1, name)
    )
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    draw_protocols(axes, rows, protocols)
    axes.set_ylabel("mean Pearson")
    return {
        "title": "What leaky folds would have claimed",
        "lead": "The same heads and spots under other folds. Where sections of a test donor, or neighbours of a test "
        "spot, are in training, the score measures memory as well.",
        "figures": [shown_figure(draw.chart(figure, "inflation"), "Mean Pearson under each kind of folds")],
        "key": "inflation",
    }
