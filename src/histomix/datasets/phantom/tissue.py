"""Layout of the phantom's tissue: where its domains, glands, vessels and fat lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .donors import Donor
from .fields import Field, signed_distance, smooth_noise

#: Grid of the layout's fields, um.
STEP_UM = 2.0

_EPITHELIUM_UM = 14.0


@dataclass(frozen=True)
class Ring:
    """A closed outline r(theta) around a centre: a duct, an acinus, a vessel, a lumen."""

    x_um: float
    y_um: float
    radius_um: float
    wave: npt.NDArray[np.float64]  # amplitude and phase of the harmonics 2, 3, ...: shape (n, 2)
    wall_um: float = 0.0

    def outline(self, theta: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Radius in um at the angles ``theta``."""
        shape = np.ones(np.shape(theta))
        for order, (amplitude, phase) in enumerate(self.wave, start=2):
            shape += amplitude * np.cos(order * theta + phase)
        return self.radius_um * shape


@dataclass
class Layout:
    """Fields on a grid of `STEP_UM` (distances in um, positive inside) and the outlines of ring-like structures."""

    size_um: tuple[float, float]
    tissue: Field
    fat: Field
    nest: Field
    lymph: Field
    lobule: Field
    gland: Field
    lumen: Field
    wall: Field
    edema: Field
    glands: list[Ring] = field(default_factory=list)
    vessels: list[Ring] = field(default_factory=list)
    aggregates: list[Ring] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.tissue.shape[0], self.tissue.shape[1]

    @property
    def stroma(self) -> Field:
        """Distance from everything that is not stroma."""
        inside = np.minimum(self.tissue, -self.fat)
        for other in (self.nest, self.lymph, self.gland, self.lumen, self.wall):
            inside = np.minimum(inside, -other)
        return inside

    def paint(self, target: Field, ring: Ring, shift_um: float = 0.0) -> None:
        """Join a ring, made smaller by ``shift_um``, to a distance field."""
        window, dx, dy = _window(target, ring.x_um, ring.y_um, 1.6 * ring.radius_um + 40.0)
        distance = ring.outline(np.arctan2(dy, dx)) - shift_um - np.hypot(dx, dy)
        np.maximum(window, distance.astype(np.float32), out=window)


def _window(field: Field, x_um: float, y_um: float, context_um: float) -> tuple[Field, Field, Field]:
    """View of a field around a place, and the offsets of its pixels from the place: dx (1, w) and dy (h, 1) in um."""
    low_row, low_column = (max(0, int((at - context_um) / STEP_UM)) for at in (y_um, x_um))
    view = field[low_row : int((y_um + context_um) / STEP_UM) + 1, low_column : int((x_um + context_um) / STEP_UM) + 1]
    dx = (np.arange(view.shape[1], dtype=np.float32)[None, :] + low_column + 0.5) * STEP_UM - x_um
    dy = (np.arange(view.shape[0], dtype=np.float32)[:, None] + low_row + 0.5) * STEP_UM - y_um
    return view, dx.astype(np.float32), dy.astype(np.float32)


def _outside(shape: tuple[int, int]) -> Field:
    return np.full(shape, -60.0, dtype=np.float32)


def _ring(rng: np.random.Generator, x: float, y: float, radius: float, waviness: float, wall: float = 0.0) -> Ring:
    orders = np.arange(2, 6)
    wave = np.column_stack([rng.normal(0.0, waviness / (orders - 1.0)), rng.uniform(0.0, 2 * np.pi, orders.size)])
    return Ring(x, y, radius, wave, wall)


def _tissue(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """The outline of the piece, with frayed edges and a few tears."""
    rows = np.linspace(-1.0, 1.0, shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1.0, 1.0, shape[1], dtype=np.float32)[None, :]
    outline = (np.abs(rows) ** 3.2 + np.abs(columns) ** 3.2) ** (1 / 3.2)
    edge = (
        0.87
        - outline
        + 0.075 * smooth_noise(rng, shape, 150 / STEP_UM)
        + 0.012 * smooth_noise(rng, shape, 18 / STEP_UM)
    )
    tear = 0.035 + 0.02 * smooth_noise(rng, shape, 40 / STEP_UM) - np.abs(smooth_noise(rng, shape, 130 / STEP_UM))
    gate = smooth_noise(rng, shape, 170 / STEP_UM)
    return signed_distance((edge > 0) & ~((tear > 0) & (gate > 1.0)), STEP_UM)


class _Positions:
    """Free places for rings: as far as asked from the edge of a region and from one another."""

    def __init__(self, rng: np.random.Generator, free: Field) -> None:
        self.rng, self.free = rng, free

    def find(self, radius_um: float, preference: Field | None = None) -> tuple[float, float] | None:
        candidates = np.flatnonzero(self.free.ravel()[::7] > radius_um) * 7
        if candidates.size == 0:
            return None
        pick = self.rng.choice(candidates, size=min(24, candidates.size))
        best = pick[0] if preference is None else pick[np.argmax(preference.ravel()[pick])]
        row, column = divmod(int(best), self.free.shape[1])
        return (column + 0.5) * STEP_UM, (row + 0.5) * STEP_UM

    def take(self, x_um: float, y_um: float, radius_um: float) -> None:
        window, dx, dy = _window(self.free, x_um, y_um, radius_um + 170.0)
        np.minimum(window, (np.hypot(dx, dy) - radius_um).astype(np.float32), out=window)


def _count(rng: np.random.Generator, per_mm2: float, area_mm2: float) -> int:
    return int(np.floor(per_mm2 * area_mm2 + rng.random()))


def make_layout(rng: np.random.Generator, donor: Donor, size_um: tuple[float, float]) -> Layout:
    """Draw the layout of one section.

    Parameters
    ----------
    size_um
        Width and height.
    """
    shape = (round(size_um[1] / STEP_UM), round(size_um[0] / STEP_UM))
    tissue = _tissue(rng, shape)
    area_mm2 = float((tissue > 0).sum()) * STEP_UM**2 * 1e-6

    slope = rng.uniform(0.0, 2 * np.pi)
    rows, columns = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in shape)
    gradient = np.float32(np.sin(slope)) * rows[:, None] + np.float32(np.cos(slope)) * columns[None, :]
    fat_wish = smooth_noise(rng, shape, 120 / STEP_UM) + 1.4 * gradient + 0.12 * smooth_noise(rng, shape, 25 / STEP_UM)
    fat = signed_distance(fat_wish > np.quantile(fat_wish[tissue > 0], 1 - donor.fat), STEP_UM)
    tumour_wish = smooth_noise(rng, shape, 130 / STEP_UM) - 0.7 * gradient
    tumour_edge = float(np.quantile(tumour_wish[(tissue > 0) & (fat < 0)], 1 - donor.tumour / (1 - donor.fat)))

    layout = Layout(
        size_um=size_um,
        tissue=tissue,
        fat=fat,
        nest=_outside(shape),
        lymph=_outside(shape),
        lobule=_outside(shape),
        gland=_outside(shape),
        lumen=_outside(shape),
        wall=_outside(shape),
        edema=smooth_noise(rng, shape, 90 / STEP_UM),
    )
    positions = _Positions(rng, np.minimum(tissue, -fat))
    _add_glands(rng, donor, layout, positions, -tumour_wish, area_mm2)
    _add_aggregates(rng, donor, layout, positions, -np.abs(tumour_wish - tumour_edge), area_mm2)

    for _ in range(_count(rng, 3.5, area_mm2)):  # arterioles and venules
        radius = float(rng.uniform(14, 40))
        wall = float(rng.choice([3.0, 0.28 * radius]))
        at = positions.find(radius + wall + 12)
        if at:
            vessel = _ring(rng, *at, radius, 0.12, wall)
            layout.vessels.append(vessel)
            layout.paint(layout.wall, Ring(*at, radius + wall, vessel.wave))
            layout.paint(layout.lumen, vessel)
            positions.take(*at, radius + wall + 8)

    _add_nests(rng, donor, layout, positions.free, tumour_wish - tumour_edge)
    free = _Positions(rng, np.maximum(layout.stroma, -1.0) + 1.5)
    for _ in range(_count(rng, donor.capillaries, area_mm2)):  # capillaries
        radius = float(rng.uniform(2.5, 5.0))
        at = free.find(radius + 2.0)
        if at:
            layout.vessels.append(_ring(rng, *at, radius, 0.22, 1.0))
            layout.paint(layout.lumen, layout.vessels[-1])
            free.take(*at, 30.0)
    return layout


def _add_glands(
    rng: np.random.Generator, donor: Donor, layout: Layout, positions: _Positions, preference: Field, area_mm2: float
) -> None:
    """Ducts, and lobules of acini in loose stroma."""

    def add(x: float, y: float, radius: float, waviness: float, epithelium: float) -> None:
        gland = _ring(rng, x, y, radius, waviness, epithelium)
        layout.glands.append(gland)
        layout.paint(layout.gland, gland)
        layout.paint(layout.lumen, gland, epithelium)

    for _ in range(_count(rng, donor.ducts, area_mm2)):
        radius = float(rng.uniform(38, 75))
        at = positions.find(radius + 25, preference)
        if at:
            add(*at, radius, 0.11, _EPITHELIUM_UM)
            positions.take(*at, radius + 25)
    for _ in range(max(1, _count(rng, donor.lobules, area_mm2))):
        radius = float(rng.uniform(95, 150))
        at = positions.find(radius, preference)
        if not at:
            continue
        lobule = _ring(rng, *at, radius, 0.06)
        layout.paint(layout.lobule, lobule)
        inside = _Positions(rng, _outside(layout.shape))
        layout.paint(inside.free, lobule)
        for _ in range(45):
            acinus = float(rng.uniform(15, 24))
            spot = inside.find(acinus + 1)
            if not spot:
                break
            add(*spot, acinus, 0.10, acinus - float(rng.uniform(3.0, 7.0)))
            inside.take(*spot, acinus + 5)
        positions.take(*at, radius + 15)


def _add_aggregates(
    rng: np.random.Generator, donor: Donor, layout: Layout, positions: _Positions, preference: Field, area_mm2: float
) -> None:
    for _ in range(_count(rng, donor.aggregates, area_mm2)):
        radius = float(rng.uniform(55, 125))
        at = positions.find(radius + 10, preference)
        if at:
            layout.aggregates.append(_ring(rng, *at, radius, 0.12))
            layout.paint(layout.lymph, layout.aggregates[-1])
            positions.take(*at, radius + 5)


def _add_nests(rng: np.random.Generator, donor: Donor, layout: Layout, free: Field, depth: Field) -> None:
    """Tumour nests inside the tumour region, with lumens in tumours of low grade."""
    texture = smooth_noise(rng, layout.shape, donor.nest_um / 2.2 / STEP_UM)
    texture += 0.25 * smooth_noise(rng, layout.shape, donor.nest_um / 6 / STEP_UM)
    wish = texture + 0.45 - 5.0 * np.clip(0.25 - depth, 0.0, None)
    layout.nest = signed_distance((wish > 0) & (free > 6.0), STEP_UM)
    positions = _Positions(rng, layout.nest.copy())
    for _ in range(_count(rng, 90.0 * (1.0 - donor.grade) ** 1.5, float((layout.nest > 0).sum()) * STEP_UM**2 * 1e-6)):
        radius = float(rng.uniform(6, 19))
        at = positions.find(radius + 13)
        if at:
            layout.paint(layout.lumen, _ring(rng, *at, radius, 0.13))
            positions.take(*at, radius + 14)
