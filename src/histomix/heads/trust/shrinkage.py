"""Means of slides drawn to the training mean, by as much as slides of held-out donors say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...common.metrics import Array, slide_means
from ..dataset import TrainingSet
from ..inner_folds import inner_groups, inner_splits

#: Donors that "all types alike" counts for beside what a type's own donors say, and "no slope at all" beside those.
_PRIOR_DONORS = 2.0


@dataclass(frozen=True, eq=False)
class HeldOutSlides:
    """Means of slides that a fit had not seen, each ``(n_slides, n_types)``.

    Attributes
    ----------
    truth, answer
        Of the labels, and of the predictions.
    constant
        The training mean of the fit that predicted them.
    donor
        Of each slide, coded from 0, ``(n_slides,)``.
    """

    truth: Array
    answer: Array
    constant: Array
    donor: NDArray[np.intp]

    @property
    def n_donors(self) -> int:
        """How many donors were held out."""
        return len(np.unique(self.donor))

    def part(self, rows: NDArray[np.bool_]) -> Self:
        """Some of the slides."""
        codes = np.unique(self.donor[rows], return_inverse=True)[1]
        return type(self)(self.truth[rows], self.answer[rows], self.constant[rows], codes)


def held_out_constant(training: TrainingSet, rows: NDArray[np.intp] | None = None) -> Array:
    """The training mean of the inner fit that holds each row out, ``(n, n_types)``; NaN where none does.

    Of the rows of a fit; None: of all.
    """
    rows = np.arange(len(training.Y)) if rows is None else rows
    groups = inner_groups(training.section[rows], training.donor[rows], training.xy_um[rows])
    constant = np.full((len(rows), training.Y.shape[1]), np.nan)
    for train, test in inner_splits(len(rows), groups):
        constant[test] = training.Y[rows[train]].mean(axis=0)
    return constant


def held_out_slides(training: TrainingSet, held_out: Array, rows: NDArray[np.intp] | None = None) -> HeldOutSlides:
    """Means of the slides that `held_out_predictions` held out of a fit on some rows (None: on all).

    Parameters
    ----------
    training
        All rows.
    held_out
        Predictions of the rows of the fit, ``(n, n_types)``; NaN where a row was never held out.
    """
    rows = np.arange(len(training.Y)) if rows is None else rows
    known = np.isfinite(held_out).all(axis=1)
    section, donor = training.section[rows][known], training.donor[rows][known]
    names, truth = slide_means(training.Y[rows][known], section)
    tables = held_out, held_out_constant(training, rows)
    answer, mean = (slide_means(values[known], section)[1] for values in tables)
    owner = dict(zip(section.tolist(), donor.tolist(), strict=True))
    codes = np.unique([owner[name] for name in names.tolist()], return_inverse=True)[1]
    return HeldOutSlides(truth, answer, mean, codes)


def level_slopes(slides: HeldOutSlides) -> Array:
    """How much of what sets a slide's predicted mean apart from the training mean is to be believed, of each type.

    The slope of the true means on the predicted ones, both less the training mean of the fit: 0 where predictions tell
    nothing of a new donor's level, 1 where they may be taken as they are, and nothing outside of these. Donors weigh
    equally. A type's slope is drawn to that of all types, and this to 0, by two donors each (as empirical Bayes does:
    Efron and Morris, J. Am. Stat. Assoc. 70, 311, 1975), since a handful of donors say little of one type.

    Returns
    -------
    float64 array, ``(n_types,)``, 0 to 1; 0 for a type whose predicted means do not vary.
    """
    n_donors = slides.n_donors
    weight = 1.0 / np.bincount(slides.donor)[slides.donor]
    apart, right = slides.answer - slides.constant, slides.truth - slides.constant
    above, below = weight @ (apart * right), weight @ np.square(apart)
    varies = below > 0
    if not varies.any():
        return np.zeros(len(below))
    # Types of every abundance count alike where they are pooled.
    size = np.maximum(weight @ np.square(right), below)[varies]
    pooled = (above[varies] / size).sum() / (below[varies] / size).sum() * n_donors / (n_donors + _PRIOR_DONORS)
    own = np.divide(above, below, out=np.zeros_like(above), where=varies)
    slopes = (n_donors * own + _PRIOR_DONORS * pooled) / (n_donors + _PRIOR_DONORS)
    return np.asarray(np.where(varies, np.clip(slopes, 0.0, 1.0), 0.0))


def shrunk(answer: Array, constant: Array, slopes: Array) -> Array:
    """Predicted means drawn to the training mean."""
    return np.asarray(constant + slopes * (answer - constant))


def shrunk_by_others(slides: HeldOutSlides) -> Array:
    """Means of slides of two donors or more, each drawn to the training mean by what the other donors' slides say."""
    means = np.empty_like(slides.answer)
    for one in np.unique(slides.donor):
        mine = slides.donor == one
        means[mine] = shrunk(slides.answer[mine], slides.constant[mine], level_slopes(slides.part(~mine)))
    return means
