"""Spots as marks on a picture: circles at their true diameter, coloured by on and off tissue or by a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .extent import outside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...slides import Slide, TissueMask

# Okabe and Ito's palette (2008, https://jfly.uni-koeln.de/color), told apart by every kind of colour vision.
_ON, _OFF, _BEYOND = "#0072B2", "#D55E00", "#000000"
_CLASSES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000")
_OTHER = "#9a9a9a"
_MAP = "viridis"
_FILL = 0.45
_MANY = 20_000  # circles; more of them are drawn as points of the picture


@dataclass(frozen=True, eq=False)
class Marks:
    """Where the spots (n, 2) are drawn, in level-0 px, and in which RGBA colours."""

    title: str
    xy_px: np.ndarray
    diameter_px: float
    on_tissue: np.ndarray
    beyond: np.ndarray
    fill: np.ndarray
    edge: np.ndarray
    classes: dict[str, str]
    norm: tuple[float, float] | None
    label: str

    def counts(self) -> str:
        """How many spots lie where, in words."""
        on, beyond, total = int(self.on_tissue.sum()), int(self.beyond.sum()), len(self.xy_px)
        tail = f", {beyond} outside the image" if beyond else ""
        return f"{on / total:.0%} of {total} spots on tissue ({total - on - beyond} off it{tail})"

    def legend(self) -> dict[str, dict[str, Any]]:
        """Line styles by label."""
        base = {"marker": "o", "linestyle": "none", "markersize": 8, "markeredgewidth": 1.4}
        styles: dict[str, dict[str, Any]]
        if self.classes:
            styles = {name: {"markerfacecolor": code, "markeredgecolor": code} for name, code in self.classes.items()}
            styles["off tissue"] = {"markerfacecolor": "none", "markeredgecolor": _BEYOND}
        elif self.norm:
            styles = {"off tissue": {"markerfacecolor": "none", "markeredgecolor": _BEYOND}}
        else:
            styles = {
                "spot on tissue": {"markerfacecolor": _shade(_ON), "markeredgecolor": _ON},
                "spot off tissue": {"markerfacecolor": _shade(_OFF), "markeredgecolor": _OFF},
            }
            if self.beyond.any():
                styles["spot outside the image"] = {"markerfacecolor": "none", "markeredgecolor": _BEYOND}
        return {name: base | style for name, style in styles.items()}


def marks_of(
    title: str, xy_px: np.ndarray, diameter_px: float, slide: Slide, mask: TissueMask, values: pd.Series | None
) -> Marks:
    """Marks of spots (n, 2) px; ``values`` (n,), in their order, colour them instead of on and off tissue."""
    from matplotlib.colors import to_rgba_array

    on = mask.contains(xy_px, slide.mpp)
    beyond = outside(xy_px, (slide.width_px, slide.height_px))
    classes: dict[str, str] = {}
    norm = None
    label = "" if values is None or values.name is None else str(values.name).replace("$", r"\$")
    if values is None:
        edge = to_rgba_array(np.where(beyond, _BEYOND, np.where(on, _ON, _OFF)))
        fill = edge.copy()
        fill[:, 3] = np.where(beyond, 0, _FILL)
    else:
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            fill, norm = _by_number(values)
        else:
            fill, classes = _by_class(values)
        edge = np.where(on[:, None], fill, to_rgba_array(_BEYOND))
    return Marks(title, xy_px, diameter_px, on, beyond, fill, edge, classes, norm, label)


def draw_marks(axes: Axes, marks: Marks) -> None:
    """Draw the marks, and a colour bar when their colours are numbers."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import Normalize

    if len(marks.xy_px) > _MANY:
        size = max(_points(axes, marks.diameter_px), 0.4)
        axes.scatter(marks.xy_px[:, 0], marks.xy_px[:, 1], s=size**2, c=marks.edge, alpha=0.4, linewidths=0, zorder=3)
    else:
        sizes = np.full(len(marks.xy_px), marks.diameter_px)
        circles = EllipseCollection(
            sizes, sizes, np.zeros(len(sizes)), units="xy", offsets=marks.xy_px, offset_transform=axes.transData
        )
        circles.set(facecolors=marks.fill, edgecolors=marks.edge, linewidths=_line(axes, marks.diameter_px), zorder=3)
        axes.add_collection(circles, autolim=False)
    if marks.norm:
        scale = ScalarMappable(Normalize(*marks.norm), _MAP)
        axes.figure.colorbar(scale, ax=axes, shrink=0.6, aspect=30, pad=0.01, label=marks.label)


def _points(axes: Axes, length_px: float) -> float:
    """A length of the slide in points of the figure."""
    box = axes.get_window_extent()
    return float(72 * box.width / axes.figure.dpi * length_px / np.ptp(axes.get_xlim()))


def _line(axes: Axes, diameter_px: float) -> float:
    """Rim in points: thinner for circles that are small in the picture."""
    return float(np.clip(0.12 * _points(axes, diameter_px), 0.3, 1.2))


def _by_number(values: pd.Series) -> tuple[np.ndarray, tuple[float, float]]:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize, to_rgba_array

    numbers = values.to_numpy(dtype=float)
    known = np.isfinite(numbers)
    low, high = float(numbers[known].min()), float(numbers[known].max())
    colours = colormaps[_MAP](Normalize(low, high)(np.where(known, numbers, low)))
    return np.where(known[:, None], colours, to_rgba_array(_OTHER)), (low, high)


def _by_class(values: pd.Series) -> tuple[np.ndarray, dict[str, str]]:
    from matplotlib.colors import to_rgba_array

    words = values.astype("string")
    common = words.value_counts().index
    classes = dict(zip(map(str, common[: len(_CLASSES)]), _CLASSES, strict=False))
    codes = [classes.get(str(word), _OTHER) for word in words]
    if len(common) > len(_CLASSES) or words.isna().any():
        classes["other or none"] = _OTHER
    return to_rgba_array(codes), classes


def _shade(colour: str) -> tuple[str, float]:
    return colour, _FILL
