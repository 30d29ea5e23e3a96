"""A head's card on the page of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common.words import counted
from ..heads.cards.text import encoder_terms, limits_text
from ..pages.facts import fact_rows, fact_words, raw_record
from ..pl.scores import number
from .panel_parts import interval_words, plain_table, spaced

#: Metrics on the page, in this order; the record has them all.
_METRICS = ("pearson", "pearson_within", "spearman", "rmse", "js_composition", "auroc_present")
_LEFT_OUT = ("dropped", "cell_types_without_labels")


def card_view(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a page shows of ``card.json``; fields that a card lacks are left out."""
    tables = [table for table in (_scores(card), _encoders(card), _training(card)) if table["rows"]]
    digest = str(card.get("digest", ""))
    return {
        "name": str(card.get("name", "head")),
        "digest": f"{digest[:19]}…" if digest else "",
        "intended_use": str(card.get("intended_use", "")),
        "limits": limits_text(card),
        "unit": str(card.get("unit", "")),
        "cell_types": [str(name) for name in card.get("cell_types", [])],
        "rows": [(name, words) for name, words in _rows(card) if words],
        "raw": raw_record(card),
        "tables": tables,
    }


def _rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader asks of a head first."""
    head, training = _mapping(card.get("head")), _mapping(card.get("training"))
    kind = fact_words(head.get("kind"))
    parts = _mapping(head.get("parameters")).get("heads")
    donors = training.get("donors")
    counts = [
        counted(training[name], word)
        for name, word in (("n_spots", "spot"), ("n_sections", "section"), ("n_donors", "donor"))
        if isinstance(training.get(name), int)
    ]
    named = f" ({fact_words(donors)})" if donors and isinstance(donors, list) else ""
    return [
        ("head", f"{kind} of {fact_words(parts)}" if parts and kind else kind),
        ("trained on", f"{', '.join(counts)}{named}" if counts else ""),
        ("tissue", fact_words(card.get("tissue"))),
        ("intervals", fact_words(_mapping(card.get("calibration")).get("statement"))),
        *fact_rows(training, _LEFT_OUT),
        ("seed", fact_words(card.get("seed"))),
        ("made with", f"histomix {fact_words(card['histomix'])}" if card.get("histomix") else ""),
    ]


def _scores(card: Mapping[str, Any]) -> dict[str, Any]:
    """Scores on what was held out, each with its interval."""
    scores = _mapping(card.get("scores"))
    rows = []
    for metric in _METRICS:
        one = _mapping(scores.get(metric))
        if "mean" in one:
            rows.append([spaced(metric), (number(one["mean"]), interval_words(one.get("low"), one.get("high")))])
    means = fact_words(scores.get("protocol_means")) or fact_words(scores.get("protocol"))
    donors = scores.get("n_donors")
    of = f", {counted(donors, 'donor')} in all" if isinstance(donors, int) else ""
    caption = f"On {means}{of}, mean over cell types, with its interval." if means else ""
    return {**plain_table(["score", "mean"], rows, caption), "title": "Scores on what was held out"}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
