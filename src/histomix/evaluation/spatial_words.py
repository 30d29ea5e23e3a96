"""Spatial scores in words, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "moran": "Moran's I across types",
    "colocalisation": "co-localisation",
    "ari_label": "domains of the labels",
    "ari_prediction": "regions",
    "ari_regions": "regions by the labels",
}


def spatial_words(spatial: Mapping[str, Any] | None) -> list[str]:
    """A line on each head: agreement of patterns, neighbours and domains with the labels, and what chance gives."""
    if not spatial:
        return []
    lines = [
        f"space, weights of {spatial['radius_um']:g} um, totals taken out ({spatial['adjust']}); mean over sections:"
    ]
    for head, scores in spatial["scores"].items():
        parts = []
        for name, words in _NAMES.items():
            entry = scores.get(name)
            if entry and entry["mean"] is not None:
                interval = "" if entry["low"] is None else f" ({entry['low']:.2f} to {entry['high']:.2f})"
                parts.append(
                    f"{words} {entry['mean']:.2f}{interval}{_chance(spatial, head) if name == _WITH_NULL else ''}"
                )
        if any(scores.get(name, {}).get("mean") for name in _NAMES):  # not for a constant, which scores 0 by rule
            lines.append(f"  {head}: {', '.join(parts)}")
    return [*lines, ""]


_WITH_NULL = "colocalisation"


def _chance(spatial: Mapping[str, Any], head: str) -> str:
    """What maps of the same types, shifted apart, reach on average."""
    rows = [one["null_mean"] for one in spatial[_WITH_NULL] if one["head"] == head and one["null_mean"] is not None]
    return f", by chance {sum(rows) / len(rows):.2f}" if rows else ""
