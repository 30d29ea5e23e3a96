"""What fsspec reads: file systems that a URL names, what they say of a file, and their errors in our words."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from ...errors import DownloadError, HistomixError, InputError, MissingDownloadError, MissingExtraError
from ..addresses import check_address, redact_url
from .web import session_options

_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError)
#: Statuses of a web server below 500 after which a second request may do better; 416: what was kept is too long.
_TRY_AGAIN_STATUS = (408, 416, 425, 429)
_VERSION_FIELDS = ("ETag", "etag", "md5Hash", "generation", "VersionId", "Last-Modified", "LastModified", "created")
#: Errors of network libraries that are no OSError; looked up only where the library is loaded already.
_FOREIGN = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}


#: Bytes that must come for a connection to count as one that works; fewer in ``silence_s`` is a lost one.
LEAST_BYTES = 64 << 10
_LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"} | dict.fromkeys(
    ("az", "abfs", "abfss"), "adlfs"
)


@dataclass(frozen=True)
class Retry:
    """How a lost connection is tried again, and when that ends; no server can keep us for ever.

    Parameters
    ----------
    attempts
        Failures in a row, without 64 kB that are new.
    wait_s, longest_s
        Waits between them, doubling.
    most
        Connections for one file, whatever they bring.
    silence_s
        A server that says nothing, or sends fewer than 64 kB, in so long is lost.
    """

    attempts: int = 5
    wait_s: float = 0.5
    longest_s: float = 30.0
    most: int = 100
    silence_s: float = 60.0

    def wait(self, failures: int) -> None:
        """Sleep after the given number of failures in a row."""
        time.sleep(min(self.longest_s, self.wait_s * 2 ** (failures - 1)))


@dataclass(frozen=True)
class Store:
    """A file system that a URL names; ``options`` may hold credentials and never shows in text."""

    scheme: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, url: str, options: Mapping[str, Any]) -> Self:
        """The store of an address.

        Raises
        ------
        InputError
            It is no address, or of a kind that is not read.
        """
        return cls(check_address(url), options)

    def ask(self, method: str, *args: Any, deadline_s: float, **options: Any) -> Any:
        """Call a method of the file system, which must answer in time."""
        fs = self.fs
        # fsspec's own wrapper takes the timeout; the few file systems without one are in this process.
        limit = {"timeout": deadline_s} if getattr(fs, "async_impl", False) else {}
        return getattr(fs, method)(*args, **options, **limit)

    @property
    def fs(self) -> Any:
        """The fsspec file system.

        Raises
        ------
        MissingExtraError, InputError
            fsspec, or the library of this scheme, is not installed; or nobody knows the scheme.
        """
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtraError("fsspec", "remote", f"reading {self.scheme}:// slides") from error
        options = dict(self.options)
        if self.scheme in ("http", "https"):
            try:
                options["client_kwargs"] = session_options(options.get("client_kwargs", {}))
            except ImportError as error:
                raise MissingExtraError("aiohttp", "remote", f"reading {self.scheme}:// slides") from error
        try:
            return fsspec.filesystem(self.scheme, use_listings_cache=False, **options)
        except ImportError as error:
            library = _LIBRARIES.get(self.scheme)
            if library == "s3fs":
                raise MissingExtraError("s3fs", "remote", "reading s3:// slides") from error
            name = library or f"the library that serves {self.scheme}:// to fsspec"
            raise InputError(
                f"reading {self.scheme}:// slides needs {name}, which is not installed",
                hint=f"Install it with: pip install {library or 'NAME'}",
            ) from error
        except ValueError as error:
            raise InputError(
                f"{self.scheme}:// is no kind of address that can be read",
                hint="Give a path, or an address that begins with s3://, gs:// or https://",
            ) from error


@dataclass(frozen=True)
class Remote:
    """What a store says of one file: size, version and MD5, None where it does not say."""

    size: int | None
    version: str | None
    md5: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain values."""
        return {"size": self.size, "version": self.version}


def remote_stat(store: Store, url: str, retry: Retry) -> Remote:
    """Ask a store about one file.

    Raises
    ------
    DownloadError
        There is no such file, access is refused, or the store cannot be reached.
    """
    info = with_retries(lambda: store.ask("info", url, deadline_s=2 * retry.silence_s), url, retry)
    stamps = {name: str(info[name]) for name in _VERSION_FIELDS if info.get(name)}
    # A weak tag, or no stamp at all, tells nothing about equal bytes (RFC 9110, 8.8.1).
    weak = stamps.get("ETag", "").startswith("W/") and len(stamps) == 1
    version = json.dumps(stamps, sort_keys=True) if stamps and not weak else None
    md5 = info.get("md5Hash") or info.get("Content-MD5")
    with contextlib.suppress(ValueError):
        md5 = base64.b64decode(md5, validate=True).hex() if md5 else None
    return Remote(info.get("size"), version, md5 if md5 and re.fullmatch("[0-9a-f]{32}", md5) else None)


def with_retries(work: Callable[[], Any], url: str, retry: Retry) -> Any:
    """Do a small request, again where the connection is lost.

    Raises
    ------
    DownloadError
        It failed for good.
    """
    for number in range(1, retry.attempts + 1):
        try:
            return work()
        except HistomixError:
            raise
        except failures() as error:
            if not is_retryable(error) or number == retry.attempts:
                raise as_download_error(error, url) from None
            retry.wait(number)
    raise DownloadError("was not asked for at all", where=redact_url(url), hint="Allow at least one attempt")


def failures() -> tuple[type[BaseException], ...]:
    """Errors by which a store says that something failed."""
    found: list[type[BaseException]] = [OSError, asyncio.TimeoutError]
    for module, names in _FOREIGN.items():
        if module in sys.modules:
            found += [getattr(sys.modules[module], name) for name in names]
    return tuple(found)


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may do better a moment later."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _TRY_AGAIN_STATUS
    return not isinstance(error, _PERMANENT) and "credentials" not in type(error).__name__.lower()


def as_download_error(error: BaseException, url: str) -> DownloadError:
    """The error in words that hold neither the address's secrets nor the credentials."""
    if isinstance(error.__cause__, DownloadError):
        return error.__cause__  # fsspec makes "no such file" of everything, also of our own refusals
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return MissingDownloadError(
            "there is no such file at this address", where=redact_url(url), hint="Check the address"
        )
    named = type(error).__name__
    if isinstance(error, PermissionError) or "Credentials" in named or status in (401, 403):
        return DownloadError(
            "access is refused" + (f" (status {status})" if isinstance(status, int) else ""),
            where=redact_url(url),
            hint="Give credentials in the way of the store's own tools (for S3: AWS_PROFILE or AWS_ACCESS_KEY_ID; for "
            "Google: gcloud auth application-default login; for others: the configuration of fsspec)",
        )
    reason = f"status {status}" if isinstance(status, int) else _words(error, url)
    return DownloadError(
        f"the connection was lost or the server refuses ({reason})",
        where=redact_url(url),
        hint="Run the same command again; what has arrived is kept",
    )


def _words(error: BaseException, url: str) -> str:
    text = str(error) or type(error).__name__
    secrets = [url, urlsplit(url).query, urlsplit(url).netloc.rpartition("@")[0]]
    for secret in filter(None, secrets):
        text = text.replace(secret, "...")
    # Anything that looks like a signed address of somewhere else (a redirect) goes too.
    return re.sub(r"\?[^\s'\"),]+", "?...", text)[:300]
