"""One answer of a web server, with an end to its silence, to its length and to its redirects."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from functools import cache
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

from .addresses import check_redirect
from .retry import failures

#: Pieces of an answer that wait here; then the server waits.
_CHUNKS_AHEAD = 16


def session_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of aiohttp's session: a user's own, and ours for silence and redirects.

    A slide may take an hour; silence for a minute is a lost connection.
    """
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=20, sock_read=60)
    return {"timeout": timeout, **given, "trace_configs": [_redirects(), *given.get("trace_configs", ())]}


def proxy_of(url: str) -> str | None:
    """The proxy that the usual variables (``HTTPS_PROXY``, ``NO_PROXY``) name for an address.

    aiohttp would take it by itself, and with it the passwords of ``~/.netrc``, which are for nobody here.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


@cache
def _redirects() -> Any:
    """A look at each redirect before it is followed: one object, as fsspec keeps its sessions by their options."""
    from aiohttp import TraceConfig

    async def check(_session: Any, _context: Any, about: Any) -> None:
        target = about.response.headers.get("Location") or about.response.headers.get("URI") or ""
        # Finding a host's addresses may take long, and others use this loop.
        await asyncio.get_running_loop().run_in_executor(None, check_redirect, str(about.response.url), target)

    trace = TraceConfig()
    trace.on_request_redirect.append(check)
    return trace


@contextlib.contextmanager
def answered(fs: Any, url: str, headers: Mapping[str, str], silence_s: float) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """The answer to a GET, and its bytes as they come.

    Raises
    ------
    OSError, aiohttp.ClientError, asyncio.TimeoutError
        The server refuses, or is silent for ``silence_s`` before the answer or between any of its bytes; raised after
        all that came before.
    DownloadError
        It sends us on to where we do not go.
    """
    from fsspec.asyn import sync

    session = sync(fs.loop, fs.set_session)
    options = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity", **headers}}
    came: asyncio.Queue[bytes | BaseException] = asyncio.Queue(_CHUNKS_AHEAD)

    async def receive(answer: Any) -> None:
        # Taken from aiohttp at once: when a connection breaks, it forgets what was not yet asked for.
        try:
            while chunk := await answer.content.readany():
                await came.put(chunk)
            await came.put(b"")
        except failures() as error:
            await came.put(error)

    async def ask() -> Any:
        answer = await session.get(fs.encode_url(url), **options)
        answer.raise_for_status()
        if answer.status not in (200, 206):  # a redirect to nowhere, or no content
            answer.close()
            raise ConnectionError(f"status {answer.status}")
        return answer, asyncio.get_running_loop().create_task(receive(answer))

    def chunks() -> Iterator[bytes]:
        while chunk := sync(fs.loop, came.get, timeout=silence_s):
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    answer, task = sync(fs.loop, ask, timeout=silence_s)
    try:
        yield answer, chunks()
    finally:
        fs.loop.call_soon_threadsafe(task.cancel)
        fs.loop.call_soon_threadsafe(answer.close)


def links(fs: Any, folder: str, silence_s: float, most_bytes: int) -> list[str]:
    """Addresses straight below a folder that its index page links to; what is longer than ``most_bytes`` is cut."""
    page = f"{folder}/"
    with answered(fs, page, {}, silence_s) as (answer, chunks):
        if answer.headers.get("Content-Type", "text/html").partition(";")[0].strip().lower() != "text/html":
            return []
        parser = _Links(page)
        parser.feed(beginning(chunks, most_bytes, silence_s).decode("utf-8", "replace"))
    below = [url for url in parser.targets if url.startswith(page) and "?" not in url and "#" not in url]
    return [url for url in below if url[len(page) :] and "/" not in url[len(page) :]]


def beginning(chunks: Iterator[bytes], most_bytes: int, silence_s: float) -> bytes:
    """The first bytes of an answer, as many as come in time."""
    text, until = b"", time.monotonic() + silence_s
    while len(text) < most_bytes and time.monotonic() < until and (chunk := next(chunks, b"")):
        text += chunk
    return text[:most_bytes]


class _Links(HTMLParser):
    """Where the links of a page lead, each once, in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.targets: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of a link."""
        for name, value in attrs:
            if tag == "a" and name == "href" and value:
                with contextlib.suppress(ValueError):  # of what is no address
                    self.targets[urljoin(self.page, value)] = None
