"""How the heads that others are compared with choose their settings: a small search, of as many trials for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ...common.metrics import within_sections
from ..neighbourhood import Positions

#: Trials of every head that is searched: settings that are fitted anew on the inner splits. What one fit gives for
#: nothing is read along each: epochs, trees, penalties, numbers of neighbours.
N_TRIALS = 4
JUDGED_BY = "mean Pearson correlation within held-out sections, over cell types"


def settings_to_try(
    head: Any, tries: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The trials of a head, of which those parameters stay that are not None; each once, in their order.

    Parameters
    ----------
    head
        With the parameters as attributes.
    tries
        Values of the parameters that are None.
    names
        Of the parameters; those of the first trial where left out.
    """
    given = {name: getattr(head, name) for name in names or tries[0] if getattr(head, name) is not None}
    trials = [{**one, **given} for one in tries]
    return [one for number, one in enumerate(trials) if one not in trials[:number]]


def crossed(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of some values, the last name's fastest."""
    return [dict(zip(values, one, strict=True)) for one in product(*values.values())]


class Search:
    """Trials by how their predictions of held-out rows correlate with the labels within sections.

    Parameters
    ----------
    Y
        Labels, ``(n, n_types)``.
    groups, positions
        As a head is fitted with: sections are those of the places; without, the groups.
    """

    def __init__(self, Y: np.ndarray, groups: np.ndarray | None, positions: Positions | None) -> None:
        self.Y = Y
        none = np.zeros(len(Y), int) if groups is None else np.asarray(groups)
        self.section = none if positions is None else positions.section
        self.trials: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.held_out: np.ndarray | None = None
        self._best = -np.inf

    def trial(self, settings: Mapping[str, Any], path: Iterable[tuple[Mapping[str, Any], np.ndarray]]) -> bool:
        """Judge the predictions along one trial, NaN in rows without; whether its best is the best of all so far.

        Of trials that do alike the first one stays.
        """
        top, here, better = -np.inf, dict(settings), False
        for along, held_out in path:
            known = np.isfinite(held_out).all(axis=1).any()
            score = self.score(held_out) if known else -np.inf
            if score > top or here == settings:
                top, here = score, {**settings, **along}
            if score > self._best or not self.settings:
                self._best, self.settings, self.held_out, better = score, {**settings, **along}, held_out, True
        self.trials.append({**here, "score": round(float(top), 4) if np.isfinite(top) else None})
        return better

    def score(self, held_out: np.ndarray) -> float:
        """How predictions of held-out rows are judged."""
        return within_sections(self.Y, held_out, self.section)

    def facts(self, n_splits: int) -> dict[str, Any]:
        """What a card says of the search."""
        return search_facts(self.trials, self.settings, n_splits, JUDGED_BY)


def search_facts(
    trials: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], n_splits: int, judged_by: str
) -> dict[str, Any]:
    """The trials with their inner scores, how many they are, what was chosen, and by what."""
    return {
        "n_trials": len(trials),
        "n_splits": n_splits,
        "judged_by": judged_by,
        "trials": [dict(one) for one in trials],
        "chosen": dict(chosen),
    }
