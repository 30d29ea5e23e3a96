"""What every function of `histomix.pl` does with ``ax``, ``save`` and ``show``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes

from ..errors import InputError
from ..provenance import atomic_path

#: Dots per inch of saved pictures; SVG and PDF keep lines and text.
_DPI = 200

Panels = TypeVar("Panels", bound=Axes | list[Axes])


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The caller's axes, or those of a new pyplot figure of this size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def new_grid(ax: Axes | Sequence[Axes] | None, panels: int, columns: int, width: float, height: float) -> list[Axes]:
    """Axes for several panels: the caller's, one each, or those of a new figure with ``columns`` columns.

    Raises
    ------
    InputError
        The caller's axes are fewer or more than the panels.
    """
    if ax is not None:
        given = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) != panels:
            what = f"there are {panels} panels to draw, and {len(given)} axes were given"
            raise InputError(what, hint="Give one axes a panel, or none")
        return given
    import matplotlib.pyplot as plt

    columns = max(1, min(columns, panels))
    rows = -(-panels // columns)
    _, grid = plt.subplots(rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False)
    for empty in grid.ravel()[panels:]:
        empty.set_axis_off()
    return list(grid.ravel()[:panels])


def finish(axes: Panels, save: str | os.PathLike[str] | None, show: bool | None) -> Panels:
    """Save, show, and hand the axes back.

    ``show=None`` shows only where pyplot is interactive and nothing was saved; a notebook shows the figure itself.

    Raises
    ------
    InputError
        The suffix of ``save`` is no format of pictures.
    StorageError
        The file cannot be written.
    """
    first = axes if isinstance(axes, Axes) else axes[0]
    figure = first.get_figure(root=True)
    if save is not None and figure is not None:
        path = Path(save)
        formats = figure.canvas.get_supported_filetypes()
        if path.suffix.lstrip(".").lower() not in formats:
            raise InputError(
                f"{path.suffix or 'no suffix'} is no format of pictures", where=path, hint="Use .png, .svg or .pdf"
            )
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=_DPI, bbox_inches="tight")
    if show or (show is None and save is None and _interactive()):
        import matplotlib.pyplot as plt

        plt.show()
    return axes


def _interactive() -> bool:
    import matplotlib

    return bool(matplotlib.is_interactive())
