"""Shards of unfinished work."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..provenance import atomic_path, digest_bytes, read_json


class Shards:
    """Finished stretches of one array, kept in a folder until the whole array is written.

    A shard ``<n>.npy`` counts only with its key ``<n>.json`` of the same identity and the digest of its bytes, so
    a truncated, damaged or foreign shard is as good as absent.

    Parameters
    ----------
    folder
        Where the shards are.
    identity
        Digest of everything that the values depend on.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity

    def load(self, number: int, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray | None:
        """Values of shard ``number``, or None when it must be computed (again)."""
        path = self.folder / f"{number}.npy"
        try:
            data = path.read_bytes()
            if read_json(path.with_suffix(".json")) != {"identity": self.identity, "digest": digest_bytes(data)}:
                return None
            values = np.load(io.BytesIO(data), allow_pickle=False)
        except (OSError, ValueError, EOFError, InputError):
            return None
        return values if values.shape == shape and values.dtype == dtype else None

    def save(self, number: int, values: np.ndarray) -> None:
        """Write shard ``number``.

        Raises
        ------
        StorageError
            It could not be written; the shards before it are intact.
        """
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        data = buffer.getvalue()
        path = self.folder / f"{number}.npy"
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        with atomic_path(path.with_suffix(".json")) as temporary:
            key = {"identity": self.identity, "digest": digest_bytes(data)}
            temporary.write_text(json.dumps(key), encoding="utf-8", newline="\n")


def remove_shards(folder: Path) -> None:
    """Remove the shards of one finished array, and the folder around them when it is empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
