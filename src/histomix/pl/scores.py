"""The scores of an evaluation as the report shows them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..evaluation import Evaluation

_METRICS = {
    "pearson": "Pearson",
    "pearson_pooled": "pooled",
    "pearson_within": "within",
    "spearman": "Spearman",
    "rmse": "RMSE",
    "js_composition": "JS distance",
}
_CEILING = (
    "Ceiling: how well two labels from independent counts of the same depth would agree (reliability, mean over "
    "sections and cell types). Bound: the square root of it, which even a perfect prediction cannot pass in "
    "Pearson on average."
)
_NO_CEILING = "Ceiling unknown: these labels carry no reliability."


def against(target: str) -> str:
    """What ``"label"`` or ``"truth"`` is called."""
    return "true composition" if target == "truth" else "labels"


def shown_head(evaluation: Evaluation) -> str:
    """The head whose maps are drawn: the last one asked for that is no baseline."""
    baselines = {"mean", "ridge", *evaluation.summary.get("baselines", ()), *evaluation.summary.get("oracles", ())}
    others = [head for head in evaluation.predictions if head not in baselines]
    return others[-1] if others else "ridge"


def score_tiles(evaluation: Evaluation, shown: str, target: str) -> list[dict[str, str]]:
    """The mean Pearson of the shown head, the baselines and the labels, with words."""
    scores = evaluation.summary["scores"][target]
    words = {
        "mean": "a constant: the training mean",
        "label": "the labels themselves: the bar",
        "ridge": "ridge on the same features",
    }
    order = [shown, *(head for head in ("ridge", "mean", "label") if head in scores and head != shown)]
    tiles = [
        {
            "value": number(scores[head]["pearson"]["mean"]),
            "text": f"{words.get(head, head)}: mean Pearson against the {against(target)}",
        }
        for head in order
    ]
    ceiling = ceiling_of(evaluation, target)
    if ceiling is not None:
        words_of_ceiling = "the most that a perfect prediction could reach against labels as noisy as these"
        tiles.append({"value": number(ceiling["bound"]), "text": words_of_ceiling})
    return tiles


def ceiling_of(evaluation: Evaluation, target: str) -> dict[str, Any] | None:
    """Summary of the reliability of the labels; None where it is unknown, and against the truth."""
    return evaluation.summary.get("ceiling") if target == "label" else None


def section_ceiling(evaluation: Evaluation, section: str) -> dict[str, float]:
    """Reliability of the labels of one section by cell type; empty where it is unknown."""
    rows = evaluation.metrics
    rows = rows[(rows["metric"] == "ceiling") & (rows["section"] == section)]
    return dict(zip(rows["cell_type"], rows["value"], strict=True))


def score_table(evaluation: Evaluation, target: str, shown: str) -> dict[str, Any]:
    """Every head and metric, with intervals; the shown head stands out."""
    facts = evaluation.summary
    ceiling = ceiling_of(evaluation, target)
    ceiling_cells = [] if target == "truth" else [{"text": "unknown", "small": ""}]
    if ceiling is not None:
        ceiling_cells = [{"text": number(ceiling["mean"]), "small": f"bound {number(ceiling['bound'])}"}]
    rows = []
    for head, entry in facts["scores"][target].items():
        cells = [{"text": head, "small": ""}]
        for metric in _METRICS:
            one = entry[metric]
            interval = (
                "" if metric != "pearson" or one["low"] is None else f"{number(one['low'])} to {number(one['high'])}"
            )
            cells.append({"text": number(one["mean"]), "small": interval})
        paired = entry["pearson"].get("vs_ridge")
        if paired is None:
            cells.append({"text": "", "small": ""})
        else:
            ends = [paired["low"], paired["high"]]
            interval = "" if None in ends else " to ".join(_signed(end) for end in ends)
            cells.append({"text": _signed(paired["mean"]), "small": interval})
        cells += [*ceiling_cells, {"text": str(entry["pearson"]["n_types"]), "small": ""}]
        rows.append({"cells": cells, "strong": head == shown})
    level = round(100 * facts["interval"]["level"])
    return {
        "title": f"Against the {against(target)}",
        "columns": ["head", *_METRICS.values(), "Pearson − ridge", *(["ceiling"] if ceiling_cells else []), "types"],
        "rows": rows,
        "caption": "Pearson: per cell type over the spots of a section, averaged; pooled: over all spots of a fold; "
        f"within: centred per section. Small figures: {level} % intervals, {facts['interval']['method']}."
        + (f" {_CEILING if ceiling is not None else _NO_CEILING}" if ceiling_cells else ""),
    }


def type_scores(evaluation: Evaluation, target: str) -> tuple[pd.DataFrame, pd.Series | None]:
    """Mean Pearson, cell types x heads, without those that no section lets score; and the bound that the labels set.

    The shown head comes first; the training mean (which is 0 by rule) and oracles are left out. The bound is None
    where the reliability of the labels is unknown, and against the truth.
    """
    scores = evaluation.summary["scores"][target]
    shown = shown_head(evaluation)
    left_out = {shown, "mean", *evaluation.summary.get("oracles", ())}
    heads = [shown, *(head for head in scores if head not in left_out)]
    table = pd.DataFrame(
        {head: {name: one["mean"] for name, one in scores[head]["pearson"]["types"].items()} for head in heads}
    ).astype(float)
    table = table.dropna(how="all")
    ceiling = ceiling_of(evaluation, target)
    if ceiling is None:
        return table, None
    bounds = {name: one["bound"] for name, one in ceiling["types"].items()}
    return table, pd.Series(bounds, dtype=float).reindex(table.index)


def type_intervals(evaluation: Evaluation, target: str) -> pd.DataFrame | None:
    """Intervals of the shown head's Pearson by cell type, columns ``low`` and ``high``; None where there are none."""
    types = evaluation.summary["scores"][target][shown_head(evaluation)]["pearson"]["types"]
    ends = {name: {end: one.get(end) for end in ("low", "high")} for name, one in types.items()}
    table = pd.DataFrame.from_dict(ends, orient="index", columns=["low", "high"]).astype(float)
    return None if table.isna().to_numpy().all() else table


def number(value: float | None) -> str:
    """A score as text, a dash where it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}".replace("-", "−")


def _signed(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:+.3f}".replace("-", "−")
