"""The phantom's transcripts: signatures of its cell types, and UMI counts of its spots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from .cells import Cells
from .donors import CANCER, CELL_TYPES

SPOT_DIAMETER_UM = 55.0
SPOT_PITCH_UM = 100.0

#: Mean transcripts in one dissociated cell of each type.
_CELL_TOTALS = np.array([2600.0, 1900.0, 1500.0, 800.0, 900.0, 1700.0, 1300.0, 1400.0])
#: Cell types that share programmes of genes, which makes them hard to tell apart.
_LINEAGES = ((0, 1), (3, 4), (3, 4, 5), (2, 6), (2, 6, 7))
_EFFICIENCY = 0.15
_BLEEDING, _BLEEDING_UM = 0.12, 75.0
_AMBIENT = 0.04

Floats = npt.NDArray[np.float64]


def make_signatures(seed: int, genes: int) -> pd.DataFrame:
    """Mean raw counts per cell, genes x cell types: housekeeping, lineage and marker genes."""
    rng = np.random.default_rng([seed, 21])
    n_types = len(CELL_TYPES)
    base = rng.lognormal(0.0, 1.3, genes)
    level = base[:, None] * rng.lognormal(0.0, 0.35, (genes, n_types))
    role = rng.permutation(genes)
    n_marker, n_lineage = genes // 40, genes // 32
    cursor = 0
    for kind in range(n_types):
        chosen = role[cursor : cursor + n_marker]
        level[chosen] *= 0.12
        level[chosen, kind] *= 8.0 * rng.lognormal(1.6, 0.5, chosen.size)
        cursor += n_marker
    for members in _LINEAGES:
        chosen = role[cursor : cursor + n_lineage]
        level[chosen] *= 0.3
        level[np.ix_(chosen, np.array(members))] *= 3.0 * rng.lognormal(1.3, 0.5, (chosen.size, 1))
        cursor += n_lineage
    level *= _CELL_TOTALS / level.sum(axis=0)
    names = pd.Index([f"GENE{gene:04d}" for gene in range(genes)], name="gene")
    return pd.DataFrame(level, index=names, columns=list(CELL_TYPES))


def spot_lattice(size_um: tuple[float, float]) -> pd.DataFrame:
    """Hexagonal lattice of spots over a section: array_row, array_col (two columns are one pitch), x_um, y_um."""
    margin = SPOT_DIAMETER_UM
    step = SPOT_PITCH_UM * np.sqrt(3.0) / 2.0
    rows = np.arange(max(0, int((size_um[1] - 2 * margin) // step)) + 1)
    columns = np.arange(max(0, int((size_um[0] - 2 * margin) // (SPOT_PITCH_UM / 2))) + 1)
    row, column = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    keep = (row + column) % 2 == 0
    row, column = row[keep], column[keep]
    table = pd.DataFrame({"array_row": row, "array_col": column})
    table["x_um"], table["y_um"] = margin + column * (SPOT_PITCH_UM / 2), margin + row * step
    table.index = pd.Index([f"{r}x{c}" for r, c in zip(row, column, strict=True)], name="spot")
    return table


def cells_around(spots: pd.DataFrame, cells: Cells, radius_um: float, weights: Floats | None = None) -> Floats:
    """Number (or total weight) of cells of each type whose centre lies within a radius of each spot: (spots, types)."""
    tree = cKDTree(np.column_stack([cells.x_um, cells.y_um]))
    neighbours = tree.query_ball_point(spots[["x_um", "y_um"]].to_numpy(), radius_um)
    totals = np.zeros((len(spots), len(CELL_TYPES)))
    for spot, members in enumerate(neighbours):
        chosen = np.asarray(members, dtype=np.intp)
        totals[spot] = np.bincount(
            cells.kind[chosen], weights=None if weights is None else weights[chosen], minlength=len(CELL_TYPES)
        )
    return totals


def draw_counts(
    rng: np.random.Generator, seed: int, donor: int, signatures: pd.DataFrame, spots: pd.DataFrame, cells: Cells
) -> sparse.csr_matrix:
    """Draw UMI counts (spots x genes) from the cells in and around the spots.

    A gamma-Poisson (negative binomial) with a dispersion per gene, a log-normal depth per spot, transcripts that
    bleed from the neighbourhood, and a few percent of ambient transcripts. Genes are caught unequally by the array,
    and each donor's cells (most of all its cancer cells) differ from the reference.
    """
    n_genes, n_types = signatures.shape
    platform = np.random.default_rng([seed, 22])
    caught = platform.lognormal(0.0, 0.45, n_genes)
    dispersion = platform.lognormal(np.log(0.25), 0.6, n_genes)
    donors = np.random.default_rng([seed, 23, donor])
    spread = np.full(n_types, 0.3)
    spread[CANCER] = 0.7
    profile = signatures.to_numpy() * donors.lognormal(0.0, 1.0, (n_genes, n_types)) ** spread * caught[:, None]

    content = rng.gamma(4.0, 0.25, cells.kind.size)  # transcripts of single cells vary: CV 0.5
    near = cells_around(spots, cells, SPOT_DIAMETER_UM / 2, content)
    around = cells_around(spots, cells, _BLEEDING_UM, content) * (SPOT_DIAMETER_UM / 2 / _BLEEDING_UM) ** 2
    expected = ((1 - _BLEEDING) * near + _BLEEDING * around) @ profile.T
    expected = (1 - _AMBIENT) * expected + _AMBIENT * expected.mean(axis=0)
    depth = _EFFICIENCY * rng.lognormal(0.0, 0.35, (len(spots), 1))
    rate = expected * depth * rng.gamma(1.0 / dispersion, dispersion, expected.shape)
    return sparse.csr_matrix(rng.poisson(rate).astype(np.int32))
