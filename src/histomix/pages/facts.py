"""Facts of a run for a page: rows of a name and words, and the record itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Hexadecimal digits of a digest that are shown: enough to tell two apart, and the record has the rest.
_DIGITS = 12


def fact_rows(facts: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """Named facts as rows of name and words; absent and empty ones are left out."""
    rows = ((name.removeprefix("n_").replace("_", " "), fact_words(facts.get(name), name)) for name in names)
    return [(name, words) for name, words in rows if words]


def fact_words(value: Any, name: str = "") -> str:
    """A fact in words: its parts one after the other, of a digest the beginning, of a path the name."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        parts = ((key, fact_words(one, key)) for key, one in value.items())
        return "; ".join(f"{key.replace('_', ' ').strip()}: {words}" for key, words in parts if words)
    if isinstance(value, list | tuple):
        return ", ".join(fact_words(one) for one in value)
    if name == "file":  # the page may be handed on, and a path may name a person
        return Path(str(value)).name
    scheme, colon, digits = str(value).partition("sha256:")
    if colon:
        return f"{scheme}sha256:{digits[:_DIGITS]}…"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def raw_record(facts: Mapping[str, Any]) -> str:
    """The record as it is stored, JSON, but for the ways to files."""
    return json.dumps(_without_paths(facts), indent=1, ensure_ascii=False, default=str)


def _without_paths(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_paths(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(one) for one in value]
    return Path(value).name if name == "file" and isinstance(value, str) else value
