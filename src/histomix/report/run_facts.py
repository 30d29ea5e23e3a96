"""What the numbers of a report were made from, in words."""

from __future__ import annotations

from typing import Any

from ..pages.facts import fact_rows
from .inputs import ReportInputs

_EVALUATION = ("protocol", "protocol_means", "seed", "unit", "rules", "versions")
_LABELS = ("method", "unit", "reference", "seed", "versions")


def run_facts(sources: ReportInputs) -> list[dict[str, Any]]:
    """Groups of facts for the page: a title and rows of name and words."""
    groups = [("Evaluation", fact_rows(one.summary, _EVALUATION)) for one in sources.evaluations]
    groups += [("Labels", fact_rows(labels, _LABELS)) for labels in sources.labels]
    if sources.features:
        groups.append(("Features", fact_rows(sources.features, ("encoder", "tile"))))
    return [{"title": title, "rows": rows} for title, rows in groups]
