"""Names of strangers' files: whatever they are, nothing is written outside the folder that was meant."""

from __future__ import annotations

import io
import json
import ntpath
import posixpath
import tarfile
import threading
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.common.transfer.download import RemoteFile, download
from histomix.common.transfer.remote_names import check_names, local_path, local_paths, remote_name
from histomix.datasets import catalogue, fetch_cohort
from histomix.errors import DownloadError, HeadError, HistomixError, InputError
from histomix.prediction import slide_jobs
from histomix.provenance import digest_bytes, digest_json
from histomix.sharing import push_head
from histomix.sharing.trust import check_listing
from histomix.slides import Retry, SlideCache

from .conftest import Job
from .extras import extra_module, needs_extra

pytestmark = needs_extra("remote", "fsspec", "aiohttp")
QUICK = Retry(attempts=2, wait_s=0.01, silence_s=5)

#: Ends of addresses, each of which leads somewhere else, is a device, or hides what it is.
TRICKS = [
    *("..%2F..%2F..%2F..%2Fprecious.txt", "..%2Fprecious.txt", "x%2F..%2F..%2Fprecious.txt", "a%2Fb.svs"),
    *("%2Ftmp%2Fx.svs", "%2F%2Fserver%2Fshare%2Fx.svs", "%2Fx.svs", "x.svs%2F", "~%2Fx.svs"),
    *("..", ".", "%2e%2e", "%2E%2e", "...", "%20..", "..%20", "..%2F", ".%2Fx.svs"),
    *("..%252F..%252Fx.svs", "%252e%252e%252fx.svs", "..%25252Fx.svs", "%2525252525252525252525252E%2E"),
    *("..%5C..%5Cx.svs", "..\\x.svs", "..%255Cx.svs", "C%3A%5Cx.svs", "C%3Ax.svs", "c:x.svs", "%5C%5Cserver%5Cx.svs"),
    *(
        quote(name)
        for name in ("．．／x.svs", "‥／x.svs", "‥", "．．", "..／x.svs", "..＼x.svs", "℀.svs", "..∖x", "．．∕x")
    ),
    *(quote(name) for name in ("％2e％2e％2fx.svs", "．％2E", "Ｃ：x.svs", "﹨x.svs")),
    *("x%00.svs", "x.svs%00.txt", "x%0a.svs", "x%0d.svs", "x%1b%5B2J.svs", "x%7f.svs", "x%C2%85.svs", "x%E2%80%AEsvs"),
    *("x%E2%80%A8.svs", "x%2500.svs", "x%E2%80%8B.svs"),
    *("nul", "NUL.svs", "con.tif", "aux%20.svs", "COM1.svs", "COM%C2%B9.svs", "lpt9.a.svs", "conin$.svs"),
    *("x.svs.", "x.svs%20", "x.svs%2E", "x.svs%C2%A0"),
    *("a" * 241, "%C3%BC" * 121, "a" * 9000),
]
PLAIN = {
    "a.svs": "a.svs",
    "my%20slide.svs": "my slide.svs",
    "100%25.svs": "100%.svs",
    "a%2Bb+c.svs": "a+b+c.svs",
    "%E5%88%87%E7%89%87.svs": "切片.svs",
    "Pr%C3%A4parat.svs": "Präparat.svs",
    "a..b.svs": "a..b.svs",
    ".hidden.svs": ".hidden.svs",
    "%C2%BD.svs": "½.svs",
    "final%E2%80%A6.svs": "final….svs",
    "console.svs": "console.svs",
    "a" * 200 + ".svs": "a" * 200 + ".svs",
}


class Server(ThreadingHTTPServer):
    """Answers every path that ends in one of ``files`` with its bytes, as HTML where they begin so."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.every: bytes | None = None
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def index(self, folder: str, names: list[str]) -> None:
        links = "".join(f'<a href="{name}">{name}</a>' for name in names)
        self.files[f"{folder}/"] = f'<html><a href="../">up</a><a href="?C=N">by name</a>{links}</html>'.encode()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path, self.server.every)
        if data is None or self.path.endswith(".sha256"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if data.startswith(b"<html") else "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[SlideCache]:
    """A cache, deep enough below files that must stay as they are."""
    precious = [tmp_path / "precious.txt", tmp_path / "a" / "precious.txt", tmp_path / "a" / "cache" / "precious.txt"]
    for path in precious:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    yield SlideCache(tmp_path / "a" / "cache", retry=QUICK)
    assert [path.read_text() for path in precious] == ["mine"] * 3
    outside = {path for path in tmp_path.rglob("*") if tmp_path / "a" / "cache" not in (path, *path.parents)}
    assert outside == {tmp_path / "a", *precious[:2]}, "something was written outside the cache"


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_refused_and_nothing_is_asked_for(server: Server, cache: SlideCache, trick: str) -> None:
    server.every = b"the server's bytes"
    with pytest.raises(InputError) as raised, cache.local(f"{server.url}/x/{trick}"):
        pass
    assert raised.value.hint and "\x1b" not in str(raised.value)
    assert not server.asked
    with pytest.raises(InputError):
        slide_jobs([f"{server.url}/x/{trick}"], "out")


@pytest.mark.parametrize(("quoted", "name"), PLAIN.items())
def test_a_plain_name_is_kept(server: Server, cache: SlideCache, quoted: str, name: str) -> None:
    server.every = b"a slide"
    assert remote_name(f"{server.url}/x/{quoted}?sig=1") == name
    with cache.local(f"{server.url}/x/{quoted}") as path:
        assert path.name == name and path.read_bytes() == b"a slide"


_TOKENS = [
    "..",
    ".",
    "/",
    "\\",
    "%2f",
    "%2F",
    "%5c",
    "%2e",
    "%",
    "25",
    "00",
    "．",
    "／",
    "‥",
    "＼",
    "％",
    "C:",
    ":",
    "：",
    "c",
    "\0",
]
_TOKENS += ["nul", " ", "~", "ß", "x", "\n", "\ud800", "℀", "\u202e", "é", "-"]
_NAMES = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(_TOKENS), max_size=14).map("".join))


@given(_NAMES)
@example("0:")
@example("%30%3ax")
@settings(max_examples=1500, deadline=None)
def test_whatever_the_text_the_path_lies_inside(name: str) -> None:
    try:
        path = local_path("/home/me/folder", name)
    except InputError:
        return
    reading = name
    for _ in range(12):
        # Also if somebody decodes it again, and on Windows.
        assert posixpath.normpath(posixpath.join("/home/me/folder", reading)).startswith("/home/me/folder/")
        assert ntpath.normpath(ntpath.join("C:\\me\\folder", reading)).startswith("C:\\me\\folder\\")
        assert "\0" not in reading and all(len(part.encode()) <= 255 for part in reading.split("/"))
        reading = unicodedata.normalize("NFKC", unquote(reading))
    assert path.parts[:4] == ("/", "home", "me", "folder") and len(path.parts) > 4


@given(_NAMES)
@settings(max_examples=500, deadline=None)
def test_whatever_the_address_its_name_is_one_part(name: str) -> None:
    try:
        found = remote_name("https://host/x/" + quote(name, errors="replace"))
    except InputError:
        return
    assert local_path("/home/me/folder", found).parent == Path("/home/me/folder")


@pytest.mark.parametrize(
    "names",
    [
        *(["a.dat", "A.DAT"], ["x/é.dat", "x/e\u0301.dat"], ["ﬁ.dat", "fi.dat"], ["a", "a/b"], ["A/b", "a"]),
        *(["a%20b", "a b"], ["ok", "../x"]),
    ],
)
def test_two_names_are_never_one_file(names: list[str]) -> None:
    with pytest.raises(InputError):
        check_names(names)
    with pytest.raises(InputError):
        local_paths("folder", reversed(names))


def test_a_link_in_the_folder_leads_nowhere(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    other.mkdir()
    (home / "inside").mkdir(parents=True)
    (home / "away").symlink_to(other)
    (home / "near").symlink_to(home / "inside")
    (home / "file.svs").symlink_to(other / "file.svs")
    (home / "loop").symlink_to(home / "loop")
    for name in ("away/x.svs", "file.svs", "away", "inside/../away/x"):
        with pytest.raises(InputError):
            local_path(home, name)
    assert local_path(home, "near/x.svs") == home / "near" / "x.svs"
    # A folder that is reached by a link itself is the user's own choice.
    (tmp_path / "linked").symlink_to(home)
    assert local_path(tmp_path / "linked", "x.svs") == tmp_path / "linked" / "x.svs"


def test_the_command_refuses_before_any_work(server: Server, cache: SlideCache, job: Job, tmp_path: Path) -> None:
    server.every = b"the server's bytes"
    url = f"{server.url}/x/..%2F..%2F..%2F..%2Fprecious.txt"
    folder = tmp_path / "a" / "cache"
    sheet = folder / "slides.csv"
    sheet.write_text(f"slide,mpp\n{server.url}/fine.svs,0.5\n{url},0.5\n")
    for slide in (url, str(sheet)):
        command = ["predict", slide, "--head", str(job.head), "--out", str(folder / "out"), "--mpp", "0.5"]
        done = CliRunner().invoke(app, command, env={"HISTOMIX_CACHE": str(folder)})
        assert done.exit_code == 2 and "leads out of its folder" in done.output.replace("\n", " "), done.output
        assert ("row 3" in done.output) == (slide == str(sheet))
    assert not server.asked and not (folder / "out").exists()


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = extra_module("remote", "fsspec").filesystem("memory")
    yield fs
    fs.store.clear()


HOSTILE_LISTINGS = [
    *("..%2F..%2F..%2F..%2Fprecious.txt", "..%2Fwhole.json", "%2Ftmp%2Fhistomix-planted.txt", "..%5C..%5Cx.dat"),
    *("a%00b.dat", "nul.dat", "slidedat.INI", "‥%2Fx.dat", "..%252F..%252Fx.dat", "Slidedat.ini%2Fx.dat"),
]


@pytest.mark.parametrize("name", HOSTILE_LISTINGS)
@pytest.mark.parametrize("kind", ["http", "memory"])
def test_a_hostile_listing_is_refused(memory: Any, server: Server, cache: SlideCache, kind: str, name: str) -> None:
    names = ["Slidedat.ini", "Data0000.dat", name]
    if kind == "http":
        server.every = b"planted"
        server.index("/s/one", names)
        url = f"{server.url}/s/one.mrxs"
    else:
        memory.store.clear()
        memory.pipe({f"/s/one/{one}": b"planted" for one in names} | {"/s/one.mrxs": b"m"})
        url = "memory://s/one.mrxs"
    with pytest.raises(InputError), cache.local(url):
        pass
    assert not list(cache.folder.rglob("*.dat")), "nothing of it is taken"


def test_a_folder_that_is_named_out_of_the_cache(server: Server, cache: SlideCache) -> None:
    # The stem of "...mrxs" is "..", so that its folder would be the one above.
    server.every = b"planted"
    server.index("/s/..", ["Slidedat.ini", "whole.json"])
    server.index("/s/", ["Slidedat.ini", "whole.json"])
    with pytest.raises(HistomixError), cache.local(f"{server.url}/s/...mrxs"):
        pass
    assert not list(cache.folder.rglob("whole.json"))


def test_an_honest_listing_of_a_web_server_works(server: Server, cache: SlideCache) -> None:
    server.files |= {"/s/one.mrxs": b"m", "/s/one/Slidedat.ini": b"ini", "/s/one/Data%200.dat": b"d" * 50}
    server.index("/s/one", ["Slidedat.ini", "Data%200.dat", "http://elsewhere.example/s/one/x.dat", "/s/two.mrxs"])
    with cache.local(f"{server.url}/s/one.mrxs") as path:
        folder = path.parent / "one"
        assert {file.name: file.stat().st_size for file in folder.iterdir()} == {"Slidedat.ini": 3, "Data 0.dat": 50}
    server.files |= {"/d/1.dcm": b"1", "/d/2.dcm": b"2"}
    server.index("/d", ["1.dcm", "2.dcm", "..%2F..%2F3.dcm", "notes.txt"])
    with cache.local(f"{server.url}/d/1.dcm") as path:
        assert sorted(file.name for file in path.parent.iterdir()) == ["1.dcm", "2.dcm"]


@pytest.mark.parametrize(
    "image", ["..%2f.jpg", "％2e％2e％2fx.jpg", "a\\b.jpg", "nul.jpg", "..jpg\x00.jpg", "HE_1.JPG.jpg"]
)
def test_a_listing_of_a_cohort_stays_in_its_folder(server: Server, tmp_path: Path, image: str) -> None:
    paths = [f"data/ST-imgs/A/A1/{image}", "data/ST-imgs/A/A1/he_1.jpg.jpg", "data/ST-cnts/A1.tsv.gz"]
    tree = [{"path": path, "type": "blob", "sha": "0" * 40} for path in paths]
    listing = catalogue.Her2st().listing.partition("://")[2]
    server.files[f"/{listing}"] = json.dumps({"tree": tree}).encode()
    with pytest.raises(InputError):
        fetch_cohort("her2st", tmp_path / "cohort", mirror=server.url)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"files.json", "files.json.sha256"}


def test_what_the_user_linked_is_taken_and_nothing_is_written_behind_a_link(server: Server, tmp_path: Path) -> None:
    big, folder = tmp_path / "big", tmp_path / "cohort"
    big.mkdir()
    folder.mkdir()
    (big / "image.tif").write_bytes(b"image")
    (folder / "image.tif").symlink_to(big / "image.tif")
    (folder / "wsis").symlink_to(big)
    server.every = b"the server's bytes"
    assert download(RemoteFile("image.tif", f"{server.url}/image.tif"), folder).read_bytes() == b"image"
    with pytest.raises(InputError, match="link"):
        download(RemoteFile("wsis/other.tif", f"{server.url}/other.tif"), folder)
    assert not server.asked and sorted(path.name for path in big.iterdir()) == ["image.tif"]


def _tar(*entries: tuple[str, bytes | None, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as files:
        for name, data, link in entries:
            entry = tarfile.TarInfo(name)
            if data is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
                files.addfile(entry)
            else:
                entry.size = len(data)
                files.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


@pytest.mark.parametrize(
    "entries",
    [
        [("../../planted", b"x", "")],
        [("/tmp/histomix-planted", b"x", "")],
        [("spatial/..%2f..%2fx", b"x", "")],
        [("a/b/spatial", None, "../../c"), ("c/x", b"x", "")],
        [("spatial/x", None, "y")],
        [("spatial/con.json", b"x", "")],
    ],
)
def test_an_archive_of_a_cohort_stays_in_its_folder(server: Server, tmp_path: Path, entries: list[tuple]) -> None:
    base = "/cf.10xgenomics.com/samples/spatial-exp/1.1.0/V1_X/V1_X"
    server.files[f"{base}_spatial.tar.gz"] = _tar(("spatial/ok.json", b"{}", ""), *entries)
    folder = tmp_path / "deep" / "cohort"
    with pytest.raises((DownloadError, InputError)):
        fetch_cohort("10x:V1_X", folder, mirror=server.url)
    assert not (folder / "V1_X/outs/spatial").exists() and not (folder / "V1_X/spatial.tar.gz").exists()
    assert not list(tmp_path.rglob("planted")) and not Path("/tmp/histomix-planted").exists()


@pytest.mark.parametrize("name", ["CARD.JSON", "con.json", "../x.json", "a\\b.json", "%2e%2e.json"])
def test_a_listing_of_a_head_names_files_of_a_head(name: str) -> None:
    with pytest.raises(HeadError, match="nothing was taken"):
        check_listing({"card.json": 10, name: 10}, "here")


def test_a_strangers_head_takes_nothing_of_its_readers_with_it(job: Job, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    head = tmp_path / "heads" / "head"
    head.mkdir(parents=True)
    for path in job.head.iterdir():
        (head / path.name).write_bytes(path.read_bytes())
    card = json.loads((head / "card.json").read_text())
    card["files"]["../../secret.txt"] = digest_bytes(b"mine")
    card["digest"] = digest_json({key: value for key, value in card.items() if key != "digest"})
    (head / "card.json").write_text(json.dumps(card))
    with pytest.raises(HistomixError):
        push_head(head, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
