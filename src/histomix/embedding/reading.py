"""Batches of tiles, read and prepared by threads ahead of the model."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..common.memory import available_memory
from ..errors import SlideReadError
from ..slides import TileSpec

if TYPE_CHECKING:
    from ..encoders import Encoder

OnError = Literal["raise", "mark"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Tiles that are encoded at once.

    Parameters
    ----------
    rows
        (n,) their rows in the tile table.
    users
        Numbers of the encoders that need them.
    shard
        The shard that they belong to.
    completes
        All rows of that shard, when this is its last batch.
    """

    rows: np.ndarray
    users: tuple[int, ...]
    shard: int
    completes: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Read:
    """One batch as one encoder sees it: pixels of the readable tiles, uint8 (m, size_px, size_px, 3).

    ``prepared`` is what the encoder's ``prepare`` made of them, where it has one.
    """

    images: np.ndarray
    readable: np.ndarray
    prepared: Any = None


def read_ahead(
    path: Path,
    names: Sequence[str],
    xy_px: np.ndarray,
    off_slide: np.ndarray,
    specs: Sequence[TileSpec],
    batches: Sequence[Batch],
    read_place: Callable[[float, float, Sequence[int]], list[np.ndarray]],
    prepare: Sequence[Callable[[np.ndarray], Any] | None],
    on_error: OnError,
    threads: int,
) -> Generator[tuple[Batch, list[Read]], None, None]:
    """Yield each batch in order with what was read for its users, while ``threads`` read the next ones.

    ``threads`` batches are read or being read while one is encoded: with that one and the one before it, memory holds
    ``threads + 2`` at most, whatever the size of the slide.
    """
    stop = threading.Event()

    def read(batch: Batch) -> tuple[Batch, list[Read]]:
        count = len(batch.rows)
        sides = [specs[user].size_px for user in batch.users]
        images = [np.empty((count, side, side, 3), dtype=np.uint8) for side in sides]
        readable = np.ones((len(batch.users), count), dtype=bool)
        for position, row in enumerate(batch.rows):
            if stop.is_set():
                break
            if off_slide[row]:
                # White beyond the edge is no picture of this place.
                readable[:, position] = False
                continue
            x_px, y_px = (float(value) for value in xy_px[row])
            try:
                tiles = read_place(x_px, y_px, batch.users)
            except SlideReadError as error:
                if on_error == "raise":
                    what = f"the tile {names[row]} at x {x_px:.0f}, y {y_px:.0f} px cannot be read ({error.what})"
                    raise SlideReadError(what, where=path, hint=error.hint) from error
                # A smaller tile may be readable where a larger one is not.
                for number, user in enumerate(batch.users):
                    try:
                        images[number][position] = read_place(x_px, y_px, [user])[0]
                    except SlideReadError:
                        readable[number, position] = False
                continue
            for place, pixels in zip(images, tiles, strict=True):
                place[position] = pixels
        return batch, [
            _prepared(*each) for each in zip(images, readable, (prepare[u] for u in batch.users), strict=True)
        ]

    waiting: deque[Future[tuple[Batch, list[Read]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="histomix-tiles") as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(read, batch))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Reached early when a tile or the encoder failed, or on Ctrl-C: the threads end after the tile in hand.
            stop.set()
            for future in waiting:
                future.cancel()


def _prepared(images: np.ndarray, readable: np.ndarray, prepare: Callable[[np.ndarray], Any] | None) -> Read:
    images = images if readable.all() else images[readable]
    return Read(images, readable, prepare(images) if prepare is not None and len(images) else None)


#: Larger batches are no faster: a CPU is busy from 16 on, a GPU from 256 on.
LARGEST = {"cpu": 64, "cuda": 256}
# Memory of a batch inside a model, as a multiple of its normalised images. The widest networks in use (ViT-g/14, the
# first maps of a small one) need about 40.
_ACTIVATIONS = 64
_FRACTION_OF_FREE = 0.25
_UNKNOWN = 16


def find_batch_size(encoders: Sequence[Encoder], free_bytes: int | None = None) -> int:
    """The number of tiles that the encoders can encode at once: a power of two, bounded whatever memory there is.

    It changes speed and memory; values agree between batch sizes up to the rounding of float32 sums.

    Parameters
    ----------
    encoders
        The encoders that get each batch, one after the other.
    free_bytes
        Memory that is free; None asks the device.
    """
    device = "cuda" if any(_device(encoder) == "cuda" for encoder in encoders) else "cpu"
    free = _free_bytes(device) if free_bytes is None else free_bytes
    if free is None:
        return _UNKNOWN
    one_tile = max(encoder.tile_spec().size_px ** 2 for encoder in encoders) * 3 * 4 * _ACTIVATIONS
    affordable = max(1, int(free * _FRACTION_OF_FREE) // one_tile)
    return 1 << (min(affordable, LARGEST[device]).bit_length() - 1)


def reader_threads() -> int:
    """Threads that read ahead of the model: two keep a CPU model fed, and a GPU beside many cores needs more."""
    return max(2, min(8, (os.cpu_count() or 2) // 2))


def _device(encoder: Encoder) -> str:
    return str(getattr(encoder, "device", "cpu")).partition(":")[0]


def _free_bytes(device: str) -> int | None:
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return available_memory()
