"""The files of a head's folder: their names, and what is checked before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..common.formats import refuse_newer
from ..common.words import reason
from ..embedding import encoder_identity
from ..errors import HeadError, MissingHeadError, UnknownHeadError
from ..provenance import digest_bytes, digest_json, refuse_pipe
from .cards.card import FORMAT
from .cards.schema import card_fault
from .registry import HEADS

CARD, WEIGHTS, NOVELTY = "card.json", "weights.safetensors", "novelty.safetensors"
#: Only in the folder of a head that is calibrated.
INTERVALS = "intervals.safetensors"
#: Only in the folder of a head whose features told what stain does to them.
STAIN = "stain.safetensors"
#: Only in the folder of a head whose features had a sample at other scales.
SCALE = "scale.safetensors"
#: All that the folder of a head may hold.
FILES = frozenset((CARD, WEIGHTS, NOVELTY, INTERVALS, STAIN, SCALE))
HINT = "Train it again, or restore it from a copy"


def check_card(card: Mapping[str, Any], where: Path) -> None:
    """Refuse a card that is newer, older, changed or incomplete; past this its fields are those that were written.

    Raises
    ------
    HeadError
        The card is one of these.
    """
    refuse_newer(card, FORMAT, "the head was", where, HeadError)
    if isinstance(card.get("format"), int) and card["format"] < FORMAT:
        raise HeadError(
            f"the head was made by an older histomix ({card.get('histomix')}): its format is {card['format']}, "
            f"and this version reads {FORMAT}",
            where=where,
            hint="Train it again with the same command",
        )
    if card.get("digest") != digest_json({name: value for name, value in card.items() if name != "digest"}):
        raise HeadError("the card is not the one that was written (its digest differs)", where=where, hint=HINT)
    if (fault := card_fault(card)) is not None:
        what = "is incomplete" if fault.endswith("is missing") else "has fields that are not those of a head"
        raise HeadError(f"the card {what}: {fault}", where=where, hint=HINT)
    try:
        for encoder in card["encoders"]:
            encoder_identity({"encoder": encoder, "tile": encoder})
    except (KeyError, TypeError) as error:
        raise HeadError(f"the card is incomplete ({reason(error)})", where=where, hint=HINT) from error
    kind = card["head"]
    if kind["kind"] not in HEADS:
        hint = f"Upgrade histomix; this version has: {', '.join(HEADS)}"
        raise UnknownHeadError(f"this version has no head named {kind['kind']!r}", where=where, hint=hint)


def read_arrays(path: Path, digest: str | None) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file whose sha256 is ``digest``.

    Raises
    ------
    HeadError
        The file cannot be read, has another digest, or is in another format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    refuse_pipe(path, HeadError)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingHeadError("there is no such file", where=path, hint=HINT) from error
    except OSError as error:
        raise HeadError(f"cannot be read ({error.strerror})", where=path, hint=HINT) from error
    if digest_bytes(data) != digest:
        raise HeadError("the file is not the one that was written (its sha256 differs)", where=path, hint=HINT)
    try:
        # Copies, since arrays on a file's bytes are read-only and torch wants to share them.
        return {name: array.copy() for name, array in load(data).items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise HeadError(f"the file is not in the safetensors format ({error})", where=path, hint=HINT) from error
