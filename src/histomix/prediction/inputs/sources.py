"""Which slides: paths, folders of slides, and sheets of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.naming import file_key, safe_file_name
from ...common.paths import path_in_table
from ...common.transfer.addresses import check_address, redact_url
from ...common.transfer.remote_names import remote_name
from ...errors import HeadError, InputError
from ...slides.dicom import dicom_series
from ...slides.files import SUFFIXES
from ..job import SlideJob

_SHEETS = (".csv", ".tsv")
_FLAT = (".png", ".jpg", ".jpeg")
# What may lie in the folder of a DICOM slide without being a slide of its own.
_NO_SLIDE = (*_FLAT, ".dcm")
_REMOTE = "://"
#: Pictures and slides that other programs know.
_OTHERS = (
    *(".vsi", ".ets", ".qptiff", ".lif", ".isyntax", ".i2syntax", ".sdpc", ".mds", ".kfb", ".tmap", ".nd2", ".lsm"),
    *(".jp2", ".bmp", ".gif", ".webp", ".heic"),
)
_BESIDE = "a JPEG or PNG beside other slides is taken for a picture of one of them; named itself, it is predicted"
_NO_TARGET = "a link to a file that is not there"
_NOT_READ = "a kind of image that is not read; export it as TIFF"


def slide_jobs(
    slides: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    mpp: float | None = None,
    force_mpp: bool = False,
) -> list[SlideJob]:
    """The jobs of what a user named.

    Parameters
    ----------
    slides
        Slides (paths or URLs), folders that are searched for slides at any depth, and sheets: CSV or TSV with a column
        ``slide`` (paths relative to the sheet, or URLs) and optional ``mpp`` and ``name``; every other column
        (``patient``, ...) is carried into the results.
    out
        Folder of the results, one folder a slide.
    mpp
        Um per px of level 0 of slides that do not say it; a sheet's own values go before it.
    force_mpp
        Take ``mpp`` for slides that say another one, too, which would else fail.

    Raises
    ------
    InputError
        A folder holds no slide, or a sheet cannot be used; the message names the row.
    HeadError
        Two slides would share one folder.
    """
    entries: list[tuple[str, float | None, str, tuple[tuple[str, str], ...]]] = []
    for item in slides:
        text = os.fspath(item)
        path = Path(text)
        if _REMOTE in text:
            check_address(text)
            entries.append((text, mpp, _stem(text), ()))
        elif path.suffix.lower() in _SHEETS:
            entries += _sheet(path, mpp)
        elif path.is_dir() and not is_slide_folder(path):
            entries += [(str(slide), mpp, name, ()) for slide, name in _search(path)]
        else:
            entries.append((text, mpp, path.name if path.is_dir() and path.suffix != ".zarr" else path.stem, ()))
    jobs = [
        SlideJob(slide, Path(out) / safe_file_name(name), scale, name, facts, mpp_serves=scale is mpp and not force_mpp)
        for slide, scale, name, facts in entries
    ]
    folders: dict[str, SlideJob] = {}
    for job in jobs:
        twin = folders.setdefault(file_key(job.folder.name), job)
        if twin is not job:
            raise HeadError(
                f"{twin.source} and {job.source} would both be written to {job.folder}"
                + ("" if twin.folder == job.folder else ", on systems that do not tell case apart"),
                hint="Rename one of them, name them in the column 'name' of a sheet, or use different --out folders",
            )
    return jobs


def passed_over(slides: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, str]]:
    """Pictures in the folders of what a user named that are not predicted, each with the reason.

    Raises
    ------
    InputError
        A folder cannot be read.
    """
    folders = [path for path in map(Path, slides) if _REMOTE not in str(path) and path.is_dir()]
    return [one for folder in folders for one in _sorted_out(folder)[1]]


def find_slides(folder: Path) -> list[Path]:
    """Slides in a folder, at any depth, in the order of their names.

    Files with the suffix of a slide, OME-Zarr images, and DICOM files, of which each series is one slide. The pixel
    folder beside a MIRAX slide is not entered, hidden folders are not, and flat PNG and JPEG images count only in a
    folder without other slides, where they are no pictures of those. A link back to a folder above is not followed.
    `passed_over` tells what is left out.

    Raises
    ------
    InputError
        A folder cannot be read.
    """
    return _sorted_out(folder)[0]


def _sorted_out(folder: Path, above: frozenset[Path] = frozenset()) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Slides in a folder, and pictures that are none, with the reason."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        above |= {folder.resolve()}
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror or error})", where=folder, hint="Check its permissions"
        ) from error
    if is_slide_folder(folder):
        return [folder], [(path, _BESIDE) for path in entries if path.suffix.lower() in _FLAT]
    pixels = {path.with_suffix("") for path in entries if path.suffix.lower() == ".mrxs"}
    files = [path for path in entries if path.is_file() and path.suffix.lower() in SUFFIXES]
    # Of a DICOM series one file stands for all.
    if any(path.suffix.lower() == ".dcm" for path in files):
        first = {members[0] for members in dicom_series(folder).values()}
        files = [path for path in files if path.suffix.lower() != ".dcm" or path in first]
    whole = [path for path in files if path.suffix.lower() not in _FLAT]
    slides = list(whole or files)
    left = [(path, _BESIDE) for path in files if path not in slides]
    left += [(path, _NO_TARGET) for path in entries if path.suffix.lower() in SUFFIXES and not path.exists()]
    left += [(path, _NOT_READ) for path in entries if path.is_file() and path.suffix.lower() in _OTHERS]
    for path in entries:
        if path.is_dir() and path not in pixels and path.resolve() not in above:
            more, others = _sorted_out(path, above)
            slides += more
            left += others
    return slides, left


def _search(folder: Path) -> list[tuple[Path, str]]:
    """Slides of a folder with a name each: the file's, or with the folders above it where that is not unique."""
    paths = find_slides(folder)
    if not paths:
        raise InputError(
            "holds no slide", where=folder, hint=f"Name a folder with slides ({', '.join(SUFFIXES)}), or the slides"
        )
    stems = [path.name if path.is_dir() and path.suffix != ".zarr" else path.stem for path in paths]
    alike = Counter(map(file_key, stems))
    names = []
    for path, stem in zip(paths, stems, strict=True):
        parts = path.relative_to(folder).parts[:-1] if path != folder else ()
        names.append("__".join((*parts, stem)) if alike[file_key(stem)] > 1 else stem)
    # a.svs beside a.ndpi in one folder
    alike = Counter(map(file_key, names))
    return [
        (path, f"{name}{path.suffix.replace('.', '_')}" if alike[file_key(name)] > 1 else name)
        for path, name in zip(paths, names, strict=True)
    ]


def is_slide_folder(path: Path) -> bool:
    """Whether a folder is itself a slide: an image of OME-Zarr, or the DICOM files of one series and no other slide."""
    if path.suffix.lower() == ".zarr" or (path / "zarr.json").is_file() or (path / ".zattrs").is_file():
        return True
    if not any(path.glob("*.dcm")):
        return False
    others = [one for one in path.iterdir() if one.suffix.lower() in SUFFIXES and one.suffix.lower() not in _NO_SLIDE]
    return not others and len(dicom_series(path)) == 1


def _sheet(path: Path, mpp: float | None) -> list[tuple[str, float | None, str, tuple[tuple[str, str], ...]]]:
    from ...common.tables import read_table

    table = read_table(path, InputError, empty_ok=True)
    if "slide" not in table:
        raise InputError(
            f"the sheet has no column 'slide'; it has: {', '.join(table.columns)}",
            where=path,
            hint="Name the slides in a column 'slide'; mpp, name, patient and others may stand beside it",
        )
    if not len(table):
        raise InputError("the sheet has no rows", where=path, hint="Name one slide a row")
    entries = []
    for number, row in enumerate(table.to_dict("records"), start=2):
        values = {str(name): str(value).strip() for name, value in row.items()}
        slide = values.pop("slide")
        if not slide:
            raise InputError(f"row {number} names no slide", where=path, hint="Fill in the column 'slide'")
        scale = _number(values.pop("mpp", ""), number, path)
        place = slide if _REMOTE in slide else str(path_in_table(path.parent, slide))
        name = values.pop("name", "") or _stem(place)
        if "/" in name or "\\" in name or name in (".", ".."):
            raise InputError(f"row {number}: the name '{name}' cannot be a folder's", where=path, hint="Rename it")
        if _REMOTE in slide:
            _check_remote(slide, number, path)
        entries.append((place, mpp if scale is None else scale, name, _facts(values)))
    return entries


def _check_remote(slide: str, row: int, path: Path) -> None:
    """Refuse an address before any work, by the row of the sheet that names it."""
    try:
        check_address(slide)
        remote_name(slide)
    except InputError as error:
        raise InputError(
            f"row {row}: {error.where or redact_url(slide)}: {error.what}", where=path, hint=error.hint
        ) from error


def _facts(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in values.items() if value)


def _number(text: str, row: int, path: Path) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"row {row}: the mpp '{text}' is no number", where=path, hint="Give um per px") from error


def _stem(slide: str) -> str:
    return Path(slide.split("?")[0].rstrip("/")).stem
