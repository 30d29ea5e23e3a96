"""Finished parts of long work, kept beside its result until the whole is done: a killed run goes on from them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from ...provenance import atomic_path, digest_bytes, digest_json, versions
from ..threads import cores
from .locks import folder_lock

_log = logging.getLogger(__name__)

_SUFFIX = ".part"
#: Results of the same work by other versions of these may differ.
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "torch-geometric")


@dataclass
class UnfinishedWork:
    """Parts by what they were made from: one that was made from anything else is never found.

    Parameters
    ----------
    folder
        Where they are, one file each.
    recalled
        How many were there already.
    """

    folder: Path
    recalled: int = 0
    computer: dict[str, Any] = field(default_factory=lambda: _computer())

    def key(self, **made_from: Any) -> str:
        """Name of a part: the digest of what it is made from, of the versions at work and of the number of threads."""
        return digest_json([made_from, self.computer]).removeprefix("sha256:")[:40]

    def recall(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and facts of a part; None where it is not there, or is not the one that was written."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        digest, _, body = data.partition(b"\n")
        if digest_bytes(body).encode() != digest:
            return None
        head, _, body = body.partition(b"\n")
        try:
            facts = json.loads(head)
            # Copies, since arrays on a file's bytes are read-only.
            arrays = {name: array.copy() for name, array in load(body).items()}
        except (SafetensorError, KeyError, ValueError):
            return None
        self.recalled += 1
        for name in facts["by columns"]:
            arrays[name] = np.asfortranarray(arrays[name])
        return arrays, facts["facts"]

    def keep(self, key: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Keep a part; ``facts`` are JSON.

        Raises
        ------
        StorageError
            The disk is full, or the folder cannot be written.
        """
        from safetensors.numpy import save

        # Sums differ in the last bit with the order in memory.
        by_columns = sorted(name for name, array in arrays.items() if array.flags.fnc)
        head = json.dumps({"by columns": by_columns, "facts": facts}).encode()
        body = head + b"\n" + save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        with atomic_path(self._path(key)) as path:
            path.write_bytes(digest_bytes(body).encode() + b"\n" + body)

    def forget(self, group: str = "") -> None:
        """Remove all parts, or those whose key begins with ``group``."""
        for path in self.folder.glob(f"{group}*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


_CURRENT: ContextVar[UnfinishedWork | None] = ContextVar("unfinished_work", default=None)


def current_work() -> UnfinishedWork | None:
    """The work that is going on in this thread and keeps its finished parts; None where it keeps none."""
    return _CURRENT.get()


def say_recalled(work: UnfinishedWork | None, what: str) -> None:
    """Tell how much was there already."""
    if work is not None and work.recalled:
        _log.info("%d %s kept from a run that was stopped", work.recalled, what)


@contextlib.contextmanager
def unfinished_work(out: str | os.PathLike[str] | None, content: str) -> Iterator[UnfinishedWork | None]:
    """Keep finished parts of the work in the block, in the hidden folder ``.<name>.unfinished`` beside ``out``.

    The folder goes when the block ends well. A run that is killed, interrupted or out of space leaves it, and the
    same work goes on from it.

    Parameters
    ----------
    out
        What the work writes; None to keep nothing.
    content
        What is written, for the message of who comes while another process is at it.

    Raises
    ------
    FolderBusyError
        Another process does this work.
    StorageError
        The folder cannot be made or written.
    """
    if out is None:
        yield None
        return
    target = Path(out).absolute()
    folder = target.with_name(f".{target.name}.unfinished")
    try:
        with folder_lock(folder, content):
            work = UnfinishedWork(folder)
            before = _CURRENT.set(work)
            try:
                yield work
            finally:
                _CURRENT.reset(before)
            work.forget()
    finally:
        with contextlib.suppress(OSError):  # parts are in it, or another process
            folder.rmdir()


def digest_array(values: Any) -> str | None:
    """SHA-256 of the kind, the shape and the values of an array."""
    if values is None:
        return None
    array = np.ascontiguousarray(values)
    if array.dtype.kind in "OUS":
        return digest_json(array.tolist())
    digest = hashlib.sha256(repr((array.dtype.str, array.shape)).encode())
    digest.update(memoryview(array).cast("B") if array.size else b"")
    return digest.hexdigest()


def _computer() -> dict[str, Any]:
    """What decides the last bits of a result, beside what it is made from."""
    libraries = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {
        "versions": versions(*_LIBRARIES),
        "architecture": sorted({str(pool.get("architecture")) for pool in libraries}),
        "threads": [
            max((pool["num_threads"] for pool in libraries), default=1),
            cores(),
            *(os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")),
        ],
    }
