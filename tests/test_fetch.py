"""Public cohorts from a local server that breaks, refuses and lies as real ones do."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from histomix.common.transfer.digests import matches
from histomix.common.transfer.download import RemoteFile, download
from histomix.datasets import catalogue, fetch_cohort
from histomix.errors import DownloadError, InputError

from .extras import extra_module, needs_extra


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``breaks`` = bytes after which the next answer breaks off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: int | None = None
        self.status: dict[str, int] = {}
        self.tags: dict[str, str] = {}
        self.hub: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        server.tokens.append(self.headers.get("Authorization"))
        if self.path not in server.files or self.path in server.status:
            self.send_error(server.status.get(self.path, 404))
            return
        data, tag = server.files[self.path], server.tags.get(self.path, '"one"')
        start = 0
        if asked and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", tag)
        if self.path in server.hub:
            self.send_header("X-Linked-ETag", f'"{server.hub[self.path]}"')
        self.end_headers()
        end = len(data) if server.breaks is None else start + server.breaks
        server.breaks = None
        self.wfile.write(data[start:end])

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    extra_module("st", "aiohttp")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    server.files["/big.bin"] = data
    file = RemoteFile("a/big.bin", f"{server.url}/big.bin", "sha256:" + hashlib.sha256(data).hexdigest())
    server.breaks = 300_000
    with pytest.raises(DownloadError, match="broke off"):
        download(file, tmp_path)
    assert not (tmp_path / "a/big.bin").exists()
    got = (tmp_path / "a/big.bin.part").stat().st_size
    assert 0 < got <= 300_000
    assert download(file, tmp_path).read_bytes() == data
    assert server.asked[-1] == ("/big.bin", f"bytes={got}-")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["big.bin"]


def test_a_file_that_changed_meanwhile_starts_again(server: Server, tmp_path: Path) -> None:
    server.files["/f"] = b"old" * 1000
    server.breaks = 1200
    file = RemoteFile("f", f"{server.url}/f")
    with pytest.raises(DownloadError):
        download(file, tmp_path)
    server.files["/f"], server.tags["/f"] = b"new" * 1000, '"two"'
    assert download(file, tmp_path).read_bytes() == b"new" * 1000


def test_a_file_that_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"here")
    file = RemoteFile("f", f"{server.url}/f", f"git:{_git(b'here')}")
    assert download(file, tmp_path).read_bytes() == b"here"
    assert not server.asked


@pytest.mark.parametrize("kind", ["published", "hub"])
def test_what_does_not_fit_its_digest_is_not_kept(server: Server, tmp_path: Path, kind: str) -> None:
    server.files["/f"] = b"tampered with"
    wanted = hashlib.sha256(b"the real thing").hexdigest()
    if kind == "hub":
        server.hub["/f"] = wanted
    with pytest.raises(DownloadError, match="digest"):
        download(RemoteFile("f", f"{server.url}/f", f"sha256:{wanted}" if kind == "published" else None), tmp_path)
    assert not list(tmp_path.iterdir())


@needs_extra("st", "aiohttp")
def test_another_file_in_its_place_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="is not the file"):
        download(RemoteFile("f", "http://127.0.0.1:9/f", "sha256:" + "0" * 64), tmp_path)
    assert (tmp_path / "f").read_bytes() == b"mine"


def test_git_blob_ids_are_those_of_git(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"what is up, doc?")
    # The example of the book Pro Git, chapter 10.2.
    assert matches(tmp_path / "f", "git:bd9dbf5aae1a3862dd1526723246b20206e5fc37")
    assert not matches(tmp_path / "f", "git:" + "0" * 40)


SPOTS = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n" + "".join(
    f"{x}\t{y}\t{x}.0\t{y}.0\t{290 * x}\t{290 * y}\t1\n" for x in range(3, 8) for y in range(3, 8)
)


def _serve_her2st(server: Server) -> None:
    files = {
        "data/ST-cnts/A1.tsv.gz": b"counts A1",
        "data/ST-cnts/B1.tsv.gz": b"counts B1",
        "data/ST-spotfiles/A1_selection.tsv": SPOTS.encode(),
        "data/ST-spotfiles/B1_selection.tsv": SPOTS.encode(),
        "data/ST-imgs/A/A1/HE_1.jpg": b"image A1",
        "data/ST-imgs/B/B1/HE_2.jpg": b"image B1",
        "res/ST-deconv/props/major/A1/W.2020.tsv.gz": b"labels A1",
        "scripts/other.py": b"not wanted",
    }
    tree = [{"path": path, "type": "blob", "sha": _git(data)} for path, data in files.items()]
    listing = catalogue.Her2st().listing.partition("://")[2]
    server.files[f"/{listing}"] = json.dumps({"tree": tree}).encode()
    base = catalogue.Her2st().files.partition("://")[2]
    server.files |= {f"/{base}/{path}": data for path, data in files.items()}


def _rows(sheet: Path) -> list[dict[str, str]]:
    with sheet.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_her2st_becomes_a_sheet(server: Server, tmp_path: Path) -> None:
    _serve_her2st(server)
    rows = _rows(fetch_cohort("her2st", tmp_path, mirror=server.url))
    assert [(row["section"], row["donor"]) for row in rows] == [("A1", "A"), ("B1", "B")]
    for row in rows:
        assert all((tmp_path / row[key]).is_file() for key in ("spots", "counts", "image"))
        # 290 px are 200 um.
        assert float(row["mpp"]) == pytest.approx(200 / 290, abs=1e-4)
    assert (rows[0]["label_unit"], rows[1]["label_unit"]) == ("proportion", "")
    assert not (tmp_path / "scripts").exists()
    assert "doi" in json.loads((tmp_path / "cohort.json").read_text())["citation"]
    asked = len(server.asked)
    fetch_cohort("her2st", tmp_path, mirror=server.url)
    assert len(server.asked) == asked


def _serve_tenx(server: Server, sample: str) -> None:
    base = f"/cf.10xgenomics.com/samples/spatial-exp/1.1.0/{sample}/{sample}"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as files:
        entry = tarfile.TarInfo("spatial/scalefactors_json.json")
        entry.size = 2
        files.addfile(entry, io.BytesIO(b"{}"))
    server.files |= {f"{base}_spatial.tar.gz": archive.getvalue()}
    server.files |= {f"{base}_filtered_feature_bc_matrix.h5": b"counts", f"{base}_tissue_image.tif": b"image"}


def test_a_10x_sample_becomes_outs_and_a_sheet(server: Server, tmp_path: Path) -> None:
    sample = "V1_Breast_Cancer_Block_A_Section_2"
    _serve_tenx(server, sample)
    row = _rows(fetch_cohort(f"10x:{sample}", tmp_path, mirror=server.url))[0]
    assert (row["donor"], row["format"]) == ("V1_Breast_Cancer_Block_A", "visium")
    assert (tmp_path / row["spots"] / "spatial/scalefactors_json.json").read_text() == "{}"
    assert (tmp_path / row["spots"] / "filtered_feature_bc_matrix.h5").read_bytes() == b"counts"
    assert (tmp_path / row["image"]).read_bytes() == b"image"


def test_a_damaged_archive_is_fetched_again(server: Server, tmp_path: Path) -> None:
    base = "/cf.10xgenomics.com/samples/spatial-exp/1.1.0/V1_X/V1_X"
    server.files[f"{base}_spatial.tar.gz"] = b"no archive"
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch_cohort("10x:V1_X", tmp_path, mirror=server.url)
    assert not (tmp_path / "V1_X/spatial.tar.gz").exists()
    assert not (tmp_path / "V1_X/outs/spatial").exists()


def _serve_hest(server: Server, patient: str) -> str:
    base = "/datasets/MahmoodLab/hest/resolve/main"
    facts = {"patient": patient, "pixel_size_um_estimated": 0.5021, "organ": "Breast", "dataset_title": "A study"}
    server.files[f"{base}/metadata/TENX95.json"] = json.dumps(facts).encode()
    server.files |= {f"{base}/st/TENX95.h5ad": b"st", f"{base}/wsis/TENX95.tif": b"wsi"}
    return base


def test_a_hest_sample_with_the_users_token(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve_hest(server, "P7")
    monkeypatch.setattr(
        "histomix.datasets.fetch.public_cohort", lambda name: catalogue.Hest("TENX95", endpoint=server.url)
    )
    row = _rows(fetch_cohort("hest:TENX95", tmp_path, token="secret"))[0]
    assert (row["donor"], row["mpp"], row["format"]) == ("P7", "0.5021", "hest")
    assert set(server.tokens) == {"Bearer secret"}


def test_a_mirror_never_sees_the_token_and_an_unknown_donor_is_no_new_one(server: Server, tmp_path: Path) -> None:
    base = _serve_hest(server, "")
    server.files |= {f"/huggingface.co{path}": data for path, data in list(server.files.items()) if base in path}
    row = _rows(fetch_cohort("hest:TENX95", tmp_path, token="secret", mirror=server.url))[0]
    assert row["donor"] == "unknown (A study)"
    assert set(server.tokens) == {None}


def test_what_a_server_says_of_a_sample_is_no_formula(server: Server, tmp_path: Path) -> None:
    base = _serve_hest(server, "=cmd|' /C calc'!A1")
    server.files |= {f"/huggingface.co{path}": data for path, data in list(server.files.items()) if base in path}
    row = _rows(fetch_cohort("hest:TENX95", tmp_path, mirror=server.url))[0]
    assert row["donor"] == "'=cmd|' /C calc'!A1" and row["section"] == "TENX95"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_nothing_is_unpacked_through_a_link(server: Server, tmp_path: Path) -> None:
    _serve_tenx(server, "V1_X")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shared" / "V1_X" / "outs").mkdir(parents=True)
    (tmp_path / "shared" / "V1_X" / "outs" / ".unpacking").symlink_to(tmp_path / "elsewhere")
    fetch_cohort("10x:V1_X", tmp_path / "shared", mirror=server.url)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "shared" / "V1_X" / "outs" / "spatial" / "scalefactors_json.json").is_file()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_says_what_to_do_by_hand(server: Server, tmp_path: Path, status: int) -> None:
    base = f"/huggingface.co{_serve_hest(server, 'P7')}"
    server.files[f"{base}/metadata/TENX95.json"] = b"{}"
    server.status[f"{base}/metadata/TENX95.json"] = status
    with pytest.raises(DownloadError) as raised:
        fetch_cohort("hest:TENX95", tmp_path, mirror=server.url)
    text = str(raised.value)
    assert str(status) in text
    assert str(tmp_path) in text
    assert ("--token" in text) == (status in (401, 403))
    assert "https://huggingface.co/datasets/MahmoodLab/hest/resolve/main/wsis/TENX95.tif -> wsis/TENX95.tif" in text


@needs_extra("st", "aiohttp")
def test_without_a_network_the_answer_is_at_once(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="by hand") as raised:
        fetch_cohort("her2st", tmp_path, mirror="http://127.0.0.1:9")
    assert "cannot be reached" in str(raised.value)


@needs_extra("st", "aiohttp")
def test_files_put_there_by_hand_are_taken(tmp_path: Path) -> None:
    hest = catalogue.Hest("S1")
    for part in hest.parts:
        path = tmp_path / part.format("S1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"patient": "P1"}))
    assert _rows(fetch_cohort("hest:S1", tmp_path, mirror="http://127.0.0.1:9"))[0]["section"] == "S1"


@pytest.mark.parametrize("name", ["her2", "10x:", "hest:", "10x:../etc", "visium"])
def test_an_unknown_cohort_is_refused_with_the_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="her2st"):
        fetch_cohort(name, tmp_path)
