"""Tiles of one slide through an encoder: reading overlaps encoding, finished shards survive an interruption."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import EncoderError, FeatureError, SlideReadError
from ..progress import Progress, silent
from ..slides import Slide, TileSpec, read_tile
from .identity import encoder_facts, features_identity
from .storage import Shards

if TYPE_CHECKING:
    import pandas as pd

    from ..encoders import Encoder

DTYPES = ("float16", "float32")
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_READERS = 2
#: Batches read or being read while one is encoded. With that one and the one before it, four are alive at most.
_AHEAD = 2

OnError = Literal["raise", "mark"]


def embed_tiles(
    slide: Slide,
    tiles: pd.DataFrame,
    encoder: Encoder,
    *,
    shard_dir: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
    dtype: str = "float16",
    batch_size: int = 64,
    shard_size: int = 256,
    progress: Progress = silent,
    task: str = "embed",
) -> tuple[np.ndarray, np.ndarray]:
    """Embed tiles of one slide.

    Parameters
    ----------
    slide
        An open slide.
    tiles
        Tile table: index = key, ``x_px`` and ``y_px`` = centre in level-0 px.
    encoder
        Any object that fulfils `histomix.encoders.Encoder`; it says which tile it sees.
    shard_dir
        Folder for finished shards. A second call with the same slide, tiles and encoder goes on where the first
        stopped; shards of anything else are ignored. The caller removes the folder when the result is safe.
    on_error
        ``"raise"``: a tile that cannot be decoded is an error. ``"mark"``: its row is NaN and its ``read_ok`` False.
    dtype
        ``"float16"`` or ``"float32"``.
    batch_size
        Tiles encoded at once.
    shard_size
        Tiles in one shard.
    progress, task
        Told how many tiles of all are done, after every batch.

    Returns
    -------
    X
        (n, dim) in the order of ``tiles``.
    read_ok
        (n,) bool, all True unless ``on_error="mark"``.

    Raises
    ------
    SlideReadError
        A tile cannot be decoded; the message names the tile and its place.
    EncoderError
        The encoder gave values of a wrong shape, or values that are not finite.
    FeatureError
        Values exceed the range of float16.
    StorageError
        A shard cannot be written; the shards before it are intact.
    """
    check_dtype(dtype)
    spec = encoder.tile_spec()
    xy_px = tiles[["x_px", "y_px"]].to_numpy(dtype=float)
    X = np.empty((len(tiles), encoder.dim), dtype=dtype)
    shards = None
    if shard_dir is not None:
        identity = features_identity(slide.path, slide.mpp, tiles.index, xy_px, spec, encoder_facts(encoder), dtype)
        shards = Shards(Path(shard_dir), f"{identity}/{shard_size}")
    missing = []
    for start in range(0, len(tiles), shard_size):
        rows = slice(start, min(start + shard_size, len(tiles)))
        known = shards.load(start // shard_size, X[rows].shape, X.dtype) if shards else None
        if known is None or (on_error == "raise" and np.isnan(known).any()):
            missing.append(rows)
        else:
            X[rows] = known
    done = len(tiles) - sum(rows.stop - rows.start for rows in missing)
    progress(task, done, len(tiles))
    ends = {rows.stop: rows for rows in missing}
    batches = [
        slice(start, min(start + batch_size, rows.stop))
        for rows in missing
        for start in range(rows.start, rows.stop, batch_size)
    ]
    names = [str(key) for key in tiles.index]
    with contextlib.closing(_read_ahead(slide, names, xy_px, spec, batches, on_error)) as reading:
        for rows, images, readable in reading:
            X[rows] = _encode(encoder, images, readable, dtype)
            if shards and rows.stop in ends:
                shard = ends[rows.stop]
                shards.save(shard.start // shard_size, X[shard])
            done += rows.stop - rows.start
            progress(task, done, len(tiles))
    # An encoder never gives NaN (see `_encode`), so NaN marks a tile that could not be read, in shards too.
    return X, np.logical_not(np.isnan(X).any(axis=1))


def check_dtype(dtype: str) -> None:
    """Refuse a dtype in which features are not stored.

    Raises
    ------
    FeatureError
        It is neither float16 nor float32.
    """
    if dtype not in DTYPES:
        raise FeatureError(f"features cannot be stored as {dtype!r}", mend=f"Choose one of {', '.join(DTYPES)}")


def _encode(encoder: Encoder, images: np.ndarray, readable: np.ndarray, dtype: str) -> np.ndarray:
    """Embed one batch, (n, dim) of ``dtype``; rows of unreadable tiles are NaN."""
    values = np.full((len(images), encoder.dim), np.nan, dtype=dtype)
    count = int(readable.sum())
    if count == 0:
        return values
    found = np.asarray(encoder.embed(images if count == len(images) else images[readable]), dtype=np.float32)
    name = f"the encoder {encoder.card.name}"
    if found.shape != (count, encoder.dim):
        raise EncoderError(
            f"{name} gave an array of shape {found.shape} for {count} tiles, not {(count, encoder.dim)}",
            mend="Check that its card and its weights belong together",
        )
    if not np.isfinite(found).all():
        raise EncoderError(f"{name} gave values that are not finite", mend="Check its weights with: histomix doctor")
    largest = float(np.abs(found).max())
    if dtype == "float16" and largest > _FLOAT16_MAX:
        raise FeatureError(
            f"{name} gives values up to {largest:.4g}, beyond the range of float16 ({_FLOAT16_MAX:.0f})",
            mend="Embed with dtype float32 (--dtype float32)",
        )
    values[readable] = found
    return values


def _read_ahead(
    slide: Slide,
    names: Sequence[str],
    xy_px: np.ndarray,
    spec: TileSpec,
    batches: Sequence[slice],
    on_error: OnError,
) -> Generator[tuple[slice, np.ndarray, np.ndarray], None, None]:
    """Yield (rows, images, readable) of each batch in order, while threads read the next ones."""
    stop = threading.Event()

    def read(rows: slice) -> tuple[slice, np.ndarray, np.ndarray]:
        count = rows.stop - rows.start
        images = np.empty((count, spec.size_px, spec.size_px, 3), dtype=np.uint8)
        readable = np.ones(count, dtype=bool)
        for position, row in enumerate(range(rows.start, rows.stop)):
            if stop.is_set():
                break
            x_px, y_px = (float(value) for value in xy_px[row])
            try:
                images[position] = read_tile(slide, x_px, y_px, spec)
            except SlideReadError as error:
                if on_error == "raise":
                    what = f"the tile {names[row]} at x {x_px:.0f}, y {y_px:.0f} px cannot be read ({error.what})"
                    raise SlideReadError(what, where=slide.path, mend=error.mend) from error
                readable[position] = False
        return rows, images, readable

    waiting: deque[Future[tuple[slice, np.ndarray, np.ndarray]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="histomix-tiles") as pool:
        try:
            for rows in batches:
                waiting.append(pool.submit(read, rows))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Reached early when a tile or the encoder failed, or on Ctrl-C: the threads end after the tile in hand.
            stop.set()
            for future in waiting:
                future.cancel()
