"""Which files at a store make one slide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ...common.transfer.addresses import redact_url
from ...common.transfer.remote_names import remote_name
from ...common.transfer.retry import Retry, failures, with_retries
from ...common.transfer.store import Store
from ...common.transfer.web import answered, beginning, links
from ...errors import DownloadError, SlideError

_FOLDER_BESIDE = (".mrxs",)
_SIBLINGS = (".dcm", ".dicom")
_MANY_FILES = (".vms", ".vmu", ".zarr")
#: Files of one slide, and bytes of the page that lists them: a server may list without end.
_MOST_FILES, _MOST_LISTING = 4096, 4 << 20
_MOST_DIGEST = 4096


def slide_files(store: Store, url: str, retry: Retry) -> dict[str, str]:
    """Relative name -> address of all files of a slide; the one that is opened first. No name is believed here.

    Raises
    ------
    SlideError
        It is made of several files that cannot be listed, or of too many.
    """
    name, suffix = remote_name(url), Path(remote_name(url)).suffix.lower()
    files = {name: url}
    if suffix in _MANY_FILES:
        raise SlideError(
            f"a {suffix} slide is made of many files, and which ones cannot be told from afar",
            where=redact_url(url),
            hint="Copy all of it to this disk, and name it there",
        )
    if suffix in _FOLDER_BESIDE:
        folder = url[: -len(suffix)]
        files |= {f"{Path(name).stem}/{file}": at for file, at in _listed(store, folder, retry).items()}
        if not any(file.lower().endswith("/slidedat.ini") for file in files):
            raise SlideError(
                f"an {suffix} slide needs the folder {Path(name).stem}/ beside it (with Slidedat.ini), and the "
                "store does not list it",
                where=redact_url(url),
                hint="Put the folder beside it, use a store that lists its files (s3://, gs://), or copy both here",
            )
    if suffix in _SIBLINGS:
        # Each level of a DICOM slide is a file; with one of them alone it would open, and lack the rest.
        listed = _listed(store, url.rpartition("/")[0], retry, below=False)
        files |= {file: at for file, at in listed.items() if Path(file).suffix.lower() == suffix and "/" not in file}
        if name not in listed:
            raise SlideError(
                "a DICOM slide is the files of one folder together, and the store does not list them",
                where=redact_url(url),
                hint="Use a store that lists its files (s3://, gs://), or copy the folder here",
            )
    return files


def _listed(store: Store, folder: str, retry: Retry, *, below: bool = True) -> dict[str, str]:
    """Relative name -> address of the files in a folder, and in those below it; empty where the store lists none."""
    if urlsplit(folder).query:
        return {}  # a signed address is good for one file
    try:
        addresses = with_retries(lambda: _names(store, folder, retry.silence_s, below), folder, retry)
    except DownloadError:
        return {}
    if len(addresses) > _MOST_FILES:
        raise SlideError(
            f"the store lists {len(addresses)} files beside it, and a slide has at most {_MOST_FILES}",
            where=redact_url(folder),
            hint="Put each slide into a folder of its own",
        )
    return {unquote(name): address for name, address in addresses.items()}


def _names(store: Store, folder: str, silence_s: float, below: bool) -> dict[str, str]:
    if store.web:
        # A web server has no listings, but pages with links; only those straight below are files of the slide.
        return {url[len(folder) + 1 :]: url for url in links(store.fs, folder, silence_s, _MOST_LISTING)}
    depth: dict[str, Any] = {} if below else {"maxdepth": 1}
    paths: Sequence[str] = store.ask("find", folder, deadline_s=2 * silence_s, **depth)
    base = store.fs._strip_protocol(folder).rstrip("/") + "/"
    scheme = "" if "://" in base else f"{store.scheme}://"
    files = {str(path)[len(base) :]: f"{scheme}{path}" for path in paths if str(path).startswith(base)}
    return {name: address for name, address in files.items() if name}


def sidecar_digest(store: Store, url: str, silence_s: float) -> str | None:
    """The SHA-256 that stands beside the file as ``<address>.sha256`` (the form that sha256sum writes)."""
    if urlsplit(url).query:
        return None  # a signed address is good for one file
    try:
        text = _beginning(store, f"{url}.sha256", silence_s)
    except DownloadError:
        return None
    except failures():
        return None
    match = re.match(rb"\\?([0-9a-fA-F]{64})(\s|$)", text)
    return f"sha256:{match[1].decode().lower()}" if match else None


def _beginning(store: Store, url: str, silence_s: float) -> bytes:
    if store.web:
        with answered(store.fs, url, {}, silence_s) as (_, chunks):
            return beginning(chunks, _MOST_DIGEST, silence_s)
    text: bytes = store.ask("cat_file", url, start=0, end=_MOST_DIGEST, deadline_s=silence_s)
    return text
