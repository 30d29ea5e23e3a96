"""The cache is this user's alone: what others planted is not used, and what was altered is fetched again."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from histomix.common.cache import cache_folder, cache_root, content_digest, private_folder
from histomix.common.transfer.digests import check_digest, note_digest
from histomix.common.transfer.download import RemoteFile, download
from histomix.encoders import EncoderCard
from histomix.encoders.runtimes import TorchRuntime, optimise
from histomix.encoders.torch.base import TorchEncoder
from histomix.errors import DownloadError, StorageError
from histomix.slides import Retry, SlideCache

from .extras import extra_module, needs_extra

fsspec = extra_module("remote", "fsspec")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders of a user are private on Windows by themselves")
STRANGER = 65534
QUICK = Retry(attempts=2, wait_s=0.01)
as_root = pytest.mark.skipif(
    os.name != "nt" and os.geteuid() != 0, reason="only root can make files that belong to another user"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is not there yet."""
    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def slide() -> str:
    """A remote slide, honest."""
    fs = fsspec.filesystem("memory")
    fs.pipe("/slides/a.svs", b"honest" * 100)
    return "memory://slides/a.svs"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def read(url: str, cache: SlideCache | None = None, **options: str) -> bytes:
    with (cache or SlideCache(retry=QUICK)).local(url, keep=True, **options) as path:  # type: ignore[arg-type]
        return path.read_bytes()


def test_the_cache_is_the_users_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HISTOMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root().is_relative_to(tmp_path / "xdg") or os.name != "posix"
    monkeypatch.setenv("HISTOMIX_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.setenv("HISTOMIX_CACHE", "beside")
    assert cache_root() == Path.cwd() / "beside"


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_made_is_private_whatever_the_umask(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = cache_folder("slides", "deeper")
    finally:
        os.umask(before)
    assert [mode(one) for one in (root, folder.parent, folder)] == [0o700] * 3


def test_a_folder_that_others_may_read_is_closed(root: Path) -> None:
    (root / "slides").mkdir(parents=True)
    root.chmod(0o755)
    (root / "slides").chmod(0o750)
    cache_folder("slides")
    assert mode(root) == mode(root / "slides") == 0o700


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "written by all": (lambda path: path.chmod(0o777), "may be written by others"),
    "written by its group": (lambda path: path.chmod(0o770), "may be written by others"),
    "sticky": (lambda path: path.chmod(0o1777), "may be written by others"),
    "linked": (linked, "is a link to another place"),
    "a file": (lambda path: (path.rmdir(), path.touch())[1], "is no folder"),
    "of another user": (lambda path: os.chown(path, STRANGER, STRANGER), "belongs to another user"),
}
CASES = [pytest.param(*case, id=name, marks=as_root if "user" in name else ()) for name, case in SPOILT.items()]


@pytest.mark.parametrize("inner", [False, True], ids=["root", "inner"])
@pytest.mark.parametrize(("spoil", "says"), CASES)
def test_a_cache_that_others_may_have_filled_is_refused(
    root: Path, spoil: Callable[[Path], None], says: str, inner: bool, slide: str
) -> None:
    folder = root / "slides" if inner else root
    folder.mkdir(parents=True, mode=0o700)
    spoil(folder)
    with pytest.raises(StorageError, match=says) as told:
        read(slide)
    assert told.value.where == str(folder) and "HISTOMIX_CACHE" in str(told.value)
    # A folder given in Python is held to the same.
    if inner:
        with pytest.raises(StorageError, match=says):
            read(slide, SlideCache(folder))


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HISTOMIX_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(StorageError, match=r"no home folder.*HISTOMIX_CACHE"):
        cache_folder("slides")


def plant(folder: Path, url: str) -> None:
    """Fill a cache as `SlideCache` would, with another slide under the same address and version."""
    read(url, SlideCache(folder, retry=QUICK))
    (note,) = folder.glob("*/whole.json")
    facts = json.loads(note.read_text())
    for name, file in facts["files"].items():
        forged = b"forged" * (file["bytes"] // 6)
        (note.parent / name).write_bytes(forged)
        file["digest"] = "sha256:" + hashlib.sha256(forged).hexdigest()
    note.write_text(json.dumps(facts))


def test_a_slide_planted_where_everyone_can_guess_is_not_used(
    root: Path, slide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any user of a machine can make a folder in its place for temporary files, before we do."""
    shared = tmp_path / "tmp"
    shared.mkdir(mode=0o777)
    monkeypatch.delenv("HISTOMIX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    plant(shared / f"histomix-slides-{getpass.getuser()}", slide)
    assert read(slide) == b"honest" * 100
    assert not [path for path in shared.iterdir() if path.name != f"histomix-slides-{getpass.getuser()}"]


@as_root
def test_a_slide_of_another_user_in_our_own_folder_is_not_used(root: Path, slide: str) -> None:
    """Planted while others could write to it, before somebody closed the folder."""
    plant(root / "slides", slide)
    for path in (root / "slides").rglob("*"):
        os.chown(path, STRANGER, STRANGER)
    assert read(slide) == b"honest" * 100


def test_an_altered_slide_is_fetched_again(root: Path, slide: str, caplog: pytest.LogCaptureFixture) -> None:
    read(slide)
    (path,) = root.rglob("a.svs")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"forged" * 100)  # of the same size and date
    os.utime(path, ns=times)
    with caplog.at_level(logging.WARNING, logger="histomix"):
        assert read(slide) == b"honest" * 100
    assert "altered in the cache" in caplog.text and "a.svs" in caplog.text
    caplog.clear()
    assert read(slide) == b"honest" * 100 and not caplog.text


def test_a_digest_is_asked_of_what_is_in_the_cache_too(root: Path, slide: str) -> None:
    read(slide)
    right = "sha256:" + hashlib.sha256(b"honest" * 100).hexdigest()
    assert read(slide, digest=right) == b"honest" * 100
    with pytest.raises(DownloadError, match="does not have the sha256"):
        read(slide, digest="sha256:" + "0" * 64)


def test_a_file_is_read_once_and_again_when_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    monkeypatch.setattr("histomix.common.cache._TICK_NS", -1)
    opened = []
    monkeypatch.setattr("histomix.common.cache.digest_file", lambda file: opened.append(file) or f"{len(opened)}")
    assert [content_digest(path), content_digest(path)] == ["1", "1"]
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert content_digest(path) == "2"
    # What is younger than a tick of the clock of files is read each time.
    monkeypatch.setattr("histomix.common.cache._TICK_NS", 10**12)
    path.write_bytes(b"six")
    assert [content_digest(path), content_digest(path)] == ["3", "4"]


Usage = namedtuple("Usage", "total used free")


def test_room_is_asked_for_before_a_slide_is_fetched(root: Path, slide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 401, 599))
    with pytest.raises(StorageError, match=r"the slide needs 0.000572 MB more, and the disk has 0.000571 MB free"):
        read(slide)
    assert not list(root.rglob("a.svs*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 400, 600))
    assert read(slide) == b"honest" * 100


def test_slides_that_nobody_reads_go_when_the_disk_is_full(
    root: Path, slide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").pipe("/slides/b.svs", b"second" * 100)
    read(slide)

    def usage(_: object) -> Usage:
        taken = sum(path.stat().st_size for path in root.rglob("*.svs"))
        return Usage(2000, taken, 1000 - taken)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert read("memory://slides/b.svs") == b"second" * 100
    assert [path.name for path in root.rglob("*.svs")] == ["b.svs"]


# --- public cohorts


def test_what_was_fetched_is_known_again_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "f.tif"
    path.write_bytes(b"fetched")
    note_digest(path)
    # The form of sha256sum, so that anyone can check it.
    assert (tmp_path / "f.tif.sha256").read_text() == f"{hashlib.sha256(b'fetched').hexdigest()}  f.tif\n"
    extra_module("st", "aiohttp")
    file = RemoteFile("f.tif", "http://127.0.0.1:9/f.tif")
    assert download(file, tmp_path) == path
    path.write_bytes(b"altered")
    with pytest.raises(DownloadError, match=r"was altered since it was fetched. Remove .*f.tif.sha256"):
        download(file, tmp_path)


@pytest.mark.parametrize("change", ["altered", "added", "removed"])
def test_an_unpacked_folder_is_known_again_too(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "spatial"
    (folder / "inner").mkdir(parents=True)
    (folder / "scale.json").write_text("{}")
    (folder / "inner" / "image.png").write_text("png")
    note_digest(folder)
    assert check_digest(folder)
    where = folder / {"altered": "scale.json", "added": "other.json", "removed": "inner/image.png"}[change]
    where.unlink() if change == "removed" else where.write_text("[]")
    with pytest.raises(DownloadError, match="altered since") as told:
        check_digest(folder)
    assert told.value.where == str(where)


# --- exported graphs

CARD = EncoderCard(
    name="small",
    title="One layer",
    source="timm",
    architecture="none",
    size_px=16,
    mpp=0.5,
    mean=(0.7, 0.5, 0.6),
    std=(0.2, 0.25, 0.21),
    pooling="mean",
    dim=4,
    parameters=0.01,
    licence="CC0-1.0",
    commercial_use=True,
    gated=False,
    paper="",
)


@needs_extra("onnx", "onnx")
def test_graphs_are_kept_in_the_cache_or_not_made(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    encoder = TorchEncoder(CARD, layers.eval().requires_grad_(False), "sha256:one", device="cpu")
    optimise(encoder, "auto", threads=1)
    assert [path.suffix for path in sorted((root / "onnx").glob("*.onnx"))] == [".onnx"]
    assert mode(root / "onnx") == 0o700
    (root / "onnx").chmod(0o777)
    with pytest.raises(StorageError, match="may be written by others"):
        optimise(encoder, "onnx", threads=1)
    with caplog.at_level(logging.INFO, logger="histomix"):
        assert isinstance(optimise(encoder, "auto", threads=1), TorchRuntime)
    assert "may be written by others" in caplog.text


def test_private_folders_need_no_cache(tmp_path: Path) -> None:
    assert mode(private_folder(tmp_path / "a" / "b")) == 0o700
    assert np.array_equal(sorted(path.name for path in tmp_path.rglob("*")), ["a", "b"])
