"""What the fields of a card must be, of whatever kind a stranger has made them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ...common.naming import OWN_COLUMNS
from ...common.units import LABEL_UNITS

#: A name of a cell type or an encoder is a line, not a text.
_LONGEST_NAME = 1000
#: No encoder gives more numbers for a tile, and no tile is larger.
_MOST_FEATURES, _LARGEST_TILE_PX = 1_000_000, 65_536
_LARGEST_MPP = 100.0

_Test = Callable[[Any], bool]


def _table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _name(value: Any) -> bool:
    return isinstance(value, str) and len(value.strip()) > 0 and len(value) <= _LONGEST_NAME


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_name, value)) and len(set(value)) == len(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(most: int) -> _Test:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(map(_table, value))


def _or_none(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(_text, value)))


#: Of the card: what a field must be, in words; those that older cards lack may be absent.
_CARD: dict[str, tuple[_Test, str]] = {
    "format": (_whole(10**6), "a whole number"),
    "histomix": (_text, "text"),
    "name": (_text, "text"),
    "unit": (
        lambda value: value in LABEL_UNITS if isinstance(value, str) else False,
        f"one of {', '.join(LABEL_UNITS)}",
    ),
    "cell_types": (
        lambda value: _names(value) and not OWN_COLUMNS.intersection(value),
        "a list of different names, none of them of a column of a map",
    ),
    "encoders": (lambda value: _tables(value) and bool(value), "a list of encoders"),
    "head": (_table, "a table of kind, parameters and fitted"),
    "files": (_table, "a table of files"),
    "training": (_table, "a table of facts"),
    "tissue": (_words, "a list of names"),
}
_OPTIONAL: dict[str, tuple[_Test, str]] = {
    "encoder_licences": (_or_none(_tables), "a list of licences"),
    "licences": (_or_none(_table), "a table of licences"),
    "context_um": (_or_none(lambda value: _number(value) and value >= 0), "a number from 0 on"),
    "scores": (_or_none(_table), "a table of scores"),
    "levels": (_or_none(_table), "a table"),
    "crop_stability": (_or_none(_table), "a table"),
    "precision": (_or_none(_table), "a table"),
    "answers": (_or_none(_table), "a table"),
    "stain_damping": (_or_none(_table), "a table"),
    "scale_check": (_or_none(_table), "a table"),
    "calibration": (_or_none(_table), "a table"),
    "intended_use": (_or_none(_text), "text"),
    "limits": (_or_none(_text), "text"),
    "versions": (_or_none(_table), "a table"),
}
_ENCODER: dict[str, tuple[_Test, str]] = {
    "name": (_name, "a name"),
    "dim": (_whole(_MOST_FEATURES), "a whole number above 0"),
    "size_px": (_whole(_LARGEST_TILE_PX), "a whole number above 0"),
    "mpp": (lambda value: _number(value) and 0 < value <= _LARGEST_MPP, "a number above 0 and at most 100"),
}
_HEAD: dict[str, tuple[_Test, str]] = {
    "kind": (_name, "a name"),
    "parameters": (_table, "a table"),
    "fitted": (_table, "a table"),
}


def card_fault(card: Mapping[str, Any]) -> str | None:
    """The first field of a card that cannot be one of a head, in words; None where all can."""
    present = {name: kind for name, kind in _OPTIONAL.items() if name in card}
    fault = _fault(card, _CARD | present, "")
    if fault is None:
        fault = _fault(card["head"], _HEAD, "of the head ")
    for encoder in card["encoders"] if fault is None else ():
        fault = fault or _fault(encoder, _ENCODER, "of an encoder ")
    if fault is None and card["head"]["parameters"].get("unit", card["unit"]) != card["unit"]:
        fault = "its unit is not that of the head's parameters"
    return fault


def _fault(table: Mapping[str, Any], kinds: Mapping[str, tuple[_Test, str]], whose: str) -> str | None:
    for name, (is_right, kind) in kinds.items():
        if name not in table:
            return f"the field {name} {whose}is missing"
        if not is_right(table[name]):
            return f"the field {name} {whose}is not {kind}"
    return None
