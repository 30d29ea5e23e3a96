"""One file from a store to this disk: in pieces, resumed, tried again, checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DownloadError, StorageError
from .store import Remote, Retry, Store, failures, look, refusal, shown, worth_another

_PIECE = 8 << 20
_TOO_FAR = 416


def fetch_file(
    store: Store,
    url: str,
    target: Path,
    *,
    digest: str | None = None,
    retry: Retry | None = None,
    limit_bytes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Bring one file to ``target``, going on from ``target.part`` if the file there is of the same version.

    Parameters
    ----------
    digest
        ``"sha256:<hex>"`` that the file must have.
    limit_bytes
        A longer file is refused, also where the store has not said its size.
    progress
        Told bytes done, and in all.

    Raises
    ------
    DownloadError
        The store cannot be reached, refuses, breaks off again and again, or sends something else than it promised.
    StorageError
        The file cannot be written here, or is longer than the limit.
    """
    retry = retry or Retry()
    part, stamp = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.stamp")
    for again in (True, False):
        remote = look(store, url, retry)
        resumed = _resumable(part, stamp, remote)
        total = _transfer(store, url, part, remote, retry, limit_bytes, progress)
        fault = _fault(store, url, part, remote, total, digest, retry)
        if fault is None:
            break
        # What was joined from two transfers, or changed meanwhile, deserves one fresh start.
        part.unlink(missing_ok=True)
        if not (again and (resumed or fault.changed)):
            raise DownloadError(fault.what, where=shown(url), mend=fault.mend)
    with _writing(target):
        part.replace(target)
        stamp.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Fault:
    what: str
    mend: str
    changed: bool = False


def _resumable(part: Path, stamp: Path, remote: Remote) -> bool:
    """Whether what an earlier transfer left belongs to this version of the file; if not, it is removed."""
    facts = json.dumps(remote.to_dict())
    kept = part.is_file() and remote.version is not None and stamp.is_file() and stamp.read_text() == facts
    with _writing(part):
        if not kept:
            part.unlink(missing_ok=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(facts, encoding="utf-8", newline="\n")
    return kept


def _transfer(
    store: Store,
    url: str,
    part: Path,
    remote: Remote,
    retry: Retry,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> int | None:
    """Append to ``part`` until the end of the file; the size that the last answer promised, where it did."""
    failed, reached = 0, part.stat().st_size if part.is_file() else 0
    while True:
        done = part.stat().st_size if part.is_file() else 0
        if done > reached:
            failed, reached = 0, done
        try:
            pieces = _http_pieces if store.scheme in ("http", "https") else _pieces
            promised = remote.size
            for start, piece, promised in pieces(store, url, done, remote):
                if limit is not None and start + len(piece) > limit:
                    raise StorageError(
                        f"the slide is larger than the cache may be ({limit / 2**30:.3g} GB)",
                        where=shown(url),
                        mend="Allow the cache more space",
                    )
                with _writing(part), part.open("r+b" if part.is_file() else "wb") as stream:
                    stream.truncate(start)
                    stream.seek(start)
                    stream.write(piece)
                progress(start + len(piece), promised or start + len(piece))
            size = part.stat().st_size if part.is_file() else 0
            if promised is not None and size < promised:
                raise ConnectionError(f"{size} of {promised} bytes arrived")
            if not part.is_file():
                with _writing(part):
                    part.touch()
            return promised
        except failures() as error:
            failed += 1
            if not worth_another(error) or failed >= retry.attempts:
                raise refusal(error, url) from None
            if getattr(error, "status", None) == _TOO_FAR:
                with _writing(part):
                    part.unlink(missing_ok=True)
                reached = 0
            retry.wait(failed)


def _pieces(store: Store, url: str, done: int, remote: Remote) -> Iterator[tuple[int, bytes, int | None]]:
    """(start, bytes, size of the file) from ``done`` on, by ranges."""
    size = remote.size
    while size is None or done < size:
        piece = store.fs.cat_file(url, start=done, end=done + _PIECE if size is None else min(done + _PIECE, size))
        if not piece:
            return
        yield done, piece, size
        done += len(piece)


def _http_pieces(store: Store, url: str, done: int, remote: Remote) -> Iterator[tuple[int, bytes, int | None]]:
    """As `_pieces`, in one answer of a web server, which may refuse the range and send all of it."""
    if done and done == remote.size:
        return
    headers = {**store.options.get("headers", {}), "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with store.fs.open(url, "rb", block_size=0, headers=headers) as stream:
        # fsspec shows the status and the headers only on the answer that its stream holds.
        answer = stream.r
        answer.raise_for_status()
        ranged = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        start = int(ranged[1]) if answer.status == 206 and ranged else 0
        if start not in (0, done):
            raise ConnectionError(f"bytes from {done} on were asked for, and the server sent them from {start} on")
        length = answer.headers.get("Content-Length")
        size = int(ranged[2]) if start and ranged else (int(length) if length else remote.size)
        while piece := stream.read(_PIECE >> 3):
            yield start, piece, size
            start += len(piece)


def _fault(
    store: Store, url: str, part: Path, remote: Remote, promised: int | None, digest: str | None, retry: Retry
) -> _Fault | None:
    """What is wrong with a file that has arrived."""
    mend = "Run the same command again; if it stays so, the file is damaged at its source"
    size = part.stat().st_size
    if remote.size is not None and size != remote.size:
        return _Fault(f"{size} bytes arrived, and the store says that it has {remote.size}", mend, changed=True)
    if promised is not None and size != promised:
        return _Fault(f"{size} bytes arrived, {promised} were promised", mend)
    after = look(store, url, retry)
    if remote.version is not None and after.version != remote.version:
        return _Fault("the file was replaced while it was fetched", "Run the same command again", changed=True)
    for kind, wanted in (("sha256", (digest or "").removeprefix("sha256:")), ("md5", remote.md5 or "")):
        if not wanted:
            continue
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda kind=kind: hashlib.new(kind, usedforsecurity=False)).hexdigest()  # type: ignore[misc]
        if found != wanted:
            return _Fault(f"what arrived does not have the {kind} {wanted}", mend)
    return None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})",
            where=path,
            mend="Free some space, or choose another folder for the cache of slides",
        ) from error
