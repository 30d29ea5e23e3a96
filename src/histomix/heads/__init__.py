"""Regressors from embeddings to cell-type abundances: train, save, load, apply."""

from __future__ import annotations

from .applying import HeadOutput
from .base import CompositionRegressor
from .calibration import Intervals, calibrate
from .card_text import card_markdown
from .context import Places
from .dataset import TrainingSet, assemble
from .head import Head, load_head
from .held_out import held_out_predictions
from .inner import inner_groups
from .knn import KNNRegressor
from .linear import MeanRegressor, RidgeRegressor
from .mlp import MLPRegressor
from .novelty import IN_SCOPE_PERCENTILE, NoveltyModel
from .private import private_card
from .registry import HEADS, make_estimator
from .settings import parse_settings
from .train import train

__all__ = [
    "HEADS",
    "IN_SCOPE_PERCENTILE",
    "CompositionRegressor",
    "Head",
    "HeadOutput",
    "Intervals",
    "KNNRegressor",
    "MLPRegressor",
    "MeanRegressor",
    "NoveltyModel",
    "Places",
    "RidgeRegressor",
    "TrainingSet",
    "assemble",
    "calibrate",
    "card_markdown",
    "held_out_predictions",
    "inner_groups",
    "load_head",
    "make_estimator",
    "parse_settings",
    "private_card",
    "train",
]
