"""Digests of fetched files: those that a source publishes, and those noted beside what arrived without one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...errors import DownloadError
from ..cache import content_digest
from .part import open_unlinked, writing

_CHUNK = 1 << 20
_NAMES = {"git": "git blob id"}


def matches(path: Path, digest: str) -> bool:
    """Whether a file has a digest, ``"sha256:<hex>"``, ``"md5:<hex>"`` or ``"git:<hex>"``."""
    kind, _, value = digest.partition(":")
    if kind == "git":
        # A git blob id is the SHA-1 of a header with the size, then the content.
        hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        hasher = hashlib.new(kind, usedforsecurity=kind != "md5")
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest() == value


def digest_text(digest: str) -> str:
    """A digest in a sentence: ``"sha256 <hex>"``."""
    kind, _, value = digest.partition(":")
    return f"{_NAMES.get(kind, kind)} {value}"


def note_digest(path: Path, target: Path | None = None) -> None:
    """Write what a file, or every file of a folder, holds to ``<name>.sha256`` beside it, as sha256sum does.

    Parameters
    ----------
    path
        The file or folder.
    target
        What it will be named; its own name when left out.

    Raises
    ------
    StorageError
        The note cannot be written, or a link stands in its place.
    """
    target = target or path
    files = {target.name: path} if path.is_file() else {f"{target.name}/{name}": path / name for name in _below(path)}
    lines = [f"{content_digest(file).removeprefix('sha256:')}  {name}\n" for name, file in files.items()]
    with writing(_note(target)), open_unlinked(_note(target), "w", encoding="utf-8") as stream:
        stream.writelines(lines)


def check_digest(path: Path) -> bool:
    """True where a file or folder is what `note_digest` noted of it, or nothing was noted (it was put there by hand).

    Raises
    ------
    DownloadError
        Something of it was altered, removed or added since.
    """
    if not _note(path).is_file():
        return True
    lines = _note(path).read_text(encoding="utf-8").splitlines()
    noted = {name: f"sha256:{digest}" for digest, _, name in (line.partition("  ") for line in lines)}
    names = [path.name] if path.is_file() else [f"{path.name}/{name}" for name in _below(path)]
    for name in sorted({*noted, *names}):
        file = path.parent / name
        if not file.is_file() or content_digest(file) != noted.get(name):
            raise DownloadError(
                "was altered since it was fetched",
                where=file,
                hint=f"Remove {path} and {_note(path).name} beside it, and run the same command again",
            )
    return True


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _below(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
