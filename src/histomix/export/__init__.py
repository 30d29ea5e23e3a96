"""Composition maps in the formats of other programs."""

from ..maps.scverse import dominant_types, to_scverse
from .exporting import FORMATS, export_map, export_maps
from .heatmap import composition_raster, write_heatmap
from .lazyslide import LazySlideHead, add_composition_to_wsidata
from .spatial_data import to_spatialdata, write_spatialdata

__all__ = [
    "FORMATS",
    "LazySlideHead",
    "add_composition_to_wsidata",
    "composition_raster",
    "dominant_types",
    "export_map",
    "export_maps",
    "to_scverse",
    "to_spatialdata",
    "write_heatmap",
    "write_spatialdata",
]
