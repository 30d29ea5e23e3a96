"""The protocol of evaluations in words, for a methods section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..common.words import counted
from .baselines import NUCLEI
from .result import Evaluation
from .scores.ceiling import ceiling_words

_TITLES = {
    "donor": "Leave-one-donor-out",
    "site": "Leave-one-site-out",
    "section": "Leave-one-section-out",
    "random": "Random spots",
    "transfer": "Trained on one cohort, tested on another",
}


def protocol_statement(
    evaluations: Mapping[str, Evaluation],
    *,
    encoders: Sequence[Mapping[str, Any]] = (),
    labels: Mapping[str, str] | None = None,
) -> str:
    """Write one page, Markdown, on how the numbers of some evaluations were made.

    Parameters
    ----------
    evaluations
        By a name to call each by.
    encoders
        Facts of the encoders (name, revision, digest, licence, dim, size_px, mpp); those in the evaluations when left
        out.
    labels
        How the labels of each cohort were made, in words.
    """
    first = next(iter(evaluations.values())).summary
    known = list(encoders) or _encoders(evaluations)
    parts = [
        "# Protocol",
        "## Data",
        *_data(evaluations),
        "\n".join(f"- Labels of {name}: {words}." for name, words in (labels or {}).items()),
        "## Features",
        "\n".join(f"- {_encoder(one)}" for one in known),
        "Encoders are frozen. A tile is centred on each spot; its size in um is that of the encoder, whatever the "
        "scanner.",
        "## Models and selection",
        f"Heads: {', '.join(dict.fromkeys(head for one in evaluations.values() for head in one.summary['heads']))}. "
        "Every head was fitted anew in every fold on that fold's training spots alone. Standardisation, projections, "
        "penalties, stopping and weights of members were fitted or chosen inside the training spots, on inner splits "
        "that keep a donor whole (a section, where one donor is left). No choice was made on a test spot. The training "
        f"mean and ridge regression on the same features{_nuclei(first)} stand beside every head.",
        "## Scores",
        "Pearson correlation per cell type over the spots of one section, averaged over cell types and then over "
        "sections; `pearson_pooled` over all test spots of a fold, `pearson_within` after centring each section. "
        + " ".join(
            f"{_sentence(first['rules'][name])}" for name in ("constant_prediction", "constant_label", "few_spots")
        ),
        f"Intervals: {round(100 * first['interval']['level'])} %, {first['interval']['method']}. Seed {first['seed']}.",
        "Differences: over the same sections, tested by flipping the signs of whole donors (two-sided permutation; "
        "with fewer than six donors no such test can reach p < 0.05), corrected for the pairs compared "
        "(Benjamini-Hochberg).",
        "## Cautions",
        "\n".join(f"- {_sentence(note)}" for note in _cautions(evaluations)) or "None.",
        "## Software",
        ", ".join(f"{name} {version}" for name, version in first["versions"].items()) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(evaluations: Mapping[str, Evaluation]) -> list[str]:
    lines: list[str] = []
    ceilings: dict[str, None] = {}
    for name, evaluation in evaluations.items():
        facts = evaluation.summary
        title = _TITLES.get(facts["protocol"], facts["protocol"])
        counts = (
            f"{counted(len(facts['folds']), 'fold')}, {counted(facts['n_donors'], 'donor')}, "
            f"{counted(facts['n_sections'], 'section')}, {counted(facts['n_spots'], 'spot')}, "
            f"{counted(len(facts['cell_types']), 'cell type')} in {facts['unit']}"
        )
        lines.append(f"- **{name}**: {title}: {facts['protocol_means']}. {counts}.")
        ceilings[_sentence(ceiling_words(facts.get("ceiling")))] = None
    return ["\n".join(lines), " ".join(f"Labels: {words}" for words in ceilings)]


def _nuclei(summary: Mapping[str, Any]) -> str:
    return ", and a regression on nuclei counted in the haematoxylin," if NUCLEI in summary["scores"]["label"] else ""


def _encoders(evaluations: Mapping[str, Evaluation]) -> list[Mapping[str, Any]]:
    encoders = {}
    for evaluation in evaluations.values():
        for one in (evaluation.summary.get("features") or {}).get("encoders", []):
            encoders[one["name"]] = one
    return list(encoders.values())


def _encoder(one: Mapping[str, Any]) -> str:
    words = [f"{one['name']}: {one['dim']} features from {one['size_px']} px at {one['mpp']:g} um/px"]
    words += [f"revision {one['revision']}"] if one.get("revision") else []
    words += [f"weights {str(one['digest'])[:19]}"] if one.get("digest") else []
    words += [f"licence {one['licence']}"] if one.get("licence") else []
    return "; ".join(words) + "."


def _cautions(evaluations: Mapping[str, Evaluation]) -> list[str]:
    notes: dict[str, None] = {}
    for evaluation in evaluations.values():
        facts = evaluation.summary
        for note in (facts["interval"]["caution"], *facts["notes"]):
            if note:
                notes[note] = None
    return list(notes)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
