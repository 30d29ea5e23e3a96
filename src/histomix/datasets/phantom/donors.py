"""The cell types of the phantom, and how its donors differ."""

from __future__ import annotations

from dataclasses import dataclass

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
    """What is the same in all sections of one donor: tissue, laboratory and scanner.

    Attributes
    ----------
    haematoxylin, eosin
        Optical density of red, green and blue per unit of stain.
    haematoxylin_strength, eosin_strength
        Factors on the stain that the tissue takes up.
    light
        Red, green and blue of the empty slide, 0 to 255.
    contrast
        Exponent of the scanner's response: above 1 the picture is darker and harder.
    blur_um
        Standard deviation of the optical blur.
    nuclear_size
        Factor on the length of all nuclei (fixation, thickness of the cut).
    chromatin
        Factor on the coarseness of all nuclei's stain.
    looks
        Factors on length, width and stain of the nuclei of each kind, beside the common ones.
    grade
        Nuclear grade of the tumour, 0 (small, regular, gland-forming) to 1 (large, pleomorphic).
    fat, tumour
        Shares of the section's area.
    nest_um
        Width of the tumour nests.
    aggregates, ducts, lobules
        Numbers per mm2 of lymphoid aggregates, ducts and lobules.
    capillaries
        Number per mm2 of stroma.
    infiltrate, in_nests
        Factors on immune cells scattered in stroma and tumour, and on those inside nests besides.
    macrophages, plasma, fibroblasts
        Factors on the cells of these kinds that are scattered.
    follicle
        Radius of the B-cell follicle in a lymphoid aggregate, as a share of the aggregate's.
    fat_vessels
        Share of capillaries among the cells between fat cells; the rest are macrophages.
    cytoplasm
        Factor on the haematoxylin of the tumour's cytoplasm.
    collagen, fibres
        Density of the stroma, and factor on the contrast of its fibres.
    grain
        Factor on the roughness of all that is no nucleus.
    """

    name: str
    haematoxylin: Colour
    eosin: Colour
    haematoxylin_strength: float
    eosin_strength: float
    light: Colour
    contrast: float
    blur_um: float
    nuclear_size: float
    chromatin: float
    looks: tuple[tuple[float, float, float], ...]
    grade: float
    fat: float
    tumour: float
    nest_um: float
    aggregates: float
    ducts: float
    lobules: float
    capillaries: float
    infiltrate: float
    in_nests: float
    macrophages: float
    plasma: float
    fibroblasts: float
    follicle: float
    fat_vessels: float
    cytoplasm: float
    collagen: float
    fibres: float
    grain: float


#: The ends between which donors lie, log-uniform. They are so far apart that ridge reads a donor that it has not seen
#: clearly worse than a section that it has not seen.
_RANGES = {
    "haematoxylin_strength": (0.6, 1.55),
    "eosin_strength": (0.55, 1.6),
    "contrast": (0.8, 1.25),
    "blur_um": (0.38, 1.25),
    "nuclear_size": (0.8, 1.25),
    "chromatin": (0.55, 1.6),
    "grade": (0.15, 1.0),
    "fat": (0.06, 0.26),
    "tumour": (0.22, 0.6),
    "nest_um": (22.0, 64.0),
    "aggregates": (0.7, 3.0),
    "ducts": (0.7, 1.8),
    "lobules": (0.7, 1.8),
    "capillaries": (28.0, 110.0),
    "infiltrate": (0.45, 1.8),
    "in_nests": (0.3, 3.6),
    "macrophages": (0.5, 1.9),
    "plasma": (0.4, 2.4),
    "fibroblasts": (0.7, 1.35),
    "follicle": (0.25, 0.98),
    "fat_vessels": (0.2, 0.95),
    "cytoplasm": (0.45, 1.8),
    "collagen": (0.65, 1.5),
    "fibres": (0.4, 2.0),
    "grain": (0.4, 2.2),
}
#: Two ends for each colour: dyes of different laboratories, light of different scanners.
_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "haematoxylin": ((0.74, 0.63, 0.20), (0.50, 0.80, 0.48)),
    "eosin": ((0.05, 0.70, 0.28), (0.26, 0.90, 0.66)),
    "light": ((251.0, 243.0, 228.0), (230.0, 240.0, 251.0)),
}
#: Spread (of the logarithm) of the factors on length, width and stain of one kind's nuclei.
_LOOKS = (0.24, 0.24, 0.4)
#: Donors of one block share out each range evenly, so that few donors differ as many do.
_BLOCK = 4


def make_donor(seed: int, index: int) -> Donor:
    """Donor number ``index`` (from 0) of the phantom with this seed.

    Every four donors lie in the four quarters of each range, drawn for each range anew (a Latin hypercube).
    """
    block, place = divmod(index, _BLOCK)
    shared, own = np.random.default_rng([seed, 11, block]), np.random.default_rng([seed, 12, index])

    def draw() -> float:
        return float((shared.permutation(_BLOCK)[place] + own.uniform()) / _BLOCK)

    values = {name: low * (high / low) ** draw() for name, (low, high) in _RANGES.items()}
    colours = {}
    for name, ends in _COLOURS.items():
        (low, high), part = np.array(ends), draw()
        colours[name] = tuple(float(c) for c in low + (high - low) * part)
    looks = np.exp(own.normal(0.0, _LOOKS, (len(CELL_TYPES) + 1, 3))).tolist()
    return Donor(name=f"P{index + 1}", looks=tuple(map(tuple, looks)), **colours, **values)  # type: ignore[arg-type]
