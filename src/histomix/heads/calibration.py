"""Intervals that hold for donors who were not in training: conformal calibration with whole donors held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Intervals:
    """Intervals around predictions."""

    needs_spread: bool = False

    def bounds(self, values: np.ndarray, spread: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the intervals around predictions, each ``(n, n_types)``."""
        raise NotImplementedError
