"""Ready heads: a catalogue that comes with the package, and those that others publish."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..common.cache import cache_root
from ..common.naming import visible
from ..common.transfer.addresses import is_address
from ..common.transfer.download import RemoteFile, download
from ..common.words import counted
from ..errors import InputError, UnknownHeadError
from ..heads.cards.text import encoder_terms
from ..provenance import digest_file, parse_json

#: Heads whose bytes are part of the package, and the catalogue that lists them.
BUNDLED = Path(__file__).with_name("heads")
CATALOGUE = "catalogue.json"
FORMAT = 1
HUB = "hf://"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_BYTES, _MOST_HEADS = 16 << 20, 10_000
HINT = "Ask whoever made the catalogue for one that scripts/heads.py writes"
#: Scores of a head that a list shows.
SCORES = ("pearson", "pearson_within", "rmse")


@dataclass(frozen=True)
class ListedHead:
    """A head as a catalogue lists it.

    Attributes
    ----------
    name
        What it is pulled by: lower-case letters, digits, dots and dashes.
    title
        What it is, in a line.
    source
        Where it is: a file beside the catalogue, an address of a zip archive, or ``hf://OWNER/NAME@COMMIT``.
    digest
        Of its card, which names the digest of each of its files.
    sha256, bytes
        Of the archive; a repository of the hub has no archive, and its sha256 is None.
    tissue, cell_types, unit
        What it reads.
    encoders
        Of each encoder the ``name``, the ``licence`` and whether it allows ``commercial_use``.
    donors, sections
        It was trained on.
    scores
        By protocol: mean scores of donors or sections that were held out.
    licences
        Of the training ``data`` and of the ``labels``.
    histomix
        The version that made it.
    catalogue
        Where it is listed; empty for the package's own.
    """

    name: str
    title: str
    source: str
    digest: str
    bytes: int
    sha256: str | None = None
    tissue: tuple[str, ...] = ()
    cell_types: tuple[str, ...] = ()
    unit: str = ""
    encoders: tuple[Mapping[str, Any], ...] = ()
    donors: int | None = None
    sections: int | None = None
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    histomix: str = ""
    catalogue: str = ""

    @property
    def bundled(self) -> bool:
        """Whether its bytes are part of the package."""
        return not self.catalogue

    @property
    def licence(self) -> str:
        """Licences of its encoders, in a line."""
        return ", ".join(f"{one['name']}: {one['licence']}" for one in self.encoders)

    def to_dict(self) -> dict[str, Any]:
        """For a program."""
        return {**asdict(self), "here": pulled(self.name) is not None}

    def text(self) -> str:
        """For a person, in lines."""
        sizes = f"{self.bytes / 1e6:,.2f} MB" + (f", {self.sha256}" if self.sha256 else f", card {self.digest}")
        lines = [
            f"{self.name}: {self.title}",
            f"  {len(self.cell_types)} cell types ({self.unit}): {', '.join(self.cell_types)}",
            f"  tissue: {', '.join(self.tissue) or 'not declared'}; {_counted(self.donors, 'donor')}, "
            f"{_counted(self.sections, 'section')}",
            f"  encoder {self.licence}; "
            + "; ".join(f"licence of the {what}: {words}" for what, words in self.licences.items()),
            *(f"  {protocol}: {_words(scores)}" for protocol, scores in self.scores.items()),
            f"  {sizes}, {self.source if self.catalogue else 'part of histomix'}",
        ]
        return "\n".join(visible(line, 10_000) for line in lines)


def pulled(name: str) -> Path | None:
    """The folder of a head that was pulled into the cache; None where there is none."""
    folder = cache_root() / "heads" / name
    return folder if (folder / "card.json").is_file() else None


def list_heads(*catalogues: str | os.PathLike[str]) -> list[ListedHead]:
    """Heads that are ready: those of the package, then those of other catalogues.

    Parameters
    ----------
    catalogues
        Files or addresses of catalogues, as ``scripts/heads.py`` writes them.

    Returns
    -------
    list of ListedHead

    Raises
    ------
    InputError
        A catalogue cannot be read, or lists a name that another one has for other bytes.
    DownloadError
        A catalogue cannot be fetched.

    Examples
    --------
    >>> heads = hm.list_heads()
    """
    found: dict[str, ListedHead] = {}
    for place in ("", *(os.fspath(one) for one in catalogues)):
        for one in _read(place):
            if one.name in found and one.sha256 is not None and one.sha256 == found[one.name].sha256:
                continue  # the same bytes, listed twice
            if one.name in found:
                owner = found[one.name].catalogue or "the catalogue of histomix"
                raise InputError(
                    f"lists a head called {one.name!r}, as {owner} does", where=place, hint="Give one of the two alone"
                )
            found[one.name] = one
    return list(found.values())


def find_head(name: str, *catalogues: str | os.PathLike[str]) -> ListedHead:
    """The head of a name. Raises `UnknownHeadError`, and as `list_heads`."""
    heads = list_heads(*catalogues)
    for one in heads:
        if one.name == name:
            return one
    raise UnknownHeadError(
        f"there is no such folder or file, and no catalogue lists a head called {visible(name)!r}",
        hint=f"Choose from {', '.join(one.name for one in heads)}, name more with --catalogue, or see: "
        "histomix head list",
    )


def is_name(text: str) -> bool:
    """Whether a text may be the name of a head in a catalogue, and is no file or folder here."""
    return _NAME.fullmatch(text) is not None and not Path(text).exists()


def listing(card: Mapping[str, Any], name: str, title: str, source: str, archive: Path) -> dict[str, Any]:
    """What a catalogue says of a head: its card in short, and the digest of its archive.

    Parameters
    ----------
    card
        As in ``card.json``.
    name, title
        See `ListedHead`.
    source
        Where it will be.
    archive
        The zip archive that `push_head` wrote.
    """
    scores = card.get("scores") or {}
    told = {what: {key: scores[what].get(key) for key in ("mean", "low", "high")} for what in SCORES if what in scores}
    for value in told.values():
        for key in list(value):
            value[key] = None if value[key] is None else round(float(value[key]), 3)
    training = card["training"]
    return {
        "name": name,
        "title": title,
        "source": source,
        "digest": card["digest"],
        "sha256": digest_file(archive),
        "bytes": archive.stat().st_size,
        "tissue": [card["tissue"]] if isinstance(card["tissue"], str) else list(card["tissue"]),
        "cell_types": list(card["cell_types"]),
        "unit": card["unit"],
        "encoders": [
            {"name": one.encoder, "licence": one.licence, "commercial_use": one.commercial_use}
            for one in encoder_terms(card)
        ],
        "donors": training["n_donors"],
        "sections": training["n_sections"],
        "scores": {str(scores["protocol"]): told} if told else {},
        "licences": dict(card.get("licences") or {}),
        "histomix": card["histomix"],
    }


def _read(place: str) -> list[ListedHead]:
    if is_address(place):
        with tempfile.TemporaryDirectory() as folder:
            path = download(RemoteFile(CATALOGUE, place, most_bytes=_MOST_BYTES), Path(folder))
            return _parse(path.read_bytes(), place)
    path = Path(place) if place else BUNDLED / CATALOGUE
    if path.is_dir():
        path = path / CATALOGUE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the catalogue cannot be read ({error.strerror})", where=path, hint="Check the path"
        ) from error
    return _parse(data, str(path) if place else "")


def _parse(data: bytes, place: str) -> list[ListedHead]:
    where = place or str(BUNDLED / CATALOGUE)
    try:
        content = parse_json(data)
        entries = content["heads"]
        if content["format"] != FORMAT or not isinstance(entries, list) or len(entries) > _MOST_HEADS:
            raise ValueError(f"its format is {content['format']!r}")
        return [_entry(one, place) for one in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"is no catalogue of heads ({reason})", where=where, hint=HINT) from error


def _entry(one: Mapping[str, Any], place: str) -> ListedHead:
    name, source = str(one["name"]), str(one["source"])
    if not _NAME.fullmatch(name):
        raise ValueError(f"{visible(name)!r} is no name of a head")
    digests = [one["digest"], *([] if source.startswith(HUB) else [one.get("sha256")])]
    if not all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in digests):
        raise ValueError(f"{name} has no sha256")
    encoders = [{key: terms.get(key) for key in ("name", "licence", "commercial_use")} for terms in one["encoders"]]
    scores = {str(protocol): {str(k): dict(v) for k, v in told.items()} for protocol, told in one["scores"].items()}
    return ListedHead(
        name=name,
        title=str(one["title"]),
        source=source,
        digest=one["digest"],
        bytes=int(one["bytes"]),
        sha256=one.get("sha256"),
        tissue=_texts(one["tissue"]),
        cell_types=_texts(one["cell_types"]),
        unit=str(one["unit"]),
        encoders=tuple(encoders),
        donors=int(one["donors"]),
        sections=int(one["sections"]),
        scores=scores,
        licences={str(what): str(words) for what, words in (one.get("licences") or {}).items()},
        histomix=str(one.get("histomix", "")),
        catalogue=place,
    )


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise ValueError("a text stands where a list is due")
    return tuple(str(value) for value in values)


def _counted(number: int | None, noun: str) -> str:
    return f"{noun}s not told" if number is None else counted(number, noun)


def _words(scores: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for name, entry in scores.items():
        mean, low, high = (entry.get(key) for key in ("mean", "low", "high"))
        if isinstance(mean, int | float):
            between = f" ({low:.3f} to {high:.3f})" if isinstance(low, float) and isinstance(high, float) else ""
            parts.append(f"{name} {mean:.3f}{between}")
    return ", ".join(parts) or "no scores"
