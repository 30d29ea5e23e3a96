"""The engine around the model: share of time inside it, tiles per second against others, memory, and resuming.

``.venv/bin/python benchmarks/embedding.py --threads 2`` (under 10 minutes on two quiet cores; ``--quick``: 2).
One synthetic slide of phantom tissue (JPEG tiles, 0.25 um/px, levels 1, 4 and 16), the same tiles and the same networks
for all. In every round each contender runs once, so that a busy machine slows all of them; ratios are taken within a
round and given as median (lowest to highest). The vision transformer has random weights.
With --runtimes the bare models alone, on every runtime that is installed.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pandas as pd
import tifffile
import torch
from PIL import Image

from histomix import make_phantom
from histomix.embedding import embed, embed_tiles
from histomix.embedding.reading import find_batch_size
from histomix.encoders import card, load_encoder
from histomix.encoders.onnx.graph import trial_tiles
from histomix.encoders.runtimes import RUNTIMES, optimise
from histomix.encoders.torch.base import TorchEncoder
from histomix.errors import HistomixError
from histomix.slides import TileSpec, open_slide, read_tile
from histomix.spots import read_cohort

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
MPP = 0.25


def write_slide(path: Path, side_px: int) -> None:
    """A pyramid of mirrored phantom tissue."""
    with tempfile.TemporaryDirectory() as folder:
        sheet = make_phantom(folder, donors=1, sections_per_donor=1, size_um=(1000, 1000), counts=False)
        with open_slide(str(read_cohort(sheet).rows[0].image), 0.5) as section:
            piece = section.read(0, 0, 1792, 1792, section.mpp)
    piece = np.concatenate([piece, piece[::-1]])
    piece = np.concatenate([piece, piece[:, ::-1]], axis=1)
    repeats = -(-side_px // len(piece))
    level = np.tile(piece, (repeats, repeats, 1))[:side_px, :side_px]
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for factor in (1, 4, 16):
            if factor > 1:
                blocks = level.reshape(level.shape[0] // 4, 4, level.shape[1] // 4, 4, 3)
                level = blocks.mean(axis=(1, 3)).astype(np.uint8)
            tif.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 80},
                subfiletype=int(factor > 1),
                metadata=None,
                resolution=(1e4 / MPP / factor,) * 2,
                resolutionunit="CENTIMETER",
            )


def positions(slide_px: int, spec: TileSpec, count: int) -> pd.DataFrame:
    """A square grid of tiles side by side, on whole pixels; closer together where the slide is too small."""
    side = round(spec.size_um / MPP)
    across = int(np.ceil(count**0.5))
    step = min(side, (slide_px - side) / max(across - 1, 1))
    row, column = (number.ravel()[:count] for number in np.indices((across, across)))
    x_px, y_px = ((np.floor(axis * step) + side // 2).astype(float) for axis in (column, row))
    return pd.DataFrame({"x_px": x_px, "y_px": y_px, "tissue": 1.0}, index=[f"t{number}" for number in range(count)])


@dataclass
class Watched:
    """An encoder that keeps the time spent inside it."""

    encoder: Any
    seconds: float = field(default=0.0, init=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        found = self.encoder.embed(tiles)
        self.seconds += time.perf_counter() - start
        return found


@dataclass(frozen=True)
class Contest:
    """One network: as histomix runs it, and in eager torch with the transform that its users apply."""

    name: str
    encoder: Any
    eager: torch.nn.Module
    transform: Callable[[Any], torch.Tensor]


class Views(torch.nn.Module):
    """Mean over quarter turns of uint8 tiles (n, size, size, 3)."""

    def __init__(self, network: torch.nn.Module, views: int) -> None:
        super().__init__()
        self.network, self.views = network, views

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        turned = [torch.rot90(tiles, number, (1, 2)) for number in range(self.views)]
        return torch.stack([self.network(one) for one in turned]).mean(dim=0)


def contests(threads: int, cache: Path) -> list[Contest]:
    """The built-in network, and a ViT-S/16 with random weights."""
    import timm
    from convert_builtin import StagePools, original_weights, read_weights
    from torchvision.transforms import Compose, Normalize, ToTensor

    builtin = load_encoder(threads=threads)
    eager = Views(StagePools(read_weights(original_weights())).eval(), builtin.views)
    facts = card("lunit-s16")
    torch.manual_seed(0)
    vit = timm.create_model(facts.architecture, num_classes=0).eval().requires_grad_(False)
    original = TorchEncoder(facts, vit, "sha256:random", threads=threads, device="cpu")
    transform = Compose([ToTensor(), Normalize(facts.mean, facts.std)])
    return [
        Contest("built-in CNN", builtin, eager, lambda image: torch.from_numpy(np.array(image))),
        Contest("ViT-S/16, torch", optimise(original, "torch", threads, cache), vit, transform),
        Contest("ViT-S/16, auto", optimise(original, "auto", threads, cache), vit, transform),
    ]


def networks(threads: int, large: bool) -> dict[str, Any]:
    """The built-in network, and vision transformers with random weights: without a runtime."""
    import timm

    found: dict[str, Any] = {"built-in CNN": load_encoder(threads=threads)}
    for name, facts in (("ViT-S/16", card("lunit-s16")), *((("ViT-L/16", card("uni")),) if large else ())):
        torch.manual_seed(0)
        vit = timm.create_model(facts.architecture, num_classes=0, **facts.arguments).eval().requires_grad_(False)
        found[name] = TorchEncoder(facts, vit, f"sha256:random {name}", threads=threads, device="cpu")
    return found


def race_runtimes(threads: int, cache: Path, rounds: int, large: bool) -> None:
    """Print the bare models on every runtime, in turns: seconds of the wall clock, and of the processor."""
    print("\n| network | runtime | tiles/s | x the first | processor ms a tile | x | cosine with the first |")
    print("|---|---|---|---|---|---|---|")
    for name, original in networks(threads, large).items():
        first = {} if hasattr(original, "session") else {"eager torch": original}
        makers = {
            runtime: partial(optimise, original, runtime, threads, cache) for runtime in RUNTIMES if runtime != "auto"
        }
        contenders: dict[str, Any] = dict(first)
        for runtime, make in makers.items():
            try:
                contenders[runtime] = make()
            except HistomixError as error:
                print(f"| {name} | {runtime} | {error.what} | | | | |")
        if not first:
            del contenders["torch"]  # the built-in network is a graph: there is no model in torch
        side, count = original.card.size_px, {"built-in CNN": 64, "ViT-S/16": 32}.get(name, 8)
        tiles = np.resize(trial_tiles(side, 8), (count, side, side, 3))
        wall: dict[str, list[float]] = {runtime: [] for runtime in contenders}
        used: dict[str, list[float]] = {runtime: [] for runtime in contenders}
        features = {runtime: encoder.embed(tiles) for runtime, encoder in contenders.items()}
        for _ in range(rounds):
            for runtime, encoder in contenders.items():
                before = time.process_time()
                wall[runtime].append(timed(partial(encoder.embed, tiles))[0] / count)
                used[runtime].append((time.process_time() - before) / count)
        base = next(iter(contenders))
        for runtime in contenders:
            a, b = features[runtime], features[base]
            cosine = ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()
            ratios = [
                spread([slow / fast for slow, fast in zip(each[base], each[runtime], strict=True)])
                for each in (wall, used)
            ]
            speed = spread([1 / one for one in wall[runtime]], 1)
            costs = 1e3 * statistics.median(used[runtime])
            print(
                f"| {name} | {runtime} | {speed} | {ratios[0]} | {costs:.1f} | {ratios[1]} | {cosine:.5f} |", flush=True
            )


class PlainTiles(torch.utils.data.Dataset):
    """Tiles as a short script reads them: OpenSlide's best level, then Pillow."""

    def __init__(self, path: Path, tiles: pd.DataFrame, spec: TileSpec, transform: Callable[[Any], Any]) -> None:
        self.path, self.spec, self.transform = path, spec, transform
        self.corners = tiles[["x_px", "y_px"]].to_numpy() - spec.size_um / MPP / 2
        self.slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, number: int) -> torch.Tensor:
        self.slide = self.slide or openslide.OpenSlide(self.path)
        downsample = self.spec.mpp / MPP
        level = self.slide.get_best_level_for_downsample(downsample + 1e-6)
        side = round(self.spec.size_px * downsample / self.slide.level_downsamples[level])
        x, y = (int(corner) for corner in self.corners[number])
        image = self.slide.read_region((x, y), level, (side, side)).convert("RGB")
        if side != self.spec.size_px:
            image = image.resize((self.spec.size_px, self.spec.size_px), Image.Resampling.BILINEAR)
        return self.transform(image)


def run_loader(contest: Contest, path: Path, tiles: pd.DataFrame) -> np.ndarray:
    """A plain DataLoader with two workers, then the eager network."""
    data = PlainTiles(path, tiles, contest.encoder.tile_spec(), contest.transform)
    with torch.inference_mode():
        loader = torch.utils.data.DataLoader(data, batch_size=32, num_workers=2)
        return torch.cat([contest.eager(images) for images in loader]).numpy()


def run_lazyslide(contest: Contest, path: Path, tiles: pd.DataFrame) -> np.ndarray | None:
    """LazySlide's feature extraction with its defaults; None where it is not installed."""
    try:
        import lazyslide
        from wsidata import TileSpec as LazySpec
        from wsidata import open_wsi
        from wsidata.io import add_tiles
    except ImportError:
        return None
    spec = contest.encoder.tile_spec()
    wsi = open_wsi(path, store=None)
    lazy = LazySpec.from_wsidata(wsi, spec.size_px, mpp=spec.mpp, slide_mpp=MPP)
    corners = tiles[["x_px", "y_px"]].to_numpy() - spec.size_um / MPP / 2
    add_tiles(wsi, "tiles", corners, lazy, [0] * len(tiles))
    return lazyslide.tl.feature_extraction(
        wsi,
        contest.eager,
        transform=contest.transform,
        device="cpu",
        batch_size=32,
        pbar=False,
        key_added="features",
        return_features=True,
    )


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def race(contest: Contest, path: Path, slide_px: int, count: int, rounds: int) -> None:
    """Print one network's table."""
    spec = contest.encoder.tile_spec()
    tiles = positions(slide_px, spec, count)
    size = find_batch_size([contest.encoder])
    with open_slide(path) as slide:
        start = time.process_time()
        images = np.stack([read_tile(slide, x, y, spec) for x, y in tiles[["x_px", "y_px"]].to_numpy()])
        reading_ms = (time.process_time() - start) / count * 1e3
    contest.encoder.embed(images[:16])

    def bare() -> np.ndarray:
        return np.concatenate([contest.encoder.embed(images[s : s + size]) for s in range(0, count, size)])

    seconds: dict[str, list[float]] = {name: [] for name in ("engine", "bare model", "DataLoader", "LazySlide")}
    shares = []
    for _ in range(rounds):
        watched = Watched(contest.encoder)
        with open_slide(path) as slide:
            run = partial(embed_tiles, slide, tiles, watched, dtype="float32")  # type: ignore[arg-type]
            took, (X, _) = timed(run)
        seconds["engine"].append(took)
        shares.append(watched.seconds / took)
        seconds["bare model"].append(timed(bare)[0])
        seconds["DataLoader"].append(timed(lambda: run_loader(contest, path, tiles))[0])
        took, other = timed(lambda: run_lazyslide(contest, path, tiles))
        if other is not None:
            seconds["LazySlide"].append(took)
            cosine = (X * other).sum(axis=1) / np.linalg.norm(X, axis=1) / np.linalg.norm(other, axis=1)
    print(f"\n{contest.name}: {getattr(contest.encoder, 'runtime', 'ONNX Runtime on the CPU')}")
    print(f"  {count} tiles of {spec.size_px} px at {spec.mpp} um/px, batches of {size}")
    print(f"  reading one tile        {reading_ms:.2f} ms of one core")
    print(f"  share inside the model  {spread(shares, 3)}")
    for name, values in seconds.items():
        if not values:
            print(f"  {name:<12} not installed")
            continue
        ratios = [other / own for own, other in zip(seconds["engine"], values, strict=True)]
        print(
            f"  {name:<12} {spread([count / took for took in values], 1):<28} tiles/s; the engine is x {spread(ratios)}"
        )
    if seconds["LazySlide"]:
        print(f"  cosine of features with LazySlide's: median {np.median(cosine):.4f}, least {cosine.min():.4f}")


class FirstBatch:
    """Encodes its first batch, and gives those features for every later one: memory of a model, time of none."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.found = encoder, np.empty((0, encoder.dim), np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        if len(self.found) < len(tiles):
            self.found = self.encoder.embed(tiles)
        return self.found[: len(tiles)]


def measure_memory(path: Path, slide_px: int, count: int) -> None:
    """In a process of its own: embed a grid and print the peak memory in MiB."""
    encoder = FirstBatch(load_encoder(threads=2))
    tiles = positions(slide_px, encoder.tile_spec(), count)
    with tempfile.TemporaryDirectory() as folder, open_slide(path) as slide:
        took, _ = timed(lambda: embed_tiles(slide, tiles, encoder, shard_dir=folder, batch_size=64))  # type: ignore[arg-type]
    # A process inherits ru_maxrss from the one that starts it, so that the kernel's own count is better where it is.
    status = Path("/proc/self/status")
    known = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.is_file() else None
    peak = int(known[1]) if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak_mib": peak / 1024, "seconds": took}))


def measure_resume(path: Path, slide_px: int, count: int) -> None:
    """In a process of its own: make a store of features, then time the same call again."""
    encoder = FirstBatch(load_encoder(threads=2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        positions(slide_px, encoder.tile_spec(), count).to_csv(folder / "spots.csv", index_label="spot")
        row = {"section": "A", "donor": "d", "spots": "spots.csv", "image": path}
        pd.DataFrame([row]).to_csv(folder / "sheet.csv", index=False)

        def call() -> None:
            embed(read_cohort(folder / "sheet.csv"), encoder, out=folder / "features", check_alignment=False)

        first, _ = timed(call)
        again = [timed(call)[0] for _ in range(5)]
    print(json.dumps({"first": first, "again": again}))


def in_process(*words: object) -> dict[str, Any]:
    """Run this file in a process of its own; the JSON that it prints."""
    command = [sys.executable, __file__, *map(str, words)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few tiles, two rounds: only to see that it runs")
    parser.add_argument("--runtimes", action="store_true", help="only the bare models, on every runtime")
    parser.add_argument("--large", action="store_true", help="with --runtimes: a ViT-L/16 too")
    parser.add_argument("--only", choices=("memory", "resume"), help=argparse.SUPPRESS)
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lazyslide").setLevel(logging.ERROR)
    if options.only:
        measure = measure_memory if options.only == "memory" else measure_resume
        measure(options.slide, options.side, options.count)
        return
    if options.runtimes:
        with tempfile.TemporaryDirectory() as name:
            race_runtimes(options.threads, Path(name), options.rounds, options.large)
        return
    quick = options.quick
    rounds, side = (2, 4096) if quick else (options.rounds, 12288)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "slide.tif"
        write_slide(path, side)
        print(f"{platform.processor() or platform.machine()}, {options.threads} threads, {rounds} rounds")
        for contest in contests(options.threads, Path(name) / "cache"):
            race(contest, path, side, (32 if quick else 192), rounds)
        few, many, stored = (1000, 5000, 2000) if quick else (5000, 100_000, 20_000)
        common = ("--slide", path, "--side", side)
        peaks = [in_process("--only", "memory", *common, "--count", count) for count in (few, many)]
        ratio = peaks[1]["peak_mib"] / peaks[0]["peak_mib"]
        print(
            f"\npeak memory: {peaks[0]['peak_mib']:.0f} MiB for {few:,} tiles, {peaks[1]['peak_mib']:.0f} MiB for ",
            end="",
        )
        print(f"{many:,} (x {ratio:.2f}); {many / peaks[1]['seconds']:.0f} tiles/s without a model")
        found = in_process("--only", "resume", *common, "--count", stored)
        print(f"resuming a finished store of {stored:,} tiles: {spread(found['again'])} s")


if __name__ == "__main__":
    main()
