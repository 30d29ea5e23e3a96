"""Paired tests between encoders and between heads of a benchmark, over the same donors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..evaluation.baselines import ORACLE
from ..evaluation.result import Evaluation
from ..evaluation.scores.paired_tests import TESTED, adjusted, paired_tests, statement


def compare(cells: Sequence[tuple[str, str, Evaluation]], seed: int) -> list[dict[str, Any]]:
    """Test every pair of encoders with the same head, and every pair of heads on the same encoder.

    Parameters
    ----------
    cells
        Cohort, encoder and evaluation; those of one cohort and protocol are over the same spots and folds.
    seed
        Of bootstrap and permutations.

    Returns
    -------
    list
        What `paired_tests` gives for a pair, with ``cohort``, ``protocol``, ``compared`` (``"encoders"`` or
        ``"heads"``) and ``fixed`` (the head, or the encoder, that both have). ``p_adjusted`` is over all pairs of a
        cohort, protocol and target. Baselines that are no heads are compared once, on the first encoder.
    """
    groups: dict[tuple[str, str], list[tuple[str, Evaluation]]] = {}
    for cohort, encoder, evaluation in cells:
        groups.setdefault((cohort, evaluation.summary["protocol"]), []).append((encoder, evaluation))
    results: list[dict[str, Any]] = []
    for (cohort, protocol), members in groups.items():
        where = {"cohort": cohort, "protocol": protocol}
        tests: list[dict[str, Any]] = []
        for place, (encoder, evaluation) in enumerate(members):
            heads = [name for name in _scored(evaluation) if name in evaluation.predictions or place == 0]
            for one in paired_tests(evaluation.metrics, heads, seed):
                tests.append({**where, "compared": "heads", "fixed": encoder, **one})
        heads = [name for name in members[0][1].predictions if all(name in other.predictions for _, other in members)]
        for head in heads:
            if len(members) > 1 and not _same_everywhere(head, members):
                # Encoders take the place of heads in one table.
                tables = [table.metrics[table.metrics["head"] == head].assign(head=name) for name, table in members]
                joined = pd.concat(tables, ignore_index=True)
                for one in paired_tests(joined, [name for name, _ in members], seed):
                    tests.append({**where, "compared": "encoders", "fixed": head, **one})
        for target in dict.fromkeys(one["target"] for one in tests):
            mine = [one for one in tests if one["target"] == target]
            for one, p in zip(mine, adjusted([one["p"] for one in mine]), strict=True):
                one["p_adjusted"] = p
                one["statement"] = statement(one)
                results.append(one)
    return results


def _scored(evaluation: Evaluation) -> list[str]:
    """Heads and baselines that have the tested score; the oracle knows the answer and is not compared."""
    rows = evaluation.metrics[evaluation.metrics["metric"] == TESTED]
    return [str(name) for name in dict.fromkeys(rows["head"]) if name not in (ORACLE, "label")]


def _same_everywhere(head: str, members: Sequence[tuple[str, Evaluation]]) -> bool:
    """Whether a head predicts the same whatever the encoder (the training mean)."""
    first = members[0][1].predictions[head]
    return all(
        set(other.predictions[head]) == set(first)
        and all(table.equals(first[name]) for name, table in other.predictions[head].items())
        for _, other in members[1:]
    )
