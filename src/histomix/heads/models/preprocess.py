"""Steps before a regressor, fitted on its training rows only: standardise columns, rotate to principal components."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from scipy import linalg

from ...common.threads import single_thread
from ...errors import HeadError


def standardise(X: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean and standard deviation of each column, float64; a constant column gets 1."""
    total = weight.sum()
    mean = (weight @ X) / total
    variance = np.zeros(X.shape[1])
    for start in range(0, len(X), 4096):  # a 50,000 x 1536 table is not doubled in memory
        rows = slice(start, start + 4096)
        variance += weight[rows] @ np.square(X[rows] - mean)
    variance /= total
    # Float rounding leaves a constant column a variance near eps^2 * mean^2, which must not be blown up to 1.
    constant = variance <= (10 * np.finfo(X.dtype).eps * np.abs(mean)) ** 2
    return mean, np.sqrt(np.where(constant, 1.0, variance))


def standardise_without(
    X: np.ndarray, weight: np.ndarray, held_out: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`standardise` of all rows less each set of held-out ones, from one pass over the rows; the sets share none."""
    whole = weight.sum()
    origin = (weight @ X) / whole
    unseen = np.ones(len(X), bool)
    for rows in held_out:
        unseen[rows] = False

    def sums(rows: np.ndarray) -> np.ndarray:
        """Of deviations from the origin, and of their squares."""
        totals = np.zeros((2, X.shape[1]))
        for start in range(0, len(rows), 4096):
            part = rows[start : start + 4096]
            deviation = X[part] - origin
            totals += weight[part] @ deviation, weight[part] @ np.square(deviation)
        return totals

    parts = [sums(rows) for rows in held_out]
    total = sums(np.flatnonzero(unseen)) + np.sum(parts, axis=0)
    result = []
    for rows, part in zip(held_out, parts, strict=True):
        shift, square = (total - part) / (whole - weight[rows].sum())
        mean, variance = origin + shift, square - np.square(shift)
        # Of a column that varies in the held-out rows alone, rounding is left.
        rounding = np.maximum((10 * np.finfo(X.dtype).eps * np.abs(mean)) ** 2, 1e-12 * total[1] / whole)
        result.append((mean, np.sqrt(np.where(variance <= rounding, 1.0, variance))))
    return result


def spectrum(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors (n_features, r) and positive eigenvalues (r,) of ``X.T @ X``, descending.

    They come from the smaller of the two Gram matrices. X must be centred; r is its rank.
    """
    n, d = X.shape
    gram = X @ X.T if n < d else X.T @ X
    # Divide and conquer: of float32 its vectors are orthogonal to 3e-6, those of the default driver to 1e-3.
    values, vectors = linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(values[0], np.finfo(values.dtype).tiny) * max(n, d) * np.finfo(values.dtype).eps
    values, vectors = values[kept], vectors[:, kept]
    if n < d:
        vectors = (X.T @ vectors) / np.sqrt(values)
    return vectors, values


def principal_components(X: np.ndarray, weight: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, scale and the leading ``n`` components (as columns) of the standardised rows, float32.

    Fewer than ``n`` where the rank is lower.
    """
    mean, scale = standardise(X, weight)
    vectors, values = spectrum(((X - mean) / scale).astype(np.float32) * np.sqrt(weight, dtype=np.float32)[:, None])
    if not len(values):
        raise HeadError("the features are the same in every training spot", hint="Check the tiles and the encoder")
    return mean.astype(np.float32), scale.astype(np.float32), vectors[:, :n].astype(np.float32)


def rotate(X: np.ndarray, mean: np.ndarray, scale: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Coordinates of the rows of ``X`` along the principal components, float32."""
    result = np.empty((len(X), components.shape[1]), np.float32)
    for start in range(0, len(X), 4096):  # as above
        rows = slice(start, start + 4096)
        result[rows] = ((X[rows] - mean) / scale).astype(np.float32) @ components
    return result


#: Embeddings with fewer values than this are worked on by one thread.
SMALL = 20_000_000


def threads_for(n_values: int) -> AbstractContextManager[Any]:
    """Keep linear algebra to one thread while a table of ``n_values`` (rows x columns) is worked on, if it is small.

    The steps of a small fit are so short that threads spend it waiting for one another: on two cores of which one is
    busy, the eigenvectors of 1,000 spots took seven times as long with two threads as with one.
    """
    return single_thread() if n_values < SMALL else contextlib.nullcontext()
