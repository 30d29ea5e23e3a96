"""Features of a slide on disk: band by band, each whole or absent, then joined into one file."""

from __future__ import annotations

import mmap
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..embedding import embed_tiles_together, encoder_facts, encoder_identity, require_same_encoder
from ..embedding.storage import Shards
from ..errors import InputError, ScaleWarning, StorageError
from ..progress import Progress, silent
from ..provenance import atomic_path, digest_file, digest_json, read_json, write_json
from ..slides import Slide
from ..slides.focus import COARSEST_UM
from .focus import Focused, split_sharpness
from .job import Settings, SlideJob
from .plan import Chunk, Plan

if TYPE_CHECKING:
    from ..encoders import Encoder
    from ..heads import Head

DTYPE = np.dtype("float32")
#: Tiles of a stretch inside a band that survives an interruption on its own; also the block that batches are cut from.
SHARD = 256
FEATURES, FACTS = "features.npy", "features.json"
#: Sharpness of the tiles beside their features; features of an earlier version have none.
SHARPNESS = "sharpness.npy"


def features_key(plan: Plan, head: Head) -> str:
    """Digest of all that the features of a slide depend on: its content and scale, the tiles, and the encoders."""
    names = ("digest", "dim", "views", "size_px", "mpp", "precision")
    encoders = [{name: encoder.get(name) for name in names} for encoder in head.card["encoders"]]
    return digest_json({"plan": plan.identity(), "encoders": encoders, "dtype": str(DTYPE)})


def width_of(head: Head) -> int:
    """How many numbers a head's encoders give for a tile."""
    return sum(int(encoder["dim"]) for encoder in head.card["encoders"])


def check_encoders(head: Head, encoders: Sequence[Encoder]) -> None:
    """Refuse encoders, or tiles of them, that the head was not trained on, before anything is read.

    Raises
    ------
    FeatureError
        They differ; the message names every field that does.
    """
    for entry, encoder in zip(head.card["encoders"], encoders, strict=True):
        actual = encoder_identity({"encoder": encoder_facts(encoder), "tile": encoder.tile_spec().to_dict()})
        expected = encoder_identity({"encoder": entry, "tile": entry})
        by = "that the head was trained on"
        require_same_encoder(expected, actual, f"the encoder {entry['name']}", by, believe_stated=True)


def embed_chunk(
    slide: Slide,
    plan: Plan,
    chunk: Chunk,
    encoders: Sequence[Encoder],
    *,
    batch_size: int,
    name: str,
    parts: Path | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Features of the tiles of one band, those of several encoders side by side, and the sharpness of each tile.

    The same tiles give the same bytes, whoever embeds them: batches are cut from fixed blocks.

    Parameters
    ----------
    slide
        The open slide.
    plan, chunk
        The slide's tiles, and the band of them.
    encoders
        The encoders in the order of the head's card.
    batch_size
        Tiles encoded at once.
    name
        What ``progress`` is told of the slide.
    parts
        Folder of the stretches that are finished, from which an interrupted band goes on; None: in memory alone.
    progress
        Told how many of all the slide's tiles are done.

    Returns
    -------
    float32 (tiles, features + 1); the last column is the sharpness (`histomix.slides.focus`), NaN where it is not
    known.

    Raises
    ------
    StorageError
        A stretch cannot be written; what was finished before is intact.
    """
    task = f"predict {name}"
    # Pixels that are interpolated are blurred, whatever the scanner's focus.
    first: Encoder = Focused(encoders[0]) if slide.mpp <= COARSEST_UM else encoders[0]
    with warnings.catch_warnings():
        # Said once in words when the slide is planned, instead of once per tile by the reading threads.
        warnings.simplefilter("ignore", ScaleWarning)
        embeddings = embed_tiles_together(
            slide,
            plan.table(chunk),
            [first, *encoders[1:]],
            shard_dirs=None if parts is None else [parts / str(number) for number in range(len(encoders))],
            on_error="mark",
            dtype=str(DTYPE),
            batch_size=batch_size,
            shard_size=SHARD,
            progress=lambda _task, done, _total: progress(task, chunk.start + done, len(plan)),
            task=task,
        )
    features = [values for values, _ in embeddings]
    sharp = np.full(len(features[0]), np.nan, np.float32)
    if first is not encoders[0]:
        features[0], sharp = split_sharpness(features[0])
    return np.concatenate([*features, sharp[:, None]], axis=1)


class ChunkFeatures:
    """The features of a slide's bands in its work folder, each whole or absent, then joined into one file.

    Any number of processes may store bands of one slide: each file appears whole.

    Parameters
    ----------
    work
        The work folder.
    plan, head
        The slide's tiles, and the head whose encoders are asked.
    """

    def __init__(self, work: Path, plan: Plan, head: Head) -> None:
        self.work, self.plan = work, plan
        self.key, self.width = features_key(plan, head), width_of(head)
        self._store = Shards(work / "chunks", f"{self.key}+sharpness")

    @property
    def joined(self) -> bool:
        """Whether the features of all bands are in one file already."""
        return _joined(self.work, self.key)

    def put(self, values: np.ndarray) -> None:
        """Store the features of all tiles at once, float32 (tiles, features), whose sharpness is not known.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        sharp = np.full(len(self.plan), np.nan, DTYPE)
        for name, array in ((SHARPNESS, sharp), (FEATURES, values.astype(DTYPE, copy=False))):
            with atomic_path(self.work / name) as temporary, temporary.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
        write_json(self.work / FACTS, {"key": self.key, "digest": digest_file(self.work / FEATURES)})

    def __contains__(self, chunk: Chunk) -> bool:
        return self.joined or self._load(chunk) is not None

    def parts(self, chunk: Chunk) -> Path:
        """Folder of the finished stretches of a band."""
        return self.work / "chunks" / f"{chunk.number}.parts"

    def save(self, chunk: Chunk, values: np.ndarray) -> None:
        """Store a band; its stretches are removed.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        self._store.save(chunk.number, values)
        shutil.rmtree(self.parts(chunk), ignore_errors=True)

    def join(self) -> Path:
        """Join all bands into ``features.npy`` and ``sharpness.npy`` of the work folder; returns the first.

        Raises
        ------
        StorageError
            A band is missing, or the file cannot be written.
        """
        path = self.work / FEATURES
        if self.joined:
            return path
        with atomic_path(path) as temporary:
            joined = disk_array(temporary, (len(self.plan), self.width), DTYPE)
            sharp = np.empty(len(self.plan), DTYPE)
            for chunk in self.plan.chunks:
                values = self._load(chunk)
                if values is None:
                    raise StorageError(
                        f"the features of band {chunk.number} are missing or damaged",
                        where=self._store.folder,
                        hint="Run the same command again: only that band is embedded anew",
                    )
                joined[chunk.start : chunk.stop] = values[:, :-1]
                sharp[chunk.start : chunk.stop] = values[:, -1]
                release(joined)
            del joined
        with atomic_path(self.work / SHARPNESS) as temporary, temporary.open("wb") as stream:
            np.save(stream, sharp, allow_pickle=False)
        write_json(self.work / FACTS, {"key": self.key, "digest": digest_file(path)})
        shutil.rmtree(self.work / "chunks", ignore_errors=True)
        return path

    def _load(self, chunk: Chunk) -> np.ndarray | None:
        return self._store.load(chunk.number, (chunk.stop - chunk.start, self.width + 1), DTYPE)


def sharpness_beside(features: Path, count: int) -> np.ndarray | None:
    """Sharpness of the tiles, float32 (n,), that lies beside their features; None where there is none."""
    try:
        sharp = np.load(features.parent / SHARPNESS, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return sharp if sharp.shape == (count,) and sharp.dtype == DTYPE else None


def kept_folders(job: SlideJob, settings: Settings) -> list[Path]:
    """Where an earlier run may have kept features of a slide."""
    others = [] if settings.reuse is None else [Path(settings.reuse) / job.folder.name / "features"]
    return [job.folder / "features", *others]


def kept_features(folders: Sequence[Path], key: str) -> Path | None:
    """The first whole ``features.npy`` of a key in some folders."""
    for folder in folders:
        if _joined(folder, key) and read_json(folder / FACTS).get("digest") == digest_file(folder / FEATURES):
            return folder / FEATURES
    return None


def _joined(folder: Path, key: str) -> bool:
    try:
        return (folder / FEATURES).is_file() and read_json(folder / FACTS).get("key") == key
    except InputError:
        return False


def disk_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array on disk whose room is there before it is written: a full disk is an error here, not a crash later.

    Raises
    ------
    OSError
        There is no room.
    """
    path.unlink(missing_ok=True)  # a link that others put here would be followed
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def release(array: np.ndarray) -> None:
    """Let go of the pages of an array on disk that this process has touched: they stay in the file."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
