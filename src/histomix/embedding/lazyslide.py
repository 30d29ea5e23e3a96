"""Stored features as LazySlide keeps its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import FeatureError, MissingExtraError
from .features import feature_manifest

if TYPE_CHECKING:
    from anndata import AnnData


def add_to_wsidata(features: AnnData, wsi: Any, tile_key: str = "tiles") -> str:
    """Add the features of one section to a `wsidata.WSIData`, as ``lazyslide.tl.feature_extraction`` would.

    Parameters
    ----------
    features
        Features that `embed` or `read_features` gave.
    wsi
        The open slide they are of.
    tile_key
        Name of the tiles. Tiles of the same name are replaced.

    Returns
    -------
    Name of the feature table, ``<encoder>_<tile_key>``; ``wsi.fetch.features_anndata(<encoder>, tile_key)`` gives it.
    The tiles' column ``spot`` has the spot keys, the table's ``uns["manifest"]`` what the features were made from.

    Raises
    ------
    FeatureError
        The table holds no features, or the slide has another size than the one they are of.
    MissingExtraError
        The library wsidata is not installed.
    """
    try:
        from wsidata import TileSpec
        from wsidata.io import add_features, add_tiles
    except ImportError as error:
        raise MissingExtraError("wsidata", "zoo", "handing features to LazySlide") from error
    manifest = feature_manifest(features)
    slide, tile, encoder = manifest["slide"], manifest["tile"], manifest["encoder"]["name"]
    height, width = (int(side) for side in wsi.properties.shape[:2])
    if (width, height) != (slide["width_px"], slide["height_px"]):
        raise FeatureError(
            f"the slide has {width} x {height} px, and the features are of one with "
            f"{slide['width_px']} x {slide['height_px']} px ({slide['file']})",
            hint="Open the slide that the features were made from",
        )
    side, downsample = tile["size_px"], tile["mpp"] / slide["mpp"]
    spec = TileSpec(side, side, side, side, tile["mpp"], ops_downsample=downsample, base_downsample=downsample)
    corners = features.obsm["spatial"] - side * downsample / 2
    add_tiles(wsi, tile_key, corners, spec, [0] * features.n_obs)
    wsi.shapes[tile_key]["spot"] = features.obs_names.to_numpy()
    key = f"{encoder}_{tile_key}"
    add_features(wsi, key, tile_key, features.X)
    wsi.tables[key].uns["manifest"] = features.uns["manifest"]
    return key
