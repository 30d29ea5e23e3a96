"""Arrays and tensors: ``.npy``, ``.npz`` and ``.pt``, plain or as slide2vec writes them, and its metadata."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FeatureError, InputError, MissingExtraError
from ...provenance import read_json
from .tiles import Part, TileFacts

_VECTORS = ("features", "feats", "embeddings", "tile_embeddings", "X")
_PLACES = ("coords", "coordinates", "places", "xy")
_KEYS = ("barcodes", "keys", "spots")
_PROGRAM = "Save it without pickle, as plain numbers: a pickled file is a program that would run with your rights"
_DAMAGE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile)
#: An array of fewer columns is one of places.
_FEWEST = 4
#: What slide2vec and hs2p say of tiles, by our names.
_META = {
    "encoder": ("encoder_name",),
    "side_px0": ("tile_size_lv0",),
    "tile_px": ("requested_tile_size_px", "target_tile_size_px"),
    "mpp": ("requested_spacing_um", "target_spacing_um"),
    "slide": ("sample_id",),
    "slide_mpp": ("base_spacing_um",),
}
#: hs2p keeps the upper left corners of tiles in level-0 px.
_HS2P = TileFacts(origin="corner", scale=1.0)


def read_npy(path: Path, _encoder: str | None = None) -> Part:
    """An array of features or of places.

    Raises
    ------
    FeatureError
        The file is damaged, pickled, or something else.
    """
    array = _loaded(path)
    if array.dtype.names:
        return _records(array, path)
    if array.ndim == 2 and array.shape[1] < _FEWEST:
        return Part(path, "npy of places", xy=array)
    return Part(path, "npy", array)


def read_npz(path: Path, _encoder: str | None = None) -> Part:
    """Arrays of features, places and names. Raises as `read_npy`."""
    archive = _loaded(path)
    try:
        with archive:
            arrays = {name: archive[name] for name in archive.files if name in (*_VECTORS, *_PLACES, *_KEYS)}
            others = sorted(archive.files)
    except _DAMAGE as error:
        raise _refusal(path, error) from error
    return _named(arrays, others, path, "npz")


def read_pt(path: Path, _encoder: str | None = None) -> Part:
    """A tensor of features, or a table of tensors; nothing else is loaded from such a file. Raises as `read_npy`."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "zoo", "reading .pt files") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols; what it cannot read is an error
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # It refuses objects other than tensors with an error of unpickling, and random bytes with many others.
        raise FeatureError(
            f"it is damaged, or holds more than tensors ({str(error).splitlines()[0][:120]})",
            where=path,
            hint=_PROGRAM,
        ) from error
    if isinstance(held, torch.Tensor):
        array = _numpy(held)
        return Part(path, "pt of places", xy=array) if _are_places(array) else Part(path, "pt", array)
    if not isinstance(held, Mapping):
        raise FeatureError(
            f"it holds a {type(held).__name__}, not tensors", where=path, hint="Save a tensor of features"
        )
    arrays = {
        str(name): _numpy(value) if isinstance(value, torch.Tensor) else value
        for name, value in held.items()
        if name in (*_VECTORS, *_PLACES, *_KEYS)
    }
    part = _named(arrays, sorted(map(str, held)), path, "pt")
    told = {"side_px0": held.get("patch_size_level0"), "encoder": held.get("model_name")}
    known: dict[str, Any] = {name: value for name, value in told.items() if isinstance(value, int | float | str)}
    return Part(path, part.format, part.vectors, part.xy, part.keys, TileFacts(**known))


def read_meta(path: Path, _encoder: str | None = None) -> Part | None:
    """What slide2vec and hs2p say of features and places beside the file; None of any other JSON.

    Raises
    ------
    FeatureError
        The file is no JSON.
    """
    try:
        told = read_json(path)
    except InputError as error:
        raise FeatureError(error.what, where=path, hint="Copy it again") from error
    flat: dict[str, Any] = dict(told)
    for group in ("provenance", "slide", "tiling", "artifact"):
        if isinstance(told.get(group), Mapping):
            flat |= told[group]
    if "tile_size_lv0" not in flat and told.get("artifact_type") != "tile_embeddings":
        return None
    facts: dict[str, Any] = {}
    for name, theirs in _META.items():
        value = next((flat[one] for one in theirs if flat.get(one)), None)
        facts[name] = value if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    size = flat.get("dimensions")
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        facts["slide_size_px"] = (size[0], size[1])
    return Part(path, "slide2vec metadata", facts=TileFacts(**facts), convention=_HS2P)


def _records(array: np.ndarray, path: Path) -> Part:
    """Places as hs2p keeps them in one array of records."""
    names = set(array.dtype.names or ())
    if not {"x", "y"} <= names:
        raise FeatureError(f"its records have no x and y ({', '.join(sorted(names))})", where=path)
    xy = np.stack([array["x"], array["y"]], axis=1)
    sides = np.unique(array["tile_size_lv0"]) if "tile_size_lv0" in names else np.zeros(0)
    if len(sides) > 1:
        raise FeatureError(f"its tiles are of {len(sides)} sizes", where=path, hint="Give tiles of one size")
    facts = TileFacts(side_px0=float(sides[0])) if len(sides) else TileFacts()
    return Part(path, "slide2vec coordinates", xy=xy, facts=facts, convention=_HS2P)


def _named(arrays: Mapping[str, Any], others: list[str], path: Path, format: str) -> Part:
    vectors, xy, keys = (
        next((arrays[name] for name in names if arrays.get(name) is not None), None)
        for names in (_VECTORS, _PLACES, _KEYS)
    )
    if vectors is None and xy is None:
        raise FeatureError(
            f"it holds neither features nor coords ({', '.join(others[:8])})",
            where=path,
            hint="Name the arrays features and coords",
        )
    hs2p = vectors is None and "tissue_fractions" in others
    kind = "slide2vec coordinates" if hs2p else format
    texts = None if keys is None else np.array([str(key) for key in np.ravel(keys)], object)
    return Part(path, kind, vectors, xy, texts, convention=_HS2P if hs2p else TileFacts())


def _are_places(array: np.ndarray) -> bool:
    return array.ndim == 2 and array.shape[1] < _FEWEST


def _loaded(path: Path) -> Any:
    try:
        held = np.load(path, allow_pickle=False)
    except _DAMAGE as error:
        raise _refusal(path, error) from error
    return held


def _numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.is_floating_point() and str(tensor.dtype) not in ("torch.float16", "torch.float32", "torch.float64"):
        tensor = tensor.float()  # bfloat16, which numpy lacks
    array: np.ndarray = tensor.numpy()
    return array


def _refusal(path: Path, error: Exception) -> FeatureError:
    if "pickle" in str(error).lower() or "object arrays" in str(error).lower():
        return FeatureError("it holds a pickled array", where=path, hint=_PROGRAM)
    return FeatureError(f"it is damaged, or no array ({error})", where=path, hint="Copy or extract it again")
