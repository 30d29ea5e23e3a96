"""From a slide and a head to a composition map."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from ..embedding import feature_manifest, slide_features_together, with_field_of_view
from ..encoders import card, load_encoder
from ..encoders.runtimes import optimise
from ..errors import EncoderError, HeadError, SlideError
from ..heads import Head, load_head
from ..progress import Progress, silent
from ..slides import Slide, TileSpec, open_slide, tiles_at_spots, tiles_on_grid, tissue_mask
from ..spots import read_spots

if TYPE_CHECKING:
    from ..encoders import Encoder


def predict(
    slide: str | os.PathLike[str] | Slide,
    head: str | os.PathLike[str] | Head,
    *,
    mpp: float | None = None,
    at: str | os.PathLike[str] | pd.DataFrame | None = None,
    stride_um: float | None = None,
    weights: Sequence[str | os.PathLike[str]] | None = None,
    encoders: Sequence[Encoder] | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> ad.AnnData:
    """Predict cell-type composition over the tissue of a slide, or at given spots.

    Parameters
    ----------
    slide
        An H&E slide, or the path of one.
    head
        A trained head, or its folder.
    mpp
        Um per px of level 0; needed where the slide does not say it.
    at
        A spots file (or the table that `histomix.spots.read_spots` makes of one): predict at these places in its order,
        instead of on a grid over the tissue.
    stride_um
        Distance of the grid's tiles; the size of the head's tile where left out.
    weights
        Local weights, one for each of the head's encoders that does not bring its own, in the order of its card.
    encoders
        Encoders that are loaded already, in the order of the card (spares loading them for every slide).
    batch_size
        Tiles encoded at once; None finds it from the free memory.
    threads
        CPU threads of the encoder; all where left out.
    progress
        Told how many tiles are done.

    Returns
    -------
    AnnData
        Tiles x cell types in the head's unit. ``obs`` has ``x_px, y_px`` (tile centre, level-0 px), ``tissue`` (share
        of the tile on tissue), ``novelty`` (percentile among held-out training tiles, 0 to 1), ``in_scope`` and
        ``read_ok``; the places are in ``obsm["spatial"]`` too and the facts of the run as JSON in ``uns["manifest"]``.
        A tile that could not be read is NaN with ``read_ok`` false. A calibrated head adds the layers ``lower`` and
        ``upper``.

    Raises
    ------
    SlideError
        The slide cannot be opened, has no mpp, or no tissue was found on it.
    HeadError, FeatureError
        The head cannot be loaded, or its encoder is not the one that can be loaded here.
    """
    trained = head if isinstance(head, Head) else load_head(head)
    loaded = list(encoders) if encoders is not None else load_head_encoders(trained, weights, threads)
    with contextlib.ExitStack() as stack:
        opened = slide if isinstance(slide, Slide) else stack.enter_context(open_slide(slide, mpp))
        spec = replace(loaded[0].tile_spec(), stride_um=stride_um)
        tiles = _places(opened, spec, at)
        features = slide_features_together(
            opened, tiles, loaded, batch_size=batch_size, progress=progress, task=f"predict {opened.name}"
        )
        return _composition_map(trained, features, opened, spec, at_spots=at is not None)


def load_head_encoders(
    head: Head, weights: Sequence[str | os.PathLike[str]] | None = None, threads: int | None = None
) -> list[Encoder]:
    """Load the encoders that a head's card names, in its order, each on the tile that the head was trained on.

    Parameters
    ----------
    head
        A trained head.
    weights
        Local weights, one for each encoder that does not bring its own, in the order of the card; for an encoder that a
        card file describes, that file.
    threads
        CPU threads of each encoder.

    Raises
    ------
    HeadError
        The number of ``weights`` is not the number of encoders that take any, or the card file of one is missing.
    EncoderError
        An encoder cannot be loaded.
    """
    entries = head.card["encoders"]
    names = [encoder["name"] for encoder in entries]
    taking = [name for name in names if _source(name) not in ("builtin", "python")]
    if weights and len(weights) != len(taking):
        raise HeadError(
            f"{len(weights)} weights were given, and {len(taking)} of the head's encoders take any "
            f"({', '.join(taking) or 'the built-in one brings its own'})",
            mend="Give --weights once for each of these, in this order",
        )
    files = dict(zip(taking, weights, strict=True)) if weights else {}
    loaded = []
    for entry in entries:
        found = _load(entry["name"], files.get(entry["name"]), threads)
        found = optimise(found, "int8" if entry.get("precision") == "int8" else "auto", threads)
        spec = found.tile_spec()
        own = (spec.size_px, spec.mpp) == (entry["size_px"], entry["mpp"])
        loaded.append(found if own else with_field_of_view(found, entry["size_px"] * entry["mpp"]))
    return loaded


def _source(name: str) -> str:
    """Where an encoder comes from; one that is known by no name is described by a card file."""
    try:
        return card(name).source
    except EncoderError:
        return "file"


def _load(name: str, file: str | os.PathLike[str] | None, threads: int | None) -> Encoder:
    if _source(name) != "file":
        return load_encoder(name, weights=file, threads=threads)
    if file is None:
        raise HeadError(
            f"the head's encoder {name} is none that histomix knows by name",
            mend="Give its card file (YAML or JSON) with --weights",
        )
    return load_encoder(os.fspath(file), threads=threads)


def _places(slide: Slide, spec: TileSpec, at: str | os.PathLike[str] | pd.DataFrame | None) -> pd.DataFrame:
    mask = tissue_mask(slide)
    if at is not None:
        spots = at if isinstance(at, pd.DataFrame) else read_spots(at)
        return tiles_at_spots(slide, spots[["x_px", "y_px"]].to_numpy(float), spots.index, spec, mask=mask)
    tiles = tiles_on_grid(slide, spec, mask=mask)
    if tiles.empty:
        raise SlideError(
            f"no tissue was found (tissue mask: {mask.area_mm2:.3g} mm2, less than half a tile of {spec.size_um:g} um)",
            where=slide.path,
            mend="Check that this is an H&E slide and that its mpp is right; --at predicts at places you name",
        )
    return tiles


def _composition_map(
    head: Head, features: list[ad.AnnData], slide: Slide, spec: TileSpec, *, at_spots: bool
) -> ad.AnnData:
    found = head.output(features)
    obs = features[0].obs[["x_px", "y_px", "tissue"]].copy()
    obs["novelty"] = found.novelty.astype(np.float32)
    obs["in_scope"] = found.in_scope
    obs["read_ok"] = np.isfinite(found.values).all(axis=1)
    types = pd.DataFrame(index=[str(name) for name in head.card["cell_types"]])
    composition = ad.AnnData(found.values, obs=obs, var=types)
    if found.lower is not None and found.upper is not None:
        composition.layers["lower"], composition.layers["upper"] = found.lower, found.upper
    composition.obsm["spatial"] = obs[["x_px", "y_px"]].to_numpy(float)
    side_um = spec.size_um if at_spots else (spec.stride_um or spec.size_um)
    manifest = {
        "slide": {**feature_manifest(features[0])["slide"], "bounds_px": list(slide.bounds_px)},
        "tile": spec.to_dict(),
        "places": "spots" if at_spots else "grid",
        "cell_px": side_um / slide.mpp,
        "unit": head.card["unit"],
        "head": {
            name: head.card[name]
            for name in ("name", "digest", "head", "encoders", "encoder_licences", "tissue", "training")
        },
        "calibration": head.card.get("calibration"),
    }
    composition.uns["manifest"] = json.dumps(manifest)
    return composition
