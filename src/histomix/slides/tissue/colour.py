"""Colours of a slide at low resolution: the empty glass, hue, chroma and optical density."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

_BACKGROUND_CHROMA = 15
_BACKGROUND_LIGHT = 90
_LEAST_BACKGROUND = 0.005


def background(bands: Callable[[], Iterable[list[np.ndarray]]]) -> list[float]:
    """Colour of the empty glass: the lightest frequent shade of grey; white where there is hardly any.

    Parameters
    ----------
    bands
        Gives the image, red, green and blue of some rows at a time; called twice.
    """
    shades, size = np.zeros(32, dtype=np.int64), 0
    for planes in bands():
        light, neutral = _neutral(planes)
        shades += np.histogram(light[neutral], bins=32, range=(0, 256))[0]
        size += light.size
    if shades.sum() < _LEAST_BACKGROUND * size:
        return [255.0] * 3
    shade = np.flatnonzero(shades >= 0.2 * shades.max())[-1]
    parts = []
    for planes in bands():
        light, neutral = _neutral(planes)
        glass = neutral & (light // 8 == shade)
        parts.append([plane[glass] for plane in planes])
    return [float(np.median(np.concatenate(values))) for values in zip(*parts, strict=True)]


def _neutral(planes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How light pixels are, and which are light and grey."""
    light, chroma = strongest_and_chroma(planes)
    return light, (chroma <= _BACKGROUND_CHROMA) & (light >= _BACKGROUND_LIGHT)


def strongest_and_chroma(planes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The strongest channel of each pixel, and how far it is above the weakest."""
    red, green, blue = planes
    strongest = np.maximum(np.maximum(red, green), blue)
    return strongest, strongest - np.minimum(np.minimum(red, green), blue)


def hue(red: np.ndarray, green: np.ndarray, blue: np.ndarray, strongest: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Hue in degrees, 0 to 360, red = 0 (0 for grey)."""
    safe = np.maximum(chroma, 1e-3)
    sector = np.where(
        strongest == red,
        (green - blue) / safe % 6,
        np.where(strongest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    degrees: np.ndarray = 60 * sector
    return degrees


def within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Whether values lie between limits, the lower one among them."""
    return (values >= limits[0]) & (values < limits[1])


def otsu(values: np.ndarray) -> float:
    """Threshold of the largest variance between two classes (Otsu, 1979), over 256 bins of 0 to 1."""
    count, edges = np.histogram(values, bins=256, range=(0, 1))
    middle = (edges[:-1] + edges[1:]) / 2
    below, weighted = count.cumsum(), (count * middle).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = weighted / below - (weighted[-1] - weighted) / above
        between = np.nan_to_num(below * above * gap**2)
    return float(edges[between.argmax() + 1])
