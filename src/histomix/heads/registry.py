"""The heads by name, each imported when it is first asked for; those on torch import it when they are fitted."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import HeadError, UnknownHeadError
from .base import CompositionRegressor

_PLACES = {
    "mean": ("models.linear", "MeanRegressor"),
    "ridge": ("models.linear", "RidgeRegressor"),
    "knn": ("models.knn", "KNNRegressor"),
    "mlp": ("models.mlp", "MLPRegressor"),
    "average": ("models.averaging", "AverageRegressor"),
    "sun2025": ("models.sun2025", "Sun2025Regressor"),
    "pcr": ("models.pcr", "PCRRegressor"),
    "gbm": ("models.boosting", "BoostingRegressor"),
    "hist2cell": ("models.hist2cell", "Hist2CellRegressor"),
    "hist2cell-tiles": ("models.hist2cell", "Hist2CellTilesRegressor"),
}


#: The head that is trained where none is named; ``default`` is another name of it.
DEFAULT = "average"


class _Registry(Mapping[str, type[CompositionRegressor]]):
    """Head name -> its class."""

    def __getitem__(self, name: str) -> type[CompositionRegressor]:
        module, cls = _PLACES[name]
        regressor: type[CompositionRegressor] = getattr(importlib.import_module(f".{module}", __package__), cls)
        return regressor

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)

    def __contains__(self, name: object) -> bool:
        return name in _PLACES


HEADS: Mapping[str, type[CompositionRegressor]] = _Registry()


def head_name(name: str) -> str:
    """The name in `HEADS` that is meant: "default" is `DEFAULT`.

    Raises
    ------
    UnknownHeadError
        This version has no such head.
    """
    meant = DEFAULT if name == "default" else name
    if meant not in HEADS:
        raise UnknownHeadError(f"this version has no head named {name!r}", hint=f"Choose one of: {', '.join(HEADS)}")
    return meant


def make_estimator(name: str, unit: str = "proportion", seed: int = 0, **parameters: Any) -> CompositionRegressor:
    """Make an unfitted head.

    Parameters
    ----------
    name
        One of `HEADS`, or "default".
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
    name = head_name(name)
    kind = HEADS[name]
    known = list(inspect.signature(kind).parameters)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise HeadError(f"the head {name!r} has no parameter {', '.join(unknown)}", hint=f"It has: {', '.join(known)}")
    return kind(unit=unit, **({"seed": seed} if "seed" in known else {}), **parameters)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "tuple": tuple,
}


def parse_settings(head: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read parameters of a head.

    Parameters
    ----------
    head
        One of `HEADS`, or "default".
    texts
        ``NAME=VALUE``; a list of numbers is separated by commas (nothing is an empty one), and "none" is None where the
        parameter may be that.

    Raises
    ------
    HeadError
        The head or the parameter is unknown, or the value is not of its kind.
    """
    head = head_name(head)
    signature = inspect.signature(HEADS[head]).parameters
    known = [name for name in signature if name not in ("unit", "seed")]
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or name not in known:
            what = (
                f"{text!r} is not NAME=VALUE" if not equals else f"the head {head!r} has no parameter {name!r} to set"
            )
            raise HeadError(what, hint=f"Its parameters: {', '.join(known) or 'none'}")
        settings[name] = _value(name, value.strip(), str(signature[name].annotation))
    return settings


def _value(name: str, text: str, annotation: str) -> Any:
    """The value of one parameter, whose annotation is that of the source."""
    kinds = re.findall(r"\b(int|float|bool|str|tuple|None)\b", re.sub(r"\[.*?\]", "", annotation))
    low = text.lower()
    if "None" in kinds and low == "none":
        return None
    if "bool" in kinds and low in ("true", "false"):
        return low == "true"
    if "tuple" in kinds and not text:
        return ()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if "tuple" in kinds and not isinstance(value, str):
        value = tuple(value) if isinstance(value, tuple | list) else (value,)
    for kind in kinds:
        if kind != "None" and isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool)):
            return value
    raise HeadError(f"the parameter {name} is {annotation}; {text!r} is not that", hint=f"Give {name}=VALUE")
