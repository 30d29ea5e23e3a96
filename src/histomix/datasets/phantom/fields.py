"""Random fields and small shape tools that the phantom's layout and rendering share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

#: Values on a grid of rows and columns: float32 wherever it matters for speed.
Field = npt.NDArray[np.floating[Any]]


def resize(field: Field, shape: tuple[int, int]) -> Field:
    """Bicubic resize of a float field to ``shape`` (rows, columns)."""
    if field.shape == shape:
        return field
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.array(image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], length: float) -> Field:
    """Gaussian random field of zero mean and unit variance.

    Parameters
    ----------
    shape
        Rows and columns.
    length
        Standard deviation of the smoothing kernel, in grid steps.
    """
    coarse = max(1.0, length / 3.0)
    small = shape if coarse == 1.0 else (int(shape[0] / coarse) + 4, int(shape[1] / coarse) + 4)
    noise = rng.standard_normal(small, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, length / coarse, mode="wrap", truncate=3.0)
    noise -= noise.mean()
    noise /= max(float(noise.std()), 1e-6)
    return resize(noise, shape)


def smoothstep(values: Field, low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high``, and a smooth rise between."""
    t = values - np.float32(low)
    t *= np.float32(1.0 / (high - low))
    np.clip(t, 0.0, 1.0, out=t)
    rise = np.float32(3.0) - np.float32(2.0) * t
    rise *= t
    rise *= t
    return rise


def signed_distance(inside: npt.NDArray[np.bool_], step_um: float) -> Field:
    """Distance to the edge of a mask in um: positive inside, negative outside."""
    if inside.all() or not inside.any():
        return np.full(inside.shape, 1e4 if inside.all() else -1e4, dtype=np.float32)
    # Half resolution and a slight blur: a straight edge has no use for more, and stairs of the grid vanish.
    small = inside[::2, ::2]
    if small.all() or not small.any():
        small = inside
    distance = ndimage.distance_transform_edt(small) - ndimage.distance_transform_edt(~small)
    scale = step_um * inside.shape[0] / small.shape[0]
    return resize(ndimage.gaussian_filter(distance.astype(np.float32) * np.float32(scale), 1.0), inside.shape)


def sample(field: Field, x_um: npt.NDArray[np.float64], y_um: npt.NDArray[np.float64], step_um: float) -> Field:
    """Values of a field at places in um (nearest pixel; the field's first pixel centre is at half a step)."""
    rows = np.clip((y_um / step_um).astype(np.intp), 0, field.shape[0] - 1)
    columns = np.clip((x_um / step_um).astype(np.intp), 0, field.shape[1] - 1)
    return field[rows, columns]


def jittered_lattice(
    rng: np.random.Generator, size_um: tuple[float, float], spacing_um: float, jitter: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Places on a hexagonal lattice over the section, each moved by a normal step of ``jitter`` x spacing."""
    row_um = spacing_um * np.sqrt(3.0) / 2.0
    rows, columns = int(size_um[1] / row_um) + 1, int(size_um[0] / spacing_um) + 1
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    x = (column + 0.5 * (row % 2)) * spacing_um + rng.normal(0.0, jitter * spacing_um, row.shape)
    y = row * row_um + rng.normal(0.0, jitter * spacing_um, row.shape)
    keep = (x > 0) & (x < size_um[0]) & (y > 0) & (y < size_um[1])
    return x[keep], y[keep]
