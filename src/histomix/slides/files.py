"""The files that make a slide, and whether their content is still the same."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..common.cache import cache_folder
from ..common.transfer.remote_names import relative_name
from ..errors import InputError, MissingSlideError, SlideError, StorageError
from ..provenance import digest_bytes, digest_file, digest_json, read_json, refuse_pipe, write_json
from .dicom import same_series

_LOG = logging.getLogger(__name__)

#: Suffixes that a folder is searched for.
SUFFIXES = (
    *(".svs", ".ndpi", ".mrxs", ".scn", ".tif", ".tiff", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm"),
    *(".btf", ".png", ".jpg", ".jpeg"),
)

#: Where an index of a slide names further files: those of Hamamatsu (VMS, VMU), and of MIRAX in its folder.
_NAMED = re.compile(
    r"^[ \t]*(?:FILE_\d+|INDEXFILE|ImageFile[^=\r\n]*|MapFile|OptimisationFile|MacroImage)[ \t]*=([^\r\n]*)",
    re.IGNORECASE | re.MULTILINE,
)


def slide_files(path: str | os.PathLike[str]) -> list[Path]:
    """Every file of a slide, the named one first.

    A MIRAX slide keeps its pixels in a folder beside it, a DICOM slide in further files of its series, a Hamamatsu
    VMS in further files of its folder, an image of OME-Zarr in the files of its own.
    """
    path = Path(path)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        return [path, *sorted(file for file in folder.rglob("*") if file.is_file())]
    if suffix == ".dcm":
        return same_series(path)
    if suffix in (".vms", ".vmu"):
        others = {*path.parent.glob(f"{path.stem}*"), *(path.parent / name for name in named_files(path))}
        return [path, *sorted(file for file in others if file != path and file.is_file())]
    return [path]


def named_files(path: str | os.PathLike[str]) -> list[str]:
    """Files that the index of a slide (VMS, VMU, MRXS) names, relative to its folder; none of another kind of slide.

    Raises
    ------
    SlideError
        A name leads out of the folder: OpenSlide would show what lies there as this slide.
    """
    path = Path(path)
    index = path.with_suffix("") / "Slidedat.ini" if path.suffix.lower() == ".mrxs" else path
    if index == path and path.suffix.lower() not in (".vms", ".vmu"):
        return []
    try:
        text = index.read_text(encoding="latin-1")
        return [relative_name(name) for value in _NAMED.findall(text) if (name := value.strip())]
    except InputError as error:
        what = f"names a file that is none of its own ({error.what})"
        raise SlideError(what, where=index, hint="Do not open it unless you know who made it") from error
    except OSError:
        return []  # whoever opens the slide will say what is wrong with it


def slide_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the files of a slide look from outside: name, size, and times of change of each, without reading them.

    The time of a file's last change of any kind (``ctime``) is among them, which no program can set back.

    Raises
    ------
    SlideError
        A file cannot be found.
    """
    files = slide_files(path)
    for file in files:
        refuse_pipe(file, SlideError)
    try:
        stats = [file.stat() for file in files]
    except OSError as error:
        kind = MissingSlideError if isinstance(error, FileNotFoundError) else SlideError
        raise kind(f"cannot be read ({error.strerror or error})", where=path, hint="Check the path") from error
    return {
        "files": [
            [file.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            for file, stat in zip(files, stats, strict=True)
        ]
    }


def slide_digest(path: str | os.PathLike[str], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Identify a slide by its whole content.

    Parameters
    ----------
    path
        The slide.
    known
        An earlier result for the same path. Where sizes and times are as they were, its digest is taken over; otherwise
        every byte is read again, so that a new time alone changes nothing and a changed byte is seen.

    Returns
    -------
    dict
        ``digest`` (of the content, ``"sha256:<hex>"``), and ``files`` as `slide_state` gives them.

    Raises
    ------
    SlideError
        A file cannot be read.
    """
    state = slide_state(path)
    if known is not None and known.get("files") == state["files"] and known.get("digest"):
        return {**state, "digest": str(known["digest"])}
    return {**state, "digest": _digest(os.fspath(path), digest_json(state))}


#: Smaller slides are as fast read again as looked up, bytes.
_REMEMBERED = 16 << 20


def content_digest(path: str | os.PathLike[str], *, verify: bool = False) -> str:
    """Digest of a slide's whole content, which is read once and remembered in the cache with sizes and times.

    Parameters
    ----------
    path
        The slide.
    verify
        Read it again though nothing about its files has changed.

    Raises
    ------
    SlideError
        A file cannot be read.
    """
    state = slide_state(path)
    mark = digest_json(state)  # the names of the files are in the state, and in no cache
    known = None if verify else _remembered(path)
    if known is not None and known.get("state") == mark and isinstance(known.get("digest"), str):
        return str(known["digest"])
    digest = _digest(os.fspath(path), mark)
    if sum(size for _, size, *_ in state["files"]) > _REMEMBERED:
        _remember(path, {"state": mark, "digest": digest})
    return digest


def is_changed(path: str | os.PathLike[str], digest: str | None) -> bool:
    """Whether a slide is not the one of that digest any more, as far as it is known without reading it for nothing.

    It is read whole where its sizes or times have changed since it was; one that was never read here counts as the
    same.

    Raises
    ------
    SlideError
        A file cannot be read.
    """
    if digest is None or _remembered(path) is None:
        return False
    return content_digest(path) != digest


def _memory(path: str | os.PathLike[str]) -> Path:
    return cache_folder("slide-digests") / f"{digest_bytes(os.fsencode(Path(path).absolute()))[-40:]}.json"


def _remembered(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    try:
        return read_json(_memory(path))
    except (InputError, StorageError):
        return None


def _remember(path: str | os.PathLike[str], found: Mapping[str, Any]) -> None:
    try:
        write_json(_memory(path), found)
    except StorageError as error:  # it is read again next time
        _LOG.info("%s", error)


@lru_cache(maxsize=256)
def _digest(path: str, state: str) -> str:
    files = slide_files(path)
    try:
        digests = [digest_file(file) for file in files]
    except OSError as error:
        kind = MissingSlideError if isinstance(error, FileNotFoundError) else SlideError
        raise kind(f"cannot be read ({error.strerror or error})", where=path, hint="Check the path") from error
    return digests[0] if len(digests) == 1 else digest_json([[f.name, d] for f, d in zip(files, digests, strict=True)])
