"""Intervals that hold for donors who were not in training: conformal calibration with whole donors held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from ...common.threads import side_by_side
from ...errors import HeadError
from ..saved import check_saved
from .quantiles import by_stratum, stratum_edges

LEVEL = 0.9
#: The error's variance is never taken below this share of its mean: a tile is not certain because it is predicted as 0.
_FLOOR = 0.01
#: Factors on intervals that were calibrated on sections of one donor, of two: they make them hold other donors of a
#: phantom (eight donors, ridge, an earlier built-in encoder: 1.9 and 2.0 at levels of .8 and .9, 1.65 and 1.75 with
#: two; of the present one less would do).
WIDENED = {1: 2.0, 2: 1.7}
WIDENED_BY = "the spread between donors of the phantom"
#: Predictions of a type are calibrated in so many strata, from low to high: a multiplier for all of them together held
#: the low ones too often and the high ones too seldom.
STRATA = 3


@dataclass(frozen=True, eq=False)
class Intervals:
    """Intervals around the predictions of a head; made by `calibrate`.

    Parameters
    ----------
    variance
        Coefficients of the expected squared error of each type: constant, per predicted value, per squared spread of
        the committee, and the least value it takes; non-negative float64 ``(4, n_types)``.
    multiplier
        Half the width of an interval over the expected error, float64 ``(n_strata, n_types)``.
    edges
        Greatest prediction of every stratum but the last, float64 ``(n_strata - 1, n_types)``.
    unit
        "proportion" (ends lie in 0 to 1) or "cells per spot" (not below 0).
    described
        What `facts` returns.
    """

    variance: np.ndarray
    multiplier: np.ndarray
    edges: np.ndarray
    unit: str
    described: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_spread(self) -> bool:
        """Whether the width depends on the spread of a committee."""
        return bool(self.variance[2].any())

    def bounds(self, values: np.ndarray, spread: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the intervals around predictions, each float64 ``(n, n_types)``.

        Parameters
        ----------
        values, spread
            What `predict` and `predict_spread` of the head give, ``(n, n_types)``; the spread may be None where
            `needs_spread` is false.

        Raises
        ------
        HeadError
            The spread is needed and None.
        """
        if spread is None and self.needs_spread:
            raise HeadError("the intervals depend on the spread of a committee, and none was given")
        place = (values[None] > self.edges[:, None]).sum(axis=0)
        half = np.take_along_axis(self.multiplier, place, axis=0) * expected_error(self.variance, values, spread)
        highest = 1.0 if self.unit == "proportion" else np.inf
        return np.clip(values - half, 0.0, highest), np.clip(values + half, 0.0, highest)

    def facts(self) -> dict[str, Any]:
        """What a card says of the calibration: level, donors, coverage of donors left out, and a statement."""
        return dict(self.described)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in ("variance", "multiplier", "edges")}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], unit: str, n_types: int, described: Mapping[str, Any]) -> Self:
        """Make intervals from what `arrays` and `facts` returned.

        Raises
        ------
        HeadError
            An array is missing or unknown, has the wrong shape, or holds negative or infinite values.
        """
        if "edges" not in arrays and "multiplier" in arrays:  # written before there were strata
            whole = np.atleast_2d(arrays["multiplier"])
            arrays = {**arrays, "multiplier": whole, "edges": whole[:0]}
        n_strata = len(arrays["multiplier"]) if "multiplier" in arrays else 1
        shapes = {"variance": (4, n_types), "multiplier": (n_strata, n_types), "edges": (n_strata - 1, n_types)}
        actual_shapes = {name: array.shape for name, array in arrays.items()}
        if actual_shapes != shapes:
            raise HeadError(f"the arrays of the intervals have shapes {actual_shapes}; expected {shapes}")
        check_saved(arrays, may_be_empty=("edges",))
        if not all((array >= 0).all() for array in arrays.values()):
            raise HeadError("the arrays of the intervals hold negative values")
        if (np.diff(arrays["edges"], axis=0) < 0).any():
            raise HeadError("the edges of the intervals' strata do not ascend")
        return cls(arrays["variance"], arrays["multiplier"], arrays["edges"], unit, dict(described))


def calibrate(
    Y: np.ndarray,
    held_out: np.ndarray,
    spread: np.ndarray | None,
    groups: np.ndarray,
    level: float = LEVEL,
    unit: str = "proportion",
    kind: str = "donor",
    n_donors: int = 1,
    strata: int = STRATA,
) -> Intervals:
    """Make intervals from predictions of donors that the predicting fits had not seen.

    The score of a spot is its absolute error over the error expected of it, whose square is linear in the prediction
    and in the squared spread of the committee (non-negative least squares, donors weighted equally). Of K donors, each
    has its own distribution of scores. Pooling them with equal weights ("CDF pooling", Dunn, Wasserman and Ramdas,
    2023, J. Am. Stat. Assoc. 118:2491) has the level in the long run, and guarantees a new, exchangeable donor
    ``level * K / (K + 1)`` whatever the distributions are, by the bound of hierarchical conformal prediction (Lee,
    Barber and Willett 2023, arXiv 2306.06342), which puts a mass of 1 / (K + 1) at infinity for the new donor. To
    guarantee the level itself takes at least ``level / (1 - level)`` donors, and with so few it takes the greatest
    error ever seen. So here the new donor's mass is put where the worst donor's is: intervals are wider the
    fewer and the more different the donors are, and tend to the pooled ones as donors are added.

    All this is done for the low, the middle and the high predictions of a type apart (Mondrian conformal prediction,
    Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World), so that the level holds in each. Of a
    stratum in which fewer than two donors have ten spots, it is done for the type as a whole.

    Parameters
    ----------
    Y
        Labels, ``(n, n_types)``.
    held_out
        Predictions of each row by a fit without its group, ``(n, n_types)``; rows with NaN are left out.
    spread
        What `predict_spread` is for those fits, ``(n, n_types)``, or None.
    groups
        Donor of each row, ``(n,)``.
    level
        Share of labels that an interval is to hold, 0.5 to 0.99.
    unit
        Of the labels: "proportion" or "cells per spot".
    kind
        What the groups are: "donor", or "section" where donors are few.
    n_donors
        Of the sections, where groups are those.
    strata
        Parts of the predictions of a type, from low to high, that are calibrated apart.

    Returns
    -------
    Intervals
        Its `facts` have ``level``, ``method``, ``kind``, ``n_donors``, ``n_groups``, ``n_spots``, ``guaranteed``,
        ``coverage`` (each group judged by the others: mean, least, greatest, and mean by position of the type),
        ``width`` (mean, and by type) and a ``statement``. Intervals calibrated on sections of one or two donors are
        ``widened``: a ``factor`` and its ``source``; the coverage is that before.

    Raises
    ------
    HeadError
        The level is out of range, or fewer than two groups have held-out predictions.
    """
    return calibrate_levels(Y, held_out, spread, groups, (level,), unit, kind, n_donors, strata)[0]


def calibrate_levels(
    Y: np.ndarray,
    held_out: np.ndarray,
    spread: np.ndarray | None,
    groups: np.ndarray,
    levels: Sequence[float],
    unit: str = "proportion",
    kind: str = "donor",
    n_donors: int = 1,
    strata: int = STRATA,
    *,
    judged: bool = True,
) -> list[Intervals]:
    """What `calibrate` makes at each of some levels, at the cost of one: only the multipliers differ.

    Without ``judged`` they have no `Intervals.facts`, which cost as much as the intervals.
    """
    for level in levels:
        if not 0.5 <= level <= 0.99:
            raise HeadError(f"the level of an interval must be from 0.5 to 0.99; it is {level!r}")
    known = np.isfinite(held_out).all(axis=1)
    if spread is not None:
        known &= np.isfinite(spread).all(axis=1)
    names, group = np.unique(np.asarray(groups)[known], return_inverse=True)
    if len(names) < 2:
        raise HeadError(
            f"intervals need held-out predictions of at least two {kind}s; there are those of {len(names)}",
            hint=f"Add {kind}s, or go without intervals",
        )
    observed, values = np.asarray(Y, dtype=np.float64)[known], held_out[known]
    width_of = None if spread is None else spread[known]
    row_weight = 1 / (np.bincount(group)[group] * len(names))
    variance = _fit_variance(np.square(observed - values), values, width_of, row_weight)
    expected = expected_error(variance, values, width_of)
    score = np.divide(np.abs(observed - values), expected, out=np.zeros_like(expected), where=expected > 0)
    edges = stratum_edges(values, row_weight, strata)

    def of_type(number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        place = (values[:, number, None] > edges[:, number]).sum(axis=1)
        return by_stratum(score[:, number], place, strata, group, len(names), levels, judged)

    with side_by_side() as each:
        by_type = list(each(of_type, range(values.shape[1])))
    made = []
    for number, level in enumerate(levels):
        multiplier = np.stack([one[number][0] for one in by_type], axis=1)
        left_out = np.stack([one[number][1] for one in by_type], axis=1)
        factor = WIDENED.get(n_donors) if kind == "section" else None
        whole = Intervals(variance, multiplier * (factor or 1.0), edges, unit)
        if judged:
            whole = _described(whole, factor, left_out, level, names, values, width_of, row_weight, kind, n_donors)
        made.append(whole)
    return made


def _described(
    plain: Intervals,
    widened: float | None,
    left_out: np.ndarray,
    level: float,
    names: np.ndarray,
    values: np.ndarray,
    width_of: np.ndarray | None,
    row_weight: np.ndarray,
    kind: str,
    n_donors: int,
) -> Intervals:
    """Intervals of one level with their facts."""
    lower, upper = plain.bounds(values, width_of)
    width = row_weight @ (upper - lower)
    facts: dict[str, Any] = {
        "level": level,
        "method": "conformal, every group held out whole and weighted equally, the next one taken to be as bad as the "
        "worst seen; low, middle and high predictions apart",
        "kind": kind,
        "n_donors": len(names) if kind == "donor" else n_donors,
        "n_groups": len(names),
        "n_spots": len(values),
        "guaranteed": round(level * len(names) / (len(names) + 1), 3),
        "coverage": {
            "mean": _round(left_out.mean()),
            "least": _round(left_out.mean(axis=1).min()),
            "greatest": _round(left_out.mean(axis=1).max()),
            "by_type": [_round(value) for value in left_out.mean(axis=0)],
        },
        "width": {"mean": _round(width.mean()), "by_type": [_round(value) for value in width]},
    }
    if widened is not None:
        facts["widened"] = {"factor": widened, "source": WIDENED_BY}
    return replace(plain, described={**facts, "statement": _statement(facts)})


def expected_error(variance: np.ndarray, values: np.ndarray, spread: np.ndarray | None) -> np.ndarray:
    """The error to expect of predictions, ``(n, n_types)``, by coefficients as those of `Intervals.variance`."""
    square = variance[0] + variance[1] * np.maximum(values, 0.0)
    if spread is not None:
        square = square + variance[2] * np.square(spread)
    error: np.ndarray = np.sqrt(np.maximum(square, variance[3]))
    return error


def _fit_variance(
    square: np.ndarray, values: np.ndarray, spread: np.ndarray | None, row_weight: np.ndarray
) -> np.ndarray:
    """Regress squared errors on the prediction and the squared spread; once more with rows of large errors shrunk."""
    result = np.zeros((4, square.shape[1]))
    for column, error in enumerate(square.T):
        level = float(row_weight @ error)
        result[3, column] = _FLOOR * level
        if level == 0:  # never present and never predicted
            continue
        parts = [np.ones(len(error)), values[:, column]]
        if spread is not None:
            parts.append(np.square(spread[:, column]))
        table = np.stack(parts, axis=1)
        size = np.abs(table).max(axis=0)
        table = table / np.where(size > 0, size, 1.0)  # of one magnitude, or the solver loses small columns
        fitted = np.full(len(error), level)
        for _ in range(2):
            # The variance of a squared error goes with the square of its mean.
            weight = np.sqrt(row_weight) / np.maximum(fitted, _FLOOR * level)
            coefficients, _ = nnls(table * weight[:, None], error * weight)
            fitted = table @ coefficients
        result[: len(parts), column] = coefficients / np.where(size > 0, size, np.inf)
    return result


def _round(value: float) -> float:
    return round(float(value), 4)


def _statement(facts: Mapping[str, Any]) -> str:
    level, coverage, kind, n = facts["level"], facts["coverage"], facts["kind"], facts["n_groups"]
    who = f"{n} donors"
    if kind != "donor":
        who = f"{n} sections of {'one donor' if facts['n_donors'] == 1 else '{n_donors} donors'.format(**facts)}"
    text = (
        f"Intervals of level {level:.2f} for the label of a spot, calibrated on {who} ({facts['n_spots']:,} spots), "
        f"each predicted by fits without it. Judged by the others, a {kind} has {coverage['mean']:.2f} of its labels "
        f"inside ({coverage['least']:.2f} to {coverage['greatest']:.2f}). "
    )
    if kind != "donor":
        if "widened" in facts:
            text += (
                f"For other donors, whose errors are larger, they are {facts['widened']['factor']:g} times wider than "
                f"that: {facts['widened']['source']}. "
            )
        return text + "They say nothing of the spread between donors of this tissue: add donors for intervals that do."
    needed = int(np.ceil(level / (1 - level) - 1e-9))
    text += (
        f"Whatever donors are like, a new one of the same kind has at least {facts['guaranteed']:.2f} on average; a "
        f"guarantee of {level:.2f} needs at least {needed} donors"
    )
    return text + ("." if n >= needed else f", so with {n} they are widened, not guaranteed.")
