"""A fitted head applied to tiles: values, intervals and novelty, with unreadable tiles left out of everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.threads import single_thread
from ..errors import HeadError
from .neighbourhood import Positions
from .saved import check_told
from .stain import Damped, StainDamping
from .trust.novelty import IN_SCOPE_PERCENTILE, NoveltyModel

if TYPE_CHECKING:
    from .base import CompositionRegressor
    from .trust.intervals import Intervals
    from .trust.scale import ScaleModel

_ROWS = 8192


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """What a head says of tiles; a tile that could not be read is NaN, and out of scope.

    Parameters
    ----------
    values
        Predicted abundances, float32 ``(n, n_types)``, in the unit of the head.
    lower, upper
        Ends of the calibrated intervals, float32 ``(n, n_types)``; None where the head is not calibrated.
    novelty
        Percentile among held-out training tiles, float64 ``(n,)``, 0 to 1.
    in_scope
        Whether a tile is like those of training, bool ``(n,)``.
    log_scale
        Logarithm of how much larger things look than in training, float64 ``(n,)``; None where the head cannot tell.
        One tile says little: see `histomix.heads.trust.scale.ScaleModel.check`.
    """

    values: np.ndarray
    lower: np.ndarray | None
    upper: np.ndarray | None
    novelty: np.ndarray
    in_scope: np.ndarray
    log_scale: np.ndarray | None = None


class Rows:
    """Some rows of a table, read when they are asked for, so that a memory-mapped file stays on disk."""

    def __init__(self, table: Any, rows: np.ndarray) -> None:
        self._table = table
        self._rows = rows
        self.shape = (len(rows), table.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        chosen = self._rows[rows]
        # A run of rows is one read of a file; scattered rows are as many.
        if len(chosen) and chosen[-1] - chosen[0] + 1 == len(chosen) and (np.diff(chosen) == 1).all():
            return np.asarray(self._table[int(chosen[0]) : int(chosen[-1]) + 1], dtype=np.float32)
        return np.asarray(self._table[chosen], dtype=np.float32)


def readable_rows(X: Any) -> np.ndarray:
    """Numbers of the rows without NaN or infinite values."""
    parts = [np.zeros(0, np.intp)]
    for start in range(0, len(X), _ROWS):
        block = np.asarray(X[start : start + _ROWS])
        parts.append(start + np.flatnonzero(np.isfinite(block).all(axis=1)))
    return np.concatenate(parts)


def apply_head(
    estimator: CompositionRegressor,
    novelty_model: NoveltyModel,
    intervals: Intervals | None,
    X: Any,
    positions: Positions | None,
    damping: StainDamping | None = None,
    scale_model: ScaleModel | None = None,
) -> HeadOutput:
    """Apply a head to the rows of ``X``; see `histomix.heads.Head.apply`.

    The same rows give the same bytes whatever the number of threads: a map is the same in one process of all cores and
    in workers of one core each.
    """
    if len(getattr(X, "shape", ())) != 2:
        X = np.asarray(X)
        if X.ndim != 2:
            raise HeadError(f"X must be a table of tiles x features; its shape is {X.shape}")
    rows = readable_rows(X)
    shape = (len(X), len(estimator.present_))
    whole = len(rows) == len(X)
    seen, where = (X, positions) if whole else (Rows(X, rows), None if positions is None else positions[rows])
    if damping is not None:
        seen = Damped(seen, damping)
    values = np.full(shape, np.nan, np.float32)
    lower, upper = (None, None) if intervals is None else (values.copy(), values.copy())
    with single_thread():
        if len(rows):
            predictions = estimator.predict(seen, where)
            check_told(predictions, "the cells of a tile")
            values[rows] = predictions
            if intervals is not None and lower is not None and upper is not None:
                spread = estimator.predict_spread(seen, where) if intervals.needs_spread else None
                lower[rows], upper[rows] = ends = intervals.bounds(predictions, spread)
                check_told(np.stack(ends), "the interval of a tile")
        novelty = novelty_of(novelty_model, X, rows, values)
    in_scope = np.nan_to_num(novelty, nan=np.inf) <= IN_SCOPE_PERCENTILE
    log_scale = None if scale_model is None else _in_chunks(lambda table, _: scale_model(table), X, rows)
    return HeadOutput(values, lower, upper, novelty, in_scope, log_scale)


def novelty_of(model: NoveltyModel, X: Any, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Novelty of the rows that can be read, from what is predicted of them, in chunks; NaN elsewhere."""
    return _in_chunks(lambda table, here: model(table, values[here]), X, rows)


def _in_chunks(of: Callable[[np.ndarray, np.ndarray], np.ndarray], X: Any, rows: np.ndarray) -> np.ndarray:
    """What is said of the rows that can be read, given them and their numbers; NaN elsewhere."""
    result, seen = np.full(len(X), np.nan), Rows(X, rows)
    with single_thread():
        for start in range(0, len(rows), _ROWS):
            here = slice(start, min(start + _ROWS, len(rows)))
            result[rows[here]] = told = of(seen[here], rows[here])
            check_told(told, "the novelty or scale of a tile")
    return result
