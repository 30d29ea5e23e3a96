"""One engine brings slides and cohorts: what it joins, whom it tells secrets, and by which way it goes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from histomix.common.transfer.download import RemoteFile, download
from histomix.common.transfer.fetch import fetch_file
from histomix.common.transfer.retry import Retry
from histomix.common.transfer.store import Store
from histomix.datasets import fetch_cohort
from histomix.errors import DownloadError, MissingDownloadError, RefusedDownloadError, StorageError, TooLargeError

from .extras import needs_extra

pytestmark = needs_extra("st", "aiohttp", "fsspec")
QUICK = Retry(attempts=3, wait_s=0.01)
DATA = bytes(range(256)) * 2000
#: More than what a client holds unread, so that some of it has been read when the line goes dead.
CUT = 300_000


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers.items())))
        with contextlib.suppress(OSError):
            self.server.act(self)

    def answer(self, data: bytes, status: int = 200, end: int | None = None, **headers: str) -> None:
        """Send ``data`` up to ``end``, and promise all of it."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:end])

    def log_message(self, *_args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Does to every request what ``act`` does."""

    daemon_threads = True

    def __init__(self, act: Callable[[Handler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.act = act
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for how, _, headers in self.asked if how == "GET"]


@contextlib.contextmanager
def serving(act: Callable[[Handler], None]) -> Iterator[Server]:
    with Server(act) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


def begun(server: Server, folder: Path) -> RemoteFile:
    """A file whose first part has come, by a connection that broke."""
    file = RemoteFile("f", f"{server.url}/f")
    with pytest.raises(DownloadError, match="what has arrived is kept"):
        download(file, folder)
    assert 0 < (folder / "f.part").stat().st_size <= CUT
    server.asked.clear()
    return file


@pytest.mark.parametrize("marks", [{"ETag": '"one"'}, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_part_goes_on_only_as_the_version_that_it_is_of(tmp_path: Path, marks: dict[str, str]) -> None:
    def act(handler: Handler) -> None:
        ranged, known = handler.headers.get("Range"), handler.headers.get("If-Range")
        if not ranged:
            handler.answer(DATA, end=CUT, **marks)
        elif known == next(iter(marks.values())):
            start = int(ranged[6:-1])
            place = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"}
            handler.answer(DATA[start:], 206, **marks, **place)

    with serving(act) as server:
        file = begun(server, tmp_path)
        assert download(file, tmp_path).read_bytes() == DATA
        assert len(server.asked) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "f.sha256"]


@pytest.mark.parametrize("mark", ['W/"one"', ""])
def test_a_part_of_no_known_version_is_not_joined(tmp_path: Path, mark: str) -> None:
    whole = False

    def act(handler: Handler) -> None:
        handler.answer(DATA, end=None if whole else CUT, **({"ETag": mark} if mark else {}))

    with serving(act) as server:
        file, whole = begun(server, tmp_path), True
        assert download(file, tmp_path).read_bytes() == DATA
        assert server.ranges() == [None]


@pytest.mark.parametrize("answers", ["another version", "no range", "another range"])
def test_a_range_that_does_not_fit_is_not_joined(tmp_path: Path, answers: str) -> None:
    new = DATA[::-1]
    served = DATA

    def act(handler: Handler) -> None:
        ranged = handler.headers.get("Range")
        if not ranged:
            handler.answer(served, end=CUT if served is DATA else None, ETag='"one"' if served is DATA else '"two"')
            return
        # It does not look at If-Range.
        start = int(ranged[6:-1])
        at = start + 1 if answers == "another range" else start
        place = {} if answers == "no range" else {"Content-Range": f"bytes {at}-{len(DATA) - 1}/{len(DATA)}"}
        tag = '"two"' if answers == "another version" else '"one"'
        handler.answer(new[at:], 206, ETag=tag, **place)

    with serving(act) as server:
        file, served = begun(server, tmp_path), new
        assert download(file, tmp_path).read_bytes() == new
        assert [bool(ranged) for ranged in server.ranges()] == [True, False]


def test_a_file_that_the_server_packs_is_kept_as_it_is(tmp_path: Path) -> None:
    packed = gzip.compress(DATA)
    with serving(lambda handler: handler.answer(packed, Content_Encoding="gzip", ETag='"one"')) as server:
        wanted = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
        assert download(RemoteFile("f", f"{server.url}/f", wanted), tmp_path).read_bytes() == DATA


def test_what_the_hub_says_of_a_file_holds_for_slides_too(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        handler.answer(b"tampered with", ETag='"one"', X_Linked_ETag=f'"{hashlib.sha256(b"the thing").hexdigest()}"')

    with serving(act) as server, pytest.raises(DownloadError, match="does not have the sha256"):
        fetch_file(Store.of(f"{server.url}/f", {}), f"{server.url}/f", tmp_path / "f", retry=QUICK)
    assert not list(tmp_path.iterdir())


def test_a_token_is_not_handed_on_to_another_server(tmp_path: Path) -> None:
    with serving(lambda handler: handler.answer(b"data")) as other:

        def act(handler: Handler) -> None:
            handler.answer(b"", 302, Location=f"{other.url}/f")

        with serving(act) as hub:
            file = RemoteFile("f", f"{hub.url}/f")
            assert download(file, tmp_path, {"Authorization": "Bearer s3cret"}).read_bytes() == b"data"
            assert hub.asked[0][2]["Authorization"] == "Bearer s3cret"
        assert len(other.asked) == 1 and "s3cret" not in str(other.asked)


def test_a_proxy_is_taken_from_the_usual_variables_and_no_password_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password s3cret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url = "http://slides.invalid/f"
    with serving(lambda handler: handler.answer(DATA, ETag='"one"')) as proxy:
        for written in (proxy.url, proxy.url.removeprefix("http://")):
            monkeypatch.setenv("HTTP_PROXY", written)
            download(RemoteFile(f"cohort-{len(proxy.asked)}", url), tmp_path)
        fetch_file(Store.of(url, {}), url, tmp_path / "slide", retry=QUICK)
        assert {path for _, path, _ in proxy.asked} == {url} and len(proxy.asked) == 5
        assert not [headers for _, _, headers in proxy.asked if "Authorization" in headers]
        # The server itself, for hosts that are not to be reached by the proxy.
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert download(RemoteFile("direct", f"{proxy.url}/f"), tmp_path).read_bytes() == DATA


def test_the_password_of_a_proxy_shows_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for proxy in ("http://me:s3cret@127.0.0.1:9", "me:s3cret@127.0.0.1:9", "http://me:s3cret@[127", "me:s3cret@host:x"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with pytest.raises(DownloadError, match="cannot be reached") as raised:
            download(RemoteFile("f", "http://slides.invalid/f"), tmp_path)
        assert "s3cret" not in str(raised.value)


def test_the_password_of_a_mirror_shows_nowhere(tmp_path: Path) -> None:
    with serving(lambda handler: handler.answer(b"", 500)) as mirror:
        host = mirror.url.removeprefix("http://")
        with pytest.raises(DownloadError) as raised:
            fetch_cohort("her2st", tmp_path, mirror=f"http://me:s3cret@{host}")
        assert "s3cret" not in str(raised.value) and f"http://{host}/api.github.com" in str(raised.value)
        assert mirror.asked[0][2]["Authorization"].startswith("Basic ")


def test_refusals_are_of_pythons_own_kinds(tmp_path: Path) -> None:
    kinds: dict[int, type[DownloadError]] = {404: MissingDownloadError, 403: RefusedDownloadError}
    for status, kind in kinds.items():
        with serving(lambda handler, status=status: handler.answer(b"", status)) as server:  # type: ignore[misc]
            for stat in (True, False):
                url = f"{server.url}/f"
                with pytest.raises(kind) as raised:
                    fetch_file(Store.of(url, {}), url, tmp_path / "f", retry=QUICK, stat=stat)
                # Whoever walks along its causes comes to an end.
                error: BaseException | None = raised.value
                seen: set[int] = set()
                while error is not None:
                    assert id(error) not in seen
                    seen.add(id(error))
                    error = error.__cause__ or error.__context__
    assert issubclass(RefusedDownloadError, PermissionError)


def test_a_server_that_is_not_there_is_no_absent_file(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/f"
    for stat in (True, False):
        with pytest.raises(DownloadError, match="cannot be reached") as raised:
            fetch_file(Store.of(url, {}), url, tmp_path / "f", retry=QUICK, stat=stat)
        assert type(raised.value) is DownloadError


Usage = namedtuple("Usage", "total used free")


def test_room_and_length_are_looked_at_before_anything_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda handler: handler.answer(DATA, ETag='"one"')) as server:
        file = RemoteFile("f", f"{server.url}/f", most_bytes=len(DATA) - 1)
        with pytest.raises(TooLargeError):
            download(file, tmp_path)
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(len(DATA), 1, len(DATA) - 1))
        with pytest.raises(StorageError, match=r"f needs 0.488 MB more"):
            download(RemoteFile("f", f"{server.url}/f"), tmp_path)
        assert not (tmp_path / "f").exists() and (tmp_path / "f.part").stat().st_size == 0
        monkeypatch.undo()
        assert download(RemoteFile("f", f"{server.url}/f"), tmp_path).read_bytes() == DATA


def test_the_digest_is_noted_before_the_file_has_its_name(tmp_path: Path) -> None:
    def arrived(whole: Path) -> None:
        assert whole.read_bytes() == DATA and not (tmp_path / "f").exists()
        raise OSError("the disk is full")

    with serving(lambda handler: handler.answer(DATA, ETag='"one"')) as server:
        url = f"{server.url}/f"
        with pytest.raises(StorageError, match="the disk is full"):
            fetch_file(Store.of(url, {}), url, tmp_path / "f", retry=QUICK, arrived=arrived)
    assert not (tmp_path / "f").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("suffix", [".part", ".part.stamp", ".sha256"])
def test_a_link_beside_a_file_has_no_other_overwritten(tmp_path: Path, suffix: str) -> None:
    """In a folder that others may write to, the names of what is on its way are known before."""
    precious, folder = tmp_path / "precious.txt", tmp_path / "shared"
    precious.write_text("mine")
    folder.mkdir()
    with serving(lambda handler: handler.answer(DATA, ETag='"1"')) as server:
        if suffix == ".part":  # so that a transfer seems to have been begun
            (folder / "a.bin.part.stamp").write_text('{"ETag": "\\"1\\""}')
        (folder / f"a.bin{suffix}").symlink_to(precious)
        with pytest.raises(StorageError, match="cannot be written"):
            download(RemoteFile("a.bin", f"{server.url}/a.bin"), folder, retry=QUICK)
    assert precious.read_text() == "mine" and not (folder / "a.bin").exists()
