"""What is believed of a head that comes from elsewhere, and what its reader is told before it is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..common.naming import visible
from ..common.transfer.remote_names import check_names
from ..errors import HeadError, InputError, MissingHeadError
from ..heads.cards.answers import answer_lines
from ..heads.cards.levels_text import level_lines
from ..heads.cards.schema import card_fault
from ..heads.cards.text import EncoderTerms, card_summary, card_terms, encoder_terms
from ..provenance import digest_json, parse_json

CARD, README, SOURCE = "card.json", "README.md", "source.json"
#: Of all that may lie beside a head, only these kinds are read: data in formats that hold no code.
SUFFIXES = (".json", ".safetensors", ".md")
#: A head is small; what is larger is something else, or meant to fill a disk.
MOST_BYTES = 1 << 30
MOST_FILES = 16
_MOST_CARD_BYTES = 32 << 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
AGAIN = "Ask its maker to share it again with: histomix head push HEAD TARGET"


@dataclass(frozen=True)
class HeadFacts:
    """What a head says of itself, read before anything else of it is fetched.

    Attributes
    ----------
    source, revision
        Where it comes from; of a repository the commit, else empty.
    card
        The whole of ``card.json``.
    n_bytes
        Of all its files.
    """

    source: str
    revision: str
    card: dict[str, Any]
    n_bytes: int

    @property
    def licences(self) -> list[EncoderTerms]:
        """Encoder, its licence, and whether that allows commercial use (None: not declared)."""
        return encoder_terms(self.card)

    def text(self) -> str:
        """The licence and the limits in words, for a person who must agree."""
        card = self.card
        lines = [
            f"{card.get('name', 'head')} from {self.source}" + (f", commit {self.revision}" if self.revision else "")
        ]
        lines.append(f"  {self.n_bytes / 1e6:,.1f} MB, card {card.get('digest')}")
        lines += [
            f"  {line}" for line in [*card_summary(card), *card_terms(card), *level_lines(card), *answer_lines(card)]
        ]
        return "\n".join(visible(line, 10_000) for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """For a program: where it is from, its digest, and its licences."""
        return {
            "source": self.source,
            "revision": self.revision or None,
            "digest": self.card.get("digest"),
            "name": self.card.get("name"),
            "bytes": self.n_bytes,
            "licences": [terms._asdict() for terms in self.licences],
        }


def check_listing(listing: Mapping[str, int], where: str, most_bytes: int = MOST_BYTES) -> None:
    """Refuse files that are no part of a head, too many, or too large.

    Parameters
    ----------
    listing
        Names with their sizes in bytes.
    where
        For messages.
    most_bytes
        Allowed of all files together.

    Raises
    ------
    HeadError
        With the first fault found.
    """
    if CARD not in listing:
        raise MissingHeadError(f"there is no head ({CARD} is missing)", where=where, hint=AGAIN)
    for name in listing:
        if not _SAFE_NAME.fullmatch(name) or not name.endswith(SUFFIXES):
            raise HeadError(
                f"holds {visible(name)!r}, which is no part of a head; nothing was taken", where=where, hint=AGAIN
            )
    try:
        check_names(listing)
    except InputError as error:
        raise HeadError(f"{error.what}; nothing was taken", where=where, hint=AGAIN) from error
    if len(listing) > MOST_FILES:
        raise HeadError(f"holds {len(listing)} files; a head has at most {MOST_FILES}", where=where, hint=AGAIN)
    total = sum(listing.values())
    if total > most_bytes or listing[CARD] > _MOST_CARD_BYTES:
        raise HeadError(
            f"has {total / 1e6:,.0f} MB; at most {most_bytes / 1e6:,.0f} MB are allowed (and 34 MB for the card)",
            where=where,
            hint="If you trust it, allow more with --max-mb",
        )


def read_card(data: bytes, where: str) -> dict[str, Any]:
    """The card, whose digest must be that of its content.

    Raises
    ------
    HeadError
        It is no JSON object, was changed, or names files that a head cannot have.
    """
    try:
        card = parse_json(data)
    except ValueError as error:
        raise HeadError(f"{CARD} is not JSON ({error})", where=where, hint=AGAIN) from error
    if not isinstance(card, dict):
        raise HeadError(f"{CARD} holds no object", where=where, hint=AGAIN)
    if card.get("digest") != digest_json({name: value for name, value in card.items() if name != "digest"}):
        raise HeadError(f"{CARD} is not the one that was written (its digest differs)", where=where, hint=AGAIN)
    files = card.get("files")
    if not isinstance(files, dict) or not all(
        _SAFE_NAME.fullmatch(str(name)) and str(name).endswith(".safetensors") for name in files
    ):
        raise HeadError(f"{CARD} names files that no head has", where=where, hint=AGAIN)
    if (fault := card_fault(card)) is not None:
        raise HeadError(f"{CARD} is not one of a head: {fault}", where=where, hint=AGAIN)
    return card


def wanted(card: Mapping[str, Any], listing: Mapping[str, int], where: str) -> list[str]:
    """Names of the files to take: the card, its arrays, and the readme where there is one.

    Raises
    ------
    HeadError
        A file that the card names is missing.
    """
    for name in card["files"]:
        if name not in listing:
            raise MissingHeadError(f"the file {name} is missing", where=where, hint=AGAIN)
    return [CARD, *card["files"], *([README] if README in listing else [])]
