"""What the card of a head says of its answers, for every surface that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.words import counted, few

#: Where the groups come from, in words.
_SOURCES = {
    "user": "the groups are the user's",
    "reference": "the groups are the reference's",
    "labels": "the groups are of cell types whose labels go together",
}


@dataclass(frozen=True)
class HeldOutAnswers:
    """How far a head's answers can be trusted.

    Attributes
    ----------
    source
        Whose hierarchy it is: "user", "reference", "labels", or "" where the card does not say it.
    parents
        Name of a cell type or group -> name of the group that it belongs to.
    donors_unseen
        Whether the donors that were held out were in no training row.
    n_donors, n_groups
        That were held out; groups are the donors, or their sections.
    fdr
        The share of answers whose interval may miss the label.
    widening
        What the intervals were multiplied by to hold it; None: nothing is ever told.
    left_out
        ``answered`` (share of the rows), ``missed`` (of the answers, those whose interval misses the label) and
        ``holds`` (those that hold the label's commonest cell type): (mean, low, high) over donors that had no part in
        choosing the rule. Empty where it could not be checked so.
    nodes
        By name, what the card says of each cell type and group.
    """

    source: str
    parents: dict[str, str]
    donors_unseen: bool
    n_donors: int
    n_groups: int
    fdr: float
    widening: float | None
    left_out: dict[str, tuple[float, float | None, float | None]]
    nodes: dict[str, Mapping[str, Any]]

    @property
    def who(self) -> str:
        """Who was held out: "8 donors", or "three sections of one patient"."""
        if self.donors_unseen:
            return counted(self.n_groups, "donor")
        patients = f"{few(self.n_donors)} patient{'' if self.n_donors == 1 else 's'}"
        return f"{few(self.n_groups)} section{'' if self.n_groups == 1 else 's'} of {patients}"

    @property
    def statement(self) -> str:
        """What an answer is, and how many of them are wrong, in sentences."""
        text = (
            "The answer of a tile is its commonest cell type, or the smallest group around it that held-out "
            f"{'donors' if self.donors_unseen else 'sections'} show can be told. "
        )
        if self.widening is None:
            return f"{text}Here nothing can be told with {self.fdr:.0%} of wrong intervals or fewer."
        text += f"Intervals of at most {self.fdr:.0%} of the answers are to miss the label; "
        missed = self.left_out.get("missed")
        if missed is None:
            text += f"with {self.who} that could not be checked on one that had no part in choosing the rule."
        else:
            text += f"of {self.who}, each with no part in choosing the rule, {_share(missed)} did"
            holds = self.left_out.get("holds")
            text += f", and {_share(holds)} of the answers held the label's commonest cell type." if holds else "."
        return text if self.donors_unseen else f"{text} Of another patient more will miss."


def answers_of(card: Mapping[str, Any]) -> HeldOutAnswers | None:
    """What a card says of its answers; None where it says nothing, as an older card.

    A card may come from elsewhere: what is no number is not known.
    """
    facts = card.get("answers")
    if not isinstance(facts, Mapping):
        return None
    parents, left_out = facts.get("parents"), facts.get("left_out")
    counts = [facts.get(name) for name in ("n_donors", "n_groups")]
    n_donors, n_groups = (one if isinstance(one, int) and one >= 0 else 0 for one in counts)
    checked = {name: _entry(left_out.get(name)) for name in ("answered", "missed", "holds")} if left_out else {}
    nodes = [one for one in facts.get("nodes") or [] if isinstance(one, Mapping)]
    return HeldOutAnswers(
        source=str(facts.get("source", "")),
        parents={str(name): str(group) for name, group in parents.items()} if isinstance(parents, Mapping) else {},
        donors_unseen=facts.get("donors_unseen") is True,
        n_donors=n_donors,
        n_groups=n_groups,
        fdr=_number(facts.get("fdr")) or 0.0,
        widening=_number(facts.get("widening")),
        left_out={name: entry for name, entry in checked.items() if entry is not None},
        nodes={str(one.get("name")): one for one in nodes},
    )


def answer_lines(card: Mapping[str, Any]) -> list[str]:
    """What a card says of its answers, in lines: the statement, then each name that tiles are answered with."""
    found = answers_of(card)
    if found is None:
        return ["answers: none; maps have no column of them"]
    lines = [f"answers: {found.statement}"]
    if found.source in _SOURCES and found.parents:
        lines.append(f"  {_SOURCES[found.source]}")
    widest = max((len(name) for name in found.nodes), default=0)
    for name, node in found.nodes.items():
        lines.append(f"  {name:{widest}}  {answer_words(node)}")
    return lines


def answer_words(node: Mapping[str, Any]) -> str:
    """What a name is good for as an answer, in words."""
    answered, missed = (_number(node.get(name)) for name in ("answered", "missed"))
    if node.get("told") is not True:
        return "too seldom right" if node.get("detectable") is True else "not told from chance or its group"
    if not answered or missed is None:
        return "told; no answer of held-out rows"
    return f"told; answers {answered:.1%} of held-out rows, {missed:.1%} of them miss"


def _share(entry: tuple[float, float | None, float | None]) -> str:
    mean, low, high = entry
    return f"{mean:.1%}" + ("" if low is None or high is None else f" ({low:.1%} to {high:.1%})")


def _entry(value: Any) -> tuple[float, float | None, float | None] | None:
    if not isinstance(value, Mapping):
        return None
    mean, low, high = (_number(value.get(name)) for name in ("mean", "low", "high"))
    return None if mean is None else (mean, low, high)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)
