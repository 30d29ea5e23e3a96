"""Encoders by name, and whether they can load now."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from ..errors import EncoderError, MissingExtraError
from .card import Encoder
from .cards import ZOO, card
from .user import registered


@dataclass(frozen=True)
class Availability:
    """Whether an encoder can load on this machine without a network.

    Parameters
    ----------
    loadable
        It can.
    reason
        Why, or why not.
    hint
        The one step that makes it loadable; empty when it is.
    """

    loadable: bool
    reason: str
    hint: str


def load_encoder(
    name: str = "builtin",
    weights: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    views: int | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        Name of a card (see `histomix.encoders.cards`), path of a card file (see `histomix.encoders.card_file`), or
        ``zoo:NAME`` for a model of lazyslide-models.
    weights
        Weights file, or a folder with one; None takes the built-in weights, the hub's local cache or the hub.
    threads
        CPU threads to encode with; None lets the runtime choose.
    views
        Flips and rotations to average over: 1, 4 (rotations) or 8 (and mirrored); None takes the card's number.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"mps"``. The built-in encoder and ONNX files
        run on the CPU.
    trust_code
        Let a TorchScript file run its program, and a ``zoo:`` model code that it downloads; no other encoder brings
        code of its own.

    Raises
    ------
    EncoderError
        The name is unknown, or the weights are missing, gated, truncated or of another architecture; or this machine
        has no such device.
    MissingExtraError
        A library that the encoder needs is not installed.

    Examples
    --------
    >>> encoder = hm.load_encoder()
    >>> encoder.tile_spec().size_px == encoder.card.size_px
    True
    """
    encoder_card = card(name)
    if encoder_card.source == "builtin":
        from .onnx.builtin import BuiltinEncoder

        if weights is not None:
            hint = "Leave --weights out, or name the encoder that they are of with --encoder"
            raise EncoderError("the built-in encoder brings its own weights", where=weights, hint=hint)
        return BuiltinEncoder(threads=threads, views=views)
    if encoder_card.source == "python":
        load = registered()[encoder_card.name].load
        return load(weights=weights, threads=threads, views=views, device=device)
    if encoder_card.source == "file":
        from .card_file import load_card_file

        if weights is not None:
            raise EncoderError("a card file names its own model", where=weights, hint="Leave --weights out")
        return load_card_file(encoder_card, threads, views, device, trust_code)
    if encoder_card.source == "zoo":
        from .torch.zoo import ZooEncoder

        return ZooEncoder(encoder_card, weights, threads, views, device, trust_code)
    from .torch.timm import TimmEncoder
    from .torch.weights import find_weights

    return TimmEncoder(encoder_card, find_weights(encoder_card, weights), threads=threads, views=views, device=device)


def availability(name: str) -> Availability:
    """Whether an encoder can load now, found without touching the network.

    Raises
    ------
    EncoderError
        There is no encoder of that name.
    """
    if name.lower().startswith(ZOO) and importlib.util.find_spec("lazyslide_models") is None:
        error = MissingExtraError("lazyslide-models", "zoo", name)
        return Availability(False, error.what, error.hint or "")
    encoder_card = card(name)
    libraries: tuple[str, ...] = ("torch", "timm", "huggingface_hub")
    if encoder_card.source == "builtin" or (
        encoder_card.source == "file" and encoder_card.files[0].lower().endswith(".onnx")
    ):
        libraries = ("onnxruntime",)
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    if missing:
        return Availability(False, f"{missing[0]} is not installed", f"pip install {missing[0].replace('_', '-')}")
    if encoder_card.source == "builtin":
        from .onnx.builtin import read_graph

        try:
            read_graph()
        except EncoderError as fault:
            return Availability(False, fault.what, fault.hint or "")
        return Availability(True, "its weights are part of histomix", "")
    if encoder_card.source == "python":
        return Availability(True, "it was registered by other code", "")
    if encoder_card.source == "file":
        from .card_file import runs_code

        if runs_code(encoder_card):
            return Availability(True, "its model is beside its card, a program: --trust-code lets it run", "")
        return Availability(True, "its model is beside its card", "")
    if encoder_card.source == "zoo":
        from .torch.zoo import needs_remote_code

        reason = "lazyslide-models fetches its weights when it loads"
        remote = ", and trust its code with --trust-code (in Python trust_code=True)"
        return Availability(
            False, reason, f"Load it where there is a network{remote if needs_remote_code(name[len(ZOO) :]) else ''}"
        )
    from .torch.weights import absence, access_hint, cached_weights

    if cached_weights(encoder_card) is not None:
        return Availability(True, "its weights are in the hub's local cache", "")
    return Availability(False, absence(encoder_card), access_hint(encoder_card))
