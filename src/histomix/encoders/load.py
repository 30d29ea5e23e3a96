"""Encoders by name, and whether they can load now."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from ..errors import EncoderError
from .card import Encoder
from .cards import card


@dataclass(frozen=True)
class Availability:
    """Whether an encoder can load on this machine without a network.

    Parameters
    ----------
    loadable
        It can.
    reason
        Why, or why not.
    mend
        The one step that makes it loadable; empty when it is.
    """

    loadable: bool
    reason: str
    mend: str


def load_encoder(
    name: str = "builtin",
    weights: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    views: int | None = None,
) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        Name of a card, see `histomix.encoders.cards`.
    weights
        Weights file, or a folder with one; None takes the built-in weights, the hub's local cache or the hub.
    threads
        CPU threads to encode with; None lets the runtime choose.
    views
        Flips and rotations to average over: 1, 4 (rotations) or 8 (and mirrored); None takes the card's number.

    Raises
    ------
    EncoderError
        The name is unknown, or the weights are missing, gated, truncated or of another architecture.

    Examples
    --------
    >>> encoder = load_encoder()
    >>> encoder.tile_spec().size_px == encoder.card.size_px
    True
    """
    found = card(name)
    if found.source == "builtin":
        from .builtin import BuiltinEncoder

        if weights is not None:
            mend = "Leave --weights out, or name the encoder that they are of with --encoder"
            raise EncoderError("the built-in encoder brings its own weights", where=weights, mend=mend)
        return BuiltinEncoder(threads=threads, views=views)
    from .timm_encoder import TimmEncoder
    from .weights import find_weights

    return TimmEncoder(found, find_weights(found, weights), threads=threads, views=views)


def availability(name: str) -> Availability:
    """Whether an encoder can load now, found without touching the network.

    Raises
    ------
    EncoderError
        There is no encoder of that name.
    """
    found = card(name)
    libraries = ("onnxruntime",) if found.source == "builtin" else ("torch", "timm", "huggingface_hub")
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    if missing:
        return Availability(False, f"{missing[0]} is not installed", f"pip install {missing[0].replace('_', '-')}")
    if found.source == "builtin":
        from .builtin import read_graph

        try:
            read_graph()
        except EncoderError as error:
            return Availability(False, error.what, error.mend or "")
        return Availability(True, "its weights are part of histomix", "")
    from .weights import access_mend, cached_weights

    if cached_weights(found) is not None:
        return Availability(True, "its weights are in the hub's local cache", "")
    return Availability(False, "its weights are not on this machine", access_mend(found))
