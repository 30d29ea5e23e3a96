"""The card of a head that names nobody it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...common.anonymity.nameless import TRAINING_COUNTS
from ...common.anonymity.pseudonyms import Pseudonyms
from ...provenance import digest_json

#: Facts of a card that name nobody; ``training`` and ``scores`` are gone through, and others may hold anything.
_KEPT = (
    *(
        "format",
        "histomix",
        "name",
        "head",
        "context_um",
        "cell_types",
        "unit",
        "encoders",
        "encoder_licences",
        "tissue",
    ),
    *(
        "seed",
        "levels",
        "answers",
        "crop_stability",
        "precision",
        "stain_damping",
        "scale_check",
        "calibration",
        "intended_use",
        "limits",
        "versions",
        "files",
    ),
)
_SCORES = ("source", "protocol", "protocol_means", "n_donors", "n_sections", "n_spots", "interval")
_SOURCES = ("histomix evaluate", "inner splits of the training")
_MORE_DONORS = ("same_donors", "other_donors", "second_donor", "last_donor", "n_donors", "n_sections")
_SCORE = ("mean", "low", "high", "n_types", "by_type")
#: Of how labels were made, what is a choice or a number; not files, references by name, or sections.
_LABELS = (
    *("method", "unit", "recognised_as", "fit", "summary", "seed", "cells_per_spot", "min_genes", "options"),
    *("reliability_of", "digest", "version"),
)


def private_card(card: Mapping[str, Any], names: Pseudonyms) -> dict[str, Any]:
    """A card with pseudonyms of its donors and sections, and a digest of its own; the arrays are the same.

    A card that has pseudonyms already stays as it is.

    Parameters
    ----------
    card
        Of a head.
    names
        The pseudonyms.
    """
    if card.get("anonymised"):
        return dict(card)
    kept = {name: card[name] for name in _KEPT if name in card}
    kept["training"] = _training(card["training"], names)
    scores = card.get("scores")
    kept["scores"] = _scores(scores) if isinstance(scores, Mapping) else None
    kept["anonymised"] = names.key
    return {**kept, "digest": digest_json(kept)}


def _training(training: Mapping[str, Any], names: Pseudonyms) -> dict[str, Any]:
    facts = {name: training[name] for name in TRAINING_COUNTS if name in training}
    if "donors" in training:
        facts["donors"] = [names.patient(donor) for donor in training["donors"]]
    for part in ("sections", "dropped"):
        if part in training:
            facts[part] = {names.slide(section): value for section, value in training[part].items()}
    if "labels" in training:
        facts["labels"] = [
            {
                "sections": [names.slide(section) for section in source.get("sections", [])],
                "unit": source.get("unit"),
                "provenance": {
                    name: value for name, value in (source.get("provenance") or {}).items() if name in _LABELS
                },
            }
            for source in training["labels"]
        ]
    return facts


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores over all donors; those of one donor or section say who took part."""
    facts: dict[str, Any] = {name: scores[name] for name in _SCORES if name in scores}
    if facts.get("source") not in _SOURCES:
        facts["source"] = "not told"
    for metric, entry in scores.items():
        if isinstance(entry, Mapping) and "mean" in entry:
            facts[metric] = {name: entry[name] for name in _SCORE if name in entry}
    more = scores.get("more_donors")
    if isinstance(more, Mapping):
        facts["more_donors"] = {name: _numbers(more[name]) for name in _MORE_DONORS if name in more}
    return facts


def _numbers(value: Any) -> Any:
    """A number, or the counts and intervals of a curve or a difference."""
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _numbers(value[name]) for name in ("n_donors", "mean", "low", "high") if name in value}
    return value if isinstance(value, int | float) else None
