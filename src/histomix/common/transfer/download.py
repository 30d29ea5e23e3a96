"""Files from the network: checked, resumed where a transfer broke, and never seen half-written."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...errors import DownloadError, HistomixError, MissingExtraError, StorageError
from ...progress import Progress, silent
from ..addresses import check_redirect
from ..cache import content_digest, require_space
from ..remote_names import local_path, relative_name

if TYPE_CHECKING:
    import requests

_CHUNK = 1 << 16
_TIMEOUT = (10.0, 60.0)
_TOO_FAR = 416
_MOST_REDIRECTS = 10
#: A server that sends less than this in a minute is lost.
_LEAST_BYTES, _SILENCE_S = 64 << 10, 60.0
#: No file of a public cohort is larger; a server that sends without end is stopped here.
MOST_BYTES = 64 << 30


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
    most_bytes
        A longer file is refused.
    """

    path: str
    url: str
    digest: str | None = None
    most_bytes: int = MOST_BYTES


@dataclass
class Resume:
    """A pooch downloader that goes on where an earlier transfer of the same file stopped.

    What has arrived stays in ``part`` until all of it has; the server must answer range requests, else the transfer
    starts again. A server's ``ETag`` or date beside the part tells whether the file has changed since. ``digest`` is
    what the server itself says of the file: the Hugging Face hub names the sha256 of large files. Redirects are looked
    at (`histomix.common.addresses.check_redirect`), and a file longer than ``most_bytes`` is not taken.
    """

    part: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[int, int], None] = lambda done, total: None
    most_bytes: int = MOST_BYTES
    digest: str | None = field(default=None, init=False)

    def __call__(self, url: str, output_file: str | IO[bytes], pooch: Any, check_only: bool = False) -> None:
        """Download ``url`` to ``output_file``; see `pooch.HTTPDownloader`."""
        import requests

        done = self.part.stat().st_size if self.part.exists() else 0
        stamp = self.part.with_name(f"{self.part.name}.stamp")
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if done and stamp.exists():
            headers |= {"Range": f"bytes={done}-", "If-Range": stamp.read_text()}
        with _session() as session, session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == _TOO_FAR and "Range" in headers:
                self.part.unlink()
                return self(url, output_file, pooch, check_only)
            answer.raise_for_status()
            if answer.status_code != requests.codes.partial_content:
                done = 0
            self.digest = _hub_digest(answer)
            expected = _length(answer, done)
            self._check_length(url, expected or 0)
            if expected is not None:
                require_space(self.part.parent, expected - done, self.part.stem)
            _mark(stamp, answer)
            with self.part.open("ab" if done else "wb") as stream:
                for chunk in _chunks(answer):
                    done += len(chunk)
                    self._check_length(url, done)
                    stream.write(chunk)
                    self.progress(done, expected or done)
        if expected is not None and done != expected:
            raise requests.ConnectionError(f"{done} of {expected} bytes arrived")
        target = Path(output_file) if isinstance(output_file, str) else Path(output_file.name)
        self.part.replace(target)
        stamp.unlink(missing_ok=True)
        return None

    def _check_length(self, url: str, length: int) -> None:
        if length > self.most_bytes:
            for path in (self.part, self.part.with_name(f"{self.part.name}.stamp")):
                path.unlink(missing_ok=True)
            raise DownloadError(
                f"the file is larger than it may be ({self.most_bytes / 2**20:,.0f} MB)",
                where=url,
                hint="Do not trust this server, or download the file by hand",
            )


def _session() -> requests.Session:
    """A session that looks at each redirect before it follows it."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> str | None:
            target = super().get_redirect_target(resp)
            if target is not None:
                check_redirect(str(resp.url), target)
            return target

    session = Session()
    session.max_redirects = _MOST_REDIRECTS
    return session


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer as they come, while enough of them do.

    Raises
    ------
    requests.RequestException
        The connection broke off, or next to nothing came for a minute.
    """
    import requests
    import urllib3

    if "Content-Encoding" in answer.headers or not hasattr(answer.raw, "read1"):
        yield from answer.iter_content(_CHUNK)  # a server that packs what it was asked to send as it is
        return
    since, came = time.monotonic(), 0
    try:
        while chunk := answer.raw.read1(_CHUNK):
            yield chunk
            came += len(chunk)
            if came >= _LEAST_BYTES:
                since, came = time.monotonic(), 0
            elif time.monotonic() - since > _SILENCE_S:
                raise requests.ConnectionError(f"fewer than {_LEAST_BYTES} bytes came in {_SILENCE_S:g} s")
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(str(error)) from error


def download(
    file: RemoteFile, folder: Path, headers: Mapping[str, str] | None = None, progress: Progress = silent
) -> Path:
    """Bring one file into a folder, or find it there.

    A file that is there and fits its digest is kept. Where nobody publishes a digest, the one of what arrived is kept
    beside the file (see `note_digest`), and the file must fit it from then on; one that was put there by hand is taken
    as it is. What a broken transfer left is kept beside it (``<name>.part``) and completed by the next call.

    Raises
    ------
    DownloadError
        The server cannot be reached, refuses, or sends something else than the digest says.
    InputError
        The file's path leads out of the folder (it may be of a server's listing).
    MissingExtraError
        pooch is not installed.
    StorageError
        The file cannot be written, or the disk has no room for it.
    """
    try:
        import pooch
        import requests
    except ImportError as error:
        raise MissingExtraError("pooch", "st", "fetch public cohorts") from error

    # What the user has put there, also by a link, is taken; nothing is written through a link that leads elsewhere.
    target = folder / relative_name(file.path, where=file.url)
    if target.exists():
        if matches(target, file.digest) if file.digest else check_digest(target):
            return target
        raise DownloadError(
            f"is not the file that {file.url} names (its digest is not {file.digest})",
            where=target,
            hint="Remove it, and run the same command again",
        )
    target = local_path(folder, file.path, where=file.url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        downloader = Resume(
            part, headers or {}, lambda done, total: progress(target.name, done, total), file.most_bytes
        )
        arrived = target.with_name(f"{target.name}.unchecked")
        with _quiet(pooch.get_logger()):
            pooch.retrieve(file.url, None, fname=arrived.name, path=target.parent, downloader=downloader)
        digest = file.digest or downloader.digest
        if digest is not None and not matches(arrived, digest):
            arrived.unlink()
            raise DownloadError(
                f"what arrived does not have the digest {digest}",
                where=file.url,
                hint="Run the same command again; if it stays so, the file has changed at its source",
            )
        if file.digest is None:
            note_digest(arrived, target)
        arrived.replace(target)
    except HistomixError:
        raise
    except requests.RequestException as error:
        raise DownloadError(_reason(error), where=file.url, hint="Run the same command again to go on") from error
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})", where=target, hint="Check space and permissions"
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


def note_digest(path: Path, target: Path | None = None) -> None:
    """Write what a file, or every file of a folder, holds to ``<name>.sha256`` beside it, as sha256sum does.

    Parameters
    ----------
    path
        The file or folder.
    target
        What it will be named; its own name when left out.
    """
    target = target or path
    found = {target.name: path} if path.is_file() else {f"{target.name}/{name}": path / name for name in _below(path)}
    lines = [f"{content_digest(file).removeprefix('sha256:')}  {name}\n" for name, file in found.items()]
    _note(target).write_text("".join(lines), encoding="utf-8")


def check_digest(path: Path) -> bool:
    """True where a file or folder is what `note_digest` noted of it, or nothing was noted (it was put there by hand).

    Raises
    ------
    DownloadError
        Something of it was altered, removed or added since.
    """
    if not _note(path).is_file():
        return True
    lines = _note(path).read_text(encoding="utf-8").splitlines()
    noted = {name: f"sha256:{digest}" for digest, _, name in (line.partition("  ") for line in lines)}
    names = [path.name] if path.is_file() else [f"{path.name}/{name}" for name in _below(path)]
    for name in sorted({*noted, *names}):
        file = path.parent / name
        if not file.is_file() or content_digest(file) != noted.get(name):
            raise DownloadError(
                "was altered since it was fetched",
                where=file,
                hint=f"Remove {path} and {_note(path).name} beside it, and run the same command again",
            )
    return True


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _below(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


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
