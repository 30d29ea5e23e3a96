"""Figures that are saved, once or in several formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: For pictures of tissue, which zlib packs hardly better at its own default, in four times the time.
FAST_PNG = {"compress_level": 2}


def settle_layout(figure: Figure, dpi: float | None = None) -> None:
    """Place the parts of a finished figure once and for all, at the ``dpi`` that it is saved with or at its own.

    While a figure has a layout engine, saving it draws everything twice: for the layout, and to be seen.
    """
    if dpi is not None:
        figure.set_dpi(dpi)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
