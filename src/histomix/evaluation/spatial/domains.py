"""Domains: clusters of spots with like composition, and how far they agree with other clusters or with regions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .moran import Array, adjusted

#: Domains that are tried when no number is given.
MOST_DOMAINS = 8
#: Spots on which the number of domains is judged.
_JUDGED = 2000
_STARTS = 10
#: Up to this many spots all distances between them are held, and starts are drawn from these.
_HELD = 1000

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
    return _Points(values).domains(n_domains, seed)


def choose_domains(values: ArrayLike, seed: int = 0, most: int = MOST_DOMAINS) -> int:
    """The number of domains with the best silhouette, from 2 to ``most``; 1 where there is nothing to cluster."""
    return best_domains(values, seed, most)[0]


def best_domains(values: ArrayLike, seed: int = 0, most: int = MOST_DOMAINS) -> tuple[int, NDArray[np.intp]]:
    """What `choose_domains` returns, and the `composition_domains` of so many."""
    from sklearn.metrics import pairwise_distances, silhouette_score

    points = _Points(values)
    rng = np.random.default_rng(seed)
    rows = np.arange(len(points)) if len(points) <= _JUDGED else rng.choice(len(points), _JUDGED, replace=False)
    distance = pairwise_distances(points.points[rows])
    found, best = (1, points.domains(1, seed)), -np.inf
    for count in range(2, most + 1):
        domains = points.domains(count, seed)
        if 1 < len(np.unique(domains[rows])) < len(rows):
            score = silhouette_score(distance, domains[rows], metric="precomputed")
            if score > best:
                found, best = (count, domains), score
    return found


class _Points:
    """Compositions as points, and what is found once of them for all numbers of domains."""

    def __init__(self, values: ArrayLike) -> None:
        from sklearn.metrics import euclidean_distances

        self.points = _hellinger(values)
        self.distinct = len(np.unique(self.points.round(9), axis=0))
        about = self.points - self.points.mean(axis=0)
        self.square = euclidean_distances(about, squared=True) if len(about) <= _HELD else None

    def __len__(self) -> int:
        return len(self.points)

    def domains(self, count: int, seed: int) -> NDArray[np.intp]:
        """See `composition_domains`."""
        from sklearn.cluster import KMeans

        if self.distinct < 2 or count < 2:
            return np.zeros(len(self.points), dtype=np.intp)
        start = "k-means++" if self.square is None else partial(_start, self.square)
        model = KMeans(min(count, self.distinct), init=start, n_init=_STARTS, random_state=seed)
        return np.asarray(model.fit_predict(self.points), dtype=np.intp)


def _start(square: Array, points: Array, count: int, random_state: np.random.RandomState) -> Array:
    """Spots of `sklearn.cluster.kmeans_plusplus`, drawn by the same numbers, from squared distances that are known."""
    n, trials = len(points), 2 + int(np.log(count))
    chosen = [int(random_state.choice(n, p=np.full(n, 1 / n)))]
    nearest = square[chosen[0]]
    total = nearest.sum()
    for _ in range(1, count):
        at = np.searchsorted(np.cumsum(nearest), random_state.uniform(size=trials) * total)
        candidates = np.minimum(at, n - 1)
        each = np.minimum(nearest, square[candidates])
        totals = each.sum(axis=1)
        best = int(totals.argmin())
        nearest, total = each[best], totals[best]
        chosen.append(int(candidates[best]))
    return np.asarray(points[chosen])


def partition_agreement(first: ArrayLike | Sequence[str], second: ArrayLike | Sequence[str]) -> float:
    """Adjusted Rand index of two partitions of the same spots (Hubert & Arabie 1985); NaN where either has one part."""
    from sklearn.metrics import adjusted_rand_score

    a, b = np.asarray(first).astype(str), np.asarray(second).astype(str)
    if len(a) < 2 or len(np.unique(b)) < 2:
        return float("nan")
    return float(adjusted_rand_score(b, a))


def _hellinger(values: ArrayLike) -> Array:
    return np.asarray(np.sqrt(adjusted(np.asarray(values, dtype=np.float64), "share")))
