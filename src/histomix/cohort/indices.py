"""How cell types mix: indices of a composition on neighbouring tiles, each with its formula and source."""

from __future__ import annotations

import numpy as np


def shannon(composition: np.ndarray) -> float:
    """Diversity of a composition, ``-sum p ln p`` in nats (Shannon, 1948); NaN for an empty one."""
    total = float(composition.sum())
    if not total > 0:
        return float("nan")
    fractions = composition[composition > 0] / total
    return float(-(fractions * np.log(fractions)).sum())


def evenness(composition: np.ndarray) -> float:
    """`shannon` divided by its largest value ``ln k`` (Pielou, 1966): 1 where all k types are equally common."""
    return shannon(composition) / np.log(len(composition)) if len(composition) > 1 else float("nan")


def joins(weights: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contacts between types over neighbouring tiles, and their expectation if tiles were laid out at random.

    With ``w_ia`` the share of type a in tile i and P the pairs of neighbours::

        J_ab = sum over (i, j) in P of (w_ia w_jb + w_ja w_ib)  for a != b;  sum of w_ia w_ja  for a = b
        E_ab = |P| / (n (n - 1)) * (W_a W_b - sum_i w_ia w_ib) * (2 for a != b, else 1),  W_a = sum_i w_ia

    For one type a tile (one-hot weights) these are the join counts of Cliff and Ord (1981, "Spatial Processes"), with
    the expectation under sampling without replacement; for shares they are the same with every cell's contacts in
    proportion. Tiles of tissue resemble their neighbours, so that random layout is a yardstick, and no null hypothesis
    to be rejected: there is no p value.

    Parameters
    ----------
    weights
        (n, k), not negative, no NaN.
    pairs
        (pairs, 2) rows of neighbouring tiles, each pair once.

    Returns
    -------
    ``(observed, expected)``, symmetric float64 (k, k); the upper triangle with the diagonal adds up to the number of
    pairs where each row of weights adds up to 1.
    """
    n, k = weights.shape
    if n < 2 or not len(pairs):
        return np.zeros((k, k)), np.full((k, k), np.nan)
    left, right = weights[pairs[:, 0]], weights[pairs[:, 1]]
    half = left.T @ right
    observed = half + half.T
    total = weights.sum(axis=0)
    expected = 2 * len(pairs) / (n * (n - 1)) * (np.outer(total, total) - weights.T @ weights)
    same = np.diag_indices(k)
    observed[same] /= 2
    expected[same] /= 2
    return observed, expected


def one_hot(dominant: np.ndarray, k: int) -> np.ndarray:
    """(n, k) with a 1 at each tile's dominant type."""
    indicators: np.ndarray = np.eye(k)[dominant]
    return indicators


def mixing(observed: np.ndarray) -> float:
    """Share of neighbouring pairs of different types: off-diagonal joins over all joins; NaN without pairs."""
    upper = float(np.triu(observed).sum())
    return float(np.triu(observed, 1).sum()) / upper if upper > 0 else float("nan")


def morisita_horn(amounts: np.ndarray) -> np.ndarray:
    """Overlap of every two types over tiles, 0 (never together) to 1 (the same distribution).

    ``2 sum_i p_ia p_ib / (sum_i p_ia^2 + sum_i p_ib^2)`` with ``p_ia`` the share of all of type a that lies in tile i
    (Horn, 1966; used on immune and cancer cells by Maley and others, 2015, Breast Cancer Research 17:131).

    Parameters
    ----------
    amounts
        (n, k), not negative.

    Returns
    -------
    float64 (k, k), NaN for a type that is nowhere.
    """
    total = amounts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = amounts / total
        squares = (fractions**2).sum(axis=0)
        return np.asarray(2 * fractions.T @ fractions / (squares[:, None] + squares))
