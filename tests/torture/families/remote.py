"""Slides behind servers that cut, lie, redirect and change their minds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from .. import commands
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role
from ..damage.of_bytes import PAGE
from ..materials import MPP, Materials
from .tiff import write

#: What the server does, by the first folder of the address.
WAYS: dict[str, str] = {
    "right": RIGHT,
    "no-ranges": RIGHT,
    "no-length": EITHER,
    "chunked": EITHER,
    "no-etag": RIGHT,
    "weak-etag": EITHER,
    "breaks-once": RIGHT,
    "breaks-always": ERROR,
    "length-more": ERROR,
    "length-less": ERROR,
    "length-negative": ERROR,
    "length-text": ERROR,
    "length-huge": ERROR,
    "head-says-more": EITHER,
    "head-says-less": EITHER,
    "head-refused": EITHER,
    "empty": ERROR,
    "page": ERROR,
    "page-as-tiff": ERROR,
    "other-range": EITHER,
    "range-lie": EITHER,
    "etag-changes": EITHER,
    "content-changes": EITHER,
    "redirect": RIGHT,
    "redirect-twice": RIGHT,
    "redirect-loop": ERROR,
    "redirect-to-file": ERROR,
    "redirect-nowhere": ERROR,
    "redirect-blank": ERROR,
    "gzip": EITHER,
    "status-204": ERROR,
    "status-401": ERROR,
    "status-403": ERROR,
    "status-404": ERROR,
    "status-410": ERROR,
    "status-416": ERROR,
    "status-500": ERROR,
    "busy-once": EITHER,
    "status-999": ERROR,
    "slow": EITHER,
    "no-http": ERROR,
    "header-huge": ERROR,
    "bit-flipped": UNTOLD,
    "hole": EITHER,
    "cut": ERROR,
}


class Server(ThreadingHTTPServer):
    """Serves one slide in every `WAYS`; ``asked`` counts the GETs of each address."""

    daemon_threads = True

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = data
        self.asked: dict[str, int] = {}
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        way = self.path.split("/")[1]
        with self.server.lock:
            count = self.server.asked.get(self.path, 0)
            self.server.asked[self.path] = count + body
        if way.startswith("status-"):
            self.send_response(int(way[7:]))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if way.startswith("redirect"):
            self._redirect(way)
            return
        if way == "no-http":
            self.wfile.write(b"220 ftp ready\r\n")
            return
        if (way == "busy-once" and body and not count) or (way == "head-refused" and not body):
            self.send_error(503 if body else 405)
            return
        self._send(way, count, body)

    def _redirect(self, way: str) -> None:
        name = self.path.rsplit("/", 1)[1]
        to = {
            "redirect": f"/right/{name}", "redirect-twice": f"/redirect/{name}", "redirect-loop": self.path,
            "redirect-to-file": "file:///etc/hostname", "redirect-nowhere": "http://127.0.0.1:1/a.tif",
            "redirect-blank": "",
        }[way]  # fmt: skip
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, way: str, count: int, body: bool) -> None:
        data = self._data(way, count)
        asked = self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        ranged = bool(asked) and way not in ("no-ranges", "chunked")
        start, stop = (int(first or 0), min(int(last or len(data) - 1) + 1, len(data))) if ranged else (0, len(data))
        part = data[start:stop] if way != "other-range" else data[: stop - start]
        self.send_response(206 if ranged else 200)
        length = {
            "length-more": len(part) + 1000, "length-less": max(0, len(part) - 1000), "length-negative": -5,
            "length-text": "many", "length-huge": 2**62,
        }.get(way, len(part))  # fmt: skip
        if not body:
            length = {"head-says-more": len(part) * 2, "head-says-less": len(part) // 2}.get(way, length)
        if way not in ("no-length", "chunked"):
            self.send_header("Content-Length", str(length))
        if ranged:
            total = len(data) * (3 if way == "range-lie" else 1)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        if way not in ("no-ranges",):
            self.send_header("Accept-Ranges", "bytes")
        if way != "no-etag":
            tag = f'"{count}"' if way in ("etag-changes", "content-changes") else '"one"'
            self.send_header("ETag", f"W/{tag}" if way == "weak-etag" else tag)
        if way == "page":
            self.send_header("Content-Type", "text/html")
        if way == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if way == "header-huge":
            self.send_header("X-Much", "x" * 200_000)
        self.end_headers()
        if body:
            self._write(way, count, part)

    def _data(self, way: str, count: int) -> bytes:
        data = self.server.data
        if way in ("page", "page-as-tiff"):
            return PAGE
        if way == "content-changes" and count:
            return bytes(255 - byte for byte in data[:2000]) + data[2000:]
        changed = bytearray(data)
        if way == "bit-flipped":
            changed[len(data) // 2] ^= 4
        if way == "hole":
            changed[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
        return {"empty": b"", "cut": data[: len(data) // 2]}.get(way, bytes(changed))

    def _write(self, way: str, count: int, part: bytes) -> None:
        broken = way == "breaks-always" or (way in ("breaks-once", "etag-changes", "content-changes") and not count)
        self.wfile.write(part[: len(part) // 2] if broken else part)
        if broken:
            self.wfile.flush()

    def log_message(self, *_args: object) -> None:
        pass


def serve(materials: Materials) -> tuple[int, str]:
    """A server in a process of its own: its id, and its address."""
    path = materials.folder / "served.tif"
    write(path, materials.pixels(), "zlib", "pyramid")
    server = Server(path.read_bytes())
    pid = os.fork()
    if not pid:
        try:
            server.serve_forever(0.05)
        finally:
            os._exit(0)
    port = server.server_port
    server.server_close()
    return pid, f"http://127.0.0.1:{port}"


def _at(way: str) -> Damage:
    """The address from which the slide is asked for."""
    return lambda path, _rng: path.write_text(way) and None


def cases() -> Iterator[Case]:
    """Cases of remote slides."""

    def argv(room: Path, materials: Materials) -> list[str]:
        os.environ["HISTOMIX_CACHE"] = str(room / "cache")
        way = (room / "way").read_text()
        return commands.predict(f"{materials.url}/{way}/slide.tif", "--head", str(materials.head), "--mpp", str(MPP))

    role = Role(
        "remote",
        "way",
        lambda room, _materials: (room / "way").write_text("right"),
        argv,
        lambda _room: commands.map_of("slide"),
        names=("slide.tif",),
    )
    for way, expect in WAYS.items():
        yield Case(f"remote/{way}", role, _at(way), expect)


__all__ = ["WAYS", "cases", "np", "serve"]
