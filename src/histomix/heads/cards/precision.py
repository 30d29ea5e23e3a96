"""How far a head's predictions move where its features are computed in less than float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embedding import feature_manifest, precision_shifts
from ...errors import HeadError
from ..base import CompositionRegressor
from ..dataset import TrainingSet

if TYPE_CHECKING:
    from anndata import AnnData

#: Predictions may move by so much of their standard deviation.
TOLERATED = {"bfloat16": 0.01, "int8": 0.05}


def require_precision(
    estimator: CompositionRegressor,
    training: TrainingSet,
    blocks: Sequence[Mapping[str, AnnData]],
    damped: Callable[[np.ndarray], np.ndarray],
) -> dict[str, Any] | None:
    """How far predictions move between the precision of the features and float32, on the sample that was kept.

    Judged half-way between two tiles of the sample: a head may know the tiles themselves by heart.

    Parameters
    ----------
    estimator
        The fitted head.
    training
        What it was fitted on.
    blocks
        Features by section, of each encoder.
    damped
        Makes of features what the head sees.

    Returns
    -------
    dict or None
        ``precision``, ``sd`` (root of the mean squared move of a prediction over the standard deviation of its cell
        type), ``tolerated`` and ``n_tiles``. None where all features are in float32.

    Raises
    ------
    HeadError
        They move by more than is tolerated, or nothing was kept that would tell.
    """
    encoders = training.features["encoders"]
    lower = {one.get("precision", "float32") for one in encoders} & set(TOLERATED)
    if not lower:
        return None
    precision = "int8" if "int8" in lower else "bfloat16"
    hint = "Embed again with --runtime openvino, onnx or torch (float32), and train on those features"
    rows, shifts = _sample(training, blocks)
    if len(rows) < 2:
        raise HeadError(
            f"features in {precision} do not tell how far predictions move, since no tile was embedded in float32",
            hint=hint,
        )
    own = training.X[rows]
    between, where = (own + own[np.roll(np.arange(len(own)), 1)]) / 2, training.positions[rows]
    spread = estimator.predict(damped(own), where).std(axis=0)
    moved = estimator.predict(damped(between + shifts), where) - estimator.predict(damped(between), where)
    varies = spread > 0
    sd = float(np.sqrt(np.square(moved[:, varies] / spread[varies]).mean())) if varies.any() else 0.0
    if sd > TOLERATED[precision]:
        raise HeadError(
            f"predictions move by {sd:.1%} of their standard deviation when features are computed in {precision} "
            f"instead of float32, more than the {TOLERATED[precision]:.0%} that are allowed",
            hint=hint,
        )
    return {"precision": precision, "sd": round(sd, 6), "tolerated": TOLERATED[precision], "n_tiles": len(rows)}


def _sample(training: TrainingSet, blocks: Sequence[Mapping[str, AnnData]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training that were embedded in float32 too, and by how much that differs, (m, n_features)."""
    widths = [int(one["dim"]) for one in training.features["encoders"]]
    first = np.cumsum([0, *widths])
    moved: dict[int, np.ndarray] = {}
    number = {place: row for row, place in enumerate(zip(training.section, training.keys, strict=True))}
    for start, width, block in zip(first, widths, blocks, strict=False):
        for name in np.unique(training.section).tolist():
            kept = precision_shifts(block[name], feature_manifest(block[name]))
            for at, shift in zip(*kept, strict=True) if kept else ():
                row = number.get((name, block[name].obs_names[at]))
                if row is not None:
                    moved.setdefault(row, np.zeros(first[-1], np.float32))[start : start + width] = shift
    rows = np.array(sorted(moved), dtype=int)
    return rows, np.array([moved[row] for row in rows.tolist()]).reshape(len(rows), first[-1])
