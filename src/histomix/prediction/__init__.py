"""Slides without spatial transcriptomics: composition maps."""

from ..heads import IN_SCOPE_PERCENTILE
from .encoders import Model, load_head_encoders
from .inputs.sources import passed_over, slide_jobs
from .job import Settings, SlideJob, SlideResult
from .plan import Chunk, Plan
from .predict import predict
from .run import SlideRun
from .slides import predict_slides

__all__ = [
    "IN_SCOPE_PERCENTILE",
    "Chunk",
    "Model",
    "Plan",
    "Settings",
    "SlideJob",
    "SlideResult",
    "SlideRun",
    "load_head_encoders",
    "passed_over",
    "predict",
    "predict_slides",
    "slide_jobs",
]
