"""Facts of a run as rows of a name and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Hexadecimal digits of a digest that are shown: enough to tell two apart, and the files have the rest.
_DIGITS = 12


def fact_rows(facts: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """Named facts as rows of name and words; absent and empty ones are left out."""
    rows = ((name.removeprefix("n_").replace("_", " "), _words(facts.get(name), name)) for name in names)
    return [(name, words) for name, words in rows if words]


def _words(value: Any, name: str = "") -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        parts = ((key, _words(one, key)) for key, one in value.items())
        return "; ".join(f"{key.replace('_', ' ').strip()}: {words}" for key, words in parts if words)
    if isinstance(value, list | tuple):
        return ", ".join(_words(one) for one in value)
    if name == "file":  # the page may be handed on, and a path may name a person
        return Path(str(value)).name
    scheme, colon, digits = str(value).partition("sha256:")
    if colon:
        return f"{scheme}sha256:{digits[:_DIGITS]}…"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
