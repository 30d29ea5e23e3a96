"""Where on a slide the tissue is, fat among it, and where pen or a fold lies over it."""

from .find import tissue_mask
from .fragments import GAP_UM, fragment_at, label_fragments
from .mask import FAT, FOLD, GLASS, PEN, SMALL, TISSUE, TissueMask

__all__ = [
    "FAT",
    "FOLD",
    "GAP_UM",
    "GLASS",
    "PEN",
    "SMALL",
    "TISSUE",
    "TissueMask",
    "fragment_at",
    "label_fragments",
    "tissue_mask",
]
