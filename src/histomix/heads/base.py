"""What every head's estimator shares: checked input, the unit of its predictions, and its fitted arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import Tags

from ..errors import HeadError
from .checks import HeadNotFittedError, abundances, column, matrix, remember_columns, rows_to_predict
from .kept_fits import fitted_once
from .look_around import NeighbourhoodMixin
from .models.preprocess import threads_for
from .neighbourhood import Positions
from .saved import check_number, check_saved

#: A head of fewer spots than this is refused.
MIN_SPOTS = 10
_PREDICT_ROWS = 2048


# scikit-learn has no types.
class CompositionRegressor(NeighbourhoodMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the estimators that map embeddings to cell-type abundances.

    Subclasses implement `_fit` and `_predict` on checked arrays that hold only the cell types seen in training; a type
    whose training column is all zero is predicted as 0. What a head sees around a tile (`rings_um`, `smooth_um`) is
    added here, before the one and after the other, so that it is the same in every head.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns of ``X`` at fit.
    feature_names_in_ : object array, (n_features,)
        Names of the columns, where ``X`` was a table with names.
    present_ : bool array, (n_types,)
        Cell types with any abundance in the training rows.
    held_out_ : float64 array, (n_spots, n_types), or None
        Predictions of the training rows by fits that had not seen the row's group, NaN for rows without; None in a head
        that makes no inner splits. Not saved.
    held_out_spread_ : float64 array, (n_spots, n_types), or None
        What `predict_spread` is for those fits.
    search_ : dict or None
        The settings that were tried, their inner scores and the choice; see `histomix.heads.models.search`. Not saved.
    """

    #: Numbers, besides `n_features_in_`, that a fitted estimator is saved with; and which of them are whole.
    _fitted_numbers: ClassVar[tuple[str, ...]] = ()
    _whole_numbers: ClassVar[tuple[str, ...]] = ()
    #: Fitted arrays that hold whole numbers from 0 on.
    _whole_arrays: ClassVar[tuple[str, ...]] = ()
    #: The head is fitted on the pixels that places give.
    sees_pixels: ClassVar[bool] = False
    #: The head fits nothing itself but other heads.
    joins_heads: ClassVar[bool] = False
    unit: str
    present_: np.ndarray
    held_out_: np.ndarray | None = None
    held_out_spread_: np.ndarray | None = None
    search_: dict[str, Any] | None = None

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        # One column per cell type, also for one type: a composition has no form with one axis.
        tags.target_tags.two_d_labels = tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.target_tags.positive_only = True
        # For a graph of spots a table alone is not enough.
        tags.input_tags.two_d_array = not self.needs_positions
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "present_")

    def fit(
        self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None, positions: Positions | None = None
    ) -> Self:
        """Fit on embeddings and labels.

        Parameters
        ----------
        X
            Embeddings, ``(n_spots, n_features)``, finite.
        y
            Abundances, ``(n_spots, n_types)``, finite and non-negative, in the unit of the constructor.
        groups
            ``(n_spots,)``: rows of one group (a donor, else a section) stay together in the inner splits that choose
            hyper-parameters. Without groups, contiguous blocks of rows are held out.
        sample_weight
            ``(n_spots,)``, non-negative.
        positions
            Where the rows are; needed by a head that looks around its tiles.

        Raises
        ------
        HeadError
            The input is not of these shapes and values; the message says which.
        """
        remember_columns(self, X, y)
        X, Y = matrix(X, "X"), abundances(y, self.unit)
        if len(X) != len(Y):
            raise HeadError(
                f"X has {len(X):,} rows and y has {len(Y)}", hint="Give one row of labels per row of features"
            )
        weight = (
            np.ones(len(X)) if sample_weight is None else column(sample_weight, "sample_weight", len(X)).astype(float)
        )
        if not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
            raise HeadError("sample_weight must be finite and non-negative, and not all zero")
        labels = None if groups is None else column(groups, "groups", len(X))
        fitted_once(self, lambda: self._fit_checked(X, Y, labels, weight, positions), X, Y, labels, weight, positions)
        return self

    def _fit_checked(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        """Fit on rows whose weight is not zero; what looks around sees all rows."""
        n_rows, kept = len(X), np.flatnonzero(weight > 0)
        if len(kept) < MIN_SPOTS:
            raise HeadError(
                f"there are {len(kept)} training spots; at least {MIN_SPOTS} are needed (n_samples={n_rows})"
            )
        self._start_context(X, positions, kept)
        neighbourhood = self._neighbourhood(positions, n_rows)
        X = self._seen(X, kept, neighbourhood, None if positions is None else self._scales(X, positions))
        labels = None if groups is None else groups[kept]
        Y, weight = Y[kept], weight[kept] / weight[kept].mean()
        self.present_ = np.asarray(Y.any(axis=0))
        if not self.present_.any():
            raise HeadError("every label is zero, so there is nothing to learn", hint="Check the labels")
        Y = Y[:, self.present_]
        if self.unit == "proportion":
            Y = Y / Y.sum(axis=1, keepdims=True)
        self.held_out_ = self.held_out_spread_ = self.search_ = None
        with threads_for(X.size):
            self._fit(X, Y, labels, weight, None if positions is None else positions[kept])
        for name in ("held_out_", "held_out_spread_"):
            if getattr(self, name) is not None:
                whole = np.full((n_rows, len(self.present_)), np.nan)
                whole[np.ix_(kept, self.present_)] = getattr(self, name)
                whole[np.ix_(kept[np.isfinite(getattr(self, name)).all(axis=1)], ~self.present_)] = 0.0
                setattr(self, name, whole)
        if self.held_out_ is not None and positions is not None:
            self._choose_smoothing(self.held_out_[kept][:, self.present_], Y, positions[kept])
        for name in ("held_out_", "held_out_spread_"):
            if getattr(self, name) is not None:
                setattr(self, name, self._smoothed(getattr(self, name), neighbourhood))

    def predict(self, X: Any, positions: Positions | None = None) -> np.ndarray:
        """Predict abundances.

        Parameters
        ----------
        X
            Embeddings, ``(n, n_features)``, finite. Any array that gives rows by their numbers will do: it is read in
            chunks, so a memory-mapped file is not loaded whole.
        positions
            Where the rows are; needed by a head that looks around its tiles.

        Returns
        -------
        float64 array, ``(n, n_types)``: non-negative; rows sum to 1 when the unit is "proportion".
        """
        return self._by_chunks(X, positions, self._predict)

    def predict_spread(self, X: Any, positions: Positions | None = None) -> np.ndarray | None:
        """Standard deviation between the members of a committee, ``(n, n_types)``; None for a head without members.

        Smoothed over neighbours as the prediction is: it says how far members disagree, not how far they err.
        """
        return None

    def as_chosen(self) -> Self:
        """An unfitted copy with the settings that its search chose, which searches no more."""
        fresh: Self = clone(self)
        chosen = (self.search_ or {}).get("chosen", {})
        fresh.set_params(**{name: value for name, value in chosen.items() if name in fresh.get_params()})
        return fresh

    def _to_predict(self, X: Any) -> Any:
        if not self.__sklearn_is_fitted__():
            raise HeadNotFittedError(f"this {type(self).__name__} is not fitted yet", hint="Call fit first")
        return rows_to_predict(self, X)

    @abstractmethod
    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None: ...

    @abstractmethod
    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray: ...

    def _by_chunks(
        self, X: Any, positions: Positions | None, function: Callable[[np.ndarray, Positions | None], np.ndarray]
    ) -> np.ndarray:
        """Apply a function of present types to chunks of rows with their rings, and smooth its result."""
        X = self._to_predict(X)
        neighbourhood = self._neighbourhood(positions, len(X))
        scales = None if positions is None else self._scales(X, positions)
        result = np.zeros((len(X), len(self.present_)))
        step = max(len(X), 1) if self.needs_positions else _PREDICT_ROWS
        with threads_for(X.shape[0] * X.shape[1]):
            for start in range(0, len(X), step):
                rows = slice(start, min(start + step, len(X)))
                block = matrix(self._seen(X, rows, neighbourhood, scales), "X", rows=0, first=start)
                result[rows, self.present_] = function(block, None if positions is None else positions[rows])
        return self._smoothed(result, neighbourhood)

    @abstractmethod
    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        """Names of the fitted arrays, each with the names of its axes; axes of one name have one length.

        An axis that is called by a number has that length.
        """

    def _torch_arrays(self) -> Collection[str]:
        """Names of the fitted arrays that torch computes with."""
        return ()

    def _check_parameters(self) -> None:
        """Raise (HeadError) on parameters that are none of a head of this kind."""

    def fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the fitted arrays and numbers: with the parameters, all that prediction needs."""
        context_arrays, lengths = self._context_fitted()
        names = ("present_", *context_arrays, *self._fitted_arrays())
        numbers = ("n_features_in_", *lengths, *self._fitted_numbers)
        return (
            {name: np.ascontiguousarray(getattr(self, name)) for name in names},
            {name: getattr(self, name) for name in numbers},
        )

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned.

        Raises
        ------
        HeadError
            An array or a number is missing, unknown or out of range (see `check_saved`), or the shapes do not fit
            together.
        """
        context_arrays, numbers_of_context = self._context_fitted()
        wanted = {"present_": ("all types",), **context_arrays, **self._fitted_arrays()}
        if set(arrays) != set(wanted):
            raise HeadError(f"the saved arrays are {sorted(arrays)}, but this kind of head has {sorted(wanted)}")
        self._check_parameters()
        for name in ("n_features_in_", *numbers_of_context, *self._fitted_numbers):
            value = numbers.get(name)
            check_number(name, value, whole=name in ("n_features_in_", *self._whole_numbers))
            setattr(self, name, value)
        kinds = {"whole": self._whole_arrays, "flags": ("present_",), "single": self._torch_arrays()}
        check_saved(arrays, may_be_empty=("rings_um_",), **kinds)
        if not arrays["present_"].any():
            raise HeadError("the saved array present_ has no cell type")
        rings = np.atleast_1d(arrays["rings_um_"] if self.rings_um == "auto" else self.rings_um)
        lengths = {
            "own features": self.n_features_in_,
            "features": self.n_features_in_ * (1 + len(rings)),
            "types": int(arrays["present_"].sum()),
        }
        for name, axes in wanted.items():
            array = arrays[name]
            if array.ndim != len(axes) or any(
                lengths.setdefault(axis, int(axis) if axis.isdigit() else n) != n
                for axis, n in zip(axes, array.shape, strict=True)
            ):
                expected = tuple(lengths.get(axis, axis) for axis in axes)
                raise HeadError(f"the saved array {name} has shape {array.shape}; expected {expected}")
            setattr(self, name, array)
        self.check_look()
        return self


def to_unit(values: np.ndarray, unit: str) -> np.ndarray:
    """Clip below at 0 and, for proportions, divide by the row's sum (a row without anything left becomes uniform).

    Linear predictions of proportions sum to 1 by themselves, so this changes only the rows that had a negative part.
    """
    values = np.maximum(values, 0.0)
    if unit != "proportion":
        return values
    total = values.sum(axis=1, keepdims=True)
    shares: np.ndarray = np.divide(values, total, out=np.full_like(values, 1 / values.shape[1]), where=total > 0)
    return shares
