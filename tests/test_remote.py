"""Remote slides from stores that break, refuse and lie as real ones do."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from histomix.errors import DownloadError, InputError, SlideError, StorageError
from histomix.heads import load_head
from histomix.prediction import Settings, predict_slides, slide_jobs
from histomix.prediction.cluster.worker import Work, chunk_task, finish_task, slide_task
from histomix.slides import Retry, SlideCache, is_remote, open_slide, redact_url, remote_name

from .conftest import Job
from .extras import extra_module
from .slide_files import PATTERN, write_pyramid

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

QUICK = Retry(attempts=4, wait_s=0.01)


class Server(ThreadingHTTPServer):
    """Serves ``files``. ``breaks``: bytes after which each of the next answers breaks off; ``says``: false sizes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.says: dict[str, int] = {}
        self.status: dict[str, list[int]] = {}
        self.tags: dict[str, str] = {}
        self.ranges = True
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self, path: str) -> list[str | None]:
        return [ranged for how, at, ranged in self.asked if how == "GET" and at == path]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, ranged = self.server, self.headers.get("Range")
        path = self.path.partition("?")[0]
        server.asked.append((self.command, path, ranged))
        refused = server.status.get(path) if body else None
        if refused:
            self.send_error(refused.pop(0))
            return
        if path not in server.files:
            self.send_error(404)
            return
        data = server.files[path]
        first, _, last = (ranged or "").removeprefix("bytes=").partition("-")
        start, stop = (int(first or 0), int(last or len(data) - 1) + 1) if server.ranges else (0, len(data))
        data = data[:stop]
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        promised = len(data) if body else server.says.get(path, len(data))
        self.send_header("Content-Length", str(promised - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(server.files[path])}")
        if tag := server.tags.get(path, '"one"'):
            self.send_header("ETag", tag)
        self.end_headers()
        if body:
            broken = server.breaks and len(data) > 10_000
            end = start + server.breaks.pop(0) if broken else len(data)
            self.wfile.write(data[start:end])
            if broken:
                self.wfile.flush()
                time.sleep(0.1)  # so that the client has read it when the line goes dead

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    extra_module("remote", "aiohttp")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def cache(tmp_path: Path) -> SlideCache:
    return SlideCache(tmp_path / "cache", retry=QUICK)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_pyramid(tmp_path_factory.mktemp("slide") / "a.tif", PATTERN).read_bytes()


def _left(cache: SlideCache) -> list[str]:
    return sorted(path.relative_to(cache.folder).as_posix() for path in cache.folder.rglob("*"))


def test_a_slide_over_http_is_the_slide_and_leaves_nothing(server: Server, cache: SlideCache, pyramid: bytes) -> None:
    server.files["/a.tif"] = pyramid
    with cache.local(f"{server.url}/a.tif") as path, open_slide(path) as slide:
        assert slide.name == "a"
        np.testing.assert_array_equal(slide.read(100, 50, 64, 64, slide.mpp), PATTERN[50:114, 100:164])
    assert _left(cache) == []


def test_a_local_path_is_handed_through(cache: SlideCache, tmp_path: Path) -> None:
    with cache.local(tmp_path / "x.svs") as path:
        assert path == tmp_path / "x.svs"
    assert not cache.folder.exists()
    assert is_remote("s3://bucket/x.svs") and not is_remote("C:/x.svs") and not is_remote("file:///x.svs")


def test_a_connection_lost_again_and_again_goes_on_where_it_stopped(server: Server, cache: SlideCache) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    server.files["/a.svs"] = data
    server.breaks = [400_000] * 6  # more than the attempts: each brought something, so none counts against it
    with cache.local(f"{server.url}/a.svs") as path:
        assert path.read_bytes() == data
    ranges = server.gets("/a.svs")
    assert len(ranges) == 7 and ranges[0] is None
    starts = [int(ranged[6:-1]) for ranged in ranges[1:] if ranged]
    assert starts == sorted(set(starts)) and 0 < starts[0] <= 400_000 and starts[-1] > 1_500_000


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server: Server, cache: SlideCache) -> None:
    data = np.random.default_rng(1).bytes(2_000_000)
    server.files["/a.svs"] = data
    server.breaks = [900_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="what has arrived is kept"), cache.local(f"{server.url}/a.svs"):
        pass
    server.breaks, server.asked = [], []
    with cache.local(f"{server.url}/a.svs") as path:
        assert path.read_bytes() == data
    (ranged,) = server.gets("/a.svs")
    assert ranged and int(ranged[6:-1]) > 500_000


def test_a_server_that_refuses_ranges_sends_it_again_from_the_start(server: Server, cache: SlideCache) -> None:
    data = np.random.default_rng(2).bytes(2_000_000)
    server.files["/a.svs"], server.ranges, server.breaks = data, False, [900_000]
    with cache.local(f"{server.url}/a.svs") as path:
        assert path.read_bytes() == data


def test_what_changed_at_the_source_is_not_joined_to_what_was_kept(server: Server, cache: SlideCache) -> None:
    server.files["/a.svs"] = b"old" * 400_000
    server.breaks = [700_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError), cache.local(f"{server.url}/a.svs"):
        pass
    server.files["/a.svs"], server.tags["/a.svs"], server.breaks = b"new" * 400_000, '"two"', []
    with cache.local(f"{server.url}/a.svs") as path:
        assert path.read_bytes() == b"new" * 400_000


@pytest.mark.parametrize("says", [900_000, 1_100_000])
def test_a_server_that_lies_about_the_size_is_named(server: Server, cache: SlideCache, says: int) -> None:
    server.files["/a.svs"], server.says["/a.svs"] = bytes(1_000_000), says
    with pytest.raises(DownloadError, match=rf"1000000 bytes arrived, and the store says that it has {says}"):  # noqa: SIM117
        with cache.local(f"{server.url}/a.svs"):
            pass
    assert not [name for name in _left(cache) if name.endswith((".part", ".svs"))]


@pytest.mark.parametrize("given", [True, False])
def test_a_file_is_held_to_its_sha256(server: Server, cache: SlideCache, given: bool) -> None:
    server.files["/a.svs"] = b"tampered with"
    right = hashlib.sha256(b"the real thing").hexdigest()
    if not given:
        server.files["/a.svs.sha256"] = f"{right}  a.svs\n".encode()
    url, digest = f"{server.url}/a.svs", f"sha256:{right}" if given else None
    with pytest.raises(DownloadError, match=f"does not have the sha256 {right}"), cache.local(url, digest=digest):
        pass
    server.files["/a.svs"], server.tags["/a.svs"] = b"the real thing", '"two"'
    with cache.local(url, digest=digest) as path:
        assert path.read_bytes() == b"the real thing"


def test_busy_servers_are_asked_again_and_refusals_are_not(server: Server, cache: SlideCache) -> None:
    server.files["/a.svs"] = b"x" * 100
    server.status["/a.svs"] = [503, 429]
    with cache.local(f"{server.url}/a.svs") as path:
        assert path.stat().st_size == 100
    server.asked = []
    server.status["/a.svs"] = [403] * 9
    with pytest.raises(DownloadError, match="access is refused"), cache.local(f"{server.url}/a.svs"):
        pass
    assert len(server.gets("/a.svs")) == 1
    with pytest.raises(DownloadError, match="no such file"), cache.local(f"{server.url}/b.svs"):
        pass


def test_secrets_show_nowhere(server: Server, cache: SlideCache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="histomix")
    host = server.url.removeprefix("http://")
    for status in (403, 500):
        server.files["/a.svs"], server.status["/a.svs"] = b"x", [status] * 9
        with pytest.raises(DownloadError) as raised:  # noqa: SIM117
            with cache.local(f"http://me:pa55@{host}/a.svs?X-Amz-Signature=s3cret"):
                pass
        text = "".join(traceback.format_exception(raised.value)) + repr(cache) + caplog.text
        text = text.replace('cache.local(f"http://me:pa55@{host}/a.svs?X-Amz-Signature=s3cret")', "")
        assert "s3cret" not in text and "pa55" not in text
        assert f"http://{host}/a.svs" in str(raised.value)
    with pytest.raises(DownloadError), cache.local("http://me:pa55@127.0.0.1:9/a.svs?sig=s3cret"):
        pass
    secret = SlideCache(cache.folder, options={"key": "k3y"})
    assert "k3y" not in repr(secret)
    assert redact_url("https://u:p@h:8/x/y.svs?sig=1") == "https://h:8/x/y.svs?..."
    assert remote_name("https://h/x/my%20slide.svs?sig=1") == "my slide.svs"


def test_signatures_of_one_address_are_one_slide(server: Server, cache: SlideCache) -> None:
    server.files["/a.svs"] = b"x" * 1000
    with cache.local(f"{server.url}/a.svs?X-Amz-Date=1&id=7", keep=True):
        pass
    before = len(server.gets("/a.svs"))
    with cache.local(f"{server.url}/a.svs?X-Amz-Date=2&id=7", keep=True):
        pass
    assert len(server.gets("/a.svs")) == before
    with cache.local(f"{server.url}/a.svs?X-Amz-Date=2&id=8", keep=True):
        pass
    assert len(server.gets("/a.svs")) == before + 1


@pytest.fixture
def memory() -> Iterator[AbstractFileSystem]:
    fs = extra_module("remote", "fsspec").filesystem("memory")
    yield fs
    fs.store.clear()


def test_the_least_recently_used_slide_goes_when_space_is_needed(memory: AbstractFileSystem, tmp_path: Path) -> None:
    for name in "abc":
        memory.pipe(f"/slides/{name}.svs", name.encode() * 400_000)
    cache = SlideCache(tmp_path / "cache", limit_bytes=1_000_000, retry=QUICK)

    def names() -> set[str]:
        return {path.name for path in cache.folder.rglob("*.svs")}

    for name in "aba":  # a was used last
        with cache.local(f"memory://slides/{name}.svs", keep=True) as path:
            assert path.read_bytes() == name.encode() * 400_000
        os.utime(next(cache.folder.glob("*/whole.json")))
    notes = {json.loads(note.read_text())["address"][-5]: note for note in cache.folder.glob("*/whole.json")}
    os.utime(notes["b"], (1, 1))
    with cache.local("memory://slides/c.svs", keep=True):
        assert names() == {"a.svs", "c.svs"}
    with pytest.raises(StorageError, match="larger than the cache may be"):  # noqa: SIM117
        with SlideCache(tmp_path / "small", limit_bytes=1000, retry=QUICK).local("memory://slides/c.svs"):
            pass
    assert cache.forget("memory://slides/a.svs") and names() == {"c.svs"}


def test_a_slide_that_is_being_read_is_not_removed(memory: AbstractFileSystem, tmp_path: Path) -> None:
    for name in "ab":
        memory.pipe(f"/slides/{name}.svs", name.encode() * 600_000)
    cache = SlideCache(tmp_path / "cache", limit_bytes=1_000_000, retry=QUICK, patience_s=1)
    with cache.local("memory://slides/a.svs") as path:
        with cache.local("memory://slides/a.svs") as same:
            assert same == path
        assert path.stat().st_size == 600_000  # the last reader removes it, not the first
        assert not cache.forget("memory://slides/a.svs")
        with pytest.raises(StorageError, match="being read"), cache.local("memory://slides/b.svs"):
            pass
        assert path.stat().st_size == 600_000
    with cache.local("memory://slides/b.svs") as path:
        assert path.read_bytes()[:1] == b"b"


def _fetch_and_die(url: str, folder: Path) -> None:
    with SlideCache(folder, retry=QUICK).local(url):
        os._exit(9)


def test_what_a_killed_process_held_is_free_again(server: Server, tmp_path: Path) -> None:
    server.files["/a.svs"] = b"a" * 600_000
    server.files["/b.svs"] = b"b" * 600_000
    process = multiprocessing.get_context("spawn").Process(
        target=_fetch_and_die, args=(f"{server.url}/a.svs", tmp_path / "cache")
    )
    process.start()
    process.join()
    assert process.exitcode == 9 and list((tmp_path / "cache").rglob("a.svs"))
    cache = SlideCache(tmp_path / "cache", limit_bytes=1_000_000, retry=QUICK, patience_s=1)
    with cache.local(f"{server.url}/b.svs") as path:
        assert path.stat().st_size == 600_000
    assert not list(cache.folder.rglob("*.svs"))


def test_a_slide_changed_at_its_source_is_fetched_again(server: Server, cache: SlideCache) -> None:
    server.files["/a.svs"] = b"old"
    for content, tag in ((b"old", '"one"'), (b"new", '"two"')):
        server.files["/a.svs"], server.tags["/a.svs"] = content, tag
        with cache.local(f"{server.url}/a.svs", keep=True) as path:
            assert path.read_bytes() == content
    path.write_bytes(b"cut short here")  # damaged on this disk
    with cache.local(f"{server.url}/a.svs", keep=True) as path:
        assert path.read_bytes() == b"new"


def test_mrxs_comes_with_its_folder_or_not_at_all(
    memory: AbstractFileSystem, server: Server, cache: SlideCache
) -> None:
    memory.pipe(
        {"/s/one.mrxs": b"m", "/s/one/Slidedat.ini": b"ini", "/s/one/Data0000.dat": b"d" * 50, "/s/two.mrxs": b"m"}
    )
    with cache.local("memory://s/one.mrxs") as path:
        assert path.name == "one.mrxs"
        assert (path.parent / "one" / "Slidedat.ini").read_bytes() == b"ini"
        assert (path.parent / "one" / "Data0000.dat").stat().st_size == 50
        assert not (path.parent / "two.mrxs").exists()
    server.files["/three.mrxs"] = b"m"
    for url in ("memory://s/two.mrxs", f"{server.url}/three.mrxs"):
        with pytest.raises(SlideError, match="needs the folder"), cache.local(url):
            pass


def test_dicom_comes_with_its_other_levels(memory: AbstractFileSystem, server: Server, cache: SlideCache) -> None:
    memory.pipe({"/d/1.dcm": b"1", "/d/2.dcm": b"2", "/d/notes.txt": b"t"})
    with cache.local("memory://d/1.dcm") as path:
        assert sorted(file.name for file in path.parent.iterdir()) == ["1.dcm", "2.dcm"]
    server.files["/d/1.dcm"] = b"1"
    with pytest.raises(SlideError, match="DICOM"), cache.local(f"{server.url}/d/1.dcm"):
        pass


def test_what_cannot_be_fetched_is_refused_in_words(memory: AbstractFileSystem, cache: SlideCache) -> None:
    with pytest.raises(InputError, match="no kind of address"), cache.local("nothing://x/a.svs"):
        pass
    memory.pipe("/b/a.vms", b"v")
    with pytest.raises(SlideError, match="many files"), cache.local("memory://b/a.vms"):
        pass


def test_a_slide_in_a_bucket(server: Server, tmp_path: Path) -> None:
    data = np.random.default_rng(3).bytes(9_000_000)  # more than one piece
    server.files["/bucket/some/a.svs"] = data
    server.status["/bucket/some/a.svs"] = [500]
    options = {"key": "k3y", "secret": "s3cret", "client_kwargs": {"endpoint_url": server.url, "region_name": "x"}}
    cache = SlideCache(tmp_path / "cache", options=options, retry=QUICK)
    with cache.local("s3://bucket/some/a.svs") as path:
        assert path.read_bytes() == data
    with pytest.raises(DownloadError, match="no such file") as raised, cache.local("s3://bucket/some/b.svs"):
        pass
    assert "s3cret" not in str(raised.value)


def _files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "status.json"}


def test_remote_slides_are_predicted_like_local_ones_and_not_fetched_twice(
    server: Server, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(SlideCache.__dataclass_fields__["retry"], "default_factory", lambda: QUICK)
    name = job.image.name
    server.files[f"/{name}"] = job.image.read_bytes()
    url = f"{server.url}/{name}?sig=s3cret"
    predict_slides([job.image], job.head, tmp_path / "local", mpp=0.5)
    results = predict_slides([url, f"{server.url}/absent.svs"], job.head, tmp_path / "remote", mpp=0.5)
    assert results[0].error is None and results[0].slide == name
    assert isinstance(results[1].error, DownloadError)
    assert _files(tmp_path / "remote" / job.image.stem) == _files(tmp_path / "local" / job.image.stem)
    assert not list((tmp_path / "cache").rglob("*.tif"))
    for path in (tmp_path / "remote").rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes()
    fetched = len(server.gets(f"/{name}"))
    assert predict_slides([url], job.head, tmp_path / "remote", mpp=0.5)[0].kept
    assert len(server.gets(f"/{name}")) == fetched

    # Without the store nothing is known, and nothing that is done is lost.
    image = server.files.pop(f"/{name}")
    again = predict_slides([url], job.head, tmp_path / "remote", mpp=0.5)
    assert isinstance(again[0].error, DownloadError)
    assert _files(tmp_path / "remote" / job.image.stem) == _files(tmp_path / "local" / job.image.stem)

    # Another version is another slide only if its content is: the new tag has it fetched, and the digest keeps the map.
    server.files[f"/{name}"], server.tags[f"/{name}"] = image, '"two"'
    fetched = len(server.gets(f"/{name}"))
    assert predict_slides([url], job.head, tmp_path / "remote", mpp=0.5)[0].kept
    assert len(server.gets(f"/{name}")) == fetched + 1


def test_bands_of_a_remote_slide_share_one_copy(
    server: Server, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histomix.prediction.plan.CHUNK_TILES", 8)
    server.files["/a.tif"] = job.image.read_bytes()
    (one,) = slide_jobs([f"{server.url}/a.tif"], tmp_path / "out", 0.5)
    cache = SlideCache(tmp_path / "cache", retry=QUICK)
    settings = Settings.of(load_head(job.head).card["digest"])
    work = Work(str(job.head), settings, threads=1, split_from=2, cache=cache)
    planned = slide_task(one, work)
    assert planned["chunks"] > 2
    for chunk in range(planned["chunks"]):
        assert chunk_task(one, chunk, work) == {"done": chunk}
    assert list(cache.folder.rglob("a.tif")) and len(server.gets("/a.tif")) == 1
    assert finish_task(one, work)["result"]["tiles"] == sum(planned["tiles"])
    assert not list(cache.folder.rglob("a.tif")) and len(server.gets("/a.tif")) == 1
    # A finish that is asked for twice finds it done; a band whose plan has gone says so.
    assert finish_task(one, work)["result"]["kept"]
    assert chunk_task(one, 0, work) == {"again": True}
