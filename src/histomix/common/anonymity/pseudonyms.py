"""Stable pseudonyms of slides, patients and regions, and the key file that alone leads back to the names."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import hmac
import json
import logging
import os
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ...errors import HistomixError, InputError, StorageError
from ...provenance import atomic_path, refuse_pipe
from ..naming import SPREADSHEET_FORMULA
from ..storage.locks import Lock

logger = logging.getLogger(__name__)
#: What the key file of an output folder is called: it stands beside the folder, never in it.
SUFFIX = ".key.csv"
_COLUMNS = ["kind", "pseudonym", "original"]
_BYTES = 32
_DIGITS = 12
_OWNER_ONLY = 0o600
_HINT = "Give the key file that the pseudonyms were made with, or name a new file"


@dataclass(frozen=True)
class Seal:
    """Marks facts that must be known again but not be read, such as sizes and times of a patient's slide.

    Parameters
    ----------
    key
        Which key it belongs to (`Pseudonyms.key`).
    secret
        Made from the secret of the pseudonyms, from which it cannot be told: it may travel to workers.
    """

    key: str
    secret: bytes = field(repr=False)

    def mark(self, value: Any) -> str:
        """A keyed digest of plain values."""
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
        return "hmac-sha256:" + hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()


class Pseudonyms:
    """Names and what stands for them; the same key gives the same pseudonyms, whatever is run.

    A pseudonym is a keyed digest (HMAC-SHA256, RFC 2104): without the key, a name can neither be read from it nor be
    guessed and tried.

    Parameters
    ----------
    secret
        32 random bytes.
    file
        Where the key and the names are kept (`save`); None: nowhere.
    rows
        Kind, pseudonym and name of what is known already.
    """

    def __init__(self, secret: bytes, file: Path | None = None, rows: Iterable[tuple[str, str, str]] = ()) -> None:
        self._secret = secret
        self.file = file
        self._rows = {pseudonym: (kind, original) for kind, pseudonym, original in rows}
        self._saved = len(self._rows)
        self._adopted: set[str] = set()

    @classmethod
    def once(cls) -> Self:
        """Pseudonyms whose key is kept nowhere: nobody can lead them back, or make the same again."""
        return cls(secrets.token_bytes(_BYTES))

    @classmethod
    def open(cls, file: str | os.PathLike[str]) -> Self:
        """The pseudonyms of a key file, which is made where there is none, for its owner alone to read.

        Raises
        ------
        InputError
            The file is no key of pseudonyms, or cannot be read.
        StorageError
            It cannot be written.
        """
        place = Path(os.path.realpath(file))  # of a link that leads back to itself too, at which resolve stops
        with _alone(place):
            if place.exists():
                secret, rows = _read(place)
                _restrict(place)
                return cls(secret, place, rows)
            made = cls(secrets.token_bytes(_BYTES), place)
            _write(place, made._secret, made.key, [])
            return made

    @property
    def key(self) -> str:
        """Which key these are of: a digest that tells two keys apart and says nothing of them."""
        return self._digits("key", 8)

    @property
    def seal(self) -> Seal:
        """For facts that must be known again."""
        return Seal(self.key, hmac.new(self._secret, b"seal", hashlib.sha256).digest())

    def slide(self, name: object) -> str:
        """The pseudonym of a slide or section."""
        return self._of("slide", name)

    def patient(self, name: object) -> str:
        """The pseudonym of a patient or donor."""
        return self._of("patient", name)

    def region(self, name: object) -> str:
        """The pseudonym of a region of interest."""
        return self._of("region", name)

    def site(self, name: object) -> str:
        """The pseudonym of a hospital or site."""
        return self._of("site", name)

    def adopt(self, pseudonym: str) -> None:
        """Leave a pseudonym as it is, though its name is not known here: another key may have made it."""
        self._adopted.add(pseudonym)

    def original(self, pseudonym: str) -> str:
        """The name that a pseudonym stands for; what the key file does not know stays as it is."""
        return self._rows[pseudonym][1] if pseudonym in self._rows else pseudonym

    def save(self) -> None:
        """Write the names that are new to the key file, beside those that it has.

        Raises
        ------
        InputError
            The file holds another key by now.
        StorageError
            It cannot be written.
        """
        if self.file is None or len(self._rows) == self._saved:
            return
        with _alone(self.file):
            rows = dict(self._rows)
            if self.file.exists():
                secret, there = _read(self.file)
                if secret != self._secret:
                    raise InputError("holds another key by now", where=self.file, hint=_HINT)
                rows = {pseudonym: (kind, original) for kind, pseudonym, original in there} | rows
            _write(self.file, self._secret, self.key, [(kind, name, rest) for name, (kind, rest) in rows.items()])
        self._rows, self._saved = rows, len(rows)

    def _of(self, kind: str, name: object) -> str:
        original = unicodedata.normalize("NFC", str(name)).strip() or str(name)
        if not original or original in self._rows or original in self._adopted:
            return original  # nothing, or a pseudonym already
        pseudonym = f"{kind}-{self._digits(f'{kind}:{original}', _DIGITS)}"
        self._rows[pseudonym] = (kind, str(name))
        return pseudonym

    def _digits(self, text: str, count: int) -> str:
        digest = hmac.new(self._secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return base64.b32encode(digest).decode().lower()[:count]


def open_pseudonyms(
    anonymise: bool,
    key: str | os.PathLike[str] | None,
    out: str | os.PathLike[str] | None,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> Pseudonyms | None:
    """The pseudonyms of an output; None where names are to stay.

    Parameters and errors are those of `pseudonym_file` and `Pseudonyms.open`; of what stays in memory (``out`` is None)
    the key is used once and kept nowhere, where none was named.
    """
    if anonymise and key is None and out is None:
        return Pseudonyms.once()
    file = pseudonym_file(anonymise, key, out, inputs)
    return None if file is None else Pseudonyms.open(file)


def pseudonym_file(
    anonymise: bool,
    key: str | os.PathLike[str] | None,
    out: str | os.PathLike[str] | None,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> Path | None:
    """Where the key of an output's pseudonyms is, which a remark says; None where names are to stay.

    Parameters
    ----------
    anonymise
        Whether the output names nobody.
    key
        The key file that the user named.
    out
        What is written; None for what stays in memory.
    inputs
        See `key_file`.

    Raises
    ------
    InputError
        A key was named, but names are to stay; or as `key_file`.
    """
    if not anonymise:
        if key is not None:
            raise InputError("a key of pseudonyms is of use with --anonymise only", hint="Give --anonymise too")
        return None
    file = Path(key) if key is not None and out is None else key_file(out or "", key, inputs)
    logger.info("the key of the pseudonyms is %s: keep it apart from what is handed on", file)
    return file


def key_file(
    out: str | os.PathLike[str],
    given: str | os.PathLike[str] | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
) -> Path:
    """Where the key of an output is: never in what may be handed on.

    Parameters
    ----------
    out
        The folder or file that is written.
    given
        A key file that the user named.
    inputs
        Folders that other verbs made: the key that lies beside one of them serves where ``out`` has none of its own.

    Returns
    -------
    Path
        ``given``, else ``<out>.key.csv`` where it is there, else ``<input>.key.csv`` of the first input that has one,
        else ``<out>.key.csv``.

    Raises
    ------
    InputError
        The file would lie in the output, or in an input.
    """
    folders = [Path(os.path.realpath(folder)) for folder in (out, *inputs)]
    own = _beside(folders[0])
    others = [_beside(place) for folder in folders[1:] for place in (folder, folder.parent) if place.name]
    known = next((path for path in (own, *others) if path.is_file()), own)
    key = known if given is None else Path(os.path.realpath(given))
    around = next((folder for folder in folders if folder == key or folder in key.parents), None)
    if around is not None:
        raise InputError(
            f"the key of the pseudonyms would lie in {around}, which may be handed on",
            where=key,
            hint="Name a file elsewhere with --pseudonym-key",
        )
    return key


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name or 'histomix'}{SUFFIX}")


@contextlib.contextmanager
def _alone(file: Path) -> Any:
    try:
        with Lock(file.with_name(f".{file.name}.lock")):
            yield
    except HistomixError:
        raise
    except OSError as error:
        raise StorageError(
            f"the key of the pseudonyms cannot be written ({error.strerror or error})",
            where=file,
            hint="Name a file elsewhere with --pseudonym-key",
        ) from error


def _read(file: Path) -> tuple[bytes, list[tuple[str, str, str]]]:
    refuse_pipe(file)
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            table = [tuple(row) for row in csv.reader(stream) if row]
        first, key, *rows = table
        secret = bytes.fromhex(key[2])
        if list(first) != _COLUMNS or key[0] != "key" or len(secret) != _BYTES or any(len(row) != 3 for row in rows):
            raise ValueError("it has other columns")
    except (OSError, ValueError, IndexError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it was not written by histomix, or was changed"
        raise InputError(f"is no key of pseudonyms ({reason})", where=file, hint=_HINT) from error
    return secret, [(kind, pseudonym, _plain(original)) for kind, pseudonym, original in rows]


def _write(file: Path, secret: bytes, key: str, rows: Sequence[tuple[str, str, str]]) -> None:
    with atomic_path(file) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        # A file may have a name that is no text; it is kept byte for byte.
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            table = csv.writer(stream)
            table.writerows([_COLUMNS, ["key", key, secret.hex()]])
            table.writerows([kind, pseudonym, _cell(original)] for kind, pseudonym, original in sorted(rows))


def _restrict(file: Path) -> None:
    """Nobody but its owner may read a key."""
    if os.name != "posix" or not file.stat().st_mode & 0o077:
        return
    with contextlib.suppress(OSError):
        file.chmod(_OWNER_ONLY)
    if file.stat().st_mode & 0o077:
        logger.warning("%s: others can read this key, and with it the names behind every pseudonym", file)


def _cell(name: str) -> str:
    """A name that a spreadsheet does not run, and that reads back as it was."""
    return f"'{name}" if name.startswith((*SPREADSHEET_FORMULA, "'")) else name


def _plain(cell: str) -> str:
    return cell.removeprefix("'")
