"""A slide as large as one likes, written in bounded memory, and how much memory predicting it takes.

``.venv/bin/python benchmarks/big_slide.py`` (40,000 x 40,000 px; ``--side 8000 --stride-um 224`` for a look).

The slide repeats one square of real H&E (``HISTOMIX_DATA``'s her2st) or of the phantom: a tiled JPEG pyramid of levels
1, 4 and 16 at 0.5 um/px. Each measure runs in a process of its own; its peak is the kernel's (``ru_maxrss``). The
model's own memory is the peak of a process that loads the head and its encoder and embeds one batch of blank tiles.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

MPP = 0.5
TILE = 512
FACTORS = (1, 4, 16)


def texture(side_px: int = 8192) -> np.ndarray:
    """A square of H&E that is repeated, uint8 (side, side, 3)."""
    from histomix.slides import open_slide

    image = Path(os.environ.get("HISTOMIX_DATA", "/nowhere")) / "her2st" / "images" / "C2.jpg"
    if image.is_file():
        with open_slide(image, MPP) as slide:
            left, top = (slide.width_px - side_px) // 2, (slide.height_px - side_px) // 2
            return slide.read(left, top, side_px, side_px, MPP)
    from histomix import make_phantom, read_cohort

    with tempfile.TemporaryDirectory() as folder:
        sheet = make_phantom(folder, donors=1, sections_per_donor=1, size_um=(1000, 1000), counts=False)
        with open_slide(str(read_cohort(sheet).rows[0].image), MPP) as slide:
            piece = slide.read(0, 0, 1024, 1024, MPP)
    piece = np.concatenate([piece, piece[::-1]])
    piece = np.concatenate([piece, piece[:, ::-1]], axis=1)
    return np.tile(piece, (side_px // 2048, side_px // 2048, 1))


def write_big_slide(path: Path, side_px: int = 40_000, square: np.ndarray | None = None) -> Path:
    """Write the pyramid; every distinct tile is encoded once.

    Parameters
    ----------
    path
        Where to.
    side_px
        Width and height of level 0.
    square
        What is repeated, uint8 (side, side, 3); its side a multiple of 512 x 16 px.
    """
    square = texture() if square is None else square
    if side_px < len(square):  # its middle, where there is tissue
        square = np.roll(square, (side_px - len(square)) // 2, axis=(0, 1))
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for factor in FACTORS:
            side, period = -(-side_px // factor), len(square) // factor
            level = square
            if factor > 1:
                blocks = square.reshape(period, factor, period, factor, 3)
                level = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
            tif.write(
                _tiles(level, side),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
                subfiletype=int(factor > 1),
                resolution=(1e4 / MPP / factor,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def _tiles(level: np.ndarray, side: int) -> Iterator[bytes]:
    encoded: dict[tuple[int, int], bytes] = {}
    across, period = -(-side // TILE), len(level) // TILE
    for row in range(across):
        for column in range(across):
            key = row % period, column % period
            if key not in encoded:
                y, x = (TILE * number for number in key)
                encoded[key] = imagecodecs.jpeg8_encode(
                    np.ascontiguousarray(level[y : y + TILE, x : x + TILE]),
                    level=80,
                    colorspace="rgb",
                    outcolorspace="ycbcr",
                    subsampling="444",
                )
            yield encoded[key]


def small_head(folder: Path) -> Path:
    """A ridge head on the built-in encoder, trained on a small phantom."""
    import histomix as hm

    sheet = hm.make_phantom(folder / "phantom", seed=3, donors=2, sections_per_donor=1, size_um=(800, 800))
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=sheet.parent / "reference.csv")
    hm.train(cohort, hm.embed(cohort), labels, head="ridge", out=folder / "head")
    return folder / "head"


def model_alone(head: Path) -> None:
    """Load all that embedding a tile needs, and embed one batch."""
    from histomix.heads import load_head
    from histomix.prediction import load_head_encoders
    from histomix.prediction.job import BATCH_SIZE

    for encoder in load_head_encoders(load_head(head)):
        side = encoder.tile_spec().size_px
        encoder.embed(np.full((BATCH_SIZE, side, side, 3), 200, np.uint8))


def predict(slide: Path, head: Path, out: Path, stride_um: float | None) -> None:
    """Predict the slide; the peak that is reported includes all of it."""
    from histomix.prediction import predict_slides

    result = predict_slides([slide], head, out, stride_um=stride_um)[0]
    if result.error is not None:
        raise result.error


def in_a_process(step: str, *words: object) -> tuple[float, float]:
    """Peak memory (MiB) and seconds of a step in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--step", step, *(str(word) for word in words)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(found.stdout.splitlines()[-1]), time.perf_counter() - started


def measure(side_px: int, stride_um: float | None, folder: Path) -> dict[str, float]:
    """Write the slide and measure; numbers in MiB and seconds."""
    slide = folder / f"big-{side_px}.tif"
    in_a_process("write", slide, side_px)
    head = folder / "head"
    in_a_process("train", folder)
    alone, _ = in_a_process("model", head)
    peak, seconds = in_a_process("predict", slide, head, folder / "out", stride_um or 0)
    status = json.loads((folder / "out" / slide.stem / "status.json").read_text())
    return {
        "side_px": side_px,
        "slide_mib": slide.stat().st_size / 2**20,
        "stride_um": stride_um or 0,
        "tiles": status["tiles"],
        "model_mib": alone,
        "peak_mib": peak,
        "above_model_mib": peak - alone,
        "seconds": seconds,
        "tiles_per_second": status["tiles"] / seconds,
    }


def main() -> None:
    """Run one step (for the processes that are measured), or all and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("--stride-um", type=float)
    parser.add_argument("--folder", type=Path, help="Where to write (a temporary folder, removed at the end)")
    parser.add_argument("--step", nargs="+")
    given = parser.parse_args()
    if given.step:
        step, *words = given.step
        if step == "write":
            write_big_slide(Path(words[0]), int(words[1]))
        elif step == "train":
            small_head(Path(words[0]))
        elif step == "model":
            model_alone(Path(words[0]))
        else:
            predict(Path(words[0]), Path(words[1]), Path(words[2]), float(words[3]) or None)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="big-slide-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        print(json.dumps(measure(given.side, given.stride_um, folder)))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
