"""The fragments of tissue on a slide, and which of them a place belongs to."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .mask import TissueMask

#: Fragments nearer to each other than this belong to one piece.
GAP_UM = 100.0


def label_fragments(mask: TissueMask, gap_um: float = GAP_UM) -> tuple[np.ndarray, int]:
    """Connected pieces of tissue (8-connected, across gaps up to ``gap_um``), numbered by their left edge.

    Returns
    -------
    labels
        int32 of the mask's shape, 0 off the tissue.
    count
        How many pieces there are.
    """
    reach = gap_um / 2 / mask.mpp
    # The distance to tissue, not a dilation: its cost does not grow with the gap.
    near = ndimage.distance_transform_edt(~mask.mask) <= reach if mask.mask.any() else mask.mask
    labels, count = ndimage.label(near, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    order = sorted(range(count), key=lambda number: (boxes[number][1].start, boxes[number][0].start))
    rank = np.zeros(count + 1, np.int32)
    rank[np.asarray(order, int) + 1] = np.arange(1, count + 1)
    return np.where(mask.mask, rank[labels], 0).astype(np.int32), count


def fragment_at(labels: np.ndarray, mask_mpp: float, xy_px: np.ndarray, slide_mpp: float) -> np.ndarray:
    """The piece nearest to each place (n, 2), level-0 px: int32 (n,), 0 where the slide has none."""
    if not len(xy_px) or not labels.any():
        return np.zeros(len(xy_px), np.int32)
    column, row = np.floor(np.asarray(xy_px, float) * slide_mpp / mask_mpp).astype(int).T
    row, column = np.clip(row, 0, labels.shape[0] - 1), np.clip(column, 0, labels.shape[1] - 1)
    result = labels[row, column]
    off = result == 0
    if off.any():
        nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        result[off] = labels[tuple(axis[row[off], column[off]] for axis in nearest)]
    return np.asarray(result, np.int32)
