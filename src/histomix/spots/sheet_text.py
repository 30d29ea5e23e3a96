"""A cohort sheet as text: CSV or YAML to rows of cells, before any cell is understood."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..common.naming import repeated
from ..common.yaml_text import compose, line_of
from ..errors import InputError, MissingSheetError, SheetError
from ..provenance import refuse_pipe

#: A line of a CSV sheet that begins with this is a remark. A section of such a name stands in quotes.
REMARK = "#"
_PATHS = ("spots", "image", "counts", "labels")


@dataclass
class Entry:
    """One row as text: its place in the sheet and the cells by column."""

    place: str
    cells: dict[str, str]


@dataclass
class SheetText:
    """A sheet as text, before any cell is understood."""

    columns: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_text(path: Path, known: Collection[str]) -> SheetText:
    """Read a sheet (SheetError when it is none); ``known`` column names tell which separator a CSV has."""
    try:
        refuse_pipe(path)
        content = path.read_bytes().decode("utf-8-sig")
    except InputError as error:
        raise SheetError([f"it {error.what}"], where=path) from error
    except FileNotFoundError as error:
        raise MissingSheetError(["there is no such file"], where=path) from error
    except OSError as error:
        raise SheetError([f"it cannot be read ({error.strerror})"], where=path) from error
    except UnicodeDecodeError as error:
        raise SheetError(["it is not text in UTF-8: save it as CSV (UTF-8) or YAML"], where=path) from error
    if "\0" in content:
        raise SheetError(["it is not text: save it as CSV (UTF-8) or YAML"], where=path)
    return _read_yaml(content, path) if path.suffix.lower() in (".yaml", ".yml") else _read_csv(content, path, known)


def _read_csv(content: str, path: Path, known: Collection[str]) -> SheetText:
    # A remark is a line that begins with #, and counts as a row: rows are numbered as a spreadsheet shows them.
    kept = ["\n" if line.startswith(REMARK) else line for line in io.StringIO(content, newline="")]
    header = next((line for line in kept if line.strip()), "")
    delimiter = max(",;\t", key=lambda mark: len({*known} & {name.strip(' "\r') for name in header.split(mark)}))
    try:
        lines = list(csv.reader(kept, delimiter=delimiter))
    except csv.Error as error:
        raise SheetError([f"it cannot be read as CSV ({error}); a quote may lack its partner"], where=path) from error
    first = next((number for number, line in enumerate(lines) if any(line)), 0)
    text = SheetText(columns=[name.strip() for name in lines[first]] if lines else [])
    for name in sorted(repeated(filter(None, text.columns))):
        text.faults.append(f"row {first + 1}, column '{name}': the column occurs more than once")
    for number, line in enumerate(lines[first + 1 :], start=first + 2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if any(cells[len(text.columns) :]):
            text.faults.append(
                f"row {number}: has {len(cells):,} cells for {len(text.columns)} columns; quote cells that hold a comma"
            )
        text.entries.append(Entry(f"row {number}", dict(zip(text.columns, cells, strict=False))))
    return text


def _read_yaml(content: str, path: Path) -> SheetText:
    # Nodes instead of values: 007 stays '007', and every entry knows its line.
    try:
        root = compose(content)
    except ValueError as error:
        raise SheetError([f"it {error}"], where=path) from error
    text = SheetText()
    if isinstance(root, yaml.MappingNode):
        root = next((value for key, value in root.value if key.value == "sections"), None)
    if not isinstance(root, yaml.SequenceNode):
        raise SheetError(["it must be a list of sections, or hold one under 'sections:'"], where=path)
    for number, node in enumerate(root.value, start=1):
        place = f"entry {number} (line {line_of(node)})"
        if not isinstance(node, yaml.MappingNode):
            text.faults.append(f"{place}: is not a mapping of column: value")
            continue
        cells: dict[str, str] = {}
        for key, value in node.value:
            name = str(key.value).strip()
            if name in cells:
                text.faults.append(f"{place}, column '{name}': the column occurs more than once")
            if not isinstance(value, yaml.ScalarNode):
                text.faults.append(f"{place}, column '{name}': must be one value")
            elif value.tag != "tag:yaml.org,2002:null":
                cells[name] = value.value.strip()
            if name not in text.columns:
                text.columns.append(name)
        text.entries.append(Entry(place, cells))
    return text


def csv_text(
    rows: Iterable[Mapping[str, str]], columns: Collection[str], folder: Path | None = None, header: bool = True
) -> str:
    """Rows of a sheet as CSV.

    Parameters
    ----------
    rows
        Cells by column, with absolute paths; what has no column is left out.
    columns
        Names and order of the columns.
    folder
        Where the sheet will be: paths become relative to it. None leaves them absolute.
    header
        Whether the names stand above.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows if folder is None else (_relative(row, folder) for row in rows))
    return text.getvalue()


def _relative(row: Mapping[str, str], folder: Path) -> dict[str, str]:
    return {name: _from(value, folder) if name in _PATHS and value else value for name, value in row.items()}


def _from(location: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(location, folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows there is no way from one to the other
        return location
