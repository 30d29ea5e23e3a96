"""Regressors from embeddings to cell-type abundances: train, save, load, apply."""

from __future__ import annotations

from .applying import IN_SCOPE_PERCENTILE, HeadOutput
from .base import CompositionRegressor
from .calibration import Intervals
from .context import Places
from .dataset import TrainingSet, assemble
from .head import Head, load_head
from .inner import inner_groups
from .knn import KNNRegressor
from .linear import MeanRegressor, RidgeRegressor
from .mlp import MLPRegressor
from .novelty import NoveltyModel
from .registry import HEADS, make_estimator
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
    "inner_groups",
    "load_head",
    "make_estimator",
    "train",
]
