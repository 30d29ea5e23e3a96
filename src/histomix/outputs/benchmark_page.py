"""A benchmark as one static page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from .._version import __version__
from ..evaluation.benchmark import Benchmark
from ..provenance import atomic_path
from .page import page_environment
from .report import PROTOCOL_BADGES
from .scores import against, number

PAGE = "page"
_COLUMNS = (
    *("#", "encoder", "head", "Pearson", "minus the best", "within", "pooled", "RMSE", "JS distance", "types"),
    *("tiles/s", "fit, s"),
)
_ENCODER_COLUMNS = ("encoder", "features", "parameters", "tile", "licence", "revision")
_CAPTION = (
    "Pearson: per cell type over the spots of a section, averaged over types and sections, with its interval. Minus "
    "the best: paired difference to the first row over the same sections; where its interval holds 0 (marked =), the "
    "order of the two is not known. Within: centred per section. Pooled: over all spots of a fold. Tiles per second "
    "through the encoder and seconds of all fits together, on the machine that ran this."
)


def write_benchmark_page(benchmark: Benchmark, out: str | os.PathLike[str], *, title: str = "Benchmark") -> Path:
    """Write ``out/page/index.html`` and its figures.

    Returns
    -------
    Path
        The page. It opens from disk and loads nothing remote.

    Raises
    ------
    StorageError
        The page cannot be written.
    """
    with atomic_path(Path(out) / PAGE) as folder:
        folder.mkdir()
        groups = [
            _group(str(cohort), str(protocol), str(target), rows, place, folder, len(benchmark.summary["cohorts"]) > 1)
            for place, ((cohort, protocol, target), rows) in enumerate(
                benchmark.ranking.groupby(["cohort", "protocol", "target"], sort=False)
            )
        ]
        summary = benchmark.summary
        page = (
            page_environment()
            .get_template("benchmark.html.j2")
            .render(
                title=title,
                lead=f"{_count(summary['encoders'], 'encoder')} and {_count(summary['heads'], 'head')} on "
                f"{_count(summary['cohorts'], 'cohort')}: every number over the same spots and folds.",
                version=__version__,
                groups=groups,
                columns=_COLUMNS,
                caption=_CAPTION,
                failures=summary["failures"],
                encoder_columns=_ENCODER_COLUMNS,
                encoders=[_encoder(one) for one in summary["encoder_facts"]],
                statement=benchmark.statement,
            )
        )
        (folder / "index.html").write_text(page, encoding="utf-8")
    return Path(out) / PAGE / "index.html"


def _group(
    cohort: str, protocol: str, target: str, rows: pd.DataFrame, place: int, folder: Path, several: bool
) -> dict[str, Any]:
    figure = f"ranking-{place}.png"
    ranking_figure(rows).savefig(folder / figure, dpi=130)
    badge, words = PROTOCOL_BADGES[protocol]
    first = rows.iloc[0]
    return {
        "name": f"{cohort + ': ' if several else ''}{protocol} folds, against the {against(target)}",
        "protocol": words,
        "protocol_class": badge,
        "text": f"{first['n_sections']} sections of {first['n_donors']} donors, {first['n_types']} cell types.",
        "figure": figure,
        "rows": [_row(row) for row in rows.to_dict("records")],
    }


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    level = "= " if row["rank"] > 1 and row["level_with_best"] else ""
    cells = [
        (str(row["rank"]), ""),
        (row["encoder"] or "–", ""),
        (row["head"], ""),
        (number(row["pearson"]), _interval(row["low"], row["high"])),
        ("", "")
        if row["rank"] == 1
        else (
            f"{level}{row['minus_best']:+.3f}".replace("-", "−"),
            _interval(row["minus_best_low"], row["minus_best_high"], "+"),
        ),
        *((number(row.get(name)), "") for name in ("pearson_within", "pearson_pooled", "rmse", "js_composition")),
        (str(row["n_types"]), ""),
        (_plain(row.get("tiles_per_second")) if row["encoder"] else "–", ""),
        (_plain(row.get("fit_seconds")), ""),
    ]
    return {"cells": [{"text": text, "small": small} for text, small in cells], "strong": row["rank"] == 1}


def _encoder(one: dict[str, Any]) -> list[str]:
    parameters = one.get("parameters")
    return [
        str(one["name"]),
        str(one["dim"]),
        f"{parameters / 1e6:,.1f} M" if parameters else "–",
        f"{one['size_px']} px at {one['mpp']:g} µm/px",
        str(one.get("licence") or "–"),
        str(one.get("revision") or "–"),
    ]


def ranking_figure(rows: pd.DataFrame) -> Figure:
    """Every encoder and head with its mean Pearson and interval, best on top.

    Parameters
    ----------
    rows
        Those of one cohort, protocol and target of `Benchmark.ranking`.
    """
    figure = Figure(figsize=(8.4, 0.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.to_dict("records")):
        colour = "#6b2fb3" if place == 0 else "#8a8f98"
        if math.isfinite(row["low"]):
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot([row["pearson"]], [place], "o", color=colour, markersize=6)
    axes.set_yticks(
        range(len(rows)), [" · ".join(filter(None, pair)) for pair in zip(rows["encoder"], rows["head"], strict=True)]
    )
    axes.invert_yaxis()
    axes.axvline(0, color="#e4e6ea", linewidth=1, zorder=0)
    axes.grid(axis="x", color="#eef0f3", zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("mean Pearson correlation, with its interval")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{low:{sign}.3f} to {high:{sign}.3f}".replace("-", "−")


def _count(things: Sequence[str], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _plain(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.1f}"
