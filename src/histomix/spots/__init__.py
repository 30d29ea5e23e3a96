"""Spatial transcriptomics in: the cohort sheet, sections, their spots and counts, and the alignment check."""

from __future__ import annotations

from .alignment import Alignment, check_alignment
from .readers import read_spots
from .section import Cohort, Section, read_cohort
from .sheet import LABEL_UNITS, SheetRow

__all__ = ["LABEL_UNITS", "Alignment", "Cohort", "Section", "SheetRow", "check_alignment", "read_cohort", "read_spots"]
