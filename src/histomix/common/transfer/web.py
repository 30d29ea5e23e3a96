"""One answer of a web server, with an end to its silence, to its length and to its redirects."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

from ..addresses import check_redirect


def session_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of aiohttp's session: a user's own, and ours for silence and redirects.

    A slide may take an hour; silence for a minute is a lost connection.
    """
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=20, sock_read=60)
    return {"timeout": timeout, **given, "trace_configs": [_redirects(), *given.get("trace_configs", ())]}


@cache
def _redirects() -> Any:
    """A look at each redirect before it is followed: one object, as fsspec keeps its sessions by their options."""
    from aiohttp import TraceConfig

    async def remote_stat(_session: Any, _context: Any, about: Any) -> None:
        target = about.response.headers.get("Location") or about.response.headers.get("URI") or ""
        # Finding a host's addresses may take long, and others use this loop.
        await asyncio.get_running_loop().run_in_executor(None, check_redirect, str(about.response.url), target)

    trace = TraceConfig()
    trace.on_request_redirect.append(remote_stat)
    return trace


@contextlib.contextmanager
def answered(
    fs: Any, url: str, headers: Mapping[str, str], silence_s: float
) -> Iterator[tuple[Any, Callable[[int], bytes]]]:
    """The answer to a GET, and a function that reads at most so many bytes of it (none: the end).

    Raises
    ------
    OSError, aiohttp.ClientError, asyncio.TimeoutError
        The server refuses, or is silent for ``silence_s`` before the answer or at any read.
    DownloadError
        It sends us on to where we do not go.
    """
    from fsspec.asyn import sync

    session = sync(fs.loop, fs.set_session)
    options = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity", **headers}}

    async def ask() -> Any:
        found = await session.get(fs.encode_url(url), **options)
        found.raise_for_status()
        if found.status not in (200, 206):  # a redirect to nowhere, or no content
            found.close()
            raise ConnectionError(f"status {found.status}")
        return found

    answer = sync(fs.loop, ask, timeout=silence_s)
    try:
        yield answer, lambda most: sync(fs.loop, answer.content.read, most, timeout=silence_s)
    finally:
        fs.loop.call_soon_threadsafe(answer.close)


def links(fs: Any, folder: str, silence_s: float, most_bytes: int) -> list[str]:
    """Addresses straight below a folder that its index page links to; what is longer than ``most_bytes`` is cut."""
    page = f"{folder}/"
    with answered(fs, page, {}, silence_s) as (answer, read):
        if answer.headers.get("Content-Type", "text/html").partition(";")[0].strip().lower() != "text/html":
            return []
        parser = _Links(page)
        parser.feed(beginning(read, most_bytes, silence_s).decode("utf-8", "replace"))
    below = [url for url in parser.found if url.startswith(page) and "?" not in url and "#" not in url]
    return [url for url in below if url[len(page) :] and "/" not in url[len(page) :]]


def beginning(read: Callable[[int], bytes], most_bytes: int, silence_s: float) -> bytes:
    """The first bytes of an answer, as many as come in time."""
    text, until = b"", time.monotonic() + silence_s
    while len(text) < most_bytes and time.monotonic() < until and (piece := read(most_bytes - len(text))):
        text += piece
    return text


class _Links(HTMLParser):
    """Where the links of a page lead, each once, in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.found: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of a link."""
        for name, value in attrs:
            if tag == "a" and name == "href" and value:
                with contextlib.suppress(ValueError):  # of what is no address
                    self.found[urljoin(self.page, value)] = None
