"""What a file or folder is, in plain words, and the row of a cohort sheet that uses it."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..common import tables
from ..common.naming import safe_file_name
from ..common.strangers.annotated import gene_count
from ..common.words import counted
from ..errors import HistomixError, MapError, MissingSectionError, SectionError, SheetError, SlideError
from ..provenance import read_json, refuse_pipe
from .formats import Description, check_options, find_format, split_location
from .formats.tenx.matrix import open_h5, read_barcodes
from .readers import detect_format
from .sheet import OPTIONAL, REQUIRED, read_sheet
from .single_cells import describe_single_cells

#: Suffixes of slides and of flat images that Space Ranger and others are fed with.
_IMAGES = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png", ".mrxs", ".scn", ".vms", ".bif", ".dcm")
#: Pictures that Space Ranger writes: reduced copies and controls.
_BYPRODUCT = re.compile(r"tissue_(hires|lowres)_image|detected_tissue|aligned_|cytassist_image|spatial_enrichment")
_MAX_ENTRIES = 200
_UNUSABLE = "it cannot be used"
_NOT = "that cannot be used"
_SEVERAL = "a folder of several things that histomix knows"
_NO_OPTIONS: Mapping[str, str] = {}
#: Folders whose names say nothing of the section in them.
_OF_SPACE_RANGER = ("outs", "spatial", "binned_outputs", "segmented_outputs", "st")
_FILLED_BY_USER = "the donor (patient) of the section, which folds need: fill it in"


@dataclass(frozen=True)
class Inspection:
    """What `inspect_data` found: ``rows`` are rows of a cohort sheet as far as they are known, empty for none.

    ``usable`` tells whether histomix can do something with it as it is.
    """

    path: Path
    description: Description
    rows: tuple[Mapping[str, str], ...] = ()
    usable: bool = True

    def sheet(self) -> str:
        """The rows as a CSV sheet with its header, empty text where there are none. Paths are absolute."""
        if not self.rows:
            return ""
        columns = [*REQUIRED, *(name for name in OPTIONAL if any(row.get(name) for row in self.rows))]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


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
        table = _table(place)
        inspection = Inspection(place, table) if table is not None else None
    if inspection is None and place.is_dir():
        inspection = _folder(place)
    if inspection is not None:
        return inspection
    detect_format(place)  # raises, with what was found
    raise SectionError("is of no known kind", where=place, hint="Name the spots file or the slide itself")


def _other_image(path: Path) -> Inspection | None:
    """A picture of a kind that is no slide's here: its facts say so."""
    from ..slides import image_kind

    if _is_image(path) or not path.is_file() or image_kind(path) is None:
        return None
    return Inspection(path, Description(f"an image file {_NOT}", (), _image_facts(path)), usable=False)


def _inspection(path: Path, options: Mapping[str, str] = _NO_OPTIONS) -> Inspection | None:
    for describe in (_result, _cohort_sheet, _matrix, describe_single_cells):
        description = describe(path)
        if description is not None:
            return Inspection(path, description, usable=_NOT not in description.what)
    format = find_format(path)
    if format is not None:
        check_options(format, options, path)
        return _section(path, format.describe(path, options))
    image = _image(path)
    return None if image is None else Inspection(path, image, usable=_NOT not in image.what)


def _section(path: Path, described: Description) -> Inspection:
    missing = [*described.missing]
    row = {"section": section_name(path), "donor": "", "image": "", **described.row}
    row["spots"] = _absolute(row.get("spots", str(path)))
    if row["image"]:
        row["image"] = _absolute(row["image"])
        described = dataclasses.replace(described, contents=(*described.contents, *_image_facts(Path(row["image"]))))
    else:
        images = _images_near(path)
        if len(images) == 1:
            row["image"] = _absolute(str(images[0]))
            missing = [text for text in missing if "image" not in text.split("(")[0]]
            facts = (f"an image beside it: {images[0].name}", *_image_facts(images[0]))
            described = dataclasses.replace(described, contents=(*described.contents, *facts))
        elif images:
            names = ", ".join(image.name for image in images[:6])
            missing.append(f"which image is this section's: there are {len(images)} beside it ({names})")
    missing.append(_FILLED_BY_USER)
    return Inspection(path, dataclasses.replace(described, missing=tuple(missing)), (row,))


def section_name(path: Path) -> str:
    """A name for the section at ``path``: of a folder called outs or spatial, that of the folder around it."""
    path = path.resolve()
    while path.name in ("outs", "spatial", "binned_outputs", "segmented_outputs", "st") or path.name.startswith(
        ("square_", "tissue_pos")
    ):
        path = path.parent
    name = path.name.partition(".")[0] if path.is_file() or path.suffix == ".zarr" else path.name
    plain = re.sub(r"[^\w-]+", "_", name.removesuffix("_selection")).strip("_")
    return safe_file_name(plain or "section")


def _absolute(location: str) -> str:
    place, mark, options = location.partition("#")
    return str(Path(place).resolve()) + mark + options


def _images_near(path: Path) -> list[Path]:
    folder = path if path.is_dir() and path.suffix != ".zarr" else path.parent
    folders = [folder]
    if path.is_dir() and folder.name in ("outs", "spatial", "binned_outputs", "segmented_outputs"):
        folders.append(folder.parent)
    images = [item for place in folders for item in sorted(place.iterdir())[:_MAX_ENTRIES] if _is_image(item)]
    images = [item for item in images if not _BYPRODUCT.search(item.name)]
    named = [item for item in images if item.stem in re.split(r"[_-]", section_name(path))]
    return named if len(named) == 1 else images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGES and path.is_file()


def _image_facts(path: Path) -> tuple[str, ...]:
    from ..slides import open_slide

    try:
        with open_slide(path) as slide:
            return (f"{slide.width_px:,} x {slide.height_px:,} px at {slide.mpp:.4g} um per px, by the file",)
    except SlideError as error:
        try:
            with open_slide(path, 1.0) as slide:
                return (f"{slide.width_px:,} x {slide.height_px:,} px; the file {error.what}",)
        except SlideError as damage:
            return (f"{_UNUSABLE}: it {damage.what}" + (f". {damage.hint}" if damage.hint else ""),)


def _image(path: Path) -> Description | None:
    if not _is_image(path):
        return None
    facts = _image_facts(path)
    if facts[0].startswith(_UNUSABLE):
        return Description(f"an image file {_NOT}", (), facts)
    lacks = () if "by the file" in facts[0] else ("its um per px: give --mpp, or the column mpp of a cohort sheet",)
    return Description(
        "an image of a slide",
        (*facts, "for the column image of a cohort sheet, or for histomix predict"),
        lacks,
    )


def _matrix(path: Path) -> Description | None:
    several: list[str] = []
    if path.suffix == ".h5":
        with open_h5(path) as stored:
            size, genes = stored.size, stored.width
            if len(stored.genomes) > 1:
                several = [f"genes of the genomes {', '.join(stored.genomes)}: choose one with the option genome"]
    elif (path.is_dir() and (path / "matrix.mtx").exists()) or (path / "matrix.mtx.gz").exists():
        size, genes = len(read_barcodes(path)), None
    else:
        return None
    known = counted(size, "barcode") + (f" x {counted(genes, 'feature')}" if genes is not None else "")
    return Description(
        "a feature-barcode matrix of 10x Genomics",
        (known, *several, "an .h5 may stand in the column counts of a cohort sheet"),
        ("the places of its spots: name the outs folder that holds spatial/ as well",),
    )


def _cohort_sheet(path: Path) -> Description | None:
    yaml = path.suffix.lower() in (".yaml", ".yml")
    if path.is_dir() or not (yaml or len({*REQUIRED} & {*(tables.columns_or_none(path) or [])}) >= 3):
        return None
    try:
        rows = read_sheet(path)
    except SheetError as error:
        return Description(f"a cohort sheet {_NOT} yet", (), tuple(error.problems))
    donors = {row.donor for row in rows}
    formats = sorted({row.format for row in rows})
    contents = [
        f"{counted(len(rows), 'section')} of {counted(len(donors), 'donor')}, of the format {', '.join(formats)}"
    ]
    missing = []
    for name, need in (("image", "embed"), ("labels", "train; histomix label makes them from counts"), ("mpp", "")):
        lacking = sum(getattr(row, name) is None for row in rows)
        if lacking < len(rows):
            contents.append(f"{name} for {len(rows) - lacking:,} of them")
        if lacking and need:
            missing.append(f"{name} for {counted(lacking, 'section')}, which {need} needs")
    if len(donors) < 2:
        missing.append("a second donor: scores are of donors that training has not seen")
    return Description("a cohort sheet", tuple(contents), tuple(missing))


def _result(path: Path) -> Description | None:
    """Folders that histomix writes, by the JSON file that each has."""
    if not path.is_dir():
        return None
    if (path / "card.json").is_file() and any(path.glob("*.safetensors")):
        card = read_json(path / "card.json")
        types = card.get("cell_types") or []
        return Description("a head that histomix trained", (f"predicts {counted(len(types), 'cell type')}",), ())
    if (path / "composition.h5ad").is_file():
        gene_count(path / "composition.h5ad", MapError, "is damaged or no composition map", "Predict the slide again")
        return Description("a composition map that histomix predicted", ("composition.h5ad",), ())
    if (path / "summary.json").is_file() and (path / "metrics.csv").is_file():
        return Description("an evaluation by histomix", ("metrics.csv, summary.json",), ())
    if (path / "manifest.json").is_file():
        manifest = read_json(path / "manifest.json")
        sections = sorted(file.name.split(".")[0] for file in path.glob("*.h5ad"))
        if "encoder" in manifest:
            facts = manifest["encoder"]
            name = facts.get("name", "?") if isinstance(facts, dict) else facts
            contents = (f"{counted(len(sections), 'section')} by the encoder {name}",)
            return Description("a folder of features by histomix", contents, ())
        labelled = sorted(file.stem for file in path.glob("*.csv") if "." not in file.stem)
        if "method" in manifest and labelled:
            contents = (f"{counted(len(labelled), 'section')} by {manifest['method']}",)
            return Description("a folder of labels by histomix", contents, ())
    return None


def _table(path: Path) -> Description | None:
    columns = tables.columns_or_none(path)
    if not columns or len(columns) < 3 or path.suffix.lower() not in (".csv", ".tsv", ".txt", ".gz"):
        return None
    table = tables.read_table(path) if len(columns) < 500 else None
    if table is not None:
        numeric = table.iloc[:, 1:].apply(lambda column: column.str.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?").all())
        if numeric.mean() < 0.9:
            return None
    rows = "" if table is None else f"{counted(len(table), 'row')} x "
    return Description(
        "a table of numbers, without places",
        (
            f"{rows}{counted(len(columns) - 1, 'column')} ({', '.join(columns[1:6])}, ...)",
            "spots x genes go in the column counts of a cohort sheet, spots x cell types in labels",
        ),
        ("the places of its spots: a spots file with the same keys",),
    )


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
            missing += [f"{item.name}/{line}" for line in inspection.description.missing if line != _FILLED_BY_USER]
        if inspection.usable:
            contents.append(f"{item.name}: {what}")
        else:
            missing.append(f"{item.name}: {what}: {'; '.join(inspection.description.missing)}")
    if not (contents or missing):
        return None
    if rows:
        missing.append(_FILLED_BY_USER)
    return Inspection(path, Description(_SEVERAL, tuple(contents), tuple(missing)), tuple(rows), bool(contents))
