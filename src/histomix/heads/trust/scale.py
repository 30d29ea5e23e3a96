"""Whether a slide's um per px can be right, from how large things look to the encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy import linalg
from scipy.special import ndtri

from ...errors import HeadError
from ..inner_folds import inner_folds
from ..models.preprocess import threads_for
from ..saved import check_saved

#: Of slides whose um per px is right, so many are said to be wrong; and of wrong ones, so many are to be told.
FALSE_ALARMS, POWER = 0.05, 0.8
#: Spread (of the logarithm) of donors' sizes before any is seen, and how many donors that is worth: pathologists' own
#: outlines of nuclei (MoNuSAC, 12 patients) have .10 in lymphocytes and .15 in epithelium.
_PRIOR_SPREAD, _PRIOR_DONORS = 0.15, 2.0
#: Penalties on the squared weights (of standardised features), and on what the estimate says of donors' means: how much
#: donors that look alike help depends on the encoder and the cohort. The first where there are too few to choose.
_PENALTIES = ((0.3, 0.0), (1.0, 3.0), (1.0, 30.0), (10.0, 30.0))
#: A logarithm of how much larger things look is none beyond this.
_FARTHEST = 10.0
#: An estimate that follows the scale by less than this tells nothing.
_LEAST_SLOPE = 0.3


@dataclass(frozen=True, eq=False)
class ScaleModel:
    """Tells how much larger a slide looks than those of training; made by `fit_scale`.

    Parameters
    ----------
    weights, offset
        The estimate of a tile is ``x @ weights + offset``, the logarithm of how much larger it looks; float64
        ``(n_features,)`` of the first features, those of the first encoder, and ``(1,)``.
    described
        What `facts` returns.
    """

    weights: np.ndarray
    offset: np.ndarray
    described: dict[str, Any] = field(default_factory=dict)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Estimate of each row, float64 ``(n,)``."""
        # Not a product of matrices, whose last bits depend on the number of threads.
        seen = np.asarray(X[:, : len(self.weights)], dtype=np.float64)
        estimates: np.ndarray = np.einsum("nf,f->n", seen, self.weights) + self.offset[0]
        return estimates

    def check(self, estimates: np.ndarray, out_of_focus: bool = False) -> dict[str, Any] | None:
        """Judge a slide by the estimates of its readable tiles, ``(n,)``; None without any.

        Parameters
        ----------
        estimates
            What the model gives of them.
        out_of_focus
            Whether most of them are out of focus: that makes things look larger too, and is said.

        Returns
        -------
        dict
            ``factor`` (how much larger things look than in training), ``limit`` (beyond it, or below its inverse, it is
            said), ``told`` and ``words`` ("" where there is nothing to say).
        """
        if not len(estimates):
            return None
        mean, limit = float(np.clip(np.mean(estimates), -_FARTHEST, _FARTHEST)), float(self.described["limit"])
        factor = math.exp(mean)
        told = not 1 / limit <= factor <= limit
        words = ""
        if told:
            size = f"{factor:.1f} times larger" if factor > 1 else f"{1 / factor:.1f} times smaller"
            words = f"cells look {size} than in training: check the um per px (--mpp)"
            if out_of_focus and factor > 1:
                words += ", and the focus, since what is blurred looks larger"
        return {"factor": round(factor, 3), "limit": limit, "told": told, "words": words}

    def facts(self) -> dict[str, Any]:
        """What a card says: ``n_donors``, ``spread``, ``limit``, ``least`` (smallest factor that is told) and words."""
        return dict(self.described)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays."""
        return {"weights": np.ascontiguousarray(self.weights), "offset": self.offset}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], n_features: int, described: Mapping[str, Any]) -> Self:
        """Make a model from what `arrays` and `facts` returned, for so many features of the head's first encoder.

        Raises
        ------
        HeadError
            An array is missing or unknown, or has the wrong shape or kind; or the limit is no factor above 1.
        """
        shapes = {name: array.shape for name, array in arrays.items()}
        expected = {"weights": (n_features,), "offset": (1,)}
        if shapes != expected:
            raise HeadError(f"the arrays of the scale check have shapes {shapes}; expected {expected}")
        check_saved(arrays)
        limit = described.get("limit")
        if not isinstance(limit, int | float) or not 1 < limit < math.inf:
            raise HeadError(f"the limit of the scale check is {limit!r}; it is a factor above 1")
        return cls(arrays["weights"], arrays["offset"], dict(described))


def fit_scale(
    samples: Sequence[np.ndarray],
    factors: np.ndarray,
    levels: Sequence[np.ndarray],
    donors: Sequence[str],
) -> ScaleModel | None:
    """Learn to tell how much larger tiles look, and by how much donors differ when their scale is right.

    Ridge regression on the embeddings of a sample of tiles that was read at several scales. Donors (sections, of fewer
    than three donors) are held out in turn, which tells how far the estimate follows the scale, and what is estimated
    of an unseen donor whose scale is right. The spread of those is drawn towards a prior, since few donors tell little.

    Parameters
    ----------
    samples
        Of each section, ``(m, n_factors, n_features)``.
    factors
        How much larger things look, ``(n_factors,)``.
    levels
        Of each section, embeddings of all its tiles at its own scale, ``(n, n_features)`` or wider.
    donors
        Of each section.

    Returns
    -------
    None where the estimate does not follow the scale.
    """
    n_features = samples[0].shape[2]
    rows = np.concatenate([sample.reshape(-1, n_features) for sample in samples])
    target = np.concatenate([np.tile(np.log(factors), len(sample)) for sample in samples])
    section = np.repeat(np.arange(len(samples)), [len(sample) * len(factors) for sample in samples])
    _, donor = np.unique(np.asarray(donors), return_inverse=True)
    n_donors = int(donor.max()) + 1
    group = donor if n_donors > 2 else np.arange(len(samples))
    penalties = _PENALTIES if n_donors > 2 else _PENALTIES[:1]
    followed = np.full((len(penalties), len(samples)), np.nan)
    found = followed.copy()
    # A section that is alone cannot be held out.
    everything = np.arange(len(samples))
    splits = inner_folds(len(group), group) if len(np.unique(group)) > 1 else [everything]
    with threads_for(rows.size):
        for held in splits:
            kept = ~np.isin(section, held) | (len(held) == len(samples))
            table = _Table.of(rows[kept], target[kept], group[section[kept]])
            for number, penalty in enumerate(penalties):
                weights, offset = table.ridge(*penalty)
                for one in held.tolist():
                    estimates = (samples[one] @ weights).mean(axis=0)
                    followed[number, one] = np.polyfit(np.log(factors), estimates, 1)[0]
                    found[number, one] = float((levels[one][:, :n_features] @ weights).mean()) + offset
        slopes = followed.mean(axis=1)
        donors_found = np.stack([found[:, donor == one].mean(axis=1) for one in range(n_donors)], axis=1)
        follows = np.maximum(slopes, _LEAST_SLOPE)
        spreads = [_spread(one) for one in donors_found / follows[:, None]]
        best = int(np.argmin(np.where(slopes < _LEAST_SLOPE, np.inf, spreads)))
        slope, spread = float(slopes[best]), spreads[best]
        if slope < _LEAST_SLOPE:
            return None
        weights, offset = _Table.of(rows, target, group[section]).ridge(*penalties[best])
    by_donor = donors_found[best] / slope
    limit = math.exp(float(ndtri(1 - FALSE_ALARMS / 2)) * spread)
    least = math.exp(float(ndtri(1 - FALSE_ALARMS / 2) + ndtri(POWER)) * spread)
    facts = {
        "n_donors": n_donors,
        "spread": round(spread, 4),
        "limit": round(limit, 4),
        "least": round(least, 4),
        "follows": round(slope, 4),
        "words": f"A slide that looks {limit:.2g} times larger or smaller than those of training is said to; of um per "
        f"px that are wrong by a factor of {least:.2g}, {POWER:.0%} are told (expected from {n_donors} "
        f"{'donor' if n_donors == 1 else 'donors'} and a prior).",
    }
    return ScaleModel(weights / slope, np.array([offset / slope - by_donor.mean()]), facts)


def _spread(by_donor: np.ndarray) -> float:
    """SD between a new donor and the mean of these, with the prior in it."""
    n = len(by_donor)
    square = float(np.square(by_donor - by_donor.mean()).sum())
    variance = (_PRIOR_DONORS * _PRIOR_SPREAD**2 + square) / (_PRIOR_DONORS + n - 1)
    return math.sqrt(variance * (1 + 1 / n))


@dataclass(frozen=True, eq=False)
class _Table:
    """Rows to fit: standardised, groups weighted equally; and the means of groups at each scale."""

    Z: np.ndarray
    wanted: np.ndarray
    means: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    centre: float

    @classmethod
    def of(cls, X: np.ndarray, y: np.ndarray, group: np.ndarray) -> _Table:
        _, group = np.unique(group, return_inverse=True)
        share = 1 / (np.bincount(group)[group] * (group.max() + 1))
        mean = share @ X
        Z = X.astype(np.float64) - mean
        sd = np.sqrt(share @ np.square(Z))
        sd = np.maximum(sd, 1e-6 * max(float(sd.max()), 1e-12))
        Z /= sd
        centre = float(share @ y)
        parts = []
        for scale in np.unique(y):
            here = y == scale
            means = np.stack([Z[here & (group == one)].mean(axis=0) for one in np.unique(group[here])])
            parts.append((means - means.mean(axis=0)) / math.sqrt(len(means)))
        means = np.concatenate(parts) / math.sqrt(len(parts))
        return cls(Z * np.sqrt(share)[:, None], (y - centre) * np.sqrt(share), means, mean, sd, centre)

    def ridge(self, alpha: float, beta: float) -> tuple[np.ndarray, float]:
        """Weights of the features as they are, float64 ``(n_features,)``, and offset."""
        # Of a mean of donors, less the mean of all, nothing is to be said: rows whose target is 0.
        Z = np.concatenate([self.Z, math.sqrt(beta) * self.means]) if beta else self.Z
        wanted = np.concatenate([self.wanted, np.zeros(len(self.means))]) if beta else self.wanted
        if len(Z) < Z.shape[1]:
            weights = Z.T @ linalg.solve(Z @ Z.T + alpha * np.eye(len(Z)), wanted, assume_a="pos")
        else:
            weights = linalg.solve(Z.T @ Z + alpha * np.eye(Z.shape[1]), Z.T @ wanted, assume_a="pos")
        weights = weights / self.sd
        return weights, self.centre - float(self.mean @ weights)
