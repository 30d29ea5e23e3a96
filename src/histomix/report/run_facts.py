"""What the numbers of a report were made from, in words, and the records themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common.words import counted
from ..pages.facts import fact_rows, fact_words, raw_record
from .inputs import ReportInputs
from .panel_parts import plain_table, spaced

_EVALUATION = ("protocol", "protocol_means", "folds", "unit", "interval", "seed", "rules", "versions")
_LABELS = ("method", "unit", "fit", "reference", "settings", "seed", "versions")
_FEATURES = ("encoder", "tile", "versions")


def run_facts(sources: ReportInputs) -> list[dict[str, Any]]:
    """Groups of facts for the page: a title, rows of name and words, tables and the raw record."""
    groups = [_evaluation(one.summary) for one in sources.evaluations]
    groups += [_labels(labels) for labels in sources.labels]
    if sources.features:
        groups.append(_features(sources.features))
    return groups


def _group(title: str, rows: list[tuple[str, str]], facts: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    made = _mapping(facts.get("versions"))
    rows = [*rows, ("seed", fact_words(facts.get("seed"))), ("made with", _programs(made))]
    record = {name: facts[name] for name in names if facts.get(name) is not None}
    return {"title": title, "rows": [row for row in rows if row[1]], "tables": [], "raw": raw_record(record)}


def _evaluation(facts: Mapping[str, Any]) -> dict[str, Any]:
    folds = facts.get("folds")
    told = f"{fact_words(facts.get('protocol_means'))}, {counted(len(folds), 'fold')}" if folds else ""
    rows = [
        ("protocol", told or fact_words(facts.get("protocol_means"))),
        ("unit", fact_words(facts.get("unit"))),
    ]
    group = _group("Evaluation", rows, facts, _EVALUATION)
    rules = [[spaced(name), fact_words(words)] for name, words in _mapping(facts.get("rules")).items()]
    if rules:
        group["tables"].append({**plain_table(["metric", "rule"], rules, ""), "title": "How each number is defined"})
    return group


def _labels(facts: Mapping[str, Any]) -> dict[str, Any]:
    reference = _mapping(facts.get("reference"))
    types, genes = reference.get("cell_types"), reference.get("genes")
    parts = [
        fact_words(reference.get("file"), "file"),
        counted(genes, "gene") if isinstance(genes, int) else "",
        counted(len(types), "cell type") if isinstance(types, list) else "",
    ]
    rows = [*fact_rows(facts, ("method", "unit", "fit")), ("reference", ", ".join(filter(None, parts)))]
    return _group("Labels", rows, facts, _LABELS)


def _features(facts: Mapping[str, Any]) -> dict[str, Any]:
    encoder, tile = _mapping(facts.get("encoder")), _mapping(facts.get("tile"))
    rows = [
        ("encoder", fact_words(encoder.get("name"))),
        ("features per tile", fact_words(encoder.get("dim"))),
        ("licence", fact_words(encoder.get("licence"))),
        ("tile", f"{tile['size_px']} px at {tile['mpp']} µm/px" if {"size_px", "mpp"} <= set(tile) else ""),
    ]
    return _group("Features", rows, facts, _FEATURES)


def _programs(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {fact_words(one)}" for name, one in versions.items())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
