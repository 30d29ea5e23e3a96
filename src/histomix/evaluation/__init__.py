"""How well heads predict spots they have not seen: folds, metrics, baselines, intervals."""

from __future__ import annotations

from ..common.metrics import RULES
from .data import CohortData
from .evaluate import evaluate
from .fit_folds import BASELINES
from .folds import PROTOCOLS, Fold, make_folds
from .groups import read_groups
from .leakage.audit import AUDIT_RULES, Finding, audit
from .measured.score_map import score_map
from .more_donors import more_donors
from .result import Evaluation, read_evaluation
from .scores.scoring import score
from .spatial.summary import add_spatial, spatial_summary

__all__ = [
    "AUDIT_RULES",
    "BASELINES",
    "PROTOCOLS",
    "RULES",
    "CohortData",
    "Evaluation",
    "Finding",
    "Fold",
    "add_spatial",
    "audit",
    "evaluate",
    "make_folds",
    "more_donors",
    "read_evaluation",
    "read_groups",
    "score",
    "score_map",
    "spatial_summary",
]
