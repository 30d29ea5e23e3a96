"""DICOM slides: frames, headers that contradict them, several series in a folder."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEGBaseline8Bit

from .. import commands
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes
from ..materials import MPP, Materials

TILE = 64
_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def write(
    path: Path,
    pixels: np.ndarray,
    series: str = "1.2.3.4",
    instance: int = 1,
    mpp: float = MPP,
    *,
    jpeg2000: bool = False,
) -> None:
    """One level of a slide, tiles of baseline JPEG (or of JPEG 2000) in the order of the matrix."""
    height, width = pixels.shape[:2]
    frames = []
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            part = pixels[y : y + TILE, x : x + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            frames.append(_coded(tile, jpeg2000))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = _SLIDE, JPEG2000 if jpeg2000 else JPEGBaseline8Bit
    meta.MediaStorageSOPInstanceUID = f"{series}.{instance}"
    data = Dataset()
    data.file_meta = meta
    colours = "YBR_ICT" if jpeg2000 else "YBR_FULL_422"
    facts: dict[str, Any] = {
        "SOPClassUID": _SLIDE, "SOPInstanceUID": f"{series}.{instance}", "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": series, "FrameOfReferenceUID": "1.2.9", "Modality": "SM", "PatientID": "p",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE" if mpp == MPP else "RESAMPLED"], "SamplesPerPixel": 3,
        "PhotometricInterpretation": colours, "PlanarConfiguration": 0, "Rows": TILE, "Columns": TILE,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "NumberOfFrames": len(frames),
        "TotalPixelMatrixColumns": width, "TotalPixelMatrixRows": height, "DimensionOrganizationType": "TILED_FULL",
        "ImagedVolumeWidth": width * mpp / 1000, "ImagedVolumeHeight": height * mpp / 1000, "InstanceNumber": instance,
    }  # fmt: skip
    for name, value in facts.items():
        setattr(data, name, value)
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.005
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PixelData = encapsulate(frames)
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)


def _coded(tile: np.ndarray, jpeg2000: bool) -> bytes:
    if jpeg2000:
        import imagecodecs

        return bytes(imagecodecs.jpeg2k_encode(tile, level=40, codecformat="j2k"))
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG", quality=92, subsampling=1)
    return stream.getvalue()


def _role(name: str, target: str, file: str, *, jpeg2000: bool = False) -> Role:
    def make(room: Path, materials: Materials) -> None:
        (room / "slide").mkdir()
        write(room / "slide" / "a.dcm", materials.pixels(), jpeg2000=jpeg2000)
        write(room / "slide" / "b.dcm", materials.pixels()[::4, ::4], instance=2, mpp=4 * MPP, jpeg2000=jpeg2000)

    return Role(
        name,
        file,
        make,
        lambda _room, materials: ["predict", target, "--head", str(materials.head), "--out", "out", "--json"],
        lambda _room: commands.map_of("slide" if target == "slide" else "a"),
    )


def _tags(**values: Any) -> Damage:
    def change(data: Dataset) -> None:
        for name, value in values.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return _edited(change)


def _edited(change: Callable[[Dataset], Any]) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        data = pydicom.dcmread(path)
        change(data)
        data.save_as(path)

    return apply


def _spacing(value: list[float]) -> Damage:
    def change(data: Dataset) -> None:
        data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = value

    return _edited(change)


def _frame(change: of_bytes.Bytes) -> Damage:
    """The data of one frame, in its place."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        data = path.read_bytes()
        starts = [found.start() for found in re.finditer(rb"\xff\xd8\xff\xe0|\xff\x4f\xff\x51", data)]
        first, last = starts[1], starts[2] - 8
        path.write_bytes(data[:first] + change(data[first:last], rng).ljust(last - first, b"\0") + data[last:])

    return apply


def _beside(make: Callable[[Path], object]) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        make(path.parent)

    return apply


def _copy(folder: Path, name: str, **values: Any) -> None:
    data = pydicom.dcmread(folder / "a.dcm")
    for key, value in values.items():
        setattr(data, key, value)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(folder / name)


def cases() -> Iterator[Case]:
    """Cases of DICOM slides."""
    headers: list[tuple[str, Damage, str]] = [
        ("columns-x10", _tags(TotalPixelMatrixColumns=4480), EITHER),
        ("rows-half", _tags(TotalPixelMatrixRows=100), EITHER),
        ("rows-0", _tags(TotalPixelMatrixRows=0), ERROR),
        ("frames-1", _tags(NumberOfFrames=1), EITHER),
        ("frames-many", _tags(NumberOfFrames=100_000), EITHER),
        ("tile-0", _tags(Rows=0), ERROR),
        ("tile-32", _tags(Rows=32), EITHER),
        ("bits-16", _tags(BitsAllocated=16, BitsStored=16, HighBit=15), EITHER),
        ("samples-1", _tags(SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2"), EITHER),
        ("says-rgb", _tags(PhotometricInterpretation="RGB"), EITHER),
        ("no-spacing", _edited(lambda data: data.pop("SharedFunctionalGroupsSequence")), ERROR),
        ("spacing-0", _spacing([0, 0]), ERROR),
        ("spacing-huge", _spacing([1e10, 1e10]), ERROR),
        ("label", _tags(ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"]), EITHER),
        ("other-class", _tags(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), EITHER),
        ("sparse-without-places", _tags(DimensionOrganizationType="TILED_SPARSE"), ERROR),
        ("no-series", _tags(SeriesInstanceUID=None), EITHER),
    ]
    frames: list[tuple[str, Damage, str]] = [
        ("frame-zeros", _frame(lambda data, _rng: bytes(len(data))), EITHER),
        ("frame-hole", _frame(of_bytes.zeros(0.6, 0.9)), EITHER),
        ("frame-cut", _frame(of_bytes.cut(0.7)), EITHER),
        ("frame-noise", _frame(of_bytes.noise(0.6, 0.8)), UNTOLD),
    ]
    yield from cases_of(
        _role("dicom-file", "slide/a.dcm", "slide/a.dcm"), [*headers, *frames, *of_bytes.BROKEN, *of_bytes.LOST]
    )
    role = _role("dicom-jpeg2000", "slide/a.dcm", "slide/a.dcm", jpeg2000=True)
    yield from cases_of(role, [*frames, ("frame-end-lost", _frame(of_bytes.zeros(0.6, 1)), EITHER)])
    other = {"SeriesInstanceUID": "9.9", "SOPInstanceUID": "9.9.1"}
    folder: list[tuple[str, Damage, str]] = [
        ("text-beside", _beside(lambda folder: (folder / "notes.txt").write_text("a")), RIGHT),
        ("page-beside", _beside(lambda folder: (folder / "c.dcm").write_bytes(of_bytes.PAGE)), EITHER),
        (
            "cut-beside",
            _beside(lambda folder: (folder / "c.dcm").write_bytes((folder / "a.dcm").read_bytes()[:3000])),
            EITHER,
        ),
        ("series-beside", _beside(lambda folder: _copy(folder, "c.dcm", **other)), UNTOLD),
        (
            "twin-beside",
            _beside(lambda folder: (folder / "c.dcm").write_bytes((folder / "a.dcm").read_bytes())),
            EITHER,
        ),
        ("coarse-absent", _beside(lambda folder: (folder / "b.dcm").unlink()), EITHER),
    ]
    yield from cases_of(_role("dicom-folder", "slide", "slide/a.dcm"), [*folder, *frames[:2]])
