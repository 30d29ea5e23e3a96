"""What saved arrays must be before a head counts with them: kinds of numbers, and their ranges."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..errors import HeadError

#: No fitted number is larger, and no scale is below its inverse; beyond it products overflow.
_LARGEST = 1e15


def check_saved(
    arrays: Mapping[str, np.ndarray],
    *,
    whole: Collection[str] = (),
    flags: Collection[str] = (),
    single: Collection[str] = (),
    may_be_empty: Collection[str] = (),
) -> None:
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
    single
        Names of those that are of 32-bit floating point, as torch computes with them.
    may_be_empty
        Names of those that may hold nothing.

    Raises
    ------
    HeadError
        Which array is wrong, and how.
    """
    for name, array in arrays.items():
        what = f"the saved array {name}"
        if not array.size and name not in may_be_empty:
            raise HeadError(f"{what} is empty")
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
            if name in single and array.dtype != np.float32:
                raise HeadError(f"{what} is of the type {array.dtype}; expected float32")
            if name.strip("_").split("_")[0] == "scale":
                check_scale(array, what)


def check_scale(array: np.ndarray, what: str) -> None:
    """Refuse (HeadError) what cannot be divided by."""
    if not (array > 0).all():
        raise HeadError(f"{what} holds zeros or negative numbers; a scale is above 0")
    if array.size and float(array.min()) < 1 / _LARGEST:
        raise HeadError(f"{what} holds numbers below {1 / _LARGEST:g}; no scale is that small")


def check_number(name: str, value: Any, *, whole: bool) -> None:
    """Refuse (HeadError) a number of a card that no fit leaves: one from 0 on, and below 1e15."""
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise HeadError(f"the fitted number {name} is {value!r}")
    if not 0 <= value <= _LARGEST:
        raise HeadError(f"the fitted number {name} is {value!r}; it is from 0 to {_LARGEST:g}")


def check_told(values: np.ndarray, what: str) -> None:
    """Refuse (HeadError) what a head says of tiles that could be read where it is no number."""
    if not np.isfinite(values).all():
        raise HeadError(
            f"the head gives no number for {what}: its arrays are not those of a fitted head",
            hint="Train it again, or restore it from a copy",
        )


def _check_floats(array: np.ndarray, what: str) -> None:
    if array.dtype.kind != "f":
        raise HeadError(f"{what} is of the type {array.dtype}, not floating point")
    if not np.isfinite(array).all():
        raise HeadError(f"{what} holds NaN or infinite values")
    if array.size and float(np.abs(array).max()) > _LARGEST:  # a float16 cannot hold the limit
        raise HeadError(f"{what} holds numbers beyond {_LARGEST:g}")
