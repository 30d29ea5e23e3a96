"""What a file or folder is, in plain words, and the row of a cohort sheet that uses it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.naming import safe_file_name
from ..errors import HistomixError, InputError, MissingSectionError, SectionError
from ..provenance import atomic_path, refuse_pipe
from .beside import Named, image_of, is_slide, is_table, tables_of
from .describe import (
    UNFIT,
    describe_image,
    describe_matrix,
    describe_result,
    describe_sheet,
    describe_table,
    image_facts,
    is_image,
)
from .donor_names import guess_donors
from .formats import Description, check_options, find_format, split_location
from .formats.tenx.positions import is_positions, prefix_of
from .readers import detect_format, read_spots
from .sheet import OPTIONAL, REQUIRED
from .sheet_text import csv_text
from .single_cells import describe_single_cells

_MAX_ENTRIES = 200
#: What names of files of spots say beside the section's.
_OF_SPOTS = r"(alignment_table|spots?|positions|coordinates|coords|selection)"
_SEVERAL = "a folder of several things that histomix knows"
_NO_OPTIONS: Mapping[str, str] = {}
#: What formats say of sections without counts.
_NO_COUNTS = re.compile(r"\bcounts\b")
#: Folders whose names say nothing of the section in them.
OF_SPACE_RANGER = ("outs", "spatial", "binned_outputs", "segmented_outputs", "st")
_CHECKED_BY_USER = "certainty on donors (patients), by which folds are made; guessed and to be checked: "


@dataclass(frozen=True)
class Inspection:
    """What `inspect_data` found: ``rows`` are rows of a cohort sheet as far as they are known, empty for none.

    ``usable`` tells whether histomix can do something with it as it is.
    """

    path: Path
    description: Description
    rows: tuple[Mapping[str, str], ...] = ()
    usable: bool = True

    def sheet(self, folder: Path | None = None) -> str:
        """The rows as a CSV sheet with its header, empty text where there are none.

        Paths are relative to the ``folder`` that the sheet will be in; absolute without.
        """
        return csv_text(self.rows, columns_of(self.rows), folder) if self.rows else ""


def columns_of(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns of a sheet of these rows: what is required, and what any of them has."""
    return [*REQUIRED, *(name for name in OPTIONAL if any(row.get(name) for row in rows))]


def inspect_data(path: str | os.PathLike[str]) -> Inspection:
    """Say what a file or folder is: spatial data of any known format, an image, a sheet, a result of histomix.

    Parameters
    ----------
    path
        A file or folder; options of its format may follow a ``#``.

    Raises
    ------
    InputError
        There is no such file, it is of no known kind, or it is damaged; the message says what was found in it.

    Examples
    --------
    >>> hm.inspect_data("slides/patient-9.tif").description.what
    'an image of a slide'
    """
    place, options = split_location(os.fspath(path))
    if not place.exists():
        raise MissingSectionError("there is no such file or folder", where=place, hint="Check the path")
    refuse_pipe(place, SectionError)
    inspection = _other_image(place) or _inspection(place, options)
    if inspection is None:
        table = describe_table(place)
        inspection = Inspection(place, table) if table is not None else None
    if inspection is None and place.is_dir():
        inspection = _folder(place)
    if inspection is not None:
        return _with_donors(inspection)
    detect_format(place)  # raises, with what was found
    raise SectionError("is of no known kind", where=place, hint="Name the spots file or the slide itself")


def write_rows(inspection: Inspection, out: str | os.PathLike[str]) -> None:
    """Write the rows of an inspection as a cohort sheet; paths become relative to it.

    Raises
    ------
    InputError
        There is no section, or ``out`` is there already: an earlier sheet may have been mended by hand.
    StorageError
        It cannot be written.
    """
    if not inspection.rows:
        raise SectionError(
            f"is {inspection.description.what}, no section, so there is no row of a sheet",
            where=inspection.path,
            hint="Name the spots of a section, or run histomix init on the folder of your data",
        )
    new_sheet(out, inspection.sheet(Path(out).parent))


def new_sheet(out: str | os.PathLike[str], text: str) -> None:
    """Write a sheet where there is none. Raises InputError and StorageError as `write_rows`."""
    if Path(out).exists():
        raise InputError(
            "is there already, and may have been mended by hand", where=out, hint="Choose another --out, or remove it"
        )
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _other_image(path: Path) -> Inspection | None:
    """A picture of a kind that is no slide's here: its facts say so."""
    from ..slides import image_kind

    if is_image(path) or not path.is_file() or image_kind(path) is None:
        return None
    return Inspection(path, Description(f"an image file {UNFIT}", (), image_facts(path)), usable=False)


def _inspection(path: Path, options: Mapping[str, str] = _NO_OPTIONS) -> Inspection | None:
    for describe in (describe_result, describe_sheet, describe_matrix, describe_single_cells):
        description = describe(path)
        if description is not None:
            return Inspection(path, description, usable=UNFIT not in description.what)
    format = find_format(path)
    if format is not None:
        check_options(format, options, path)
        return _section(path, format.describe(path, options))
    image = describe_image(path)
    return None if image is None else Inspection(path, image, usable=UNFIT not in image.what)


def _section(path: Path, described: Description) -> Inspection:
    images = Named(image for image in images_near(path) if is_slide(image))
    return section_of(path, described, images, Named(_tables_near(path)))


def _with_donors(inspection: Inspection) -> Inspection:
    """The rows with donors guessed from their names, where their format does not tell them."""
    unknown = {row["section"]: "" for row in inspection.rows if not row["donor"]}
    if not unknown:
        return inspection
    guess = guess_donors(unknown)
    rows = tuple({**row, "donor": row["donor"] or guess.donors[row["section"]]} for row in inspection.rows)
    missing = (*inspection.description.missing, f"{_CHECKED_BY_USER}{guess.words}")
    return dataclasses.replace(
        inspection, rows=rows, description=dataclasses.replace(inspection.description, missing=missing)
    )


def section_of(path: Path, described: Description, images: Named, files: Named) -> Inspection:
    """A section with what belongs to it by its name: its image, counts and labels; the donor where its format tells.

    Parameters
    ----------
    path, described
        The section, and what its format says of it.
    images, files
        Images, and tables, that may be its own.
    """
    missing, contents = [*described.missing], [*described.contents]
    row = {"section": section_name(path), "donor": "", "image": "", **described.row}
    row["spots"] = _absolute(row.get("spots", str(path)))
    if row["image"]:
        row["image"] = _absolute(row["image"])
        contents += image_facts(Path(row["image"]))
    else:
        found = image_of(row["section"], images)
        if len(found) == 1:
            row["image"] = _absolute(str(found[0]))
            missing = [text for text in missing if "image" not in text.split("(")[0]]
            contents += [f"an image beside it: {found[0].name}", *image_facts(found[0])]
        elif found:
            names = ", ".join(image.name for image in found[:6])
            missing.append(f"which image is this section's: there are {len(found)} beside it ({names})")
    without = any(_NO_COUNTS.search(text) for text in missing)
    beside = tables_of(row["section"], read_spots(row["spots"]).index, files) if without and files else None
    if beside is not None:
        missing += beside.unsure
        if beside.counts is not None:
            row["counts"] = _absolute(str(beside.counts))
            missing = [text for text in missing if not _NO_COUNTS.search(text)]
            contents.append(f"counts beside it: {beside.counts.name}")
        if beside.labels is not None:
            row |= {"labels": _absolute(str(beside.labels)), "label_unit": beside.label_unit or ""}
            contents.append(f"labels beside it: {beside.labels.name} ({beside.label_unit})")
    return Inspection(path, dataclasses.replace(described, contents=tuple(contents), missing=tuple(missing)), (row,))


def section_name(path: Path) -> str:
    """A name for the section at ``path``: of a folder called outs or spatial, that of the folder around it.

    Of ``alignment_table_MOB1.tsv`` or ``C3_selection.tsv`` the rest; of ``spots.tsv`` its folder.
    Of positions with the sample before the name that Space Ranger gives, as archives keep them, the sample.
    """
    path = path.resolve()
    if is_positions(path) and (sample := prefix_of(path).strip("_.- ")):
        return safe_file_name(re.sub(r"[^\w-]+", "_", sample))
    while path.name in ("outs", "spatial", "binned_outputs", "segmented_outputs", "st") or path.name.startswith(
        ("square_", "tissue_pos")
    ):
        path = path.parent
    name = path.name.partition(".")[0] if path.is_file() or path.suffix == ".zarr" else path.name
    if path.is_file() and re.fullmatch(_OF_SPOTS, name, re.IGNORECASE):
        name = path.parent.name
    name = re.sub(rf"^{_OF_SPOTS}[_-](?=.)|(?<=.)[_-]{_OF_SPOTS}$", "", name, flags=re.IGNORECASE)
    plain = re.sub(r"[^\w-]+", "_", name).strip("_")
    return safe_file_name(plain or "section")


def _absolute(location: str) -> str:
    place, mark, options = location.partition("#")
    return str(Path(place).resolve()) + mark + options


def images_near(path: Path) -> list[Path]:
    """Images in the folder of a section, and in that of its Space Ranger output."""
    folder = path if path.is_dir() and path.suffix != ".zarr" else path.parent
    folders = [folder]
    if path.is_dir() and folder.name in ("outs", "spatial", "binned_outputs", "segmented_outputs"):
        folders.append(folder.parent)
    return [item for place in folders for item in sorted(place.iterdir())[:_MAX_ENTRIES] if is_image(item)]


def _tables_near(path: Path) -> list[Path]:
    """Tables beside a spots file; what lies in the folder of another platform's section is read by its format."""
    if path.is_dir():
        return []
    return [item for item in sorted(path.parent.iterdir())[:_MAX_ENTRIES] if is_table(item) and item != path]


def _folder(path: Path, depth: int = 2) -> Inspection | None:
    """A folder that holds sections, images or results, at most ``depth`` levels down."""
    contents: list[str] = []
    missing: list[str] = []
    rows: list[Mapping[str, str]] = []
    for item in sorted(path.iterdir())[:_MAX_ENTRIES]:
        try:
            inspection = _inspection(item)
            if inspection is None and item.is_dir() and depth > 1:
                inspection = _folder(item, depth - 1)
        except HistomixError as error:
            missing.append(f"{item.name} cannot be used: {error.what}")
            continue
        if inspection is None:
            continue
        rows += inspection.rows
        what = inspection.description.what
        if what == _SEVERAL:
            inner = Counter(line.partition(": ")[2] for line in inspection.description.contents)
            what = ", ".join(f"{number} x {kind}" for kind, number in inner.items()) or "nothing that can be used"
            missing += [f"{item.name}/{line}" for line in inspection.description.missing]
        if inspection.usable:
            contents.append(f"{item.name}: {what}")
        else:
            missing.append(f"{item.name}: {what}: {'; '.join(inspection.description.missing)}")
    if not (contents or missing):
        return None
    return Inspection(path, Description(_SEVERAL, tuple(contents), tuple(missing)), tuple(rows), bool(contents))
