"""Files from the network: checked, resumed where a transfer broke, and never seen half-written."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import DownloadError, MissingExtraError, StorageError
from ..progress import Progress, silent

if TYPE_CHECKING:
    import requests

_CHUNK = 1 << 16
_TIMEOUT = (10.0, 60.0)
_TOO_FAR = 416


@dataclass(frozen=True)
class RemoteFile:
    """One file of a public cohort.

    Parameters
    ----------
    path
        Where it goes, relative to the cohort's folder.
    url
        Where it is from.
    digest
        ``"sha256:<hex>"``, or ``"git:<hex>"`` (a git blob id); None where nobody publishes one.
    """

    path: str
    url: str
    digest: str | None = None


@dataclass
class Resume:
    """A pooch downloader that goes on where an earlier transfer of the same file stopped.

    What has arrived stays in ``part`` until all of it has; the server must answer range requests, else the transfer
    starts again. A server's ``ETag`` or date beside the part tells whether the file has changed since. ``digest`` is
    what the server itself says of the file: the Hugging Face hub names the sha256 of large files.
    """

    part: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[int, int], None] = lambda done, total: None
    digest: str | None = field(default=None, init=False)

    def __call__(self, url: str, output_file: str | IO[bytes], pooch: Any, check_only: bool = False) -> None:
        """Download ``url`` to ``output_file``; see `pooch.HTTPDownloader`."""
        import requests

        done = self.part.stat().st_size if self.part.exists() else 0
        stamp = self.part.with_name(f"{self.part.name}.stamp")
        headers = dict(self.headers)
        if done and stamp.exists():
            headers |= {"Range": f"bytes={done}-", "If-Range": stamp.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == _TOO_FAR:
                self.part.unlink()
                return self(url, output_file, pooch, check_only)
            answer.raise_for_status()
            if answer.status_code != requests.codes.partial_content:
                done = 0
            self.digest = _hub_digest(answer)
            expected = _length(answer, done)
            _mark(stamp, answer)
            with self.part.open("ab" if done else "wb") as stream:
                for chunk in answer.iter_content(_CHUNK):
                    stream.write(chunk)
                    done += len(chunk)
                    self.progress(done, expected or done)
        if expected is not None and done != expected:
            raise requests.ConnectionError(f"{done} of {expected} bytes arrived")
        target = Path(output_file) if isinstance(output_file, str) else Path(output_file.name)
        self.part.replace(target)
        stamp.unlink(missing_ok=True)
        return None


def download(
    file: RemoteFile, folder: Path, headers: Mapping[str, str] | None = None, progress: Progress = silent
) -> Path:
    """Bring one file into a folder, or find it there.

    A file that is there and fits its digest is kept; without a digest it is taken as it is. What a broken transfer left
    is kept beside it (``<name>.part``) and completed by the next call.

    Raises
    ------
    DownloadError
        The server cannot be reached, refuses, or sends something else than the digest says.
    MissingExtraError
        pooch is not installed.
    StorageError
        The file cannot be written.
    """
    try:
        import pooch
        import requests
    except ImportError as error:
        raise MissingExtraError("pooch", "st", "fetch public cohorts") from error

    target = folder / file.path
    if target.exists():
        if file.digest is None or matches(target, file.digest):
            return target
        raise DownloadError(
            f"is not the file that {file.url} names (its digest is not {file.digest})",
            where=target,
            mend="Remove it, and run the same command again",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        downloader = Resume(part, headers or {}, lambda done, total: progress(target.name, done, total))
        arrived = target.with_name(f"{target.name}.unchecked")
        with _quiet(pooch.get_logger()):
            pooch.retrieve(file.url, None, fname=arrived.name, path=target.parent, downloader=downloader)
        digest = file.digest or downloader.digest
        if digest is not None and not matches(arrived, digest):
            arrived.unlink()
            raise DownloadError(
                f"what arrived does not have the digest {digest}",
                where=file.url,
                mend="Run the same command again; if it stays so, the file has changed at its source",
            )
        arrived.replace(target)
    except requests.RequestException as error:
        raise DownloadError(_reason(error), where=file.url, mend="Run the same command again to go on") from error
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})", where=target, mend="Check space and permissions"
        ) from error
    return target


def matches(path: Path, digest: str) -> bool:
    """Whether a file has a digest, ``"sha256:<hex>"`` or ``"git:<hex>"``."""
    kind, _, value = digest.partition(":")
    # A git blob id is the SHA-1 of a header with the size, then the content.
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False) if kind == "git" else None
    found = found or hashlib.new(kind)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest() == value


def _length(answer: requests.Response, done: int) -> int | None:
    """Length of the whole file, where the server tells it and sends it as it is."""
    length = answer.headers.get("Content-Length")
    return None if length is None or "Content-Encoding" in answer.headers else done + int(length)


def _mark(stamp: Path, answer: requests.Response) -> None:
    mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    # A weak tag must not be used to join ranges (RFC 9110, 13.1.5).
    if mark and not mark.startswith("W/"):
        stamp.write_text(mark, encoding="utf-8", newline="\n")
    else:
        stamp.unlink(missing_ok=True)


def _hub_digest(answer: requests.Response) -> str | None:
    tags = (step.headers.get("X-Linked-ETag", "").strip('"') for step in (*answer.history, answer))
    return next((f"sha256:{tag}" for tag in tags if re.fullmatch("[0-9a-f]{64}", tag)), None)


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Pooch prints an unknown hash as advice to its own users; ours have nothing to do with it."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"the server refused ({answer.status_code} {answer.reason})"
    # The innermost cause says it in the fewest words; the libraries around it repeat the address three times.
    while error.__context__ is not None:
        error = error.__context__  # type: ignore[assignment]
    return f"the server cannot be reached or broke off ({error})"
