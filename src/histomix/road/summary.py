"""What a person wants to know at the end: how good on an unseen donor, against what ceiling, and what to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.words import BETWEEN, NEITHER, WITHIN, counted, sentence
from ..evaluation import Evaluation
from ..pl.scores import shown_head
from ..prediction import SlideResult

_UNSEEN = {
    "donor": "On donors that it had never seen",
    "section": "No donor was unseen. On other sections of a donor that it knew (optimistic)",
    "random": "Nothing is known of another donor or section. On spots beside those it was trained on (leaky)",
}
_SHOWN = 6
#: Share of tiles in scope below which a map is not to be read.
_IN_SCOPE = 0.5


def closing_words(scores: Evaluation, results: Sequence[SlideResult]) -> dict[str, str]:
    """The three answers, each some sentences, by ``how_good``, ``ceiling`` and ``look_at``.

    Parameters
    ----------
    scores
        The evaluation.
    results
        What became of each slide that was mapped.
    """
    head = shown_head(scores)
    return {
        "how_good": _how_good(scores.summary, head),
        "ceiling": _ceiling(scores.summary, head),
        "look_at": " ".join(_look_at(scores, head, results)),
    }


def closing_text(words: dict[str, str], report: Path, viewer: Path) -> str:
    """The answers for a terminal."""
    titles = {"how_good": "How good", "ceiling": "Against what", "look_at": "Look at"}
    lines = [f"{title}: {words[name]}" for name, title in titles.items() if words[name]]
    return "\n".join([*lines, f"Open: {report} (report), {viewer} (viewer)"])


def _how_good(facts: dict[str, Any], head: str) -> str:
    entry = facts["scores"]["label"][head]["pearson"]
    text = f"{_UNSEEN.get(facts['protocol'], 'Held out')}, predictions correlate {_number(entry)} with the labels"
    text += f" (mean Pearson within a section, {counted(entry['n_types'], 'cell type')}, "
    text += f"{counted(facts['n_donors'], 'donor')}, {counted(facts['n_sections'], 'section')})."
    if "truth" in facts["scores"]:
        truth = facts["scores"]["truth"]
        text += f" With the true cells: {_number(truth[head]['pearson'])}"
        label = truth.get("label")
        text += f", the labels themselves {_number(label['pearson'])}." if label else "."
    return text


def _ceiling(facts: dict[str, Any], head: str) -> str:
    ceiling = facts.get("ceiling")
    scores = facts["scores"]["label"]
    text = "The labels carry no reliability, so their ceiling is not known."
    if ceiling is not None and ceiling.get("bound") is not None:
        share = (ceiling.get("shares") or {}).get(head)
        text = f"No prediction can correlate better than {ceiling['bound']:.2f} with labels as noisy as these"
        text += f"; this is {round(100 * share)} % of that." if share is not None else "."
    if "ridge" in scores and head != "ridge":
        text += f" Ridge regression on the same features: {_number(scores['ridge']['pearson'])}; a constant: 0."
    return text


def _look_at(scores: Evaluation, head: str, results: Sequence[SlideResult]) -> list[str]:
    facts = scores.summary
    words = facts["scores"]["label"][head].get("good_for") or {}
    told = []
    for use, text in (
        (BETWEEN, "compare slides by"),
        (WITHIN, "read only places within a slide of"),
        (NEITHER, "do not read"),
    ):
        types = [name for name, said in words.items() if said == use]
        if types:
            told.append(f"{text} {_listed(types)}")
    sentences = [sentence("; ".join(told))] if told else []
    worst = _worst_section(scores, head)
    if worst:
        sentences.append(worst)
    problems = [one for one in facts.get("audit") or [] if one["severity"] in ("error", "warning")]
    if problems:
        sentences.append(f"The audit found {counted(len(problems), 'fault')}: {sentence(problems[0]['message'])}")
    failed = [one for one in results if one.error is not None]
    if failed:
        sentences.append(f"{counted(len(failed), 'slide')} failed: {_listed([one.slide for one in failed])}.")
    strange = [
        one.slide for one in results if one.error is None and one.in_scope < _IN_SCOPE * (one.tiles - one.unreadable)
    ]
    if strange:
        sentences.append(f"Mostly out of scope, not to be read: {_listed(strange)}.")
    return sentences


def _worst_section(scores: Evaluation, head: str) -> str:
    rows = scores.metrics
    rows = rows[
        (rows["head"] == head) & (rows["metric"] == "pearson") & (rows["target"] == "label") & (rows["section"] != "")
    ]
    means = rows.groupby("section", sort=True)["value"].mean().dropna()
    if len(means) < 3:
        return ""
    worst = str(means.idxmin())
    return f"The section that is read worst: {worst} ({means[worst]:.2f})."


def _number(entry: dict[str, Any]) -> str:
    if entry["mean"] is None:
        return "(not defined)"
    interval = "" if entry.get("low") is None else f" ({entry['low']:.2f} to {entry['high']:.2f})"
    return f"{entry['mean']:.2f}{interval}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
