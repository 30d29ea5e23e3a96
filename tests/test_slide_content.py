"""A slide is known by its whole content, which is read once; what the sample of a large one does not see is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from histomix.provenance import fingerprint
from histomix.slides import files
from histomix.slides.files import content_digest, is_changed

from .conftest import Job, manifest_of


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 20 MiB, and a cache of its own."""
    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    files._digest.cache_clear()
    path = tmp_path / "slide.svs"
    path.write_bytes(bytes(20 << 20))
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read whole."""
    whole: list[Path] = []
    digest = files.digest_file

    def noted(path: Path) -> str:
        whole.append(path)
        return digest(path)

    monkeypatch.setattr(files, "digest_file", noted)
    return whole


def _change(path: Path) -> None:
    """Change a byte between two samples, and put the time of the file back."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek((1 << 20) + 5)
        stream.write(b"\1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_large_slide_is_read_once_and_again_where_it_was_touched(large: Path, read: list[Path]) -> None:
    first, sample = content_digest(large), fingerprint(large)
    files._digest.cache_clear()  # as in another process
    assert content_digest(large) == first and read == [large]
    _change(large)
    assert fingerprint(large) == sample  # which does not see it
    assert content_digest(large) != first and read == [large] * 2
    assert is_changed(large, first) and not is_changed(large, content_digest(large))
    assert not is_changed(large, None)


def test_verify_reads_what_looks_the_same(large: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, state = content_digest(large), files.slide_state(large)
    monkeypatch.setattr(files, "slide_state", lambda path: dict(state))  # a bit that fell over by itself
    _change(large)
    files._digest.cache_clear()
    assert content_digest(large) == first
    assert content_digest(large, verify=True) != first and read == [large] * 2


def test_a_slide_that_was_never_read_here_is_not_read_for_nothing(large: Path, read: list[Path]) -> None:
    assert not is_changed(large, "sha256:other") and read == []


def test_a_cache_that_cannot_be_used_costs_only_time(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (large.parent / "cache").write_text("in the way")
    assert content_digest(large) == content_digest(large, verify=True)


def test_features_of_a_changed_slide_are_made_again(
    small_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint of samples is made blind, as it is between them."""
    import shutil

    import histomix as hm
    from histomix.embedding import current, identity
    from histomix.errors import FeatureError

    root = tmp_path / "phantom"
    shutil.copytree(small_job.sheet.parent, root)
    monkeypatch.setattr(files, "_REMEMBERED", 0)
    for module in (identity, current):
        monkeypatch.setattr(module, "slide_fingerprint", lambda path: f"sample of {Path(path).name}")
    sheet, out = root / "sheet.csv", tmp_path / "features"
    first = hm.embed(sheet, out=out)["P1S1"]
    image = root / "images" / "P1S1.tif"
    data = bytearray(image.read_bytes())
    data.extend(b"\0")  # of the same pixels, but another file
    image.write_bytes(bytes(data))
    with pytest.raises(FeatureError, match="were made of another image"):
        hm.train(sheet, out, small_job.labels, "ridge")
    progress: list[str] = []
    again = hm.embed(sheet, out=out, progress=lambda task, done, total: progress.append(task))["P1S1"]
    assert manifest_of(again) != manifest_of(first)
    hm.train(sheet, out, small_job.labels, "ridge")


def test_what_is_remembered_names_no_slide(large: Path) -> None:
    named = large.rename(large.with_name("Smith, Jane.svs"))
    content_digest(named)
    (kept,) = (named.parent / "cache" / "slide-digests").iterdir()
    assert "Smith" not in kept.name and "Smith" not in kept.read_text() and "svs" not in kept.read_text()
