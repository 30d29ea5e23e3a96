"""Slides without spatial transcriptomics: composition maps."""

from ..heads import IN_SCOPE_PERCENTILE
from .bands import embed_band
from .batch import predict_slides
from .job import Settings, SlideJob, SlideResult
from .loading import load_head_encoders
from .plan import Band, Plan
from .predict import predict
from .run import finish_slide, plan_bands, run_slide
from .sources import slide_jobs

__all__ = [
    "IN_SCOPE_PERCENTILE",
    "Band",
    "Plan",
    "Settings",
    "SlideJob",
    "SlideResult",
    "embed_band",
    "finish_slide",
    "load_head_encoders",
    "plan_bands",
    "predict",
    "predict_slides",
    "run_slide",
    "slide_jobs",
]
