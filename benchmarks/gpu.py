"""What a GPU does: precision, the engine against the bare model and a DataLoader, reading, a large slide, training.

    python benchmarks/gpu.py [--out gpu.json]      # under 5 minutes on one data-centre GPU
    python benchmarks/gpu.py --tiny                # the same code on the CPU, with small networks, in a minute

Networks have random weights. Of float32, float16 and bfloat16, each plain and compiled, the fastest whose least cosine
with float32 is .999 at least is *chosen*. The engine is timed as `histomix.encoders.runtimes.optimise` runs it, which
names its precision in the manifest of features. `hist2cell-tiles` is trained on C2 and C3 of her2st for as many epochs
as fit, and reads C4 (one patient: optimistic); without HISTOMIX_DATA, or with --tiny, on a phantom. Everything measured
is printed as JSON; what is at work, on stderr.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import big_slide
import numpy as np
import torch
from embedding import MPP, Contest, positions, run_loader, write_slide
from heads import her2st

import histomix as hm
from histomix.common.metrics import pearson_by_section
from histomix.embedding import embed_tiles
from histomix.encoders import card
from histomix.encoders.onnx.graph import trial_tiles
from histomix.encoders.runtimes import optimise
from histomix.encoders.torch.architectures import create_model
from histomix.encoders.torch.base import TorchEncoder
from histomix.encoders.torch.timm import pool
from histomix.heads import assemble, make_estimator
from histomix.slides import open_slide, read_tile

NETWORKS, TINY = ("uni2-h", "virchow2", "h-optimus-1", "lunit-s16"), ("lunit-s16",)
LEAST_COSINE = 0.999


class Pooled(TorchEncoder):
    """A network of a card, pooled as the card says."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return pool(self.model, images, self.card)


def network(name: str, device: str) -> Pooled:
    """The network of a card with random weights."""
    torch.manual_seed(0)
    facts = card(name)
    model = create_model(facts, "cpu").eval().requires_grad_(False)
    return Pooled(facts, model, f"sha256:random {name}", device=device)


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Median of some runs, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def precisions(encoder: Pooled, batch: int, rounds: int) -> dict[str, Any]:
    """Tiles a second and least cosine with float32 of each precision, plain and compiled, and which is chosen."""
    tiles = np.resize(trial_tiles(encoder.card.size_px, 4), (batch, encoder.card.size_px, encoder.card.size_px, 3))
    kind, found, reference = encoder.device.type, {}, None
    compiled = torch.compile(encoder.forward) if kind == "cuda" else None
    for dtype in (None, torch.float16, torch.bfloat16):
        for name, forward in (("", encoder.forward), (" compiled", compiled)):
            if forward is None or (dtype is torch.float16 and kind == "cpu"):
                continue

            def run(dtype: Any = dtype, forward: Any = forward) -> np.ndarray:
                with torch.inference_mode(), torch.autocast(kind, dtype, enabled=dtype is not None):
                    return forward(encoder.preprocess(tiles)).float().cpu().numpy()

            features = run()
            reference = features if reference is None else reference
            sizes = np.linalg.norm(features, axis=1) * np.linalg.norm(reference, axis=1)
            cosine = float(((features * reference).sum(axis=1) / sizes).min())
            label = f"{str(dtype or torch.float32).removeprefix('torch.')}{name}"
            found[label] = {"tiles_per_second": batch / seconds(run, rounds), "cosine": cosine}
    allowed = {name: one for name, one in found.items() if one["cosine"] >= LEAST_COSINE}
    return {"by_precision": found, "chosen": max(allowed, key=lambda name: allowed[name]["tiles_per_second"])}


def engine(encoder: Pooled, slide: Path, side: int, count: int, rounds: int) -> dict[str, Any]:
    """The engine against the bare model on the same runtime, and against a DataLoader with the eager network."""
    fast: Any = optimise(encoder, "auto" if encoder.device.type == "cuda" else "torch")
    spec = fast.tile_spec()
    tiles = positions(side, spec, count)
    with open_slide(slide) as opened:
        images = np.stack([read_tile(opened, x, y, spec) for x, y in tiles[["x_px", "y_px"]].to_numpy()[:256]])
        images = np.resize(images, (count, *images.shape[1:]))
        own = seconds(lambda: embed_tiles(opened, tiles, fast, dtype="float32"), rounds)
    bare = seconds(lambda: [fast.embed(images[start : start + 256]) for start in range(0, count, 256)], rounds)

    class Eager(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return encoder.forward(images.to(encoder.device)).float().cpu()

    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (encoder.card.mean, encoder.card.std))
    contest = Contest(
        encoder.card.name, fast, Eager(), lambda one: (torch.tensor(np.array(one)).permute(2, 0, 1) / 255 - mean) / std
    )
    loader = seconds(lambda: run_loader(contest, slide, tiles), 1)
    return {
        "runtime": fast.runtime,
        "tiles": count,
        "tiles_per_second": count / own,
        "of_the_bare_model": bare / own,
        "of_a_dataloader": loader / own,
    }


def _read(words: tuple[Path, list[tuple[float, float]], Any]) -> int:
    path, places, spec = words
    with open_slide(path) as slide:
        for x, y in places:
            read_tile(slide, x, y, spec)
    return len(places)


def reading(slide: Path, side: int, count: int, processes: tuple[int, ...]) -> dict[str, Any]:
    """Tiles a second that are decoded by some processes, and whether a decoder of the GPU is installed."""
    spec = card("lunit-s16")
    from histomix.slides import TileSpec

    tile = TileSpec(spec.size_px, spec.mpp)
    places = [tuple(place) for place in positions(side, tile, count)[["x_px", "y_px"]].to_numpy().tolist()]
    found: dict[str, Any] = {
        "nvjpeg": importlib.util.find_spec("nvidia.nvimgcodec") is not None
        if importlib.util.find_spec("nvidia")
        else False
    }
    for workers in processes:
        parts = [(slide, places[number::workers], tile) for number in range(workers)]
        with ProcessPoolExecutor(workers) as pool_:
            list(pool_.map(_read, [(slide, places[:1], tile)] * workers))
            start = time.perf_counter()
            done = sum(pool_.map(_read, parts))
            found[f"{workers} processes"] = done / (time.perf_counter() - start)
    return found


def training(rows: int, features: int, types: int) -> dict[str, Any]:
    """Seconds to fit heads on generated rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    Y = rng.dirichlet(np.full(types, 0.3), rows)
    groups = np.arange(rows) * 10 // rows
    times = {}
    for name in ("ridge", "mlp"):
        start = time.perf_counter()
        make_estimator(name).fit(X, Y, groups=groups)
        times[name] = time.perf_counter() - start
    return {"rows": rows, "features": features, "types": types, "seconds": times}


def hist2cell(folder: Path, tiny: bool, most_seconds: float) -> dict[str, Any] | None:
    """Hist2Cell on pixels for as many of its 20 epochs as fit, the last section held out; None without its library."""
    if importlib.util.find_spec("torch_geometric") is None:
        return None
    data = os.environ.get("HISTOMIX_DATA")
    if data and not tiny:
        cohort = her2st(folder, Path(data).resolve() / "her2st")
        labels = hm.label(cohort, method="table", progress=False)
    else:
        area = (400.0, 400.0) if tiny else (1500.0, 1500.0)
        place = folder / "hist2cell"
        cohort = hm.read_cohort(
            hm.make_phantom(place, donors=2 if tiny else 3, sections_per_donor=1, size_um=area, progress=False)
        )
        labels = hm.label(cohort, reference=place / "reference.csv", progress=False)
    rows = assemble(cohort, hm.embed(cohort, progress=False), labels)
    held = rows.section == np.unique(rows.section)[-1]
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    head: Any = make_estimator("hist2cell-tiles", rows.unit, epochs=1 if tiny else 20)
    head.n_features_in_, head.present_ = rows.X.shape[1], np.ones(rows.Y.shape[1], dtype=bool)
    begun, ends = time.perf_counter(), []

    def watch(network: Any) -> bool:
        ends.append(time.perf_counter() - begun)
        return ends[-1] + ends[-1] / len(ends) > most_seconds

    network = head._train(
        rows.X[train], rows.Y[train], np.ones(len(train)), rows.positions[train], 1e-4, head.epochs, watch
    )
    start = time.perf_counter()
    found = pearson_by_section(
        rows.Y[test], head._read(network, rows.X[test], rows.positions[test]), rows.section[test]
    )
    return {
        "spots": len(train),
        "epochs": len(ends),
        "of_epochs": head.epochs,
        "seconds_an_epoch": ends[-1] / len(ends),
        "seconds_to_read_the_section_held_out": time.perf_counter() - start,
        "pearson": float(np.mean(np.nan_to_num(found))),
    }


def say(what: str) -> None:
    """Tell what is at work."""
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def measure(tiny: bool, folder: Path) -> dict[str, Any]:
    """Everything, as JSON has it."""
    device = "cuda" if torch.cuda.is_available() and not tiny else "cpu"
    if device == "cpu" and not tiny:
        raise SystemExit("torch finds no GPU here: --tiny runs the same code on the CPU")
    side, count, batch, rounds = (2048, 8, 2, 1) if tiny else (12_288, 2048, 128, 3)
    slide = folder / "slide.tif"
    say("a slide to read")
    write_slide(slide, side)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "um_per_px": MPP,
        "networks": {},
    }
    for name in TINY if tiny else NETWORKS:
        say(name)
        encoder = network(name, device)
        found["networks"][name] = {
            **precisions(encoder, batch, rounds),
            "engine": engine(encoder, slide, side, count, rounds),
        }
        del encoder
        if device == "cuda":
            torch.cuda.empty_cache()
    say("reading")
    found["reading"] = reading(slide, side, count, (1,) if tiny else (1, 4, 16))
    say("a large slide")
    found["slide"] = big_slide.measure(2048 if tiny else 40_000, None, folder)
    say("training")
    found["training"] = training(*((400, 32, 4) if tiny else (50_000, 1536, 80)))
    say("hist2cell-tiles")
    found["hist2cell-tiles"] = hist2cell(folder, tiny, 60)
    return found


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU: only to see that it runs")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        text = json.dumps(measure(options.tiny, Path(name)), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
