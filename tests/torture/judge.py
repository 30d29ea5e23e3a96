"""Whether numbers are those of the whole input, and whether an error says what is wrong, where, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import PurePath

import numpy as np
import pandas as pd

# What only the language or a library says of itself.
_INNER = re.compile(
    r"\b[A-Z]\w*(Error|Exception)\b|\breport (it|this)\b|NoneType|has no attribute|not subscriptable|unhashable|"
    r"list index|positional argument|<class '|object at 0x"
)
_ERRORS = re.compile(r"^(?:error|failed): (.*?)(?=^(?:error|failed|note|warning): |\Z)", re.MULTILINE | re.DOTALL)


def wrong_numbers(found: pd.DataFrame, whole: pd.DataFrame, tolerance: float, told: bool) -> str:
    """What is wrong with a result, in words; empty text where nothing is.

    Where a row is there, its numbers are those of the whole input, or NaN. Rows may lack only where that was told.
    """
    found, whole = (
        table.set_axis(table.index.map(str)).set_axis(table.columns.map(str), axis=1) for table in (found, whole)
    )
    if not found.index.is_unique:
        return "rows are there more than once"
    made_up = found.index.difference(whole.index)
    if len(made_up):
        return f"{len(made_up)} rows are made up, such as {made_up[0]}"
    columns = [name for name in whole if name in found]
    if len(columns) < len(whole.columns) and not told:
        return f"columns are lost without a word: {set(whole) - set(columns)}"
    values, expected = (table.loc[found.index, columns].to_numpy(float) for table in (found, whole))
    differs = ~np.isclose(values, expected, rtol=tolerance, atol=tolerance, equal_nan=True) & ~np.isnan(values)
    if differs.any():
        row, column = np.argwhere(differs)[0]
        return (
            f"{differs.any(axis=1).sum()} of {len(whole)} rows are wrong: {found.index[row]}, {columns[column]} is "
            f"{values[row, column]:.4g} for {expected[row, column]:.4g}"
        )
    lost = len(whole) - len(found) + int((np.isnan(values) & ~np.isnan(expected)).any(axis=1).sum())
    return f"{lost} of {len(whole)} rows are lost without a word" if lost and not told else ""


def told_lines(stderr: str) -> frozenset[str]:
    """What was said, without paths and times, which differ from run to run."""
    lines = (re.sub(r"\S*/\S+|\d+\.\d+ s\b", "", line).strip() for line in stderr.splitlines())
    return frozenset(line for line in lines if line)


def error_fault(stderr: str, stdout: str, files: Iterable[str]) -> str:
    """What an error lacks: the file, a hint, or words; empty text where nothing."""
    texts = [text.strip() for text in _ERRORS.findall(stderr)]
    if not texts:
        return "no error is named"
    text = "\n".join(texts)
    if found := _INNER.search(text):
        return f"it speaks of {found[0]}"
    parts = {part for file in files for part in PurePath(file).parts if part not in ("/", ".")}
    if not any(part in text for part in parts):
        return "the file is not named"
    return "" if _hint(stdout) or any(re.search(r"[.\n]\s+\S[^\n]*\.$", text) for text in texts) else "no hint"


def _hint(stdout: str) -> bool:
    try:
        return bool(json.loads(stdout)["error"]["hint"])
    except (ValueError, KeyError, TypeError):
        return False
