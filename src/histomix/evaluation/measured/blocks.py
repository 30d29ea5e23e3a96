"""Intervals of scores over one section, from a bootstrap of blocks of neighbouring spots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.metrics import Array, auroc, pearson
from ...common.resampling import LEVEL
from ...progress import told

DRAWS = 500
#: Side of a block in tiles, and the fewest blocks that make an interval.
BLOCK_TILES, MIN_BLOCKS = 5, 10

BLOCKS = (
    f"percentile bootstrap, {DRAWS} draws of square blocks of {BLOCK_TILES} x {BLOCK_TILES} tiles of the one slide, "
    f"since neighbouring tiles are not independent; none with fewer than {MIN_BLOCKS} blocks; it says how sure the "
    "number is for this slide and nothing about other donors"
)


def block_of(xy_um: ArrayLike, tile_um: float) -> NDArray[np.intp]:
    """Number of the block that each tile lies in, (n,)."""
    cells = np.floor(np.asarray(xy_um, dtype=np.float64) / (BLOCK_TILES * tile_um)).astype(np.int64)
    return np.asarray(np.unique(cells, axis=0, return_inverse=True)[1]).ravel().astype(np.intp)


def block_interval(
    observed: ArrayLike,
    predicted: ArrayLike,
    block: NDArray[np.intp],
    seed: int,
    *,
    statistic: str = "pearson",
    bare: bool = False,
) -> Any:
    """Mean over columns of a score, with its interval.

    Parameters
    ----------
    observed, predicted
        Shape (n, n_types); observed is bool for ``"auroc"``.
    block
        From `block_of`, (n,).
    seed
        Of the draws.
    statistic
        ``"pearson"`` or ``"auroc"``.
    bare
        Give ``(low, high)`` alone.

    Returns
    -------
    dict with mean, low, high (None with too few blocks), n_types and n_blocks.
    """
    scores: Callable[[Any, Array], Array] = auroc if statistic == "auroc" else pearson
    y, p = np.asarray(observed), np.asarray(predicted, dtype=np.float64)
    names, codes = np.unique(block, return_inverse=True)
    rows = [np.flatnonzero(codes == one) for one in range(len(names))]
    low = high = None
    if len(rows) >= MIN_BLOCKS:
        rng = np.random.default_rng(seed)
        draws = []
        for _ in told("look at blocks (draws)", range(DRAWS)):
            chosen = np.concatenate([rows[one] for one in rng.integers(len(rows), size=len(rows))])
            draws.append(_mean(scores(y[chosen], p[chosen])))
        known = np.array(draws)[np.isfinite(draws)]
        if len(known) > DRAWS // 2:
            low, high = (float(edge) for edge in np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    if bare:
        return low, high
    values = scores(y, p)
    mean = _mean(values)
    return {
        "mean": mean if np.isfinite(mean) else None,
        "low": low,
        "high": high,
        "n_types": int(np.isfinite(values).sum()),
        "n_blocks": len(rows),
    }


def _mean(values: Array) -> float:
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
