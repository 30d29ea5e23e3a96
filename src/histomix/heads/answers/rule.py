"""The rule that gives a tile its answer: its commonest cell type, or the smallest group around it that can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...common.hierarchy import Hierarchy
from ...common.metrics import Array
from ...common.words import NO_ANSWERS, reason
from ...errors import HeadError, InputError
from ..trust.intervals import expected_error

#: No interval is wider than by this factor, and none narrower than conformal ones are.
WIDEST, NARROWEST = 4.0, 1.0
#: No error of a share is larger.
_LARGEST = 1e6


class Answers(NamedTuple):
    """What tiles are answered with.

    Attributes
    ----------
    node
        Position in the hierarchy's nodes, int32 ``(n,)``; -1 where nothing is told.
    lower, upper
        Ends of the interval of the answer's share of the cells, float32 ``(n,)``; NaN where nothing is told.
    """

    node: NDArray[np.int32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AnswerRule:
    """The rule of a head.

    A tile's answer is its commonest predicted cell type, where that is told on held-out donors and the interval of its
    share lies above 0; else the smallest group around it of which both hold; else nothing.

    Attributes
    ----------
    hierarchy
        Cell types and groups.
    told
        Whether held-out donors show that a node can be told, and told from its siblings, bool ``(n_nodes,)``.
    variance, multiplier
        Of the intervals of the nodes' shares, as in `Intervals`: float64 ``(4, n_nodes)`` and ``(n_nodes,)``.
    widening
        What the intervals' half-widths are multiplied by; None: nothing is ever told.
    """

    hierarchy: Hierarchy
    told: NDArray[np.bool_]
    variance: Array
    multiplier: Array
    widening: float | None

    @cached_property
    def names(self) -> list[str]:
        """What an answer may say: the names of the nodes, then `NO_ANSWERS`."""
        return [*(node.name for node in self.hierarchy.nodes), *NO_ANSWERS]

    def half(self, sums: Array) -> Array:
        """Half the width of the intervals of the nodes' shares before they are widened, ``(n, n_nodes)``."""
        return np.asarray(self.multiplier * expected_error(self.variance, sums, None))

    def answers(self, values: NDArray[np.floating], usable: NDArray[np.bool_]) -> Answers:
        """Answer tiles; a row's answer depends on nothing but the row.

        Parameters
        ----------
        values
            Predictions, ``(n, n_types)``, in either unit: what counts is the share of each type.
        usable
            Which rows may be answered, bool ``(n,)``.
        """
        n = len(values)
        node, lower, upper = np.full(n, -1, np.int32), np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
        share, known = shares(np.asarray(values, dtype=np.float64))
        rows = np.flatnonzero(usable & known)
        if self.widening is None or not len(rows):
            return Answers(node, lower, upper)
        sums = self.hierarchy.sums(share[rows])
        half = self.widening * self.half(sums)
        found = first_told(self, sums, half, share[rows].argmax(axis=1))
        answered = found >= 0
        place = np.flatnonzero(answered), found[answered]
        node[rows] = found
        lower[rows[answered]] = np.clip(sums[place] - half[place], 0.0, 1.0)
        upper[rows[answered]] = np.clip(sums[place] + half[place], 0.0, 1.0)
        return Answers(node, lower, upper)


def shares(values: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Each type's share of a row's cells, and which rows have any, bool ``(n,)``; NaN in the others."""
    cells = np.clip(values, 0.0, None)
    total = cells.sum(axis=1)
    known = np.isfinite(total) & (total > 0)
    return np.divide(cells, total[:, None], out=np.full(cells.shape, np.nan), where=known[:, None]), known


def first_told(rule: AnswerRule, sums: Array, half: Array, commonest: NDArray[np.intp]) -> NDArray[np.int32]:
    """The answer of each row, int32 ``(n,)``: the first node on the way up that is told and whose interval is above 0.

    Parameters
    ----------
    rule
        Which nodes are told.
    sums, half
        Shares of the nodes and half the widths of their intervals, ``(n, n_nodes)``.
    commonest
        Column of each row's commonest cell type, ``(n,)``.
    """
    found = np.full(len(sums), -1, np.int32)
    for cell_type, chain in enumerate(rule.hierarchy.chains):
        left = np.flatnonzero(commonest == cell_type)
        for place in chain:
            if rule.told[place]:
                here = sums[left, place] > half[left, place]
                found[left[here]] = place
                left = left[~here]
    return found


def answer_rule(card: Mapping[str, Any]) -> AnswerRule | None:
    """The rule of a card; None where it has none, as an older card.

    Raises
    ------
    HeadError
        What stands there is no rule for the card's cell types.
    """
    facts = card.get("answers")
    if facts is None:
        return None
    try:
        hierarchy = Hierarchy.of(
            {str(name): str(group) for name, group in facts["parents"].items()}, card["cell_types"]
        )
        nodes = facts["nodes"]
        names = [one["name"] for one in nodes]
        told = np.array([one["told"] is True for one in nodes])
        variance = np.array([one["variance"] for one in nodes], dtype=np.float64).T
        multiplier = np.array([one["multiplier"] for one in nodes], dtype=np.float64)
        widening = None if facts["widening"] is None else float(facts["widening"])
    except InputError as error:
        raise HeadError(f"the card's answers are incomplete or of the wrong kind ({error.what})") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HeadError(f"the card's answers are incomplete or of the wrong kind ({reason(error)})") from error
    if names != [node.name for node in hierarchy.nodes]:
        raise HeadError("the card's answers are of other names than its hierarchy")
    numbers = np.concatenate([variance.ravel(), multiplier, [NARROWEST if widening is None else widening]])
    if variance.shape != (4, len(nodes)) or not ((numbers >= 0) & (numbers <= _LARGEST)).all():
        raise HeadError("the numbers of the card's answers cannot be those of intervals")
    return AnswerRule(hierarchy, told, variance, multiplier, widening)
