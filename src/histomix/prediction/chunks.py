"""Features of a slide on disk: band by band, each whole or absent, then joined into one file."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..embedding import embed_tiles_together, encoder_facts, encoder_identity, require_same_encoder
from ..embedding.storage import Shards
from ..errors import InputError, ScaleWarning, SlideError, StorageError
from ..progress import Progress, silent
from ..provenance import atomic_path, digest_file, digest_json, read_json, write_json
from ..slides import Slide, open_slide
from ..slides.files import slide_digest
from .job import SlideJob
from .plan import Chunk, Plan
from .status import known_state

if TYPE_CHECKING:
    from ..encoders import Encoder
    from ..heads import Head

DTYPE = np.dtype("float32")
#: Tiles of a stretch inside a band that survives an interruption on its own; also the block that batches are cut from.
SHARD = 256
FEATURES, FACTS = "features.npy", "features.json"


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
        found = encoder_identity({"encoder": encoder_facts(encoder), "tile": encoder.tile_spec().to_dict()})
        expected = encoder_identity({"encoder": entry, "tile": entry})
        require_same_encoder(expected, found, f"the encoder {entry['name']}", "that the head was trained on")


def check_slide(job: SlideJob, planned: Mapping[str, Any]) -> None:
    """Refuse a slide that is no longer the one that was planned.

    Raises
    ------
    SlideError
        Its content has changed since.
    """
    if slide_digest(job.path, known_state(job, planned))["digest"] != planned["digest"]:
        raise SlideError(
            "was replaced or changed while it was being read",
            where=job.path,
            hint="Run the same command again, when the slide is whole; what was read of the old one is not used",
        )


def embed_chunk(
    job: SlideJob,
    chunk: Chunk,
    head: Head,
    encoders: Sequence[Encoder],
    *,
    batch_size: int,
    plan: Plan | None = None,
    slide: Slide | None = None,
    progress: Progress = silent,
) -> bool:
    """Embed the tiles of one band and store their features in the slide's work folder.

    A band that is stored already is left as it is, and a band that was interrupted goes on at its last finished
    stretch. Any number of processes may embed bands of one slide: each file appears whole, and the same tiles give
    the same bytes, since batches are cut from fixed blocks.

    Parameters
    ----------
    job
        The slide; its plan is read from its work folder unless ``plan`` is given.
    chunk
        One of the plan's bands.
    head, encoders
        The head, and its encoders in the order of its card.
    batch_size
        Tiles encoded at once.
    slide
        The slide, where it is open already.
    progress
        Told how many of all the slide's tiles are done.

    Returns
    -------
    bool
        Whether anything had to be embedded.

    Raises
    ------
    SlideError
        The slide cannot be opened, or is not the planned one any more.
    FeatureError
        An encoder is not the one that the head was trained on.
    StorageError
        The features cannot be written; what was finished before is intact.
    """
    plan = load_plan(job) if plan is None else plan
    key = features_key(plan, head)
    store, n = Shards(job.work / "chunks", key), chunk.stop - chunk.start
    if _joined(job.work, key) or store.load(chunk.number, (n, width_of(head)), DTYPE) is not None:
        progress(f"predict {job.name}", chunk.stop, len(plan))
        return False
    check_encoders(head, encoders)
    planned = plan.facts["state"]
    check_slide(job, planned)
    stretch = job.work / "chunks" / f"{chunk.number}.parts"
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # Said once in words when the slide is planned, instead of once per tile by the reading threads.
        warnings.simplefilter("ignore", ScaleWarning)
        opened = stack.enter_context(open_slide(job.path, job.mpp)) if slide is None else slide
        found = embed_tiles_together(
            opened,
            plan.table(chunk),
            encoders,
            shard_dirs=[stretch / str(number) for number in range(len(encoders))],
            on_error="mark",
            dtype=str(DTYPE),
            batch_size=batch_size,
            shard_size=SHARD,
            progress=lambda _task, done, _total: progress(f"predict {job.name}", chunk.start + done, len(plan)),
            task=f"predict {job.name}",
        )
    check_slide(job, planned)
    store.save(chunk.number, np.concatenate([values for values, _ in found], axis=1))
    shutil.rmtree(stretch, ignore_errors=True)
    return True


def load_plan(job: SlideJob) -> Plan:
    """The plan in a slide's work folder.

    Raises
    ------
    InputError
        There is none.
    """
    plan = Plan.load(job.work)
    if plan is None:
        raise InputError("the slide has not been planned", where=job.work, hint="Run the same command again")
    return plan


def join_chunks(job: SlideJob, plan: Plan, head: Head) -> Path:
    """Join the features of all bands into ``features.npy`` of the work folder; returns that file.

    Raises
    ------
    StorageError
        A band is missing, or the file cannot be written.
    """
    key, path = features_key(plan, head), job.work / FEATURES
    if _joined(job.work, key):
        return path
    store, width = Shards(job.work / "chunks", key), width_of(head)
    with atomic_path(path) as temporary:
        joined = disk_array(temporary, (len(plan), width), DTYPE)
        for chunk in plan.chunks:
            values = store.load(chunk.number, (chunk.stop - chunk.start, width), DTYPE)
            if values is None:
                raise StorageError(
                    f"the features of band {chunk.number} are missing or damaged",
                    where=store.folder,
                    hint="Run the same command again: only that band is embedded anew",
                )
            joined[chunk.start : chunk.stop] = values
            release(joined)
        del joined
    write_json(job.work / FACTS, {"key": key, "digest": digest_file(path)})
    shutil.rmtree(job.work / "chunks", ignore_errors=True)
    return path


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
