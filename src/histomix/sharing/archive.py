"""Heads in zip archives and plain folders, for networks without a hub."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Container, Iterable
from pathlib import Path

from ..common.transfer.remote_names import local_paths
from ..errors import HeadError
from ..provenance import atomic_path
from .trust import MOST_BYTES, MOST_FILES

_CHUNK = 1 << 20
#: The same files give the same archive, byte for byte.
_DATE = (1980, 1, 1, 0, 0, 0)
_HINT = "Make the archive with: histomix head push HEAD FILE.zip"


class FolderSource:
    """A head in a folder."""

    revision = ""

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)

    def listing(self) -> dict[str, int]:
        """Files with their sizes, without the system's (a leading dot) and the note of where a head came from."""
        sizes = {}
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or path.name == "source.json":
                continue
            if path.is_symlink() or not path.is_file():
                raise HeadError(
                    f"holds {path.name!r}, which is no plain file", where=self.where, hint="Give a head's folder"
                )
            sizes[path.name] = path.stat().st_size
        return sizes

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return (self.folder / name).read_bytes()

    def fetch(self, names: Iterable[str], folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """Copy files to a folder."""
        for path, name in _targets(folder, names, self.where):
            path.write_bytes(self.read(name))


class ZipSource:
    """A head in a zip archive, of which nothing is believed: not names, not sizes, not kinds of entries."""

    revision = ""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    def listing(self) -> dict[str, int]:
        """Entries with the sizes that the archive declares.

        Raises
        ------
        HeadError
            It is no zip archive; or an entry is a link, a folder, encrypted, doubled, or of another compression.
        """
        sizes: dict[str, int] = {}
        with self._open() as archive:
            entries = archive.infolist()
            if len(entries) > MOST_FILES:
                raise HeadError(
                    f"holds {len(entries)} files; a head has at most {MOST_FILES}", where=self.where, hint=_HINT
                )
            for entry in entries:
                fault = _fault(entry, sizes)
                if fault:
                    name = entry.filename.encode("ascii", "backslashreplace").decode()
                    raise HeadError(
                        f"the entry {name!r} is {fault}; nothing was unpacked", where=self.where, hint=_HINT
                    )
                sizes[entry.filename] = entry.file_size
        return sizes

    def read(self, name: str) -> bytes:
        """The bytes of one entry, as many as the archive declares at most."""
        with self._open() as archive:
            declared = archive.getinfo(name).file_size
            return b"".join(self._blocks(archive, name, declared))

    def fetch(self, names: Iterable[str], folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """Unpack entries to a folder, counting what comes out.

        Raises
        ------
        HeadError
            An entry is damaged, or more comes out than is declared or allowed.
        """
        left = most_bytes
        with self._open() as archive:
            for path, name in _targets(folder, names, self.where):
                declared = archive.getinfo(name).file_size
                with path.open("xb") as stream:
                    for block in self._blocks(archive, name, min(declared, left)):
                        stream.write(block)
                        left -= len(block)

    def _blocks(self, archive: zipfile.ZipFile, name: str, most: int) -> Iterable[bytes]:
        try:
            with archive.open(name) as stream:
                while block := stream.read(_CHUNK):
                    most -= len(block)
                    if most < 0:
                        raise HeadError(f"the entry {name!r} is larger than declared", where=self.where, hint=_HINT)
                    yield block
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise HeadError(f"the entry {name!r} is damaged ({error})", where=self.where, hint=_HINT) from error

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise HeadError(f"is no zip archive ({error})", where=self.where, hint=_HINT) from error


def _targets(folder: Path, names: Iterable[str], where: str) -> list[tuple[Path, str]]:
    """Where each file goes, and its name at the source."""
    return [(path, name) for name, path in local_paths(folder, names, where=where).items()]


def _fault(entry: zipfile.ZipInfo, others: Container[str]) -> str | None:
    """What is wrong with an entry, in words; None for a plain file beside the others."""
    if not entry.filename:
        return "without a name"
    if entry.is_dir() or "/" in entry.filename or "\\" in entry.filename:
        return "a folder, or lies in one"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link or a device"
    if entry.flag_bits & 0x1:
        return "encrypted"
    if entry.filename in others:
        return "there twice"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed in a way that is not read"
    return None


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """Write files to a flat zip archive; the same files give the same bytes.

    Raises
    ------
    StorageError
        The archive cannot be written.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[name])
