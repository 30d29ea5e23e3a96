"""Features of chosen tiles of one slide, in memory: what a head predicts from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ScaleWarning
from ..progress import Progress, silent
from ..slides import Slide
from .engine import embed_tiles_together
from .features import build_features
from .identity import encoder_facts, features_identity, library_versions, slide_facts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..encoders import Encoder

_DTYPE = "float32"


def slide_features(
    slide: Slide,
    tiles: pd.DataFrame,
    encoder: Encoder,
    *,
    batch_size: int | None = None,
    progress: Progress = silent,
    task: str = "embed",
) -> AnnData:
    """Embed tiles of an open slide; a tile that cannot be decoded is a row of NaN.

    Parameters
    ----------
    slide
        An open slide.
    tiles
        Tile table: index = key; ``x_px``, ``y_px`` = centre in level-0 px; ``tissue`` = share on tissue.
    encoder
        A loaded encoder.
    batch_size, progress, task
        As for `embed_tiles`.

    Returns
    -------
    AnnData
        As `embed` makes it for a section, float32.

    Raises
    ------
    EncoderError
        The encoder gave values of a wrong shape, or values that are not finite.
    """
    return slide_features_together(slide, tiles, [encoder], batch_size=batch_size, progress=progress, task=task)[0]


def slide_features_together(
    slide: Slide,
    tiles: pd.DataFrame,
    encoders: Sequence[Encoder],
    *,
    batch_size: int | None = None,
    progress: Progress = silent,
    task: str = "embed",
) -> list[AnnData]:
    """What `slide_features` gives for each of several encoders, in one pass over the slide."""
    with warnings.catch_warnings():
        # Said once in words by `slide_facts`, instead of once per tile by the reading threads.
        warnings.simplefilter("ignore", ScaleWarning)
        embeddings = embed_tiles_together(
            slide, tiles, encoders, on_error="mark", dtype=_DTYPE, batch_size=batch_size, progress=progress, task=task
        )
    xy_px = tiles[["x_px", "y_px"]].to_numpy(dtype=float)
    tables = []
    for encoder, (values, _) in zip(encoders, embeddings, strict=True):
        spec, facts = encoder.tile_spec(), encoder_facts(encoder)
        manifest = {
            "section": slide.name,
            "identity": features_identity(slide.path, slide.mpp, tiles.index, xy_px, spec, facts, _DTYPE),
            "tiles": len(tiles),
            "slide": slide_facts(slide, spec),
            "tile": spec.to_dict(),
            "encoder": facts,
            "runtime": getattr(encoder, "runtime", None),
            "dtype": _DTYPE,
            "versions": library_versions(),
        }
        tables.append(build_features(values, tiles, manifest))
    return tables
