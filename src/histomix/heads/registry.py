"""The heads by name."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import HeadError
from .base import CompositionRegressor
from .knn import KNNRegressor
from .linear import MeanRegressor, RidgeRegressor
from .mlp import MLPRegressor

HEADS: dict[str, type[CompositionRegressor]] = {
    "mean": MeanRegressor,
    "ridge": RidgeRegressor,
    "knn": KNNRegressor,
    "mlp": MLPRegressor,
}


def make_estimator(name: str, unit: str = "proportion", seed: int = 0, **parameters: Any) -> CompositionRegressor:
    """Make an unfitted head.

    Parameters
    ----------
    name
        One of `HEADS`.
    unit
        "proportion" or "cells per spot".
    seed
        Given to the heads that draw random numbers.
    parameters
        Of the head's constructor.

    Raises
    ------
    HeadError
        This version has no such head, or the head has no such parameter.
    """
    if name not in HEADS:
        raise HeadError(f"this version has no head named {name!r}", mend=f"Choose one of: {', '.join(HEADS)}")
    known = list(inspect.signature(HEADS[name]).parameters)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise HeadError(f"the head {name!r} has no parameter {', '.join(unknown)}", mend=f"It has: {', '.join(known)}")
    return HEADS[name](unit=unit, **({"seed": seed} if "seed" in known else {}), **parameters)
