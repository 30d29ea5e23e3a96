"""Areas rich in both B and T lineage cells, as tertiary lymphoid structures are: TLS-like, no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .lattice import connected


@dataclass(frozen=True)
class TlsRule:
    """What counts as a TLS-like hot spot. The numbers are ours, chosen before any data, and not validated.

    Parameters
    ----------
    b_types, t_types
        Names of the cell types that are of the B lineage (with plasma cells, if wanted) and of the T lineage.
    min_z
        Least Getis-Ord Gi* of the B share and of the T share (2.58: the upper half per cent of a normal distribution).
    min_b, min_bt
        Least share of B lineage, and of B and T lineage together, in the tile: Gi* is relative to the slide, and the
        hottest place of a slide without lymphocytes is none.
    min_area_mm2
        Smaller connected areas are not counted.
    """

    b_types: Sequence[str] = field(default=())
    t_types: Sequence[str] = field(default=())
    min_z: float = 2.58
    min_b: float = 0.05
    min_bt: float = 0.2
    min_area_mm2: float = 0.02

    def columns(self, types: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the two lineages among ``types``.

        Raises
        ------
        InputError
            A type is not among them, is of both lineages, or a lineage has none.
        """
        names = list(types)
        for lineage, given in (("B", self.b_types), ("T", self.t_types)):
            if not given:
                raise InputError(
                    f"no cell type is declared to be of the {lineage} lineage", hint="Declare both lineages"
                )
            unknown = [name for name in given if name not in names]
            if unknown:
                raise InputError(
                    f"{', '.join(unknown)} of the {lineage} lineage is no cell type of the maps",
                    hint=f"Choose among: {', '.join(names)}",
                )
        both = sorted(set(self.b_types) & set(self.t_types))
        if both:
            raise InputError(f"{', '.join(both)} cannot be of both lineages", hint="Declare each type once")
        b, t = ([names.index(name) for name in given] for given in (self.b_types, self.t_types))
        return np.array(b), np.array(t)


@dataclass(frozen=True, eq=False)
class HotSpots:
    """Hot spots of a slide: ``label`` (n,), 0 outside, else the number of the hot spot, the largest first."""

    label: np.ndarray
    count: int


def getis_ord(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Gi*, how unusual the sum over a tile and its neighbours is on this slide, as a z score (Ord and Getis, 1995).

    ``Gi* = (sum_j w_ij x_j - W_i mean) / (s sqrt((n W_i - W_i^2) / (n - 1)))`` with ``w_ij`` 1 for i itself and its
    neighbours, ``W_i`` their number, and ``s`` the standard deviation over n.

    Parameters
    ----------
    values
        (n,), no NaN.
    pairs
        (pairs, 2) neighbouring rows, each pair once.

    Returns
    -------
    float64 (n,); 0 where all values are equal, or where the neighbours are the whole slide.
    """
    n = len(values)
    around, size = values.astype(float), np.ones(n)
    for a, b in ((0, 1), (1, 0)):
        around = around + np.bincount(pairs[:, a], values[pairs[:, b]], minlength=n)
        size += np.bincount(pairs[:, a], minlength=n)
    spread = float(values.std())
    scale = spread * np.sqrt(np.maximum(n * size - size**2, 0) / max(n - 1, 1))
    excess = around - size * values.mean()
    scores: np.ndarray = np.divide(excess, scale, out=np.zeros(n), where=scale > 1e-12)
    return scores


def tls_like(
    proportions: np.ndarray, types: Sequence[str], pairs: np.ndarray, cell_mm2: float, rule: TlsRule
) -> HotSpots:
    """Find TLS-like hot spots: connected tiles that are hot for both lineages.

    A tile is hot where Gi* of the B share and of the T share reach ``min_z`` and the shares reach their floors. Hot
    tiles that share a side are one hot spot, if they cover ``min_area_mm2``.

    What is found are areas of a predicted map. A tertiary lymphoid structure is a diagnosis on organisation (follicle,
    germinal centre, high endothelial venules) that a map of tiles does not show.

    Parameters
    ----------
    proportions
        (n, k) compositions, no NaN.
    types
        Names of the k types.
    pairs
        Neighbouring rows.
    cell_mm2
        Area of a tile's cell of the grid.
    rule
        What counts.

    Raises
    ------
    InputError
        The rule names a type that is not there.
    """
    b, t = rule.columns(types)
    b_fraction, t_fraction = proportions[:, b].sum(axis=1), proportions[:, t].sum(axis=1)
    hot = (b_fraction >= rule.min_b) & (b_fraction + t_fraction >= rule.min_bt)
    for lineage in (b_fraction, t_fraction):
        hot &= getis_ord(lineage, pairs) >= rule.min_z
    inside = pairs[hot[pairs].all(axis=1)]
    _, part = connected(len(proportions), inside)
    size = np.bincount(part[hot], minlength=part.max(initial=0) + 1) if hot.any() else np.zeros(1, int)
    # A tile's area is exact only up to rounding; an area of just the least counts.
    large = np.flatnonzero(size * cell_mm2 >= rule.min_area_mm2 * (1 - 1e-9))
    large = large[(size[large] > 0)]
    ranked = large[np.lexsort((large, -size[large]))]
    label = np.zeros(len(proportions), np.int64)
    for number, which in enumerate(ranked, start=1):
        label[hot & (part == which)] = number
    return HotSpots(label, len(ranked))
