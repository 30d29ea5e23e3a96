"""Regressors from embeddings to cell-type abundances: train, save, load, apply.

Names are loaded on first use: to read a card takes neither scikit-learn nor anndata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import load_on_use

if TYPE_CHECKING:
    from .apply import HeadOutput
    from .base import CompositionRegressor
    from .cards.anonymise import private_card
    from .cards.answers import HeldOutAnswers, answers_of
    from .cards.levels import Levels, levels_of
    from .cards.readme import head_readme
    from .cards.text import card_markdown
    from .dataset import TrainingSet, assemble
    from .head import Head, load_head
    from .inner_folds import held_out_kind, held_out_predictions, inner_groups
    from .models.knn import KNNRegressor
    from .models.linear import MeanRegressor, RidgeRegressor
    from .models.mlp import MLPRegressor
    from .neighbourhood import Positions
    from .registry import DEFAULT, HEADS, head_name, make_estimator, parse_settings
    from .stain import StainDamping
    from .train import train
    from .trust.intervals import Intervals, calibrate, calibrate_levels
    from .trust.novelty import IN_SCOPE_PERCENTILE, NoveltyModel

load_on_use(
    __name__,
    {
        "CompositionRegressor": "base",
        "DEFAULT": "registry",
        "HEADS": "registry",
        "Head": "head",
        "HeadOutput": "apply",
        "HeldOutAnswers": "cards.answers",
        "IN_SCOPE_PERCENTILE": "trust.novelty",
        "Intervals": "trust.intervals",
        "KNNRegressor": "models.knn",
        "Levels": "cards.levels",
        "MLPRegressor": "models.mlp",
        "MeanRegressor": "models.linear",
        "NoveltyModel": "trust.novelty",
        "Positions": "neighbourhood",
        "RidgeRegressor": "models.linear",
        "StainDamping": "stain",
        "TrainingSet": "dataset",
        "answers_of": "cards.answers",
        "assemble": "dataset",
        "calibrate": "trust.intervals",
        "calibrate_levels": "trust.intervals",
        "card_markdown": "cards.text",
        "head_name": "registry",
        "head_readme": "cards.readme",
        "held_out_kind": "inner_folds",
        "held_out_predictions": "inner_folds",
        "inner_groups": "inner_folds",
        "levels_of": "cards.levels",
        "load_head": "head",
        "make_estimator": "registry",
        "parse_settings": "registry",
        "private_card": "cards.anonymise",
        "train": "train",
    },
)

__all__ = [
    "DEFAULT",
    "HEADS",
    "IN_SCOPE_PERCENTILE",
    "CompositionRegressor",
    "Head",
    "HeadOutput",
    "HeldOutAnswers",
    "Intervals",
    "KNNRegressor",
    "Levels",
    "MLPRegressor",
    "MeanRegressor",
    "NoveltyModel",
    "Positions",
    "RidgeRegressor",
    "StainDamping",
    "TrainingSet",
    "answers_of",
    "assemble",
    "calibrate",
    "calibrate_levels",
    "card_markdown",
    "head_name",
    "head_readme",
    "held_out_kind",
    "held_out_predictions",
    "inner_groups",
    "levels_of",
    "load_head",
    "make_estimator",
    "parse_settings",
    "private_card",
    "train",
]
