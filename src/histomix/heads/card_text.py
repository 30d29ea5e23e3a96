"""The card of a head as Markdown, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Names longer than this are listed in part.
_LISTED = 12


def card_markdown(card: Mapping[str, Any]) -> str:
    """Render the card of a head as Markdown.

    Parameters
    ----------
    card
        As in ``card.json``. What an older card does not say is left out.

    Returns
    -------
    Text that begins with a heading and ends with a newline.
    """
    training = card["training"]
    tissue = card["tissue"] if isinstance(card["tissue"], str) else ", ".join(card["tissue"])
    counts = f"{training['n_spots']:,} spots of {_counted(training['n_sections'], 'section')}"
    parts = [
        f"# {card['name']}",
        f"Predicts {_counted(len(card['cell_types']), 'cell type')} ({card['unit']}) from H&E tiles. A head of "
        f"histomix {card['histomix']}: kind `{card['head']['kind']}`, trained on {counts} from "
        f"{_counted(training['n_donors'], 'donor')}. Tissue: {tissue}.",
        "## Cell types",
        _listed(card["cell_types"], len(card["cell_types"])) + ".",
    ]
    absent = training.get("cell_types_without_labels")
    if absent:
        parts.append(f"Absent from training and never predicted: {', '.join(absent)}.")
    parts += ["## Training data", _training(training), "## What it sees", _sees(card)]
    parts += ["## Scores", _scores(card.get("scores")), "## Intervals", _calibration(card.get("calibration"))]
    parts += ["## Intended use", card["intended_use"], "## Limits", card["limits"], "## Made with", _made_with(card)]
    return "\n\n".join(_escaped(part) for part in parts) + "\n"


def card_facts(card: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, Any]]]:
    """Title, lead, and the facts that a person looks for first, for a notebook."""
    training = card["training"]
    scores = (card.get("scores") or {}).get("pearson") or {}
    facts = [
        ("cell types", card["cell_types"]),
        ("unit", card["unit"]),
        ("tissue", card["tissue"]),
        ("training", ", ".join(_counted(training[f"n_{what}s"], what) for what in ("spot", "section", "donor"))),
        ("mean Pearson", scores.get("mean")),
        ("intervals", (card.get("calibration") or {}).get("statement", "none")),
        ("licences", [f"{one['encoder']}: {one['licence']}" for one in card["encoder_licences"]]),
        ("digest", str(card.get("digest", ""))[:19]),
    ]
    encoders = ", ".join(f"{one['name']} ({one['size_px']} px at {one['mpp']:g} um/px)" for one in card["encoders"])
    return f"Head {card['name']}", f"{card['head']['kind']} on {encoders}", facts


def _training(training: Mapping[str, Any]) -> str:
    lines = [
        f"- Donors: {_listed(training['donors'])}",
        f"- Sections (spots): {_listed([f'{name} ({n})' for name, n in training['sections'].items()])}",
    ]
    for source in training.get("labels", ()):
        provenance = source["provenance"]
        method = provenance.get("method", "not declared")
        version = f" {provenance['version']}" if isinstance(provenance.get("version"), str) else ""
        lines.append(f"- Labels of {_listed(source['sections'])}: {method}{version}, {source['unit']}")
    for name, lost in training.get("dropped", {}).items():
        lines.append(f"- Left out of {name}: {', '.join(f'{count} {what}' for what, count in lost.items())}")
    return "\n".join(lines)


def _sees(card: Mapping[str, Any]) -> str:
    licences = {entry["encoder"]: entry for entry in card.get("encoder_licences", ())}
    rows = []
    for encoder in card["encoders"]:
        licence = licences.get(encoder["name"], {})
        use = licence.get("commercial_use")
        words = {True: "yes", False: "no"}.get(use, str(use)) if isinstance(use, bool) else str(use or "not declared")
        side = encoder["size_px"] * encoder["mpp"]
        rows.append(
            [
                encoder["name"],
                str(encoder.get("revision") or ""),
                f"{encoder['size_px']} px at {encoder['mpp']:g} um/px ({side:g} um)",
                str(encoder["dim"]),
                str(encoder.get("views", 1)),
                str(licence.get("licence") or encoder.get("licence") or "not declared"),
                words,
            ]
        )
    head = ["Encoder", "Revision", "Tile", "Features", "Views", "Licence", "Commercial use"]
    text = _table(head, rows)
    if "context_um" in card:
        reach = card["context_um"]
        far = "at the tiles of its whole slide" if reach is None else f"at neighbours up to {reach:g} um away"
        text += f"\n\nIt looks {far if reach != 0 else 'at each tile alone'}."
    return text


def _scores(scores: Mapping[str, Any] | None) -> str:
    if not scores:
        return "None: it was not evaluated."
    means = scores.get("protocol_means")
    text = f"Protocol: {scores.get('protocol', 'not declared')}" + (f" ({means})" if means else "") + "."
    if scores.get("source"):
        text += f" Source: {scores['source']}."
    counts = [f"{scores[f'n_{what}s']:,} {what}s" for what in ("donor", "section", "spot") if scores.get(f"n_{what}s")]
    text += f" Over {', '.join(counts)}." if counts else ""
    entries = {name: entry for name, entry in scores.items() if isinstance(entry, Mapping) and "mean" in entry}
    rows = [
        [name, _number(entry["mean"]), _interval(entry), str(entry.get("n_types") or "")]
        for name, entry in entries.items()
    ]
    if rows:
        text += "\n\n" + _table(["Metric", "Mean over cell types", "Interval", "Types"], rows)
    by_type = entries.get("pearson", {}).get("by_type")
    if by_type:
        text += "\n\n" + _table(["Cell type", "Pearson"], [[name, _number(value)] for name, value in by_type.items()])
    return text


def _calibration(facts: Mapping[str, Any] | None) -> str:
    if not facts:
        return "None: its predictions carry no intervals."
    coverage, width = facts["coverage"]["by_type"], facts["width"]["by_type"]
    rows = [[name, _number(value), _number(width[name])] for name, value in coverage.items()]
    return facts["statement"] + "\n\n" + _table(["Cell type", "Coverage", "Mean width"], rows)


def _made_with(card: Mapping[str, Any]) -> str:
    kind = card["head"]
    lines = [f"- {name}: {version}" for name, version in card.get("versions", {}).items()]
    lines.append(f"- seed: {card.get('seed')}")
    lines += [f"- {name}: `{value}`" for name, value in {**kind["parameters"], **kind["fitted"]}.items()]
    lines += [f"- chosen here, since the paper does not say: {k}: {v}" for k, v in kind.get("own_choices", {}).items()]
    if card.get("digest"):
        lines.append(f"- digest of the card: `{card['digest']}`")
    return "\n".join(lines)


def _interval(entry: Mapping[str, Any]) -> str:
    low, high = entry.get("low"), entry.get("high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _listed(names: Sequence[str], most: int = _LISTED) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Names come from files: no HTML of theirs may live in a page that shows the card."""
    return text.replace("<", "&lt;")
