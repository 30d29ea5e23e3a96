"""Cohorts to work on: the phantom, whose truth is known."""

from __future__ import annotations

from .fetch import fetch_cohort
from .phantom.donors import CELL_TYPES as PHANTOM_CELL_TYPES
from .phantom.make import make_phantom, phantom_truth

__all__ = ["PHANTOM_CELL_TYPES", "fetch_cohort", "make_phantom", "phantom_truth"]
