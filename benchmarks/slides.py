"""Many slides: a plain loop, one process of histomix, one worker and two; and a cohort whose workers are killed.

    python benchmarks/slides.py [--slides 12] [--stride-um 60] [--rounds 2] [--ways loop,alone,1,2]
    python benchmarks/slides.py --kill-every 20 [--slides 60]

The slides are sections of the phantom, each turned and mirrored in eight ways; the head is a ridge on the built-in
encoder. The plain loop is what one would write oneself: read a batch of tiles, encode it, apply the head, write a
table; no reading ahead, no statuses, no resuming. Every way is run once a round, in turns. "Starting" is the time
until all workers are connected, which a longer list of slides pays once too; their imports come on top, with the
first slide. Memory is the largest sum of the resident sizes of the program and its workers, sampled five times a
second; pages that processes share count in each.

With --kill-every S, a worker of two is killed (SIGKILL) every S seconds, and the maps are compared byte by byte with
those of a run in this process that nothing disturbed. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import tifffile

import histomix as hm
from histomix.encoders import load_encoder
from histomix.prediction import Settings, SlideResult, predict_slides, slide_jobs
from histomix.prediction.cluster.cluster import cores_of, local_cluster, predict_on_cluster
from histomix.prediction.cluster.worker import Work
from histomix.prediction.slides import queue
from histomix.slides import open_slide, read_tile, tiles_on_grid, tissue_mask

MPP = 0.5
BATCH = 32


class Peak:
    """Largest memory of this process and its children while a block runs."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.2):
            total = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            self.bytes = max(self.bytes, total)


def make_slides(folder: Path, count: int) -> tuple[list[Path], Path]:
    """Slides, and a head trained on the phantom that they are made of."""
    donors = max(2, -(-count // 8))
    sheet = hm.make_phantom(folder / "phantom", seed=5, donors=donors, sections_per_donor=1, size_um=(700, 700))
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=sheet.parent / "reference.csv", out=folder / "labels")
    features = hm.embed(cohort, out=folder / "features")
    hm.train(cohort, features, labels, head="ridge", out=folder / "head")
    slides: list[Path] = []
    (folder / "slides").mkdir()
    for row in cohort.rows:
        with open_slide(str(row.image), MPP) as slide:
            pixels = slide.read(0, 0, slide.width_px, slide.height_px, MPP)
        for turn in range(8):
            turned = np.ascontiguousarray(np.rot90(pixels if turn < 4 else pixels[:, ::-1], turn % 4))
            path = folder / "slides" / f"slide{len(slides):02d}.tif"
            tifffile.imwrite(path, turned, tile=(256, 256), photometric="rgb", compression="zlib")
            slides.append(path)
    for path in slides[count:]:
        path.unlink()
    return slides[:count], folder / "head"


def plain_loop(slides: list[Path], head: Path, out: Path, stride_um: float) -> int:
    trained, encoder = hm.load_head(head), load_encoder("builtin")
    spec = hm.TileSpec(encoder.tile_spec().size_px, encoder.tile_spec().mpp, stride_um)
    total = 0
    for path in slides:
        with open_slide(path, MPP) as slide:
            tiles = tiles_on_grid(slide, spec, mask=tissue_mask(slide))
            xy = tiles[["x_px", "y_px"]].to_numpy(float)
            found = []
            for start in range(0, len(xy), BATCH):
                pixels = np.stack([read_tile(slide, x, y, spec) for x, y in xy[start : start + BATCH]])
                found.append(encoder.embed(pixels))
            values = trained.apply(np.concatenate(found), xy * MPP).values
        out.mkdir(parents=True, exist_ok=True)
        np.savetxt(out / f"{path.stem}.csv", np.hstack([xy, values]), delimiter=",")
        total += len(xy)
    return total


def alone(slides: list[Path], head: Path, out: Path, stride_um: float) -> int:
    results = predict_slides(slides, head, out, mpp=MPP, stride_um=stride_um)
    return tiles_of(results)


def on_workers(slides: list[Path], head: Path, out: Path, stride_um: float, workers: int, starting: list[float]) -> int:
    jobs = slide_jobs(slides, out, MPP)
    settings = Settings.of(hm.load_head(head).card["digest"], stride_um=stride_um)
    queue(jobs, settings)
    began = time.perf_counter()
    with local_cluster(workers, dashboard=None) as client:
        starting.append(time.perf_counter() - began)
        return tiles_of(predict_on_cluster(jobs, Work(str(head), settings, threads=cores_of(workers)), client))


def tiles_of(results: list[SlideResult]) -> int:
    failed = [str(result.error) for result in results if result.error is not None]
    if failed:
        raise SystemExit("\n".join(failed))
    return sum(result.tiles for result in results)


def throughput(slides: list[Path], head: Path, folder: Path, stride_um: float, rounds: int, ways: list[str]) -> None:
    starting: dict[str, list[float]] = {way: [] for way in ways}
    runs: dict[str, tuple[str, Callable[[Path], int]]] = {
        "loop": ("plain loop", lambda out: plain_loop(slides, head, out, stride_um)),
        "alone": ("histomix, this process", lambda out: alone(slides, head, out, stride_um)),
        "1": ("histomix, 1 worker", lambda out: on_workers(slides, head, out, stride_um, 1, starting["1"])),
        "2": ("histomix, 2 workers", lambda out: on_workers(slides, head, out, stride_um, 2, starting["2"])),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    memory = dict.fromkeys(ways, 0)
    tiles = 0
    for number in range(rounds):
        for way in ways:
            out = folder / f"{way}-{number}"
            with Peak() as peak:
                began = time.perf_counter()
                tiles = runs[way][1](out)
                seconds[way].append(time.perf_counter() - began)
            memory[way] = max(memory[way], peak.bytes)
            shutil.rmtree(out)
    print(
        f"{len(slides)} slides, {tiles} tiles; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}; {rounds} rounds\n"
    )
    print("| way | seconds (least to greatest) | of it starting | slides/hour | tiles/s | memory, MiB |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        middle = statistics.median(seconds[way])
        spread = f"{middle:.1f} ({min(seconds[way]):.1f} to {max(seconds[way]):.1f})"
        first = f"{statistics.median(starting[way]):.1f}" if starting[way] else ""
        print(
            f"| {runs[way][0]} | {spread} | {first} | {len(slides) / middle * 3600:,.0f} | {tiles / middle:.1f} "
            f"| {memory[way] / 2**20:,.0f} |"
        )


@contextlib.contextmanager
def killing(client: object, every_s: float, killed: list[int]) -> Iterator[None]:
    """Kill one of the worker processes again and again."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(every_s):
            nannies = list(client.cluster.workers.values())  # type: ignore[attr-defined]
            # One that is still starting is no worker yet; killed over and over, none would ever begin.
            pids = [nanny.pid for nanny in nannies if nanny.pid and nanny.worker_address]
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[len(killed) % len(pids)], signal.SIGKILL)
                    killed.append(pids[len(killed) % len(pids)])

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def bytes_of(out: Path) -> dict[str, bytes]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "status.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def killed_cohort(slides: list[Path], head: Path, folder: Path, stride_um: float, every_s: float) -> None:
    began = time.perf_counter()
    tiles = alone(slides, head, folder / "undisturbed", stride_um)
    quiet = time.perf_counter() - began
    jobs = slide_jobs(slides, folder / "killed", MPP)
    settings = Settings.of(hm.load_head(head).card["digest"], stride_um=stride_um)
    queue(jobs, settings)
    work = Work(str(head), settings, threads=cores_of(2))
    killed: list[int] = []
    began = time.perf_counter()
    with local_cluster(2, dashboard=None) as client, killing(client, every_s, killed):
        results = predict_on_cluster(jobs, work, client)
    disturbed = time.perf_counter() - began
    failed = [str(result.error) for result in results if result.error is not None]
    same = bytes_of(folder / "killed") == bytes_of(folder / "undisturbed")
    print(f"{len(slides)} slides, {tiles} tiles; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}\n")
    print("| run | seconds | workers killed | slides done | same bytes |")
    print("|---|---|---|---|---|")
    print(f"| undisturbed, this process | {quiet:.0f} | 0 | {len(slides)} | |")
    done, answer = len(slides) - len(failed), "yes" if same else "NO"
    print(f"| 2 workers, one killed every {every_s:g} s | {disturbed:.0f} | {len(killed)} | {done} | {answer} |")
    if failed or not same:
        raise SystemExit("\n".join(failed) or "the maps differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=0)
    parser.add_argument("--stride-um", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", default="loop,alone,1,2")
    parser.add_argument("--kill-every", type=float, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides, head = make_slides(folder, given.slides or (60 if given.kill_every else 12))
        if given.kill_every:
            killed_cohort(slides, head, folder, given.stride_um, given.kill_every)
        else:
            throughput(slides, head, folder, given.stride_um, given.rounds, given.ways.split(","))


if __name__ == "__main__":
    main()
