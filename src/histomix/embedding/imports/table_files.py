"""Tables of places, of features or of both: CSV, Parquet, and AnnData as h5ad or Zarr."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from ...common.storage.h5ad import read_h5ad
from ...common.tables import read_table, to_numeric
from ...errors import FeatureError, MissingExtraError
from .tiles import Part, TileFacts

#: Columns of places, in any case.
_PLACES = (
    ("x_px", "y_px"),
    ("x", "y"),
    ("coord_x", "coord_y"),
    ("pixel_x", "pixel_y"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
)
_KEYS = ("spot", "barcode", "key", "tile_id")
_NUMBERED = re.compile(r"(\D*)(\d{1,6})")
#: Fewer columns of numbers beside the places are notes on the tiles, no features.
_FEWEST = 16


def has_places(columns: Iterable[str]) -> bool:
    """Whether a table of these columns says where tiles are."""
    names = {name.casefold() for name in columns}
    return any(set(pair) <= names for pair in _PLACES)


def read(path: Path, _encoder: str | None = None) -> Part:
    """A table of places, of features or of both.

    Raises
    ------
    FeatureError
        The file cannot be read, has neither, or a place or a feature is no number.
    """
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    if is_parquet:
        table, format = _parquet(path), "parquet"
    else:
        table, format = read_table(path, FeatureError), "table"
        for name in table.columns:
            if str(name).casefold() not in _KEYS:
                numbers = pd.Series(to_numeric(table[name]), index=table.index)
                table[name] = numbers.where(table[name] != "", None)
    return _part(table, path, format)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "st", "reading Parquet") from error
    try:
        # Without what pandas wrote of itself, which may name types of anybody's.
        with path.open("rb") as stream:
            stored = pyarrow.parquet.read_table(stream)
        table: pd.DataFrame = stored.replace_schema_metadata(None).to_pandas()
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise FeatureError(f"it is damaged, or no Parquet ({error})", where=path, hint="Copy it again") from error
    return table


def _part(table: pd.DataFrame, path: Path, format: str) -> Part:
    names = {str(name).casefold(): name for name in table.columns}
    found = next((pair for pair in _PLACES if set(pair) <= set(names)), None)
    key = next((names[name] for name in _KEYS if name in names), None)
    xy = None
    if found is not None:
        xy = np.column_stack([to_numeric(table[names[name]]) for name in found]).astype(float)
    lists = [name for name in table if len(table) and isinstance(table[name].iloc[0], np.ndarray | list)]
    taken = {key, *(names[name] for name in found or ())}
    rest = _in_order([str(name) for name in table if name not in taken and table[name].dtype.kind in "fiu"])
    vectors = None
    if len(lists) == 1:
        vectors = _stacked(table[lists[0]], path)
    elif len(rest) >= _FEWEST:
        vectors = table[rest].to_numpy(np.float32)
    if vectors is None and xy is None:
        raise FeatureError(
            f"it has no columns of places (x and y) and no features ({', '.join(map(str, table.columns[:8]))})",
            where=path,
            hint="Name the columns x_px and y_px",
        )
    keys = None if key is None else table[key].astype(str).to_numpy(object)
    return Part(path, format if vectors is not None else f"{format} of places", vectors, xy, keys)


def _in_order(names: list[str]) -> list[str]:
    """Columns of features by their numbers, where they are called f0, f1, f2 and so on: some sort them as text."""
    found = [_NUMBERED.fullmatch(str(name)) for name in names]
    numbers = [int(one[2]) for one in found if one]
    one_kind = len(numbers) == len(names) and len({one[1] for one in found if one}) == 1
    if one_kind and len(set(numbers)) == len(numbers) == max(numbers) - min(numbers) + 1:
        return [names[place] for place in np.argsort(numbers)]
    return names


def _stacked(column: pd.Series, path: Path) -> np.ndarray:
    try:
        return np.stack([np.asarray(one, np.float32) for one in column])
    except (TypeError, ValueError) as error:
        raise FeatureError("its features are not of one length", where=path, hint="Extract them again") from error


def read_annotated_store(path: Path, _encoder: str | None = None) -> Part:
    """AnnData with features in ``X`` and places in ``obsm["spatial"]`` or ``obs``; our own too. Raises as `read`."""
    data = read_h5ad(path, FeatureError, "it is damaged or no AnnData", "Copy it again")
    if "manifest" in data.uns:
        return own_features(data, path)
    vectors = data.X.toarray() if sparse.issparse(data.X) else data.X
    if vectors is None:
        raise FeatureError("it has no features (X)", where=path, hint="Put the features in X")
    xy = np.asarray(data.obsm["spatial"]) if "spatial" in data.obsm else _columns(data.obs)
    return Part(path, "AnnData", np.asarray(vectors), xy, np.asarray(data.obs_names, object))


def own_features(data: Any, path: Path) -> Part:
    """Features that histomix made, with their manifest.

    Raises
    ------
    FeatureError
        They are not what their manifest says.
    """
    from ..features import read_feature_file

    features = data if path.is_dir() else read_feature_file(path)
    from ..features import feature_manifest

    manifest = feature_manifest(features)
    tile, slide = manifest["tile"], manifest["slide"]
    facts = TileFacts(
        encoder=manifest["encoder"]["name"],
        tile_um=tile["size_px"] * tile["mpp"],
        origin="centre",
        scale=1.0,
        slide=str(slide.get("file") or manifest["section"]).rpartition(".")[0] or manifest["section"],
        slide_mpp=slide.get("mpp"),
    )
    keys, xy = np.asarray(features.obs_names, object), np.asarray(features.obsm["spatial"])
    return Part(path, "histomix", np.asarray(features.X), xy, keys, facts, manifest=manifest)


def _columns(obs: pd.DataFrame) -> np.ndarray | None:
    pairs: Sequence[tuple[str, str]] = _PLACES
    found = next((pair for pair in pairs if set(pair) <= set(obs.columns)), None)
    return None if found is None else obs[list(found)].to_numpy(float)
