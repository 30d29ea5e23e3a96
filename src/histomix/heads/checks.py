"""What a head's estimator is given: tables of finite numbers, or an error that says what is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array, validate_data

from ..abundance import UNITS
from ..errors import HeadError, HeadTypeError

#: Rows of proportions may miss 1 by this much (rounding in a published table) before they are refused.
SUM_TOLERANCE = 0.01


# scikit-learn has no types.
class HeadNotFittedError(HeadError, NotFittedError):  # type: ignore[misc]
    """An estimator is asked for predictions before it is fitted."""


def matrix(values: Any, name: str, rows: int = 1, first: int = 0) -> np.ndarray:
    """Check a table of finite numbers; ``first`` is the number of its first row in a larger one."""
    # scikit-learn's own check reads arrays of every kind, and says in its words what is none.
    array = _from_sklearn(
        f"{name} must hold numbers",
        check_array,
        values,
        dtype="numeric",
        ensure_all_finite=False,
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=0,
        input_name=name,
    )
    if array.ndim != 2 or array.shape[0] < rows:
        hint = "Reshape your data to one row per spot, and one column per " + (
            "cell type" if name == "y" else "feature"
        )
        raise HeadError(
            f"{name} must be a table of rows x columns with at least one of each; its shape is {array.shape}", hint=hint
        )
    if array.dtype.kind not in "fiub":
        raise HeadError(f"{name} must hold numbers; it holds {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        bad = first + int(np.flatnonzero(~finite)[0])
        raise HeadError(
            f"{name} holds NaN or infinite values in {(~finite).sum():,} of {len(array):,} rows (first: row {bad})"
        )
    return np.asarray(array)


def column(values: Any, name: str, length: int) -> np.ndarray:
    """Check that there is one value per spot."""
    array = np.asarray(values)
    if array.shape != (length,):
        raise HeadError(f"{name} must have one value per spot, so shape ({length},); its shape is {array.shape}")
    return array


def abundances(y: Any, unit: str) -> np.ndarray:
    """Check a table of labels in a unit, float64 ``(n_spots, n_types)``."""
    Y = matrix(y, "y").astype(np.float64, copy=False)
    if unit not in UNITS:
        raise HeadError(f"the unit is {unit!r}", hint=f"Choose one of: {', '.join(UNITS)}")
    if (Y < 0).any():
        raise HeadError(f"y holds negative abundances in {(Y < 0).any(axis=1).sum():,} of {len(Y):,} rows")
    if unit == "proportion":
        off = np.abs(Y.sum(axis=1) - 1) > SUM_TOLERANCE
        if off.any():
            first = int(np.flatnonzero(off)[0])
            raise HeadError(
                f"the unit is proportion, but {off.sum():,} of {len(Y):,} rows of y do not sum to 1 "
                f"(first: row {first}, sum {Y[first].sum():.4g})",
                hint="Divide each row by its sum, or say unit='cells per spot'",
            )
    return Y


def remember_columns(estimator: Any, X: Any, y: Any) -> None:
    """Set the number of features, and their names where ``X`` has any; ``y`` must be there."""
    _from_sklearn(None, validate_data, estimator, X, y, skip_check_array=True)


def rows_to_predict(estimator: Any, X: Any) -> Any:
    """Rows whose columns are those of the fit: ``X`` itself where it gives rows by their numbers, else as an array."""
    if len(getattr(X, "shape", ())) != 2 or sparse.issparse(X):
        X = matrix(X, "X", rows=0)
    _from_sklearn(
        None, validate_data, estimator, X, hint="Embed with the encoder of the head", reset=False, skip_check_array=True
    )
    return matrix(X, "X", rows=0) if hasattr(X, "columns") else X


def _from_sklearn(what: str | None, check: Any, *values: Any, hint: str | None = None, **settings: Any) -> Any:
    """Call a check of scikit-learn; its refusals are errors of a head, in its words."""
    try:
        return check(*values, **settings)
    except (TypeError, ValueError) as error:
        # Some of its messages go on with the values themselves.
        reason = str(error).strip() if what is None else str(error).strip().split("\n")[0]
        kind = HeadTypeError if isinstance(error, TypeError) else HeadError
        raise kind(reason.rstrip(".") if what is None else f"{what} ({reason.rstrip('.')})", hint=hint) from error
