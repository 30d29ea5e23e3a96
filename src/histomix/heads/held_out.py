"""Predictions of training rows by fits that had not seen the row's donor: what calibration and stacking learn from."""

from __future__ import annotations

import numpy as np
from sklearn.base import clone

from .base import CompositionRegressor
from .context import Places
from .inner import inner_splits


def held_out_predictions(
    estimator: CompositionRegressor,
    X: np.ndarray,
    Y: np.ndarray,
    groups: np.ndarray | None,
    places: Places | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predict every training row by a fit without its group.

    A head that makes such predictions while it is fitted (`held_out_`) is asked for them; any other is fitted again on
    each inner split.

    Parameters
    ----------
    estimator
        A fitted head.
    X, Y, groups, places
        What it was fitted on.

    Returns
    -------
    Predictions ``(n, n_types)``, NaN in rows of groups that are never held out, and what `predict_spread` is for the
    same fits; None for a head without members.
    """
    if estimator.held_out_ is not None:
        return estimator.held_out_, estimator.held_out_spread_
    values = np.full(Y.shape, np.nan)
    spread: np.ndarray | None = None
    for train, test in inner_splits(len(X), groups):
        part = clone(estimator).fit(
            X[train],
            Y[train],
            None if groups is None else np.asarray(groups)[train],
            places=None if places is None else places[train],
        )
        there = None if places is None else places[test]
        values[test] = part.predict(X[test], there)
        found = part.predict_spread(X[test], there)
        if found is not None:
            spread = np.full(Y.shape, np.nan) if spread is None else spread
            spread[test] = found
    return values, spread
