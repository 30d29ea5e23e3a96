"""Heads inside LazySlide, and composition maps in its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from ..common.naming import key_name
from ..embedding.lazyslide import place_tiles
from ..encoders.cards import zoo_name
from ..errors import FeatureError, HeadError
from ..heads import Head
from ..maps import CompositionMap
from ..maps.reading import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable


class LazySlideHead:
    """A head as a model of ``lazyslide.tl.feature_prediction``.

    The result table has one column per cell type, those of a calibrated head with ``<type> lower`` and ``<type>
    upper``, and last ``novelty`` and ``in_scope`` (1 or 0). A tile that could not be read is NaN. A head that looks
    around its tiles is given all tiles of the slide at once, with their coordinates, so that its maps have no seams.

    Parameters
    ----------
    head
        A trained head on one encoder.
    mpp
        Um per px of the slide's level 0, in which LazySlide counts coordinates.

    Attributes
    ----------
    name
        That of the head; the result is stored as ``<name>_<tile_key>``.
    features_model_name
        The encoder whose features LazySlide takes where no ``feature_key`` is given, by its name there.
    needs_coords, whole_slide
        Whether the head looks around its tiles.
    """

    def __init__(self, head: Head, mpp: float) -> None:
        encoders = head.card["encoders"]
        if len(encoders) != 1:
            names = ", ".join(encoder["name"] for encoder in encoders)
            raise HeadError(
                f"the head joins {len(encoders)} encoders ({names}), and LazySlide predicts from one feature table",
                hint="Use histomix.predict, or a head on one encoder",
            )
        self.head = head
        self.model = head
        self.mpp = mpp
        self.name = key_name(head.card["name"])
        self.features_model_name = zoo_name(str(encoders[0]["name"]))
        self.whole_slide = bool(head.context_um) or head.estimator.needs_positions
        self.needs_coords = self.whole_slide

    def to(self, device: Any) -> Self:
        """Heads run on the CPU."""
        return self

    def get_transform(self) -> Callable[..., Any] | None:
        """A head reads features, so there is nothing to do to pictures."""
        return None

    def try_compile(self, **options: Any) -> None:
        """A head has nothing to compile."""

    def estimate_param_size(self) -> int:
        """Number of fitted values."""
        return sum(array.size for array in self.head.estimator.fitted()[0].values())

    def predict(self, features: Any, coords: Any = None, *args: Any, **options: Any) -> dict[str, np.ndarray]:
        """Predict from a block of features, ``(n, n_features)``.

        Raises
        ------
        FeatureError
            The features do not have the dimension of the head's encoder.
        """
        X = np.asarray(features, dtype=np.float32)
        dim = self.head.card["encoders"][0]["dim"]
        if X.ndim != 2 or X.shape[1] != dim:
            raise FeatureError(
                f"the features have shape {X.shape}; the head {self.name} needs {dim} columns of "
                f"{self.features_model_name}",
                hint=f"Extract features with {self.features_model_name}, and give their feature_key",
            )
        # LazySlide counts from a tile's corner and histomix from its centre: a shift, which no distance feels.
        corners = np.zeros((len(X), 2)) if coords is None else np.asarray(coords, dtype=float)
        output = self.head.apply(X, corners * self.mpp)
        types = self.head.card["cell_types"]
        columns = {name: output.values[:, place] for place, name in enumerate(types)}
        for end, bound in (("lower", output.lower), ("upper", output.upper)):
            if bound is not None:
                columns |= {f"{name} {end}": bound[:, place] for place, name in enumerate(types)}
        scope = np.where(np.isfinite(output.novelty), output.in_scope, np.nan)
        return {**columns, "novelty": output.novelty, "in_scope": scope}


def add_composition_to_wsidata(composition: AnnData | CompositionMap, wsi: Any, tile_key: str = "tiles") -> str:
    """Add a composition map to a `wsidata.WSIData` as LazySlide keeps predictions.

    Parameters
    ----------
    composition
        A map from `histomix.predict`.
    wsi
        The open slide it is of.
    tile_key
        Name of the tiles. Tiles of the same name are replaced.

    Returns
    -------
    Name of the table, ``<head>_<tile_key>``: tiles x cell types, with the layers ``lower`` and ``upper`` of a
    calibrated head; ``lazyslide.pl.tiles(wsi, feature_key=<name>, color=<cell type>)`` draws it. ``novelty``,
    ``in_scope`` and ``read_ok`` are columns of ``wsi.shapes[tile_key]``, and so are ``x_px`` and ``y_px``, the centres:
    the tiles are moved onto a lattice that LazySlide draws (see `histomix.embedding.lazyslide.place_tiles`).

    Raises
    ------
    FeatureError
        The slide has another size than the one that was predicted.
    MissingExtraError
        The library wsidata is not installed.

    Examples
    --------
    It needs the extra ``zoo`` and a slide that is open in wsidata.

    >>> hm.add_composition_to_wsidata(composition, wsi)  # doctest: +SKIP
    """
    one = CompositionMap.of(composition)
    obs = one.adata.obs
    pitch_px = None if one.at_spots else one.cell_px
    place_tiles(wsi, tile_key, one.xy_px, one.slide, one.tile, "the map is of", pitch_px)
    from wsidata.io import add_features

    for name in ("novelty", "in_scope", "read_ok", "tissue", "region", "fragment", "answer"):
        if name in obs:
            wsi.shapes[tile_key][name] = obs[name].to_numpy()
    key = f"{key_name(one.head['name'])}_{tile_key}"
    told = [column for column in ("good_for", *LEVELS) if column in one.adata.var]
    names = one.adata.var[told].set_axis(pd.Index(one.cell_types))
    add_features(wsi, key=key, tile_key=tile_key, features=np.asarray(one.adata.X), var=names)
    for name, bound in one.bounds.items():
        wsi.tables[key].layers[name] = bound.to_numpy()
    wsi.tables[key].uns["manifest"] = one.adata.uns["manifest"]
    return key
