"""Writing that is whole or absent, shards of unfinished work, and one writer per folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import FeatureError, InputError, StorageError
from ..provenance import atomic_path, digest_bytes, read_json


class FolderBusyError(FeatureError):
    """Another process writes to the folder."""


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
            temporary.write_text(json.dumps({"identity": self.identity, "digest": digest_bytes(data)}))


@contextlib.contextmanager
def folder_lock(folder: Path, content: str = "features") -> Iterator[None]:
    """Be the only process that writes ``content`` to ``folder``.

    The lock is a file that names the process and its computer. A lock whose process no longer runs on this computer
    is taken over, and what it left half-written is removed; one of another computer is respected, since nothing can be
    known about it.

    Raises
    ------
    FolderBusyError
        Another process is writing to the folder.
    StorageError
        The folder cannot be made or written.
    """
    path = folder / ".lock"
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _create(path, mine):
            _remove_stale(path, content)
            if not _create(path, mine):
                raise _busy(path, content)
    except OSError as error:
        mend = "Check the folder's permissions and space, or choose another --out"
        raise StorageError(f"cannot write ({error.strerror or error})", where=folder, mend=mend) from error
    try:
        _remove_leftovers(folder)
        yield
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path, owner: dict) -> bool:
    try:
        stream = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    with stream:
        json.dump(owner, stream)
    return True


def _remove_stale(path: Path, content: str) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        owner = json.loads(text)
        stale = owner["host"] == socket.gethostname() and not _runs(int(owner["pid"]), owner["started"])
    except FileNotFoundError:
        return  # its process has just finished
    except (ValueError, KeyError, TypeError) as error:
        raise _busy(path, content) from error
    if not stale:
        raise _busy(path, content)
    aside = path.with_name(f".lock-stale-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if aside.read_text(encoding="utf-8") != text:  # another process took the stale lock over in between
            aside.rename(path)
            raise _busy(path, content)
        aside.unlink()


def _busy(path: Path, content: str) -> FolderBusyError:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return FolderBusyError(
        f"{who} is writing {content} to this folder",
        where=path.parent,
        mend=f"Wait for it, or choose another --out; if no such process runs any more, remove {path}",
    )


def _runs(pid: int, started: str | None) -> bool:
    """Whether the process that wrote a lock still runs; a later process of the same number is told by its start."""
    if os.name == "nt":  # os.kill would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return _started(pid) == started


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot (field 22 of Linux's ``/proc/<pid>/stat``); None elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _remove_leftovers(folder: Path) -> None:
    for place in (folder, folder / "previews", *(folder / ".shards").glob("*/")):
        for partial in place.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)


def remove_shards(folder: Path) -> None:
    """Remove the shards of one finished array, and the folder around them when it is empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
