"""Fits that are kept while the work that needs them goes on: after a kill they are not made again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.storage.unfinished import UnfinishedWork, current_work, digest_array

if TYPE_CHECKING:
    from .neighbourhood import Positions

#: A fit that took less is as fast made again, seconds.
LEAST_S = 0.5
#: Beginning of the names of fits among the parts of unfinished work.
FITS = "fit-"


def fitted_once(
    estimator: Any,
    fit: Callable[[], None],
    X: np.ndarray,
    Y: np.ndarray,
    groups: Any,
    weight: np.ndarray,
    positions: Positions | None,
) -> None:
    """Call ``fit``, which sets the fitted attributes; or set those that unfinished work has kept of the same fit.

    A head on pixels is not kept: what it is fitted on is not in these tables. Nor is one that only joins heads that
    are.
    """
    work = current_work()
    if work is None or estimator.sees_pixels or estimator.joins_heads:
        fit()
        _lay_out(estimator)
        return
    key = FITS + work.key(
        head=f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        parameters=repr(sorted(estimator.get_params().items())),
        X=[digest_array(X), bool(X.flags.fnc)],
        Y=digest_array(Y),
        groups=digest_array(groups),
        weight=digest_array(weight),
        section=None if positions is None else digest_array(positions.section),
        xy_um=None if positions is None else digest_array(positions.xy_um),
    )
    part = work.recall(key)
    if part is not None:
        arrays, facts = part
        for name, value in {**arrays, **facts}.items():
            setattr(estimator, name, value)
        return
    start = time.perf_counter()
    fit()
    _lay_out(estimator)
    if time.perf_counter() - start >= LEAST_S:
        _keep(work, key, estimator)


def _lay_out(estimator: Any) -> None:
    """Leave no array a part of a larger one: products differ in the last bit with the order in memory."""
    for name, value in list(vars(estimator).items()):
        if isinstance(value, np.ndarray) and not value.flags.forc:
            setattr(estimator, name, np.ascontiguousarray(value))


def _keep(work: UnfinishedWork, key: str, estimator: Any) -> None:
    """Keep the attributes of a fit, unless one of them is neither an array nor JSON."""
    # Names of columns are set before the fit.
    others = {*estimator.get_params(), "feature_names_in_"}
    fitted = {name: value for name, value in vars(estimator).items() if name not in others}
    arrays = {name: value for name, value in fitted.items() if isinstance(value, np.ndarray)}
    facts = {name: value for name, value in fitted.items() if name not in arrays}
    plain = all(array.dtype.kind in "fiub" and array.dtype.isnative for array in arrays.values())
    if plain and all(_is_json(value) for value in facts.values()):
        work.keep(key, arrays, facts)


def _is_json(value: Any) -> bool:
    """Whether a value is the same after it was written as JSON and read."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_json(one) for name, one in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, float, str)
