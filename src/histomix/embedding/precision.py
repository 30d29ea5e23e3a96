"""How far a sample of embeddings lies from what float32 gives, where an encoder computes in less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatureError, SlideError
from ..slides import Slide, read_tile
from .samples import kept_sample, sample_rows

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..encoders import Encoder

#: Where the sample is kept in the features of a section, and what its manifest calls it.
KEY = "precision_shifts"
#: Tiles of a section that are looked at: float32 may take several times as long.
SAMPLE = 16


def embed_precision_shifts(
    slide: Slide, tiles: pd.DataFrame, encoders: Sequence[Encoder]
) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Embed a sample of the tiles of one slide in float32 too.

    Parameters
    ----------
    slide, tiles
        The open slide and its tile table.
    encoders
        The encoders; only those with a ``float32`` compute in another precision.

    Returns
    -------
    For each encoder the rows ``(m,)`` and float32 ``(m, dim)``, the embedding in float32 less its own; None for one in
    float32, and where no tile is on tissue.
    """
    rows = sample_rows(tiles["tissue"].to_numpy(), SAMPLE)
    places = tiles[["x_px", "y_px"]].to_numpy(float)
    found: list[tuple[np.ndarray, np.ndarray] | None] = []
    for encoder in encoders:
        exact = getattr(encoder, "float32", None)
        images, read = [], []
        for row in rows if exact is not None else ():
            try:
                x_px, y_px = places[row]
                images.append(read_tile(slide, x_px, y_px, encoder.tile_spec()))
            except SlideError:
                continue
            read.append(row)
        if exact is None or not images:
            found.append(None)
            continue
        pixels = np.stack(images)
        found.append((np.array(read), (exact.embed(pixels) - encoder.embed(pixels)).astype(np.float32)))
    return found


def precision_shifts(features: AnnData, manifest: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and shifts that were kept with features, as `embed_precision_shifts` gives them; None where none were.

    Raises
    ------
    FeatureError
        They are not what the manifest says.
    """
    kept = kept_sample(features, manifest, KEY, "the embeddings in float32")
    if kept is None:
        return None
    shifts, facts = kept
    rows = np.asarray(facts.get("at", ()))
    if shifts.ndim != 2 or rows.shape != (len(shifts),) or rows.dtype.kind != "i" or not np.isfinite(shifts).all():
        raise FeatureError("the embeddings in float32 are not what the manifest says")
    if not ((rows >= 0) & (rows < features.n_obs)).all():
        raise FeatureError("the embeddings in float32 are of tiles that are not there")
    return rows, shifts.astype(np.float32)
