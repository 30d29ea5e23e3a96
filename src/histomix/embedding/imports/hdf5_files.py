"""HDF5 of TRIDENT, CLAM and HEST-bench: features, places, and what their attributes tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...common.strangers.hdf5 import check_hdf5
from ...errors import FeatureError
from .tiles import Part, TileFacts

_VECTORS = ("features", "feats", "embeddings")
_PLACES = ("coords", "coordinates")
_KEYS = ("barcodes", "barcode")
_ENCODERS = ("encoder", "encoder_name", "patch_encoder", "model", "model_name")
_WHOLE = "Copy or extract it again: it is not whole"
#: Um per px at a magnification of one, as TRIDENT counts.
_MPP_AT_1X = 10.0


def read(path: Path, _encoder: str | None = None) -> Part:
    """Features, places or both of one slide.

    Raises
    ------
    FeatureError
        The file is damaged, reads data of other files, or holds neither.
    """
    import h5py

    from . import table_files

    try:
        check_hdf5(path, FeatureError)
        with h5py.File(path, "r") as store:
            if "X" in store and "obs" in store:
                return table_files.read_annotated_store(path, _encoder)
            vectors, places, keys = (_first(store, names) for names in (_VECTORS, _PLACES, _KEYS))
            if vectors is None and places is None:
                names = ", ".join(sorted(map(str, store))[:8]) or "nothing"
                raise FeatureError(
                    f"it holds neither features nor coords ({names})",
                    where=path,
                    hint="Give the file of features; TRIDENT and CLAM call them features, HEST-bench embeddings",
                )
            facts, convention, format = _facts(store, vectors, places, path)
            return Part(
                path,
                format,
                None if vectors is None else store[vectors][()],
                None if places is None else store[places][()],
                None if keys is None else _texts(store[keys][()]),
                facts,
                convention,
            )
    except FeatureError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FeatureError(f"it is damaged, or no HDF5 ({error})", where=path, hint=_WHOLE) from error


def _first(store: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in store), None)


def _facts(store: Any, vectors: str | None, places: str | None, path: Path) -> tuple[TileFacts, TileFacts, str]:
    told: dict[str, Any] = {}
    of_places = {} if places is None else _attributes(store[places])
    of_vectors = {**_attributes(store), **({} if vectors is None else _attributes(store[vectors]))}
    told["encoder"] = next((str(of_vectors[name]) for name in _ENCODERS if of_vectors.get(name)), None)
    told["slide"] = _text(of_places.get("name") or of_vectors.get("name"))
    if vectors == "embeddings":
        # Patches of HEST are around the spots, and their places are told by the barcodes.
        return TileFacts(**told), TileFacts(scale=1.0), "HEST-bench h5"
    convention = TileFacts(origin="corner", scale=1.0)
    side = _number(of_places, "patch_size", path)
    if "target_magnification" in of_places or "patch_size_level0" in of_places:
        magnification = _number(of_places, "target_magnification", path)
        told["tile_px"], told["side_px0"] = side, _number(of_places, "patch_size_level0", path)
        told["mpp"] = None if not magnification else _MPP_AT_1X / magnification
        sides = [_number(of_places, f"level0_{what}", path) for what in ("width", "height")]
        told["slide_size_px"] = None if None in sides else (int(sides[0] or 0), int(sides[1] or 0))
        return TileFacts(**told), convention, "TRIDENT h5"
    if side is not None:
        # CLAM's patches have their size in px of a level, and their places in px of level 0.
        downsample = of_places.get("downsample")
        factor = 1.0 if downsample is None else float(np.ravel(np.asarray(downsample))[0])
        factor *= _number(of_places, "custom_downsample", path) or 1.0
        told["tile_px"], told["side_px0"] = side, side * factor
        size = of_places.get("level_dim")
        if size is not None and _number(of_places, "patch_level", path) in (0, None):
            told["slide_size_px"] = (int(np.ravel(size)[0]), int(np.ravel(size)[1]))
        return TileFacts(**told), convention, "CLAM h5"
    return TileFacts(**told), convention, "h5 with features and coords, as CLAM writes it"


def _attributes(part: Any) -> dict[str, Any]:
    return {str(name): value for name, value in part.attrs.items()}


def _number(attributes: dict[str, Any], name: str, path: Path) -> float | None:
    value = attributes.get(name)
    if value is None:
        return None
    try:
        number = float(np.ravel(np.asarray(value))[0])
    except (TypeError, ValueError, IndexError) as error:
        raise FeatureError(f"the attribute {name} is no number ({value!r})", where=path, hint=_WHOLE) from error
    return number if number > 0 and np.isfinite(number) else None  # TRIDENT writes -1 for what is not known


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text or None


def _texts(values: np.ndarray) -> np.ndarray:
    flat = np.asarray(values).ravel()
    return np.array([one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in flat], object)
