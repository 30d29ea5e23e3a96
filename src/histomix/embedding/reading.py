"""Batches of tiles, read and prepared by threads ahead of the model."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import SlideReadError
from ..slides import TileSpec

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
            x_px, y_px = (float(value) for value in xy_px[row])
            try:
                found = read_place(x_px, y_px, batch.users)
            except SlideReadError as error:
                if on_error == "raise":
                    what = f"the tile {names[row]} at x {x_px:.0f}, y {y_px:.0f} px cannot be read ({error.what})"
                    raise SlideReadError(what, where=path, mend=error.mend) from error
                # A smaller tile may be readable where a larger one is not.
                for number, user in enumerate(batch.users):
                    try:
                        images[number][position] = read_place(x_px, y_px, [user])[0]
                    except SlideReadError:
                        readable[number, position] = False
                continue
            for place, pixels in zip(images, found, strict=True):
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
