"""The phantom's pixels: stains laid on the layout and its cells, then light through them (Beer-Lambert)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy import ndimage
from scipy.spatial import cKDTree

from .cells import PLASMA, Cells
from .donors import ADIPOCYTE, B_CELL, CANCER, MACROPHAGE, NORMAL, Donor
from .fields import Field, jittered_lattice, resize, sample, smooth_noise, smoothstep
from .sprites import stamp, stamp_nuclei
from .tissue import STEP_UM, Layout

#: Grid of everything but nuclei and red cells, um: finer detail than this the eye takes from the nuclei.
_GROUND_UM = 1.0

#: Optical density of red blood cells: eosin with the yellow of haemoglobin.
_RED_CELLS = (0.13, 1.02, 0.86)


def fibre_direction(rng: np.random.Generator, layout: Layout) -> Field:
    """Angle of the stroma's fibres in radians on the layout's grid: they flow around whatever lies in their way."""
    things = np.maximum.reduce([layout.nest, layout.lymph, layout.gland, layout.wall, layout.fat, -layout.tissue])
    level = 0.9 * np.clip(things, -45.0, 10.0) + 42.0 * smooth_noise(rng, layout.shape, 70 / STEP_UM)
    level = ndimage.gaussian_filter(level, 3.0) + 1.1 * smooth_noise(rng, layout.shape, 10 / STEP_UM)
    down, right = np.gradient(level)
    angle: Field = np.arctan2(right, -down).astype(np.float32)
    return angle


def _fibres(rng: np.random.Generator, direction: Field, shape: tuple[int, int]) -> Field:
    """Noise drawn out along the fibres (line integral convolution in three widening steps), unit variance."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.8) * 3.0
    noise += 1.3 * smooth_noise(rng, shape, 2.6)
    across, down = resize(np.cos(direction), shape), resize(np.sin(direction), shape)
    rows = np.arange(shape[0], dtype=np.int32)[:, None]
    columns = np.arange(shape[1], dtype=np.int32)[None, :]
    for reach in (2.0, 5.5, 14.0):
        step_down, step_across = np.rint(down * reach).astype(np.int32), np.rint(across * reach).astype(np.int32)
        total = noise.copy()
        for sign in (1, -1):
            at = np.clip(rows + sign * step_down, 0, shape[0] - 1) * np.int32(shape[1])
            at += np.clip(columns + sign * step_across, 0, shape[1] - 1)
            total += noise.ravel()[at]
        noise = total / np.float32(3.0)
    texture: Field = (noise / noise.std()).astype(np.float32)
    return texture


def _blobs(
    shape: tuple[int, int], cells: Cells, chosen: npt.NDArray[np.bool_], radius_um: float, offset_um: float = 0.0
) -> Field:
    """Cones of height 1 over cells (bases meet where cells meet) on the ground grid."""
    half = int(np.ceil(radius_um / _GROUND_UM))
    y, x = np.mgrid[-half : half + 1, -half : half + 1] * _GROUND_UM
    cone = np.clip(1.0 - np.hypot(x, y) / radius_um, 0.0, None).astype(np.float32)
    canvas = np.zeros(shape, dtype=np.float32)
    at_x = cells.x_um[chosen] + offset_um * np.cos(cells.angle[chosen])
    at_y = cells.y_um[chosen] + offset_um * np.sin(cells.angle[chosen])
    pictures = np.broadcast_to(cone, (at_x.size, *cone.shape))
    stamp(canvas, pictures, (at_y / _GROUND_UM).astype(np.intp), (at_x / _GROUND_UM).astype(np.intp))
    return canvas


def _fat_rims(layout: Layout, cells: Cells) -> Field:
    """Distance in um from the middle of the membranes between fat cells, on the layout's grid (large elsewhere)."""
    rims = np.full(layout.shape, 1e3, dtype=np.float32)
    chosen = cells.kind == ADIPOCYTE
    rows, columns = np.nonzero((layout.fat > -25) & (layout.tissue > -10))
    if chosen.sum() < 4 or rows.size == 0:
        return rims
    tree = cKDTree(np.column_stack([cells.x_um[chosen], cells.y_um[chosen]]))
    positions = np.column_stack([(columns + 0.5) * STEP_UM, (rows + 0.5) * STEP_UM])
    near = np.asarray(tree.query(positions, k=3)[0])
    # Where three cells meet the rim widens to a small triangle.
    gap = 0.5 * (near[:, 1] - near[:, 0]) - 2.2 * np.exp(-(near[:, 2] - near[:, 0]) / 7.0)
    rims[rows, columns] = np.minimum(gap, layout.tissue[rows, columns] - 3.0)  # the last cells are closed, too
    return rims


def _mix(under: Field, over: Field | float, share: Field) -> Field:
    return under + (over - under) * share


def _ground(
    rng: np.random.Generator, donor: Donor, layout: Layout, cells: Cells, direction: Field
) -> tuple[Field, Field]:
    """Haematoxylin and eosin of everything but nuclei and red cells, at `_GROUND_UM`."""
    shape = (round(layout.size_um[1] / _GROUND_UM), round(layout.size_um[0] / _GROUND_UM))

    def fine(field: Field) -> Field:
        return resize(field, shape)

    rough = donor.grain * smooth_noise(rng, shape, 1.6)
    cloud = smooth_noise(rng, shape, 16.0)
    fibres = donor.fibres * _fibres(rng, direction, shape)
    wander = 0.8 * rough + 1.2 * smooth_noise(rng, shape, 5.0)  # roughens every edge alike

    # Stroma: collagen in bundles with clefts between, looser where it is oedematous.
    loose = smoothstep(fine(layout.edema), 0.2, 1.6)
    eosin = donor.collagen * (0.40 + 0.15 * fibres + 0.05 * cloud) * (1.0 - 0.35 * loose)
    cleft = smoothstep(-fibres - 0.55 * loose + 0.25 * cloud, 0.85, 1.75)
    eosin = _mix(eosin, 0.04, 0.85 * cleft)
    eosin = np.clip(eosin, 0.02, None)
    haematoxylin = 0.05 + 0.03 * loose + 0.03 * np.clip(fibres, 0, 2)
    lobule = smoothstep(fine(layout.lobule) + 4 * wander, -8, 8)
    eosin = _mix(eosin, 0.24 + 0.06 * fibres, 0.8 * lobule)
    haematoxylin = _mix(haematoxylin, 0.10, lobule)

    # Vessel walls and lymphoid ground.
    wall = smoothstep(fine(layout.wall) + wander, -1.0, 1.0)
    eosin = _mix(eosin, 0.58 + 0.12 * fibres, wall)
    haematoxylin = _mix(haematoxylin, 0.14, wall)
    lymph = smoothstep(fine(layout.lymph) + 5 * wander, -9, 9)
    eosin = _mix(eosin, 0.22 + 0.05 * rough, lymph)
    haematoxylin = _mix(haematoxylin, 0.24, lymph)

    # Epithelium: cones over the cells give bodies, and the valleys between them their borders.
    nest_edge = fine(layout.nest) + wander
    halo = smoothstep(nest_edge, -7.0, -2.0) * smoothstep(nest_edge, 1.0, -2.5) * smoothstep(cloud, 0.3, 1.6)
    eosin *= 1.0 - 0.9 * halo
    haematoxylin *= 1.0 - 0.9 * halo
    nest = smoothstep(nest_edge, -1.2, 1.0)
    body = _blobs(shape, cells, cells.kind == CANCER, 11.0 + 2.5 * donor.grade)
    border = smoothstep(body + 0.05 * rough, 0.34, 0.16)
    eosin = _mix(eosin, 0.33 + 0.05 * rough + 0.04 * cloud - 0.16 * border, nest)
    purple_body = donor.cytoplasm * (0.30 + 0.06 * rough - 0.05 * cloud - 0.16 * border)
    haematoxylin = _mix(haematoxylin, purple_body, nest)
    gland = smoothstep(fine(layout.gland) + 0.5 * wander, -1.0, 1.0)
    body = _blobs(shape, cells, cells.kind == NORMAL, 9.0)
    eosin = _mix(eosin, 0.40 + 0.05 * rough - 0.1 * smoothstep(body, 0.3, 0.1), gland)
    haematoxylin = _mix(haematoxylin, 0.20, gland)

    # Cytoplasm of scattered cells: foamy macrophages, purple plasma cells.
    foam = smoothstep(_blobs(shape, cells, cells.kind == MACROPHAGE, 9.0, 2.0) + 0.06 * rough, 0.12, 0.45)
    eosin = _mix(eosin, 0.22 + 0.09 * rough, 0.75 * foam)
    plasma = (cells.kind == B_CELL) & (cells.look == PLASMA)
    purple = smoothstep(_blobs(shape, cells, plasma, 6.5, 2.2), 0.1, 0.4)
    eosin = _mix(eosin, 0.38, 0.8 * purple)
    haematoxylin = _mix(haematoxylin, 0.42, 0.8 * purple)

    # Fat: thin rims around empty lacunae.
    fat = smoothstep(fine(layout.fat) + 2 * wander, -2.0, 2.0)
    gap = fine(np.clip(_fat_rims(layout, cells), -6, 12))
    rim = smoothstep(gap + 0.3 * wander, 1.5, 0.3)
    eosin = _mix(eosin, 0.42 * rim + 0.008, fat)
    haematoxylin = _mix(haematoxylin, 0.07 * rim, fat)

    # Lumens and everything outside the tissue are empty but for a trace of protein.
    lumen = smoothstep(fine(layout.lumen) + 0.5 * wander, -0.8, 0.8)
    secretion = 0.05 * smoothstep(cloud + 0.3 * rough, 0.2, 1.2)
    eosin = _mix(eosin, secretion, lumen)
    haematoxylin = _mix(haematoxylin, 0.4 * secretion, lumen)
    edge = fine(layout.tissue) + 1.5 * wander
    tissue = smoothstep(edge, -1.0, 1.5)
    rolled = 1.0 + 0.35 * smoothstep(edge, 12.0, 2.0)
    return haematoxylin * tissue * rolled, eosin * tissue * rolled


def _red_cells(rng: np.random.Generator, layout: Layout, shape: tuple[int, int], mpp: float) -> Field:
    canvas = np.zeros(shape, dtype=np.float32)
    half = int(np.ceil(4.0 / mpp))
    y, x = np.mgrid[-half : half + 1, -half : half + 1] * mpp
    radius = np.hypot(x, y) / 3.3
    disc = (1.0 / (1.0 + np.exp(np.clip((radius - 1.0) * 9.0, -30, 30))) * (0.62 + 0.25 * radius**2)).astype(np.float32)
    for vessel in layout.vessels:
        fill = rng.uniform(0.1, 1.0) if vessel.radius_um > 10 else rng.uniform(0.0, 0.8)
        dx, dy = jittered_lattice(rng, (2.6 * vessel.radius_um,) * 2, 6.0, 0.14)
        dx, dy = dx - 1.3 * vessel.radius_um, dy - 1.3 * vessel.radius_um
        inside = np.hypot(dx, dy) < vessel.outline(np.arctan2(dy, dx)) - 3.0
        inside &= rng.random(dx.size) < fill
        sprites = disc * rng.uniform(0.75, 1.15, (int(inside.sum()), 1, 1)).astype(np.float32)
        rows, columns = (vessel.y_um + dy[inside]) / mpp, (vessel.x_um + dx[inside]) / mpp
        stamp(canvas, sprites, rows.astype(np.intp), columns.astype(np.intp))
    return canvas


def render(
    rng: np.random.Generator, donor: Donor, layout: Layout, cells: Cells, direction: Field, mpp: float
) -> npt.NDArray[np.uint8]:
    """Picture of a section, uint8 RGB of shape (height, width, 3) at ``mpp``."""
    shape = (round(layout.size_um[1] / mpp), round(layout.size_um[0] / mpp))
    uneven = [1.0 + by * smooth_noise(rng, layout.shape, 190 / STEP_UM) for by in (0.07, 0.09)]
    ground = _ground(rng, donor, layout, cells, direction)
    haematoxylin, eosin = (
        resize(field * resize(by, field.shape), shape) for field, by in zip(ground, uneven, strict=True)
    )
    uptake = sample(uneven[0], cells.x_um, cells.y_um, STEP_UM)
    nuclei = stamp_nuclei(rng, donor, cells, uptake, shape, mpp)
    red = _red_cells(rng, layout, shape, mpp)
    grain = ndimage.gaussian_filter(rng.standard_normal((512, 512), dtype=np.float32), 0.6, mode="wrap")
    grain = np.tile(0.16 * donor.grain * grain / grain.std(), (1, shape[1] // 512 + 1))[:, : shape[1]]
    light = np.array(donor.light) + rng.uniform(-2, 2, 3)

    picture = np.empty((*shape, 3), dtype=np.uint8)
    for start in range(0, shape[0], 512):  # bands that fit the processor's cache
        rows = slice(start, min(start + 512, shape[0]))
        covered = np.clip(nuclei[rows] * 2.2, 0.0, 1.0)
        texture = 1.0 + grain[: covered.shape[0]]
        h = (haematoxylin[rows] * texture * (1.0 - covered) + nuclei[rows]) * np.float32(donor.haematoxylin_strength)
        e = eosin[rows] * texture * (1.0 - 0.45 * covered) * np.float32(donor.eosin_strength)
        for channel in range(3):
            density = h * donor.haematoxylin[channel] + e * donor.eosin[channel] + red[rows] * _RED_CELLS[channel]
            picture[rows, :, channel] = np.clip(light[channel] * np.exp(-donor.contrast * density), 0.0, 255.0)
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(donor.blur_um / mpp)))
    noise = np.rint(rng.normal(0.0, 2.2, (512, 512, 3))).astype(np.int16)
    noise = np.tile(noise, (1, shape[1] // 512 + 1, 1))[:, : shape[1]]
    for start in range(0, shape[0], 512):
        rows = slice(start, min(start + 512, shape[0]))
        picture[rows] = np.clip(blurred[rows] + noise[: rows.stop - start], 0, 255)
    return picture
