"""The table of a study: what was published, and ours on the same protocol, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..common.words import counted
from ..evaluation.result import Evaluation
from ..heads import head_name
from .study import COLUMNS, Published, Study

#: Columns of ``table.csv``; those before ``low`` are what outside programs read.
TABLE = ("row", "column", "published", "ours", "interval", "protocol")
MORE = ("low", "high", "difference", "cohort", "encoder", "head", "metric", "source")
#: A figure that a publication has and that nobody here could read.
NOT_AT_HAND = "not at hand"
_WORDS = {
    "donor": "leave one donor out",
    "section": "leave one section out, donors in training: optimistic",
    "transfer": "trained on one cohort, tested on the other",
    "site": "leave one site out",
    "random": "random spots: leaky",
}

Scored = Sequence[tuple[str, str, Evaluation]]


def study_table(study: Study, scored: Scored, note: str = "") -> pd.DataFrame:
    """One row for each figure: of ours, of the publication, or of both.

    Parameters
    ----------
    study
        The facts.
    scored
        Cohort, encoder and evaluation of each.
    note
        How the run differs from the study, for the column ``protocol``. Where it does, no difference between the two
        figures is given: they are not of one protocol.

    Returns
    -------
    DataFrame
        Columns `TABLE`, then `MORE`. ``published`` is empty where the publication has no such figure, and "not at hand"
        where it has one that could not be read; ``ours`` is empty where nothing of ours was run.
    """
    rows: list[dict[str, Any]] = []
    used: set[int] = set()
    for cohort, encoder, evaluation in scored:
        summary = evaluation.summary
        protocol = _WORDS.get(summary["protocol"], summary["protocol"])
        protocol += (
            f", {counted(summary['n_donors'], 'donor')}, {counted(summary['n_sections'], 'section')}, "
            f"{counted(len(summary['cell_types']), 'type')}"
        )
        for head, entries in summary["scores"]["label"].items():
            if head in summary.get("oracles", ()):  # knows the answer
                continue
            for metric in COLUMNS:
                if metric not in entries:
                    continue
                found = _published(study.published, head, metric, cohort, encoder)
                used |= {number for number, _ in found}
                entry = entries[metric]
                matches: list[Published | None] = [one for _, one in found]
                for one in matches or [None]:
                    rows.append(
                        _row(head, encoder, cohort, metric, entry, one, f"{protocol}{note}", len(study.cohorts))
                    )
                    if note:
                        rows[-1]["difference"] = None
    for number, one in enumerate(study.published):
        if number not in used:
            rows.append(_row(one.row, one.encoder, one.cohort, one.metric, None, one, one.source, len(study.cohorts)))
    return pd.DataFrame(rows, columns=[*TABLE, *MORE])


def _published(
    figures: Sequence[Published], head: str, metric: str, cohort: str, encoder: str
) -> list[tuple[int, Published]]:
    return [
        (number, one)
        for number, one in enumerate(figures)
        if one.metric == metric
        and _head(one.row) == head
        and one.cohort in ("", cohort)
        and one.encoder in ("", encoder)
    ]


def _head(row: str) -> str:
    return head_name(row) if row == "default" else row


def _row(
    head: str,
    encoder: str,
    cohort: str,
    metric: str,
    entry: Mapping[str, Any] | None,
    one: Published | None,
    protocol: str,
    n_cohorts: int,
) -> dict[str, Any]:
    mean, low, high = (None if entry is None else entry.get(key) for key in ("mean", "low", "high"))
    value = None if one is None else one.value
    words = f"{head} on {encoder}" if encoder and head != "mean" else head
    between = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return {
        "row": f"{words}, {cohort}" if n_cohorts > 1 and cohort else words,
        "column": COLUMNS[metric],
        "published": "" if one is None else NOT_AT_HAND if value is None else f"{value:g}",
        "ours": None if mean is None else round(float(mean), 4),
        "interval": between,
        "protocol": protocol,
        "low": low,
        "high": high,
        "difference": None if mean is None or value is None else round(float(mean) - value, 4),
        "cohort": cohort,
        "encoder": encoder,
        "head": head,
        "metric": metric,
        "source": "" if one is None else one.source,
    }
