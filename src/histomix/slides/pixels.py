"""Decoded samples of any kind to RGB on white."""

from __future__ import annotations

import numpy as np


def on_white(pixels: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """Lay RGBA over white.

    Parameters
    ----------
    pixels
        uint8 (height, width, 4); RGB (3 channels) comes back as it is.
    premultiplied
        The colours have already been multiplied by alpha.

    Returns
    -------
    uint8 RGB (height, width, 3).
    """
    colour = pixels[..., :3]
    if pixels.shape[-1] == 3:
        return colour
    alpha = pixels[..., 3:]
    if (alpha == 255).all():
        return colour
    share = alpha.astype(np.uint16)
    parts = colour.astype(np.uint16) if premultiplied else (colour * share + 127) // 255
    return np.minimum(parts + 255 - share, 255).astype(np.uint8)
