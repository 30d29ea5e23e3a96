"""One file from a store to this disk: in chunks, resumed, tried again, checked."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ...errors import DownloadError, HistomixError, TooLargeError
from ..cache import require_space
from .addresses import redact_url
from .digests import digest_text, matches
from .part import Part, writing
from .retry import LEAST_BYTES, Retry, as_download_error, failures, is_retryable
from .store import Remote, Store, answer_stat, remote_stat, validator
from .web import answered

_CHUNK = 8 << 20
_TOO_FAR = 416
#: (start, what the store says, bytes from there on).
Opened = tuple[int, Remote, Iterator[bytes]]


class _NotResumedError(ConnectionError):
    """A server's answer does not go on from what is here."""


@dataclass(frozen=True)
class _Fault:
    what: str
    hint: str
    changed: bool = False


def fetch_file(
    store: Store,
    url: str,
    target: Path,
    *,
    digest: str | None = None,
    retry: Retry | None = None,
    limit_bytes: int | None = None,
    stat: bool = True,
    arrived: Callable[[Path], None] = lambda whole: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Bring one file to ``target``, going on from ``target.part`` if the file there is of the same version.

    Parameters
    ----------
    digest
        ``"sha256:<hex>"``, ``"md5:<hex>"`` or ``"git:<hex>"`` that the file must have. What the store itself says of
        its content is checked too.
    retry
        How lost connections are tried again.
    limit_bytes
        A longer file is refused, also where the store has not said its size.
    stat
        Ask for size and version before, and for the version again after; False believes what a web server says with
        the file itself.
    arrived
        Told of the whole, checked file before it gets its name.
    progress
        Told bytes done, and in all.

    Raises
    ------
    DownloadError
        The store cannot be reached, refuses, breaks off or goes silent again and again, or sends something else, or
        more, than it promised.
    TooLargeError
        The file is longer than the limit.
    StorageError
        The file cannot be written here, or the disk has no room for it.
    """
    retry, part = retry or Retry(), Part(target)
    for again in (True, False):
        remote = remote_stat(store, url, retry) if stat or not store.web else None
        resumed = _resumable(part, remote)
        told = _transfer(store, url, part, remote, retry, limit_bytes, progress)
        fault = _fault(store, url, part, remote, told, digest, retry)
        if fault is None:
            break
        # What was joined from two transfers, or changed meanwhile, deserves one fresh start.
        part.remove()
        if not (again and (resumed or fault.changed)):
            raise DownloadError(fault.what, where=redact_url(url), hint=fault.hint)
    with writing(target):
        arrived(part.path)
    part.finish()


def _resumable(part: Part, remote: Remote | None) -> bool:
    """Whether what an earlier transfer left can belong to this version of the file; if not, it is removed.

    Where nobody was asked for the version, the server tells it with its answer (If-Range).
    """
    known = part.version if remote is not None else validator(part.version)
    kept = part.path.is_file() and known is not None and (remote is None or known == remote.version)
    if not kept:
        part.clear()
    if remote is not None:
        part.mark(remote.version)
    return kept


def _transfer(
    store: Store,
    url: str,
    part: Part,
    remote: Remote | None,
    retry: Retry,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> Remote:
    """Append to ``part`` until the end of the file; what the store said of it with the last answer."""
    failed, reached = 0, part.size
    for number in range(1, retry.most + 1):
        kept = done = part.size
        # A server that sends a little each time would be asked for ever.
        if done - reached >= LEAST_BYTES:
            failed, reached = 0, done
        try:
            with _opened(store, url, part, remote, retry.silence_s) as (start, told, chunks):
                _check_length(url, part, told.size or 0, remote, limit)
                part.write(start, b"")
                if remote is None:
                    part.mark(told.version)
                if told.size is not None:
                    require_space(part.path.parent, told.size - start, part.target.name)
                done = start
                for chunk in chunks:
                    _check_length(url, part, done + len(chunk), remote, limit)
                    part.write(done, chunk)
                    done += len(chunk)
                    progress(done, told.size or done)
            if told.size is not None and done < told.size:
                raise ConnectionError(f"{done:,} of {told.size:,} bytes arrived")
            return told
        except HistomixError:
            raise
        except failures() as error:
            if kept and (isinstance(error, _NotResumedError) or getattr(error, "status", None) == _TOO_FAR):
                part.clear()
                reached = 0
                continue
            failed += 1
            if not is_retryable(error) or failed >= retry.attempts or number == retry.most:
                raise as_download_error(error, url) from None
            retry.wait(failed)
    raise DownloadError(
        f"was asked for {retry.most} times and did not come", where=redact_url(url), hint="Run the same command again"
    )


def _check_length(url: str, part: Part, length: int, remote: Remote | None, limit: int | None) -> None:
    """Stop a file that is longer than it may be, or than was said; a little more may come, and is told at its end."""
    if limit is not None and length > limit:
        part.remove()
        raise TooLargeError(
            f"the file is larger than it may be ({limit / 2**20:,.0f} MB)",
            where=redact_url(url),
            hint="Do not trust this server, or download the file by hand",
        )
    if remote is not None and remote.size is not None and length > remote.size + _CHUNK:
        part.remove()
        raise DownloadError(
            f"the store says that it has {remote.size} bytes, and sends more without end",
            where=redact_url(url),
            hint="Run the same command again; if it stays so, do not trust this server",
        )


def _opened(
    store: Store, url: str, part: Part, remote: Remote | None, silence_s: float
) -> AbstractContextManager[Opened]:
    if remote is not None and part.size and part.size == remote.size:
        return contextlib.nullcontext((part.size, remote, iter(())))
    if store.web:
        return _web_answer(store, url, part, remote, silence_s)
    known = remote or Remote(None, None)
    return contextlib.nullcontext((part.size, known, _ranges(store, url, part.size, known.size, silence_s)))


def _ranges(store: Store, url: str, done: int, size: int | None, silence_s: float) -> Iterator[bytes]:
    """The file from ``done`` on, range by range."""
    while size is None or done < size:
        stop = done + _CHUNK if size is None else min(done + _CHUNK, size)
        chunk = store.ask("cat_file", url, start=done, end=stop, deadline_s=_CHUNK / LEAST_BYTES * silence_s)
        if not chunk:
            return
        yield chunk
        done += len(chunk)


@contextlib.contextmanager
def _web_answer(store: Store, url: str, part: Part, remote: Remote | None, silence_s: float) -> Iterator[Opened]:
    """The file from the end of the part on, in one answer of a web server, which may send all of it instead."""
    done, begun = part.size, validator(part.version)
    headers = {"Range": f"bytes={done}-"} if done else {}
    if done and begun is not None:
        headers["If-Range"] = begun
    with answered(store.fs, url, headers, silence_s) as (answer, chunks):
        told, start = answer_stat(answer), done if answer.status == 206 else 0
        ranged = re.match(r"bytes (\d{1,18})-", answer.headers.get("Content-Range", ""))
        if start and not (ranged and int(ranged[1]) == start):
            raise _NotResumedError(f"bytes from {done} on were asked for, and the server sent others")
        # A server that does not look at If-Range goes on with whatever it has now.
        if start and begun is not None and validator(told.version) not in (None, begun):
            raise _NotResumedError("the file was replaced since its first part was fetched")
        if told.size is None and remote is not None:
            told = Remote(remote.size, told.version, told.digest)
        yield start, told, _steady(chunks, silence_s)


def _steady(chunks: Iterator[bytes], silence_s: float) -> Iterator[bytes]:
    """The bytes of an answer as they come, while enough of them do."""
    since, came = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        came += len(chunk)
        if came >= LEAST_BYTES:
            since, came = time.monotonic(), 0
        elif time.monotonic() - since > silence_s:
            raise ConnectionError(f"fewer than {LEAST_BYTES} bytes came in {silence_s:g} s")


def _fault(
    store: Store, url: str, part: Part, remote: Remote | None, told: Remote, digest: str | None, retry: Retry
) -> _Fault | None:
    """What is wrong with a file that has arrived."""
    hint = "Run the same command again; if it stays so, the file is damaged, or has changed, at its source"
    size = part.size
    if remote is not None and remote.size is not None and size != remote.size:
        return _Fault(f"{size} bytes arrived, and the store says that it has {remote.size}", hint, changed=True)
    if told.size is not None and size != told.size:
        return _Fault(f"{size} bytes arrived, {told.size} were promised", hint)
    if remote is not None and remote.version is not None and remote_stat(store, url, retry).version != remote.version:
        return _Fault("the file was replaced while it was fetched", "Run the same command again", changed=True)
    for wanted in dict.fromkeys((digest, told.digest, None if remote is None else remote.digest)):
        if wanted and not matches(part.path, wanted):
            return _Fault(f"what arrived does not have the {digest_text(wanted)} as its digest", hint)
    return None
