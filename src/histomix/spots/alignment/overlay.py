"""A picture of the spots on their slide, and on it as a proposal would put them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.drawing import FAST_PNG, settle_layout
from ...errors import SectionError
from ...provenance import atomic_path
from .check import Alignment, check_alignment
from .fit import move, opened, scale_of
from .marks import Marks, draw_marks, marks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ...slides import Slide, TissueMask
    from ..section import Section

_LONG_SIDE_PX = 1500  # of the slide's picture
_PANEL_INCHES = 7.0
_DPI = 160
_FADE = 0.4  # towards white, so that the marks stand out
_BEYOND = 0.5  # of the image's sides: how far beyond it spots are drawn
_OUTLINE = "#1a1a1a"
_BARS_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_SUFFIXES = (".png", ".jpg", ".jpeg")
_QUALITY = 80


@dataclass(frozen=True, eq=False)
class _Scene:
    slide: Slide
    mask: TissueMask
    picture: np.ndarray  # uint8 RGB, the whole slide
    diameter_px: float


def render_overlay(
    section: Section,
    path: str | os.PathLike[str],
    slide: Slide | None = None,
    labels: pd.Series | None = None,
    *,
    mask: TissueMask | None = None,
    alignment: Alignment | None = None,
) -> Path:
    """Draw the slide, the outline of its tissue and the spots at their true diameter, by on and off tissue.

    When the spots do not fit and a change is proposed, a second panel shows them after it.

    Parameters
    ----------
    section
        The section; where it tells no spot diameter, 0.55 of the spacing is drawn and the title says so.
    path
        Picture to write, ``.png`` or ``.jpg``.
    slide, mask
        As in `check_alignment`.
    labels
        Value of the spots by key, numbers or words (a class), to colour them by; spots off the tissue keep a dark rim.
    alignment
        What `check_alignment` found; checked here when left out.

    Returns
    -------
    The path.

    Raises
    ------
    SectionError
        The suffix is none of a picture, or ``labels`` has no spot of the section.
    SlideError
        The slide cannot be opened or read.
    StorageError
        The picture cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise SectionError("is no name of a picture", where=path, hint="End it in .png or .jpg")
    values = None if labels is None else labels.reindex(section.keys)
    if values is not None and values.isna().all():
        raise SectionError(
            f"the labels have none of the spots of section '{section.name}'",
            where=section.where or None,
            hint="Index them by the spot keys",
        )
    with opened(section, slide, mask) as (slide, mask):
        alignment = alignment or check_alignment(section, slide, mask)
        spacing_px = alignment.pitch_px or _spacing_px(section.spots_px)
        diameter_um = section.spot_diameter_um
        scene = _Scene(
            slide,
            mask,
            slide.thumbnail(max(slide.mpp, slide.mpp * max(slide.width_px, slide.height_px) / _LONG_SIDE_PX)),
            diameter_um / slide.mpp if diameter_um else 0.55 * spacing_px,
        )
        _draw(section, scene, alignment, values, path)
    return path


def _draw(section: Section, scene: _Scene, alignment: Alignment, values: pd.Series | None, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    slide, proposal = scene.slide, alignment.proposal
    layers = [("as given", section.spots_px, scene.diameter_px)]
    if not alignment.ok and proposal is not None and proposal.changes:
        affine = np.asarray(proposal.affine)
        word = "proposed" if proposal.verdict == "proposed" else "one of several (ambiguous)"
        # A diameter in um stays; one guessed from the spacing grows with it.
        grown = 1.0 if section.spot_diameter_um else scale_of(affine)
        layers.append((f"{word}: {proposal.change}", move(section.spots_px, affine), scene.diameter_px * grown))
    marks = [marks_of(title, xy_px, size_px, scene.slide, scene.mask, values) for title, xy_px, size_px in layers]
    frames = [_frame(mark.xy_px, slide) for mark in marks]
    heights = [(bottom - top) / (right - left) for left, right, top, bottom in frames]
    widths = [min(1.0, 1.25 / height) * _PANEL_INCHES for height in heights]
    height = max(width * tall for width, tall in zip(widths, heights, strict=True))
    figure = Figure(figsize=(max(sum(widths) + 0.4, 6.0), height + 1.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(marks), squeeze=False, width_ratios=widths)[0]
    for axes, mark, frame in zip(panels, marks, frames, strict=True):
        _draw_slide(axes, scene, frame)
        draw_marks(axes, mark)
        _scale_bar(axes, slide.mpp, frame)
        axes.set_title(f"{mark.title}\n{mark.counts()}", fontsize=10, loc="left", color="#333333")
    figure.suptitle(_title(section, scene, alignment), fontsize=11, x=0.004, ha="left", linespacing=1.45)
    _legend(figure, marks)
    settle_layout(figure)
    with atomic_path(path) as temporary:
        settings = FAST_PNG if path.suffix.lower() == ".png" else {"quality": _QUALITY}
        figure.savefig(temporary, facecolor="white", pil_kwargs=settings)


def _title(section: Section, scene: _Scene, alignment: Alignment) -> str:
    slide = scene.slide
    source = {"given": "as given in the sheet", "file": "from the image file"}.get(slide.mpp_source, slide.mpp_source)
    pitch = f"pitch {alignment.pitch_um:.0f} um" if alignment.pitch_um else "no pitch measured"
    if alignment.pitch_um and alignment.expected_pitch_um:
        pitch += f" ({alignment.expected_pitch_um:g} um expected)"
    size = f"spots {scene.diameter_px * slide.mpp:.0f} um wide"
    size += "" if section.spot_diameter_um else " (a guess: their diameter is unknown)"
    verdict = "alignment passes" if alignment.ok else "ALIGNMENT REFUSED"
    # Words of the user's may hold a dollar, which would be read as a formula.
    first = f"Section {section.name} on {slide.path.name}: {verdict}".replace("$", r"\$")
    return f"{first}\n{slide.mpp:.4g} um/px ({source}); {pitch}; {size}"


def _draw_slide(axes: Axes, scene: _Scene, frame: tuple[float, float, float, float]) -> None:
    slide, mask = scene.slide, scene.mask.mask
    levels = np.arange(256)
    faded = (levels + (255 - levels) * _FADE).astype(np.uint8)[scene.picture]
    axes.imshow(faded, extent=(0, slide.width_px, slide.height_px, 0), interpolation="antialiased", zorder=0)
    if mask.any() and not mask.all():
        step = scene.mask.mpp / slide.mpp
        padded = np.pad(mask, 1).astype(np.float32)  # so that the outline closes where tissue meets the edge
        x_px, y_px = ((np.arange(length) - 0.5) * step for length in (padded.shape[1], padded.shape[0]))
        axes.contour(x_px, y_px, padded, levels=[0.5], colors=_OUTLINE, linewidths=0.9, zorder=2)
    axes.plot(
        np.array([0, 1, 1, 0, 0]) * slide.width_px,
        np.array([0, 0, 1, 1, 0]) * slide.height_px,
        color="#888888",
        linewidth=0.8,
        zorder=1,
    )
    left, right, top, bottom = frame
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal", facecolor="#e9e9ec")
    axes.spines[:].set_visible(False)


def _scale_bar(axes: Axes, mpp: float, frame: tuple[float, float, float, float]) -> None:
    left, right, top, bottom = frame
    length_um = max([_BARS_UM[0], *(bar for bar in _BARS_UM if bar <= 0.25 * (right - left) * mpp)])
    x, y = left + 0.03 * (right - left), bottom - 0.03 * (bottom - top)
    end = x + length_um / mpp
    for colour, width in (("white", 6.0), ("black", 3.0)):
        axes.plot([x, end], [y, y], color=colour, linewidth=width, solid_capstyle="butt", zorder=6)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} um"
    place = ((x + end) / 2, y - 0.012 * (bottom - top))
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
    axes.text(*place, text, ha="center", va="bottom", fontsize=9, zorder=6, bbox=box)


def _legend(figure: Figure, marks: list[Marks]) -> None:
    from matplotlib.lines import Line2D

    entries = {label: style for mark in marks for label, style in mark.legend().items()}
    entries["outline of the tissue found"] = {"color": _OUTLINE, "linewidth": 1.2}
    handles = [Line2D([], [], label=label, **style) for label, style in entries.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=min(5, len(handles)), fontsize=9, frameon=False)


def _frame(xy_px: np.ndarray, slide: Slide) -> tuple[float, float, float, float]:
    """Left, right, top, bottom: the image, and what of the spots lies beyond it, up to a limit."""
    size = np.array([slide.width_px, slide.height_px])
    low = np.clip(xy_px.min(axis=0) * 1.02, -_BEYOND * size, 0)
    high = np.clip(xy_px.max(axis=0) * 1.02, size, (1 + _BEYOND) * size)
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _spacing_px(xy_px: np.ndarray) -> float:
    return float(np.sqrt(np.prod(np.maximum(np.ptp(xy_px, axis=0), 1)) / max(1, len(xy_px))))
