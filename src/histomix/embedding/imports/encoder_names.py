"""Encoders as other programs spell them, and what is known of one whose weights nobody has seen here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...encoders import card
from ...encoders.card import EncoderCard
from ...errors import EncoderError, FeatureError
from ...provenance import digest_json
from ..identity import STATED

#: Names of TRIDENT, slide2vec and lazyslide-models whose cards are called otherwise here.
_SPELLINGS = {
    "conchv1-5": "conch-v1.5",
    "conch-v15": "conch-v1.5",
    "conch-v1": "conch",
    "h0mini": "h0-mini",
    "hoptimus0": "h-optimus-0",
    "hoptimus1": "h-optimus-1",
    "h-optimus0": "h-optimus-0",
    "h-optimus1": "h-optimus-1",
    "hibou-base": "hibou-b",
    "hibou-large": "hibou-l",
    "kaiko-vitb16": "kaiko-b16",
    "kaiko-vitb8": "kaiko-b8",
    "kaiko-vitl14": "kaiko-l14",
    "kaiko-vits16": "kaiko-s16",
    "kaiko-vits8": "kaiko-s8",
    "lunit-dino-s16": "lunit-s16",
    "lunit-dino-s8": "lunit-s8",
    "lunit-vits16": "lunit-s16",
    "lunit-vits8": "lunit-s8",
    "phikon-v1": "phikon",
    "uni-v1": "uni",
    "uni1": "uni",
    "uni-v2": "uni2-h",
}


def encoder_card(name: str) -> EncoderCard:
    """The card of an encoder in anybody's spelling. Raises as `histomix.encoders.card`."""
    plain = name.lower().replace("_", "-")
    return card(_SPELLINGS.get(plain, name))


def known_name(name: str) -> str:
    """Our name of an encoder; the name itself where there is no card of it."""
    try:
        return encoder_card(name).name
    except EncoderError:
        return name


def stated_facts(one: EncoderCard, imported: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of an encoder that others ran; its digest is of what is stated, not of weights."""
    told = {"name": one.name, "dim": one.dim, "views": one.views}
    return {
        **told,
        "digest": STATED + digest_json(told),
        "licence": one.licence,
        "revision": None,
        "precision": "float32",
        "imported": dict(imported),
    }


def check_dimension(one: EncoderCard, dim: int, where: Any) -> None:
    """Refuse (FeatureError) features of another length than the encoder gives."""
    if dim != one.dim:
        raise FeatureError(
            f"a tile has {dim} features, and {one.name} gives {one.dim} ({one.pooling})",
            where=where,
            hint="Name the encoder that made them; another pooling of its tokens has another length",
        )
