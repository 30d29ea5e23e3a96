"""Tiles of one slide through encoders: reading overlaps encoding, finished shards survive an interruption."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EncoderError, FeatureError
from ..progress import Progress, silent
from ..slides import Slide, TileSpec, read_tile
from ..slides.files import content_digest
from ..slides.tiles import read_tiles, reading_order
from ..spots.alignment.extent import outside
from .identity import encoder_facts, features_identity
from .reading import Batch, OnError, Read, find_batch_size, read_ahead, reader_threads
from .storage import Shards

if TYPE_CHECKING:
    import pandas as pd

    from ..encoders import Encoder

DTYPES = ("float16", "float32")
_FLOAT16_MAX = float(np.finfo(np.float16).max)


def embed_tiles(
    slide: Slide,
    tiles: pd.DataFrame,
    encoder: Encoder,
    *,
    shard_dir: str | os.PathLike[str] | None = None,
    on_error: OnError = "raise",
    dtype: str = "float16",
    batch_size: int | None = None,
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
        ``"raise"``: a tile that cannot be decoded is an error. ``"mark"``: its row is NaN and its ``read_ok`` False, as
        they are with either for a tile whose centre lies off the slide.
    dtype
        ``"float16"`` or ``"float32"``.
    batch_size
        Tiles encoded at once; None finds it from the free memory (see `histomix.embedding.reading`).
    shard_size
        Tiles in one shard.
    progress, task
        Told how many tiles of all are done, after every batch.

    Returns
    -------
    X
        (n, dim) in the order of ``tiles``.
    read_ok
        (n,) bool; with ``on_error="raise"`` True for all tiles on the slide.

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
    shard_dirs = None if shard_dir is None else [shard_dir]
    return embed_tiles_together(
        slide,
        tiles,
        [encoder],
        shard_dirs=shard_dirs,
        on_error=on_error,
        dtype=dtype,
        batch_size=batch_size,
        shard_size=shard_size,
        progress=progress,
        task=task,
    )[0]


def embed_tiles_together(
    slide: Slide,
    tiles: pd.DataFrame,
    encoders: Sequence[Encoder],
    *,
    shard_dirs: Sequence[str | os.PathLike[str] | None] | None = None,
    on_error: OnError = "raise",
    dtype: str = "float16",
    batch_size: int | None = None,
    shard_size: int = 256,
    progress: Progress = silent,
    task: str = "embed",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Embed tiles of one slide with several encoders in one pass: each place is read once, at every encoder's scale.

    Parameters
    ----------
    slide, tiles, on_error, dtype, batch_size, shard_size, progress, task
        As for `embed_tiles`.
    encoders
        The encoders; each sees its own tile around every place.
    shard_dirs
        A folder for the shards of each encoder, or None for one without.

    Returns
    -------
    (X, read_ok) of each encoder, as `embed_tiles` gives them. Raises as `embed_tiles`.
    """
    check_dtype(dtype)
    check_batch_size(batch_size)
    if not encoders:
        return []
    xy_px = tiles[["x_px", "y_px"]].to_numpy(dtype=float)
    off_slide = outside(xy_px, (slide.width_px, slide.height_px))
    widest_um = max(encoder.tile_spec().size_um for encoder in encoders)
    order = reading_order(slide, xy_px, widest_um)
    folders = [None] * len(encoders) if shard_dirs is None else list(shard_dirs)
    outputs = [
        _Output.start(slide, tiles.index, xy_px, encoder, dtype, folder, f"{shard_size}/{widest_um!r}")
        for encoder, folder in zip(encoders, folders, strict=True)
    ]
    size = batch_size or find_batch_size(encoders)
    done, batches = 0, []
    for number, start in enumerate(range(0, len(tiles), shard_size)):
        rows = order[start : start + shard_size]
        users = [use for use, output in enumerate(outputs) if not output.restore(number, rows, off_slide, on_error)]
        if not users:
            done += len(rows)
            continue
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            batches.append(Batch(some, tuple(users), number, rows if first + size >= len(rows) else None))
    progress(task, done, len(tiles))
    specs = [output.spec for output in outputs]
    prepare = [getattr(output.encoder, "prepare", None) for output in outputs]

    def read_place(x_px: float, y_px: float, users: Sequence[int]) -> list[np.ndarray]:
        if len(users) == 1:
            return [read_tile(slide, x_px, y_px, specs[users[0]])]
        return read_tiles(slide, x_px, y_px, [specs[use] for use in users])

    names = [str(key) for key in tiles.index]
    reading = read_ahead(
        slide.path, names, xy_px, off_slide, specs, batches, read_place, prepare, on_error, reader_threads()
    )
    with contextlib.closing(reading):
        for batch, reads in reading:
            for use, read in zip(batch.users, reads, strict=True):
                outputs[use].put(batch, read)
            done += len(batch.rows)
            progress(task, done, len(tiles))
    # An encoder never gives NaN (see `_encode`), so a row of NaN marks a tile that could not be read, in shards too.
    return [(output.X, np.logical_not(np.isnan(output.X[:, 0]))) for output in outputs]


@dataclass
class _Output:
    """What one encoder gives for all tiles."""

    encoder: Encoder
    spec: TileSpec
    X: np.ndarray
    shards: Shards | None = field(default=None)

    @classmethod
    def start(
        cls,
        slide: Slide,
        keys: pd.Index,
        xy_px: np.ndarray,
        encoder: Encoder,
        dtype: str,
        folder: str | os.PathLike[str] | None,
        layout: str,
    ) -> _Output:
        output = cls(encoder, encoder.tile_spec(), np.empty((len(keys), encoder.dim), dtype=dtype))
        if folder is not None:
            facts = encoder_facts(encoder)
            identity = features_identity(slide.path, slide.mpp, keys, xy_px, output.spec, facts, dtype)
            output.shards = Shards(Path(folder), f"{identity}/{content_digest(slide.path)}/{layout}")
        return output

    def restore(self, number: int, rows: np.ndarray, off_slide: np.ndarray, on_error: OnError) -> bool:
        """Take a shard that an earlier run finished; False where there is none, or it marks what must be an error."""
        shape = (len(rows), self.X.shape[1])
        known = self.shards.load(number, shape, self.X.dtype) if self.shards else None
        if known is None or (on_error == "raise" and np.isnan(known[~off_slide[rows], 0]).any()):
            return False
        self.X[rows] = known
        return True

    def put(self, batch: Batch, read: Read) -> None:
        """Encode one batch, and store the shard that it completes."""
        self.X[batch.rows] = _encode(self.encoder, read, str(self.X.dtype))
        if self.shards and batch.completes is not None:
            self.shards.save(batch.shard, self.X[batch.completes])


def check_dtype(dtype: str) -> None:
    """Refuse a dtype in which features are not stored.

    Raises
    ------
    FeatureError
        It is neither float16 nor float32.
    """
    if dtype not in DTYPES:
        raise FeatureError(f"features cannot be stored as {dtype!r}", hint=f"Choose one of {', '.join(DTYPES)}")


def check_batch_size(batch_size: int | None) -> None:
    """Refuse a batch without tiles (FeatureError)."""
    if batch_size is not None and batch_size < 1:
        raise FeatureError(f"a batch of {batch_size} tiles cannot be encoded", hint="Choose a batch size of 1 or more")


def _encode(encoder: Encoder, read: Read, dtype: str) -> np.ndarray:
    """Embed one batch, (n, dim) of ``dtype``; rows of unreadable tiles are NaN."""
    values = np.full((len(read.readable), encoder.dim), np.nan, dtype=dtype)
    count = int(read.readable.sum())
    if count == 0:
        return values
    encode: Any = encoder.embed if read.prepared is None else getattr(encoder, "encode", None)
    embeddings = np.asarray(encode(read.images if read.prepared is None else read.prepared), dtype=np.float32)
    name = f"the encoder {encoder.card.name}"
    if embeddings.shape != (count, encoder.dim):
        raise EncoderError(
            f"{name} gave an array of shape {embeddings.shape} for {count} tiles, not {(count, encoder.dim)}",
            hint="Check that its card and its weights belong together",
        )
    if not np.isfinite(embeddings).all():
        raise EncoderError(f"{name} gave values that are not finite", hint="Check its weights with: histomix doctor")
    largest = float(np.abs(embeddings).max())
    if dtype == "float16" and largest > _FLOAT16_MAX:
        raise FeatureError(
            f"{name} gives values up to {largest:.4g}, beyond the range of float16 ({_FLOAT16_MAX:.0f})",
            hint="Embed with dtype float32 (--dtype float32)",
        )
    values[read.readable] = embeddings
    return values
