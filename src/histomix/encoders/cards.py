"""The encoders that histomix knows (`cards.yaml`), and those that other code or a card file adds."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import UnknownEncoderError
from .card import EncoderCard
from .catalogue import known_cards
from .user import registered

#: What lazyslide-models calls our encoders, where it is another name.
_ZOO_NAMES = {
    "conch-v1.5": "conch_v1.5",
    "lunit-s16": "lunit-dino-s16",
    "lunit-s8": "lunit-dino-s8",
    "midnight-12k": "midnight",
    "phikon-v2": "phikonv2",
    "prov-gigapath": "gigapath",
    "uni2-h": "uni2",
}
#: Names that people also use.
_ALIASES = {
    "conch-v1": "conch",
    "conchv1": "conch",
    "conchv1.5": "conch-v1.5",
    "conch-v15": "conch-v1.5",
    "midnight12k": "midnight-12k",
    "resnet50": "resnet50-imagenet",
    **{zoo.replace("_", "-"): name for name, zoo in _ZOO_NAMES.items()},
}
_CARD_FILES = (".yaml", ".yml", ".json")
#: In front of the name of a lazyslide model.
ZOO = "zoo:"


def zoo_name(name: str) -> str:
    """What lazyslide-models calls an encoder of ours, after which LazySlide names its features; else the name itself.

    >>> zoo_name("uni2-h"), zoo_name("zoo:chief"), zoo_name("builtin")
    ('uni2', 'chief', 'builtin')
    """
    return _ZOO_NAMES.get(name, name.removeprefix(ZOO))


def cards() -> list[EncoderCard]:
    """The cards of all encoders, the built-in one first, those that other code registered last.

    A histomix card stands before a registered one of the same name. The models of lazyslide-models, ``zoo:NAME``, are
    not listed.

    Examples
    --------
    >>> [card.name for card in hm.cards()][:3]
    ['builtin', 'uni', 'uni2-h']
    """
    known = known_cards()
    return [*known.values(), *(entry.card for name, entry in registered().items() if name not in known)]


def card(name: str) -> EncoderCard:
    """The card of one encoder.

    Parameters
    ----------
    name
        Name of a card (capitals and underscores do not matter), ``zoo:NAME`` for a model of lazyslide-models, or the
        path of a card file (see `histomix.encoders.card_file`).

    Raises
    ------
    EncoderError
        There is no encoder of that name, and the message offers the closest ones; or the card file has a fault.
    MissingExtraError
        It is a model of lazyslide-models, which is not installed.
    """
    if name.lower().startswith(ZOO):
        from .torch.zoo import zoo_card

        return zoo_card(name[len(ZOO) :])
    if Path(name).suffix.lower() in _CARD_FILES:
        from .card_file import read_card_file

        return read_card_file(name)
    wanted = name.lower().replace("_", "-")
    wanted = _ALIASES.get(wanted, wanted)
    # Ours first: other code is not even loaded for them, and may itself ask for one of them while it loads.
    if wanted in known_cards():
        return known_cards()[wanted]
    for candidate in cards():
        if candidate.name == wanted:
            return candidate
    names = [one.name for one in cards()]
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}" if close else f"Choose one of {', '.join(names)}"
    raise UnknownEncoderError(f"there is no encoder {name!r}", hint=hint)
