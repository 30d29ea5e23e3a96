"""What a card says of features that others computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = {
    "encoder": "the encoder",
    "tile_um": "the size of the tiles",
    "side_px0": "the size of the tiles",
    "tile_px": "the size of the tiles",
    "mpp": "their um per px",
    "origin": "what a place is of its tile",
    "scale": "the px of the places",
    "slide_mpp": "the slide's um per px",
}


def imported_notes(encoders: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each encoder whose features others computed; none for those that were run here."""
    return [_note(one, one["imported"]) for one in encoders if isinstance(one.get("imported"), Mapping)]


def _note(encoder: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    parts = []
    for where, words in (("stated", "stated"), ("read", "read from the files"), ("by_format", "as the format has it")):
        names = list(dict.fromkeys(_NAMES[name] for name in facts.get(where) or () if name in _NAMES))
        if names:
            parts.append(f"{words}: {', '.join(names)}")
    told = f" ({'; '.join(parts)})" if parts else ""
    name, format = encoder.get("name"), facts.get("format")
    return (
        f"The features of {name} were computed by others and imported ({format}): nothing of the encoder was verified "
        f"against its weights{told}. No tile of them was seen in another stain or scale, so the head looks past no "
        "stain and tells no wrong scale by them."
    )
