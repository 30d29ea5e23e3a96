"""Push a head to a hub, a folder or a zip archive, and pull it from there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.anonymity.pseudonyms import open_pseudonyms
from ..common.transfer.remote_names import local_paths
from ..errors import HeadError, InputError, MissingFileError, UnknownHeadError
from ..provenance import atomic_path, json_text, read_json, require_folder, write_json
from .archive import FolderSource, ZipSource, write_zip
from .catalogue import ListedHead, find_head, is_name, list_heads, pulled
from .ready import check_licence, fetched, own_place
from .repository import HubSource, parse_address, upload
from .trust import AGAIN, CARD, MOST_BYTES, README, SOURCE, SUFFIXES, HeadFacts, check_listing, read_card, wanted

if TYPE_CHECKING:
    from ..heads import Head

_HUB = "hf://"
Source = FolderSource | ZipSource | HubSource


def push_head(
    head: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    public: bool = False,
    message: str = "",
    endpoint: str | None = None,
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
) -> str:
    """Share a head: its card, its arrays and a README written from the card.

    Parameters
    ----------
    head
        Folder of a head; it is loaded first, so that what is shared is whole.
    target
        ``hf://OWNER/NAME[@BRANCH]``, a path that ends in ``.zip``, or a new folder. Only ``hf://`` uses a network.
    public
        Make a new repository public; it is private otherwise.
    message
        Of the commit.
    endpoint
        Address of a mirror of the hub.
    anonymise
        Name the donors and sections of the training by pseudonyms, and leave files and notes of the labels out: the
        card, and its digest, are others than those of ``head``.
    pseudonym_key
        The key file of the pseudonyms: beside ``target`` (of a hub: beside ``head``) where left out.

    Returns
    -------
    str
        Where it can be pulled from; of a hub with the commit.

    Raises
    ------
    HeadError
        The head is not whole, or the folder to write to holds other files.
    DownloadError, InputError
        The hub cannot be reached, or refuses.
    StorageError
        The archive or folder cannot be written.

    Examples
    --------
    >>> place = hm.push_head("head", "shared.zip")
    """
    from ..heads import head_readme, load_head, private_card

    folder, text = Path(head), os.fspath(target)
    load_head(folder)
    # The card of a stranger may name other files than a head's, and those of its reader would go out with it.
    card = read_card((folder / CARD).read_bytes(), str(folder))
    paths = local_paths(folder, (CARD, *card["files"]))
    files = {name: path.read_bytes() for name, path in paths.items()}
    names = open_pseudonyms(anonymise, pseudonym_key, push_place(folder, text), [folder])
    if names is not None:
        card = private_card(card, names)
        names.save()
        files[CARD] = json_text(card).encode()
    files[README] = head_readme(card).encode()
    if text.startswith(_HUB):
        repo, revision = parse_address(text)
        words = message or f"Head {card['name']}, {card['digest'][:19]}"
        commit = upload(files, repo, public=public, revision=revision, message=words, endpoint=endpoint)
        return f"{_HUB}{repo}@{commit}"
    if text.casefold().endswith(".zip"):
        write_zip(Path(text), files)
    else:
        _write_folder(Path(text), files)
    return text


def push_place(head: Path, target: str) -> Path:
    """What lies on this disk of a target: itself, or of a hub the head."""
    return head if target.startswith(_HUB) else Path(target)


def open_source(source: str | os.PathLike[str], revision: str | None = None, endpoint: str | None = None) -> Source:
    """The head at an address, a zip archive or a folder.

    Raises
    ------
    InputError
        There is nothing of that name.
    """
    text = os.fspath(source)
    if text.startswith(_HUB):
        repo, pinned = parse_address(text)
        return HubSource(repo, revision or pinned, endpoint)
    path = Path(text)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return ZipSource(path)
    hint = (
        f"For a repository write {_HUB}{text}"
        if text.count("/") == 1 and not path.parent.exists()
        else "Check the path"
    )
    raise MissingFileError("there is no such folder or file", where=text, hint=hint)


def head_facts(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    max_bytes: int = MOST_BYTES,
    endpoint: str | None = None,
    catalogue: Sequence[str | os.PathLike[str]] = (),
) -> HeadFacts:
    """What a head says of itself: licence, tissue, intended use, limits and digest; of a hub only its card is fetched.

    Parameters
    ----------
    source, revision, max_bytes, endpoint, catalogue
        As for `pull_head`.

    Returns
    -------
    HeadFacts

    Raises
    ------
    HeadError
        It is no head, too large, or holds anything else.
    InputError, DownloadError
        There is no such source, or the hub cannot be reached.

    Examples
    --------
    >>> facts = hm.head_facts("head.zip")
    >>> facts.to_dict()["name"]
    'average-builtin'
    """
    with tempfile.TemporaryDirectory() as folder:
        place, _ = _named_source(source, revision, endpoint, catalogue, Path(folder))
        return _checked_facts(place, max_bytes)[0]


def pull_head(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    accept: Callable[[HeadFacts], bool] | bool = False,
    revision: str | None = None,
    digest: str | None = None,
    max_bytes: int = MOST_BYTES,
    endpoint: str | None = None,
    catalogue: Sequence[str | os.PathLike[str]] = (),
) -> Head:
    """Take a head from elsewhere, after its licence was accepted; every file is checked against the card's sha256.

    Nothing of it is run: the files are JSON and safetensors, and other kinds are refused. ``out/source.json`` keeps
    where it came from.

    Parameters
    ----------
    source
        ``hf://OWNER/NAME[@REVISION]``, a zip archive, a folder, or the name of a head in a catalogue (see
        `list_heads`).
    out
        A new folder, or that of an earlier head, which is replaced; of a name None: into the cache, where
        ``histomix predict --head NAME`` finds it.
    accept
        Whether you accept the licence (see `head_facts`); or a function that is told the facts before anything but the
        card is fetched, and answers that.
    revision
        Branch, tag or commit of a repository.
    digest
        The card's digest as its maker told it: then the head is that one, whoever handed it on.
    max_bytes
        Allowed of all files together.
    endpoint
        Address of a mirror of the hub.
    catalogue
        Files or addresses of catalogues beside the package's own.

    Raises
    ------
    HeadError
        The head is not whole, not the one of ``digest`` or of its catalogue, too large, or holds anything else; or its
        card has another encoder or licence than the catalogue.
    InputError
        The licence was not accepted, there is no such source, or ``out`` is left out.
    DownloadError
        The hub cannot be reached.
    StorageError
        The folder cannot be written.

    Examples
    --------
    >>> head = hm.pull_head("head.zip", "pulled-head", accept=True)
    >>> head.card["unit"]
    'proportion'
    """
    with tempfile.TemporaryDirectory() as folder:
        place, entry = _named_source(source, revision, endpoint, catalogue, Path(folder))
        if out is None and entry is None:
            raise InputError("no folder was named for the head", hint="Name one with --out")
        target = own_place(entry.name) if out is None and entry is not None else Path(str(out))
        _check_target(target)
        facts, names = _checked_facts(place, max_bytes)
        for wanted_digest in (digest, entry.digest if entry else None):
            if wanted_digest is not None and facts.card["digest"] != wanted_digest:
                raise HeadError(
                    f"is another head: its digest is {facts.card['digest']}, not {wanted_digest}",
                    where=facts.source,
                    hint="Ask its maker for the head, or for its digest",
                )
        if entry is not None:
            check_licence(entry, facts.card, facts.source)
        if not (accept if isinstance(accept, bool) else accept(facts)):
            raise InputError("the licence was not accepted; nothing was taken", where=facts.source)
        return _take(place, facts, names, target, max_bytes)


def head_folder(head: str | os.PathLike[str]) -> Path:
    """The folder of a head that is named by its path, or by its name in a catalogue.

    A head of the package is unpacked into the cache on its first use. One of another catalogue must have been pulled,
    since its licence has to be accepted.

    Raises
    ------
    InputError
        The name is that of no head here.
    """
    text = os.fspath(head)
    if "://" in text:  # which a path would not keep
        from ..heads.head import head_elsewhere

        raise head_elsewhere(text)
    if not is_name(text):
        return Path(text)
    here = pulled(text)
    ours = next((one for one in list_heads() if one.name == text), None)
    if ours is None:
        if here is not None:
            return here
        raise UnknownHeadError(
            f"there is no folder {text!r}, and no head of that name was pulled",
            hint=f"Give a head's folder, or first run: histomix head pull {text} --catalogue CATALOGUE",
        )
    if here is None or read_json(here / "card.json").get("digest") != ours.digest:
        here = own_place(text)
        pull_head(text, here, accept=True)
    return here


def _take(place: Source, facts: HeadFacts, names: Sequence[str], target: Path, max_bytes: int) -> Head:
    """Fetch, load and check the files of a head whose licence was accepted."""
    with atomic_path(target) as temporary:
        temporary.mkdir()
        place.fetch(names, temporary, max_bytes)
        from ..heads import load_head  # of a card alone nothing is loaded

        try:
            head = load_head(temporary)
        except HeadError as error:
            # It is the source that is wrong; where it was unpacked is gone.
            name = Path(error.where or temporary).name
            what = error.what if name == temporary.name else f"{name}: {error.what}"
            raise HeadError(what, where=facts.source, hint=AGAIN) from error
        if head.card["digest"] != facts.card["digest"]:
            raise HeadError(
                "the card changed between being shown and being fetched", where=facts.source, hint="Try again"
            )
        write_json(temporary / SOURCE, facts.to_dict())
    return head


def _named_source(
    source: str | os.PathLike[str],
    revision: str | None,
    endpoint: str | None,
    catalogue: Sequence[str | os.PathLike[str]],
    folder: Path,
) -> tuple[Source, ListedHead | None]:
    """The head at an address, a path or a name; of a name also what its catalogue says of it."""
    text = os.fspath(source)
    if not is_name(text) or text.endswith(".zip"):
        return open_source(source, revision, endpoint), None
    entry = find_head(text, *catalogue)
    return open_source(fetched(entry, folder), revision, endpoint), entry


def _checked_facts(place: Source, max_bytes: int) -> tuple[HeadFacts, list[str]]:
    listing = place.listing()
    check_listing(listing, place.where, max_bytes)
    card = read_card(place.read(CARD), place.where)
    names = wanted(card, listing, place.where)
    return HeadFacts(place.where, place.revision, card, sum(listing[name] for name in names)), names


def _check_target(folder: Path) -> None:
    """Refuse to replace anything but a head."""
    try:
        require_folder(folder)
    except InputError as error:
        raise HeadError(error.what, where=folder, hint="Name a new folder") from error
    if not folder.exists():
        return
    foreign: list[Any] = sorted(
        path.name for path in folder.iterdir() if not path.name.endswith(SUFFIXES) or not path.is_file()
    )
    if not foreign and any(folder.iterdir()) and not (folder / CARD).is_file():
        foreign = sorted(path.name for path in folder.iterdir())
    if foreign:
        raise HeadError(
            f"the place to write to holds {foreign[0]!r}, which is no part of a head",
            where=folder,
            hint="Name a new folder",
        )


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    _check_target(folder)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, data in files.items():
            (temporary / name).write_bytes(data)
