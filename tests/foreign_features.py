"""Features as other programs write them, in their published layouts."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch


@dataclass(frozen=True)
class Tiles:
    """Tiles of one slide: features, centres and side in level-0 px, and the names of the spots they are of."""

    name: str
    vectors: np.ndarray
    centres: np.ndarray
    side: float
    keys: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        return np.rint(self.centres - self.side / 2).astype(np.int64)

    def but(self, **changes: Any) -> Tiles:
        return replace(self, **changes)


def trident(path: Path, tiles: Tiles, **changes: Any) -> Path:
    """``features_<encoder>/<slide>.h5`` of TRIDENT; an attribute that is None is left out."""
    attributes = {
        "patch_size": 112,
        "patch_size_level0": int(tiles.side),
        "level0_magnification": 20,
        "target_magnification": 10,
        "overlap": 0,
        "name": tiles.name,
        "savetodir": "trident_processed",
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as store:
        store["features"] = tiles.vectors
        store["coords"] = tiles.corners
        store["features"].attrs.update({"name": tiles.name, "savetodir": "trident_processed"})
        store["coords"].attrs.update({name: value for name, value in attributes.items() if value is not None})
    return path


def clam(folder: Path, tiles: Tiles, *, pt: bool) -> Path:
    """``pt_files`` or ``h5_files`` of CLAM with ``patches``; patches of level 1, which is twice smaller."""
    for name in ("patches", "h5_files", "pt_files"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "patches" / f"{tiles.name}.h5", "w") as store:
        store["coords"] = tiles.corners
        facts = {"patch_size": int(tiles.side) // 2, "patch_level": 1, "downsample": (2.0, 2.0), "name": tiles.name}
        store["coords"].attrs.update({**facts, "save_path": "patches"})
    if pt:
        torch.save(torch.from_numpy(tiles.vectors), folder / "pt_files" / f"{tiles.name}.pt")
    else:
        with h5py.File(folder / "h5_files" / f"{tiles.name}.h5", "w") as store:
            store["features"], store["coords"] = tiles.vectors.astype(np.float32), tiles.corners.astype(np.int32)
    return folder


def slide2vec(folder: Path, tiles: Tiles, encoder: str, mpp: float, *, format: str) -> Path:
    """``tile_embeddings`` and ``tiles`` of slide2vec and hs2p."""
    for name in ("tile_embeddings", "tiles"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    place = folder / "tile_embeddings" / f"{tiles.name}.{format}"
    number = np.arange(len(tiles.vectors))
    if format == "pt":
        torch.save(torch.from_numpy(tiles.vectors), place)
    else:
        np.savez_compressed(place, features=tiles.vectors, tile_index=number)
    meta = {
        "sample_id": tiles.name,
        "artifact_type": "tile_embeddings",
        "format": format,
        "feature_dim": tiles.vectors.shape[1],
        "num_tiles": len(tiles.vectors),
        "encoder_name": encoder,
        "encoder_level": "tile",
        "tile_size_lv0": int(tiles.side),
        "requested_tile_size_px": 112,
        "requested_spacing_um": 1.0,
    }
    place.with_name(f"{tiles.name}.meta.json").write_text(json.dumps(meta))
    np.savez_compressed(
        folder / "tiles" / f"{tiles.name}.coordinates.npz",
        tile_index=number.astype(np.int32),
        coordinates=tiles.corners,
        tissue_fractions=np.ones(len(number), np.float32),
    )
    tiling = {"requested_tile_size_px": 112, "requested_spacing_um": 1.0, "tile_size_lv0": int(tiles.side)}
    facts = {"provenance": {"sample_id": tiles.name}, "slide": {"base_spacing_um": mpp}, "tiling": tiling}
    (folder / "tiles" / f"{tiles.name}.coordinates.meta.json").write_text(json.dumps(facts))
    return folder


def slide2vec_1(folder: Path, tiles: Tiles) -> Path:
    """``features`` and ``coordinates`` of slide2vec 1, whose places are records."""
    for name in ("features", "coordinates"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(tiles.vectors), folder / "features" / f"{tiles.name}.pt")
    fields = [("x", "<i8"), ("y", "<i8"), ("tile_size_resized", "<i8"), ("tile_size_lv0", "<i8")]
    places = np.zeros(len(tiles.vectors), fields)
    places["x"], places["y"] = tiles.corners.T
    places["tile_size_lv0"] = int(tiles.side)
    np.save(folder / "coordinates" / f"{tiles.name}.npy", places)
    return folder


def hest_bench(path: Path, tiles: Tiles) -> Path:
    """``<sample>.h5`` of HEST-bench: barcodes tell which spot a row is of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as store:
        store["embeddings"], store["coords"] = tiles.vectors, tiles.corners
        store["barcodes"] = np.array([[str(key).encode()] for key in tiles.keys])
    return path


def places_table(path: Path, tiles: Tiles) -> Path:
    """Centres of the tiles as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(tiles.centres, columns=["x_px", "y_px"]).to_csv(path, index=False)
    return path
