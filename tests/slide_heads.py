"""A slide, an encoder and a head that cost nothing, for tests of what happens around them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import ndimage

from histomix.embedding import encoder_facts
from histomix.heads.cards.card import FORMAT
from histomix.heads.head import Head, seal
from histomix.heads.registry import make_estimator
from histomix.heads.trust.novelty import NoveltyModel
from histomix.slides import TileSpec

from .slide_files import write_pyramid

TYPES = ["Tumour", "Stroma", "Lymphocyte"]
MPP = 0.5


class Colours:
    """Mean colours of the quarters of a tile: 16 px at 2 um/px, 32 um wide."""

    dim = 12
    views = 1

    def __init__(self, name: str = "colours", size_px: int = 16, mpp: float = 2.0) -> None:
        self.card = SimpleNamespace(name=name, licence="CC0-1.0", revision="r1")
        self.digest = f"sha256:{name}"
        self.spec = TileSpec(size_px, mpp)
        self.tiles = 0

    def tile_spec(self) -> TileSpec:
        return self.spec

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        self.tiles += len(tiles)
        half = self.spec.size_px // 2
        return tiles.reshape(-1, 2, half, 2, half, 3).mean(axis=(2, 4)).reshape(len(tiles), 12).astype(np.float32)


def colour_head(
    encoders: list[Colours],
    unit: str = "proportion",
    seed: int = 0,
    training: dict[str, Any] | None = None,
    **parameters: Any,
) -> Head:
    """A ridge head on the colours of the encoders."""
    random = np.random.default_rng(seed)
    n = 300
    X = random.uniform(90, 250, (n, sum(encoder.dim for encoder in encoders))).astype(np.float32)
    Y = np.exp(X[:, :3] / 60 + random.normal(0, 0.2, (n, 3)))
    Y = Y / Y.sum(axis=1, keepdims=True) if unit == "proportion" else Y / Y.mean()
    estimator = make_estimator("ridge", unit, seed).set_params(**parameters)
    groups = np.arange(n) % 5
    xy_um = random.uniform(0, 5000, (n, 2))
    from histomix.heads.neighbourhood import Positions

    estimator.fit(X, Y, groups=groups, positions=Positions(np.zeros(n, int), xy_um))
    novelty = NoveltyModel().fit(X, groups)
    facts = [
        {**encoder_facts(encoder), "size_px": encoder.spec.size_px, "mpp": encoder.spec.mpp}  # type: ignore[arg-type]
        for encoder in encoders
    ]
    card = {
        "format": FORMAT,
        "histomix": "0",
        "name": "ridge-colours",
        "head": {"kind": "ridge", "parameters": estimator.get_params(), "fitted": estimator.fitted()[1]},
        "cell_types": TYPES,
        "unit": unit,
        "encoders": facts,
        "encoder_licences": [],
        "tissue": [],
        "training": training or {"n_spots": n, "seed": seed},
    }
    card = json.loads(json.dumps(card, default=lambda value: value.tolist()))
    return Head(seal(card, estimator, novelty), estimator, novelty)


def tissue_pixels(width: int = 1600, height: int = 1400, seed: int = 0) -> np.ndarray:
    """Stained texture in two pieces on white, uint8 (height, width, 3)."""
    random = np.random.default_rng(seed)
    field = ndimage.zoom(random.random((height // 40 + 2, width // 40 + 2)), 40, order=1)[:height, :width, None]
    pink, purple = np.array([238, 160, 200.0]), np.array([140, 80, 165.0])
    pixels = pink * (1 - field) + purple * field + random.normal(0, 6, (height, width, 1))
    y, x = np.mgrid[:height, :width]
    left = ((x - 0.26 * width) / (0.2 * width)) ** 2 + ((y - 0.5 * height) / (0.4 * height)) ** 2 < 1
    right = ((x - 0.78 * width) / (0.16 * width)) ** 2 + ((y - 0.45 * height) / (0.3 * height)) ** 2 < 1
    pixels[~(left | right)] = 244
    return np.clip(pixels, 0, 255).astype(np.uint8)


def tissue_slide(path: Path, mpp: float | None = MPP, **options: Any) -> Path:
    """`tissue_pixels` as a tiled pyramid."""
    return write_pyramid(path, tissue_pixels(**options), mpp)
