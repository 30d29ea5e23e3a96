"""The summary at the top of a report: what was run, and what to think of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..common.words import counted
from ..evaluation import Evaluation
from ..pl.scores import against, ceiling_of, number, shown_head
from ..pl.tables import detectability_table, percent
from .inputs import ReportInputs, SlideMap

Tile = dict[str, str]
#: Slides out of scope that are named at the top.
_TOLD = 4


def report_title(sources: ReportInputs) -> str:
    """What the page is of: the tissue, where a head says it, and how much of it; of no name, so for pseudonyms too."""
    tissue = next((words for card in sources.heads if (words := _tissue(card))), "")
    what = f"Cell types of {tissue}" if tissue else "Cell types"
    size = ""
    if sources.evaluations:
        facts = sources.evaluations[0].summary
        size = f"{counted(facts['n_sections'], 'section')} of {counted(facts['n_donors'], 'donor')}"
    elif sources.maps or sources.failed:
        size = counted(len(sources.maps) + len(sources.failed), "slide")
    return f"{what}, read from H&E" + (f": {size}" if size else "")


def _tissue(card: Mapping[str, Any]) -> str:
    """The tissue that a card declares, in words; "" where it declares none."""
    told = card.get("tissue")
    return "" if told is None or isinstance(told, str) else ", ".join(map(str, told))


def headline_facts(sources: ReportInputs) -> dict[str, Any]:
    """Tiles with the numbers that matter, and a sentence for each kind of result; nothing that is not there."""
    lines: list[str] = []
    tiles: list[Tile] = []
    for place, evaluation in enumerate(sources.evaluations[:1], start=1):
        tiles += _scores(evaluation, place)
        lines.append(_words(evaluation))
    if sources.maps:
        tiles.append(_slides(sources.maps))
        lines += _out_of_scope(sources.maps)
    if sources.failed:
        tiles.append(_tile(counted(len(sources.failed), "slide"), "could not be predicted", "#failed", "bad"))
    for card in sources.heads[:1]:
        encoders = " + ".join(str(one.get("name")) for one in card.get("encoders", []))
        text = f"head on {encoders}, {len(card.get('cell_types', []))} cell types"
        tiles.append(_tile(str(card.get("head", {}).get("kind", card.get("name", "head"))), text, "#card"))
    return {"lines": lines, "tiles": tiles}


def _tile(value: str, text: str, href: str = "", tone: str = "") -> Tile:
    return {"value": value, "text": text, "href": href, "tone": tone}


def _words(evaluation: Evaluation) -> str:
    facts = evaluation.summary
    shown = shown_head(evaluation)
    words = {"donor": "on donors it had never seen", "section": "on other sections of donors it knew"}
    words["orthogonal"] = "beside what was measured on the same tissue"
    where = words.get(facts["protocol"], f"under {facts['protocol']} folds")
    paired = facts["scores"].get("label", {}).get(shown, {}).get("pearson", {}).get("vs_ridge")
    text = f"{facts['n_spots']:,} spots in {counted(facts['n_sections'], 'section')} "
    text += f"of {counted(facts['n_donors'], 'donor')} were predicted "
    text += f"from H&E by {shown}, {where}"
    if paired and paired.get("low") is not None:
        low, high = paired["low"], paired["high"]
        verdict = "level with" if low <= 0 <= high else "better than" if low > 0 else "worse than"
        text += f"; it is {verdict} ridge regression on the same features"
    return text + "."


def _scores(evaluation: Evaluation, place: int) -> list[Tile]:
    facts = evaluation.summary
    shown = shown_head(evaluation)
    target = "truth" if "truth" in facts["scores"] else "label"
    entry = facts["scores"][target][shown]["pearson"]
    interval = "" if entry["low"] is None else f" ({number(entry['low'])} to {number(entry['high'])})"
    here = f"#evaluation-{place}"
    tiles = [_tile(number(entry["mean"]), f"mean Pearson of {shown} against the {against(target)}{interval}", here)]
    ceiling = ceiling_of(evaluation, "label")
    if ceiling is not None:
        tiles.append(_tile(number(ceiling["bound"]), "bound that the noise of the labels sets", here))
    detectability = detectability_table(evaluation)
    if detectability is not None:
        told = int(detectability["detectable"].sum())
        tone = "good" if told == len(detectability) else "warn"
        tiles.append(
            _tile(f"{told} of {len(detectability)}", "cell types told from chance", f"#detectability-{place}", tone)
        )
    curve = (facts.get("calibration") or {}).get(shown)
    if curve and curve.get("levels"):
        nearest = int(np.argmin([abs(level - 0.9) for level in curve["levels"]]))
        level, inside = curve["levels"][nearest], curve["coverage"][nearest]
        tone = "good" if abs(inside - level) <= 0.05 else "warn"
        text = f"of held-out values lie in their {percent(level)} intervals"
        tiles.append(_tile(percent(inside), text, f"#calibration-{place}", tone))
    if facts.get("audit") is not None:
        tiles.append(_audit(facts["audit"], place))
    return tiles


def _audit(findings: Sequence[dict[str, Any]], place: int) -> Tile:
    counts = {kind: sum(one["severity"] == kind for one in findings) for kind in ("error", "warning")}
    if not any(counts.values()):
        return _tile("passed", "audit for leaks and faults", f"#audit-{place}", "good")
    parts = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count]
    return _tile(", ".join(parts), "found by the audit", f"#audit-{place}", "bad" if counts["error"] else "warn")


def _out_of_scope(maps: Sequence[SlideMap]) -> list[str]:
    """A line for each slide that is out of scope, before anybody looks at its picture."""
    told = [f"{one.name}: {one.composition.reading.statement}" for one in maps if one.composition.reading.statement]
    more = len(told) - _TOLD
    return told if more <= 1 else [*told[:_TOLD], f"{counted(more, 'more slide')} are out of scope as well."]


def _slides(maps: Sequence[SlideMap]) -> Tile:
    tiles = sum(len(one.composition) for one in maps)
    readable = sum(int(one.composition.read_ok.sum()) for one in maps)
    scope = sum(int(one.composition.reading.used.sum()) for one in maps)
    what = counted(len(maps), "slide")
    tone = "warn" if any(one.failure for one in maps) or scope < 0.8 * readable else ""
    return _tile(
        what, f"predicted: {tiles:,} tiles, {percent(scope / readable if readable else None)} in scope", "#maps", tone
    )
