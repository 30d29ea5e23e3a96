"""The units of labels, and of what heads predict."""

from __future__ import annotations

#: Numbers of cells; shares that sum to 1; amounts whose totals are no cells, only their ratios count.
CELLS, PROPORTION, RELATIVE = "cells per spot", "proportion", "relative abundance"
LABEL_UNITS = (CELLS, PROPORTION, RELATIVE)
