"""Servers that would keep us for ever: each is left after a bounded number of requests, bytes and seconds."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from histomix.common.transfer import addresses
from histomix.common.transfer.addresses import check_address, check_redirect
from histomix.common.transfer.download import ONCE, RemoteFile, download
from histomix.datasets import fetch_cohort
from histomix.errors import DownloadError, HistomixError, InputError, SlideError, StorageError
from histomix.prediction import slide_jobs
from histomix.slides import Retry, SlideCache, is_remote

from .extras import needs_extra

pytestmark = needs_extra("remote", "fsspec", "aiohttp")
QUICK = Retry(attempts=3, wait_s=0.01, most=12, silence_s=0.5)
Act = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Does to every request what ``act`` does, and counts."""

    daemon_threads = True

    def __init__(self, act: Act) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.act = act
        self.asked: list[tuple[str, str]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_args: object) -> None:
        """A client that goes is what we want."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path))
        if self.path.endswith(".sha256"):
            self.send_error(404)
            return
        with contextlib.suppress(OSError):
            self.server.act(self)

    def begin(self, length: int | None, **headers: str) -> bool:
        """Send the head of an answer; whether a body is asked for."""
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in {"ETag": '"one"', **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        return self.command == "GET"

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.server.sent += len(data)

    def log_message(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def serving(act: Act) -> Iterator[Server]:
    with Server(act) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


def _refused(act: Act, tmp_path: Path, name: str = "a.svs", limit: int = 64 << 30, seconds: float = 30) -> tuple:
    """Fetch from a hostile server, and what it could do to us: error, requests, bytes sent."""
    with serving(act) as server:
        cache, began = SlideCache(tmp_path / "cache", limit_bytes=limit, retry=QUICK), time.monotonic()
        with pytest.raises(HistomixError) as raised, cache.local(f"{server.url}/{name}"):
            pass
        assert time.monotonic() - began < seconds
        left = sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file())
        return raised.value, len(server.asked), server.sent, left


def _without_end(handler: Handler) -> None:
    if handler.begin(None, **({} if handler.command == "GET" else {"Content_Length": "1000"})):
        while True:
            handler.send(bytes(1 << 20))


def test_more_than_was_promised_is_cut(tmp_path: Path) -> None:
    error, requests, sent, left = _refused(_without_end, tmp_path)
    assert isinstance(error, DownloadError) and "sends more without end" in str(error)
    assert requests < 10 and sent < 64 << 20 and left < 10_000


def test_an_endless_file_of_no_size_ends_at_the_cache(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        if handler.begin(None):
            while True:
                handler.send(bytes(1 << 20))

    error, requests, sent, left = _refused(act, tmp_path, limit=20 << 20)
    assert isinstance(error, StorageError) and "larger than the cache may be" in str(error)
    assert requests < 10 and sent < 100 << 20 and left < 10_000


def test_an_etag_that_always_changes_is_given_up(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        if handler.begin(1000, ETag=f'"{time.monotonic_ns()}"'):
            handler.send(bytes(1000))

    error, requests, _, _ = _refused(act, tmp_path)
    assert "was replaced while it was fetched" in str(error) and requests < 20


@pytest.mark.parametrize("each", [1, 100_000])
def test_a_connection_that_always_breaks_is_given_up(tmp_path: Path, each: int) -> None:
    def act(handler: Handler) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str((1 << 30) - start))
        handler.send_header("ETag", '"one"')
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{(1 << 30) - 1}/{1 << 30}")
        handler.end_headers()
        if handler.command == "GET":
            handler.send(bytes(each))
            handler.wfile.flush()

    error, requests, _, _ = _refused(act, tmp_path, limit=1 << 50)
    assert "what has arrived is kept" in str(error)
    # Single bytes are no progress; pieces are, as often as a file may be asked for.
    assert requests <= (8 if each == 1 else QUICK.most + 6)


def test_a_body_that_drips_is_a_lost_connection(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        if handler.begin(1 << 20):
            for _ in range(2000):
                handler.send(b"x")
                time.sleep(0.05)

    error, requests, _, _ = _refused(act, tmp_path)
    assert "bytes came in" in str(error) and requests < 10


def test_an_answer_that_never_begins_is_a_lost_connection(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(2000):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    error, requests, _, _ = _refused(act, tmp_path)
    assert isinstance(error, DownloadError) and requests <= 2 * QUICK.attempts


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "s3://bucket/x", "data:,x", "//[", ""])
def test_a_redirect_to_another_kind_of_address_is_not_followed(tmp_path: Path, target: str) -> None:
    def act(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    error, requests, _, _ = _refused(act, tmp_path)
    assert isinstance(error, DownloadError) and requests < 30
    if "//" in target and target != "//[":
        assert "sends us on to another kind of address" in str(error)


def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", handler.path + "x")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    error, requests, _, _ = _refused(act, tmp_path)
    assert isinstance(error, DownloadError) and requests < 100


def test_an_honest_redirect_is_followed(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        if handler.path == "/a.svs":
            handler.send_response(302)
            handler.send_header("Location", "/elsewhere/..%2F..%2Fb.svs?sig=1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        elif handler.begin(5):
            handler.send(b"slide")

    with serving(act) as server, SlideCache(tmp_path, retry=QUICK).local(f"{server.url}/a.svs") as path:
        # The name is of the address that the user gave, whatever the server calls it.
        assert path.name == "a.svs" and path.read_bytes() == b"slide"


@pytest.mark.parametrize(
    ("source", "target", "fine"),
    [
        ("https://a.example/x", "https://b.example/y", True),
        ("https://a.example/x", "/y?z", True),
        ("http://a.example/x", "https://a.example/x", True),
        ("https://a.example/x", "http://a.example/x", False),
        ("https://a.example/x", "file:///etc/passwd", False),
        ("https://a.example/x", "gopher://a.example/", False),
        ("https://a.example/x", "https://inner.example/y", False),
        ("https://a.example/x", "https://169.254.169.254/latest/meta-data/", False),
        ("https://a.example/x", "https://127.0.0.1/", False),
        ("https://a.example/x", "https://2130706433/", False),
        ("https://a.example/x", "https://[::1]/", False),
        ("https://a.example/x", "https://[::ffff:10.0.0.1]/", False),
        ("https://a.example/x", "https://[64:ff9b::a9fe:a9fe]/", False),
        ("https://a.example/x", "https://[64:ff9b::5db8:d822]/", True),
        ("https://a.example/x", "https://[2002:7f00:1::]/", False),
        ("https://a.example/x", "https://[::10.0.0.1]/", False),
        ("https://a.example/x", "https://[fe80::1%25eth0]/", False),
        ("https://a.example/x", "https://192.0.0.192/latest/", False),
        ("https://both.example/x", "https://inner.example/y", False),
        ("https://inner.example/x", "https://other-inner.example/y", True),
        ("https://a.example/x", "https://no-such.example/y", True),
        ("https://a.example/x", "https://[", False),
    ],
)
def test_where_a_server_may_send_us(monkeypatch: pytest.MonkeyPatch, source: str, target: str, fine: bool) -> None:
    known = {
        **{"a.example": ["93.184.216.34"], "b.example": ["2606:2800:220:1:248:1893:25c8:1946"]},
        **{"inner.example": ["10.1.2.3"], "other-inner.example": ["192.168.7.7"]},
        **{"both.example": ["93.184.216.34", "10.1.2.3"], "2130706433": ["127.0.0.1"]},
    }

    def pretend(host: str, _port: object) -> list[tuple]:
        if host.endswith(".example") and host not in known:
            raise socket.gaierror
        if "%25" in host:
            raise socket.gaierror  # no system knows zones in this form
        return [(0, 0, 0, "", (address, 0)) for address in known.get(host, [host])]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", pretend)
    if fine:
        check_redirect(source, target)
    else:
        with pytest.raises(DownloadError):
            check_redirect(source, target)


@pytest.mark.parametrize("listing", ["long", "wide", "slow"])
def test_a_listing_without_end_is_left(tmp_path: Path, listing: str) -> None:
    def act(handler: Handler) -> None:
        if not handler.path.endswith("/"):
            if handler.begin(1):
                handler.send(b"m")
        elif handler.begin(None, Content_Type="text/html"):
            for number in range(0, 10_000_000, 1000):
                links = "".join(f'<a href="{number + more}.dat">x</a>' for more in range(1000))
                handler.send({"long": bytes(1 << 16), "wide": links.encode(), "slow": b" "}[listing])
                time.sleep(0.05 if listing == "slow" else 0)

    error, requests, sent, _ = _refused(act, tmp_path, name="a.mrxs")
    assert isinstance(error, SlideError) and requests < 10 and sent < 64 << 20
    assert ("a slide has at most" in str(error)) == (listing == "wide")


def test_the_digest_beside_a_slide_is_read_as_far_as_it_can_be_one(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        if handler.path.endswith("256"):
            if handler.begin(None):
                while True:
                    handler.send(b"0" * 4096)
        elif handler.begin(5):
            handler.send(b"slide")

    class Open(Handler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                act(self)

    with serving(act) as server:
        server.RequestHandlerClass = Open
        with SlideCache(tmp_path, retry=QUICK).local(f"{server.url}/a.svs") as path:
            assert path.read_bytes() == b"slide"
        assert server.sent < 32 << 20


@pytest.mark.parametrize(
    "address",
    [
        *("simplecache::https://h/x.svs", "zip://a.svs::https://h/x.zip", "filecache::s3://b/x.svs", "dir::file:///x"),
        *("https://h/x.svs::file:///etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "local:///etc/passwd"),
        *("github://a:b@main/x.svs", "reference://x.json", "ftp://h/x.svs", "sftp://h/x.svs", "smb://h/x.svs"),
        *("hdfs://h/x", "jupyter://h/x", "dask://x", "libarchive://x", "git://h/x", "nothing://x/a.svs"),
        *("http://", "http:///x.svs", "https://[::1/x.svs", "http://h:99999/x.svs", "http://h/x\n.svs", "http://h/\tx"),
        *("s3://", "https://h/x\r\nHost: other"),
    ],
)
def test_other_kinds_of_addresses_are_refused_in_words(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        check_address(address)
    assert raised.value.hint
    with pytest.raises(InputError):
        slide_jobs([address], tmp_path / "out")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f'slide\n"{address.strip()}"\n', newline="")
    with pytest.raises(InputError, match="row 2"):
        slide_jobs([sheet], tmp_path / "out")
    if is_remote(address):
        with pytest.raises(InputError), SlideCache(tmp_path / "cache", retry=QUICK).local(address):
            pass


@pytest.mark.parametrize("address", ["https://h/x", "HTTP://h:80/x", "http://[::1]:80/x", "s3://b/x", "memory:///x"])
def test_these_kinds_are_read(address: str) -> None:
    assert is_remote(address) and check_address(address) == address.partition(":")[0].lower()


def test_an_address_that_is_refused_shows_no_secret(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        slide_jobs(["ftp://me:pa55@h/x.svs?sig=s3cret"], tmp_path)
    assert "pa55" not in str(raised.value) and "s3cret" not in str(raised.value)


# Public cohorts.


def _fetched(act: Act, folder: Path, silence_s: float = 60, **facts: int) -> tuple[HistomixError, Server]:
    with serving(act) as server:
        with pytest.raises(HistomixError) as raised:
            download(RemoteFile("f", f"{server.url}/f", **facts), folder, retry=replace(ONCE, silence_s=silence_s))
        return raised.value, server


def test_a_cohorts_file_without_end_is_cut(tmp_path: Path) -> None:
    for length in (None, 1 << 40):

        def act(handler: Handler, length: int | None = length) -> None:
            if handler.begin(length):
                while True:
                    handler.send(bytes(1 << 16))

        error, server = _fetched(act, tmp_path, most_bytes=1 << 20)
        assert isinstance(error, DownloadError) and "larger than it may be" in str(error)
        assert len(server.asked) == 1 and server.sent < 32 << 20 and not list(tmp_path.iterdir())


def test_a_cohorts_file_that_drips_is_a_lost_connection(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        if handler.begin(1 << 20):
            for _ in range(1000):
                handler.send(b"x")
                handler.wfile.flush()
                time.sleep(0.05)

    began = time.monotonic()
    error, server = _fetched(act, tmp_path, silence_s=0.5)
    assert "bytes came in" in str(error) and time.monotonic() - began < 10 and len(server.asked) == 1


def test_a_cohorts_server_that_refuses_every_range_ends(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        handler.send_error(416)

    (tmp_path / "f.part").write_bytes(b"begun")
    (tmp_path / "f.part.stamp").write_text(json.dumps({"ETag": '"one"'}))
    error, server = _fetched(act, tmp_path)
    assert isinstance(error, DownloadError) and "416" in str(error) and len(server.asked) == 2


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "again"])
def test_a_cohorts_server_sends_us_nowhere_else(tmp_path: Path, target: str) -> None:
    def act(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    error, server = _fetched(act, tmp_path)
    assert isinstance(error, DownloadError) and len(server.asked) < 20
    assert ("sends us on" in str(error)) == (target != "again")


def test_a_listing_of_very_many_files_is_refused(tmp_path: Path) -> None:
    tree = [{"path": f"data/ST-cnts/A{number}.tsv.gz", "type": "blob", "sha": "0" * 40} for number in range(6000)]

    def act(handler: Handler) -> None:
        data = json.dumps({"tree": tree}).encode()
        if handler.begin(len(data)):
            handler.send(data)

    with serving(act) as server:
        with pytest.raises(DownloadError, match="lists 6000 files"):
            fetch_cohort("her2st", tmp_path, mirror=server.url)
        assert len(server.asked) == 1


def test_what_breaks_off_is_told_without_words_of_python(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        if handler.begin(1000):
            handler.send(bytes(10))

    error, _requests, _sent, _left = _refused(act, tmp_path)
    assert isinstance(error, DownloadError) and "broke off" in str(error) and "Error" not in str(error)


def test_a_slide_that_is_larger_than_the_cache_is_called_by_its_address(tmp_path: Path) -> None:
    error, _requests, _sent, _left = _refused(lambda handler: handler.begin(2**62), tmp_path)
    assert isinstance(error, StorageError) and "larger than the cache may be" in str(error)
    assert (error.where or "").startswith("http://127.0.0.1")
