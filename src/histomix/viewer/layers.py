"""The numbers of one slide as scripts: its tiles, each cell type, and the small maps of what varies most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..maps import CompositionMap
from .encode import (
    greatest_of,
    packed,
    packed_bytes,
    packed_codes,
    packed_flags,
    packed_positions,
    write_layer,
    write_script,
)

#: Steps of the small maps, from the least to the greatest difference; then as many for what is unsure; then "none".
_STEPS, _NONE = 127, 255
_USUAL = 0.99


@dataclass(frozen=True)
class Numbers:
    """The numbers of a slide, of n tiles and k types.

    Parameters
    ----------
    values
        What was predicted, (n, k).
    bounds
        ``lower`` and ``upper``, each (n, k), where there are intervals.
    label
        Labels at the same places, (n, k), where there are any.
    in_scope
        Tiles that count, bool (n,).
    means
        Of each type the mean that a difference is from; None of a slide that has none.
    """

    values: np.ndarray
    bounds: Mapping[str, np.ndarray]
    label: np.ndarray | None
    in_scope: np.ndarray
    means: Sequence[float | None]

    def differences(self, number: int) -> np.ndarray:
        """What is more or less than the slide's mean, of the tiles that count."""
        mean, values = self.means[number], self.values[self.in_scope, number]
        return np.empty(0) if mean is None else np.abs(values[np.isfinite(values)] - mean)


def usual(differences: np.ndarray) -> float:
    """The top of a scale of differences: their 99th percentile, 1 where there is none above 0."""
    return (float(np.quantile(differences, _USUAL, method="lower")) if differences.size else 0.0) or 1.0


def write_places(folder: Path, key: str, composition: CompositionMap) -> None:
    """Write where the tiles are and what they are called."""
    write_script(folder, key, "places", packed_positions(composition.xy_px))
    write_script(folder, key, "ids", [str(name) for name in composition.adata.obs_names])


def write_state(folder: Path, key: str, composition: CompositionMap, numbers: Numbers) -> list[str]:
    """Write what is known of each tile; the words that tiles are answered with are returned."""
    n = len(composition)
    words, answer = _answers(composition)
    label = np.full(n, np.nan) if numbers.label is None else _dominant(numbers.label)
    codes = {"dominant": _dominant(numbers.values), "label_dominant": label, "answer": answer}
    kinds = max(len(composition.cell_types), len(words))
    top = greatest_of(composition.novelty)
    state = {
        "novelty": packed(np.asarray(composition.novelty, float), top),
        "novelty_max": top,
        "flags": {"in_scope": packed_flags(composition.in_scope), "read_ok": packed_flags(composition.read_ok)},
        "codes": {name: packed_codes(one, kinds) for name, one in codes.items() if np.isfinite(one).any()},
    }
    write_script(folder, key, "state", state)
    return words


def write_type(folder: Path, key: str, number: int, numbers: Numbers) -> float:
    """Write one cell type; the top of its scale is returned."""
    arrays = {"value": numbers.values[:, number], **{name: table[:, number] for name, table in numbers.bounds.items()}}
    arrays |= {} if numbers.label is None else {"label": numbers.label[:, number]}
    read = [arrays[name] for name in ("value", "label") if name in arrays]
    known = np.concatenate([one[np.isfinite(one)] for one in read])
    top = greatest_of(*read)
    scales = {"top": top, "usual": float(np.percentile(known, 99)) if known.size else top}
    scales["usual"] = scales["usual"] if scales["usual"] > 0 else top
    scales["differs"] = usual(numbers.differences(number))
    if len(numbers.bounds) == 2:
        scales["width"] = greatest_of(arrays["upper"] - arrays["lower"])
    write_layer(folder, key, f"type{number}", arrays, greatest_of(*arrays.values()), scales)
    return top


def write_overview(folder: Path, key: str, numbers: Numbers, shown: Sequence[int]) -> float:
    """Write the small maps of the types that vary, a byte for each tile; the top of their one scale is returned.

    A page that shows six of them at first would else wait for all numbers of six types.
    """
    top = usual(np.concatenate([np.empty(0), *(numbers.differences(number) for number in shown)]))
    write_script(folder, key, "overview", [packed_bytes(_steps(numbers, number, top)) for number in shown])
    return top


def _steps(numbers: Numbers, number: int, top: float) -> np.ndarray:
    mean, values = numbers.means[number], numbers.values[:, number]
    steps = np.full(len(values), _NONE, np.uint8)
    known = np.isfinite(values)
    if mean is None:
        return steps
    middle = (_STEPS - 1) / 2
    steps[known] = np.clip(np.rint(middle + middle * (values[known] - mean) / top), 0, _STEPS - 1).astype(np.uint8)
    if len(numbers.bounds) == 2:
        lower, upper = numbers.bounds["lower"][:, number], numbers.bounds["upper"][:, number]
        steps[known & (lower <= mean) & (mean <= upper)] += _STEPS
    return steps


def _dominant(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values).all(axis=1)
    dominant = np.full(len(values), np.nan)
    dominant[known] = values[known].argmax(axis=1)
    return dominant


def _answers(composition: CompositionMap) -> tuple[list[str], np.ndarray]:
    """The words that tiles are answered with, and the number of each tile's; NaN in a map without answers."""
    if composition.answer is None:
        return [], np.full(len(composition), np.nan)
    words, codes = np.unique(composition.answer, return_inverse=True)
    return [str(word) for word in words], codes.astype(float)
