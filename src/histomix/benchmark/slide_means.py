"""Means of slides in a benchmark: errors beside a constant's, order, spread, and what each cell type is good for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..common.words import BETWEEN, NEITHER, WITHIN
from ..pl.scores import number

#: Scores of slides' means, each with its interval.
METRICS = ("slide_mae", "slide_mae_constant", "slide_spearman", "spread_kept")
#: Columns with the names of the cell types of which each word is said.
WORDS = {"between_slides": BETWEEN, "within_only": WITHIN, "neither": NEITHER}
#: Headings of `slide_table`.
HEADINGS = ("encoder · head", "error", "training mean's", "order (Spearman)", "spread kept", *WORDS.values())


def slide_columns(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the ranking: each of `METRICS` with ``_low`` and ``_high``, and the types of each of `WORDS`.

    Parameters
    ----------
    scores
        Of one head against one target, as in the summary of an evaluation. What is not known is NaN, or "".
    """
    columns: dict[str, Any] = {}
    for metric in METRICS:
        entry = scores.get(metric) or {}
        for part, ending in (("mean", ""), ("low", "_low"), ("high", "_high")):
            value = entry.get(part)
            columns[metric + ending] = math.nan if value is None else float(value)
    said = scores.get("good_for") or {}
    return columns | {name: ", ".join(one for one in said if said[one] == word) for name, word in WORDS.items()}


def slide_table(rows: Sequence[Mapping[Any, Any]]) -> list[list[tuple[str, str]]]:
    """Cells (text, small print under it) of the rows of a ranking, in the order of `HEADINGS`; none without scores."""
    table = []
    for row in rows:
        if not math.isfinite(row.get("slide_mae", math.nan)):
            continue
        scores = [(number(row[metric]), _interval(row[f"{metric}_low"], row[f"{metric}_high"])) for metric in METRICS]
        # The training mean says the same of every slide and place.
        types = [("", "") if row["head"] == "mean" else (str(row[name]) or "–", "") for name in WORDS]
        table.append([(f"{row['encoder'] or 'no features'} · {row['head']}", ""), *scores, *types])
    return table


def _interval(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}".replace("-", "−") if math.isfinite(low) and math.isfinite(high) else ""
