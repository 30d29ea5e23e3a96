"""A composition map as squidpy and scanpy keep spatial data: its keys in AnnData, on disk and in memory alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from ..common.naming import safe_file_name
from ..common.palette import type_colours
from ..common.words import RESEARCH_USE
from .map import CompositionMap

#: Longest side of the picture inside a map, px; larger ones lie beside it.
THUMBNAIL_PX = 1000


def to_scverse(composition: AnnData | CompositionMap, thumbnail: np.ndarray | None = None) -> AnnData:
    """Copy a composition map, with a picture of its slide in the keys that scanpy and squidpy read.

    Parameters
    ----------
    composition
        A map from `histomix.predict`, tiles x cell types.
    thumbnail
        The whole slide at low resolution, uint8 ``(height, width, 3)``; it comes to lie under the tiles. None: the one
        that the map has.

    Returns
    -------
    AnnData
        With the keys of `add_scverse`; ``obsm["spatial"]`` stays in level-0 px.
    """
    table = CompositionMap.of(composition).adata.copy()
    add_scverse(table, thumbnail)
    return table


def add_scverse(composition: AnnData, thumbnail: np.ndarray | None = None) -> None:
    """Add to a composition map, in place, what scanpy and squidpy look for.

    ``uns["spatial"][<slide>]`` has ``images["hires"]``, ``scalefactors`` (``tissue_hires_scalef``,
    ``spot_diameter_fullres``) and ``metadata``. ``obs`` has ``library_id`` and ``dominant_type`` (categories in the
    order of the types; missing where a tile was not read or is out of scope), and ``uns["dominant_type_colors"]`` the
    colours that the types have in the viewer and on figures.

    Parameters
    ----------
    composition
        A map with its manifest.
    thumbnail
        The whole slide at low resolution, uint8 ``(height, width, 3)``; None: the one that is there is kept.
    """
    one = CompositionMap.of(composition)
    slide = one.slide
    name = safe_file_name(str(slide["file"]))  # it becomes a key, in which a slash would make a group
    entry: dict[str, object] = {
        "scalefactors": {"spot_diameter_fullres": one.cell_px},
        "metadata": {"unit": one.unit, "mpp": slide["mpp"], "use": RESEARCH_USE},
    }
    picture = _kept_picture(composition, name) if thumbnail is None else thumbnail
    if picture is not None:
        entry["images"] = {"hires": picture}
        entry["scalefactors"] = {
            "spot_diameter_fullres": one.cell_px,
            "tissue_hires_scalef": picture.shape[1] / slide["width_px"],
        }
    composition.uns["spatial"] = {name: entry}
    composition.obs["library_id"] = pd.Categorical([name] * composition.n_obs, [name])
    composition.obs["dominant_type"] = dominant_types(one)
    composition.uns["dominant_type_colors"] = np.array(
        [_hex(colour) for colour in type_colours(one.cell_types).values()]
    )


def dominant_types(one: CompositionMap) -> pd.Categorical[str]:
    """The most abundant cell type of each tile; missing where it was not read or is out of scope."""
    values, types = one.values().to_numpy(float), one.cell_types
    known = np.isfinite(values).all(axis=1) & one.reading.used
    best = np.where(known, np.where(known[:, None], values, 0.0).argmax(axis=1), -1)
    return pd.Categorical.from_codes(best.tolist(), categories=pd.Index(types))


def thumbnail_of(preview: np.ndarray | None) -> np.ndarray | None:
    """A picture of a slide, uint8 ``(height, width, 3)``, small enough to lie in the map itself."""
    if preview is None or max(preview.shape[:2]) <= THUMBNAIL_PX:
        return preview
    small = Image.fromarray(preview)
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(small)


def _kept_picture(composition: AnnData, name: str) -> np.ndarray | None:
    """The picture that a map has; files of strangers may hold anything there."""
    found = composition.uns.get("spatial")
    for key in (name, "images", "hires"):
        found = found.get(key) if isinstance(found, Mapping) else None
    picture = isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
    return found if picture and found.size else None


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in colour)
