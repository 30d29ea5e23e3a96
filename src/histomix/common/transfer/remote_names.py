"""Local names of remote files: the one place where text of a server, an archive or an address becomes a path."""

from __future__ import annotations

import ntpath
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import InputError
from ..naming import DEVICES, visible

#: Bytes of one part of a name: file systems allow 255, and ``.part.stamp`` and the like are added while a file arrives.
LONGEST = 240
_LONGEST_PATH, _DEEPEST, _ROUNDS = 1024, 16, 8
# What is taken for a separator somewhere: a backslash on Windows, and what looks like one of the two. U+2044 is none of
# them: it is what the compatible form of a fraction (one half) holds.
_SEPARATORS = str.maketrans(dict.fromkeys("\\\u2215\u29f8\u2216\u29f5\u29f9", "/"))
# Control marks, hidden ones such as a turn of the writing direction, halves of characters, and separators of lines.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_HINT = "Rename the file at its source, or copy it here under a plain name"


def remote_name(url: str) -> str:
    """The file name at the end of an address, decoded once: one part, which stays in the folder it is put into.

    Raises
    ------
    InputError
        The end of the address is no plain name, however it is encoded.
    """
    name = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "slide"
    fault = _fault(name) or ("is more than the name of a file" if "/" in name else None)
    if fault is not None:
        raise InputError(f"the name {visible(name)!r} at the end of the address {fault}", hint=_HINT)
    return name


def local_path(folder: str | os.PathLike[str], name: str, *, where: str | None = None) -> Path:
    """Where a file goes that is called ``name`` elsewhere: always inside ``folder``, or nowhere.

    The name is taken as it is. It is refused if it, or what any further decoding of it gives (percent signs, Unicode's
    compatible forms), is no plain relative name: absolute, with ``..``, with hidden separators, with a drive or a
    device of Windows, with control marks, or too long. So is one that a link in the folder would lead out of it.

    Parameters
    ----------
    folder
        The folder, which need not exist.
    name
        Parts separated by ``/``.
    where
        The source, for messages.

    Raises
    ------
    InputError
        The name is refused.
    """
    path = Path(folder, *relative_name(name, where=where).split("/"))
    home, parent = os.path.realpath(folder), os.path.realpath(path.parent)
    if path.is_symlink() or not Path(parent).is_relative_to(home):
        raise InputError(
            f"{visible(name)!r} is a link, or lies behind one, that leads out of its folder",
            where=str(folder),
            hint="Remove the link",
        )
    return path


def relative_name(name: str, *, where: str | None = None) -> str:
    """The name as it is, if it is a plain relative one; see `local_path`, which also looks at links.

    Raises
    ------
    InputError
        The name is refused.
    """
    fault = _fault(name)
    if fault is not None:
        raise InputError(f"the name {visible(name)!r} {fault}", where=where, hint=_HINT)
    return name


def local_paths(folder: str | os.PathLike[str], names: Iterable[str], *, where: str | None = None) -> dict[str, Path]:
    """`local_path` of several names, each a file of its own; errors as `check_names` and `local_path`."""
    listed = list(names)
    check_names(listed, where=where)
    return {name: local_path(folder, name, where=where) for name in listed}


def check_names(names: Iterable[str], *, where: str | None = None) -> None:
    """Refuse names that are no plain relative ones, or that are not each a file of its own on every file system.

    Raises
    ------
    InputError
        A name is refused, or two are one file where the case of letters, or the form of an accent, makes no difference.
    """
    files: dict[str, str] = {}
    for name in names:
        *_, plainest = _readings(relative_name(name, where=where))
        twin = files.setdefault(plainest.casefold(), name)
        if twin != name:
            raise InputError(f"{visible(twin)!r} and {visible(name)!r} would be one file here", where=where, hint=_HINT)
    for key in files:
        parts = key.split("/")
        for depth in range(1, len(parts)):
            if (parent := files.get("/".join(parts[:depth]))) is not None:
                raise InputError(f"{visible(parent)!r} would be a file and a folder here", where=where, hint=_HINT)


def _readings(name: str) -> Iterator[str]:
    """A name as it is, and as it reads each time that somebody decodes it further."""
    for _ in range(_ROUNDS):
        yield name
        further = unicodedata.normalize("NFKC", unquote(name)).translate(_SEPARATORS)
        if further == name:
            return
        name = further


def _fault(name: str) -> str | None:
    """What is wrong with a relative name, in words; None for a plain one."""
    if len(name) > 4 * _LONGEST_PATH:
        return "is too long"
    readings = list(_readings(name))
    if len(readings) == _ROUNDS:
        return "is encoded again and again"
    return next((fault for reading in readings if (fault := _fault_of(reading, name.count("/")))), None)


def _fault_of(reading: str, separators: int) -> str | None:
    if any(unicodedata.category(mark) in _HIDDEN for mark in reading):
        return "holds control or hidden marks"
    if reading.translate(_SEPARATORS).count("/") != separators:
        return "hides a separator of folders"
    parts = reading.split("/")
    if len(parts) > _DEEPEST or len(reading.encode()) > _LONGEST_PATH:
        return "is too long"
    return next((fault for part in parts if (fault := _fault_of_part(part))), None)


def _fault_of_part(part: str) -> str | None:
    if not part:
        return "is empty, absolute, or ends as a folder"
    if not part.strip(". "):
        return "leads out of its folder"
    # Windows takes any mark before a colon for a drive, not letters alone.
    if ntpath.splitdrive(part)[0] or (os.name == "nt" and ":" in part):
        return "names a drive"
    if part[-1] in ". ":
        return "ends in a dot or a space, which Windows drops"
    if re.split(r"[.:]", part)[0].strip().casefold() in DEVICES:
        return "is a device of Windows"
    return "is too long" if len(part.encode()) > LONGEST else None
