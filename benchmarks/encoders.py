"""Tiles per second of the built-in encoder: ONNX Runtime against the same network in eager torch.

``.venv/bin/python benchmarks/encoders.py --threads 2``. Both are timed one after the other in every round, so that a
busy machine slows both; the ratio of each pair is what counts, given as median and range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from histomix.encoders import load_encoder

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from convert_builtin import StagePools, original_weights, read_weights


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Time both runtimes, and the card's number of views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoder = load_encoder(threads=options.threads, views=1)
    averaged = load_encoder(threads=options.threads)
    network = StagePools(read_weights(original_weights())).eval()
    size_px = encoder.card.size_px
    tiles = np.random.default_rng(0).integers(0, 256, (options.tiles, size_px, size_px, 3), dtype=np.uint8)

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([network(part) for part in torch.from_numpy(tiles).split(16)]).numpy()

    found, expected = encoder.embed(tiles), eager()
    pairs = [(_seconds(lambda: encoder.embed(tiles)), _seconds(eager)) for _ in range(options.rounds)]
    several = [_seconds(lambda: averaged.embed(tiles)) for _ in range(max(1, options.rounds // 3))]
    ratios = [slow / fast for fast, slow in pairs]

    def rate(seconds: list[float]) -> str:
        return f"{options.tiles / statistics.median(seconds):.0f} tiles/s (best {options.tiles / min(seconds):.0f})"

    print(f"{size_px} px, {options.threads} threads, {options.tiles} tiles, {options.rounds} rounds")
    print(f"ONNX Runtime, 1 view   {rate([fast for fast, _ in pairs])}")
    print(f"ONNX Runtime, {averaged.views} views  {rate(several)}")
    print(f"eager torch, 1 view    {rate([slow for _, slow in pairs])}")
    print(f"ratio                  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"relative difference    {np.abs(found - expected).max() / np.abs(expected).max():.1e}")


if __name__ == "__main__":
    main()
