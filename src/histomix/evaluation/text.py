"""An evaluation in words, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.words import BETWEEN, NEITHER, WITHIN, counted
from .baselines import NUCLEI, ORACLE
from .fit_folds import AUTHORS, MEAN
from .more_donors import more_donors_words
from .scores.ceiling import CEILING, ceiling_words
from .scores.paired_tests import ALPHA, difference_words, too_few_words
from .scores.scoring import SHRUNK_METRIC, SLIDE_METRICS

_MOST_NAMES = 6
#: More comparisons than this are left to the file.
_MOST_TESTS = 6


def in_words(facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> str:
    """Protocol, scores with intervals, ceilings, what can be told apart, and warnings.

    Parameters
    ----------
    facts
        The summary of an evaluation.
    tables
        Mean scores by target.
    """
    lines = [
        f"{facts['protocol']} folds ({facts['protocol_means']}): {counted(len(facts['folds']), 'fold')}, "
        f"{counted(facts['n_donors'], 'donor')}, {counted(facts['n_sections'], 'section')}, "
        f"{counted(facts['n_spots'], 'spot')}, {counted(len(facts['cell_types']), 'cell type')}; {facts['unit']}"
    ]
    for target, table in tables.items():
        lines += ["", f"against the {'labels' if target == 'label' else 'truth'}", _format(table)]
        if target == "label":
            lines.append(ceiling_words(facts.get(CEILING)))
    lines += _settings(facts)
    lines += _inflation(facts.get("inflation") or [])
    lines += [""]
    lines += _tests(facts.get("tests") or [])
    lines += _detectability(facts.get("detectability") or [], facts.get("groups"))
    lines += level_words((facts.get("scores") or {}).get("label") or {})
    lines += more_donors_words(facts.get("more_donors"))
    lines += _calibration(facts.get("calibration") or {})
    lines += spatial_words(facts.get("spatial"))
    return "\n".join([*lines, *_cautions(facts)]).replace("\n\n\n", "\n\n").rstrip()


def _settings(facts: Mapping[str, Any]) -> list[str]:
    """Which heads chose their settings by trials, which have their authors', and what every head cost."""
    if "searched" not in facts:
        return []
    by_trials, heads = facts["searched"], [name for name in facts["heads"] if name != MEAN]
    counts: dict[int, list[str]] = {}
    for name, search in by_trials.items():
        counts.setdefault(search["n_trials"], []).append(name)
    parts = [f"{n} trials each inside the training donors: {', '.join(names)}" for n, names in counts.items()]
    rest = [name for name in heads if name not in by_trials]
    if authors := [name for name in rest if name in AUTHORS]:
        parts.append(f"their authors': {', '.join(authors)}")
    if own := [name for name in rest if name not in AUTHORS]:
        parts.append(f"their own: {', '.join(own)}")
    cost = ", ".join(
        f"{name} {one['fit_seconds'] + one['predict_seconds']:.1f}"
        for name, one in facts["cost"].items()
        if name != MEAN
    )
    return [f"settings: {'; '.join(parts)}", f"seconds to fit and predict, all folds: {cost}"] if parts else []


def _inflation(rows: list[dict[str, Any]]) -> list[str]:
    """Heads x protocols, mean Pearson."""
    if not rows:
        return []
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["metric"] == "pearson":
            cells.setdefault(row["head"], {})[row["protocol"]] = _score(row)
    table = pd.DataFrame.from_dict(cells, orient="index").rename_axis("head")
    return ["", "what the protocol adds (mean Pearson against the labels)", _format(table)]


def _score(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "-"
    interval = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{row['mean']:.3f}{interval}"


def _tests(tests: list[dict[str, Any]]) -> list[str]:
    """Comparisons of heads against the labels, leaving out the constant."""
    told = [one for one in tests if one["target"] == "label" and "mean" not in (one["a"], one["b"])]
    counts = {one["n_donors"] for one in told}
    if len(counts) == 1 and all(one["p"] is None or one["smallest_p"] > ALPHA for one in told):
        # The same for all: said once.
        lines = [*(difference_words(one) for one in told[:_MOST_TESTS]), too_few_words(counts.pop())]
    else:
        lines = [one["statement"] for one in told[:_MOST_TESTS]]
    return lines + (
        [f"and {len(told) - _MOST_TESTS} more comparisons, in summary.json"] if len(told) > _MOST_TESTS else []
    )


def _detectability(rows: list[dict[str, Any]], groups: Mapping[str, Any] | None) -> list[str]:
    known = [row for row in rows if row["detectable"] is not None]
    if not known:
        return []
    head = known[0]["head"]
    missed = [row for row in known if not row["detectable"]]
    words = (
        f"{head} tells {len(known) - len(missed)} of {len(known)} cell types better than chance (spatial shifts, "
        "p < 0.05 corrected)"
    )
    lines = [words + (f"; not {_listed([row['cell_type'] for row in missed])}" if missed else "")]
    fallback = {row["group"] for row in missed if row["group"]} if groups else set()
    if groups and fallback:
        scores = groups["scores"][head]
        told = [f"{name} {_score(scores[name])}" for name in groups["groups"] if name in fallback and name in scores]
        lines.append(f"coarser groups to fall back on, mean Pearson of their sums: {'; '.join(told)}")
    return lines


def level_words(heads: Mapping[str, Any]) -> list[str]:
    """How well slides are told apart by their means, and what each cell type is good for: a line on each head.

    Parameters
    ----------
    heads
        Scores of each head against the labels. Heads that say the same everywhere, or read the test labels, are left
        out.
    """
    lines = []
    for head, scores in heads.items():
        error, constant = (scores.get(name, {}).get("mean") for name in SLIDE_METRICS)
        if head in (MEAN, ORACLE, NUCLEI) or not constant or "good_for" not in scores:
            continue
        words = f"{head}, means of slides: error {error / constant:.2f} of a constant's"
        drawn = scores.get(SHRUNK_METRIC, {}).get("mean")
        words += "" if drawn is None else f" ({drawn / constant:.2f} drawn to the training mean)"
        order = scores.get("slide_spearman", {}).get("mean")
        words += "" if order is None else f", order (Spearman) {order:.2f}"
        for use in (BETWEEN, WITHIN, NEITHER):
            types = [name for name, said in scores["good_for"].items() if said == use]
            words += f"; {use}: {_listed(types)}" if types else ""
        lines.append(words)
    return lines


def _calibration(heads: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {one['statement']}" for name, one in heads.items()]


def _cautions(facts: Mapping[str, Any]) -> list[str]:
    """Warnings and notes, each once."""
    caution = facts["interval"]["caution"]
    severities = {one["message"]: one["severity"] for one in facts.get("audit") or []}
    probe = facts.get("probe")
    if probe is not None:
        severities.setdefault(probe["statement"], "warning" if probe["strong"] else "note")
    for note in [*([caution] if caution else []), *facts["notes"]]:
        severities.setdefault(note, "note")
    return [
        "",
        *(f"{'audit: ' if severity == 'error' else ''}{severity}: {text}" for text, severity in severities.items()),
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")


def _format(table: pd.DataFrame) -> str:
    return table.reset_index().to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")


_NAMES = {
    "moran": "Moran's I across types",
    "colocalisation": "co-localisation",
    "ari_label": "domains of the labels",
    "ari_prediction": "regions",
    "ari_regions": "regions by the labels",
}


def spatial_words(spatial: Mapping[str, Any] | None) -> list[str]:
    """A line on each head: agreement of patterns, neighbours and domains with the labels, and what chance gives."""
    if not spatial:
        return []
    lines = [
        f"space, weights of {spatial['radius_um']:g} um, totals taken out ({spatial['adjust']}); mean over sections:"
    ]
    for head, scores in spatial["scores"].items():
        parts = []
        for name, words in _NAMES.items():
            entry = scores.get(name)
            if entry and entry["mean"] is not None:
                interval = "" if entry["low"] is None else f" ({entry['low']:.2f} to {entry['high']:.2f})"
                parts.append(
                    f"{words} {entry['mean']:.2f}{interval}{_chance(spatial, head) if name == _WITH_NULL else ''}"
                )
        if any(scores.get(name, {}).get("mean") for name in _NAMES):  # not for a constant, which scores 0 by rule
            lines.append(f"  {head}: {', '.join(parts)}")
    return [*lines, ""]


_WITH_NULL = "colocalisation"


def _chance(spatial: Mapping[str, Any], head: str) -> str:
    """What maps of the same types, shifted apart, reach on average."""
    rows = [one["null_mean"] for one in spatial[_WITH_NULL] if one["head"] == head and one["null_mean"] is not None]
    return f", by chance {sum(rows) / len(rows):.2f}" if rows else ""
