"""Adjacent levels of one block of the phantom: the same tissue cut again, stained again and laid down another way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ...common.metrics import Array
from .cells import draw_cells
from .counts import SPOT_DIAMETER_UM, cells_around, spot_lattice
from .donors import Donor, make_donor
from .fields import smooth_noise
from .stain import fibre_direction, render
from .tissue import STEP_UM, make_layout

#: Spread (of the logarithm) of what is stained anew, um by which a cut is stretched, and over which length.
_STAIN, _STRETCH_UM, _STRETCH_LENGTH_UM = 0.25, 20.0, 180.0
#: um by which the borders of tumour nests move from level to level, and over which length.
_NEST_UM, _NEST_LENGTH_UM = 6.0, 30.0
_SHIFT_UM, _MARGIN = 80.0, 1.45


@dataclass(frozen=True, eq=False)
class Level:
    """One cut through a block.

    Attributes
    ----------
    picture
        uint8 RGB of 2 um per px.
    xy_um
        Spots with cells, ``(n, 2)``, um.
    truth
        Cells of each type in them, ``(n, n_types)``.
    """

    picture: npt.NDArray[np.uint8]
    xy_um: Array
    truth: Array


def make_level(seed: int, donor: int, level: int, size_um: tuple[float, float] = (1600.0, 1600.0)) -> Level:
    """Cut number ``level`` through the block of the first section of a donor.

    All levels share the fields of the tissue; cells are drawn anew from them, the borders of nests move a little, stain
    and stretch differ, and each lies turned by any angle, shifted, and perhaps mirrored.
    """
    person = make_donor(seed, donor)
    layout_rng = np.random.default_rng([seed, 31, donor, 0, 0])
    layout = make_layout(layout_rng, person, size_um)
    direction = fibre_direction(layout_rng, layout)
    rng = np.random.default_rng([seed, 47, donor, level])
    layout.nest = layout.nest + _NEST_UM * smooth_noise(rng, layout.shape, _NEST_LENGTH_UM / STEP_UM)
    stained = _stained_anew(rng, person)
    cells = draw_cells(rng, stained, layout, direction)
    picture = render(rng, stained, layout, cells, direction, STEP_UM)

    angle, mirror = float(rng.uniform(0.0, 2 * np.pi)), bool(rng.random() < 0.5)
    shift = rng.uniform(-_SHIFT_UM, _SHIFT_UM, 2)
    stretch = [_STRETCH_UM * smooth_noise(rng, layout.shape, _STRETCH_LENGTH_UM / STEP_UM) for _ in range(2)]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1 - 2 * mirror, 1])
    side_px = round(max(size_um) * _MARGIN / STEP_UM)
    middle, own = side_px * STEP_UM / 2, np.array(size_um) / 2

    # The picture looks up where each of its pixels lies on the flat cut; cells go the other way.
    down, right = np.mgrid[:side_px, :side_px] * STEP_UM - middle
    flat = np.tensordot(turn.T, np.stack([right - shift[0], down - shift[1]]), 1) + own[:, None, None]
    flat = flat + np.stack(_sampled(stretch, flat[0], flat[1]))
    planes = [
        ndimage.map_coordinates(picture[..., k].astype(np.float32), flat[::-1] / STEP_UM, order=1, cval=light)
        for k, light in enumerate(stained.light)
    ]
    moved = np.stack([cells.x_um, cells.y_um])
    x_um, y_um = turn @ (moved - np.stack(_sampled(stretch, *moved)) - own[:, None]) + (shift + middle)[:, None]
    spots = spot_lattice((2 * middle, 2 * middle))
    truth = cells_around(spots, replace(cells, x_um=x_um, y_um=y_um), SPOT_DIAMETER_UM / 2)
    filled = truth.sum(axis=1) > 0
    return Level(
        np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8),
        spots.loc[filled, ["x_um", "y_um"]].to_numpy(np.float64),
        truth[filled].astype(np.float64),
    )


def _stained_anew(rng: np.random.Generator, donor: Donor) -> Donor:
    haematoxylin, eosin, contrast = np.exp(rng.uniform(-1, 1, 3) * (_STAIN, _STAIN, _STAIN / 2.5))
    return replace(
        donor,
        haematoxylin_strength=float(donor.haematoxylin_strength * haematoxylin),
        eosin_strength=float(donor.eosin_strength * eosin),
        contrast=float(donor.contrast * contrast),
    )


def _sampled(fields: list[npt.NDArray[np.floating]], x_um: Array, y_um: Array) -> list[Array]:
    return [ndimage.map_coordinates(one, [y_um / STEP_UM, x_um / STEP_UM], order=1, mode="nearest") for one in fields]
