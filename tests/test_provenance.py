"""Files that are whole or absent, and digests that name content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histomix.errors import InputError, StorageError
from histomix.progress import progress_bars
from histomix.provenance import (
    _partial_prefix,
    atomic_path,
    digest_file,
    digest_json,
    digest_sealed,
    fingerprint,
    read_json,
    remove_abandoned,
    require_writable,
    sealed,
    versions,
    write_json,
)


def test_atomic_path_writes_whole_files_or_none(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["result.txt"]


def test_atomic_path_replaces_folders(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == "folder" and target == folder:
            assert not folder.exists(), "the old one has stepped aside"
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail)

    def write() -> None:
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text("new")

    with pytest.raises(StorageError, match="Permission denied"):
        write()
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")

    def fill() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="disk is full") as caught:
        fill()
    assert str(target) in str(caught.value)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_names_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"), atomic_path(tmp_path / "file" / "result.txt"):
        pass


def test_digests(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"histomix")
    assert digest_file(path) == "sha256:" + hashlib.sha256(b"histomix").hexdigest()
    assert digest_json({"a": 1, "b": [2]}) == digest_json({"b": [2], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})


def test_reading_a_large_file_for_its_digest_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = tmp_path / "slide", list[tuple[int, int]]()
    path.write_bytes(np.random.default_rng(0).bytes(5_500_000))
    with progress_bars(lambda _, done, total: told.append((done, total))):
        small = digest_file(path)
        assert told == []
        monkeypatch.setattr("histomix.provenance._TOLD_BYTES", 1 << 21)
        assert digest_file(path) == small == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_the_digest_of_sealed_facts_knows_nothing_of_their_cost(tmp_path: Path) -> None:
    path, digests = tmp_path / "summary.json", []
    for facts in ({"a": 1, "cost": 2.5}, {"a": 1, "cost": 3.5}, {"a": 2, "cost": 3.5}):
        write_json(path, sealed(facts))
        digests.append(digest_sealed(path))
    assert digests[0] == digests[1] != digests[2]
    for text in ('{"a": 1, "cost": 2.5}', "[1]", "{"):  # of no seal, all counts
        path.write_text(text, encoding="utf-8")
        assert digest_sealed(path) == digest_file(path)


def test_fingerprint_sees_content_and_size_but_not_time(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(bytes(20 << 20))
    before = fingerprint(path)
    path.touch()
    assert fingerprint(path) == before
    with path.open("r+b") as stream:
        stream.write(b"x")
    assert fingerprint(path) != before
    path.write_bytes(bytes((20 << 20) - 1) + b"x")  # the end is sampled as the beginning is
    assert fingerprint(path) != before
    path.write_bytes(bytes((20 << 20) + 1))
    assert fingerprint(path) != before
    with path.open("wb") as stream:  # of a large file the first and the last bytes are always seen
        stream.truncate(60 << 20)
    before = fingerprint(path)
    with path.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    assert fingerprint(path) != before


def test_fingerprint_of_a_folder_follows_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "image" / "0").mkdir(parents=True)
    (tmp_path / "image" / "0" / "a").write_text("a")
    known = {fingerprint(tmp_path / "image")}
    (tmp_path / "image" / "0" / "a").write_text("b")
    known.add(fingerprint(tmp_path / "image"))
    (tmp_path / "image" / "0" / "a").rename(tmp_path / "image" / "0" / "c")
    known.add(fingerprint(tmp_path / "image"))
    assert len(known) == 3 and None not in known


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"value": 1.5})
    assert read_json(path) == {"value": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"value": float("nan")})
    assert read_json(path) == {"value": 1.5}
    path.write_text("[1]")
    with pytest.raises(InputError, match="not an object"):
        read_json(path)
    path.write_text(json.dumps({"a": 1})[:-2])
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "none.json")


def test_versions_lists_only_what_is_installed() -> None:
    found = versions("numpy", "no-such-package")
    assert set(found) == {"histomix", "python", "numpy"}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Unable to close file (file write failed: errno = 28, error message = 'No space left on device')"),
        OSError("Can't synchronously write data (file write failed: errno = 27, error message = 'File too large')"),
        OSError(errno.EFBIG, "File too large"),
    ],
)
def test_a_full_disk_is_known_behind_the_words_of_libraries(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(StorageError, match="disk is full"), atomic_path(tmp_path / "result.h5ad"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_no_fault_of_the_disk_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), atomic_path(tmp_path / "result"):
        raise RuntimeError("a bug")
    # numpy tells a short write without a number; what has another number is of the program.
    with pytest.raises(StorageError, match="10 requested and 5 written"), atomic_path(tmp_path / "result"):
        raise OSError("10 requested and 5 written")
    with pytest.raises(OSError, match="Invalid argument") as caught, atomic_path(tmp_path / "result"):
        raise OSError(errno.EINVAL, "Invalid argument")
    assert not isinstance(caught.value, StorageError)
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "result"):
        (tmp_path / "absent").read_text()


class TestPlacesToWriteTo:
    def test_what_cannot_be_written_is_found_before_the_work(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match="cannot write"):
            require_writable(tmp_path / "file" / "head")
        require_writable(tmp_path / "new" / "deep" / "head")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    @staticmethod
    def killed(folder: Path, *, replacing: bool) -> None:
        """A process that is killed while it writes ``out``; or between the two steps of replacing it."""
        stop = "p.rename = lambda self, other: (old(self, other), os._exit(9))" if replacing else ""
        program = (
            "import os, sys, pathlib; from histomix.provenance import atomic_path\n"
            "p = pathlib.Path; old = p.rename\n"
            f"{stop}\n"
            "with atomic_path(sys.argv[1]) as temporary:\n"
            "    temporary.mkdir(); (temporary / 'new').touch()\n"
            f"    {'pass' if replacing else 'os._exit(9)'}\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(folder / "out")], check=False)
        assert done.returncode == 9

    def test_a_killed_run_leaves_nothing_for_good(self, tmp_path: Path) -> None:
        self.killed(tmp_path, replacing=False)
        assert any(path.name.startswith(".partial-") for path in tmp_path.iterdir())
        other = tmp_path / ".partial-0badcafe-1-x"  # of another computer
        other.mkdir()
        require_writable(tmp_path / "out")
        assert list(tmp_path.iterdir()) == [other]

    def test_a_folder_that_was_being_replaced_comes_back(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()
        self.killed(tmp_path, replacing=True)
        assert not (tmp_path / "out").exists()
        require_writable(tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_what_another_process_is_writing_stays(self, tmp_path: Path) -> None:
        with atomic_path(tmp_path / "out") as temporary:
            temporary.mkdir()
            require_writable(tmp_path / "out")
            assert temporary.is_dir()

    def test_only_what_nobody_is_writing_any_more_is_removed(self, tmp_path: Path) -> None:
        self.killed(tmp_path, replacing=False)
        other = tmp_path / ".partial-0badcafe-1-x"  # of another computer
        other.mkdir()
        with atomic_path(tmp_path / "status.json") as temporary:
            temporary.touch()
            remove_abandoned(tmp_path)
            assert {path.name for path in tmp_path.iterdir()} == {other.name, temporary.parent.name}
        # The number of a process that is gone has been given again, to this one; and a day has passed.
        again = tmp_path / f"{_partial_prefix()}x"
        again.mkdir()
        for old in (again, other):
            os.utime(old, (1e9, 1e9))
        remove_abandoned(tmp_path)
        assert not list(tmp_path.glob(".partial-*"))
