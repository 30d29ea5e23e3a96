"""Whether predictions follow labels in place, or only in how smooth they are: correlations against maps moved apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...progress import tell
from ..metrics import MIN_SPOTS, Array, pearson, unit_deviations
from ..threads import side_by_side
from .toroidal_null import Motions, random_motions, shift_blocks

#: Shifts tried, fewer where a cohort is large, and the work (shifts x spots x types) that they may cost.
MOST_SHIFTS, FEWEST_SHIFTS, _WORK = 999, 199, 2e9
#: A sum of squares, of deviations of length 1, that is taken from a difference; less is computed with more care.
_CANCELLED = 1e-4


@dataclass(frozen=True, eq=False)
class SectionNull:
    """Correlations of the sections, as they are and after each shift.

    Attributes
    ----------
    section
        Names of the sections, in the order in which they come.
    real
        Correlation in each, ``(n_sections, n_types)``; NaN for a type that does not vary there.
    null
        The same after each shift, ``(n_sections, shifts, n_types)``; 0 where ``real`` is NaN.
    """

    section: list[str]
    real: Array
    null: Array

    def test(self, sections: NDArray[np.bool_] | slice = slice(None)) -> tuple[Array, Array]:
        """Mean over some of the sections of the correlation, and its one-sided p, each ``(n_types,)``.

        NaN for a type that varies in none of them.
        """
        known = np.isfinite(self.real[sections])
        count = known.sum(axis=0)
        real = np.where(known, self.real[sections], 0.0).sum(axis=0)
        null = self.null[sections].sum(axis=0)
        with np.errstate(invalid="ignore"):
            p = (1 + (null >= real - 1e-12).sum(axis=0)) / (1 + null.shape[0])
            return np.where(count > 0, real / count, np.nan), np.where(count > 0, p, np.nan)


def section_null(
    observed: Array,
    predicted: Array,
    xy_um: Array,
    section: NDArray[np.str_],
    seed: int = 0,
    shifts: int | None = None,
    work: float = _WORK,
) -> SectionNull:
    """Correlate predictions with labels in each section, as they lie and after random motions of the prediction.

    Two smooth maps correlate by chance far more often than spots drawn at random would. So the predictions of a section
    are moved as a whole (`toroidal_null.random_shifts`): they keep their values' smoothness and lose their place.

    Parameters
    ----------
    observed, predicted
        ``(n_spots, n_types)``.
    xy_um
        Centres of the spots, ``(n_spots, 2)``.
    section
        Of each spot; the correlation is per section, as in the metric ``pearson``.
    seed
        Of the shifts.
    shifts
        How many; None: 999, or fewer in a large cohort.
    work
        Shifts x spots x types at which there are fewer.
    """
    if shifts is None:
        shifts = int(np.clip(work / max(observed.size, 1), FEWEST_SHIFTS, MOST_SHIFTS))
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(section.tolist()))
    real = np.full((len(names), observed.shape[1]), np.nan)
    null = np.zeros((len(names), shifts, observed.shape[1]))

    def moved(number: int, rows: NDArray[np.intp], motions: Motions) -> int:
        r = real[number]
        null[number] = np.where(np.isfinite(r), _shifted(observed[rows], predicted[rows], xy_um[rows], motions), 0.0)
        return number

    def pieces() -> Iterator[tuple[int, NDArray[np.intp], Motions]]:
        for number, name in enumerate(names):
            rows = np.flatnonzero(section == name)
            r = pearson(observed[rows], predicted[rows])
            if len(rows) >= MIN_SPOTS and np.isfinite(r).any():
                real[number] = r
                yield number, rows, random_motions(shifts, rng)

    tell("maps moved apart (sections)", 0, len(names))
    with side_by_side() as each:
        for number in each(lambda piece: moved(*piece), pieces()):
            tell("maps moved apart (sections)", number, len(names))
    tell("maps moved apart (sections)", len(names), len(names))
    return SectionNull(names, real, null)


def shift_null(
    observed: Array, predicted: Array, xy_um: Array, section: NDArray[np.str_], seed: int = 0, shifts: int | None = None
) -> tuple[Array, Array]:
    """Test whether predictions follow labels in place: `section_null` of all sections.

    Returns
    -------
    Mean over sections of the correlation, and its one-sided p, each ``(n_types,)``; NaN for a type that varies in no
    section.
    """
    return section_null(observed, predicted, xy_um, section, seed, shifts).test()


def _shifted(observed: Array, predicted: Array, xy: Array, motions: Motions) -> Array:
    """Correlation after each shift, ``(shifts, n_types)``."""
    unit = unit_deviations(observed)
    scaled = unit_deviations(predicted)
    varies = scaled.any(axis=0)
    powers = np.concatenate([scaled, np.square(scaled)], axis=1)
    found, n, first = np.empty((len(motions), observed.shape[1])), len(scaled), 0
    for sources in shift_blocks(xy, motions):
        block = found[first : first + len(sources)]
        # How often each spot is taken tells sum and square of what is moved.
        taken = np.bincount((sources + n * np.arange(len(sources))[:, None]).ravel(), minlength=sources.size)
        total, square = np.split(taken.reshape(sources.shape).astype(np.float64) @ powers, 2, axis=1)
        square -= total**2 / n
        # The labels' deviations add up to 0, so that the mean of what is moved drops out.
        for row, source in zip(block, sources, strict=True):
            np.einsum("nk,nk->k", unit, scaled[source], out=row)
        block /= np.sqrt(np.maximum(square, _CANCELLED))
        few = varies & (square <= _CANCELLED)  # little is left of a map, or nothing
        for number in np.flatnonzero(few.any(axis=1)):
            some = few[number]
            block[number, some] = (unit[:, some] * unit_deviations(scaled[sources[number]][:, some])).sum(axis=0)
        first += len(sources)
    return found
