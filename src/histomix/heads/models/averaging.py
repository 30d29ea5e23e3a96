"""Heads of different families, averaged: the default head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ...errors import HeadError
from ..base import CompositionRegressor, to_unit
from ..inner_folds import held_out_predictions
from ..neighbourhood import Positions

_SEPARATOR = "/"
#: What the heads are made with, beyond the unit and the seed.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "ridge": {"smooth_um": "auto"},
    # Settings of its own are searched only where it stands alone, as a baseline.
    "sun2025": {"smooth_um": "auto", "learning_rate": 1e-3, "dropout": 0.3},
}


class AverageRegressor(CompositionRegressor):
    """The mean of what heads of different families predict.

    A linear head, small perceptrons that look around and a deep network err differently on the tissue of a donor that
    none has seen, and their mean errs less than most of them. They count alike: weights learnt from held-out donors
    (stacked regression, Breiman 1996) fit those donors, and did worse on others.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    heads
        Names of heads in the registry.
    seed
        Given to the heads that draw random numbers.
    """

    joins_heads = True

    def __init__(
        self, unit: str = "proportion", heads: tuple[str, ...] = ("ridge", "mlp", "sun2025"), seed: int = 0
    ) -> None:
        self.unit = unit
        self.heads = heads
        self.seed = seed

    def _make(self) -> dict[str, CompositionRegressor]:
        from ..registry import make_estimator

        if not self.heads or len(set(self.heads)) < len(self.heads) or "average" in self.heads:
            raise HeadError(f"heads must name different heads, and not the average itself; it is {self.heads!r}")
        return {name: make_estimator(name, self.unit, self.seed, **_PARAMETERS.get(name, {})) for name in self.heads}

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        self.members_ = self._make()
        held_out = []
        for member in self.members_.values():
            member.fit(X, Y, groups, weight, positions)
            held_out.append(held_out_predictions(member, X, Y, groups, positions)[0])
        parts = np.stack(held_out)
        known = np.isfinite(parts).all(axis=(0, 2))
        self.held_out_, self.held_out_spread_ = np.full((2, *Y.shape), np.nan)
        self.held_out_[known] = self._average(parts[:, known])
        self.held_out_spread_[known] = parts[:, known].std(axis=0)

    def _average(self, predictions: np.ndarray) -> np.ndarray:
        return to_unit(predictions.mean(axis=0), self.unit)

    def predict(self, X: Any, positions: Positions | None = None) -> np.ndarray:
        """Predict abundances; see `CompositionRegressor.predict`."""
        return self._by_members(X, positions)[0]

    def predict_spread(self, X: Any, positions: Positions | None = None) -> np.ndarray | None:
        """Standard deviation between the heads, ``(n, n_types)``."""
        return self._by_members(X, positions)[1]

    def _by_members(self, X: Any, positions: Positions | None) -> tuple[np.ndarray, np.ndarray]:
        X = self._to_predict(X)
        parts = np.stack([member.predict(X, positions) for member in self.members_.values()])
        values = np.zeros((len(parts[0]), len(self.present_)))
        spread = values.copy()
        values[:, self.present_] = self._average(parts)
        spread[:, self.present_] = parts.std(axis=0)
        return values, spread

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        return self._average(np.stack([member.predict(X, positions) for member in self.members_.values()]))

    @property
    def reach_um(self) -> float:
        """How far around a tile the farthest-reaching head's rings and smoothing reach, um."""
        return max((member.reach_um for member in getattr(self, "members_", {}).values()), default=0.0)

    @property
    def context_um(self) -> float:
        """How far around a tile the farthest-looking head looks, um."""
        return max((member.context_um for member in getattr(self, "members_", {}).values()), default=0.0)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {}

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
            if len(member.present_) != self.present_.sum() or member.n_features_in_ != self.n_features_in_:
                raise HeadError(f"the head {name} in it has other cell types or features than the average")
        return self
