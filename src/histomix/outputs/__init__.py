"""Results as files people already use: tables, AnnData, QuPath GeoJSON and the report."""

from .benchmark_page import write_benchmark_page
from .composition import composition_geojson, composition_table
from .describe import CompositionDescription, describe_composition
from .palette import type_colours
from .report import write_report
from .streaming import write_composition

__all__ = [
    "CompositionDescription",
    "composition_geojson",
    "composition_table",
    "describe_composition",
    "type_colours",
    "write_benchmark_page",
    "write_composition",
    "write_report",
]
