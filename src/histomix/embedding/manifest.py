"""What the manifests say: of one section, and of the whole folder."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..provenance import atomic_path, versions
from ..slides import Slide, TileSpec
from ..slides.slide import UPSAMPLING_TOLERANCE
from ..spots import Alignment
from .identity import slide_fingerprint

_LOG = logging.getLogger(__name__)
_PREVIEW_MPP = 8.0
_PREVIEW_QUALITY = 88


def slide_facts(slide: Slide, spec: TileSpec) -> dict[str, Any]:
    """What a manifest says of a slide; tiles finer than the slide are said in the log too."""
    upsampling = slide.upsampling(spec.mpp)
    if upsampling > UPSAMPLING_TOLERANCE:
        _LOG.warning(
            "%s has %.3g um/px and the encoder sees %.3g um/px: its tiles are interpolated, %.2f times finer "
            "than the slide",
            slide.path.name,
            slide.mpp,
            spec.mpp,
            upsampling,
        )
    return {
        "file": slide.path.name,
        "fingerprint": slide_fingerprint(slide.path),
        "width_px": slide.width_px,
        "height_px": slide.height_px,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "upsampling": upsampling,
    }


def write_preview(slide: Slide, folder: Path, name: str) -> dict[str, Any]:
    """Write ``previews/<section>.jpg``; returns its name and mpp.

    Raises
    ------
    SlideReadError
        The slide cannot be decoded.
    StorageError
        The file cannot be written.
    """
    from PIL import Image

    mpp = max(_PREVIEW_MPP, slide.mpp)
    path = folder / "previews" / f"{name}.jpg"
    with atomic_path(path) as temporary:
        Image.fromarray(slide.thumbnail(mpp)).save(temporary, quality=_PREVIEW_QUALITY)
    return {"file": f"previews/{name}.jpg", "mpp": mpp}


def alignment_facts(alignment: Alignment) -> dict[str, Any]:
    """The numbers of an alignment check, as JSON has them; its notes are said in the log."""
    for note in alignment.notes:
        _LOG.info("section %s: %s", alignment.section, note)
    facts = {"ok": alignment.ok, **dataclasses.asdict(alignment)}
    return {key: _plain(value) for key, value in facts.items() if key not in ("section", "where")}


def library_versions() -> dict[str, str]:
    """Versions of what decodes, encodes and stores."""
    return versions("numpy", "pillow", "tifffile", "openslide-python", "onnxruntime", "torch", "timm")


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
