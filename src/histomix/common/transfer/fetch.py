"""One file from a store to this disk: in pieces, resumed, tried again, checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import DownloadError, HistomixError, StorageError
from .store import LEAST_BYTES, Remote, Retry, Store, as_download_error, failures, is_retryable, redact_url, remote_stat
from .web import answered

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
        The store cannot be reached, refuses, breaks off or goes silent again and again, or sends something else, or
        more, than it promised.
    StorageError
        The file cannot be written here, or is longer than the limit.
    """
    retry = retry or Retry()
    part, stamp = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.stamp")
    for again in (True, False):
        remote = remote_stat(store, url, retry)
        resumed = _resumable(part, stamp, remote)
        total = _transfer(store, url, part, remote, retry, limit_bytes, progress)
        fault = _fault(store, url, part, remote, total, digest, retry)
        if fault is None:
            break
        # What was joined from two transfers, or changed meanwhile, deserves one fresh start.
        part.unlink(missing_ok=True)
        if not (again and (resumed or fault.changed)):
            raise DownloadError(fault.what, where=redact_url(url), hint=fault.hint)
    with _writing(target):
        part.replace(target)
        stamp.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Fault:
    what: str
    hint: str
    changed: bool = False


def _resumable(part: Path, stamp: Path, remote: Remote) -> bool:
    """Whether what an earlier transfer left belongs to this version of the file; if not, it is removed."""
    facts = json.dumps(remote.to_dict())
    kept = (
        part.is_file() and remote.version is not None and stamp.is_file() and stamp.read_text(encoding="utf-8") == facts
    )
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
    for number in range(1, retry.most + 1):
        done = part.stat().st_size if part.is_file() else 0
        # A server that sends a little each time would be asked for ever.
        if done - reached >= LEAST_BYTES:
            failed, reached = 0, done
        try:
            pieces = _http_pieces if store.scheme in ("http", "https") else _pieces
            promised = remote.size
            for start, piece, promised in pieces(store, url, done, remote, retry.silence_s):
                _check_length(url, part, start + len(piece), remote.size, limit)
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
        except HistomixError:
            raise
        except failures() as error:
            failed += 1
            if not is_retryable(error) or failed >= retry.attempts or number == retry.most:
                raise as_download_error(error, url) from None
            if getattr(error, "status", None) == _TOO_FAR:
                with _writing(part):
                    part.unlink(missing_ok=True)
                reached = 0
            retry.wait(failed)
    raise DownloadError("was not asked for at all", where=redact_url(url), hint="Allow at least one connection")


def _check_length(url: str, part: Path, length: int, size: int | None, limit: int | None) -> None:
    """Stop a file that is longer than it may be, or than was said; a little more may come, and is told at its end."""
    if (limit is None or length <= limit) and (size is None or length <= size + _PIECE):
        return
    part.unlink(missing_ok=True)
    if limit is not None and length > limit:
        raise StorageError(
            f"the slide is larger than the cache may be ({limit / 2**30:.3g} GB)",
            where=redact_url(url),
            hint="Allow the cache more space",
        )
    raise DownloadError(
        f"the store says that it has {size} bytes, and sends more without end",
        where=redact_url(url),
        hint="Run the same command again; if it stays so, do not trust this server",
    )


def _pieces(
    store: Store, url: str, done: int, remote: Remote, silence_s: float
) -> Iterator[tuple[int, bytes, int | None]]:
    """(start, bytes, size of the file) from ``done`` on, by ranges."""
    size = remote.size
    while size is None or done < size:
        stop = done + _PIECE if size is None else min(done + _PIECE, size)
        piece = store.ask("cat_file", url, start=done, end=stop, deadline_s=_PIECE / LEAST_BYTES * silence_s)
        if not piece:
            return
        yield done, piece, size
        done += len(piece)


def _http_pieces(
    store: Store, url: str, done: int, remote: Remote, silence_s: float
) -> Iterator[tuple[int, bytes, int | None]]:
    """As `_pieces`, in one answer of a web server, which may refuse the range and send all of it."""
    if done and done == remote.size:
        return
    headers = {"Range": f"bytes={done}-"} if done else {}
    with answered(store.fs, url, headers, silence_s) as (answer, read):
        ranged = re.match(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", answer.headers.get("Content-Range", ""))
        start = int(ranged[1]) if answer.status == 206 and ranged else 0
        if start not in (0, done):
            raise ConnectionError(f"bytes from {done} on were asked for, and the server sent them from {start} on")
        size = answer.content_length or remote.size
        if start and ranged:
            size = remote.size if ranged[2] == "*" else int(ranged[2])
        since, before = time.monotonic(), start
        while piece := read(_PIECE >> 3):
            yield start, piece, size
            start += len(piece)
            if start - before >= LEAST_BYTES:
                since, before = time.monotonic(), start
            elif time.monotonic() - since > silence_s:
                raise ConnectionError(f"fewer than {LEAST_BYTES} bytes came in {silence_s:g} s")


def _fault(
    store: Store, url: str, part: Path, remote: Remote, promised: int | None, digest: str | None, retry: Retry
) -> _Fault | None:
    """What is wrong with a file that has arrived."""
    hint = "Run the same command again; if it stays so, the file is damaged at its source"
    size = part.stat().st_size
    if remote.size is not None and size != remote.size:
        return _Fault(f"{size} bytes arrived, and the store says that it has {remote.size}", hint, changed=True)
    if promised is not None and size != promised:
        return _Fault(f"{size} bytes arrived, {promised} were promised", hint)
    after = remote_stat(store, url, retry)
    if remote.version is not None and after.version != remote.version:
        return _Fault("the file was replaced while it was fetched", "Run the same command again", changed=True)
    for kind, wanted in (("sha256", (digest or "").removeprefix("sha256:")), ("md5", remote.md5 or "")):
        if not wanted:
            continue
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda kind=kind: hashlib.new(kind, usedforsecurity=False)).hexdigest()  # type: ignore[misc]
        if found != wanted:
            return _Fault(f"what arrived does not have the {kind} {wanted}", hint)
    return None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except HistomixError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})",
            where=path,
            hint="Free some space, or choose another folder for the cache of slides",
        ) from error
