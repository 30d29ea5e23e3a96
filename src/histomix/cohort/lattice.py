"""Which tiles of a map are neighbours."""

from __future__ import annotations

import numpy as np

#: Places closer than this many steps are neighbours: the four sides of a square grid, the six of a hexagonal one.
NEAR = 1.2


def neighbour_pairs(xy: np.ndarray, step: float) -> np.ndarray:
    """Pairs of tiles that share a side.

    Parameters
    ----------
    xy
        Centres, (n, 2), in any unit.
    step
        Distance of neighbouring centres in the same unit (`nearest_pitch`).

    Returns
    -------
    int64 (pairs, 2), each pair once, the smaller row first, sorted.
    """
    from scipy.spatial import cKDTree

    if len(xy) < 2:
        return np.empty((0, 2), np.int64)
    pairs = cKDTree(xy).query_pairs(NEAR * step, output_type="ndarray").astype(np.int64)
    pairs = np.sort(pairs, axis=1)
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


def connected(n: int, pairs: np.ndarray) -> tuple[int, np.ndarray]:
    """Connected parts of a graph of ``n`` nodes: their number, and the part of each node."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    count, labels = connected_components(graph, directed=False)
    return int(count), labels
