"""Slides without spatial transcriptomics: composition maps."""

from ..heads import IN_SCOPE_PERCENTILE
from .chunks import embed_chunk
from .encoders import load_head_encoders
from .job import Settings, SlideJob, SlideResult
from .plan import Chunk, Plan
from .predict import predict
from .slide import finish_slide, plan_chunks, run_slide
from .slides import predict_slides
from .sources import slide_jobs

__all__ = [
    "IN_SCOPE_PERCENTILE",
    "Chunk",
    "Plan",
    "Settings",
    "SlideJob",
    "SlideResult",
    "embed_chunk",
    "finish_slide",
    "load_head_encoders",
    "plan_chunks",
    "predict",
    "predict_slides",
    "run_slide",
    "slide_jobs",
]
