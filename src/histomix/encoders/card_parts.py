"""What many cards share: normalisations, licences, and how a card on the hub is written."""

from __future__ import annotations

import dataclasses
from typing import Any

from .card import EncoderCard

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALVES: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
SWIGLU: dict[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
NON_COMMERCIAL: dict[str, Any] = {"licence": "CC-BY-NC-ND-4.0", "commercial_use": False}
APACHE: dict[str, Any] = {"licence": "Apache-2.0", "commercial_use": True}


def hub_card(**facts: Any) -> EncoderCard:
    """Card of a timm architecture: 224 px at 20x, open to all, unless ``facts`` say otherwise.

    A revision that no source states is listed as unconfirmed.
    """
    defaults: dict[str, Any] = {"source": "timm", "size_px": 224, "mpp": 0.5, "gated": False}
    card = EncoderCard(**{**defaults, **facts})
    if card.revision is None and card.hub_id is not None:
        return dataclasses.replace(card, unconfirmed=(*card.unconfirmed, "revision"))
    return card
