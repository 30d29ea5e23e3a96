"""Slides at a known um per pixel, the tissue on them, and tiles."""

from .nuclei import Nuclei, count_nuclei, find_nuclei
from .opening import open_slide
from .slide import Reader, Slide
from .tiles import GridPlaces, TileSpec, grid_places, read_tile, tiles_at_spots, tiles_on_grid
from .tissue import TissueMask, tissue_mask

__all__ = [
    "GridPlaces",
    "Nuclei",
    "Reader",
    "Slide",
    "TileSpec",
    "TissueMask",
    "count_nuclei",
    "find_nuclei",
    "grid_places",
    "open_slide",
    "read_tile",
    "tiles_at_spots",
    "tiles_on_grid",
    "tissue_mask",
]
