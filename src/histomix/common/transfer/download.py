"""Files of public cohorts: found where they are, or fetched there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import DownloadError, MissingExtraError
from ...progress import Progress, silent
from .digests import check_digest, matches, note_digest
from .fetch import fetch_file
from .remote_names import local_path, relative_name
from .retry import Retry
from .store import Store

#: No file of a public cohort is larger; a server that sends without end is stopped here.
MOST_BYTES = 64 << 30
#: Without a network the answer comes at once, and the same command goes on where it stopped.
ONCE = Retry(attempts=1)


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


def download(
    file: RemoteFile,
    folder: Path,
    headers: Mapping[str, str] | None = None,
    progress: Progress = silent,
    retry: Retry = ONCE,
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
        The file's path leads out of the folder (it may be of a server's listing), or its address is of a kind that is
        not read.
    MissingExtraError
        aiohttp is not installed.
    StorageError
        The file cannot be written, or the disk has no room for it.
    """
    try:
        import aiohttp  # noqa: F401
        import fsspec  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("aiohttp", "st", "fetch public cohorts") from error

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
    fetch_file(
        Store.of(file.url, {"headers": dict(headers)} if headers else {}),
        file.url,
        target,
        digest=file.digest,
        retry=retry,
        limit_bytes=file.most_bytes,
        # A cohort is hundreds of small files, and its servers' answers say all: one request for each.
        stat=False,
        arrived=lambda whole: None if file.digest else note_digest(whole, target),
        progress=lambda done, total: progress(target.name, done, total),
    )
    return target
