"""What saved arrays must be before a head counts with them: kinds of numbers, and their ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ..errors import HeadError

#: No fitted number is larger; beyond it products overflow.
_LARGEST = 1e15


def check_saved(arrays: Mapping[str, np.ndarray], *, whole: Collection[str] = (), flags: Collection[str] = ()) -> None:
    """Refuse arrays whose numbers cannot be those of a fitted head.

    Parameters
    ----------
    arrays
        By their names.
    whole
        Names of those that hold whole numbers from 0 on (positions, choices).
    flags
        Names of those that are boolean. All others are of 16, 32 or 64-bit floating point, finite and below 1e15;
        those called ``scale`` are above 0 besides.

    Raises
    ------
    HeadError
        Which array is wrong, and how.
    """
    for name, array in arrays.items():
        what = f"the saved array {name}"
        if name in flags:
            if array.dtype != bool:
                raise HeadError(f"{what} is not boolean")
        elif name in whole:
            if array.dtype.kind not in "iu":
                raise HeadError(f"{what} is of the type {array.dtype}, not of whole numbers")
            if (array < 0).any():
                raise HeadError(f"{what} holds negative numbers")
        else:
            _check_floats(array, what)
            if name.strip("_").split("_")[0] == "scale" and not (array > 0).all():
                raise HeadError(f"{what} holds zeros or negative numbers; a scale is above 0")


def _check_floats(array: np.ndarray, what: str) -> None:
    if array.dtype.kind != "f":
        raise HeadError(f"{what} is of the type {array.dtype}, not floating point")
    if not np.isfinite(array).all():
        raise HeadError(f"{what} holds NaN or infinite values")
    if array.size and float(np.abs(array).max()) > _LARGEST:  # a float16 cannot hold the limit
        raise HeadError(f"{what} holds numbers beyond {_LARGEST:g}")
