"""What a report shows, with nobody named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from ..common.anonymity.nameless import Renaming, strings_in
from ..common.anonymity.pseudonyms import Pseudonyms
from ..evaluation import Evaluation
from ..evaluation.leakage.audit import AUDIT_RULES
from ..heads import private_card
from ..maps.anonymise import private_map
from .inputs import ReportInputs, SlideMap

_FAILED = "What it failed on is in the status of the slide, and may name it."
#: Of a manifest of labels, what names neither a section nor a file.
_LABELS = ("method", "unit", "seed", "versions")


def private_inputs(sources: ReportInputs, names: Pseudonyms) -> ReportInputs:
    """The same results with pseudonyms of sections, slides, donors and regions, and without paths and foreign words.

    Links to viewers are left out: the way to them goes over folders whose names are not ours.

    Parameters
    ----------
    sources
        What the folders of a report hold.
    names
        The pseudonyms.
    """
    return ReportInputs(
        evaluations=[private_evaluation(one, names) for one in sources.evaluations],
        canvases={names.slide(name): canvas for name, canvas in sources.canvases.items()},
        features={name: sources.features[name] for name in ("encoder", "tile") if name in sources.features},
        labels=[_labels(one) for one in sources.labels],
        heads=[private_card(one, names) for one in sources.heads],
        maps=[_map(one, names) for one in sources.maps],
        failed=[(names.slide(name), _FAILED) for name, _ in sources.failed],
        orthogonals=[_score(one, names) for one in sources.orthogonals],
    )


def private_evaluation(evaluation: Evaluation, names: Pseudonyms) -> Evaluation:
    """An evaluation with pseudonyms of its sections, donors and sites, wherever these stand in it."""
    facts = evaluation.summary
    known = _known(evaluation, names)
    fixed = {str(name) for name in (*facts.get("cell_types", []), *facts.get("heads", []), *facts)}
    renaming = Renaming({name: told for name, told in known.items() if name not in fixed})
    summary = renaming.value({name: value for name, value in facts.items() if name not in ("audit", "notes", "probe")})
    summary["notes"] = [renaming.sentence(str(note)) for note in facts.get("notes") or []]
    if facts.get("probe"):
        summary["probe"] = {**facts["probe"], "statement": renaming.sentence(str(facts["probe"].get("statement", "")))}
    if facts.get("audit") is not None:
        summary["audit"] = [_finding(one, renaming) for one in facts["audit"]]

    def named(tables: Mapping[str, Any]) -> dict[str, Any]:
        return {names.slide(section): table for section, table in tables.items()}

    return replace(
        evaluation,
        metrics=_metrics(evaluation.metrics, known, names),
        others=_metrics(evaluation.others, known, names),
        predictions={head: named(tables) for head, tables in evaluation.predictions.items()},
        labels=named(evaluation.labels),
        truth=named(evaluation.truth),
        positions=named(evaluation.positions),
        summary=summary,
    )


def _known(evaluation: Evaluation, names: Pseudonyms) -> dict[str, str]:
    """Every name that the evaluation is known to hold, with its pseudonym."""
    facts, known = evaluation.summary, dict[str, str]()
    tables = [table for table in (evaluation.metrics, evaluation.others) if len(table)]
    folds = facts.get("folds") or []
    audited = [one.get("numbers") or {} for one in facts.get("audit") or []]
    if facts.get("protocol") == "site":
        known |= {str(fold["name"]): names.site(fold["name"]) for fold in folds}
    sources: tuple[tuple[Callable[[object], str], list[Any]], ...] = (
        (names.slide, [facts.get("sections"), facts.get("coupled_labels"), list(facts.get("dropped") or {})]),
        (names.slide, [numbers.get("sections") for numbers in audited]),
        (names.slide, [numbers.get("pairs") for numbers in audited]),
        (names.slide, [fold.get("sections") for fold in folds]),
        (names.slide, [table["section"].unique().tolist() for table in tables]),
        (names.patient, [facts.get("donors"), *(fold.get("donors") for fold in folds)]),
        (names.patient, [numbers.get(name) for numbers in audited for name in ("donors", "names")]),
        (names.patient, [table["donor"].unique().tolist() for table in tables]),
    )
    for pseudonym, values in sources:
        for value in values:
            known |= {one: known.get(one) or pseudonym(one) for one in strings_in(value) if one}
    return known


def _metrics(table: pd.DataFrame, known: Mapping[str, str], names: Pseudonyms) -> pd.DataFrame:
    if not len(table):
        return table
    private = table.copy()
    private["donor"] = table["donor"].map(lambda name: names.patient(name) if name else "")
    private["section"] = table["section"].map(lambda name: names.slide(name) if name else "")
    private["fold"] = table["fold"].map(lambda name: known.get(str(name), name))
    return private


def _finding(one: Mapping[str, Any], renaming: Renaming) -> dict[str, Any]:
    """A finding of the audit in the words of its rule, with those of its numbers that are numbers."""
    rule = str(one.get("rule", ""))
    numbers = {name: value for name, value in (one.get("numbers") or {}).items() if isinstance(value, int | float)}
    words = AUDIT_RULES.get(rule) or renaming.sentence(str(one.get("message", "")))
    return {"rule": rule, "severity": one["severity"], "message": words, "numbers": numbers}


def _labels(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: manifest[name] for name in _LABELS if name in manifest}
    reference = manifest.get("reference")
    if isinstance(reference, Mapping):
        kept["reference"] = {name: reference[name] for name in ("digest", "genes") if name in reference}
    return kept


def _map(one: SlideMap, names: Pseudonyms) -> SlideMap:
    composition = private_map(one.composition, names)
    name = one.name if one.composition.anonymised else composition.name
    failure = None if one.failure is None else _FAILED
    return replace(one, name=name, composition=composition, failure=failure)


def _score(facts: Mapping[str, Any], names: Pseudonyms) -> dict[str, Any]:
    """The summary of ``histomix score``: slide, donor and regions."""
    orthogonal = facts.get("orthogonal") or {}
    regions = orthogonal.get("regions") or {}
    known = {str(fold["name"]): names.slide(fold["name"]) for fold in facts.get("folds") or []}
    known |= {name: names.slide(name) for name in strings_in(facts.get("sections"))}
    known |= {
        name: names.patient(name) for name in strings_in([fold.get("donors") for fold in facts.get("folds") or []])
    }
    known |= {name: names.patient(name) for name in strings_in(facts.get("donors"))}
    inside = [name for row in (regions.get("auroc") or {}).values() for name in row]
    inside += [one.get("region") for one in regions.get("expected") or []]
    known |= {str(name): names.region(name) for name in inside if name}
    fixed = {str(name) for name in (*facts.get("cell_types", []), *facts, *orthogonal, *regions)}
    renaming = Renaming({name: told for name, told in known.items() if name not in fixed})
    kept = renaming.value({name: value for name, value in facts.items() if name not in ("notes", "head")})
    return {**kept, "notes": [renaming.sentence(str(note)) for note in facts.get("notes") or []]}
