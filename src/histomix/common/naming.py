"""Names that came from a user, made fit for files, pictures and spreadsheets."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: Bytes of a file name: file systems allow 255, and suffixes and temporary names are added to it.
_LONGEST = 120
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
# Devices of Windows, which no file may be named after, whatever its suffix.
DEVICES = {
    *("con", "prn", "aux", "nul", "conin$", "conout$"),
    *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10)),
}
#: What a spreadsheet takes for the start of a formula (OWASP, "CSV Injection").
SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
#: What a manifest says of CSV files that were written with `spreadsheet_table`.
SPREADSHEET_NOTE = (
    "in the CSV files, an apostrophe stands before headings and texts that a spreadsheet would run as a formula "
    "(=, +, -, @ and the like in front); Parquet files have them as they are"
)

#: Columns of our own tables beside those of the cell types, which therefore cannot be called so.
OWN_COLUMNS = frozenset(
    (
        *("spot", "key", "x_px", "y_px", "novelty", "in_scope", "tissue", "read_ok", "region", "piece", "fragment"),
        *("in_focus", "answer"),
    )
)


def safe_file_name(name: str, fallback: str = "unnamed") -> str:
    """Turn any text into the name of a file that every common file system takes.

    Path separators, marks that Windows forbids, control and direction marks become ``_``; leading dots and trailing
    dots and spaces go; names of devices get a ``_`` in front; the length is at most 120 bytes. A name that had to be
    changed ends in ``-`` and 8 digits of its digest, so that two names never become one; a safe name stays as it is.
    """
    plain = unicodedata.normalize("NFC", str(name))
    safe = _FORBIDDEN.sub("_", "".join("_" if _is_hidden(mark) else mark for mark in plain))
    safe = safe.strip().lstrip(".").rstrip(". ")
    if safe.split(".")[0].strip().casefold() in DEVICES:
        safe = f"_{safe}"
    if safe and safe == plain == name and len(safe.encode()) <= _LONGEST:
        return safe
    ending = "-" + hashlib.sha256(str(name).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    room = _LONGEST - len(ending)
    return (safe.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").rstrip(". ") or fallback) + ending


def file_name_fault(name: str) -> str | None:
    """What keeps a name from being that of a file as it stands, on any common file system, in words; None if nothing.

    The rules are those of `safe_file_name`, except that the form of accents (composed or not) is free.
    """
    plain = unicodedata.normalize("NFC", name)
    if safe_file_name(plain) == plain:
        return None
    if not plain:
        return "is empty"
    if len(plain.encode("utf-8", "surrogatepass")) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    if forbidden := _FORBIDDEN.findall(plain):
        return f"holds {' '.join(dict.fromkeys(forbidden))}"
    if any(_is_hidden(mark) for mark in plain):
        return "holds hidden marks"
    if plain != plain.strip().lstrip(".").rstrip(". "):
        return "begins or ends with a dot or a space"
    return "is the name of a device on Windows"


#: What people and programs write where they do not know.
_UNKNOWN = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "none", "null", "unknown", "?", "-", "--", "."})


def file_key(name: str) -> str:
    """Equal for names that some file system takes for one: Windows and macOS tell neither case nor forms of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def repeated(names: Iterable[str]) -> list[str]:
    """Names that occur more than once, in the order of their first place; a table may have 20,000."""
    return [name for name, times in Counter(names).items() if times > 1]


def plain_name(name: object) -> str:
    """A user's name of a cell type, region or donor in the one form that all readers compare.

    Accents are composed, marks that show nothing are left out, and spaces of any kind (a copied table has some that do
    not break) become one plain space, none at the ends: two names that look the same are the same.
    """
    plain = unicodedata.normalize("NFC", str(name))
    return " ".join("".join(mark for mark in plain if unicodedata.category(mark) != "Cf").split())


def identity_key(name: str) -> str:
    """Equal for ids that people take for one: by capitals, marks between words, zeros before a number, and 1 as 1.0."""
    key = re.sub(r"[\s_.-]+", " ", re.sub(r"^(\d+)\.0+$", r"\1", file_key(plain_name(name)))).strip()
    return re.sub(r"(?<!\d)0+(?=\d)", "", key)


def is_unknown(name: str) -> bool:
    """Whether an id says that it is not known: NA, unknown, ?, ..."""
    return file_key(plain_name(name)) in _UNKNOWN


def key_name(name: object) -> str:
    """Turn any text into a key of SpatialData and wsidata, which allow letters, digits, ``_``, ``.`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", str(name))


def visible(text: str, most: int = 200) -> str:
    """A stranger's text for a terminal: without marks that hide or move what is shown, and not without end."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if _is_hidden(mark) else mark for mark in text[:most])
    return shown if len(text) <= most else f"{shown}…"


def _is_hidden(mark: str) -> bool:
    """Control, format (such as right-to-left override), surrogate, unassigned and line marks, and odd spaces."""
    return not mark.isprintable()


def plain_text(text: object) -> str:
    """A user's text for a figure: no mathematics in dollar marks, no hidden marks, no ``_`` that legends hide."""
    shown = "".join(" " if _is_hidden(mark) else mark for mark in str(text))
    shown = f" {shown}" if shown.startswith("_") else shown
    return shown.replace("\\$", "$").replace("$", r"\$")


def shortened(text: str, most: int = 34) -> str:
    """The beginning of a long name, for a place where it must be short."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip(' +')}…"


def spreadsheet_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, with an apostrophe in front; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(SPREADSHEET_FORMULA) else value


def spreadsheet_table(table: pd.DataFrame) -> pd.DataFrame:
    """A copy in which neither a heading, nor an index, nor a cell of text is a formula; numbers are untouched."""
    import numpy as np
    import pandas as pd

    safe = table.copy()
    safe.columns = pd.Index([spreadsheet_cell(name) for name in table.columns], name=table.columns.name)
    safe.index = pd.Index([spreadsheet_cell(name) for name in table.index], name=table.index.name)
    for place, kind in enumerate(table.dtypes):
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)):
            safe.isetitem(place, np.array([spreadsheet_cell(value) for value in table.iloc[:, place]], dtype=object))
    return safe
