"""Figures, public as ``histomix.pl``: the signatures of scanpy and squidpy (``color=``, ``ax=``, ``show=``, ``save=``).

Every function returns the axes that it drew on, and colours are told apart by colour-blind readers.
"""

from .maps import compare, composition, dominant, proportions
from .results import calibration, colocalisation, confusion, detectability, inflation, scores, training

__all__ = [
    "calibration",
    "colocalisation",
    "compare",
    "composition",
    "confusion",
    "detectability",
    "dominant",
    "inflation",
    "proportions",
    "scores",
    "training",
]
