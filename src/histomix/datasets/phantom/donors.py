"""The cell types of the phantom, and how its donors differ."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

CELL_TYPES = (
    "Cancer epithelial",
    "Normal epithelial",
    "Fibroblasts",
    "T cells",
    "B cells",
    "Macrophages",
    "Endothelial",
    "Adipocytes",
)
(CANCER, NORMAL, FIBROBLAST, T_CELL, B_CELL, MACROPHAGE, ENDOTHELIAL, ADIPOCYTE) = range(len(CELL_TYPES))

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Donor:
    """What is the same in all sections of one donor.

    Attributes
    ----------
    haematoxylin, eosin
        Optical density of red, green and blue per unit of stain.
    haematoxylin_strength, eosin_strength
        Factors on the stain that the tissue takes up.
    blur_um
        Standard deviation of the optical blur.
    grade
        Nuclear grade of the tumour, 0 (small, regular, gland-forming) to 1 (large, pleomorphic).
    fat, tumour
        Shares of the section's area.
    nest_um
        Width of the tumour nests.
    aggregates, ducts, lobules
        Numbers per mm2 of lymphoid aggregates, ducts and lobules.
    infiltrate
        Factor on immune cells scattered in stroma and tumour.
    collagen
        Density of the stroma's fibres.
    """

    name: str
    haematoxylin: Colour
    eosin: Colour
    haematoxylin_strength: float
    eosin_strength: float
    blur_um: float
    grade: float
    fat: float
    tumour: float
    nest_um: float
    aggregates: float
    ducts: float
    lobules: float
    infiltrate: float
    collagen: float


# Values in the order of the fields above.
_DONORS = (
    Donor(
        "P1", (0.62, 0.72, 0.31), (0.13, 0.80, 0.48), 1.0, 1.0, 0.45, 0.75, 0.16, 0.45, 34.0, 1.6, 0.8, 0.8, 1.0, 1.0
    ),
    Donor(
        "P2", (0.58, 0.74, 0.36), (0.16, 0.84, 0.55), 0.88, 1.18, 0.55, 0.25, 0.24, 0.34, 46.0, 0.8, 1.6, 1.6, 0.6, 1.15
    ),
    Donor(
        "P3", (0.68, 0.68, 0.27), (0.10, 0.76, 0.38), 1.12, 0.86, 0.60, 1.0, 0.08, 0.52, 30.0, 2.4, 0.8, 0.8, 1.3, 0.85
    ),
    Donor(
        "P4", (0.60, 0.76, 0.40), (0.18, 0.82, 0.50), 0.95, 0.95, 0.50, 0.5, 0.12, 0.38, 38.0, 1.6, 0.8, 1.2, 1.2, 1.05
    ),
)


def make_donor(seed: int, index: int) -> Donor:
    """Donor number ``index`` (from 0) of the phantom with this seed: one of four patterns, varied a little."""
    rng = np.random.default_rng([seed, 11, index])
    donor = _DONORS[index % len(_DONORS)]

    def vary(value: float, by: float) -> float:
        return float(value * np.exp(rng.normal(0.0, by)))

    def tint(colour: Colour) -> Colour:
        return (vary(colour[0], 0.03), vary(colour[1], 0.02), vary(colour[2], 0.05))

    return replace(
        donor,
        name=f"P{index + 1}",
        haematoxylin=tint(donor.haematoxylin),
        eosin=tint(donor.eosin),
        haematoxylin_strength=vary(donor.haematoxylin_strength, 0.04),
        eosin_strength=vary(donor.eosin_strength, 0.05),
        fat=vary(donor.fat, 0.1),
        tumour=vary(donor.tumour, 0.05),
        infiltrate=vary(donor.infiltrate, 0.1),
    )
