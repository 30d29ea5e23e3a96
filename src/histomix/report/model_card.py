"""A head's card on the page of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..heads.cards.text import encoder_terms
from ..pages.facts import fact_rows
from .panel_parts import plain_table

_HEAD = ("head", "seed", "tissue", "calibration", "scores", "histomix", "versions", "files")
_TRAINING = ("n_spots", "n_sections", "n_donors", "donors", "dropped", "cell_types_without_labels")


def card_view(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a page shows of ``card.json``; fields that a card lacks are left out."""
    tables = [table for table in (_encoders(card), _training(card)) if table["rows"]]
    digest = str(card.get("digest", ""))
    return {
        "name": str(card.get("name", "head")),
        "digest": f"{digest[:19]}…" if digest else "",
        "intended_use": str(card.get("intended_use", "")),
        "limits": str(card.get("limits", "")),
        "unit": str(card.get("unit", "")),
        "cell_types": [str(name) for name in card.get("cell_types", [])],
        "rows": [*fact_rows(card, _HEAD), *fact_rows(card.get("training", {}), _TRAINING)],
        "tables": tables,
    }


def _encoders(card: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            terms.encoder,
            terms.licence,
            terms.use,
            f"{one.get('size_px')} px at {one.get('mpp')} µm/px",
            str(one.get("dim")),
            str(one.get("revision") or "–"),
        ]
        for one, terms in zip(card.get("encoders", []), encoder_terms(card), strict=True)
    ]
    columns = ["encoder", "licence", "commercial use", "tile", "features", "revision"]
    caption = "A head inherits the terms of the encoder that it was trained on."
    return {**plain_table(columns, rows, caption), "title": "Encoders and their licences"}


def _training(card: Mapping[str, Any]) -> dict[str, Any]:
    counts = card.get("training", {}).get("sections", {})
    methods = {
        str(section): str((source.get("provenance") or {}).get("method", "given"))
        for source in card.get("training", {}).get("labels", [])
        for section in source.get("sections", [])
    }
    rows = [[str(name), f"{count:,}", methods.get(str(name), "–")] for name, count in counts.items()]
    return {**plain_table(["section", "spots", "labels by"], rows, ""), "title": "Training sections"}
