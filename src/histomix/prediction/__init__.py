"""Slides without spatial transcriptomics: composition maps."""

from ..heads import IN_SCOPE_PERCENTILE
from .batch import SlideResult, predict_slides
from .predict import load_head_encoders, predict

__all__ = ["IN_SCOPE_PERCENTILE", "SlideResult", "load_head_encoders", "predict", "predict_slides"]
