"""Looking past the stain: directions in which embeddings move with the stain alone count less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy import linalg

from ..errors import HeadError
from .models.preprocess import standardise, threads_for
from .saved import check_saved

#: Variance of stain that is taken to be in the pictures, in that of the sample. More (10) gives unseen donors of the
#: phantom .002 of correlation and costs those of MoNuSAC .02; less (1) costs the phantom .01. See docs/heads.md.
STRENGTH = 3.0
#: Directions that are damped, at most: they hold nearly all that stain moves.
_DIRECTIONS = 64
#: Of fewer shifts nothing is learnt.
_FEWEST = 8
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class StainDamping:
    """Damps the directions in which embeddings move when only the stain changes; made by `fit_stain_damping`.

    With z the standardised features, each direction ``v`` in which restained tiles move with variance ``s`` is scaled
    by ``1 / sqrt(1 + STRENGTH * s)``: what a linear model with a penalty would do that had seen every training tile in
    random stains (noise as regularisation, Bishop 1995), and a soft form of nuisance attribute projection
    (Solomonoff, Campbell and Boardman 2005) and within-class covariance normalisation (Hatch, Kajarekar and Stolcke
    2006), as they are used against the channel in speaker recognition.

    Parameters
    ----------
    take, give
        float64 ``(n_features, r)``: a row ``x`` becomes ``x - (x @ take - offset) @ give.T``.
    offset
        float64 ``(r,)``.
    described
        What `facts` returns.
    """

    take: np.ndarray
    give: np.ndarray
    offset: np.ndarray
    described: dict[str, Any] = field(default_factory=dict)

    def __call__(self, X: Any) -> np.ndarray:
        """Rows as the head is to see them, float32 ``(n, n_features)``; NaN stays NaN."""
        result = np.array(X, dtype=np.float32)
        with threads_for(result.size):
            for start in range(0, len(result), _ROWS):
                rows = slice(start, start + _ROWS)
                exact = result[rows].astype(np.float64)
                result[rows] = exact - (exact @ self.take - self.offset) @ self.give.T
        return result

    def facts(self) -> dict[str, Any]:
        """What a card says: ``shifts`` and ``sections`` that it was learnt from, ``directions`` and ``strength``."""
        return dict(self.described)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in ("take", "give", "offset")}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], n_features: int, described: Mapping[str, Any]) -> Self:
        """Make one from what `arrays` and `facts` returned.

        Raises
        ------
        HeadError
            An array is missing or unknown, has the wrong shape or type, or holds numbers that cannot be.
        """
        shapes = {name: array.shape for name, array in arrays.items()}
        rank = described.get("directions", 0)
        expected = {"take": (n_features, rank), "give": (n_features, rank), "offset": (rank,)}
        if shapes != expected:
            raise HeadError(f"the arrays against the stain have shapes {shapes}; expected {expected}")
        check_saved(arrays, may_be_empty=expected)
        return cls(arrays["take"], arrays["give"], arrays["offset"], dict(described))


class Damped:
    """A table as a head is to see it, damped when rows are asked for, so that a memory-mapped file stays on disk."""

    def __init__(self, table: Any, damping: StainDamping) -> None:
        self._table = table
        self._damping = damping
        self.shape = table.shape

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._damping(self._table[rows])


def fit_stain_damping(X: np.ndarray, shifts: Sequence[Sequence[np.ndarray] | None]) -> StainDamping | None:
    """Learn what to look past.

    Parameters
    ----------
    X
        Embeddings of the training rows, ``(n, n_features)``; those of several encoders stand side by side.
    shifts
        For each training section and each encoder, how embeddings moved in other stains, ``(m, dim)``; None for a
        section without.

    Returns
    -------
    None where there are too few shifts to learn from.
    """
    known = [one for one in shifts if one is not None]
    if not known or sum(len(one[0]) for one in known) < _FEWEST:
        return None
    mean, scale = standardise(X, np.ones(len(X)))
    directions, gains, start = [], [], 0
    for block in range(len(known[0])):
        moved = np.concatenate([one[block] for one in known]).astype(np.float64)
        columns = slice(start, start + moved.shape[1])
        start = columns.stop
        # Of the squares about zero, not about their mean: the mean of a few draws is stain as well.
        _, size, vectors = linalg.svd(moved / scale[columns], full_matrices=False, check_finite=False)
        kept = min(_DIRECTIONS, int((size > size[0] * 1e-6).sum()) if size[0] > 0 else 0)
        whole = np.zeros((kept, X.shape[1]))
        whole[:, columns] = vectors[:kept]
        directions.append(whole)
        gains.append(1 - 1 / np.sqrt(1 + STRENGTH * np.square(size[:kept]) / len(moved)))
    V, gain = np.concatenate(directions).T, np.concatenate(gains)
    take, give = V / scale[:, None], V * gain * scale[:, None]
    offset = (mean / scale) @ V
    facts = {
        "shifts": sum(len(one[0]) for one in known),
        "sections": len(known),
        "directions": len(gain),
        "strength": STRENGTH,
    }
    return StainDamping(take, give, offset, facts)
