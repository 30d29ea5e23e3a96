"""A study as one static page: the published figure, ours, the interval and the difference, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from .._version import __version__
from ..pages.page import content_policy, page_environment
from ..pages.statement import statement_html
from ..pl.scores import number
from ..provenance import atomic_path
from .study import COLUMNS, Study

PAGE = "page"
_STYLE = "_benchmark_style.html.j2"
_COSTS = {
    "fit_seconds": "all fits, s",
    "predict_seconds": "predict, s",
    "encoder_tiles_per_second": "encoder, tiles/s",
    "label_seconds": "labels, s",
    "peak_memory_mb": "peak memory, MB",
}


def write_study_page(
    study: Study,
    table: pd.DataFrame,
    costs: pd.DataFrame,
    missing: Sequence[str],
    methods: str,
    out: Path,
    failures: Sequence[str] = (),
) -> Path:
    """Write ``out/page/index.html``, one file that runs no script and loads nothing remote.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    StorageError
        The page cannot be written.
    """
    style = Markup(page_environment("benchmark").get_template(_STYLE).render())
    # What is missing of the cohorts stands in the title; the rest has a line of its own.
    absent = [text for text in missing if any(text.startswith(f"{one.name}:") for one in study.cohorts)]
    partial = f" (partial: missing {'; '.join(absent)})" if absent else " (partial)"
    page = (
        page_environment("studies")
        .get_template("study.html.j2")
        .render(
            policy=content_policy("benchmark", _STYLE),
            style=style,
            version=__version__,
            title=study.title + (partial if missing else ""),
            lead=study.about.strip(),
            source=study.source,
            missing=missing,
            failures=failures,
            groups=[
                _group(metric, words, table[table["metric"] == metric])
                for metric, words in COLUMNS.items()
                if (table["metric"] == metric).any()
            ],
            cost_columns=list(_COSTS.values()),
            costs=[_cost(row) for row in costs.to_dict("records")],
            methods=statement_html(methods),
        )
    )
    with atomic_path(out / PAGE) as folder:
        folder.mkdir()
        (folder / "index.html").write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return out / PAGE / "index.html"


def _group(metric: str, words: str, rows: pd.DataFrame) -> dict[str, Any]:
    ordered = rows.sort_values("ours", ascending=metric == "mae", na_position="last", kind="stable")
    found = [_row(row) for row in ordered.to_dict("records")]
    protocols = {row["protocol"] for row in found if row["ours"]}
    return {
        "name": words,
        "metric": metric,
        "rows": found,
        # What all rows of ours share is said once, above them.
        "protocol": protocols.pop() if len(protocols) == 1 else None,
    }


def _row(row: Mapping[Any, Any]) -> dict[str, str]:
    there = pd.notna(row["ours"])
    difference = f"{row['difference']:+.3f}".replace("-", "−") if pd.notna(row["difference"]) else ""
    if not difference and there and _is_number(row["published"]):
        difference = "not comparable"
    return {
        "name": row["row"],
        "published": row["published"],
        "source": row["source"],
        "ours": number(row["ours"]) if there else "",
        "interval": row["interval"],
        "difference": difference,
        "protocol": row["protocol"] if there else "published only",
    }


def _cost(row: Mapping[Any, Any]) -> dict[str, Any]:
    cells = ["–" if pd.isna(row.get(name)) else f"{row[name]:,.1f}" for name in _COSTS]
    published = row.get("published")
    cohort = row.get("cohort")
    return {
        "name": row["row"] + (f", {cohort}" if isinstance(cohort, str) and cohort else ""),
        "cells": cells,
        "published": published if isinstance(published, str) else "",
    }


def _is_number(text: str) -> bool:
    """Whether a published figure is at hand."""
    try:
        float(text)
    except ValueError:
        return False
    return True
