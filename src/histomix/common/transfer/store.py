"""What fsspec reads: file systems that a URL names, and what they say of a file."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ...errors import HistomixError, InputError, MissingExtraError
from .addresses import check_address
from .retry import Retry, failures, with_retries
from .web import proxy_of, session_options

_VERSION_FIELDS = ("ETag", "etag", "md5Hash", "generation", "VersionId", "Last-Modified", "LastModified", "created")
_LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"} | dict.fromkeys(
    ("az", "abfs", "abfss"), "adlfs"
)


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
        store = cls(check_address(url), options)
        proxy = proxy_of(url) if store.web else None
        return cls(store.scheme, {"proxy": proxy, **options}) if proxy is not None else store

    @property
    def web(self) -> bool:
        """Whether it is a web server, which answers with a whole file at once and lists nothing."""
        return self.scheme in ("http", "https")

    def ask(self, method: str, *args: Any, deadline_s: float, **options: Any) -> Any:
        """Call a method of the file system, which must answer in time."""
        fs = self.fs
        # fsspec's own wrapper takes the timeout; the few file systems without one are in this process.
        limit = {"timeout": deadline_s} if getattr(fs, "async_impl", False) else {}
        try:
            return getattr(fs, method)(*args, **options, **limit)
        except FileNotFoundError as error:
            # fsspec makes "no such file" of all that a web server can fail by, and of our own refusals.
            cause = error.__cause__
            if not self.web or cause is None or not isinstance(cause, (*failures(), HistomixError)):
                raise
        raise cause  # out here, where it is not also said to come from the other, which comes from it

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
        if self.web:
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
    """What a store says of one file: size, version and digest (``"md5:<hex>"``), None where it does not say."""

    size: int | None
    version: str | None
    digest: str | None = None

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
    return Remote(info.get("size"), version, f"md5:{md5}" if md5 and re.fullmatch("[0-9a-f]{32}", md5) else None)


def validator(version: str | None) -> str | None:
    """What a version holds that joins ranges of one file (If-Range): its ETag or, where it has none, its date."""
    try:
        facts = json.loads(version or "{}")
        mark = str(facts.get("ETag") or facts.get("Last-Modified") or "")
    except (ValueError, AttributeError):  # a damaged stamp tells nothing
        return None
    # A weak tag must not be used to join ranges (RFC 9110, 13.1.5).
    return None if not mark or mark.startswith("W/") else mark


def answer_stat(answer: Any) -> Remote:
    """What a web server says of a file with its answer to a GET (of aiohttp), also to one for the end of the file."""
    headers, size = answer.headers, None
    if headers.get("Content-Encoding", "identity") == "identity":  # else it counts the packed bytes
        size = answer.content_length
    if answer.status == 206 and (
        ranged := re.match(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", headers.get("Content-Range", ""))
    ):
        size = int(ranged[2]) if ranged[2] != "*" else None if size is None else int(ranged[1]) + size
    stamps = {name: headers[name] for name in ("ETag", "Last-Modified") if headers.get(name)}
    version = json.dumps(stamps, sort_keys=True)
    # The Hugging Face hub names the sha256 of a large file where it sends us on to it.
    tags = (step.headers.get("X-Linked-ETag", "").strip('"') for step in (*answer.history, answer))
    digest = next((f"sha256:{tag}" for tag in tags if re.fullmatch("[0-9a-f]{64}", tag)), None)
    return Remote(size, version if validator(version) is not None else None, digest)
