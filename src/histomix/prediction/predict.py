"""From a slide and a head to a composition map in memory."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from ..common.anonymity.pseudonyms import open_pseudonyms
from ..common.geometry.polygons import read_regions
from ..embedding.imports.slide_tiles import names_of_slide
from ..errors import ScaleWarning
from ..heads import Head
from ..maps.areas import areas_mm2
from ..maps.scverse import thumbnail_of
from ..maps.tissue import preview_pixels
from ..progress import Progress, progress_bars
from ..slides import Slide, open_slide
from ..slides.files import slide_digest
from ..spots import read_spots
from .anonymise import nameless_spots, region_names
from .chunks import check_encoders, embed_chunk
from .encoders import load_head_encoders
from .foreign import files_of_features, plan_features
from .job import Settings, check_places
from .maps import apply_head, areas_of, blocks, describe
from .plan import bounded_mask, plan_tiles
from .remarks import remarks_of

if TYPE_CHECKING:
    from ..encoders import Encoder

logger = logging.getLogger(__name__)


def predict(
    slide: str | os.PathLike[str] | Slide,
    head: str | os.PathLike[str] | Head,
    *,
    mpp: float | None = None,
    at: str | os.PathLike[str] | pd.DataFrame | None = None,
    stride_um: float | None = None,
    regions: str | os.PathLike[str] | None = None,
    weights: Sequence[str | os.PathLike[str]] | None = None,
    trust_code: bool = False,
    encoders: Sequence[Encoder] | None = None,
    features: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    encoder: str | Sequence[str] | None = None,
    tile_um: float | None = None,
    origin: str | None = None,
    scale: float | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
    progress: Progress | bool = True,
) -> ad.AnnData:
    """Predict cell-type composition over the tissue of a slide, or at given spots.

    What must be said of the slide before its map is believed is logged as warnings, as ``histomix predict`` says it.

    Parameters
    ----------
    slide
        An H&E slide, or the path of one.
    head
        A trained head, or its folder.
    mpp
        Um per px of level 0; needed where the slide does not say it, and taken where it says something else.
    at
        A spots file (or the table that `histomix.spots.read_spots` makes of one): predict at these places in its order,
        instead of on a grid over the tissue.
    stride_um
        Distance of the grid's tiles; the size of the head's tile where left out. Smaller than a tile: tiles overlap,
        and the layer ``super_resolved`` has, for every cell of the denser grid, the weighted mean of all tiles that
        cover it (`histomix.prediction.maps.tent`).
    regions
        A GeoJSON with polygons (QuPath exports one): only tiles whose centre lies in one are predicted, and
        ``obs["region"]`` names it. At spots all are predicted.
    weights
        Local weights, one for each of the head's encoders that does not bring its own, in the order of its card.
    trust_code
        Let an encoder run code of its own, see `histomix.encoders.load_encoder`.
    encoders
        Encoders that are loaded already, in the order of the card (spares loading them for every slide).
    features
        Features that others computed of the slide's tiles, as `histomix.import_features` takes them, or a file of our
        own store: they are read instead of the pixels, and the encoder's weights are not needed. The map has these
        tiles, where they are on tissue; its ``in_focus`` is not known. Of a head on several encoders, one path each.
    encoder, tile_um, origin, scale
        What their files do not say, as for `histomix.import_features`.
    batch_size
        Tiles encoded at once, 32 where left out.
    threads
        CPU threads of the encoder; all where left out.
    anonymise
        Name the slide and the regions by pseudonyms.
    pseudonym_key
        The key file of the pseudonyms; without one the key is used once and kept nowhere.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how many tiles are done.

    Returns
    -------
    AnnData
        Tiles x cell types in the head's unit. ``obs`` has ``x_px, y_px`` (tile centre, level-0 px), ``tissue`` (share
        of the tile on tissue), ``novelty`` (percentile among held-out training tiles, 0 to 1), ``in_scope``,
        ``read_ok``, ``in_focus`` (where the pixels can tell), ``fragment`` (of tissue, from 1, left to right) and, of a
        head that gives them, ``answer`` (a cell type or a group, only as fine as can be told, or why there is none)
        with ``answer_lower`` and ``answer_upper``, the interval of its share of the cells, and ``dominant_type``;
        places are in ``obsm["spatial"]`` too and the facts of the run in ``uns["manifest"]``, which
        `CompositionMap.manifest` reads: what became of the tissue in mm2 (``tissue_areas``) is among them.
        ``uns["spatial"]`` has a picture of the slide, as scanpy and squidpy look for it. A tile that could not
        be read is NaN with ``read_ok`` false. A
        calibrated head adds the layers ``lower`` and ``upper``. Of a head that counts cells, numbers are cells in the
        area of a training spot, whatever the tile or the stride; the layer ``density per mm2`` has them per mm2, and
        ``area`` in the manifest says all the areas.

    Raises
    ------
    SlideError
        The slide cannot be opened, has no mpp, or no tissue was found on it.
    HeadError, FeatureError
        The head cannot be loaded, the slide is far too coarse for it, or its encoder is not the one loaded here, or
        not the one (or its pooling, tile or scale) of ``features``.
    InputError
        The spots or regions cannot be read, or places are asked for together with a stride.

    See Also
    --------
    histomix.predict_slides : Many slides to folders, which is what ``histomix predict`` does.

    Examples
    --------
    >>> composition = hm.predict("slides/patient-9.tif", "head", progress=False)
    >>> composition.var_names.tolist()[:2]
    ['Cancer epithelial', 'Normal epithelial']
    >>> sorted(composition.layers)
    ['lower', 'upper']
    """
    check_places(at, stride_um)
    trained = Head.of(head)
    files = files_of_features(features, encoder, tile_um, origin, scale, stride_um)
    loaded: list[Encoder] = []
    if files is None:
        loaded = list(encoders) if encoders is not None else load_head_encoders(trained, weights, threads, trust_code)
        check_encoders(trained, loaded)
    if regions is not None:
        read_regions(regions)  # refused here, before any work
    settings = Settings.of(
        trained.card["digest"], regions=regions, batch_size=batch_size, stride_um=stride_um, features=files
    )
    spots = read_spots(at) if at is not None and not isinstance(at, pd.DataFrame) else at
    names = open_pseudonyms(anonymise, pseudonym_key, None)
    if names is not None:
        spots = None if spots is None else nameless_spots(spots)
        if regions is not None:
            settings = replace(settings, region_names=region_names(regions, names))
    with contextlib.ExitStack() as stack:
        opened = slide if isinstance(slide, Slide) else stack.enter_context(open_slide(slide, mpp))
        stack.enter_context(warnings.catch_warnings())
        # Said once in words by the plan, instead of once per tile by the reading threads.
        warnings.simplefilter("ignore", ScaleWarning)
        preview = preview_pixels(opened)
        digest, file, sharp = slide_digest(opened.path)["digest"], opened.name, None
        if files is not None:
            mask = bounded_mask(opened)
            plan, X = plan_features(opened, trained, settings, names_of_slide(opened.path), mask, spots, digest)
        else:
            plan = plan_tiles(opened, trained, settings, spots, digest=digest)
            report = stack.enter_context(progress_bars(progress))
            chunks = [
                embed_chunk(opened, plan, chunk, loaded, batch_size=settings.batch_size, name=file, progress=report)
                for chunk in plan.chunks
            ]
            values = np.concatenate(chunks)
            X, sharp = np.ascontiguousarray(values[:, :-1]), values[:, -1]
    maps = apply_head(trained, X, plan, sharp=sharp)
    name = key = None
    if names is not None:
        plan.facts["slide"]["file"] = name = names.slide(file)
        key = names.key
        names.save()
    areas = areas_mm2(areas_of(plan, maps), plan.facts["tissue_areas"]["mpp"])
    manifest = describe(plan, maps, trained, areas, name=name, anonymised=key)
    unreadable, in_scope = int((~maps.read_ok).sum()), int(maps.in_scope.sum())
    for remark in remarks_of(plan, trained, areas, unreadable, in_scope, maps.scale, maps.focus):
        logger.warning("%s: %s", name or file, remark)
    return next(blocks(plan, maps, trained, manifest, thumbnail_of(preview), size=None))
