"""What stored features were made from, and whether two sets of features may meet."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatureError, MissingSlideError, SlideError
from ..provenance import atomic_path, digest_bytes, digest_json, fingerprint, versions
from ..slides import Slide, TileSpec
from ..slides.files import content_digest
from ..slides.slide import UPSAMPLING_TOLERANCE
from ..spots import Alignment

if TYPE_CHECKING:
    import pandas as pd

    from ..encoders import Encoder

#: Raised when the same inputs give other features, so that older files are made again.
FORMAT = 1
#: In front of the digest of an encoder that others ran, and of whose weights nothing but a name is known here.
STATED = "stated:"


def encoder_facts(encoder: Encoder) -> dict[str, Any]:
    """What a manifest says of an encoder."""
    card = encoder.card
    return {
        "name": card.name,
        "digest": encoder.digest,
        "dim": int(encoder.dim),
        "views": int(encoder.views),
        "licence": card.licence,
        "revision": card.revision,
        "precision": getattr(encoder, "precision", "float32"),
    }


def slide_fingerprint(image: str | os.PathLike[str]) -> str:
    """`histomix.provenance.fingerprint` of a slide.

    Raises
    ------
    SlideError
        There is no such file, or it cannot be read.
    """
    try:
        return fingerprint(image)
    except OSError as error:
        what = f"the image cannot be read ({error.strerror or error})"
        kind = MissingSlideError if isinstance(error, FileNotFoundError) else SlideError
        raise kind(what, where=image, hint="Check the path of the image and its permissions") from error


def features_identity(
    image: str | os.PathLike[str],
    mpp: float | None,
    keys: pd.Index,
    xy_px: np.ndarray,
    spec: TileSpec,
    encoder: Mapping[str, Any],
    dtype: str,
) -> str:
    """Digest of everything that the values of features depend on, found without decoding a pixel.

    Parameters
    ----------
    image, mpp
        The slide file, and the um per pixel it is read at (None: the file's own).
    keys, xy_px
        Names and centres (n, 2) of the tiles, level-0 px.
    spec
        What the encoder sees.
    encoder
        Facts of the encoder, see `encoder_facts`.
    dtype
        How values are stored.

    Raises
    ------
    SlideError
        The image cannot be read.
    """
    return digest_json(
        {
            "format": FORMAT,
            "slide": slide_fingerprint(image),
            "mpp": mpp,
            "keys": [str(key) for key in keys],
            "xy_px": digest_bytes(np.ascontiguousarray(xy_px, dtype="<f8").tobytes()),
            "tile": [spec.size_px, spec.mpp],
            "encoder": [encoder["digest"], encoder["dim"], encoder["views"]],
            "dtype": dtype,
        }
    )


def encoder_identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a features manifest that must agree wherever features meet: in one table, or in front of a head.

    Returns
    -------
    dict
        ``encoder`` (its name), ``digest``, ``dim``, ``views``, ``precision``, ``size_px`` and ``mpp``.
    """
    encoder, tile = manifest["encoder"], manifest["tile"]
    names = {"encoder": encoder["name"], "digest": encoder["digest"], "dim": encoder["dim"], "views": encoder["views"]}
    names["precision"] = encoder.get("precision", "float32")
    return {**names, "size_px": tile["size_px"], "mpp": tile["mpp"]}


def encoder_differences(expected: Mapping[str, Any], actual: Mapping[str, Any], believe_stated: bool = False) -> str:
    """The fields of two `encoder_identity` that differ, in words; empty when they agree.

    With ``believe_stated``, weights that are only stated on one side are taken to be those of the other.
    """
    fields = [name for name in expected if expected[name] != actual.get(name)]
    if believe_stated and any(str(one.get("digest")).startswith(STATED) for one in (expected, actual)):
        fields = [name for name in fields if name != "digest"]
    return "; ".join(f"{name} {actual.get(name)}, not {expected[name]}" for name in fields)


def require_same_encoder(
    expected: Mapping[str, Any],
    actual: Mapping[str, Any],
    where: str | Path,
    expected_by: str = "expected",
    believe_stated: bool = False,
) -> None:
    """Refuse features of another encoder or tile.

    Parameters
    ----------
    expected, found
        Two results of `encoder_identity`.
    where
        Where ``found`` comes from, for the message.
    expected_by
        Who expects, for the message, for instance ``"of A1.h5ad"``.
    believe_stated
        Take weights that are stated, since others ran them, to be those of the same name; it is said in the log.

    Raises
    ------
    FeatureError
        They differ; the message names every field that does.
    """
    if differences := encoder_differences(expected, actual, believe_stated):
        raise FeatureError(
            f"the features are not of the same encoder and tile as those {expected_by}: {differences}",
            where=where,
            hint=encoder_hint(expected, actual, "Embed all sections again with one encoder, in a new folder"),
        )
    if expected != actual:
        _LOG.info("%s: that its weights are those %s is stated, not verified", where, expected_by)


def encoder_hint(expected: Mapping[str, Any], actual: Mapping[str, Any], hint: str) -> str:
    """What mends a difference between two `encoder_identity`; ``hint``, unless one is an earlier built-in encoder."""
    same = all(expected[name] == actual.get(name) for name in ("encoder", "views", "size_px", "mpp"))
    if not same or expected["encoder"] != "builtin":
        return hint
    return (
        "The built-in encoder is not the same in all versions of histomix: embed again into a new folder, and train "
        "heads on those features; or stay with the version that made what you have"
    )


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
        "digest": content_digest(slide.path),
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
    return versions("numpy", "pillow", "tifffile", "openslide-python", "onnxruntime", "openvino", "torch", "timm")


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
