"""Maps: abundance, most abundant type, novelty, and label beside prediction."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from ..common.naming import plain_text
from ..common.palette import ACCENT, AXIS, INK, QUIET, type_colours
from ..common.storage.h5ad import layer_names
from ..common.words import RESEARCH_USE, whole_percent
from ..errors import InputError, UnknownNameError
from ..evaluation import Evaluation
from ..maps import CompositionMap, MapSource
from ..maps.map import BOUNDS
from ._frame import finish, new_axes, new_grid
from .charts import quiet_axes
from .figures import (
    abundance_norm,
    crop_to,
    dominant_colours,
    draw_marks,
    draw_scale_bar,
    draw_slide,
    value_colours,
)
from .matrices import draw_composition_bars
from .tables import composition_means
from .varying import SIDE, draw_footnote, map_canvas, map_notes, type_words, varying_panels

if TYPE_CHECKING:
    from anndata import AnnData


def composition(
    adata: AnnData | CompositionMap | str | os.PathLike[str],
    color: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    img: np.ndarray | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str | None = None,
    alpha: float = 1.0,
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    scale_bar: bool = True,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Axes | list[Axes]:
    """Maps of a composition, one panel a name, after the manner of ``squidpy.pl.spatial_scatter``.

    Tiles out of scope are faded and hatched.

    Parameters
    ----------
    adata
        A map from `histomix.predict`, tiles x cell types; or its folder.
    color
        Cell types or numeric columns of ``obs`` (``"novelty"``). Left out: the H&E where it is at hand, and the types
        that vary most reliably on the slide (`histomix.maps.varying.varying_types`), as differences from the slide's
        mean in one scale; ``ncols``, ``img``, ``scale_bar``, ``ax``, ``show`` and ``save`` alone matter then.
    layer
        ``"lower"`` or ``"upper"`` for the bounds of the intervals; the values themselves when left out.
    img
        The whole slide at low resolution, uint8 ``(height, width, 3)``, to lie under the tiles; of a map on disk its
        preview when left out.
    vmin, vmax
        Ends of the colour scale; 0 and the 99th percentile of each panel when left out.
    cmap
        A matplotlib colour map; viridis when left out.
    alpha
        Opacity of the tiles, above 0 and at most 1: below 1 the H&E, then in its full colours, shows through.
    title
        Words over the panels; the names when left out.
    ncols
        Panels in a row.
    scale_bar
        Draw one on the first panel.
    ax
        Where to draw, one axes a panel; a new figure when left out.
    show, save
        Show the figure; write it to a file (.png, .svg, .pdf).

    Returns
    -------
    The axes, a list where there are several panels.

    Raises
    ------
    InputError
        A name is neither a cell type nor a numeric column, there is no such layer, or ``alpha`` is none.
    """
    _check_alpha(alpha)
    alone, given = isinstance(color, str), CompositionMap.of(adata)
    adata = given.adata
    if color is None:
        return finish(varying_panels(given, img, ncols, scale_bar, ax), save, show)
    names = [color] if isinstance(color, str) else [str(name) for name in color]
    titles = names if title is None else [title] if isinstance(title, str) else list(title)
    canvas, xy_px, outside = map_canvas(given, img)
    frame = crop_to(canvas, xy_px)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    panels = new_grid(ax, len(names), ncols, SIDE, SIDE * aspect + 0.3)
    if ax is None:
        draw_footnote(panels[0], map_notes(given, intervals=layer in BOUNDS))
    words = type_words(given)
    for place, (axes, name) in enumerate(zip(panels, names, strict=True)):
        values = _values(adata, name, layer)
        norm = abundance_norm(pd.Series(values[~outside] if not outside.all() else values))
        norm = Normalize(norm.vmin if vmin is None else vmin, norm.vmax if vmax is None else vmax, clip=True)
        draw_slide(axes, canvas, frame, faded=alpha == 1)
        draw_marks(axes, canvas, xy_px, value_colours(values, norm, cmap), outside, alpha)
        axes.set_title(plain_text(titles[place] if place < len(titles) else name), fontsize=10, color=INK)
        axes.set_xlabel(words.get(name, ""), fontsize=7, color=QUIET)
        _bar(axes, norm, cmap)
    if scale_bar:
        draw_scale_bar(panels[0], canvas, frame)
    return finish(panels[0] if alone else panels, save, show)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha <= 1:
        raise InputError(f"alpha is {alpha}, and opacity is above 0 and at most 1", hint="Give 1 for opaque tiles")


def dominant(
    adata: AnnData | CompositionMap | str | os.PathLike[str],
    color: Sequence[str] | None = None,
    *,
    img: np.ndarray | None = None,
    palette: dict[str, Any] | None = None,
    alpha: float = 1.0,
    title: str = "most abundant cell type",
    legend: bool = True,
    scale_bar: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Axes:
    """The most abundant cell type of each tile; tiles out of scope are faded and hatched.

    Parameters
    ----------
    adata, img, alpha, scale_bar, ax, show, save
        As for `composition`.
    color
        The cell types to choose among; all when left out.
    palette
        Cell type -> colour of matplotlib; the colours of histomix for those left out.
    title
        Words over the map.
    legend
        Draw one beside the map.
    """
    from matplotlib.colors import to_rgb

    _check_alpha(alpha)
    given = CompositionMap.of(adata)
    adata = given.adata
    types = [str(name) for name in (adata.var_names if color is None else color)]
    table = pd.DataFrame({name: _values(adata, name, None) for name in types})
    every = type_colours(given.cell_types)
    colours = {name: to_rgb((palette or {}).get(name, every[name])) for name in types}
    canvas, xy_px, outside = map_canvas(given, img)
    frame = crop_to(canvas, xy_px)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    axes = new_axes(ax, 1.35 * SIDE + (1.6 if legend else 0), 1.35 * SIDE * aspect + 0.3)
    draw_slide(axes, canvas, frame, faded=alpha == 1)
    draw_marks(axes, canvas, xy_px, dominant_colours(table, colours), outside, alpha)
    if ax is None:
        draw_footnote(axes, map_notes(given))
    if scale_bar:
        draw_scale_bar(axes, canvas, frame)
    axes.set_title(plain_text(title), fontsize=10, color=INK)
    if legend:
        handles = [axes.plot([], [], "o", color=rgb, label=plain_text(name))[0] for name, rgb in colours.items()]
        axes.legend(
            handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, labelcolor=INK
        )
    return finish(axes, save, show)


def compare(
    evaluation: Evaluation | str | os.PathLike[str],
    section: str,
    color: str,
    *,
    head: str | None = None,
    target: str = "label",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Axes:
    """Prediction against label (or truth) of one cell type over the spots of a section.

    Parameters
    ----------
    evaluation
        From `histomix.evaluate`, or its folder.
    section, color
        Which section, and which cell type.
    head
        Which head; the one that the report shows when left out.
    target
        ``"label"`` or ``"truth"``.
    ax, show, save
        As for `composition`.

    Raises
    ------
    InputError
        There is no such section, cell type, head or target.
    """
    from .scores import shown_head

    evaluation = Evaluation.of(evaluation)
    head = head or shown_head(evaluation)
    tables = evaluation.truth if target == "truth" else evaluation.labels
    for what, name, known in (
        ("head", head, evaluation.predictions),
        ("section", section, tables),
        ("cell type", color, evaluation.summary["cell_types"]),
    ):
        if name not in known:
            raise UnknownNameError(f"there is no {what} {name!r}", hint=f"Choose from {', '.join(map(str, known))}")
    observed = tables[section][color]
    predicted = evaluation.predictions[head][section][color].reindex(observed.index)
    axes = new_axes(ax, 3.6, 3.6)
    axes.scatter(observed, predicted, s=11, color=ACCENT, alpha=0.55, linewidths=0)
    top = max(float(np.nanmax([observed.max(), predicted.max()])), 1e-9) * 1.04
    axes.plot([0, top], [0, top], color=AXIS, linewidth=1, zorder=0)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel=target, ylabel=plain_text(f"prediction ({head})"))
    axes.set_box_aspect(1)
    axes.set_title(plain_text(f"{color}, {section}: Pearson {observed.corr(predicted):.3f}"))
    quiet_axes(axes)
    return finish(axes, save, show)


def proportions(
    adata: MapSource | dict[str, MapSource] | Evaluation,
    *,
    head: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Axes:
    """Mean composition as stacked bars: of one map, of several by name, or of the sections of an evaluation.

    Of a map, tiles in scope count.

    Parameters
    ----------
    adata
        A map, maps by slide name, or an evaluation; or the folder of one.
    head
        Of an evaluation: draw what this head predicts; the labels when left out.
    ax, show, save
        As for `composition`.
    """
    source: Any = adata
    if isinstance(source, str | os.PathLike) and (Path(source) / "summary.json").is_file():
        source = Evaluation.of(source)
    if isinstance(source, Evaluation):
        tables = source.labels if head is None else source.predictions[head]
    else:
        maps = source if isinstance(source, dict) else {"all tiles": source}
        tables = dict(_in_scope(name, CompositionMap.of(one)) for name, one in maps.items())
    types = max(table.shape[1] for table in tables.values())
    axes = new_axes(ax, 7.6, 0.9 + 0.32 * len(tables) + 0.18 * math.ceil(types / 4))
    draw_composition_bars(axes, composition_means(tables))
    if ax is None and not isinstance(source, Evaluation):
        draw_footnote(axes, [RESEARCH_USE])
    return finish(axes, save, show)


def _values(adata: AnnData, name: str, layer: str | None) -> np.ndarray:
    if name in adata.var_names:
        if layer is not None and layer not in adata.layers:
            others = layer_names(adata)
            hint = f"It has {', '.join(others)}" if others else "Predict with a calibrated head"
            raise InputError(f"the map has no layer {layer!r}", hint=hint)
        values = adata.X if layer is None else adata.layers[layer]
        column: np.ndarray = np.asarray(values, dtype=float)[:, adata.var_names.get_loc(name)]
        return column
    if name in adata.obs and pd.api.types.is_numeric_dtype(adata.obs[name]):
        numbers: np.ndarray = adata.obs[name].to_numpy(float)
        return numbers
    types = ", ".join(map(str, adata.var_names))
    raise InputError(f"{name!r} is neither a cell type nor a number of a tile", hint=f"Choose from {types}, novelty")


def _in_scope(name: str, one: CompositionMap) -> tuple[str, pd.DataFrame]:
    """The composition of the tiles that count; the name of a slide out of scope says how little of it these are."""
    reading = one.reading
    told = (
        f"{name}: {whole_percent(reading.in_scope_share)} in scope"
        if reading.statement and reading.used.any()
        else name
    )
    return told, one.values()[reading.used]


def _bar(axes: Axes, norm: Normalize, cmap: str | None) -> None:
    from ..common.palette import ABUNDANCE_MAP

    bar = axes.figure.colorbar(ScalarMappable(norm, cmap or ABUNDANCE_MAP), ax=axes, shrink=0.7, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(3)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=7, colors=QUIET, length=0)
