"""The file of a map: memory and time of writing it in stretches, and at once.

    .venv/bin/python benchmarks/maps.py [--tiles 100000,250000,1000000] [--types 30]

A map of random numbers with its interval (X and two layers) is written in stretches of 4,096 tiles, as `predict` does,
and by ``AnnData.write_h5ad`` from memory. Each runs in a process of its own; its peak is the kernel's (``ru_maxrss``),
less what the process had before. Prints Markdown.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from histomix.common.storage.h5ad import GrowingH5ad, write_h5ad

STRETCH = 4096


def stretch(start: int, rows: int, types: int) -> ad.AnnData:
    """Rows of a map like that of `predict`."""
    random = np.random.default_rng(start)
    obs = pd.DataFrame(
        {
            **{name: random.uniform(0, 1e5, rows) for name in ("x_px", "y_px", "tissue")},
            "novelty": random.random(rows).astype(np.float32),
            "in_scope": np.ones(rows, bool),
            "read_ok": np.ones(rows, bool),
            "piece": np.ones(rows, np.int32),
        },
        index=pd.Index([f"{start + k}x{start}" for k in range(rows)], name="key"),
    )
    found = ad.AnnData(random.random((rows, types), np.float32), obs=obs)
    found.layers["lower"], found.layers["upper"] = found.X / 2, found.X * 2
    found.obsm["spatial"] = obs[["x_px", "y_px"]].to_numpy()
    return found


def stretches(tiles: int, types: int) -> Iterator[ad.AnnData]:
    """All rows, `STRETCH` at a time."""
    for start in range(0, tiles, STRETCH):
        yield stretch(start, min(STRETCH, tiles - start), types)


def write(way: str, path: Path, tiles: int, types: int) -> None:
    """Write the map in one of two ways."""
    if way == "at once":
        write_h5ad(path, ad.concat(list(stretches(tiles, types))), compression="gzip")
        return
    with GrowingH5ad(path) as growing:
        for some in stretches(tiles, types):
            growing.append(some)
        growing.finish()


def peak_mib() -> float:
    """The greatest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run one step (for the processes that are measured), or all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", default="100000,250000,1000000")
    parser.add_argument("--types", type=int, default=30)
    parser.add_argument("--step", nargs=2)
    given = parser.parse_args()
    if given.step:
        way, tiles = given.step[0], int(given.step[1])
        with tempfile.TemporaryDirectory() as folder:
            write("in stretches", Path(folder) / "first.h5ad", STRETCH, given.types)  # imports and buffers
            before, started = peak_mib(), time.perf_counter()
            write(way, Path(folder) / "map.h5ad", tiles, given.types)
            seconds, size = time.perf_counter() - started, (Path(folder) / "map.h5ad").stat().st_size / 2**20
        print(f"| {tiles:,} x {given.types} | {way} | {peak_mib() - before:.0f} | {seconds:.1f} | {size:.0f} |")
        return
    print("| tiles x types | written | peak above, MiB | s | file, MiB |\n|---|---|---|---|---|", flush=True)
    for tiles in given.tiles.split(","):
        for way in ("in stretches", "at once"):
            command = [sys.executable, __file__, "--types", str(given.types), "--step", way, tiles]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
