"""A composition map as squidpy and scanpy keep spatial data."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from ..common.naming import safe_file_name
from ..common.words import RESEARCH_USE
from ..maps import CompositionMap


def to_scverse(composition: AnnData | CompositionMap, thumbnail: np.ndarray | None = None) -> AnnData:
    """Copy a composition map into the keys that scanpy and squidpy read.

    Parameters
    ----------
    composition
        A map from `histomix.predict`, tiles x cell types.
    thumbnail
        The whole slide at low resolution, uint8 ``(height, width, 3)``; it comes to lie under the tiles.

    Returns
    -------
    AnnData
        ``uns["spatial"][<slide>]`` has ``images["hires"]``, ``scalefactors`` (``tissue_hires_scalef``,
        ``spot_diameter_fullres``) and ``metadata``; ``obs`` has ``library_id`` and ``dominant_type`` (categories in the
        order of the types; missing where a tile is out of scope); ``obsm["spatial"]`` stays in level-0 px.
    """
    one = CompositionMap.of(composition)
    slide = one.slide
    name = safe_file_name(str(slide["file"]))  # it becomes a key, in which a slash would make a group
    table = one.adata.copy()
    entry: dict[str, object] = {
        "scalefactors": {"spot_diameter_fullres": one.cell_px},
        "metadata": {"unit": one.unit, "mpp": slide["mpp"], "use": RESEARCH_USE},
    }
    if thumbnail is not None:
        entry["images"] = {"hires": thumbnail}
        entry["scalefactors"] = {
            "spot_diameter_fullres": one.cell_px,
            "tissue_hires_scalef": thumbnail.shape[1] / slide["width_px"],
        }
    table.uns["spatial"] = {name: entry}
    table.obs["library_id"] = _category([name] * table.n_obs, [name])
    table.obs["dominant_type"] = dominant_types(one)
    return table


def dominant_types(one: CompositionMap) -> object:
    """The most abundant cell type of each tile as a categorical; missing where it was not read or is out of scope."""
    values, types = one.values().to_numpy(float), one.cell_types
    known = np.isfinite(values).all(axis=1) & one.reading.used
    best = np.where(known[:, None], values, 0.0).argmax(axis=1)
    return _category([types[i] if ok else None for i, ok in zip(best, known, strict=True)], types)


def _category(values: list[str | None] | list[str], categories: list[str]) -> object:
    import pandas as pd

    return pd.Categorical(values, categories=categories)
