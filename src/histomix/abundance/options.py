"""What a user may choose about cell2location."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import LabelError
from .deconvolve.svi import Plan

FITS = ("cohort", "donor", "section")
SUMMARIES = ("q05", "median")
RELIABILITIES = ("fast", "own")


@dataclass(frozen=True)
class Options:
    """Choices for method ``"cell2location"``; see `histomix.abundance.label`.

    Raises
    ------
    LabelError
        A value is none of the choices, or out of its range.
    """

    fit: str = "donor"
    summary: str = "q05"
    detection_alpha: float = 20.0
    n_genes: int = 3000
    max_epochs: int = 300
    batch_key: str | None = None
    covariates: tuple[str, ...] = ()
    reliability: str = "fast"

    def __post_init__(self) -> None:
        for name, choices in (("fit", FITS), ("summary", SUMMARIES), ("reliability", RELIABILITIES)):
            if getattr(self, name) not in choices:
                listed = ", ".join(f'"{choice}"' for choice in choices)
                raise LabelError(f"{name} cannot be '{getattr(self, name)}'", hint=f"Choose one of {listed}")
        for name, least in (("detection_alpha", 0), ("n_genes", 1), ("max_epochs", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > least):
                raise LabelError(f"{name} cannot be {value}", hint=f"Give a number above {least}")

    @property
    def plan(self) -> Plan:
        """How the fit of the spots climbs."""
        return Plan(max_epochs=self.max_epochs)


def read_options(method: str, asked: dict[str, Any]) -> Options | None:
    """Options of a run, of which ``asked`` are those not None; None for methods that have none of them.

    Raises
    ------
    LabelError
        Something was asked of a method that has no such choice, or a choice is not possible.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if method == "cell2location":
        return Options(**given)
    if given:
        raise LabelError(
            f'method "{method}" has no choice of {", ".join(given)}',
            hint='Leave it out, or use method "cell2location"',
        )
    return None
