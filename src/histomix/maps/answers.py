"""The answers of a map in a sentence, for every surface that shows one."""

from __future__ import annotations

import pandas as pd

from ..common.words import NOT_TOLD, whole_percent
from .map import CompositionMap

#: Names in the sentence at most; the rest are counted together.
_LISTED = 5


def answers_sentence(one: CompositionMap) -> str:
    """How many of the tiles in scope are answered with what; "" for a map without answers, or without such tiles."""
    answer, used = one.answer, one.reading.used
    if answer is None or not used.any() or one.reading.statement:
        return ""
    shares = pd.Series(answer[used]).value_counts(normalize=True)
    told = shares.drop(NOT_TOLD, errors="ignore").sort_index().sort_values(ascending=False, kind="stable")
    parts = [f"{name} {whole_percent(share)}" for name, share in told.head(_LISTED).items()]
    rest, untold = float(told.iloc[_LISTED:].sum()), float(shares.get(NOT_TOLD, 0.0))
    parts += [f"others {whole_percent(rest)}"] if rest else []
    parts += [f"{NOT_TOLD} {whole_percent(untold)}"] if untold else []
    return f"Answers of the tiles in scope: {', '.join(parts)}. {one.answer_statement}".strip()
