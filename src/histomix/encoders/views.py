"""Flips and rotations of a tile, and embeddings that do not depend on how the tissue lay on the glass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import EncoderError
from .card import EncoderCard

#: Numbers of views that can be averaged: the tile itself, its four rotations, or those and their mirror images.
VIEWS = (1, 4, 8)


def check_views(views: int) -> int:
    """Refuse a number of views other than 1, 4 and 8.

    Raises
    ------
    EncoderError
        It is another number.
    """
    if views not in VIEWS:
        raise EncoderError(
            f"{views} views cannot be averaged", hint="Choose 1, 4 (rotations) or 8 (rotations and flips)"
        )
    return views


def check_tiles(tiles: np.ndarray, size_px: int, name: str) -> np.ndarray:
    """Refuse anything but uint8 RGB tiles (n, size_px, size_px, 3).

    Raises
    ------
    EncoderError
        The array has another shape or type.
    """
    tiles = np.asarray(tiles)
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[1:] != (size_px, size_px, 3):
        raise EncoderError(
            f"the encoder {name} was given tiles of type {tiles.dtype} and shape {tiles.shape}",
            hint=f"Give uint8 RGB tiles of shape (n, {size_px}, {size_px}, 3), as tile_spec() asks",
        )
    return tiles


def check_output(array: Any, count: int, card: EncoderCard) -> None:
    """Refuse embeddings that are not (count, dim).

    Raises
    ------
    EncoderError
        They have another shape, or are no array.
    """
    shape = tuple(getattr(array, "shape", ()))
    if shape != (count, card.dim):
        raise EncoderError(
            f"the encoder {card.name} gave {shape or type(array).__name__} for {count} tiles, not {(count, card.dim)}",
            hint="Correct dim on its card, or have the model return one vector for each tile",
        )


def view(tiles: np.ndarray, number: int) -> np.ndarray:
    """View ``number`` (0..7) of tiles (n, height, width, 3): quarter turns for 0..3, mirrored ones for 4..7."""
    turned = np.rot90(tiles, number % 4, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if number >= 4 else turned)


def mean_of_views(tiles: np.ndarray, views: int, embed: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean embedding (n, dim), float32, over the first ``views`` views of every tile."""
    total = embed(view(tiles, 0)).astype(np.float32, copy=False)
    for number in range(1, views):
        total = total + embed(view(tiles, number))
    return total / np.float32(views)
