"""Figures, public as ``histomix.pl``: the signatures of scanpy and squidpy (``color=``, ``ax=``, ``show=``, ``save=``).

Every function returns the axes that it drew on, and colours are told apart by colour-blind readers.
"""

from .maps import beside, composition, dominant, proportions
from .results import calibration, colocalisation, confusion, detectability, inflation, scores, training

__all__ = [
    "beside",
    "calibration",
    "colocalisation",
    "composition",
    "confusion",
    "detectability",
    "dominant",
    "inflation",
    "proportions",
    "scores",
    "training",
]
