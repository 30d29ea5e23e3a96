"""The cache: one folder of this user's, which no other user of the machine can have filled."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

from ..errors import StorageError
from ..provenance import digest_file

VARIABLE = "HISTOMIX_CACHE"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OWNER_ONLY = 0o700
_HINT = f"Remove it (what it held is made or fetched again), or name another folder with {VARIABLE}"
_TICK_NS = 50_000_000
#: State and digest of files that this process has read.
_digests: dict[Path, tuple[tuple[int, ...], str]] = {}


def cache_root() -> Path:
    """Where the cache is: ``HISTOMIX_CACHE``, else ``histomix`` in the user's cache folder. Nothing is made.

    Raises
    ------
    StorageError
        The user has no home folder.
    """
    import platformdirs

    try:
        given = os.environ.get(VARIABLE) or platformdirs.user_cache_dir("histomix", appauthor=False)
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        hint = f"Name a folder with {VARIABLE}"
        raise StorageError("this user has no home folder to keep a cache in", hint=hint) from error


def cache_folder(*names: str) -> Path:
    """A folder of the cache (``cache_folder("slides")``), made where it is absent; see `private_folder`.

    Raises
    ------
    StorageError
        It, or the cache itself, cannot be made or is not private.
    """
    folder = private_folder(cache_root())
    for name in names:
        folder = private_folder(folder / name)
    return folder


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, or see that the one that is there has always been such a folder.

    One that others may read is closed to them. One that others may write to, that belongs to another user or that is a
    link is refused: what it holds may be theirs. On Windows, where folders of a user are private by themselves, nothing
    is checked.

    Raises
    ------
    StorageError
        It cannot be made, or is refused.
    """
    try:
        if not os.path.lexists(path):
            path.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        if not hasattr(os, "geteuid"):
            return path
        facts = path.lstat()
        fault = _fault(path, facts)
        if fault is None and stat.S_IMODE(facts.st_mode) != _OWNER_ONLY:
            path.chmod(_OWNER_ONLY)
    except OSError as error:
        raise StorageError(
            f"the cache cannot be written ({error.strerror or error})",
            where=path,
            hint=f"Name a folder that can be written with {VARIABLE}",
        ) from error
    if fault is not None:
        raise StorageError(f"the cache {fault}", where=path, hint=_HINT)
    return path


def _fault(path: Path, facts: os.stat_result) -> str | None:
    """Why others may have filled a folder."""
    if stat.S_ISLNK(facts.st_mode):
        return f"is a link to another place ({path.readlink()})"
    if not stat.S_ISDIR(facts.st_mode):
        return "is no folder"
    if facts.st_uid != os.geteuid():
        return f"belongs to another user (uid {facts.st_uid}), who may have put anything into it"
    if facts.st_mode & _OTHERS_WRITE:
        return f"may be written by others (mode {stat.S_IMODE(facts.st_mode):o}), who may have put anything into it"
    return None


def is_own(path: Path) -> bool:
    """Whether a file is this user's own: no link, and not of another user. True for every file on Windows."""
    facts = path.lstat()
    return not hasattr(os, "geteuid") or (stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid())


def free_bytes(folder: Path) -> int:
    """What the disk of a folder has free for this user."""
    return shutil.disk_usage(folder).free


def require_space(folder: Path, need: int, what: str) -> None:
    """See that a disk has room before a transfer begins.

    Parameters
    ----------
    folder
        On the disk.
    need
        Bytes that are still to come.
    what
        What comes, for the error.

    Raises
    ------
    StorageError
        There is less.
    """
    free = free_bytes(folder)
    if need > free:
        raise StorageError(
            f"{what} needs {_size(need)} more, and the disk has {_size(free)} free",
            where=folder,
            hint=f"Free some space, or name a folder on another disk with {VARIABLE}",
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GB" if count >= 2**27 else f"{count / 2**20:.3g} MB"


def content_digest(path: Path) -> str:
    """SHA-256 of a file, ``"sha256:<hex>"``, read once in each process and again when the file was touched.

    The file system says whether it was: its time of change (ctime) cannot be set back by whoever alters the file. What
    was written a moment ago is read again the next time, since two changes may fall on one tick of that clock.
    """
    facts, now = path.stat(), time.time_ns()
    state = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    known = _digests.get(path)
    if known is not None and known[0] == state:
        return known[1]
    digest = digest_file(path)
    if now - facts.st_ctime_ns > _TICK_NS:
        _digests[path] = (state, digest)
    return digest
