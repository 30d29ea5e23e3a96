"""Zarr of LazySlide and wsidata: the table ``<model>_<tiles>``, the tiles' outlines and their specification."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ...common.strangers.zarr import check_zarr
from ...errors import FeatureError, HistomixError, MissingExtraError
from .encoder_names import known_name
from .tiles import Part, TileFacts

_HINT = "Write it with wsi.write() after zs.tl.feature_extraction, or copy it again"


def read(path: Path, encoder: str | None = None) -> Part:
    """Features of the tiles of one slide.

    Parameters
    ----------
    path
        The store.
    encoder
        Whose table is wanted, where there are several.

    Raises
    ------
    FeatureError
        The store is damaged, has no table of features of tiles, or several and it is not said which.
    MissingExtraError
        spatialdata is not installed.
    """
    check_zarr(path, FeatureError)
    try:
        from spatialdata import read_zarr
    except ImportError as error:
        raise MissingExtraError("spatialdata", "st", "reading LazySlide's store") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = read_zarr(path, selection=("tables", "shapes"))
        return _part(store, path, encoder)
    except HistomixError:
        raise
    except Exception as error:
        # Zarr, pyarrow and spatialdata each raise their own on a damaged store.
        raise FeatureError(
            f"the store is damaged, or none of SpatialData ({type(error).__name__}: {str(error)[:120]})",
            where=path,
            hint=_HINT,
        ) from error


def _part(store: Any, path: Path, encoder: str | None) -> Part:
    specs = dict(store.attrs.get("tile_spec") or {})
    tables = {}
    for name, table in store.tables.items():
        region = (table.uns.get("spatialdata_attrs") or {}).get("region")
        region = region[0] if isinstance(region, list) and len(region) == 1 else region
        if region in store.shapes and str(name).endswith(f"_{region}") and table.X is not None:
            tables[str(name).removesuffix(f"_{region}")] = (table, str(region))
    if not tables:
        held = ", ".join(sorted(map(str, store.tables))) or "none"
        raise FeatureError(f"the store has no table of features of its tiles (tables: {held})", where=path, hint=_HINT)
    wanted = [name for name in tables if encoder is None or known_name(name) == known_name(encoder)]
    if len(wanted) != 1:
        raise FeatureError(
            f"the store has features of {', '.join(tables)}" + ("" if encoder is None else f", none of {encoder}"),
            where=path,
            hint="Say which with --encoder",
        )
    table, region = tables[wanted[0]]
    shapes = store.shapes[region]
    if "tile_id" in shapes and "tile_id" in table.obs:
        shapes = shapes.set_index("tile_id").reindex(table.obs["tile_id"])
        if shapes.geometry.isna().any():
            raise FeatureError("the table names tiles that the store has no outline of", where=path, hint=_HINT)
    if len(shapes) != table.n_obs:
        raise FeatureError(f"{table.n_obs} features are of {len(shapes):,} tiles", where=path, hint=_HINT)
    spec = specs.get(region) or {}
    corners = shapes.geometry.bounds[["minx", "miny"]].to_numpy()
    facts = TileFacts(encoder=wanted[0], **_of_spec(spec, path), **_of_slide(store.attrs.get("slide_properties") or {}))
    keys = np.asarray(shapes["spot"], object) if "spot" in shapes else None
    return Part(
        path, "LazySlide zarr", np.asarray(table.X), corners, keys, facts, TileFacts(origin="corner", scale=1.0)
    )


def _of_spec(spec: dict[str, Any], path: Path) -> dict[str, Any]:
    if not spec:
        return {}
    if spec.get("width") != spec.get("height"):
        raise FeatureError("its tiles are not square", where=path, hint="Cut square tiles")
    width, mpp, downsample = spec.get("width"), spec.get("mpp"), spec.get("base_downsample") or 1.0
    return {"tile_px": width, "mpp": mpp, "side_px0": None if width is None else width * float(downsample)}


def _of_slide(properties: dict[str, Any]) -> dict[str, Any]:
    shape = properties.get("shape")
    size = (int(shape[1]), int(shape[0])) if shape is not None and len(shape) >= 2 else None
    return {"slide_mpp": properties.get("mpp"), "slide_size_px": size}
