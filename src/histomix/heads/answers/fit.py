"""How a head learns which answers it can be trusted with: from predictions of donors that were held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from ...common.geometry.shift_null import SectionNull, section_null
from ...common.hierarchy import Hierarchy
from ...common.metrics import Array
from ...common.resampling import mean_and_interval, resample_weights
from ...common.words import NO_ANSWERS
from ...progress import tell
from ..dataset import TrainingSet
from ..inner_folds import held_out_kind
from ..trust.intervals import LEVEL, calibrate_levels
from .rule import NARROWEST, WIDEST, AnswerRule, first_told, shares

#: The share of answers whose interval may miss the label.
FDR = 0.1
#: A node is told where its correlation within slides is above the null at this level, corrected over the nodes.
_ALPHA = 0.05
#: Steps of the widening, the widest first; those with fewer answers than this share of the rows judge nothing.
_WIDENINGS = np.round(np.arange(WIDEST, NARROWEST - 0.01, -0.05), 2)
_FEWEST, _FEWEST_OF_A_NAME = 0.01, 20
#: What a card says of the order of each node.
_TABLE = ("pearson", "null", "p_adjusted", "apart", "apart_p_adjusted")
#: Rows that the rule is chosen on, at most, and work of the null (shifts x spots x nodes).
_MOST_ROWS, _WORK = 10_000, 1e9


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """Held-out predictions and labels, as shares of the nodes.

    Attributes
    ----------
    label, answer
        float64 ``(n, n_nodes)``.
    commonest, true_commonest
        Column of the commonest cell type of each row, predicted and in the label, ``(n,)``.
    group
        Donor or section of each row, coded from 0, ``(n,)``.
    """

    hierarchy: Hierarchy
    label: Array
    answer: Array
    commonest: NDArray[np.intp]
    true_commonest: NDArray[np.intp]
    group: NDArray[np.intp]

    def part(self, rows: NDArray[np.bool_]) -> _HeldOut:
        group = np.unique(self.group[rows], return_inverse=True)[1]
        commonest, true_commonest = self.commonest[rows], self.true_commonest[rows]
        return _HeldOut(self.hierarchy, self.label[rows], self.answer[rows], commonest, true_commonest, group)

    def thinned(self) -> _HeldOut:
        """Evenly spaced rows, where there are very many."""
        n = len(self.group)
        if n <= _MOST_ROWS:
            return self
        keep = np.zeros(n, bool)
        keep[np.linspace(0, n - 1, _MOST_ROWS).astype(int)] = True
        return self.part(keep)


def held_out_answers(
    training: TrainingSet, held_out: Array, hierarchy: Hierarchy, source: str, seed: int = 0
) -> dict[str, Any] | None:
    """What a card says of a head's answers: which names are told, their intervals, and how many of them miss.

    Per node of the hierarchy: whether the order within slides of its share, and of what its share is apart from that of
    its group, is above a null of maps that are moved apart (`section_null`, corrected over the nodes), and conformal
    intervals of its share (`calibrate`). The intervals are
    widened until at most `FDR` of the answers miss the label, by name and of each donor, the next donor taken to be as
    bad as the worst. All of it is done once more without each donor in turn, whose answers are then judged: donors that
    chose nothing.

    Parameters
    ----------
    training
        The training rows.
    held_out
        What `held_out_predictions` gave, ``(n, n_types)``; NaN where a row was never held out.
    hierarchy
        Of the cell types.
    source
        Whose hierarchy it is: "user", "reference" or "labels".
    seed
        Of the null and of the bootstrap.

    Returns
    -------
    dict or None
        See `histomix.heads.cards.answers`; None where fewer than two donors or sections were held out, or a cell type
        is called as what an answer says where it names none.
    """
    kind = held_out_kind(training.section, training.donor)
    observed, has_cells = shares(training.Y)
    predicted, is_known = shares(held_out)
    rows = has_cells & is_known
    names, group = np.unique((training.donor if kind == "donor" else training.section)[rows], return_inverse=True)
    if kind == "strip" or len(names) < 2 or set(training.cell_types) & set(NO_ANSWERS):
        return None
    data = _HeldOut(
        hierarchy,
        hierarchy.sums(observed[rows]),
        hierarchy.sums(predicted[rows]),
        predicted[rows].argmax(axis=1),
        observed[rows].argmax(axis=1),
        group,
    )
    section = training.section[rows]
    labels, answers = (np.hstack([part, _apart(hierarchy, part)]) for part in (data.label, data.answer))
    null = section_null(labels, answers, training.xy_um[rows], section, seed, work=_WORK)
    owner = dict(zip(section.tolist(), group.tolist(), strict=True))
    group_of = np.array([owner[name] for name in null.section])
    data = data.thinned()
    rule, table = _chosen(data, null, np.ones(len(null.section), bool))
    found = _judged(rule, data)
    return {
        "source": source,
        "parents": hierarchy.parents,
        "protocol": f"held-out {kind}",
        "donors_unseen": kind == "donor",
        "n_donors": len(np.unique(training.donor[rows])),
        "n_groups": len(names),
        "level": LEVEL,
        "fdr": FDR,
        "widening": rule.widening,
        "left_out": _left_out(data, null, group_of, len(names), seed) if len(names) > 2 else None,
        "nodes": [
            {
                "name": node.name,
                **{name: _rounded(table[name][place]) for name in _TABLE},
                "detectable": bool(table["detectable"][place]),
                "told": bool(rule.told[place]),
                "answered": _rounded(np.mean(found.node == place)),
                "missed": _rounded(found.missed[found.node == place].mean()) if (found.node == place).any() else None,
                "variance": [_printed(value) for value in rule.variance[:, place]],
                "multiplier": _printed(rule.multiplier[place]),
            }
            for place, node in enumerate(hierarchy.nodes)
        ],
    }


@dataclass(frozen=True, eq=False)
class _Judged:
    """Answers of held-out rows: the node (-1: none), and whether its interval misses the label, ``(n,)``."""

    node: NDArray[np.int32]
    missed: NDArray[np.bool_]


def _chosen(data: _HeldOut, null: SectionNull, sections: NDArray[np.bool_]) -> tuple[AnswerRule, dict[str, Array]]:
    """The rule that held-out rows choose, and of each node what is in `_TABLE`, and whether it is ``detectable``."""
    n_nodes = len(data.hierarchy.nodes)
    mean, p = null.test(sections)
    adjusted, told = np.full(len(p), np.nan), np.ones(n_nodes, bool)
    for part in (slice(0, n_nodes), slice(n_nodes, None)):
        known = np.isfinite(p[part])
        if known.any():
            adjusted[part][known] = false_discovery_control(p[part][known])
        told &= (np.nan_to_num(adjusted[part], nan=1.0) < _ALPHA) & (np.nan_to_num(mean[part], nan=0.0) > 0)
    n_sections = np.isfinite(null.real[sections]).sum(axis=0)
    above = np.quantile(null.null[sections].sum(axis=0), 1 - _ALPHA, axis=0) / np.maximum(n_sections, 1)
    # Of one stratum: below, each name's is widened for the tiles that it is the answer of, and these are its highest.
    (intervals,) = calibrate_levels(data.label, data.answer, None, data.group, (LEVEL,), strata=1, judged=False)
    rule = AnswerRule(data.hierarchy, told, intervals.variance, intervals.multiplier[0], NARROWEST)
    table = {
        "pearson": mean[:n_nodes],
        "null": np.where(n_sections > 0, above, np.nan)[:n_nodes],
        "p_adjusted": adjusted[:n_nodes],
        "apart": mean[n_nodes:],
        "apart_p_adjusted": adjusted[n_nodes:],
        "detectable": told,
    }
    rule = _each_name(rule, data)
    return replace(rule, widening=_widening(rule, data)), table


def _apart(hierarchy: Hierarchy, values: Array) -> Array:
    """Share of each node less its usual part of its group's, ``(n, n_nodes)``: what tells it from its siblings.

    Two types that are never told from each other both follow their group; this does not.
    """
    around = np.ones_like(values)
    for place, node in enumerate(hierarchy.nodes):
        if node.parent >= 0:
            around[:, place] = values[:, node.parent]
    total = around.sum(axis=0)
    part = np.divide(values.sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
    return np.asarray(np.where(np.isclose(part, 1.0, rtol=0, atol=1e-12), 0.0, values - part * around))


def _each_name(rule: AnswerRule, data: _HeldOut) -> AnswerRule:
    """The same with each node's intervals so wide that its own answers miss no more often than `FDR`.

    Tiles are answered where a share is predicted to be large, and what is predicted to be the largest commonly is less:
    intervals that hold over all tiles need not hold over those. From the cell types upwards, each node is judged by the
    rows that no smaller one has answered; one with fewer than `_FEWEST_OF_A_NAME` answers is not told.
    """
    half, told, multiplier = rule.half(data.answer), rule.told.copy(), rule.multiplier.copy()
    left, n_groups = np.ones(len(data.group), bool), int(data.group.max()) + 1
    for place in np.flatnonzero(told).tolist():  # the smaller first
        rows = np.flatnonzero(left & np.isin(data.commonest, data.hierarchy.nodes[place].members))
        share, wide = data.answer[rows, place], half[rows, place]
        off, group = np.abs(data.label[rows, place] - share), data.group[rows]
        found = None
        for widening in _WIDENINGS.tolist():
            here = share > widening * wide
            if here.sum() < _FEWEST_OF_A_NAME or len(np.unique(group[here])) < 2:
                continue
            answered, missed = (
                np.bincount(group[one], minlength=n_groups) for one in (here, here & (off > widening * wide))
            )
            if _with_the_worst(missed, answered) > FDR:
                break
            found = float(widening)
        told[place] = found is not None
        if found is not None:
            multiplier[place] *= found
            left[rows[share > found * wide]] = False
    return replace(rule, told=told, multiplier=multiplier)


def _with_the_worst(missed: NDArray[np.intp], answered: NDArray[np.intp]) -> float:
    """Share of the answers that miss, with those of the worst donor counted twice: as if the next one were like it."""
    each = (missed.sum() + missed) / (answered.sum() + answered)
    return float(each.max())


def _printed(value: float) -> float:
    """A number as a card has it: digits that no one needs could be altered without a change of the number."""
    return float(f"{value:.10g}")


def _widening(rule: AnswerRule, data: _HeldOut) -> float | None:
    """The least widening at which, and above which, answers miss no more often than `FDR`; None where there is none."""
    found, half = None, rule.half(data.answer)
    for widening in _WIDENINGS.tolist():
        judged = _judged(replace(rule, widening=widening), data, half)
        shares_missed = [missed for _, missed in _by_group(judged, data.group) if missed is not None]
        if (judged.node >= 0).mean() < _FEWEST:
            continue
        # The next donor is as bad as the worst of these, as intervals take it.
        if (sum(shares_missed) + max(shares_missed)) / (len(shares_missed) + 1) > FDR:
            break
        found = float(widening)
    return found


def _judged(rule: AnswerRule, data: _HeldOut, half: Array | None = None) -> _Judged:
    """Held-out rows answered by a rule; ``half`` is what `AnswerRule.half` gives for them."""
    if rule.widening is None:
        none = np.full(len(data.group), -1, np.int32)
        return _Judged(none, np.zeros(len(none), bool))
    half = rule.widening * (rule.half(data.answer) if half is None else half)
    node = first_told(rule, data.answer, half, data.commonest)
    place = np.arange(len(node)), np.maximum(node, 0)
    missed = np.abs(data.label[place] - data.answer[place]) > half[place]
    return _Judged(node, missed & (node >= 0))


def _by_group(judged: _Judged, group: NDArray[np.intp]) -> Iterator[tuple[float, float | None]]:
    """Of each donor or section: the share of its rows that are answered, and of these the share that miss."""
    for one in np.unique(group):
        answered = judged.node[group == one] >= 0
        missed = judged.missed[group == one]
        yield float(answered.mean()), float(missed.sum() / answered.sum()) if answered.any() else None


def _left_out(
    data: _HeldOut, null: SectionNull, group_of: NDArray[np.intp], n_groups: int, seed: int
) -> dict[str, Any]:
    """Each donor (or section) answered by the rule that the others chose."""
    answered, missed, holds = np.zeros(n_groups), np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    for one in range(n_groups):
        tell("answers (left out)", one, n_groups)
        rule, _ = _chosen(data.part(data.group != one), null, group_of != one)
        part = data.part(data.group == one)
        judged = _judged(rule, part)
        [(answered[one], share)] = _by_group(judged, part.group)
        if share is not None:
            missed[one] = share
            told = judged.node >= 0
            holds[one] = _holds(data.hierarchy, judged.node[told], part.true_commonest[told]).mean()
    tell("answers (left out)", n_groups, n_groups)
    weights = resample_weights(np.arange(n_groups), seed)
    found: dict[str, Any] = {}
    for name, values in (("answered", answered), ("missed", missed), ("holds", holds)):
        entry = mean_and_interval(values, weights, np.arange(n_groups))
        found[name] = {
            key: None if value is None else _rounded(np.clip(value, 0.0, 1.0)) for key, value in entry.items()
        }
    told = missed[np.isfinite(missed)]
    worst = _rounded(told.max()) if len(told) else None
    return {**found, "greatest_missed": worst, "n_groups": n_groups, "n_answered": len(told)}


def _holds(hierarchy: Hierarchy, node: NDArray[np.int32], commonest: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether each answer holds the label's commonest cell type."""
    members = [set(one.members) for one in hierarchy.nodes]
    return np.array([column in members[place] for place, column in zip(node.tolist(), commonest.tolist(), strict=True)])


def _rounded(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None
