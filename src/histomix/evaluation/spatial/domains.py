"""Domains: clusters of spots with like composition, and how far they agree with other clusters or with regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .moran import Array, adjusted

#: Domains that are tried when no number is given.
MOST_DOMAINS = 8
#: Spots on which the number of domains is judged.
_JUDGED = 2000
_STARTS = 10

#: What the numbers are, for the files that carry them.
DOMAINS = (
    "k-means (10 starts, seeded) on the square roots of each spot's shares (Hellinger distance), section by section; "
    "the number of domains is that of the regions, else the one from 2 to 8 with the best silhouette of the labels, "
    "and is never chosen on a prediction; adjusted Rand index: 1 is the same partition, 0 what chance gives"
)


def composition_domains(values: ArrayLike, n_domains: int, seed: int = 0) -> NDArray[np.intp]:
    """Cluster spots by composition, shape (n_spots,); a composition that is the same everywhere is one domain.

    Parameters
    ----------
    values
        Abundance, (n_spots, n_types).
    n_domains
        How many clusters.
    seed
        Of the starts of k-means.
    """
    from sklearn.cluster import KMeans

    points = _hellinger(values)
    distinct = len(np.unique(points.round(9), axis=0))
    if distinct < 2 or n_domains < 2:
        return np.zeros(len(points), dtype=np.intp)
    model = KMeans(min(n_domains, distinct), n_init=_STARTS, random_state=seed)
    return np.asarray(model.fit_predict(points), dtype=np.intp)


def choose_domains(values: ArrayLike, seed: int = 0, most: int = MOST_DOMAINS) -> int:
    """The number of domains with the best silhouette, from 2 to ``most``; 1 where there is nothing to cluster."""
    from sklearn.metrics import silhouette_score

    points = _hellinger(values)
    rng = np.random.default_rng(seed)
    rows = np.arange(len(points)) if len(points) <= _JUDGED else rng.choice(len(points), _JUDGED, replace=False)
    scores = {}
    for count in range(2, most + 1):
        domains = composition_domains(values, count, seed)[rows]
        if 1 < len(np.unique(domains)) < len(rows):
            scores[count] = silhouette_score(points[rows], domains)
    return max(scores, key=lambda count: scores[count]) if scores else 1


def partition_agreement(first: ArrayLike | Sequence[str], second: ArrayLike | Sequence[str]) -> float:
    """Adjusted Rand index of two partitions of the same spots (Hubert & Arabie 1985); NaN where either has one part."""
    from sklearn.metrics import adjusted_rand_score

    a, b = np.asarray(first).astype(str), np.asarray(second).astype(str)
    if len(a) < 2 or len(np.unique(b)) < 2:
        return float("nan")
    return float(adjusted_rand_score(b, a))


def _hellinger(values: ArrayLike) -> Array:
    return np.asarray(np.sqrt(adjusted(np.asarray(values, dtype=np.float64), "share")))
