"""What a result was made from, and files that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ._version import __version__
from .errors import HistomixError, InputError, MissingFileError, StorageError
from .progress import tell

_CHUNK = 1 << 20
#: A file that is larger than this is told of while it is read whole, each time so much of it is done.
_TOLD_BYTES = 1 << 28
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
_SAMPLES = 16
#: What another computer left unfinished for so long is abandoned.
_LONG_S = 3600.0
#: By so much the clocks of a disk and of a computer may differ.
_CLOCK_S = 60.0


def digest_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a whole file, as ``"sha256:<hex>"``; InputError where it is a pipe or a device, which has no end."""
    refuse_pipe(path)
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _TOLD_BYTES:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
        digest, part, done = hashlib.sha256(), memoryview(bytearray(_CHUNK)), 0
        while count := stream.readinto(part):
            digest.update(part[:count])
            done += count
            if done % _TOLD_BYTES < count or done == size:
                tell("look through a large file (MB)", done // 10**6, max(size, done) // 10**6)
        return "sha256:" + digest.hexdigest()


def digest_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as ``"sha256:<hex>"``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value with its keys sorted: equal values have equal digests."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Identify a large file by its size and 16 evenly spaced 1 MiB samples (all of it when it is smaller).

    A slide of several GB is told from another in milliseconds, and a touched modification time alone changes nothing.
    A folder (an image in a Zarr store) is identified by the names and fingerprints of the files in it.

    Raises
    ------
    InputError
        It is a pipe, a socket or a device.
    """
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        return digest_json([[file.relative_to(path).as_posix(), fingerprint(file)] for file in files])
    refuse_pipe(path)
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as stream:
        if size <= _SAMPLES * _CHUNK:
            digest.update(stream.read())
        else:
            for sample in range(_SAMPLES):
                stream.seek((size - _CHUNK) * sample // (_SAMPLES - 1))
                digest.update(stream.read(_CHUNK))
    return "sample-sha256:" + digest.hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Versions of histomix, Python and the named installed packages, without importing them."""
    numbers = {"histomix": __version__, "python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            numbers[package] = importlib.metadata.version(package)
    return numbers


def _error_number(error: OSError | RuntimeError) -> int | None:
    """The operating system's number of an error; h5py keeps it only in the text, and raises RuntimeError on closing."""
    match = re.search(r"errno = (\d+)", str(error))
    return int(match[1]) if match else getattr(error, "errno", None)


def _storage_error(error: OSError | RuntimeError, path: Path) -> StorageError:
    if _error_number(error) in _FULL:
        hint = "Free some space or choose another --out, then run the same command again; it goes on where it stopped"
        return StorageError("the disk is full (or a quota is used up)", where=path, hint=hint)
    reason = getattr(error, "strerror", None) or error
    hint = "Check the folder's permissions, or choose another --out"
    return StorageError(f"cannot write ({reason})", where=path, hint=hint)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` only if the block ends well.

    The file (or folder) at ``path`` is either the old one or the whole new one. The temporary keeps the suffix of
    ``path``, since many writers choose the format by it.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; the temporary has been removed.
    """
    target = Path(path)
    if target.name in ("", ".."):  # no name that something beside it could have
        target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=_partial_prefix(), dir=target.parent))
    except OSError as error:
        raise _storage_error(error, target) from error
    temporary = holder / target.name
    try:
        yield temporary
        if target.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside, and comes back if the new one fails.
            aside = holder / "replaced"
            target.rename(aside)
            try:
                temporary.replace(target)
            except OSError:
                aside.rename(target)
                raise
        else:
            temporary.replace(target)
    except HistomixError:  # of a file inside this one
        raise
    except (OSError, RuntimeError) as error:
        number = _error_number(error)
        # numpy tells a short write without a number.
        if number in (*_FULL, *_DENIED) or (number is None and type(error) is OSError):
            raise _storage_error(error, target) from error
        raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def require_folder(path: str | os.PathLike[str], own: str | None = None) -> None:
    """Find out before long work whether ``path`` is a folder, or can become one.

    Parameters
    ----------
    path
        The folder.
    own
        What every ``manifest.json`` of such a folder has: one without it is of another command, and would be lost.

    Raises
    ------
    InputError
        Something else is there, or above it, or no folder can have this name; or it is the folder of another command.
    """
    hint = "Choose another --out"
    try:
        Path(path).lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be a folder ({getattr(error, 'strerror', error)})", where=path, hint=hint) from error
    if not Path(path).is_dir():
        raise InputError("is a file, not a folder", where=path, hint=hint)
    if own is not None:
        try:
            manifest = read_json(Path(path) / "manifest.json")
        except InputError:  # none, or one that is lost already
            return
        if own not in manifest:
            what = "holds the results of another command, whose manifest.json would be replaced"
            raise InputError(what, where=path, hint=hint)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Find out before long work whether ``path`` can be written, and clear away what killed runs left beside it.

    Nothing is made but a small file that goes again. Of a run that was killed while it replaced a folder, the old
    folder comes back.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    target = Path(path)
    _clear_abandoned(target)
    above = next(folder for folder in target.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=_partial_prefix(), dir=above) as folder:
            (Path(folder) / "probe").write_bytes(bytes(1 << 16))
    except OSError as error:
        raise _storage_error(error, target) from error


def _partial_prefix() -> str:
    """Beginning of the names of unfinished things: they tell the computer and the process that make them."""
    return f".partial-{_this_computer()}-{os.getpid()}-"


def _this_computer() -> str:
    return digest_bytes(platform.node().encode())[-8:]


def _is_abandoned(holder: Path, elsewhere: bool) -> bool:
    """Whether the process that made an unfinished thing is gone; of one on another computer, the answer for those."""
    import psutil

    name = re.fullmatch(r"\.partial-([0-9a-f]{8})-(\d+)-.*", holder.name)
    if name is None or name[1] != _this_computer():
        return elsewhere
    try:
        # A number is given again: its process must have begun before the thing.
        began = float(psutil.Process(int(name[2])).create_time())
        return began > holder.stat().st_mtime + _CLOCK_S
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError, OverflowError):
        return False


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished things in a folder whose process, on this computer, is gone, and old ones of others.

    What a process that lives is writing stays: a status is changed without the lock of its slide.
    """
    for holder in folder.glob(".partial-*"):
        with contextlib.suppress(OSError):
            old = time.time() - holder.stat().st_mtime > _LONG_S
            if _is_abandoned(holder, elsewhere=old or not re.match(r"\.partial-[0-9a-f]{8}-\d", holder.name)):
                shutil.rmtree(holder, ignore_errors=True)


def _clear_abandoned(target: Path) -> None:
    """Remove unfinished copies of ``target`` whose process, on this computer, is gone."""
    for holder in target.parent.glob(".partial-*"):
        if not _is_abandoned(holder, elsewhere=False):
            continue
        replaced = holder / "replaced"
        mine = (holder / target.name).exists()
        if mine and replaced.exists() and not target.exists():
            with contextlib.suppress(OSError):
                replaced.rename(target)
        if mine or not any(holder.iterdir()):
            shutil.rmtree(holder, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8", newline="\n")


def json_text(value: Mapping[str, Any]) -> str:
    """JSON as `write_json` writes it."""
    return json.dumps(value, indent=1, default=str, allow_nan=False) + "\n"


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with a digest of them; of what they cost (``cost``), which differs from run to run, it knows nothing."""
    return {**facts, "digest": _digest_but_cost(facts)}


def read_sealed(path: str | os.PathLike[str], *, hint: str) -> dict[str, Any]:
    """Read what `sealed` made, without its digest; facts that have none, as versions before wrote them, as they are.

    Raises
    ------
    InputError
        As `read_json`, or the facts are no longer those that were written.
    """
    facts = read_json(path, hint=hint)
    digest = facts.pop("digest", None)
    try:
        whole = digest is None or digest == _digest_but_cost(facts)
    except ValueError:  # NaN, which is never written
        whole = False
    if not whole:
        raise InputError("was changed since it was written", where=path, hint=hint)
    return facts


def digest_sealed(path: str | os.PathLike[str]) -> str:
    """As `digest_file`; of a JSON that `sealed` made, of all but the cost: the same work has the same digest."""
    if Path(path).suffix == ".json":
        with contextlib.suppress(InputError):
            facts = read_json(path)
            if "digest" in facts and "cost" in facts:
                return digest_json({name: value for name, value in facts.items() if name != "cost"})
    return digest_file(path)


def _digest_but_cost(facts: Mapping[str, Any]) -> str:
    counted = {name: value for name, value in facts.items() if name != "cost"}
    # As it is read again; without the indents of `json_text`, which are made slowly.
    return digest_json(json.loads(json.dumps(counted, default=str, allow_nan=False)))


def refuse_pipe(path: str | os.PathLike[str], error: type[InputError] = InputError) -> None:
    """Refuse what is there but no file or folder: a pipe, socket or device may keep its reader waiting without end.

    What is absent, or cannot be looked at, is left to whoever opens it.

    Raises
    ------
    InputError
        An ``error``: it is one of these.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise error(
            "is a pipe, a socket or a device, not a file",
            where=path,
            hint="Save what comes out of it as a file, and name that",
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that is there twice, readers take one or the other."""
    value = dict(pairs)
    if len(value) < len(pairs):
        again = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"an object has '{again[:100]}' twice")
    return value


def parse_json(text: str | bytes, *, unique: bool = False) -> Any:
    """The value of a JSON text.

    Raises
    ------
    ValueError
        It is no JSON, nested deeper than can be read, or (with ``unique``) an object in it has a name twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(
    path: str | os.PathLike[str], *, hint: str = "Make it again, or restore it from a copy"
) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        The file is absent, is not JSON, or holds no object.
    """
    try:
        refuse_pipe(path)
        value = parse_json(Path(path).read_text(encoding="utf-8"), unique=True)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file", where=path, hint=hint) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON ({error})", where=path, hint=hint) from error
    if not isinstance(value, dict):
        raise InputError("is JSON, but not an object", where=path, hint=hint)
    return value
