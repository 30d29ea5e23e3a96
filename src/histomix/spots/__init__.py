"""Spatial transcriptomics in: the cohort sheet, sections, their spots and counts, and the alignment check."""

from __future__ import annotations

from .alignment import Alignment, check_alignment
from .composition import cell_composition, cells_to_labels, pseudo_spots
from .corrected import write_spots_csv
from .formats.visium_hd import aggregate_bins
from .inspection import Inspection, inspect_data
from .orientation import Proposal, apply_alignment, propose_alignment
from .overlay import render_overlay
from .readers import read_spots
from .section import Cohort, Section, read_cohort
from .sheet import LABEL_UNITS, SheetRow

__all__ = [
    "LABEL_UNITS",
    "Alignment",
    "Cohort",
    "Inspection",
    "Proposal",
    "Section",
    "SheetRow",
    "aggregate_bins",
    "apply_alignment",
    "cell_composition",
    "cells_to_labels",
    "check_alignment",
    "inspect_data",
    "propose_alignment",
    "pseudo_spots",
    "read_cohort",
    "read_spots",
    "render_overlay",
    "write_spots_csv",
]
