"""What a prediction is, on disk and in memory."""

from .composition import composition_geojson, composition_table
from .describe import CompositionDescription
from .find import MapSource, find_maps
from .map import CompositionMap
from .streaming import write_composition

__all__ = [
    "CompositionDescription",
    "CompositionMap",
    "MapSource",
    "composition_geojson",
    "composition_table",
    "find_maps",
    "write_composition",
]
