"""Pictures of what is no section of the tissue that a head was trained on, made of nothing but numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

Pixels = np.ndarray
#: Side of a picture, px of 0.5 um.
SIDE = 800


def white() -> Pixels:
    """Glass."""
    return _glass()


def pen() -> Pixels:
    """Marks of a blue and a black pen on glass."""
    picture = _glass()
    picture[200:400, 100:700], picture[600:660, 100:600] = (60, 85, 190), 20
    return picture


def fat() -> Pixels:
    """Lacunae between thin septa, from edge to edge."""
    random = np.random.default_rng(0)
    distance = cKDTree(random.uniform(0, SIDE, (110, 2))).query(np.indices((SIDE, SIDE)).reshape(2, -1).T, k=2)[0]
    septum = (distance[:, 1] - distance[:, 0]).reshape(SIDE, SIDE) < 6
    return _noisy(np.where(septum[..., None], np.array([215, 160, 190]), 244), 2)


def fluorescence() -> Pixels:
    """Blue nuclei and a green haze on black."""
    random, nuclei = np.random.default_rng(1), np.zeros((SIDE, SIDE))
    nuclei[tuple(random.integers(0, SIDE, (2, 700)))] = 1
    blue = ndimage.gaussian_filter(nuclei, 5)
    haze = ndimage.gaussian_filter(random.random((SIDE, SIDE)), 25)
    green = (haze - haze.min()) / np.ptp(haze)
    return _noisy(np.stack([np.full_like(blue, 10), 70 * green, 255 * blue / blue.max()], axis=-1), 3)


def smear() -> Pixels:
    """A cytology smear: cells apart on glass, green, orange and blue."""
    random, picture = np.random.default_rng(2), _glass().astype(float)
    y, x = np.mgrid[:SIDE, :SIDE]
    tints = np.array([[150, 200, 205], [235, 170, 150], [190, 190, 225]])
    for _ in range(70):
        away = np.hypot(x - random.uniform(0, SIDE), y - random.uniform(0, SIDE))
        radius = random.uniform(18, 45)
        picture[away < radius], picture[away < radius / 4] = tints[random.integers(3)], (70, 60, 120)
    return _noisy(picture, 3)


def fibres() -> Pixels:
    """Another tissue: pink fibres side by side with thin, sparse nuclei."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    wave = np.sin((y + 40 * np.sin(x / 600) + 0.15 * x) / 9)
    picture = np.array([226, 110, 150]) + wave[..., None] * np.array([10, 26, 18])
    for row, column in random.uniform(0, SIDE, (160, 2)):
        part = np.s_[max(0, int(row) - 8) : int(row) + 8, max(0, int(column) - 40) : int(column) + 40]
        picture[part][((x[part] - column) / 26) ** 2 + ((y[part] - row) / 4) ** 2 < 1] = (92, 62, 130)
    return _noisy(picture, 6)


def immunohistochemistry(tissue: Pixels) -> Pixels:
    """The same section in haematoxylin and DAB: what was pink is brown, what was dark is browner."""
    density = -np.log(np.clip(tissue, 1, 255) / 255)
    dark = density.mean(axis=-1, keepdims=True)
    brown, blue = np.array([0.27, 0.57, 0.78]), np.array([0.65, 0.70, 0.29])
    return _noisy(255 * np.exp(-(2.2 * dark * (dark > 0.35) * brown + 0.5 * dark * blue)), 0)


def frozen(tissue: Pixels) -> Pixels:
    """The same section frozen: holes and clefts of ice all over it, swollen and smeared nuclei, pale."""
    random = np.random.default_rng(4)
    ice = ndimage.gaussian_filter(random.standard_normal(tissue.shape[:2]), (3, 9))
    soft = ndimage.gaussian_filter(tissue.astype(float), (4, 4, 0))
    soft[ice > 0.8 * ice.std()] = 240
    return _noisy(soft * 0.9 + 22, 0)


#: Those that are made of nothing, and what must be said of each: instead of a map, or beside one.
MADE: dict[str, tuple[Callable[[], Pixels], str]] = {
    "white": (white, "no tissue was found"),
    "pen": (pen, "pen marks or black"),
    "fat": (fat, "fat"),
    "fluorescence": (fluorescence, "no tissue was found"),
    "smear": (smear, "% of this slide looks like"),
    "fibres": (fibres, "% of this slide looks like"),
}
#: Those that are made of a section.
MADE_OF_TISSUE: dict[str, tuple[Callable[[Pixels], Pixels], str]] = {
    "immunohistochemistry": (immunohistochemistry, "% of this slide looks like"),
    "frozen": (frozen, "% of this slide looks like"),
}


def _glass() -> Pixels:
    return _noisy(np.full((SIDE, SIDE, 3), 244.0), 1)


def _noisy(picture: np.ndarray, spread: float) -> Pixels:
    noise = np.random.default_rng(9).normal(0, spread, picture.shape) if spread else 0.0
    return np.clip(picture + noise, 0, 255).astype(np.uint8)
