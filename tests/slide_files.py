"""Small slides with known pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

PATTERN = np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8)


def block_mean(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    return blocks.mean(axis=(1, 3))


def write_pyramid(
    path: Path, pixels: np.ndarray, mpp: float | None = 0.5, factors: tuple[int, ...] = (4,), **options: Any
) -> Path:
    """A tiled TIFF whose coarser levels are darker by 5 per level, so that a test sees which one was read."""
    with tifffile.TiffWriter(path) as tif:
        for number, factor in enumerate((1, *factors)):
            level = (
                pixels
                if factor == 1
                else np.clip(np.rint(block_mean(pixels, factor)) - 5 * number, 0, 255).astype(np.uint8)
            )
            scale = {} if mpp is None else {"resolution": (1e4 / mpp / factor,) * 2, "resolutionunit": "CENTIMETER"}
            tif.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                subfiletype=int(factor > 1),
                metadata=None,
                **scale,
                **options,
            )
    return path


def write_flat(path: Path, pixels: np.ndarray = PATTERN) -> Path:
    Image.fromarray(pixels).save(path)
    return path
