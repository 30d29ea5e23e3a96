"""What a map from disk must be before anybody counts with it: facts of the right kinds, places, numbers in range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MapError

if TYPE_CHECKING:
    from anndata import AnnData

_AGAIN = "Run predict again for this slide"
#: No place on a slide is further away (level-0 px), and no spot has more cells.
_FARTHEST_PX, _MOST_CELLS = 1e8, 1e6
#: How far above 1 a proportion may be by rounding.
_ROUNDING = 1e-3
#: What columns of the tiles may hold, least and most; novelty is a percentile of the training's own.
_RANGES = {
    "tissue": (0, 1),
    "novelty": (0, 100),
    "fragment": (-1, 2**31),
    "answer_lower": (-_ROUNDING, _MOST_CELLS),
    "answer_upper": (-_ROUNDING, _MOST_CELLS),
}
_YES_OR_NO = ("read_ok", "in_scope", "in_focus")
#: Layers with the ends of intervals, in the same unit.
_BOUNDS = ("lower", "upper")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _above_zero(value: Any) -> bool:
    return _number(value) and value > 0


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


#: What a fact must be, where the map has it, in words; of those that may be unknown, None too.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "slide": (_mapping, "a table of facts"),
    "head": (_mapping, "a table of facts"),
    "tile": (_mapping, "a table of facts"),
    "area": (_mapping, "a table of facts"),
    "unit": (lambda value: isinstance(value, str), "text"),
    "places": (lambda value: value in ("grid", "spots"), "'grid' or 'spots'"),
    "cell_px": (_above_zero, "a number above 0"),
    "fragments": (lambda value: isinstance(value, int) and value >= 0, "a whole number"),
    "regions": (lambda value: value is None or isinstance(value, list), "a list of names"),
    "name": (lambda value: value is None or isinstance(value, str), "text"),
    "format": (lambda value: value is None or isinstance(value, int), "a whole number"),
}


def check_map(adata: AnnData, manifest: Mapping[str, Any], where: str) -> None:
    """Refuse a map whose facts, places or values cannot be those of one.

    Raises
    ------
    MapError
        A fact is of another kind than it must be; there are no places, or no values, or some are out of range.
    """
    for name, (is_right, kind) in _KINDS.items():
        if name in manifest and not is_right(manifest[name]):
            raise MapError(f"its manifest says that {name} is {manifest[name]!r}, not {kind}", where=where, hint=_AGAIN)
    mpp = manifest["slide"].get("mpp") if "slide" in manifest else None
    if mpp is not None and not _above_zero(mpp):
        raise MapError(f"its manifest says that the slide has {mpp!r} um per px", where=where, hint=_AGAIN)
    names = adata.var_names
    if not names.is_unique or any(not str(name).strip() for name in names):
        raise MapError("has cell types of the same name, or of none", where=where, hint=_AGAIN)
    _check_places(adata, where)
    _check_columns(adata, where)
    _check_values(adata, str(manifest.get("unit", "")), where)


def _check_places(adata: AnnData, where: str) -> None:
    absent = [f"obs['{name}']" for name in ("x_px", "y_px") if name not in adata.obs]
    absent += [] if "spatial" in adata.obsm else ["obsm['spatial']"]
    if absent:
        raise MapError(f"lacks the places of its tiles ({', '.join(absent)})", where=where, hint=_AGAIN)
    columns = [np.asarray(adata.obs[name]) for name in ("x_px", "y_px")]
    for place in (np.asarray(adata.obsm["spatial"]), np.stack(columns, axis=1)):
        if place.ndim != 2 or place.shape[1] != 2 or place.dtype.kind not in "iuf":
            raise MapError("has places of tiles that are no pairs of numbers", where=where, hint=_AGAIN)
        if not (np.abs(place) < _FARTHEST_PX).all():  # NaN too
            raise MapError("has places of tiles that are on no slide", where=where, hint=_AGAIN)


def _check_columns(adata: AnnData, where: str) -> None:
    """Numbers in range, NaN where nothing is known; and yes or no."""
    for name, (least, most) in _RANGES.items():
        values = np.asarray(adata.obs[name]) if name in adata.obs else np.zeros(0)
        if values.dtype.kind not in "biuf":
            raise MapError(f"has something else than numbers as {name} of its tiles", where=where, hint=_AGAIN)
        if (values < least - _ROUNDING).any() or (values > most + _ROUNDING).any():
            what = f"has a {name} beyond {least:g} to {most:g} at some of its tiles"
            raise MapError(what, where=where, hint=_AGAIN)
    for name in _YES_OR_NO:
        values = np.asarray(adata.obs[name]) if name in adata.obs else np.zeros(0, bool)
        if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise MapError(f"has neither yes nor no as {name} at some of its tiles", where=where, hint=_AGAIN)


def _check_values(adata: AnnData, unit: str, where: str) -> None:
    values = adata.X
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "iuf":
        raise MapError("has no table of numbers, tiles x cell types, in X", where=where, hint=_AGAIN)
    most = 1 + _ROUNDING if unit == "proportion" else _MOST_CELLS
    for name, layer in ((None, values), *((name, adata.layers[name]) for name in _BOUNDS if name in adata.layers)):
        wrong = (layer < -_ROUNDING) | (layer > most)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise MapError(
                f"says {layer[row, column]:.6g} of '{adata.var_names[column]}' at the tile '{adata.obs_names[row]}' "
                f"({wrong.sum():,} such values{f' in the layer {name}' if name else ''}), in {unit or 'no unit'}",
                where=where,
                hint=_AGAIN,
            )
    read = np.asarray(adata.obs["read_ok"], dtype=bool) if "read_ok" in adata.obs else np.ones(len(values), bool)
    if read.any() and values.size and np.isnan(values[read]).all():
        raise MapError("has no value at any of its tiles", where=where, hint=_AGAIN)
    # A type that a head has no labels of is NaN everywhere.
    known = ~np.isnan(values[read])
    if (known.any(axis=0) & ~known.all(axis=0)).any():
        raise MapError("lacks values at tiles that could be read", where=where, hint=_AGAIN)
