"""A listed head as a folder here: its archive found or fetched and checked, and unpacked into the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..common.cache import cache_folder
from ..common.transfer.addresses import is_address, redact_url
from ..common.transfer.download import RemoteFile, download
from ..common.transfer.remote_names import local_path, remote_name
from ..errors import HeadError
from ..heads.cards.text import encoder_terms
from ..provenance import digest_file
from .catalogue import BUNDLED, CATALOGUE, HINT, HUB, ListedHead


def fetched(entry: ListedHead, folder: Path) -> str:
    """Where `pull_head` can take a listed head from: an archive here with the right digest, or a repository.

    Parameters
    ----------
    entry
        The head.
    folder
        For an archive that has to be fetched.

    Raises
    ------
    HeadError
        The archive is another one than the catalogue says.
    DownloadError
        It cannot be fetched.
    """
    if entry.source.startswith(HUB):
        return entry.source
    remote = is_address(entry.source) or is_address(entry.catalogue)
    if remote:
        url = urljoin(entry.catalogue, entry.source)
        if is_address(entry.catalogue) and urlsplit(url)[:2] != urlsplit(entry.catalogue)[:2]:
            # A stranger's list must not send this computer to servers of its own network.
            raise HeadError(
                f"the catalogue sends us on to another server for {entry.name!r} ({redact_url(url)})",
                where=entry.catalogue,
                hint="Pull it from there yourself, if you trust it",
            )
        archive = download(
            RemoteFile(remote_name(url), url, entry.sha256, most_bytes=max(entry.bytes, 1)),
            folder,
        )
    else:
        home = Path(entry.catalogue).parent if entry.catalogue else BUNDLED
        archive = local_path(home, entry.source, where=entry.catalogue or CATALOGUE)
        if not archive.is_file():
            raise HeadError(f"the archive of {entry.name!r} is missing", where=archive, hint=HINT)
        if digest_file(archive) != entry.sha256:
            raise HeadError(
                f"is not the archive that the catalogue lists as {entry.name!r} (its sha256 differs)",
                where=archive,
                hint=HINT if entry.catalogue else "Install histomix again",
            )
    return str(archive)


def check_licence(entry: ListedHead, card: Mapping[str, Any], where: str) -> None:
    """Refuse (HeadError) a head whose card names other encoders, or other licences of them, than its catalogue."""
    listed = [(str(one["name"]), str(one["licence"])) for one in entry.encoders]
    told = [(one.encoder, one.licence) for one in encoder_terms(card)]
    if listed != told:
        named = ["; ".join(f"{name}: {licence}" for name, licence in terms) for terms in (listed, told)]
        raise HeadError(
            f"the catalogue lists it with another encoder or licence ({named[0]}) than its card has ({named[1]})",
            where=where,
            hint="Ask whoever made the catalogue which of the two is right, and do not use the head before",
        )


def own_place(name: str) -> Path:
    """Where a head goes that is pulled without saying where to."""
    return cache_folder("heads") / name
