"""What a prediction is, on disk and in memory."""

from .composition import composition_geojson, composition_table
from .describe import CompositionDescription, describe_composition
from .streaming import write_composition

__all__ = [
    "CompositionDescription",
    "composition_geojson",
    "composition_table",
    "describe_composition",
    "write_composition",
]
