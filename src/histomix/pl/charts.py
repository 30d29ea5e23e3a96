"""Charts of an evaluation, each drawn on axes that the caller made (matplotlib's objects, no pyplot)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..common.naming import plain_text
from ..common.palette import ACCENT, AXIS, GROUND, INK, LINE, QUIET, head_colours

#: A difference is filled when its adjusted p is below this.
ALPHA = 0.05


def quiet_axes(axes: Axes) -> None:
    """Axes that step back behind what they hold."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(AXIS)
    axes.tick_params(labelsize=8, colors=QUIET, length=0)
    axes.xaxis.label.set(color=QUIET, fontsize=9)
    axes.yaxis.label.set(color=QUIET, fontsize=9)
    axes.title.set(color=INK, fontsize=10)
    axes.patch.set_alpha(0)


def draw_scores(
    axes: Axes,
    scores: pd.DataFrame,
    *,
    intervals: pd.DataFrame | None = None,
    bound: pd.Series | None = None,
    metric: str = "Pearson",
) -> None:
    """Scores per cell type as dots, one row a cell type and one colour a head.

    Parameters
    ----------
    axes
        Where to draw.
    scores
        Cell types x heads; the first head orders the rows.
    intervals
        Columns ``low`` and ``high`` of the first head, by cell type.
    bound
        The most that any prediction could reach, by cell type: a mark across the row.
    metric
        Name under the axis.
    """
    order = scores[scores.columns[0]].sort_values(na_position="first").index
    rows = np.arange(len(order))
    colours = head_colours(list(map(str, scores.columns)))
    for row, name in zip(rows, order, strict=True):
        values = scores.loc[name].to_numpy(float)
        if np.isfinite(values).any():
            axes.plot([np.nanmin(values), np.nanmax(values)], [row, row], color=LINE, linewidth=2, zorder=1)
    if intervals is not None:
        here = intervals.reindex(order)
        first = colours[str(scores.columns[0])]
        axes.hlines(rows, here["low"], here["high"], color=first, linewidth=5, alpha=0.28, zorder=2)
    for head in reversed(list(scores.columns)):
        axes.scatter(
            scores.loc[order, head],
            rows,
            s=44,
            color=colours[str(head)],
            label=plain_text(head),
            edgecolors=GROUND,
            linewidths=0.8,
            zorder=3,
        )
    if bound is not None:
        axes.scatter(
            bound.reindex(order),
            rows,
            marker="|",
            s=150,
            color=INK,
            linewidths=1.6,
            label="bound of the labels",
            zorder=4,
        )
    axes.axvline(0, color=AXIS, linewidth=1, zorder=0)
    axes.set_yticks(rows, [plain_text(name) for name in order])
    axes.set_xlabel(metric)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        names[::-1],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(len(names), 4),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    quiet_axes(axes)


def draw_forest(axes: Axes, rows: pd.DataFrame, *, xlabel: str, zero: str = "") -> None:
    """Estimates with intervals, one row each, from the top.

    Parameters
    ----------
    axes
        Where to draw.
    rows
        Index = words; columns ``value``, ``low``, ``high`` and ``sure`` (filled or hollow); optionally ``bound``.
    xlabel
        Name under the axis.
    zero
        What 0 means, written at its line.
    """
    colour = ACCENT
    positions = np.arange(len(rows))[::-1]
    axes.axvline(0, color=AXIS, linewidth=1, zorder=0)
    axes.hlines(positions, rows["low"], rows["high"], color=colour, linewidth=2, alpha=0.75, zorder=2)
    sure = rows["sure"].fillna(False).to_numpy(bool)
    axes.scatter(
        rows["value"],
        positions,
        s=42,
        color=[colour if one else GROUND for one in sure],
        edgecolors=colour,
        linewidths=1.6,
        zorder=3,
    )
    if "bound" in rows:
        axes.scatter(rows["bound"], positions, marker="|", s=150, color=INK, linewidths=1.6, zorder=4)
    axes.set_yticks(positions, [plain_text(name) for name in rows.index])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(xlabel)
    if zero:
        axes.annotate(
            zero, (0, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7.5, color=QUIET
        )
    quiet_axes(axes)


def draw_calibration(axes: Axes, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Share of held-out values inside their intervals against the level that was asked for.

    Parameters
    ----------
    axes
        Where to draw.
    curves
        ``{head: {"levels": ..., "coverage": ...}}``, both in 0..1.
    """
    axes.fill_between([0, 1], [0, 1], [1, 1], color=LINE, alpha=0.35, linewidth=0, zorder=0)
    axes.plot([0, 1], [0, 1], color=AXIS, linewidth=1.2, zorder=1)
    for head, colour in head_colours(list(curves)).items():
        one = curves[head]
        axes.plot(
            one["levels"],
            one["coverage"],
            marker="o",
            markersize=4.5,
            color=colour,
            linewidth=2,
            label=plain_text(head),
            markeredgecolor=GROUND,
            markeredgewidth=0.7,
            zorder=2,
        )
    axes.text(0.05, 0.93, "wider than needed", fontsize=7.5, color=QUIET, va="top")
    axes.text(0.95, 0.05, "too narrow", fontsize=7.5, color=QUIET, ha="right")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the interval", ylabel="held-out values inside")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="center right", frameon=False, fontsize=8, labelcolor=INK)
    quiet_axes(axes)


def draw_protocols(axes: Axes, rows: Sequence[Mapping[str, Any]], protocols: Sequence[str]) -> None:
    """Mean score of each head under each protocol, with intervals, to show what a leaky protocol adds."""
    heads = list(dict.fromkeys(str(row["head"]) for row in rows))
    shift = np.linspace(-0.12, 0.12, len(heads)) if len(heads) > 1 else np.zeros(1)
    for move, (head, colour) in zip(shift, head_colours(heads).items(), strict=True):
        here = {str(row["protocol"]): row for row in rows if str(row["head"]) == head}
        known = [(place, here[name]) for place, name in enumerate(protocols) if name in here]
        x = np.array([place for place, _ in known]) + move
        y = np.array([_float(row["mean"]) for _, row in known])
        axes.vlines(
            x,
            [_float(row["low"]) for _, row in known],
            [_float(row["high"]) for _, row in known],
            color=colour,
            linewidth=2,
            alpha=0.6,
        )
        axes.plot(x, y, marker="o", color=colour, linewidth=1.2, label=plain_text(head), markeredgecolor=GROUND)
    axes.set_xticks(range(len(protocols)), [plain_text(name) for name in protocols])
    axes.set_xlim(-0.5, len(protocols) - 0.5)
    axes.set_xlabel("folds")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    quiet_axes(axes)


def draw_training(axes: Axes, curves: Mapping[str, tuple[Sequence[float], int | None]]) -> None:
    """Loss on inner held-out rows, epoch by epoch, and the epoch that was kept (counted from 1), by the head's name.

    A curve of several columns, (epochs, views), is drawn as their mean.
    """
    colours = head_colours(list(curves)) if len(curves) > 1 else dict.fromkeys(curves, ACCENT)
    for name, (curve, best) in curves.items():
        colour = colours[name]
        values = np.asarray(curve, dtype=float)
        if values.ndim > 1:
            values = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in values])
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=2, label=name or None)
        kept = min(int(np.nanargmin(values)) + 1 if best is None else best, len(values))
        axes.axvline(kept, color=AXIS, linewidth=1, zorder=0)
        axes.scatter([kept], [values[kept - 1]], s=46, color=colour, edgecolors=GROUND, zorder=3)
        axes.annotate(
            f"{name} kept: epoch {kept}".strip(),
            (kept, values[kept - 1]),
            xytext=(8, 10),
            textcoords="offset points",
            fontsize=8,
            color=QUIET,
        )
    axes.set(xlabel="epoch", ylabel="loss on inner held-out rows")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    quiet_axes(axes)


def _float(value: Any) -> float:
    return np.nan if value is None else float(value)
