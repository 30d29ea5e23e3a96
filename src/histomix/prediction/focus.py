"""The sharpness of a slide's tiles, measured as they are read for an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..slides import TileSpec
from ..slides.focus import OUT_OF_FOCUS, SOFT, sharpness

if TYPE_CHECKING:
    from ..encoders import Encoder
    from ..encoders.card import EncoderCard

# Features are finite numbers; this one says that the sharpness is not known.
_UNKNOWN = 1e6
SOFT_WORDS = (
    "this slide is soft, as by a blur of 1 to 1.5 um, though most of its tiles are not out of focus: take a sharper "
    "scan if there is one"
)


class Focused:
    """An encoder that gives, after each embedding, the sharpness of the tile; everything else is the encoder's own.

    Parameters
    ----------
    encoder
        The encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.inner = encoder
        self.card: EncoderCard = encoder.card
        self.digest = f"{encoder.digest}+sharpness 1"
        self.views, self.dim = encoder.views, encoder.dim + 1
        self.precision = getattr(encoder, "precision", "float32")

    def tile_spec(self) -> TileSpec:
        """As the encoder's."""
        return self.inner.tile_spec()

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        """Embedding and sharpness, float32 (n, dim)."""
        return self.encode(self.prepare(tiles))

    def prepare(self, tiles: np.ndarray) -> tuple[Any, np.ndarray]:
        """What the encoder makes of tiles ahead of time, in the threads that read them, and their sharpness."""
        prepare = getattr(self.inner, "prepare", None)
        sharp = np.nan_to_num(sharpness(tiles, self.tile_spec().mpp), nan=_UNKNOWN)
        return (tiles if prepare is None else prepare(tiles)), sharp

    def encode(self, prepared: tuple[Any, np.ndarray]) -> np.ndarray:
        """Embedding and sharpness of what `prepare` gave, float32 (n, dim)."""
        inner: Any = self.inner
        encode = inner.embed if getattr(inner, "prepare", None) is None else inner.encode
        embeddings = np.asarray(encode(prepared[0]), np.float32)
        if embeddings.ndim != 2 or len(embeddings) != len(prepared[1]):
            return embeddings  # the engine says what is wrong with it
        return np.concatenate([embeddings, prepared[1][:, None]], axis=1)


def split_sharpness(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings, and the sharpness with NaN where it is not known, of what a `Focused` encoder gave."""
    sharp = values[:, -1].astype(np.float32)
    return values[:, :-1], np.where(sharp < _UNKNOWN / 2, sharp, np.nan)


def focus_facts(sharp: np.ndarray | None, read_ok: np.ndarray) -> dict[str, Any] | None:
    """What a map says of its slide's focus; None where it is not known.

    Parameters
    ----------
    sharp
        Sharpness of the tiles (n,), NaN where it is not known.
    read_ok
        Which could be read, bool (n,).

    Returns
    -------
    dict
        ``median`` sharpness; ``soft``: whether the slide is, though most of it is not out of focus; and the ``words``,
        "" for a slide in focus.
    """
    known = np.array([]) if sharp is None else np.asarray(sharp)[read_ok & np.isfinite(sharp)]
    if not len(known):
        return None
    median = float(np.median(known))
    soft = OUT_OF_FOCUS <= median < SOFT
    words = "most of this slide is out of focus" if median < OUT_OF_FOCUS else SOFT_WORDS if soft else ""
    return {"median": round(median, 3), "soft": soft, "words": words}
