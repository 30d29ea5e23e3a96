"""The encoders of histomix, as `cards.yaml` beside this file tells them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..common.yaml_text import YamlFile
from ..errors import EncoderError
from .card import EncoderCard

_FILE = Path(__file__).with_name("cards.yaml")
_HINT = "Install histomix again"
_TUPLES = ("mean", "std", "files", "layers", "unconfirmed")


@cache
def known_cards() -> dict[str, EncoderCard]:
    """The cards by name, the built-in encoder's first; read when they are first asked for."""
    return read_catalogue(_FILE)


def read_catalogue(path: Path) -> dict[str, EncoderCard]:
    """Read a file of cards: ``defaults``, which every card has unless it says otherwise, and ``cards``.

    Raises
    ------
    EncoderError
        The file is absent or no such file, or a card lacks a fact, has one that no card has, or stands twice.
    """
    content = YamlFile(path, EncoderError, _HINT).values()
    if not isinstance(content, Mapping) or not isinstance(content.get("cards"), list):
        raise EncoderError("holds no cards of encoders", where=path, hint=_HINT)
    cards: dict[str, EncoderCard] = {}
    for number, facts in enumerate(content["cards"], start=1):
        try:
            card = _card({**(content.get("defaults") or {}), **facts})
        except TypeError as error:
            raise EncoderError(f"card {number} is no card of an encoder ({error})", where=path, hint=_HINT) from error
        if card.name in cards:
            raise EncoderError(f"has the encoder {card.name} twice", where=path, hint=_HINT)
        cards[card.name] = card
    return cards


def _card(facts: Mapping[str, Any]) -> EncoderCard:
    lists = {name: tuple(facts[name]) for name in _TUPLES if name in facts}
    card = EncoderCard(**{**facts, **lists})
    if card.revision is None and card.hub_id is not None:
        return dataclasses.replace(card, unconfirmed=(*card.unconfirmed, "revision"))
    return card
