"""The card of a head in words: as Markdown, in lines before it is taken, and its facts for pages and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...common.words import counted, head_limits
from .answers import answer_words, answers_of
from .levels_text import levels_markdown
from .markdown import markdown_table, number_text, plain

#: Names longer than this are listed in part.
_LISTED = 12
_TERMS = {True: "commercial use allowed", False: "no commercial use", None: "commercial use not declared"}


class EncoderTerms(NamedTuple):
    """An encoder of a card: its licence, and whether that allows commercial use (None: not declared)."""

    encoder: str
    licence: str
    commercial_use: bool | None

    @property
    def use(self) -> str:
        """Commercial use in a word."""
        return {True: "yes", False: "no", None: "not declared"}[self.commercial_use]


def encoder_terms(card: Mapping[str, Any]) -> list[EncoderTerms]:
    """The terms of each encoder of a card, in their order."""
    declared = {str(one.get("encoder")): one for one in card.get("encoder_licences") or []}
    terms = []
    for one in card.get("encoders") or []:
        entry = declared.get(str(one.get("name")), {})
        use, licence = entry.get("commercial_use"), one.get("licence") or entry.get("licence") or "not declared"
        terms.append(EncoderTerms(str(one.get("name")), str(licence), use if isinstance(use, bool) else None))
    return terms


def card_terms(card: Mapping[str, Any]) -> list[str]:
    """What a person must know before a head is taken, in lines: licences, tissue, intended use and limits."""
    lines = [
        f"licence of the encoder {one.encoder}: {one.licence} ({_TERMS[one.commercial_use]})"
        for one in encoder_terms(card)
    ]
    lines += [f"licence of the {what}: {words}" for what, words in _licences(card)]
    tissue = card.get("tissue")
    lines.append(f"tissue: {', '.join(tissue) if isinstance(tissue, list) else tissue}")
    return lines + [words for words in (card.get("intended_use"), limits_text(card)) if words]


def limits_text(card: Mapping[str, Any]) -> str:
    """The limits of a card, with what must be said of its maps where it does not say it itself."""
    limits = str(card.get("limits") or "")
    return " ".join([*(one for one in head_limits(card) if one not in limits), *filter(None, [limits])])


def card_summary(card: Mapping[str, Any]) -> list[str]:
    """What a head is, in lines: cell types and their unit, what it sees of a slide, its training, and its score."""
    types = [str(name) for name in card.get("cell_types") or []]
    lines = [f"{counted(len(types), 'cell type')}, in {card.get('unit')}: {_names(types)}"]
    tiles = [
        f"{one.get('name')}, {one.get('size_px')} px at {one.get('mpp')} um per px"
        for one in card.get("encoders") or []
    ]
    lines.append(f"tile: {'; '.join(tiles)}")
    training = card.get("training") or {}
    counts = [
        counted(training[f"n_{noun}s"], noun) for noun in ("donor", "section", "spot") if f"n_{noun}s" in training
    ]
    lines.append(f"trained on {', '.join(counts)}")
    scores = card.get("scores") or {}
    mean = (scores.get("pearson") or {}).get("mean")
    if mean is not None:
        lines.append(f"score: mean Pearson {mean:.2f} with the labels, {scores.get('protocol')}")
    return lines


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _licences(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Licences of the training data and of the labels, where the card has them."""
    return [(str(what), str(words)) for what, words in (card.get("licences") or {}).items()]


def card_markdown(card: Mapping[str, Any], *, names: bool = True) -> str:
    """Render the card of a head as Markdown.

    Parameters
    ----------
    card
        As in ``card.json``. What an older card does not say is left out.
    names
        Whether donors and sections are named; else they are counted.

    Returns
    -------
    Text that begins with a heading and ends with a newline; no text of the card has a mark that means anything.
    """
    training = card["training"]
    tissue = card["tissue"] if isinstance(card["tissue"], str) else ", ".join(card["tissue"])
    counts = f"{training['n_spots']:,} spots of {counted(training['n_sections'], 'section')}"
    parts = [
        f"# {plain(card['name'])}",
        f"Predicts {counted(len(card['cell_types']), 'cell type')} ({plain(card['unit'])}) from H&E tiles. A head of "
        f"histomix {plain(card['histomix'])}: kind `{_code(card['head']['kind'])}`, trained on {counts} from "
        f"{counted(training['n_donors'], 'donor')}. Tissue: {plain(tissue)}.",
        "## Cell types",
        _listed(card["cell_types"], len(card["cell_types"])) + ".",
    ]
    absent = training.get("cell_types_without_labels")
    if absent:
        parts.append(f"Absent from training and never predicted: {_listed(absent, len(absent))}.")
    licences = "".join(f"\n- Licence of the {plain(what)}: {plain(words)}" for what, words in _licences(card))
    parts += ["## Training data", _training(training, names) + licences, "## What it sees", _sees(card)]
    parts += [
        "## Scores",
        _scores(card.get("scores")),
        "## Levels of slides",
        levels_markdown(card),
        "## Answers",
        _answers(card),
        "## Intervals",
        _calibration(card.get("calibration")),
    ]
    use, limits = plain(card["intended_use"]), plain(limits_text(card))
    parts += ["## Intended use", use, "## Limits", limits, "## Made with", _made_with(card)]
    return "\n\n".join(parts) + "\n"


def card_facts(card: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, Any]]]:
    """Title, lead, and the facts that a person looks for first, for a notebook."""
    training = card["training"]
    scores = (card.get("scores") or {}).get("pearson") or {}
    facts = [
        ("cell types", card["cell_types"]),
        ("unit", card["unit"]),
        ("tissue", card["tissue"]),
        ("training", ", ".join(counted(training[f"n_{what}s"], what) for what in ("spot", "section", "donor"))),
        ("mean Pearson", scores.get("mean")),
        ("intervals", (card.get("calibration") or {}).get("statement", "none")),
        ("licences", [f"{one.encoder}: {one.licence}" for one in encoder_terms(card)]),
        ("digest", str(card.get("digest", ""))[:19]),
    ]
    encoders = ", ".join(f"{one['name']} ({one['size_px']} px at {one['mpp']:g} um/px)" for one in card["encoders"])
    return f"Head {card['name']}", f"{card['head']['kind']} on {encoders}", facts


def _training(training: Mapping[str, Any], names: bool) -> str:
    if not names:
        methods = dict.fromkeys(
            source["provenance"].get("method", "not declared") for source in training.get("labels", ())
        )
        lines = [f"- {name}: {training[f'n_{name.lower()}']:,}" for name in ("Donors", "Sections", "Spots")]
        return "\n".join([*lines, *(f"- Labels by {plain(method)}" for method in methods)])
    lines = [
        f"- Donors: {_listed(training['donors'])}",
        f"- Sections (spots): {_listed([f'{name} ({n})' for name, n in training['sections'].items()])}",
    ]
    for source in training.get("labels", ()):
        provenance = source["provenance"]
        method = provenance.get("method", "not declared")
        version = f" {provenance['version']}" if isinstance(provenance.get("version"), str) else ""
        words = plain(f"{method}{version}, {source['unit']}")
        lines.append(f"- Labels of {_listed(source['sections'])}: {words}")
    for name, lost in training.get("dropped", {}).items():
        words = ", ".join(f"{count} {what}" for what, count in lost.items())
        lines.append(f"- Left out of {plain(name)}: {plain(words)}")
    return "\n".join(lines)


def _sees(card: Mapping[str, Any]) -> str:
    rows = []
    for encoder, terms in zip(card["encoders"], encoder_terms(card), strict=True):
        side = encoder["size_px"] * encoder["mpp"]
        rows.append(
            [
                encoder["name"],
                str(encoder.get("revision") or ""),
                f"{encoder['size_px']} px at {encoder['mpp']:g} um/px ({side:g} um)",
                str(encoder["dim"]),
                str(encoder.get("views", 1)),
                terms.licence,
                terms.use,
            ]
        )
    head = ["Encoder", "Revision", "Tile", "Features", "Views", "Licence", "Commercial use"]
    text = markdown_table(head, rows)
    if "context_um" in card:
        context_um = card["context_um"]
        far = "at the tiles of its whole slide" if context_um is None else f"at neighbours up to {context_um:g} um away"
        text += f"\n\nIt looks {far if context_um != 0 else 'at each tile alone'}."
    scale = (card.get("scale_check") or {}).get("words")
    text += _damping(card.get("stain_damping")) + _stability(card.get("crop_stability"))
    text += _precision(card.get("precision"))
    return text + (f" {plain(scale)}" if scale else "")


def _damping(facts: Mapping[str, Any] | None) -> str:
    """What is done about the stain."""
    if not facts:
        return " Nothing was learnt of what another stain does to its features."
    moved = ", ".join(plain(facts.get(name)) + f" {name}" for name in ("shifts", "sections"))
    return f" It looks past {plain(facts.get('directions'))} directions in which stain alone moves features ({moved})."


def _stability(facts: Mapping[str, Any] | None) -> str:
    """How far predictions move when less of a slide is read."""
    numbers = [(facts or {}).get(name) for name in ("sd", "largest", "tolerated", "beyond_um")]
    if not all(isinstance(one, int | float) for one in numbers):
        return ""
    sd, largest, tolerated, beyond_um = (float(one) for one in numbers if one is not None)
    far = f"farther than {beyond_um:g} um from what was cut away" if beyond_um else "that were kept"
    text = (
        f" Cropped at random, a section of the training has the same predictions at tiles {far} but for {sd:.3f} "
        f"standard deviations of the labels ({largest:.3f} at the most)."
    )
    if sd > tolerated:
        text += " Maps of this head depend on how much of a slide is read: compare only slides that were read alike."
    return text


def _precision(facts: Mapping[str, Any] | None) -> str:
    """How far predictions move with features in float32."""
    numbers = [(facts or {}).get(name) for name in ("sd", "tolerated")]
    if not facts or not all(isinstance(one, int | float) for one in numbers):
        return ""
    return (
        f" Its features are computed in {plain(facts.get('precision'))}; in float32 its predictions move by "
        f"{float(numbers[0]):.2%} of their standard deviation ({float(numbers[1]):.0%} are allowed)."  # type: ignore[arg-type]
    )


def _scores(scores: Mapping[str, Any] | None) -> str:
    if not scores:
        return "None: it was not evaluated."
    means = scores.get("protocol_means")
    text = f"Protocol: {plain(scores.get('protocol', 'not declared'))}" + (f" ({plain(means)})" if means else "") + "."
    if scores.get("source"):
        text += f" Source: {plain(scores['source'])}."
    counts = [f"{scores[f'n_{what}s']:,} {what}s" for what in ("donor", "section", "spot") if scores.get(f"n_{what}s")]
    text += f" Over {', '.join(counts)}." if counts else ""
    entries = {name: entry for name, entry in scores.items() if isinstance(entry, Mapping) and "mean" in entry}
    rows = [
        [name, number_text(entry["mean"]), _interval(entry), str(entry.get("n_types") or "")]
        for name, entry in entries.items()
    ]
    if rows:
        text += "\n\n" + markdown_table(["Metric", "Mean over cell types", "Interval", "Types"], rows)
    text += _more_donors(scores.get("more_donors"))
    by_type = entries.get("pearson", {}).get("by_type")
    if by_type:
        rows = [[name, number_text(value)] for name, value in by_type.items()]
        text += "\n\n" + markdown_table(["Cell type", "Pearson"], rows)
    return text


def _more_donors(facts: Mapping[str, Any] | None) -> str:
    """What more donors in training did in the evaluation."""
    if not facts:
        return ""
    curve = [(one.get("n_donors"), one.get("mean")) for one in facts.get("other_donors") or []]
    rises = ", ".join(f"{number_text(mean)} with {plain(count)}" for count, mean in curve)
    adds = "; ".join(
        f"the {words} donor adds {entry['mean']:+.3f}" + (f" ({_interval(entry)})" if _interval(entry) else "")
        for words, entry in (("second", facts.get("second_donor")), ("last", facts.get("last_donor")))
        if entry and entry.get("mean") is not None
    )
    return f"\n\nMore donors in training: unseen donors {rises}; to held-out sections of those before it {adds}."


def _answers(card: Mapping[str, Any]) -> str:
    found = answers_of(card)
    if found is None:
        return "None: maps have no column of them."
    rows = [
        [
            name,
            found.parents.get(name, ""),
            *(number_text(node.get(what)) for what in ("pearson", "null")),
            answer_words(node),
        ]
        for name, node in found.nodes.items()
    ]
    head = ["Name", "Group", "Pearson within slides", "Its null (95 %)", "As an answer"]
    return plain(found.statement) + "\n\n" + markdown_table(head, rows)


def _calibration(facts: Mapping[str, Any] | None) -> str:
    if not facts:
        return "None: its predictions carry no intervals."
    coverage, width = facts["coverage"]["by_type"], facts["width"]["by_type"]
    rows = [[name, number_text(value), number_text(width[name])] for name, value in coverage.items()]
    return plain(facts["statement"]) + "\n\n" + markdown_table(["Cell type", "Coverage", "Mean width"], rows)


def _made_with(card: Mapping[str, Any]) -> str:
    kind = card["head"]
    lines = [f"- {plain(name)}: {plain(version)}" for name, version in card.get("versions", {}).items()]
    lines.append(f"- seed: {plain(card.get('seed'))}")
    lines += [f"- {plain(name)}: `{_code(value)}`" for name, value in {**kind["parameters"], **kind["fitted"]}.items()]
    choices = kind.get("own_choices", {}).items()
    lines += [f"- chosen here, since the paper does not say: {plain(f'{name}: {value}')}" for name, value in choices]
    search = kind.get("search")
    if search:
        best = ", ".join(f"{name} {value}" for name, value in search["chosen"].items())
        words = (
            f"{best}; {search['n_trials']} trials on {search['n_splits']} inner splits, by the {search['judged_by']}"
        )
        lines.append(f"- chosen inside the training: {plain(words)}")
        lines += [f"  - tried: `{_code(one)}`" for one in search["trials"]]
    if card.get("digest"):
        lines.append(f"- digest of the card: `{_code(card['digest'])}`")
    return "\n".join(lines)


def _interval(entry: Mapping[str, Any]) -> str:
    low, high = entry.get("low"), entry.get("high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _listed(names: Sequence[str], most: int = _LISTED) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(plain(name) for name in names[:most]) + more


def _code(value: Any) -> str:
    """A text of the card between backticks."""
    return " ".join(str(value).replace("`", "'").replace("<", "&lt;").split())
