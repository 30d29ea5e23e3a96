"""Slides without spatial transcriptomics: composition maps."""

from ..heads import IN_SCOPE_PERCENTILE
from .chunks import embed_band
from .encoders import load_head_encoders
from .job import Settings, SlideJob, SlideResult
from .plan import Band, Plan
from .predict import predict
from .slide import finish_slide, plan_bands, run_slide
from .slides import predict_slides
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
