"""Locks that end with their process, however the process ends, on every system that `filelock` knows."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from filelock import SoftFileLock, Timeout, lock_descriptor, unlock_descriptor

from ...errors import FeatureError, StorageError
from ...provenance import remove_abandoned, require_folder

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5
# What a file system answers that has no locks: Lustre mounted without them, NFS without its lock service, some of FUSE.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
# Parts of files that a killed process leaves in a folder, see `histomix.provenance.atomic_path`.
_LEFTOVERS = (".partial-*", ".shards/*/.partial-*")


class FolderBusyError(FeatureError):
    """Another process writes to the folder."""


class Lock:
    """A lock file that one at a time may hold; the file goes when it is left.

    The lock is the kernel's (``flock``, on Windows ``LockFileEx``), not the file's existence: what a killed process
    held is free at once, and a file that it or a full disk left behind shuts nobody out. NFS 4, Lustre, GPFS and SMB
    pass such locks on to all computers. Where a file system has none, the existence of ``<path>.held`` is the lock
    instead: that of a process which was killed on this computer is taken over, and that of another computer must be
    removed by hand.

    Use it as a context manager, which waits, or with `acquire` and `release`. Threads exclude each other as processes
    do, each with a `Lock` of its own.

    Parameters
    ----------
    path
        The lock file; made where it is absent. It says who has the lock.
    soft
        What happens where the file system has no locks: the existence of a file is one, or (False) all goes on without,
        for work that may be done twice but must not wait for a computer that is gone.
    """

    def __init__(self, path: Path, *, soft: bool = True) -> None:
        self.path = path
        self.soft = soft
        self._file = -1
        self._locked = False
        self._soft: SoftFileLock | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, wait: bool = True) -> bool:
        """Have the lock; False, where it is not waited for, if somebody else has it.

        Raises
        ------
        StorageError
            The lock file cannot be made.
        """
        pauses = _pauses()
        try:
            while not self._try():
                if not wait:
                    return False
                time.sleep(next(pauses))
        except OSError as error:
            raise StorageError(
                f"cannot be locked ({error.strerror or error})",
                where=self.path,
                hint="Check the folder's permissions and space, or choose another one",
            ) from error
        return True

    def release(self) -> None:
        """Let it go, and remove the file."""
        with contextlib.suppress(OSError):
            # While it is held: whoever has opened this very file and waits for it then sees that it is gone.
            self.path.unlink()
        try:
            if self._soft is not None:
                self._soft.release()
            elif self._locked:
                unlock_descriptor(self._file)
        finally:
            os.close(self._file)
            self._file, self._soft, self._locked = -1, None, False
        if os.name == "nt":
            # An open file cannot be removed there: ours has just been closed, and another's stays.
            with contextlib.suppress(OSError):
                self.path.unlink()

    def owner(self) -> str | None:
        """``"process 12 on node3"``, as the holder wrote it; None where that is not known."""
        try:
            with open(self.path, "rb", buffering=0) as stream:
                stream.seek(1)  # Windows locks the first byte against readers
                note = json.loads(stream.read())
            return f"process {note['pid']} on {note['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _try(self) -> bool:
        while True:
            file = self._open()
            try:
                held = self._lock(file)
                # Its holder may have removed the file between our opening and our locking it.
                current = held and (not self._locked or self._is_current(file))
            except BaseException:
                os.close(file)
                raise
            if current:
                self._file = file
                self._write_note()
                return True
            os.close(file)
            if not held:
                return False

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = getattr(os, "O_NOFOLLOW", 0)  # a link here could have any other file overwritten
        try:
            return os.open(self.path, flags | os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            # The file of another user in a shared folder.
            return os.open(self.path, flags | os.O_RDONLY)

    def _lock(self, file: int) -> bool:
        self._locked = False
        try:
            self._locked = lock_descriptor(file, blocking=False)
            return self._locked
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        if not self.soft:
            return True
        soft = SoftFileLock(self.path.with_name(f"{self.path.name}.held"), thread_local=False)
        try:
            soft.acquire(blocking=False)
        except Timeout:
            return False
        self._soft = soft
        return True

    def _is_current(self, file: int) -> bool:
        if os.name == "nt":  # an open file is not removed there
            return True
        with contextlib.suppress(OSError):
            return os.path.samestat(self.path.stat(), os.fstat(file))
        return False

    def _write_note(self) -> None:
        note = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        # It only names the holder to others: a full disk or another user's file is no reason to stop here.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.write(self._file, f" {note}\n".encode())


class SharedLock:
    """A lock that many may share or one may have alone.

    `filelock` has exclusive locks of the kernel only (its ``ReadWriteLock`` is a database, which must stay on the disk
    for ever). So each holder has a file of its own beside ``path``, locked as long as it lives, and all look at the
    files of the others behind one gate, the lock of ``path``, which is held for an instant. Use it as a context
    manager; it is open, not locked, at first.

    Parameters
    ----------
    path
        The name of the lock; its files are ``path`` and ``<path>.*``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark: Lock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def exclusive(self) -> None:
        """Wait until nobody else has it, and have it alone."""
        self._leave()  # two that share it, and each want it alone, would wait for each other
        self._wait("alone", against=("alone", "shared"))

    def shared(self) -> None:
        """Have it together with others; straight on where one had it alone."""
        self._wait("shared", against=("alone",))

    def alone(self) -> bool:
        """Have it alone if nobody else has it; False, and no share in it any more, if somebody has.

        So the last of several that leave together is told that it is the last.
        """
        return self._take("alone", against=("alone", "shared"), or_leave=True)

    def _wait(self, kind: str, against: tuple[str, ...]) -> None:
        pauses = _pauses()
        while not self._take(kind, against):
            time.sleep(next(pauses))

    def _take(self, kind: str, against: tuple[str, ...], or_leave: bool = False) -> bool:
        with Lock(self.path):
            if any(self._is_held(other) for other in against):
                if or_leave:
                    self._leave()
                return False
            mark = Lock(self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.{kind}"))
            mark.acquire()
            self._leave()
            self._mark = mark
        return True

    def _is_held(self, kind: str) -> bool:
        """Whether somebody else has it so; the files of killed processes go."""
        for path in self.path.parent.glob(f"{glob.escape(self.path.name)}.*.{kind}"):
            if self._mark is not None and path == self._mark.path:
                continue
            other = Lock(path)
            if not other.acquire(wait=False):
                return True
            other.release()
        return False

    def _leave(self) -> None:
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.release()


@contextlib.contextmanager
def folder_lock(folder: Path, content: str = "features", *, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes ``content`` to ``folder``; what a killed one left half-written is removed.

    Parameters
    ----------
    folder
        The folder; made where it is absent. The lock is the file ``.lock`` in it, see `Lock`.
    content
        What is written, for the message.
    wait
        Wait for another process instead of refusing.

    Raises
    ------
    FolderBusyError
        Another process is writing to the folder.
    InputError
        A file stands there, or no folder can have this name.
    StorageError
        The folder cannot be made or written.
    """
    require_folder(folder)
    lock = Lock(folder / ".lock")
    if not lock.acquire(wait):
        raise FolderBusyError(
            f"{lock.owner() or 'another process'} is writing {content} to this folder",
            where=folder,
            hint=f"Wait for it, or choose another --out; if no such process runs any more, remove {lock.path}*",
        )
    try:
        for leftover in [path for pattern in _LEFTOVERS for path in folder.glob(pattern)]:
            shutil.rmtree(leftover, ignore_errors=True)
        for inner in [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]:
            remove_abandoned(inner)  # another process may have the lock of this one
        yield
    finally:
        lock.release()


def _pauses() -> Iterator[float]:
    """Seconds between two attempts, without end: short at first, since most holders are."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
