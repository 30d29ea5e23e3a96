"""Which files at a store make one slide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import DownloadError, SlideError
from .store import Retry, Store, attempt, failures, shown

_FOLDER_BESIDE = (".mrxs",)
_SIBLINGS = (".dcm", ".dicom")
_MANY_FILES = (".vms", ".vmu", ".zarr")


def remote_name(url: str) -> str:
    """The file name at the end of an address."""
    return unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "slide"


def slide_files(store: Store, url: str, retry: Retry) -> dict[str, str]:
    """Relative path -> address of all files of a slide; the one that is opened first.

    Raises
    ------
    SlideError
        It is made of several files that cannot be listed.
    """
    name, suffix = remote_name(url), Path(remote_name(url)).suffix.lower()
    files = {name: url}
    if suffix in _MANY_FILES:
        raise SlideError(
            f"a {suffix} slide is made of many files, and which ones cannot be told from afar",
            where=shown(url),
            mend="Copy all of it to this disk, and name it there",
        )
    if suffix in _FOLDER_BESIDE:
        beside = url[: -len(suffix)]
        files |= {f"{Path(name).stem}/{file}": at for file, at in _listed(store, beside, retry).items()}
        if not any(file.lower().endswith("/slidedat.ini") for file in files):
            raise SlideError(
                f"an {suffix} slide needs the folder {Path(name).stem}/ beside it (with Slidedat.ini), and the "
                "store does not list it",
                where=shown(url),
                mend="Put the folder beside it, use a store that lists its files (s3://, gs://), or copy both here",
            )
    if suffix in _SIBLINGS:
        # Each level of a DICOM slide is a file; with one of them alone it would open, and lack the rest.
        listed = _listed(store, url.rpartition("/")[0], retry)
        files |= {file: at for file, at in listed.items() if Path(file).suffix.lower() == suffix and "/" not in file}
        if name not in listed:
            raise SlideError(
                "a DICOM slide is the files of one folder together, and the store does not list them",
                where=shown(url),
                mend="Use a store that lists its files (s3://, gs://), or copy the folder here",
            )
    return files


def _listed(store: Store, folder: str, retry: Retry) -> dict[str, str]:
    """Relative path -> address of the files below a folder; empty where the store lists none."""
    try:
        found: Sequence[str] = attempt(lambda: store.fs.find(folder), folder, retry)
    except DownloadError:
        return {}
    base = store.fs._strip_protocol(folder).rstrip("/") + "/"
    scheme = "" if "://" in base else f"{store.scheme}://"
    files = {str(path)[len(base) :]: f"{scheme}{path}" for path in found if str(path).startswith(base)}
    return {unquote(name): at for name, at in files.items() if name and ".." not in name.split("/")}


def sidecar_digest(store: Store, url: str) -> str | None:
    """The SHA-256 that stands beside the file as ``<address>.sha256`` (the form that sha256sum writes)."""
    if urlsplit(url).query:
        return None  # a signed address is good for one file
    try:
        text: bytes = store.fs.cat_file(f"{url}.sha256", start=0, end=4096)
    except failures():
        return None
    found = re.match(rb"\\?([0-9a-fA-F]{64})(\s|$)", text)
    return f"sha256:{found[1].decode().lower()}" if found else None
