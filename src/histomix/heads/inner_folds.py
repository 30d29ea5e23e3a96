"""Inner splits: how a head chooses its hyper-parameters without looking outside its training rows."""

from __future__ import annotations

import numpy as np

from .base import CompositionRegressor
from .neighbourhood import Positions

#: Inner folds at most: with more groups than this, whole groups share a fold.
N_FOLDS = 5
#: Donors from which inner splits hold out donors.
MIN_DONORS = 3
#: Least share of the rows that an inner split may train on.
MIN_TRAINING = 0.25


def inner_folds(n_rows: int, groups: np.ndarray | None) -> list[np.ndarray]:
    """Rows held out in each inner fold.

    One group a fold, or `N_FOLDS` folds of whole groups, largest group first into the smallest fold, when there are
    more. Without at least two groups: contiguous blocks of rows, since neighbouring rows of a spots file are
    neighbouring spots, which must not stand on both sides.

    Returns
    -------
    Sorted row indices per fold; together they are all rows, once.
    """
    names, group = np.unique(np.zeros(n_rows, int) if groups is None else groups, return_inverse=True)
    if len(names) < 2:
        return np.array_split(np.arange(n_rows), min(N_FOLDS, n_rows))
    sizes = np.bincount(group)
    load = np.zeros(min(N_FOLDS, len(names)), int)
    fold_of = np.empty(len(names), int)
    for index in np.argsort(-sizes, kind="stable"):
        fold_of[index] = load.argmin()
        load[load.argmin()] += sizes[index]
    return [np.flatnonzero(fold_of[group] == fold) for fold in range(len(load))]


def held_out_kind(section: np.ndarray, donor: np.ndarray) -> str:
    """What inner splits of these rows hold out whole: "donor", "section" or "strip"; see `inner_groups`."""
    n_donors, n_sections = len(np.unique(donor)), len(np.unique(section))
    # Two donors with a section each are held out with their sections.
    if n_donors >= MIN_DONORS or n_donors == n_sections == 2:
        return "donor"
    return "section" if n_sections > 1 else "strip"


def inner_groups(section: np.ndarray, donor: np.ndarray, xy_um: np.ndarray) -> np.ndarray:
    """Choose what inner splits keep together: donors if there are three, else sections, else strips of the one section.

    Of two donors each would be read by a head trained on the other alone: that tells how donors' levels differ, and
    little of how long to train on both (with a second donor, sections of the first were read worse).

    Parameters
    ----------
    section, donor
        Names, ``(n,)``.
    xy_um
        Positions, ``(n, 2)``, used for strips across the longer side only.

    Returns
    -------
    ``(n,)`` group labels.
    """
    kind = held_out_kind(section, donor)
    if kind != "strip":
        return np.asarray(donor if kind == "donor" else section)
    along = xy_um[:, np.ptp(xy_um, axis=0).argmax()]
    edges = np.quantile(along, np.linspace(0, 1, N_FOLDS + 1)[1:-1])
    return np.searchsorted(edges, along, side="right")


def inner_splits(n_rows: int, groups: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row indices (training, held out) of every inner split; see `inner_folds`.

    Splits that would train on less than `MIN_TRAINING` of the rows (all but one huge group) are left out: they tell
    little of a head trained on all rows.
    """
    everything = np.arange(n_rows)
    folds = [rows for rows in inner_folds(n_rows, groups) if n_rows - len(rows) >= MIN_TRAINING * n_rows]
    return [(np.setdiff1d(everything, rows, assume_unique=True), rows) for rows in folds]


def held_out_predictions(
    estimator: CompositionRegressor,
    X: np.ndarray,
    Y: np.ndarray,
    groups: np.ndarray | None,
    positions: Positions | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predict every training row by a fit without its group.

    A head that makes such predictions while it is fitted (`held_out_`) is asked for them; any other is fitted again on
    each inner split, with the settings that its search has chosen.

    Parameters
    ----------
    estimator
        A fitted head.
    X, Y, groups, positions
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
        fold_fit = estimator.as_chosen().fit(
            X[train],
            Y[train],
            None if groups is None else np.asarray(groups)[train],
            positions=None if positions is None else positions[train],
        )
        there = None if positions is None else positions[test]
        values[test] = fold_fit.predict(X[test], there)
        fold_spread = fold_fit.predict_spread(X[test], there)
        if fold_spread is not None:
            spread = np.full(Y.shape, np.nan) if spread is None else spread
            spread[test] = fold_spread
    return values, spread
