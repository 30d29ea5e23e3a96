"""How far embeddings move when only the stain changes, on a sample of tiles: what a head learns to look past."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatureError, SlideError
from ..slides import Slide
from ..slides.tiles import read_tiles
from .samples import kept_sample, sample_rows

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..encoders import Encoder

#: Where the shifts are kept in the features of a section, and what its manifest calls them.
KEY = "stain_shifts"
#: Tiles of a section that are looked at: a tenth of its spots, within these bounds.
_FEWEST, MOST, _EVERY = 4, 16, 10
#: Each is embedded in so many other stains.
VERSIONS = 4
#: Spread of the logarithm of how much of each stain a tissue took up, of stain on everything, of the scanner's response
#: and of the gain of its colours.
_UPTAKE, _BACKGROUND, _RESPONSE, _GAIN = 0.25, 0.01, 0.15, 0.04


def restain(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One tile as another laboratory and another scanner might have given it.

    Haematoxylin, eosin and the residual of colour deconvolution (Ruifrok & Johnston 2001) are scaled and shifted at
    random, as in the stain augmentation of Tellez et al. 2018 (IEEE Trans. Med. Imaging 37:2126); then the response
    (gamma) and the gain of each colour.

    Parameters
    ----------
    tile
        uint8 RGB ``(side, side, 3)``.
    rng
        The generator that the changes are drawn from.

    Returns
    -------
    uint8 RGB of the same shape.
    """
    from skimage.color import hed2rgb, rgb2hed

    uptake, background = np.exp(rng.normal(0.0, _UPTAKE, 3)), rng.normal(0.0, _BACKGROUND, 3)
    response, gain = np.exp(rng.normal(0.0, _RESPONSE)), np.exp(rng.normal(0.0, _GAIN, 3))
    colours = hed2rgb(np.maximum(rgb2hed(tile) * uptake + background, 0.0))
    colours = np.clip(np.clip(colours, 0.0, 1.0) ** response * gain, 0.0, 1.0)
    return np.asarray(np.round(255 * colours), dtype=np.uint8)


def embed_stain_shifts(slide: Slide, tiles: pd.DataFrame, encoders: Sequence[Encoder]) -> list[np.ndarray | None]:
    """Embed a sample of the tiles of one slide in other stains.

    Parameters
    ----------
    slide, tiles
        The open slide and its tile table.
    encoders
        The encoders.

    Returns
    -------
    For each encoder float32 ``(m, dim)``, the embedding of a tile in another stain less its own; None where no tile is
    on tissue or could be read.
    """
    if not encoders:
        return []
    encoders = [_one_view(encoder) for encoder in encoders]
    rows = sample_rows(tiles["tissue"].to_numpy(), max(_FEWEST, min(MOST, len(tiles) // _EVERY)))
    rng = np.random.default_rng(0)
    shifts: list[list[np.ndarray]] = [[] for _ in encoders]
    for row in rows:
        place = tiles.iloc[row]
        seeds = rng.integers(1 << 32, size=VERSIONS)
        try:
            images = read_tiles(slide, place["x_px"], place["y_px"], [one.tile_spec() for one in encoders])
        except SlideError:
            continue
        for use, (encoder, image) in enumerate(zip(encoders, images, strict=True)):
            stains = [image, *(restain(image, np.random.default_rng(seed)) for seed in seeds)]
            embeddings = encoder.embed(np.stack(stains)).astype(np.float32)
            shift = embeddings[1:] - embeddings[0]
            if np.isfinite(shift).all():
                shifts[use].append(shift)
    return [np.concatenate(one) if one else None for one in shifts]


def _one_view(encoder: Encoder) -> Encoder:
    """The encoder without its average over flips and rotations: one view moves like the others, in less time."""
    single = copy.copy(encoder)
    try:
        single.views = 1
    except AttributeError:
        return encoder
    return single


def stain_shifts(features: AnnData, manifest: Mapping[str, Any]) -> np.ndarray | None:
    """The shifts that were kept with features, float32 ``(m, dim)``; None where none were.

    Raises
    ------
    FeatureError
        They are not what the manifest says.
    """
    kept = kept_sample(features, manifest, KEY, "the embeddings in other stains")
    if kept is None:
        return None
    shifts = kept[0]
    if shifts.ndim != 2 or not np.isfinite(shifts).all():
        raise FeatureError("the embeddings in other stains are not what the manifest says")
    return shifts.astype(np.float32)
