"""Nuclei of the phantom as small pictures of haematoxylin, drawn once and stamped many times."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .cells import PLASMA, Cells
from .donors import B_CELL, CELL_TYPES, Donor
from .fields import Field

_ANGLES = 16
_SHAPES = 20
_PLASMA_LOOK = len(CELL_TYPES)


@dataclass(frozen=True)
class Nucleus:
    """How nuclei of one kind look. Lengths in um; stain in units of `Donor.haematoxylin`.

    ``taper`` is the exponent of the superellipse (2 an ellipse, less a spindle); ``bend`` curves the long axis.
    """

    long_um: float
    short_um: float
    spread: float
    stain: float
    membrane: float
    chromatin: float
    grain_um: float
    nucleoli: float
    irregular: float
    taper: float = 2.0
    bend: float = 0.0


def nuclei(donor: Donor) -> tuple[Nucleus, ...]:
    """One `Nucleus` per cell type, and the plasma cell's at the end."""
    g = donor.grade
    common = (
        Nucleus(4.3 + 1.5 * g, 3.5 + 1.1 * g, 0.10 + 0.11 * g, 0.92, 0.55, 0.45, 0.75, 0.5 + 0.9 * g, 0.03 + 0.05 * g),
        Nucleus(4.2, 2.8, 0.10, 1.12, 0.40, 0.34, 0.60, 0.25, 0.02),
        Nucleus(7.2, 1.45, 0.22, 1.20, 0.15, 0.25, 0.60, 0.0, 0.04, 1.55, 0.10),
        Nucleus(2.95, 2.75, 0.08, 2.05, 0.10, 0.34, 0.65, 0.0, 0.04),
        Nucleus(3.20, 2.95, 0.09, 1.85, 0.15, 0.40, 0.70, 0.0, 0.03),
        Nucleus(4.4, 2.9, 0.14, 0.88, 0.35, 0.28, 0.65, 0.15, 0.05, 2.0, 0.28),
        Nucleus(5.2, 1.35, 0.18, 1.35, 0.10, 0.22, 0.60, 0.0, 0.03, 1.7, 0.22),
        Nucleus(4.8, 1.20, 0.18, 1.35, 0.05, 0.15, 0.60, 0.0, 0.02, 1.7, 0.18),
        Nucleus(3.35, 2.95, 0.07, 1.70, 0.20, 0.70, 0.95, 0.0, 0.02),
    )
    return tuple(
        replace(
            one,
            long_um=one.long_um * donor.nuclear_size * long,
            short_um=one.short_um * donor.nuclear_size * short,
            stain=one.stain * stain,
            chromatin=one.chromatin * donor.chromatin,
            membrane=one.membrane * donor.chromatin,
        )
        for one, (long, short, stain) in zip(common, donor.looks, strict=True)
    )


def draw_sprites(rng: np.random.Generator, nucleus: Nucleus, mpp: float) -> Field:
    """Pictures of one kind of nucleus: shape (`_ANGLES`, `_SHAPES`, side, side), haematoxylin from 0 up."""
    n = _ANGLES * _SHAPES
    half = int(np.ceil((nucleus.long_um * (1.0 + 2.2 * nucleus.spread) + 1.0) / mpp))
    axis = np.arange(-half, half + 1, dtype=np.float32) * np.float32(mpp)
    y, x = np.meshgrid(axis, axis, indexing="ij")

    def draw(low: float, high: float) -> Field:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    def normal(spread: float) -> Field:
        return np.clip(rng.normal(0.0, spread, (n, 1, 1)), -2 * spread, 2 * spread).astype(np.float32)

    turn = (np.arange(n).reshape(n, 1, 1) // _SHAPES * np.pi / _ANGLES + rng.uniform(-0.09, 0.09, (n, 1, 1))).astype(
        np.float32
    )
    flip = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), (n, 1, 1))
    size = np.exp(normal(nucleus.spread))
    long_um, short_um = nucleus.long_um * size, nucleus.short_um * size * np.exp(normal(0.5 * nucleus.spread))
    u = (np.cos(turn) * x + np.sin(turn) * y) / long_um
    v = (np.cos(turn) * y - np.sin(turn) * x) / short_um
    v = v + flip * nucleus.bend * (nucleus.long_um / nucleus.short_um) * (u * u - 0.4)
    theta = np.arctan2(v, u)
    outline = np.ones_like(u)
    for order in (2, 3, 4):
        outline += normal(nucleus.irregular) * np.cos(order * theta + draw(0, 2 * np.pi))
    radius = (np.abs(u) ** nucleus.taper + np.abs(v) ** nucleus.taper) ** (1.0 / nucleus.taper) / outline

    # Softness of the edge in units of the radius: half a pixel and the focus of this nucleus.
    edge = (0.45 * mpp + draw(0.15, 0.5)) / short_um
    inside = 1.0 / (1.0 + np.exp(np.clip((radius - 1.0) / (0.5 * edge), -30, 30)))
    membrane = np.exp(-(((radius - 0.86) / 0.17) ** 2))
    grain_px = nucleus.grain_um / mpp / 1.6
    grain = ndimage.gaussian_filter(rng.standard_normal(u.shape, dtype=np.float32), (0.0, grain_px, grain_px))
    grain /= grain.std()
    texture = 1.0 + nucleus.membrane * (membrane - 0.35) + nucleus.chromatin * np.clip(grain, -1.6, 2.2)
    for _ in range(2):
        at_u, at_v = normal(0.28), normal(0.28)
        spot = np.exp(-(((u - at_u) * long_um) ** 2 + ((v - at_v) * short_um) ** 2) / (2 * 0.55**2))
        texture += (rng.random((n, 1, 1)) < nucleus.nucleoli / 2) * np.float32(1.1) * spot
    stain = nucleus.stain * np.exp(normal(0.13))
    sprites = inside * np.clip(texture, 0.25, None) * stain
    sheet: Field = sprites.reshape(_ANGLES, _SHAPES, *x.shape).astype(np.float32)
    return sheet


def stamp(canvas: Field, sprites: Field, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> None:
    """Lay sprites (n, side, side) on a canvas, centred at rows and columns; the larger value wins."""
    side = sprites.shape[-1]
    height, width = canvas.shape
    top, left = rows - side // 2, columns - side // 2
    for sprite, r, c in zip(sprites, top.tolist(), left.tolist(), strict=True):
        r0, c0, r1, c1 = max(r, 0), max(c, 0), min(r + side, height), min(c + side, width)
        if r0 < r1 and c0 < c1:
            window = canvas[r0:r1, c0:c1]
            np.maximum(window, sprite[r0 - r : r1 - r, c0 - c : c1 - c], out=window)


def stamp_nuclei(
    rng: np.random.Generator, donor: Donor, cells: Cells, uptake: Field, shape: tuple[int, int], mpp: float
) -> Field:
    """Haematoxylin of all nuclei on a canvas of ``shape`` at ``mpp``; ``uptake`` (n,) is a factor per cell."""
    canvas = np.zeros(shape, dtype=np.float32)
    look = np.where((cells.kind == B_CELL) & (cells.look == PLASMA), _PLASMA_LOOK, cells.kind)
    for which, nucleus in enumerate(nuclei(donor)):
        sprites = draw_sprites(rng, nucleus, mpp)
        chosen = np.flatnonzero(look == which)
        turn = np.rint(cells.angle[chosen] / np.pi * _ANGLES).astype(np.intp) % _ANGLES
        pictures = sprites[turn, rng.integers(0, _SHAPES, chosen.size)] * uptake[chosen, None, None]
        rows = (cells.nucleus_y_um[chosen] / mpp).astype(np.intp)
        columns = (cells.nucleus_x_um[chosen] / mpp).astype(np.intp)
        stamp(canvas, pictures, rows, columns)
    return canvas
