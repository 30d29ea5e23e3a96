"""How well heads predict spots they have not seen: folds, metrics, baselines, intervals."""

from __future__ import annotations

from .folds import PROTOCOLS, Fold, make_folds
from .metrics import RULES
from .result import Evaluation, read_evaluation
from .run import BASELINES, evaluate
from .scoring import score

__all__ = [
    "BASELINES",
    "PROTOCOLS",
    "RULES",
    "Evaluation",
    "Fold",
    "evaluate",
    "make_folds",
    "read_evaluation",
    "score",
]
