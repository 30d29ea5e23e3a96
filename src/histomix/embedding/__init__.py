"""Tiles through an encoder into a store of features that is sharded, resumable and verified."""

from __future__ import annotations

from .cohort import embed
from .engine import embed_tiles
from .features import feature_manifest, read_features
from .identity import encoder_facts, encoder_identity, require_same_encoder
from .slide_features import slide_features

__all__ = [
    "embed",
    "embed_tiles",
    "encoder_facts",
    "encoder_identity",
    "feature_manifest",
    "read_features",
    "require_same_encoder",
    "slide_features",
]
