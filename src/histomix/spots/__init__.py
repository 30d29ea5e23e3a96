"""Spatial transcriptomics in: the cohort sheet, sections, their spots and counts, and the alignment check."""

from __future__ import annotations

from ..common.units import CELLS, LABEL_UNITS, PROPORTION, RELATIVE
from .alignment.check import Alignment, check_alignment
from .alignment.overlay import render_overlay
from .alignment.proposal import Proposal, apply_alignment, propose_alignment
from .alignment.write import write_spots_csv
from .draft import SheetDraft, draft_sheet
from .formats.tenx.visium_hd import aggregate_bins
from .inspect import Inspection, inspect_data, write_rows
from .pseudo_spots import cell_composition, cells_to_labels, pseudo_spots
from .readers import read_spots
from .section import Cohort, Section, read_cohort
from .sheet import SheetRow

__all__ = [
    "CELLS",
    "LABEL_UNITS",
    "PROPORTION",
    "RELATIVE",
    "Alignment",
    "Cohort",
    "Inspection",
    "Proposal",
    "Section",
    "SheetDraft",
    "SheetRow",
    "aggregate_bins",
    "apply_alignment",
    "cell_composition",
    "cells_to_labels",
    "check_alignment",
    "draft_sheet",
    "inspect_data",
    "propose_alignment",
    "pseudo_spots",
    "read_cohort",
    "read_spots",
    "render_overlay",
    "write_rows",
    "write_spots_csv",
]
