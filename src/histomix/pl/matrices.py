"""Charts of whole tables: matrices, agreement of a statistic, and stacked compositions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..common.naming import plain_text, shortened
from ..common.palette import AXIS, GROUND, INK, QUIET, SIGNED_MAP, type_colours
from .charts import quiet_axes

#: Above this many rows, the numbers inside a matrix are too small to read.
_MOST_NUMBERS = 14


def draw_matrix(
    axes: Axes,
    table: pd.DataFrame,
    *,
    norm: Normalize | None = None,
    cmap: str = SIGNED_MAP,
    xlabel: str = "",
    ylabel: str = "",
    numbers: str = ".2f",
    bar: bool = True,
) -> None:
    """A table as coloured squares, with the numbers in them where they can be read."""
    values = table.to_numpy(float)
    most = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    norm = norm or Normalize(-most, most)
    colours = colormaps[cmap]
    axes.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, interpolation="nearest")
    axes.set_xticks(
        range(table.shape[1]),
        [plain_text(shortened(str(name))) for name in table.columns],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(table.shape[0]), [plain_text(shortened(str(name))) for name in table.index])
    if max(table.shape) <= _MOST_NUMBERS and numbers:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = colours(norm(value))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
                text = format(round(value, 2) + 0.0, numbers).replace("-", "−")  # no −0.00
                axes.text(
                    column, row, text, ha="center", va="center", fontsize=6.5, color="#fefefe" if dark else "#010101"
                )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    quiet_axes(axes)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if bar:
        side = axes.figure.colorbar(ScalarMappable(norm, cmap), ax=axes, shrink=0.7, aspect=22, pad=0.02)
        side.outline.set_visible(False)
        side.ax.tick_params(labelsize=7, colors=QUIET, length=0)
        side.locator = MaxNLocator(5)
        side.update_ticks()


def draw_agreement(axes: Axes, table: pd.DataFrame, *, what: str) -> None:
    """The same statistic of label and prediction, one dot a cell type (index), with the line of agreement."""
    colours = type_colours(list(dict.fromkeys(map(str, table.index))))
    values = table[["label", "prediction"]].to_numpy(float)
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    margin = 0.06 * (high - low or 1.0)
    axes.plot([low - margin, high + margin], [low - margin, high + margin], color=AXIS, linewidth=1, zorder=0)
    for name, colour in colours.items():
        here = table.loc[table.index.astype(str) == name]
        axes.scatter(
            here["label"],
            here["prediction"],
            s=30,
            color=[colour],
            label=plain_text(name),
            edgecolors=GROUND,
            linewidths=0.6,
        )
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    axes.set(xlabel=f"{what} of the labels", ylabel=f"{what} of the prediction")
    axes.set_aspect("equal")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=7.5, labelcolor=INK, handletextpad=0.2
    )
    quiet_axes(axes)


def draw_composition_bars(axes: Axes, table: pd.DataFrame) -> None:
    """Mean composition as stacked bars: rows are sections or slides, from the top; columns cell types; shares of 1."""
    fractions = table.div(table.sum(axis=1).replace(0, np.nan), axis=0)
    positions, left = np.arange(len(table))[::-1], np.zeros(len(table))
    for name, colour in type_colours([str(one) for one in table.columns]).items():
        width = fractions[name].fillna(0).to_numpy(float)
        axes.barh(positions, width, left=left, height=0.72, color=colour, label=plain_text(name), linewidth=0)
        left += width
    axes.set_yticks(positions, [plain_text(name) for name in table.index])
    axes.set(xlim=(0, 1), ylim=(-0.6, len(table) - 0.4))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(table.shape[1], 4),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.2,
    )
    quiet_axes(axes)
    axes.spines["left"].set_visible(False)
