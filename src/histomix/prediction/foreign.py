"""Slides whose tiles somebody has embedded already: a plan of these tiles, with their features."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.geometry.polygons import read_regions, region_at
from ..embedding.imports.matching import nearest
from ..embedding.imports.slide_tiles import FeatureFiles
from ..errors import FeatureError, InputError, SlideError
from ..slides import Slide, TissueMask
from .job import Settings
from .plan import Plan, plan_tiles, tile_of

if TYPE_CHECKING:
    from ..heads import Head

_LOG = logging.getLogger(__name__)
#: A spot is given the nearest tile within this part of a tile's side.
_NEAR = 0.25


def files_of_features(
    features: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    encoder: str | Sequence[str] | None,
    tile_um: float | None,
    origin: str | None,
    scale: float | None,
    stride_um: float | None,
) -> FeatureFiles | None:
    """The files of features that are to be read, None for none.

    Raises
    ------
    InputError
        Something is said of features, and none are given; or a stride is asked of tiles that are cut already.
    FeatureError
        There is no such file.
    """
    if features is None:
        if any(one is not None for one in (encoder, tile_um, origin, scale)):
            raise InputError(
                "an encoder or a tile is stated, and no features", hint="Give the features with --features"
            )
        return None
    if stride_um is not None:
        raise InputError(
            "tiles whose features are given have a stride already", hint="Leave out --stride-um or --features"
        )
    return FeatureFiles.of(features, encoder, tile_um=tile_um, origin=origin, scale=scale)


def plan_features(
    slide: Slide,
    head: Head,
    settings: Settings,
    names: Sequence[str],
    mask: TissueMask,
    spots: pd.DataFrame | None = None,
    digest: str | None = None,
) -> tuple[Plan, np.ndarray]:
    """The tiles of a slide that have features already, and these features in the plan's order.

    Parameters
    ----------
    slide, mask
        The open slide and its tissue.
    head
        Says which encoders and tile.
    settings
        Name the files of features, and regions.
    names
        Names that the slide's files may have.
    spots
        Places to predict at: each is given the nearest tile. None: every tile on tissue.
    digest
        Of the slide's content.

    Raises
    ------
    FeatureError
        As `histomix.embedding.imports.slide_tiles.FeatureFiles.of_slide`; or no spot has a tile.
    SlideError
        No tile is on tissue, or none in the regions; and as `plan_tiles`.
    """
    files = settings.features
    if files is None:
        raise FeatureError("no files of features are given")
    tiles = files.of_slide(names, slide, mask, head.card["encoders"])
    spec = tile_of(head)
    if spots is None:
        xy_px, vectors = tiles.centres_px, tiles.vectors
        share = mask.fraction(xy_px[:, 0], xy_px[:, 1], spec.size_um, slide.mpp)
        kept = share >= settings.min_tissue
        if settings.regions is not None:
            regions = [one.moved(slide.bounds_px) for one in read_regions(settings.regions)]
            kept &= region_at(regions, xy_px) >= 0
        if not kept.any():
            raise SlideError(
                f"none of the {len(kept):,} tiles that have features is on tissue"
                + ("" if settings.regions is None else " in the regions"),
                where=slide.path,
                hint="Check that the features are of this slide, and --origin and --scaled",
            )
        if not kept.all():
            _LOG.info("%s: %d of %d tiles are off the tissue and left out", slide.name, (~kept).sum(), len(kept))
        spots = pd.DataFrame(xy_px[kept], index=pd.Index(tiles.keys[kept], name="spot"), columns=["x_px", "y_px"])
        vectors = vectors[kept]
    else:
        found = nearest(
            tiles.centres_px, tiles.vectors, spots[["x_px", "y_px"]].to_numpy(float), slide.mpp, spec.size_um * _NEAR
        )
        if not len(found.rows):
            raise FeatureError(
                f"no spot has a tile within {spec.size_um * _NEAR:g} um",
                where=slide.path,
                hint="Give the features of tiles around these spots, or predict without --at",
            )
        if len(found.rows) < len(spots):
            _LOG.warning("%s: %d of %d spots have no tile near", slide.name, len(spots) - len(found.rows), len(spots))
        vectors = np.full((len(spots), tiles.vectors.shape[1]), np.nan, np.float32)
        vectors[found.rows] = found.vectors
    plan = plan_tiles(slide, head, settings, spots, mask, digest)
    plan.facts["features"] = {**tiles.told, "digest": files.digest}
    return plan, np.ascontiguousarray(vectors[plan.tiles["place"]])
