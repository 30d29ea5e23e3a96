"""A sample of tiles as they look at other scales, from which a head learns to tell a wrong um per px.

Each is stained, lit and focused a little otherwise besides. Else the scale would be learnt from what the sections of
one laboratory have in common, and a slide of another laboratory would look larger or smaller for its stain.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from ..errors import FeatureError
from ..slides import Slide, TileSpec
from .engine import embed_tiles_together
from .samples import kept_sample, sample_rows

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..encoders import Encoder

#: How much larger everything on a tile looks.
FACTORS = (0.64, 0.8, 1.0, 1.25, 1.6)
#: Tiles of each section that are looked at so: each costs as much as five.
SAMPLE = 16
#: Slides that are coarser than the encoder's pixels by more than this have nothing finer to show.
_MAX_UPSAMPLING = 2.0
#: Spread (of the logarithm) of the factors on a tile's optical density and on that of each colour, and the widest blur.
_DENSITY, _COLOUR, _BLUR_UM = 0.25, 0.12, 1.0
#: Where the sample is kept in the features of a section.
KEY = "other_scales"


def embed_other_scales(
    slide: Slide,
    tiles: pd.DataFrame,
    encoders: Sequence[Encoder],
    dtype: str,
    batch_size: int | None = None,
) -> list[np.ndarray | None]:
    """Embed a sample of tiles of one slide at other scales, in one pass.

    Parameters
    ----------
    slide, tiles
        The open slide and its tile table.
    encoders
        The encoders.
    dtype, batch_size
        As for `embed_tiles_together`.

    Returns
    -------
    (m, len(FACTORS), dim) of each encoder, NaN where a tile could not be read; None where nothing is on tissue, or the
    slide has no finer pixels than the encoder sees.
    """
    rows = sample_rows(tiles["tissue"].to_numpy(), SAMPLE)
    results: list[np.ndarray | None] = [None] * len(encoders)
    seeing = [use for use, one in enumerate(encoders) if slide.upsampling(one.tile_spec().mpp) <= _MAX_UPSAMPLING]
    if not len(rows) or not seeing:
        return results
    changed: list[Encoder] = [_Changed(encoders[use], factor) for use in seeing for factor in FACTORS]
    found = embed_tiles_together(slide, tiles.iloc[rows], changed, on_error="mark", dtype=dtype, batch_size=batch_size)
    embeddings = iter(one for one, _ in found)
    for use in seeing:
        results[use] = np.stack([next(embeddings) for _ in FACTORS], axis=1)
    return results


class _Changed:
    """An encoder before whose eyes everything is larger, and stained, lit and focused otherwise."""

    def __init__(self, encoder: Encoder, factor: float) -> None:
        self._encoder, spec = encoder, encoder.tile_spec()
        self._spec, self._blur_px = TileSpec(spec.size_px, spec.mpp / factor), _BLUR_UM / spec.mpp
        self.card, self.digest = encoder.card, encoder.digest
        self.views, self.dim = encoder.views, encoder.dim

    def tile_spec(self) -> TileSpec:
        return self._spec

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        return self._encoder.embed(np.stack([_otherwise(tile, self._blur_px) for tile in tiles]))


def _otherwise(tile: np.ndarray, blur_px: float) -> np.ndarray:
    """The tile in another stain, light and focus; what it is drawn from is the tile, whatever its place in a batch."""
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(tile)))
    density = -np.log(np.maximum(tile.astype(np.float32), 1) / 255)
    density *= np.exp(rng.normal(0, _DENSITY)) * np.exp(rng.normal(0, _COLOUR, 3)).astype(np.float32)
    blur = rng.uniform(0, blur_px)
    blurred = ndimage.gaussian_filter(255 * np.exp(-density), (blur, blur, 0))
    return np.asarray(np.clip(blurred, 0, 255), dtype=np.uint8)


def scale_sample(features: AnnData, manifest: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """The sample at other scales that was kept with features.

    Returns
    -------
    float32 (m, factors, dim) without tiles that could not be read, and the factors; None where none was kept.

    Raises
    ------
    FeatureError
        It is not what the manifest says.
    """
    kept = kept_sample(features, manifest, KEY, "the embeddings at other scales")
    if kept is None:
        return None
    sample, facts = kept
    if sample.ndim != 3 or sample.shape[1] != len(facts["factors"]):
        raise FeatureError("the embeddings at other scales are not what the manifest says")
    readable = np.isfinite(sample).all(axis=(1, 2))
    return sample[readable].astype(np.float32), np.array(facts["factors"], dtype=np.float64)
