"""Damage of a JSON file: deep, wide, cut, in other encodings, with other types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..case import EITHER, ERROR, Damage
from .of_bytes import LOST

DEEP = 100_000


def by_object(change: Callable[[Any], Any]) -> Damage:
    """A damage by what it makes of the object (changed in place, or returned)."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        value = json.loads(path.read_text(encoding="utf-8"))
        changed = change(value)
        path.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")

    return apply


def by_text(change: Callable[[str], bytes]) -> Damage:
    """A damage by what it makes of the text."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        path.write_bytes(change(path.read_text(encoding="utf-8")))

    return apply


def set_at(keys: Iterable[str | int], value: Any) -> Damage:
    """One value replaced; the keys lead to it."""
    *way, last = keys

    def change(top: Any) -> None:
        inner = top
        for key in way:
            inner = inner[key]
        inner[last] = value

    return by_object(change)


def _names_twice(text: str) -> str:
    """Every name of the outermost object again after it, with numbers doubled and lists turned."""
    value = json.loads(text)
    if not isinstance(value, dict):
        return text
    turned = {
        name: one * 2 if isinstance(one, int | float) else one[::-1] if isinstance(one, list) else one
        for name, one in value.items()
    }
    return json.dumps(value)[:-1] + ", " + json.dumps(turned)[1:]


WHOLE: list[tuple[str, Damage, str]] = [
    ("cut", by_text(lambda text: text[: len(text) // 2].encode()), ERROR),
    ("utf-16", by_text(lambda text: text.encode("utf-16")), EITHER),
    ("bom", by_text(lambda text: b"\xef\xbb\xbf" + text.encode()), EITHER),
    ("not-utf-8", by_text(lambda text: text.encode().replace(b'"', b'"\xff', 1)), EITHER),
    ("deep-lists", by_text(lambda _text: b"[" * DEEP + b"]" * DEEP), ERROR),
    ("deep-objects", by_text(lambda _text: b'{"a":' * DEEP + b"1" + b"}" * DEEP), ERROR),
    ("null", by_text(lambda _text: b"null"), ERROR),
    ("number", by_text(lambda _text: b"3"), ERROR),
    ("list", by_text(lambda _text: b"[]"), ERROR),
    ("object", by_text(lambda _text: b"{}"), EITHER),
    ("names-twice", by_text(lambda text: _names_twice(text).encode()), EITHER),
    ("twice", by_text(lambda text: (text + text).encode()), ERROR),
    ("single-quotes", by_text(lambda text: text.replace('"', "'").encode()), ERROR),
    ("huge-integer", by_text(lambda _text: b'{"type": ' + b"9" * 10_000 + b"}"), EITHER),
]

VALUES: tuple[Any, ...] = (None, "text", -1, 0, 1e300, float("nan"), [], {}, True, [[[]]])


def values(*ways: tuple[str | int, ...]) -> list[tuple[str, Damage, str]]:
    """Each value that a key leads to, in every type."""
    return [
        (f"{'.'.join(map(str, way))}={json.dumps(value)}", set_at(way, value), EITHER)
        for way in ways
        for value in VALUES
    ]


def lacking(*keys: str) -> list[tuple[str, Damage, str]]:
    """Without a key."""
    return [(f"no-{key}", by_object(lambda top, key=key: top.pop(key) and None), EITHER) for key in keys]


def document(*ways: tuple[str | int, ...]) -> list[tuple[str, Damage, str]]:
    """All damages of a document in which ``ways`` lead to values."""
    return [*WHOLE, *values(*ways), *LOST]
