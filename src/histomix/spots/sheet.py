"""The cohort sheet: one row per ST section, as CSV or YAML, with every fault named at once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..common.naming import file_key, file_name_fault, identity_key, is_unknown, plain_name
from ..common.paths import exists, path_in_table
from ..common.units import LABEL_UNITS
from ..errors import InputError, SectionError, SheetError
from ..provenance import refuse_pipe
from .formats import KNOWN, check_options, load_format, readable, split_location
from .readers import detect_format
from .sheet_text import Entry, read_text

REQUIRED = ("section", "donor", "spots", "image")
OPTIONAL = ("mpp", "labels", "label_unit", "counts", "tissue", "site", "spot_diameter_um", "spot_pitch_um", "format")

_NUMBERS = ("mpp", "spot_diameter_um", "spot_pitch_um")
#: No slide is coarser, and no spot is wider than a slide is long.
_LARGEST = {"mpp": 100.0, "spot_diameter_um": 75_000.0, "spot_pitch_um": 75_000.0}
_FILES = ("image", "counts", "labels")
# Names that people use and difflib cannot know.
_SYNONYMS = {"patient": "donor", "patient_id": "donor", "subject": "donor", "sample": "section", "slide": "image"}
_SYNONYMS |= {"img": "image", "mmp": "mpp", "um_per_px": "mpp", "microns_per_pixel": "mpp", "unit": "label_unit"}


@dataclass(frozen=True)
class SheetRow:
    """One section of the sheet, checked: its files exist (at reading time) and its numbers are positive.

    ``options`` are what follows a ``#`` in the column spots (``outs#bin_um=8``).
    """

    section: str
    donor: str
    spots: Path
    image: Path | None
    format: str
    where: str
    mpp: float | None = None
    labels: Path | None = None
    label_unit: str | None = None
    counts: Path | None = None
    tissue: str | None = None
    site: str | None = None
    spot_diameter_um: float | None = None
    spot_pitch_um: float | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def read_sheet(path: str | Path) -> list[SheetRow]:
    """Read and check a cohort sheet (columns: `REQUIRED` and `OPTIONAL`; paths relative to the sheet).

    Raises
    ------
    SheetError
        With every fault found, each naming its row and column. Rows are counted as a spreadsheet shows them: the header
        is row 1.
    """
    path = Path(path)
    text = read_text(path, (*REQUIRED, *OPTIONAL))
    faults = [*text.faults, *_column_faults(text.columns)]
    if not text.entries and not faults:
        faults.append("there are no sections in it")
    rows = [_Checker(path, entry, faults, set(text.columns)).row() for entry in text.entries]
    faults += _repeats(text.entries)
    if faults:
        raise SheetError(faults, where=path)
    return [row for row in rows if row is not None]


def _column_faults(columns: list[str]) -> Iterator[str]:
    strangers = [name for name in columns if name not in REQUIRED and name not in OPTIONAL and name]
    suspected = set()
    for wanted in REQUIRED:
        if wanted in columns:
            continue
        near = _nearest(wanted, strangers, cutoff=0.6)
        suspected.add(near)
        hint = f"; there is a column '{near}': rename it to '{wanted}'" if near else ""
        yield f"column '{wanted}' is missing{hint}"
    for name in strangers:
        absent = [wanted for wanted in OPTIONAL if wanted not in columns]
        meant = next((wanted for wanted in absent if _nearest(wanted, [name], cutoff=0.8)), None)
        if meant and name not in suspected:
            yield f"column '{name}' is not known: did you mean '{meant}'? Rename or remove it"


def _nearest(wanted: str, names: list[str], cutoff: float) -> str | None:
    plain = {name.lower().replace(" ", "_").replace("-", "_"): name for name in reversed(names)}
    for candidate, name in plain.items():
        if _SYNONYMS.get(candidate) == wanted:
            return name
    close = difflib.get_close_matches(wanted, plain, n=1, cutoff=cutoff)
    return plain[close[0]] if close else None


def _repeats(entries: list[Entry]) -> Iterator[str]:
    first: dict[str, str] = {}
    donors: dict[str, tuple[str, str]] = {}
    for entry in entries:
        # Section names become file names, and some file systems do not tell case apart.
        name = entry.cells.get("section", "")
        if name and first.setdefault(file_key(name), entry.place) != entry.place:
            yield f"{entry.place}, column 'section': '{name}' is already the section of {first[file_key(name)]}"
        donor = plain_name(entry.cells.get("donor", ""))
        written, place = donors.setdefault(identity_key(donor), (donor, entry.place))
        if is_unknown(donor):
            continue
        if written != donor:  # taken for two, one would be tested by what was learnt of the other
            yield (
                f"{entry.place}, column 'donor': '{donor}' is written '{written}' in {place}; write it in one way, or "
                "name two donors so that more than capitals, marks and zeros tell them apart"
            )


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(item.name for item in folder.iterdir())
    except OSError:  # the folder itself is absent or closed: there is nothing to suggest
        return []


class _Checker:
    """Turns the cells of one row into a `SheetRow`, adding what is wrong to ``faults``."""

    def __init__(self, sheet: Path, entry: Entry, faults: list[str], columns: set[str]) -> None:
        self.sheet, self.entry, self.faults, self.columns = sheet, entry, faults, columns

    def fault(self, column: str, what: str) -> None:
        self.faults.append(f"{self.entry.place}, column '{column}': {what}")

    def row(self) -> SheetRow | None:
        before = len(self.faults)
        section, donor = self.required("section"), plain_name(self.required("donor"))
        if section and (why := file_name_fault(section)):
            self.fault("section", f"'{section}' cannot name a file: it {why}; use letters, digits, '-' and '_'")
        if donor and is_unknown(donor):  # a section of another donor, for all that is known, and of one in training
            self.fault("donor", f"'{donor}' names no donor; folds are by donor, so find out whose it is")
        spots, options = self.spots() if self.required("spots") else (None, {})
        files = {column: self.path(column) for column in _FILES}
        numbers = {column: self.number(column) for column in _NUMBERS}
        unit, format = self.unit(), self.format(spots, options)
        # A missing column is a fault of the sheet, told once, so the row itself may look sound without it.
        if len(self.faults) > before or spots is None or not section or not donor or not format:
            return None
        return SheetRow(
            section=section,
            donor=donor,
            spots=spots,
            format=format,
            where=f"{self.sheet}, {self.entry.place}",
            label_unit=unit,
            tissue=self.cell("tissue") or None,
            site=self.cell("site") or None,
            image=files["image"],
            counts=files["counts"],
            labels=files["labels"],
            mpp=numbers["mpp"],
            spot_diameter_um=numbers["spot_diameter_um"],
            spot_pitch_um=numbers["spot_pitch_um"],
            options=options,
        )

    def cell(self, column: str) -> str:
        return self.entry.cells.get(column, "")

    def required(self, column: str) -> str:
        if not self.cell(column) and column in self.columns:
            why = "; folds are by donor, so it has no default" if column == "donor" else ""
            self.fault(column, f"is empty{why}")
        return self.cell(column)

    def spots(self) -> tuple[Path | None, Mapping[str, str]]:
        try:
            place, options = split_location(str(path_in_table(self.sheet.parent, self.cell("spots"))))
        except SectionError as error:
            self.fault("spots", str(error).removesuffix("."))
            return None, {}
        return self.existing("spots", place), options

    def path(self, column: str) -> Path | None:
        return self.existing(column, path_in_table(self.sheet.parent, self.cell(column))) if self.cell(column) else None

    def existing(self, column: str, path: Path) -> Path | None:
        if not exists(path):
            near = difflib.get_close_matches(path.name, _listing(path.parent), n=1, cutoff=0.8)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            self.fault(column, f"there is no file {path}{hint}; paths are relative to the sheet")
            return None
        try:
            refuse_pipe(path)
        except InputError as error:
            self.fault(column, f"{path} {error.what}")
            return None
        # An image of a Zarr store is a folder; whether it can be read is found when it is opened.
        if column in _FILES and path.is_dir() and not (column == "image" and ".zarr" in "".join(path.parts)):
            self.fault(column, f"{path} is a folder, not a file")
            return None
        return path

    def number(self, column: str) -> float | None:
        text = self.cell(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= _LARGEST[column]:  # NaN too
            limit = f"above 0 and at most {_LARGEST[column]:,.0f}"
            self.fault(column, f"'{text}' is not a number {limit} (with a decimal point)")
            return None
        return value

    def unit(self) -> str | None:
        text = self.cell("label_unit")
        if text and text not in LABEL_UNITS:
            near = difflib.get_close_matches(text.lower().replace("_", " "), LABEL_UNITS, n=1, cutoff=0.5)
            hint = f": did you mean '{near[0]}'?" if near else ""
            self.fault("label_unit", f"'{text}' is none of {', '.join(map(repr, LABEL_UNITS))}{hint}")
        return text or None

    def format(self, spots: Path | None, options: Mapping[str, str]) -> str | None:
        given = self.cell("format")
        column = "format" if given else "spots"
        if given and given not in KNOWN:
            near = difflib.get_close_matches(given.lower(), KNOWN, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            self.fault("format", f"'{given}' is not known{hint}; known are {', '.join(KNOWN)}")
            return None
        if given and given not in readable():
            self.fault("format", f"the format '{given}' is not read by this version; it reads {', '.join(readable())}")
            return None
        if spots is None:
            return given or None
        try:
            given = given or detect_format(spots)
            check_options(load_format(given), options, spots)
        except SectionError as error:
            self.fault(column, str(error).removesuffix("."))
            return None
        return given
