"""Small requests tried again, and the errors of network libraries in our words."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...errors import DownloadError, HistomixError, MissingDownloadError, RefusedDownloadError
from .addresses import redact_url

#: Bytes that must come for a connection to count as one that works; fewer in ``silence_s`` is a lost one.
LEAST_BYTES = 64 << 10
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError)
#: Statuses of a web server below 500 after which a second request may do better.
_TRY_AGAIN_STATUS = (408, 425, 429)
_LOST = "the server cannot be reached or broke off"
#: Errors of network libraries that are no OSError; looked up only where the library is loaded already.
_FOREIGN = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}


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
    kinds: list[type[BaseException]] = [OSError, asyncio.TimeoutError]
    for module, names in _FOREIGN.items():
        if module in sys.modules:
            kinds += [getattr(sys.modules[module], name) for name in names]
    return tuple(kinds)


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may do better a moment later."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _TRY_AGAIN_STATUS
    return not isinstance(error, _PERMANENT) and "credentials" not in type(error).__name__.lower()


def as_download_error(error: BaseException, url: str) -> DownloadError:
    """The error in words that hold neither the address's secrets nor the credentials."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return MissingDownloadError(
            "there is no such file at this address" + _numbered(status), where=redact_url(url), hint="Check the address"
        )
    named = type(error).__name__
    if isinstance(error, PermissionError) or "Credentials" in named or status in (401, 403):
        return RefusedDownloadError(
            "access is refused" + _numbered(status),
            where=redact_url(url),
            hint="Give credentials in the way of the store's own tools (for S3: AWS_PROFILE or AWS_ACCESS_KEY_ID; for "
            "Google: gcloud auth application-default login; for others: the configuration of fsspec)",
        )
    refused = isinstance(status, int)
    return DownloadError(
        f"the server refuses{_numbered(status)}" if refused else f"{_LOST} ({_words(error, url)})",
        where=redact_url(url),
        hint="Run the same command again; what has arrived is kept",
    )


def _numbered(status: object) -> str:
    return f" (status {status})" if isinstance(status, int) else ""


def _words(error: BaseException, url: str) -> str:
    text = str(error) or type(error).__name__
    secrets = [url, urlsplit(url).query, urlsplit(url).netloc.rpartition("@")[0]]
    for secret in filter(None, secrets):
        text = text.replace(secret, "...")
    # aiohttp shows the error below as Python would: <ContentLengthError: 400, message='Not enough data ...'>
    text = re.sub(r"<\w+: \d+, message=(['\"])(.*?)\1.*?>", r"\2", text)
    # Anything that looks like a signed address of somewhere else (a redirect), or a user of a proxy, goes too.
    text = re.sub(r"//[^/@\s]*@", "//...@", text)
    return re.sub(r"\?[^\s'\"),]+", "?...", text)[:300]
