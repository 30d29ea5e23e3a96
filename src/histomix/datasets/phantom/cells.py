"""Cells of the phantom: places, types and directions, drawn from the layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from .donors import ADIPOCYTE, B_CELL, CANCER, ENDOTHELIAL, FIBROBLAST, MACROPHAGE, NORMAL, T_CELL, Donor
from .fields import Field, jittered_lattice, sample, smooth_noise
from .tissue import STEP_UM, Layout, Ring

Floats = npt.NDArray[np.float64]

#: Half the usual gap between two nuclei of a type, um.
_GAP_UM = np.array([3.9, 3.1, 3.0, 2.3, 2.5, 3.6, 2.2, 3.0])

#: Plasma cells count as B cells; they only look different.
LYMPHOID, PLASMA = 0, 1


@dataclass(frozen=True)
class Cells:
    """Cells of one section.

    Attributes
    ----------
    x_um, y_um
        Centres, shape (n,).
    kind
        Index into `CELL_TYPES`, shape (n,).
    angle
        Direction of the nucleus's long axis, radians, shape (n,).
    look
        `PLASMA` for B cells that have become plasma cells, else `LYMPHOID`, shape (n,).
    nucleus_x_um, nucleus_y_um
        Where the nucleus lies: beside the rim for adipocytes, else the centre.
    """

    x_um: Floats
    y_um: Floats
    kind: npt.NDArray[np.int64]
    angle: Floats
    look: npt.NDArray[np.int64]
    nucleus_x_um: Floats
    nucleus_y_um: Floats


class _Drawer:
    """Collects cells; those drawn first hold their place."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[tuple[Floats, ...]] = []

    def add(self, x: Floats, y: Floats, kind: int | npt.NDArray[np.int64], angle: Floats, look: int = LYMPHOID) -> None:
        kinds = np.broadcast_to(np.asarray(kind, dtype=np.float64), x.shape)
        self.parts.append((x, y, kinds, angle, np.full(x.shape, float(look))))

    def random_angles(self, n: int) -> Floats:
        return self.rng.uniform(0.0, np.pi, n)


def draw_cells(rng: np.random.Generator, donor: Donor, layout: Layout, direction: Field) -> Cells:
    """Draw the cells of one section.

    Parameters
    ----------
    direction
        Angle of the stroma's fibres, radians, on the layout's grid.
    """
    drawer = _Drawer(rng)
    _glands(drawer, layout)
    _vessels(drawer, layout)
    _aggregates(drawer, donor, layout)
    _nests(drawer, donor, layout)
    _stroma(drawer, donor, layout, direction)
    fat = _fat(drawer, donor, layout)

    x, y, kind, angle, look = (np.concatenate(columns) for columns in zip(*drawer.parts, strict=True))
    inside = (x > 0) & (y > 0) & (x < layout.size_um[0]) & (y < layout.size_um[1])
    inside &= sample(layout.tissue, x, y, STEP_UM) > 2.0
    inside[inside] = _apart(x[inside], y[inside], kind[inside].astype(np.intp))
    x, y, kind, angle, look = (values[inside] for values in (x, y, kind, angle, look))
    fat_x, fat_y, rim_x, rim_y = fat
    n = fat_x.size
    return Cells(
        np.concatenate([x, fat_x]),
        np.concatenate([y, fat_y]),
        np.concatenate([kind.astype(np.int64), np.full(n, ADIPOCYTE)]),
        np.concatenate([angle, np.arctan2(rim_y - fat_y, rim_x - fat_x) + np.pi / 2]),
        np.concatenate([look.astype(np.int64), np.zeros(n, dtype=np.int64)]),
        np.concatenate([x, rim_x]),
        np.concatenate([y, rim_y]),
    )


def _apart(x: Floats, y: Floats, kind: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which cells stay when of two that overlap the later one goes."""
    positions = np.column_stack([x, y])
    first, second = cKDTree(positions).query_pairs(2 * float(_GAP_UM.max()), output_type="ndarray").T
    distance = np.hypot(*(positions[first] - positions[second]).T)
    close = distance < _GAP_UM[kind[first]] + _GAP_UM[kind[second]]
    keep = np.ones(x.size, dtype=bool)
    keep[np.maximum(first, second)[close]] = False
    return keep


def _around(
    rng: np.random.Generator, ring: Ring, depth_um: float, spacing_um: float, jitter_um: float
) -> tuple[Floats, ...]:
    """Places along a ring at a depth below its outline, with the angle of the radius there."""
    n = max(2, round(2 * np.pi * max(ring.radius_um - depth_um, 2.0) / spacing_um))
    theta = (np.arange(n) + rng.uniform(0, 1) + rng.normal(0.0, 0.16, n)) * 2 * np.pi / n
    radius = np.maximum(ring.outline(theta) - depth_um + rng.normal(0.0, jitter_um, n), 0.5)
    return ring.x_um + radius * np.cos(theta), ring.y_um + radius * np.sin(theta), theta


def _glands(drawer: _Drawer, layout: Layout) -> None:
    rng = drawer.rng
    for gland in layout.glands:
        if gland.radius_um > 30:  # a duct: luminal layers inside, flat myoepithelial cells outside
            for depth, spacing in ((8.5, 6.6), (12.5, 15.0)):
                x, y, theta = _around(rng, gland, depth, spacing, 1.1)
                drawer.add(x, y, NORMAL, theta + rng.normal(0.0, 0.25, x.size))
            x, y, theta = _around(rng, gland, 2.0, 13.0, 0.5)
            drawer.add(x, y, NORMAL, theta + np.pi / 2)
        else:
            x, y, theta = _around(rng, gland, 5.0, 6.4, 0.9)
            drawer.add(x, y, NORMAL, theta + rng.normal(0.0, 0.4, x.size))


def _vessels(drawer: _Drawer, layout: Layout) -> None:
    for vessel in layout.vessels:
        capillary = vessel.radius_um < 10
        x, y, theta = _around(drawer.rng, vessel, -0.8, 9.0 if capillary else 10.5, 0.3)
        drawer.add(x, y, ENDOTHELIAL, theta + np.pi / 2)
        if vessel.wall_um > 5:
            x, y, theta = _around(drawer.rng, vessel, -0.6 * vessel.wall_um, 17.0, 1.2)
            drawer.add(x, y, FIBROBLAST, theta + np.pi / 2)


def _aggregates(drawer: _Drawer, donor: Donor, layout: Layout) -> None:
    """B-cell follicles in a mantle of T cells; the border is ragged and both mix."""
    rng = drawer.rng
    for aggregate in layout.aggregates:
        x, y = jittered_lattice(rng, (2.8 * aggregate.radius_um,) * 2, 6.1, 0.16)
        dx, dy = x - 1.4 * aggregate.radius_um, y - 1.4 * aggregate.radius_um
        share = np.hypot(dx, dy) / aggregate.outline(np.arctan2(dy, dx)) + rng.normal(0.0, 0.07, x.size)
        share += 0.18 * np.cos(np.arctan2(dy, dx) + rng.uniform(0, 2 * np.pi)) * (share < 0.9)
        keep = (share < 1.0) & (rng.random(x.size) < 0.96)
        x, y, share = dx[keep] + aggregate.x_um, dy[keep] + aggregate.y_um, share[keep]
        follicle = rng.normal(donor.follicle, 0.08)
        b_chance = np.where(share < follicle, 0.86, 0.14)
        kind = np.where(rng.random(x.size) < b_chance, B_CELL, T_CELL)
        kind[rng.random(x.size) < 0.03] = MACROPHAGE
        drawer.add(x, y, kind, drawer.random_angles(x.size))


def _nests(drawer: _Drawer, donor: Donor, layout: Layout) -> None:
    rng = drawer.rng
    spacing = 10.2 + 2.6 * donor.grade
    x, y = jittered_lattice(rng, layout.size_um, spacing, 0.15)
    depth, lumen = sample(layout.nest, x, y, STEP_UM), sample(layout.lumen, x, y, STEP_UM)
    packing = sample(smooth_noise(rng, layout.shape, 60 / STEP_UM), x, y, STEP_UM)
    keep = (depth > 3.0) & (lumen < -4.0) & (rng.random(x.size) < 0.93 - 0.05 * np.clip(packing, -1, 2))
    x, y = x[keep], y[keep]
    angle = drawer.random_angles(x.size)
    invaded = np.exp(0.9 * sample(smooth_noise(rng, layout.shape, 45 / STEP_UM), x, y, STEP_UM))
    chance = rng.random(x.size) / (donor.infiltrate * donor.in_nests * invaded)
    kind = np.select([chance < 0.035, chance < 0.06], [T_CELL, MACROPHAGE], CANCER)
    drawer.add(x, y, kind, angle)


def _stroma(drawer: _Drawer, donor: Donor, layout: Layout, direction: Field) -> None:
    rng, stroma = drawer.rng, layout.stroma
    loose = layout.lobule > 0

    def scatter(spacing: float, kind: int, chance: Field, look: int = LYMPHOID) -> None:
        x, y = jittered_lattice(rng, layout.size_um, spacing, 0.3)
        keep = (sample(stroma, x, y, STEP_UM) > 2.5) & (rng.random(x.size) < sample(chance, x, y, STEP_UM))
        x, y = x[keep], y[keep]
        angle = sample(direction, x, y, STEP_UM) + rng.normal(0.0, 0.2, x.size)
        drawer.add(x, y, kind, angle.astype(np.float64), look)

    def patchy(length_um: float, mean: float, contrast: float) -> Field:
        patches: Field = (mean * np.exp(contrast * smooth_noise(rng, layout.shape, length_um / STEP_UM))).astype(
            np.float32
        )
        return patches

    near_tumour = np.exp(-np.clip(-layout.nest, 0, None) / 40.0).astype(np.float32)
    near_lymph = np.exp(-np.clip(-layout.lymph, 0, None) / 35.0).astype(np.float32)
    immune = donor.infiltrate * (0.25 + near_tumour + 2.0 * near_lymph)
    scatter(7.5, T_CELL, 0.10 * immune * patchy(45, 1.0, 0.9))
    scatter(8.5, B_CELL, 0.05 * donor.plasma * immune * patchy(38, 1.0, 1.2), PLASMA)
    scatter(9.5, B_CELL, 0.02 * immune)
    wandering = 0.16 * donor.macrophages * donor.infiltrate
    scatter(13.0, MACROPHAGE, wandering * (0.5 + near_tumour) * patchy(40, 1.0, 0.7))
    fibroblasts = donor.fibroblasts * (0.42 + 0.25 * near_tumour + 0.25 * loose)
    scatter(12.5, FIBROBLAST, fibroblasts * patchy(60, 1.0, 0.25))


def _fat(drawer: _Drawer, donor: Donor, layout: Layout) -> tuple[Floats, Floats, Floats, Floats]:
    """Centres of the fat cells and the places of their nuclei; capillaries' and macrophages' nuclei between them."""
    rng = drawer.rng
    x, y = jittered_lattice(rng, layout.size_um, 58.0, 0.2)
    keep = (
        (rng.random(x.size) < 0.95)
        & (sample(layout.fat, x, y, STEP_UM) > -12)
        & (sample(layout.tissue, x, y, STEP_UM) > 4)
    )
    x, y = x[keep], y[keep]
    if x.size < 4:
        return x[:0], y[:0], x[:0], y[:0]
    neighbours = np.asarray(cKDTree(np.column_stack([x, y])).query(np.column_stack([x, y]), k=3)[1])
    nearest = neighbours[:, 1]  # halfway to the nearest neighbour is always on the rim between the two
    rim_x, rim_y = x + 0.47 * (x[nearest] - x), y + 0.47 * (y[nearest] - y)
    corner_x, corner_y = x[neighbours].mean(axis=1), y[neighbours].mean(axis=1)
    kind = np.where(rng.random(x.size) < donor.fat_vessels, ENDOTHELIAL, MACROPHAGE)
    extra = (rng.random(x.size) < 0.45) & (sample(layout.fat, corner_x, corner_y, STEP_UM) > 0)
    drawer.add(corner_x[extra], corner_y[extra], kind[extra], drawer.random_angles(int(extra.sum())))
    return x, y, rim_x, rim_y
