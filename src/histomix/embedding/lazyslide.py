"""Stored features as LazySlide keeps its own, our encoders as models of it, and tiles as it draws them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..encoders.cards import zoo_name
from ..errors import EncoderError, FeatureError, MissingExtraError
from .features import feature_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anndata import AnnData

    from ..encoders import Encoder

#: How far spots may be moved, as a share of their distance, for a cell of the lattice to be as wide as they are apart.
_SLIGHTLY = 0.1
#: LazySlide takes the whole part of a tile's side, which rounding must not bring below a whole number.
_ABOVE = 1 + 1e-9
#: So near to a whole px counts as one, over the widest slide.
_WHOLE = 1e-6


class LazySlideEncoder:
    """An encoder of ours as a model of ``lazyslide.tl.feature_extraction``.

    Parameters
    ----------
    encoder
        What `histomix.encoders.load_encoder` gives, the built-in one for example. LazySlide must cut its tiles:
        ``lazyslide.pp.tile_tissues(wsi, encoder.card.size_px, mpp=encoder.card.mpp)``.

    Attributes
    ----------
    name
        The name of its features in LazySlide: that of lazyslide-models, where it has the encoder too.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.model = encoder
        self.name = zoo_name(encoder.card.name)

    def to(self, device: Any) -> Self:
        """The encoder stays on the device it was loaded for."""
        return self

    def try_compile(self, **options: Any) -> None:
        """The encoder is compiled as it was loaded."""

    def get_transform(self) -> Callable[[Any], Any]:
        """Tiles are handed over as they were cut, uint8; the encoder normalises them itself."""
        return _as_cut

    def encode_image(self, image: Any, *args: Any, **options: Any) -> np.ndarray:
        """Features (n, dim), float32, of tiles, uint8 (n, size_px, size_px, 3).

        Raises
        ------
        EncoderError
            The tiles have another size than the encoder's.
        """
        tiles, card = np.asarray(image.cpu() if hasattr(image, "cpu") else image), self.model.card
        side = card.size_px
        if tiles.ndim != 4 or tiles.shape[1:] != (side, side, 3) or tiles.dtype != np.uint8:
            raise EncoderError(
                f"the tiles have shape {tiles.shape} ({tiles.dtype}); {card.name} takes {side} x {side} px in uint8",
                hint=f"Cut tiles with: lazyslide.pp.tile_tissues(wsi, {side}, mpp={card.mpp:g})",
            )
        return np.asarray(self.model.embed(tiles), np.float32)


def _as_cut(tile: Any) -> np.ndarray:
    return np.ascontiguousarray(tile)


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
    Name of the feature table, ``<encoder>_<tile_key>`` with the encoder's name in LazySlide;
    ``wsi.fetch.features_anndata(<encoder>, tile_key)`` gives it. The tiles' column ``spot`` has the spot keys, their
    places are those of `place_tiles`, and the table's ``uns["manifest"]`` says what the features were made from.

    Raises
    ------
    FeatureError
        The table holds no features, or the slide has another size than the one they are of.
    MissingExtraError
        The library wsidata is not installed.
    """
    manifest = feature_manifest(features)
    place_tiles(wsi, tile_key, features.obsm["spatial"], manifest["slide"], manifest["tile"], "the features are of")
    from wsidata.io import add_features

    wsi.shapes[tile_key]["spot"] = features.obs_names.to_numpy()
    key = f"{zoo_name(manifest['encoder']['name'])}_{tile_key}"
    add_features(wsi, key, tile_key, features.X)
    wsi.tables[key].uns["manifest"] = features.uns["manifest"]
    return key


def place_tiles(
    wsi: Any,
    tile_key: str,
    xy_px: np.ndarray,
    slide: Mapping[str, Any],
    tile: Mapping[str, Any],
    what: str,
    pitch_px: float | None = None,
) -> None:
    """Add tiles to a `wsidata.WSIData` so that ``lazyslide.pl.tiles`` draws all of them.

    LazySlide 0.13 counts in whole px and draws tiles whose corners differ by other than whole strides one group over
    another, showing only the last. So tiles are moved onto one lattice: the middle of the map stays, and a tile far
    from it may move by half a tile at most. A grid whose pitch is a fraction of a px above a whole number leaves a
    column of the lattice empty where the fractions add up to a pitch (every 499 columns at 0.499 um per px). The
    columns ``x_px`` and ``y_px`` of the tiles keep the centres as they are.

    Parameters
    ----------
    wsi
        The open slide.
    tile_key
        Name of the tiles.
    xy_px
        Centres of the tiles, (n, 2), level-0 px.
    slide, tile
        What a manifest says of the slide (``width_px``, ``height_px``, ``mpp``, ``file``) and its tiles.
    what
        What is refused where the slide is another, in words.
    pitch_px
        Distance of the tiles of a grid, level-0 px; None: places of any kind.

    Raises
    ------
    FeatureError
        The slide has another size.
    MissingExtraError
        The library wsidata is not installed.
    """
    try:
        from wsidata import TileSpec
        from wsidata.io import add_tiles
    except ImportError as error:
        raise MissingExtraError("wsidata", "zoo", "handing tiles to LazySlide") from error
    height, width = (int(side) for side in wsi.properties.shape[:2])
    if (width, height) != (slide["width_px"], slide["height_px"]):
        raise FeatureError(
            f"the slide has {width} x {height} px, and {what} one with "
            f"{slide['width_px']} x {slide['height_px']} px ({slide['file']})",
            hint="Open the slide that they were made from",
        )
    side, downsample = tile["size_px"], tile["mpp"] / slide["mpp"] * _ABOVE
    places = np.asarray(xy_px, float)

    def spec(apart: float) -> Any:
        stride = max(1, math.ceil(1 / downsample), math.floor(apart / downsample * _ABOVE**2))
        return TileSpec(side, side, stride, stride, tile["mpp"], ops_downsample=downsample, base_downsample=downsample)

    apart = nearest_px(places) if pitch_px is None else pitch_px
    lattice = spec(apart or side * downsample)
    corners = on_lattice(places - lattice.base_width / 2, lattice.base_stride_width)
    moved = np.abs(corners + lattice.base_width / 2 - places).max(initial=0)
    if pitch_px is None and moved > _SLIGHTLY * apart:
        # Spots in no rows and columns: cells half as wide as they are apart, so that no two fall into one.
        lattice = spec(apart / 2)
        corners = on_lattice(places - lattice.base_width / 2, lattice.base_stride_width)
    add_tiles(wsi, tile_key, corners, lattice, [0] * len(places))
    wsi.shapes[tile_key]["x_px"], wsi.shapes[tile_key]["y_px"] = places.T


def drawn_tile(side_px: float, mpp: float) -> dict[str, Any]:
    """The fields of wsidata's ``TileSpec`` for squares side by side, ``side_px`` wide, that stay where they are.

    Of a side that is no whole number of px the stride is so much shorter that the corners of neighbours always differ:
    LazySlide then lays all tiles on one grid (from 33 on) instead of drawing groups over one another.
    """
    whole = abs(side_px - round(side_px)) < _WHOLE
    side = max(1, round(side_px) if whole else math.floor(side_px) - 1)
    return {"height": side, "width": side, "stride_height": side, "stride_width": side, "mpp": mpp}


def on_lattice(corners: np.ndarray, pitch: int) -> np.ndarray:
    """The nearest places of a lattice of whole px whose one place is that of the middlemost corner.

    Parameters
    ----------
    corners
        (n, 2), px; those that are at least a pitch apart along an axis stay distinct.
    pitch
        Of the lattice, px.

    Returns
    -------
    ndarray
        int64 (n, 2).
    """
    if not len(corners):
        return np.zeros((0, 2), np.int64)
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    origin = np.array([one[np.abs(one - centre).argmin()] for one, centre in zip(corners.T, middle, strict=True)])
    steps = np.floor((corners - origin) / pitch + 0.5).astype(np.int64)
    snapped: np.ndarray = np.floor(origin + 0.5).astype(np.int64) + pitch * steps
    return snapped


def nearest_px(places: np.ndarray) -> float:
    """Distance of the two nearest places; 0 where there are no two."""
    from scipy.spatial import cKDTree

    if len(places) < 2:
        return 0.0
    return float(cKDTree(places).query(places, k=2)[0][:, 1].min())
