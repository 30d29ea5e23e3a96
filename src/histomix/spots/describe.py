"""What files are that are no sections: images, matrices, sheets, tables, and what histomix itself writes."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from ..common import tables
from ..common.storage.altered import refuse_altered
from ..common.strangers.annotated import gene_count
from ..common.words import counted, head_limits
from ..errors import MapError, SheetError, SlideError
from ..provenance import read_json, read_sealed
from .formats import Description
from .formats.tenx.matrix import open_h5, read_barcodes
from .sheet import REQUIRED, read_sheet

#: Suffixes of slides and of flat images that Space Ranger and others are fed with.
_IMAGES = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png", ".mrxs", ".scn", ".vms", ".bif", ".dcm")
_UNUSABLE = "it cannot be used"
#: In the words for what histomix knows and cannot use.
UNFIT = "that cannot be used"
#: No nucleus is more than a few pixels wide on what is coarser, um per px.
_COARSEST = 2.0
_COARSE = "too coarse for nuclei to be seen: an overview, of which no head should predict (many refuse it)"


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name."""
    return path.suffix.lower() in _IMAGES and path.is_file()


def image_facts(path: Path) -> tuple[str, ...]:
    """Size and scale of an image as its file tells them, or why it cannot be used."""
    from ..slides import open_slide

    try:
        with open_slide(path) as slide:
            size = f"{slide.width_px:,} x {slide.height_px:,} px at {slide.mpp:.4g} um per px, by the file"
            return (size, _COARSE) if slide.mpp > _COARSEST else (size,)
    except SlideError as error:
        try:
            with open_slide(path, 1.0) as slide:
                return (f"{slide.width_px:,} x {slide.height_px:,} px; the file {error.what}",)
        except SlideError as damage:
            return (f"{_UNUSABLE}: it {damage.what}" + (f". {damage.hint}" if damage.hint else ""),)


def describe_image(path: Path) -> Description | None:
    """An image, None for anything else."""
    if not is_image(path):
        return None
    facts = image_facts(path)
    if facts[0].startswith(_UNUSABLE):
        return Description(f"an image file {UNFIT}", (), facts)
    lacks = () if "by the file" in facts[0] else ("its um per px: give --mpp, or the column mpp of a cohort sheet",)
    return Description(
        "an image of a slide",
        (*facts, *(() if _COARSE in facts else ("for the column image of a cohort sheet, or for histomix predict",))),
        lacks,
    )


def describe_matrix(path: Path) -> Description | None:
    """Counts of 10x Genomics without places, None for anything else."""
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


def describe_sheet(path: Path) -> Description | None:
    """A cohort sheet, None for anything else."""
    yaml = path.suffix.lower() in (".yaml", ".yml")
    if path.is_dir() or not (yaml or len({*REQUIRED} & {*(tables.columns_or_none(path) or [])}) >= 3):
        return None
    try:
        rows = read_sheet(path)
    except SheetError as error:
        return Description(f"a cohort sheet {UNFIT} yet", (), tuple(error.problems))
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


def describe_result(path: Path) -> Description | None:
    """Folders that histomix writes, by the JSON file that each has."""
    if path.suffix.lower() == ".zip" and path.is_file():
        return _archive(path)
    if not path.is_dir():
        return None
    if (path / "card.json").is_file() and any(path.glob("*.safetensors")):
        card = read_sealed(path / "card.json", hint="Train it again, or restore it from a copy")
        types = card.get("cell_types") or []
        told = (f"predicts {counted(len(types), 'cell type')}", *head_limits(card))
        return Description("a head that histomix trained", told, ())
    if (path / "composition.h5ad").is_file():
        gene_count(path / "composition.h5ad", MapError, "is damaged or no composition map", "Predict the slide again")
        refuse_altered(path, "composition.h5ad")
        status = read_json(path / "status.json") if (path / "status.json").is_file() else {}
        remarks = status.get("remarks") if isinstance(status, dict) else None
        care = [f"to be read with care: {one}" for one in remarks] if isinstance(remarks, list) else []
        return Description("a composition map that histomix predicted", ("composition.h5ad", *care), ())
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


def _archive(path: Path) -> Description | None:
    """A head that was handed on as one file."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if not any(PurePosixPath(name).name == "card.json" for name in names):
        return None
    return Description("a head in an archive", (f"for histomix head pull {path}",), ())


def describe_table(path: Path) -> Description | None:
    """A table of numbers, None for anything else."""
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
            "genes x cell types are a reference: histomix label --reference",
        ),
        ("the places of its spots: a spots file with the same keys",),
    )
