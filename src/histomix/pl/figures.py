"""Figures of the report, drawn with matplotlib's objects (no pyplot, no global state)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import Collection, EllipseCollection, LineCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ..common.naming import plain_text
from ..common.palette import ABUNDANCE_MAP, ACCENT, AXIS, INK, QUIET, type_colours
from .charts import quiet_axes

PANEL_INCHES = 2.5
#: How much of its colour a tile out of scope keeps.
_OUTSIDE_ALPHA = 0.3
#: Marks of width 1 around their middle.
_SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
_DISC = (
    np.stack(
        [np.cos(np.linspace(0, 2 * np.pi, 16, endpoint=False)), np.sin(np.linspace(0, 2 * np.pi, 16, endpoint=False))],
        1,
    )
    / 2
)


@dataclass(frozen=True)
class Canvas:
    """The slide under a map: its preview, and how level-0 px become preview px.

    Parameters
    ----------
    image
        The preview, uint8 ``(height, width, 3)``.
    scale
        Preview px per level-0 px.
    mark_px
        Diameter of a spot, or side of a tile, in level-0 px.
    round_marks
        Spots are round; tiles of a grid are square.
    um_per_px
        Um per preview px, for the scale bar.
    """

    image: np.ndarray
    scale: float
    mark_px: float
    round_marks: bool
    um_per_px: float

    @cached_property
    def faded(self) -> np.ndarray:
        """The preview in pale grey, made once for all the panels that are drawn on it."""
        grey = (255 - (255 - self.image.mean(axis=2)) * 0.3).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)


def crop_to(canvas: Canvas, xy_px: np.ndarray, margin_px: float | None = None) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of the places in preview px, with a margin."""
    margin = (canvas.mark_px if margin_px is None else margin_px) * canvas.scale * 1.5
    low, high = xy_px.min(axis=0) * canvas.scale - margin, xy_px.max(axis=0) * canvas.scale + margin
    height, width = canvas.image.shape[:2]
    return max(low[0], 0), min(high[0], width), max(low[1], 0), min(high[1], height)


def draw_slide(axes: Axes, canvas: Canvas, frame: tuple[float, float, float, float], *, faded: bool = False) -> None:
    """Draw the preview inside ``frame``; faded, so that marks on it stand out."""
    axes.imshow(canvas.faded if faded else canvas.image, interpolation="antialiased")
    axes.set_xlim(frame[0], frame[1])
    axes.set_ylim(frame[3], frame[2])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_scale_bar(axes: Axes, canvas: Canvas, frame: tuple[float, float, float, float]) -> None:
    """A bar of a round length, about a fifth of the frame."""
    wanted = (frame[1] - frame[0]) * canvas.um_per_px / 5
    length = max((step for step in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if step <= wanted), default=10)
    width, height = frame[1] - frame[0], frame[3] - frame[2]
    x1, y = frame[1] - 0.04 * width, frame[3] - 0.04 * height
    x0 = x1 - length / canvas.um_per_px
    # Read on dark marks, too.
    halo = [withStroke(linewidth=2, foreground="white")]
    axes.plot([x0, x1], [y, y], color=INK, linewidth=2.5, solid_capstyle="butt", path_effects=halo)
    text = f"{length // 1000} mm" if length >= 1000 else f"{length} µm"
    axes.text(
        (x0 + x1) / 2, y - 0.015 * height, text, ha="center", va="bottom", fontsize=7, color=INK, path_effects=halo
    )


def draw_marks(
    axes: Axes,
    canvas: Canvas,
    xy_px: np.ndarray,
    colours: np.ndarray,
    outside: np.ndarray | None = None,
    alpha: float = 1.0,
) -> None:
    """Spots or tiles at their true size; those ``outside`` the scope, bool (n,), are faded and hatched.

    ``colours`` is RGBA, one row each; ``alpha`` their opacity.
    """
    xy, size = xy_px * canvas.scale, canvas.mark_px * canvas.scale
    colours = colours.copy()
    colours[:, 3] *= alpha
    if outside is not None and outside.any():
        colours[outside, 3] *= _OUTSIDE_ALPHA
    marks: Collection
    if canvas.round_marks:
        sizes = np.full(len(xy), size)
        marks = EllipseCollection(sizes, sizes, np.zeros(len(xy)), units="xy", offsets=xy, transOffset=axes.transData)
    else:
        marks = PolyCollection(list(xy[:, None, :] + _SQUARE[None] * size), antialiaseds=False)
    marks.set_facecolor(colours.tolist())
    marks.set_edgecolor("none")
    axes.add_collection(marks)
    if outside is not None and outside.any():
        _hatch(axes, xy[outside], size, _DISC if canvas.round_marks else _SQUARE)


def _hatch(axes: Axes, xy: np.ndarray, size: float, shape: np.ndarray) -> None:
    """Slanting lines, dark on light so that they show on every colour, cut out by marks of a shape and size."""
    (left, right), (bottom, top) = axes.get_xlim(), sorted(axes.get_ylim())
    wide, high = right - left, top - bottom
    longest = max(wide, high)
    step = float(np.clip(size, longest / 90, longest / 45))
    start = np.arange(left - high, right, step)
    lines = np.stack(
        [np.stack([start, np.full_like(start, top)], 1), np.stack([start + high, np.full_like(start, bottom)], 1)], 1
    )
    cut = Path.make_compound_path_from_polys(xy[:, None, :] + shape[None] * size)
    for colour, width in (("#ffffffb0", 1.5), ("#23262bd0", 0.6)):
        hatching = LineCollection(list(lines), colors=colour, linewidths=width)
        axes.add_collection(hatching, autolim=False)
        hatching.set_clip_path(cut, axes.transData)


def value_colours(values: np.ndarray, norm: Normalize, cmap: str | None = None) -> np.ndarray:
    """RGBA of abundances on a colour scale; a place without a value is transparent."""
    colours = np.array(ScalarMappable(norm, cmap or ABUNDANCE_MAP).to_rgba(np.nan_to_num(values)))
    colours[~np.isfinite(values), 3] = 0
    return colours


def abundance_norm(*tables: pd.DataFrame | pd.Series) -> Normalize:
    """One colour scale for several tables: from 0 to the 99th percentile, so that one spot cannot darken the rest."""
    values = np.concatenate([np.asarray(table, dtype=float).ravel() for table in tables])
    top = float(np.nanpercentile(values, 99)) if np.isfinite(values).any() else 1.0
    return Normalize(0, top if top > 0 else 1.0, clip=True)


def panel_figure(panels: int, frame: tuple[float, float, float, float], columns: int) -> tuple[Figure, list[Axes]]:
    """A grid of map panels with the aspect of ``frame``."""
    rows = -(-panels // columns)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    figure = Figure(figsize=(PANEL_INCHES * columns, (PANEL_INCHES * aspect + 0.42) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for empty in grid[panels:]:
        empty.set_axis_off()
    return figure, list(grid[:panels])


def composition_figure(
    canvas: Canvas,
    xy_px: np.ndarray,
    tables: Mapping[str, pd.DataFrame],
    panel_inches: float = 3.6,
    outside: np.ndarray | None = None,
) -> Figure:
    """The H&E, and beside it the most abundant cell type of each place: one panel per table, by title.

    Places ``outside`` the scope, bool (n,), are hatched.
    """
    frame = crop_to(canvas, xy_px)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    panels = 1 + len(tables)
    wider, taller = (0.0, 0.9) if outside is None else (1.6, 0.35)
    size = panel_inches * panels + wider, panel_inches * aspect + taller
    figure = Figure(figsize=size, layout="constrained")
    first, *others = figure.subplots(1, panels)
    draw_slide(first, canvas, frame)
    draw_scale_bar(first, canvas, frame)
    first.set_title("H&E", fontsize=10, color=INK)
    colours = type_colours(list(next(iter(tables.values())).columns))
    for axes, (title, table) in zip(others, tables.items(), strict=True):
        draw_slide(axes, canvas, frame, faded=True)
        draw_marks(axes, canvas, xy_px, dominant_colours(table, colours), outside)
        axes.set_title(plain_text(title), fontsize=10, color=INK)
    handles = [
        first.plot([], [], marker="o", linestyle="", color=colour, label=plain_text(name))[0]
        for name, colour in colours.items()
    ]
    columns = min(len(handles), max(2, round(panels * panel_inches / 1.7)))
    # Under a map of a slide stands its small print.
    place = {"loc": "outside lower center", "ncols": columns} if outside is None else {"loc": "outside right center"}
    figure.legend(handles=handles, frameon=False, fontsize=8, **place)
    return figure


def dominant_colours(table: pd.DataFrame, colours: Mapping[str, tuple[float, float, float]]) -> np.ndarray:
    """RGBA of each place's most abundant cell type; a place without values is transparent."""
    values = table.to_numpy(float)
    known = np.isfinite(values).all(axis=1)
    names = table.columns[np.nan_to_num(values).argmax(axis=1)]
    return np.array([(*colours[name], 1.0 if ok else 0.0) for name, ok in zip(names, known, strict=True)])


def thumbnail_figure(canvas: Canvas, xy_px: np.ndarray, table: pd.DataFrame, inches: float = 1.9) -> Figure:
    """The most abundant cell type of each place on the faded slide, small and without words."""
    frame = crop_to(canvas, xy_px)
    side = max(frame[1] - frame[0], frame[3] - frame[2])
    middle = ((frame[0] + frame[1]) / 2, (frame[2] + frame[3]) / 2)
    frame = (middle[0] - side / 2, middle[0] + side / 2, middle[1] - side / 2, middle[1] + side / 2)
    figure = Figure(figsize=(inches, inches))
    axes = figure.add_axes((0, 0, 1, 1))
    draw_slide(axes, canvas, frame, faded=True)
    draw_marks(axes, canvas, xy_px, dominant_colours(table, type_colours(list(table.columns))))
    return figure


def map_figure(
    canvas: Canvas,
    xy_px: np.ndarray,
    table: pd.DataFrame,
    columns: int = 4,
    outside: np.ndarray | None = None,
    words: Mapping[str, str] | None = None,
) -> Figure:
    """One map per cell type on the faded slide, each on a colour scale of its own.

    Places ``outside`` the scope, bool (n,), are hatched, and the scale is that of the others; ``words`` of a type stand
    under its map.
    """
    inside = np.ones(len(table), bool) if outside is None or outside.all() else ~outside
    frame = crop_to(canvas, xy_px)
    figure, panels = panel_figure(table.shape[1], frame, columns)
    for axes, name in zip(panels, table.columns, strict=True):
        norm = abundance_norm(table[name][inside])
        draw_slide(axes, canvas, frame, faded=True)
        draw_marks(axes, canvas, xy_px, value_colours(table[name].to_numpy(float), norm), outside)
        axes.set_title(plain_text(name), fontsize=9, color=INK)
        axes.set_xlabel((words or {}).get(str(name), ""), fontsize=7, color=QUIET, labelpad=3)
        _colour_bar(figure, axes, norm)
    draw_scale_bar(panels[0], canvas, frame)
    return figure


def compare_figure(canvas: Canvas, xy_px: np.ndarray, maps: Mapping[str, pd.Series], score: str) -> Figure:
    """Maps of one cell type side by side on one colour scale, and a scatter of the last against the first.

    Parameters
    ----------
    canvas, xy_px
        The slide, and the places (n, 2) in level-0 px.
    maps
        Values of each map by its title, the prediction last.
    score
        Words over the scatter.
    """
    frame = crop_to(canvas, xy_px)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    side, panels = 2.1, len(maps) + 1
    figure = Figure(figsize=(side * panels + 0.6, max(side * aspect, side * 0.8) + 0.6), layout="constrained")
    *map_axes, scatter = figure.subplots(1, panels)
    norm = abundance_norm(next(iter(maps.values())))
    for axes, (title, values) in zip(map_axes, maps.items(), strict=True):
        draw_slide(axes, canvas, frame, faded=True)
        draw_marks(axes, canvas, xy_px, value_colours(values.to_numpy(float), norm))
        axes.set_title(plain_text(title), fontsize=10, color=QUIET)
    draw_scale_bar(map_axes[0], canvas, frame)
    _colour_bar(figure, map_axes[-1], norm)
    (first_title, first), *_, (last_title, last) = maps.items()
    scatter.scatter(first, last, s=9, color=ACCENT, alpha=0.55, linewidths=0)
    top = float(np.nanmax([first.max(), last.max(), 1e-9])) * 1.04
    scatter.plot([0, top], [0, top], color=AXIS, linewidth=1, zorder=0)
    scatter.set(xlim=(0, top), ylim=(0, top), xlabel=plain_text(first_title), ylabel=plain_text(last_title))
    scatter.set_box_aspect(1)
    scatter.set_title(score, fontsize=10, color=QUIET)
    quiet_axes(scatter)
    return figure


def _colour_bar(figure: Figure, axes: Axes, norm: Normalize) -> None:
    bar = figure.colorbar(ScalarMappable(norm, ABUNDANCE_MAP), ax=axes, shrink=0.7, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(3)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=7, colors=QUIET, length=0)
