"""A composition map as SpatialData: tiles as shapes, composition as their table, the slide's thumbnail under them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from ..common.naming import key_name
from ..common.words import RESEARCH_USE
from ..embedding.lazyslide import drawn_tile
from ..errors import InputError, MissingExtraError
from ..maps import CompositionMap
from ..maps.scverse import add_scverse
from ..provenance import atomic_path

if TYPE_CHECKING:
    from spatialdata import SpatialData

TILES, TABLE, IMAGE = "tiles", "composition", "thumbnail"
#: Coordinate systems: level-0 px, and um.
PIXELS, MICROMETRES = "global", "micrometres"
#: Facts that tell which slide the tiles are of, whose pixels stay where they are.
_SLIDE = ("file", "fingerprint", "mpp", "width_px", "height_px", "bounds_px")


def to_spatialdata(
    composition: AnnData | CompositionMap, thumbnail: np.ndarray | None = None, features: AnnData | None = None
) -> SpatialData:
    """Make a `spatialdata.SpatialData` of a composition map.

    Parameters
    ----------
    composition
        A map from `histomix.predict`, tiles x cell types.
    thumbnail
        The whole slide at low resolution, uint8 ``(height, width, 3)``; laid under the tiles by its scale.
    features
        The embeddings of the same tiles, kept as a second table.

    Returns
    -------
    SpatialData
        Shapes ``tiles`` (squares, or circles where spots were predicted), table ``composition`` that annotates them,
        image ``thumbnail`` and table ``features`` where given. The coordinate system ``global`` is level-0 px,
        ``micrometres`` is um, which programs that draw a scale bar are to be given.
        ``attrs["histomix"]`` refers to the slide (file, fingerprint, mpp, size), names the unit and the head, and
        says what the numbers are for; ``attrs["tile_spec"]`` is for LazySlide (`add_composition_to_wsidata` hands it
        a map in whole px, which it draws exactly).

    Raises
    ------
    MissingExtraError
        The library spatialdata is not installed.
    InputError
        The features are of other tiles.
    """
    try:
        import geopandas
        import shapely
        import spatialdata
        from spatialdata.models import Image2DModel, ShapesModel, TableModel
        from spatialdata.transformations import Identity, Scale
    except ImportError as error:
        raise MissingExtraError("spatialdata", "st", "writing SpatialData") from error
    one = CompositionMap.of(composition)
    xy_px, half, slide = one.xy_px, one.cell_px / 2, one.slide
    numbers = np.arange(len(one))
    to_um = Scale([one.mpp, one.mpp], axes=("x", "y"))
    systems = {PIXELS: Identity(), MICROMETRES: to_um}
    if one.at_spots:
        frame = geopandas.GeoDataFrame({"radius": half}, geometry=shapely.points(xy_px), index=numbers)
    else:
        boxes = shapely.box(xy_px[:, 0] - half, xy_px[:, 1] - half, xy_px[:, 0] + half, xy_px[:, 1] + half)
        frame = geopandas.GeoDataFrame(geometry=boxes, index=numbers)
    images: dict[str, Any] = {}
    if thumbnail is not None:
        scale = [slide["width_px"] / thumbnail.shape[1], slide["height_px"] / thumbnail.shape[0]]
        images[IMAGE] = Image2DModel.parse(
            np.moveaxis(thumbnail, -1, 0),
            dims=("c", "y", "x"),
            c_coords=["r", "g", "b"],
            transformations={
                PIXELS: Scale(scale, axes=("x", "y")),
                MICROMETRES: Scale([one.mpp * side for side in scale], axes=("x", "y")),
            },
        )
    marked = one.adata.copy()
    add_scverse(marked)
    del marked.uns["spatial"], marked.obs["library_id"]  # squidpy's own; here the picture is an element
    _drop_unused_types(marked)
    table = _annotating(marked)
    tables = {TABLE: TableModel.parse(table, region=TILES, region_key="region", instance_key="tile")}
    if features is not None:
        if not features.obs_names.equals(one.adata.obs_names):
            raise InputError(
                f"the features are of {features.n_obs:,} tiles that are not the {len(one):,} of the map",
                hint="Give the features that the map was predicted from",
            )
        tables["features"] = TableModel.parse(
            _annotating(features), region=TILES, region_key="region", instance_key="tile"
        )
    shapes = {TILES: ShapesModel.parse(frame, transformations=systems)}
    reference = {name: slide[name] for name in _SLIDE if name in slide}
    reading = one.reading
    words = {"use": RESEARCH_USE, "statement": reading.statement, "refers_to": reading.refers_to}
    words |= {"calibrated_on": reading.calibrated_on, "limits": reading.limits, "remarks": " ".join(reading.remarks)}
    told = {name: word for name, word in words.items() if word}
    attrs: dict[str, Any] = {"histomix": {"slide": reference, "unit": one.unit, "head": one.head.get("name"), **told}}
    # What LazySlide must know of the tiles of a store that it opens.
    attrs["tile_spec"] = {TILES: drawn_tile(one.cell_px, one.mpp)}
    return spatialdata.SpatialData(images=images, shapes=shapes, tables=tables, attrs=attrs)


def write_spatialdata(
    path: str | os.PathLike[str],
    composition: AnnData | CompositionMap,
    thumbnail: np.ndarray | None = None,
    features: AnnData | None = None,
) -> Path:
    """Write `to_spatialdata` as a Zarr store, whole or not at all; an earlier store there is replaced.

    Raises
    ------
    InputError
        ``path`` is there and is no Zarr store.
    StorageError
        The store cannot be written.
    """
    place = Path(path)
    if place.exists() and not any((place / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs")):
        raise InputError("is there already and is no Zarr store", where=place, hint="Choose another path")
    data = to_spatialdata(composition, thumbnail, features)
    with atomic_path(place) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            data.write(temporary)
        except UnicodeEncodeError as error:
            what = "has a name that is no UTF-8, under which spatialdata writes nothing"
            raise InputError(what, where=place, hint="Choose another --out") from error
    return place


def _drop_unused_types(table: AnnData) -> None:
    """Keep the types that occur, with their colours: spatialdata-plot 0.4 gives the colours to these, in order."""
    dominant = table.obs["dominant_type"].cat
    colours = dict(zip(dominant.categories, table.uns["dominant_type_colors"], strict=True))
    table.obs["dominant_type"] = dominant.remove_unused_categories()
    kept = table.obs["dominant_type"].cat.categories
    table.uns["dominant_type_colors"] = np.array([colours[name] for name in kept], dtype=object)


def _annotating(source: AnnData) -> AnnData:
    """A copy whose rows name the tile they belong to. SpatialData allows few marks in names of columns and layers."""
    from spatialdata import sanitize_table

    table: AnnData = sanitize_table(source, inplace=False)
    table.obs["region"] = TILES
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["tile"] = np.arange(table.n_obs)
    table.obs.columns = [key_name(name) for name in table.obs.columns]
    return table
