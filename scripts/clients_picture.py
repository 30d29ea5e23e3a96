"""Draw one cell type of one map by LazySlide, squidpy, spatialdata-plot and histomix, side by side.

Usage: .venv-clients/bin/python scripts/clients_picture.py SLIDE MAP docs/clients.jpg
       SLIDE is a pyramid that LazySlide opens, MAP the folder that histomix predict wrote for it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anndata
import lazyslide
import matplotlib
import numpy as np
import spatialdata
import spatialdata_plot  # noqa: F401  (adds .pl)
import squidpy
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image
from wsidata import open_wsi

import histomix as hm
from histomix.common.palette import type_colours
from histomix.export import add_composition_to_wsidata, export_map
from histomix.maps.varying import varying_types

matplotlib.use("agg")
from matplotlib import pyplot as plt

NAMES = ("histomix", "LazySlide", "squidpy", "spatialdata-plot")


def main(slide: Path, folder: Path, target: Path) -> None:
    """One row by share of a cell type, one by the most abundant type where the program draws types."""
    one = hm.CompositionMap.open(folder)
    name = varying_types(one).shown[0]
    figure, axes = plt.subplots(2, 4, figsize=(16, 7.6), layout="constrained")
    top = float(np.nanquantile(one.values()[name], 0.99))
    found = anndata.read_h5ad(folder / "composition.h5ad")
    wsi = open_wsi(slide, store=None)
    key = add_composition_to_wsidata(one, wsi)
    wsi.shapes["tiles"]["dominant_type"] = found.obs["dominant_type"].astype(object).fillna("none").to_numpy()
    types = found.obs["dominant_type"].cat.categories
    palette = dict(zip(types, found.uns["dominant_type_colors"], strict=True)) | {"none": "#969696"}
    with tempfile.TemporaryDirectory() as scratch:
        store = spatialdata.read_zarr(export_map(folder, "spatialdata", scratch))
        for row, color in zip(axes, (name, "dominant_type"), strict=True):
            limits = {"vmin": 0, "vmax": top} if color == name else {}
            _ours(row[0], one, color, top)
            if color == name:
                lazyslide.pl.tiles(wsi, feature_key=key, color=color, cmap="viridis", ax=row[1], **limits)
            else:
                lazyslide.pl.tiles(wsi, color=color, palette=palette, ax=row[1])
            squidpy.pl.spatial_scatter(found, color=color, shape="square", ax=row[2], cmap="viridis", **limits)
            norm = {"norm": plt.Normalize(0, top), "cmap": "viridis"} if color == name else {}
            drawn = store.pl.render_images("thumbnail").pl.render_shapes("tiles", color=color, **norm)
            drawn.pl.show(coordinate_systems="micrometres", ax=row[3])
            for place, program in zip(row, NAMES, strict=True):
                place.set_title(f"{program}: {color}", fontsize=10)
        with tempfile.NamedTemporaryFile(suffix=".png") as picture:
            figure.savefig(picture.name, dpi=90)
            Image.open(picture.name).convert("RGB").save(target, quality=80, optimize=True)


def _ours(axes: Axes, one: hm.CompositionMap, color: str, top: float) -> None:
    if color in one.cell_types:
        hm.pl.composition(one, color=color, ax=axes, vmin=0, vmax=top)
        return
    colours, dominant = type_colours(one.cell_types), one.adata.obs["dominant_type"]
    axes.imshow(one.preview(), extent=(0, one.slide["width_px"], one.slide["height_px"], 0))
    for (x, y), name in zip(one.xy_px - one.cell_px / 2, dominant, strict=True):
        axes.add_patch(Rectangle((x, y), one.cell_px, one.cell_px, color=colours.get(name, (0.6, 0.6, 0.6))))
    axes.set_axis_off()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
