"""The heads by name, each imported when it is first asked for; those on torch import it when they are fitted."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import HeadError, UnknownHeadError
from .base import CompositionRegressor

_PLACES = {
    "mean": ("linear", "MeanRegressor"),
    "ridge": ("linear", "RidgeRegressor"),
    "knn": ("knn", "KNNRegressor"),
    "mlp": ("mlp", "MLPRegressor"),
    "stack": ("stacking", "StackRegressor"),
    "sun2025": ("sun2025", "Sun2025Regressor"),
    "pcr": ("reference", "PCRRegressor"),
    "gbm": ("boosting", "BoostingRegressor"),
    "hist2cell": ("hist2cell", "Hist2CellRegressor"),
    "hist2cell-tiles": ("hist2cell", "Hist2CellTilesRegressor"),
}


class _Registry(Mapping[str, type[CompositionRegressor]]):
    """Head name -> its class."""

    def __getitem__(self, name: str) -> type[CompositionRegressor]:
        module, cls = _PLACES[name]
        found: type[CompositionRegressor] = getattr(importlib.import_module(f".{module}", __package__), cls)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)

    def __contains__(self, name: object) -> bool:
        return name in _PLACES


HEADS: Mapping[str, type[CompositionRegressor]] = _Registry()


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
        raise UnknownHeadError(f"this version has no head named {name!r}", mend=f"Choose one of: {', '.join(HEADS)}")
    kind = HEADS[name]
    known = list(inspect.signature(kind).parameters)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise HeadError(f"the head {name!r} has no parameter {', '.join(unknown)}", mend=f"It has: {', '.join(known)}")
    return kind(unit=unit, **({"seed": seed} if "seed" in known else {}), **parameters)
