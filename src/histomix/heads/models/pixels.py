"""Pixels of training rows, for heads that are trained end to end; read from the slides when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...embedding.identity import slide_fingerprint
from ...provenance import digest_json
from ...slides import TileSpec, open_slide, read_tile


@dataclass(frozen=True, eq=False)
class CohortTiles:
    """Gives the tile of any row by its number; see `Places.tiles`.

    Parameters
    ----------
    slides
        Path and mpp of the slide of each section.
    section
        Number of the section of each row, ``(n,)``.
    xy_px
        Tile centres in level-0 px, ``(n, 2)``.
    spec
        The tile.
    """

    slides: Sequence[tuple[Path, float]]
    section: np.ndarray
    xy_px: np.ndarray
    spec: TileSpec

    def identity(self) -> str:
        """Digest of what decides the pixels: the slides, the places and the tile."""
        slides = [[slide_fingerprint(path), mpp] for path, mpp in self.slides]
        places = [self.section.tolist(), self.xy_px.tolist()]
        return digest_json([slides, places, repr(self.spec)])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of rows, uint8 ``(m, px, px, 3)``.

        Raises
        ------
        SlideError
            A slide cannot be opened, or a tile of it cannot be decoded.
        """
        rows = np.asarray(rows)
        tiles = np.empty((len(rows), self.spec.size_px, self.spec.size_px, 3), np.uint8)
        for number in np.unique(self.section[rows]).tolist():
            path, mpp = self.slides[number]
            with open_slide(path, mpp) as slide:
                for place in np.flatnonzero(self.section[rows] == number):
                    x_px, y_px = self.xy_px[rows[place]]
                    tiles[place] = read_tile(slide, x_px, y_px, self.spec)
        return tiles
