"""Slides at a known um per pixel, the tissue on them, and tiles."""

from ..common.transfer.addresses import redact_url
from ..common.transfer.remote_names import remote_name
from ..common.transfer.retry import Retry
from .nuclei import Nuclei, count_nuclei, find_nuclei
from .open import open_slide
from .readers.flat import image_kind
from .remote.cache import SlideCache, is_remote
from .slide import Reader, Slide
from .tiles import GridPositions, TileSpec, grid_positions, read_tile, tiles_at_spots, tiles_on_grid
from .tissue import TissueMask, tissue_mask

__all__ = [
    "GridPositions",
    "Nuclei",
    "Reader",
    "Retry",
    "Slide",
    "SlideCache",
    "TileSpec",
    "TissueMask",
    "count_nuclei",
    "find_nuclei",
    "grid_positions",
    "image_kind",
    "is_remote",
    "open_slide",
    "read_tile",
    "redact_url",
    "remote_name",
    "tiles_at_spots",
    "tiles_on_grid",
    "tissue_mask",
]
