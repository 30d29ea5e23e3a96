"""Several heads averaged, with weights learnt from predictions of donors that the heads had not seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from ...errors import HeadError
from ..base import CompositionRegressor, to_unit
from ..inner_folds import held_out_predictions
from ..neighbourhood import Positions

_SEPARATOR = "/"
#: What the heads of a stack are made with, beyond the unit and the seed.
_PARAMETERS: dict[str, dict[str, Any]] = {"ridge": {"smooth_um": "auto"}, "sun2025": {"smooth_um": "auto"}}


class StackRegressor(CompositionRegressor):
    """A weighted average of heads (stacked regression, Breiman 1996).

    Each head predicts the rows of every inner split from the others' groups. The weights are those, not negative and
    summing to 1, with which these predictions err least in squares, relative to each type's variance, averaged with
    equal ones: weights learnt from few donors fit those donors. They are one number a head, for all cell types.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    heads
        Names of heads in the registry.
    seed
        Given to the heads that draw random numbers.

    Attributes
    ----------
    weights_ : float64 array, (n_heads,)
    """

    def __init__(
        self, unit: str = "proportion", heads: tuple[str, ...] = ("ridge", "mlp", "sun2025"), seed: int = 0
    ) -> None:
        self.unit = unit
        self.heads = heads
        self.seed = seed

    def _make(self) -> dict[str, CompositionRegressor]:
        from ..registry import make_estimator

        if not self.heads or len(set(self.heads)) < len(self.heads) or "stack" in self.heads:
            raise HeadError(f"heads must name different heads, and not the stack itself; it is {self.heads!r}")
        return {name: make_estimator(name, self.unit, self.seed, **_PARAMETERS.get(name, {})) for name in self.heads}

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        self.members_ = self._make()
        held_out = []
        for member in self.members_.values():
            member.fit(X, Y, groups, weight, positions)
            held_out.append(held_out_predictions(member, X, Y, groups, positions)[0])
        stacked = np.stack(held_out)
        known = np.isfinite(stacked).all(axis=(0, 2))
        self.weights_ = stacking_weights(stacked[:, known], Y[known], weight[known])
        self.held_out_ = np.full(Y.shape, np.nan)
        self.held_out_[known] = self._average(stacked[:, known])

    def _average(self, predictions: np.ndarray) -> np.ndarray:
        return to_unit(np.tensordot(self.weights_, predictions, axes=1), self.unit)

    def predict(self, X: Any, positions: Positions | None = None) -> np.ndarray:
        """Predict abundances; see `CompositionRegressor.predict`."""
        return self._by_members(X, positions)[0]

    def predict_spread(self, X: Any, positions: Positions | None = None) -> np.ndarray | None:
        """Weighted standard deviation between the heads, ``(n, n_types)``."""
        return self._by_members(X, positions)[1]

    def _by_members(self, X: Any, positions: Positions | None) -> tuple[np.ndarray, np.ndarray]:
        X = self._to_predict(X)
        parts = np.stack([member.predict(X, positions) for member in self.members_.values()])
        values = np.zeros((len(parts[0]), len(self.present_)))
        spread = values.copy()
        values[:, self.present_] = self._average(parts)
        mean = np.tensordot(self.weights_, parts, axes=1)
        spread[:, self.present_] = np.sqrt(np.tensordot(self.weights_, np.square(parts - mean), axes=1))
        return values, spread

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        return self._average(np.stack([member.predict(X, positions) for member in self.members_.values()]))

    @property
    def context_um(self) -> float:
        """How far around a tile the farthest-looking head looks, um."""
        return max((member.context_um for member in getattr(self, "members_", {}).values()), default=0.0)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {"weights_": ("heads",)}

    def fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the fitted arrays and numbers, those of a head under its name."""
        arrays, numbers = super().fitted()
        for name, member in self.members_.items():
            theirs = member.fitted()
            arrays |= {f"{name}{_SEPARATOR}{key}": value for key, value in theirs[0].items()}
            numbers |= {f"{name}{_SEPARATOR}{key}": value for key, value in theirs[1].items()}
        return arrays, numbers

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned; raises what `CompositionRegressor.restore` does."""

        def of(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
            start = name + _SEPARATOR
            return {key.removeprefix(start): value for key, value in table.items() if key.startswith(start)}

        self.members_ = self._make()
        own = {key: value for key, value in arrays.items() if key.split(_SEPARATOR)[0] not in self.members_}
        super().restore(own, numbers)
        for name, member in self.members_.items():
            try:
                member.restore(of(name, arrays), of(name, numbers))
            except HeadError as error:
                what = error.what.replace("the saved array ", f"the saved array {name}{_SEPARATOR}")
                raise HeadError(what, where=error.where, hint=error.hint) from error
        if len(self.weights_) != len(self.members_):
            raise HeadError(f"the saved array weights_ has shape {self.weights_.shape}; expected {len(self.members_)}")
        return self


def stacking_weights(predictions: np.ndarray, Y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weights, not negative and summing to 1: half those of the average that is nearest to the labels, half equal.

    Parameters
    ----------
    predictions
        Held-out predictions, ``(n_heads, n_rows, n_types)``.
    Y, weight
        Labels and weights of the rows. Errors are counted in units of each type's standard deviation.
    """
    scale = np.sqrt(np.maximum(np.var(Y, axis=0), np.finfo(float).tiny))
    stacked, labels = predictions / scale, Y / scale
    root = np.sqrt(weight)[:, None]
    A, b = (stacked * root).reshape(len(stacked), -1).T, (labels * root).ravel()
    # The same problem in as many rows as there are heads; its heavy last row holds the sum to 1.
    small = np.asarray(np.linalg.qr(np.column_stack([A, b]), mode="r"))
    heavy = 1e4 * max(float(np.abs(small).max()), 1.0)
    nearest = nnls(np.vstack([small[:, :-1], np.full(A.shape[1], heavy)]), np.append(small[:, -1], heavy))[0]
    return np.asarray((nearest / nearest.sum() + 1 / len(nearest)) / 2)
