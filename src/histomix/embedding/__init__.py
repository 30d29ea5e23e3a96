"""Tiles through an encoder into a store of features that is sharded, resumable and verified."""

from __future__ import annotations

from ..encoders.field_of_view import with_field_of_view
from .cohort import embed
from .current import require_current
from .engine import embed_tiles, embed_tiles_together
from .features import FeatureSource, feature_blocks, feature_folders, feature_manifest, read_features
from .identity import encoder_facts, encoder_identity, require_same_encoder
from .imports import import_features
from .lazyslide import LazySlideEncoder, add_to_wsidata
from .other_scales import scale_sample
from .precision import precision_shifts
from .restaining import stain_shifts
from .slide_features import slide_features, slide_features_together

__all__ = [
    "FeatureSource",
    "LazySlideEncoder",
    "add_to_wsidata",
    "embed",
    "embed_tiles",
    "embed_tiles_together",
    "encoder_facts",
    "encoder_identity",
    "feature_blocks",
    "feature_folders",
    "feature_manifest",
    "import_features",
    "precision_shifts",
    "read_features",
    "require_current",
    "require_same_encoder",
    "scale_sample",
    "slide_features",
    "slide_features_together",
    "stain_shifts",
    "with_field_of_view",
]
