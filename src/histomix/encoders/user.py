"""Encoders that other code adds: by a call, or by an entry point of an installed package."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ..errors import EncoderError
from .card import Encoder, EncoderCard
from .catalogue import known_cards

GROUP = "histomix.encoders"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """An encoder that other code provides.

    Parameters
    ----------
    card
        Its facts.
    load
        Called as ``load(weights=None, threads=None, views=None, device="auto")``; returns the encoder.
    """

    card: EncoderCard
    load: Callable[..., Encoder]


_registered: dict[str, Registered] = {}


def register_encoder(card: EncoderCard, load: Callable[..., Encoder]) -> None:
    """Make an encoder known by its card's name, in this process.

    A package makes its encoders known in every process with an entry point of the group ``histomix.encoders`` whose
    object is `Registered`, or a function without arguments that returns one or several of them. Their cards should
    say ``source="python"``.

    Parameters
    ----------
    card
        Its facts; the name is lower case, with hyphens.
    load
        Called as ``load(weights=None, threads=None, views=None, device="auto")``; returns the encoder (see
        `histomix.encoders.Encoder`).

    Raises
    ------
    EncoderError
        The name is not lower case with hyphens, or belongs to an encoder of histomix.
    """
    if card.name != card.name.lower().replace("_", "-") or not card.name:
        raise EncoderError(f"an encoder cannot be registered as {card.name!r}", hint="Use lower case and hyphens")
    if card.name in known_cards():
        raise EncoderError(f"the name {card.name} belongs to an encoder of histomix", hint="Choose another name")
    _registered[card.name] = Registered(card, load)


def registered() -> dict[str, Registered]:
    """Encoders that other code provides, by name; those registered by a call stand before entry points."""
    return {**_entry_points(), **_registered}


@cache
def _entry_points() -> dict[str, Registered]:
    encoders: dict[str, Registered] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            value = point.load()
        except (ImportError, AttributeError) as error:
            _log.warning("the entry point %s = %s cannot be loaded: %s", point.name, point.value, error)
            continue
        if callable(value):
            value = value()
        entries = [value] if isinstance(value, Registered) else value
        if not isinstance(entries, list | tuple) or not all(isinstance(entry, Registered) for entry in entries):
            _log.warning("the entry point %s = %s gives no histomix.encoders.Registered", point.name, point.value)
            continue
        encoders.update({entry.card.name: entry for entry in entries})
    return encoders
