"""What a map says each tile is: the answers of a head's rule, and why some tiles have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.words import NOT_READ, NOT_TOLD, OUT_OF_SCOPE

if TYPE_CHECKING:
    from ..heads.answers.rule import AnswerRule


def answer_columns(
    rule: AnswerRule, values: np.ndarray, read_ok: np.ndarray, in_scope: np.ndarray, in_focus: np.ndarray | None
) -> dict[str, Any]:
    """Columns ``answer`` (categories), ``answer_lower`` and ``answer_upper`` (its share of the cells) of some tiles.

    Parameters
    ----------
    rule
        Of the head.
    values
        float32 (n, types), the predictions.
    read_ok, in_scope, in_focus
        bool (n,); of tiles out of focus nothing is told. None: the focus is not known.
    """
    usable = read_ok & in_scope if in_focus is None else read_ok & in_scope & in_focus
    found = rule.answers(np.asarray(values), usable)
    code = {word: place for place, word in enumerate(rule.names)}
    codes = np.where(found.node >= 0, found.node, code[NOT_TOLD]).astype(np.intp)
    codes[~in_scope] = code[OUT_OF_SCOPE]
    codes[~read_ok] = code[NOT_READ]
    return {
        "answer": pd.Categorical.from_codes(codes, categories=pd.Index(rule.names)),
        "answer_lower": found.lower,
        "answer_upper": found.upper,
    }


def answer_facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a map's manifest says of its answers, under ``answers``; nothing of a head that gives none."""
    from ..heads import answers_of

    told = answers_of(card)
    return {} if told is None else {"answers": {"parents": told.parents, "fdr": told.fdr, "statement": told.statement}}
