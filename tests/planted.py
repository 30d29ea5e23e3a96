"""A patient planted in the input in every way there is, and a search through everything that a run wrote."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import h5py
import numpy as np
import tifffile
from PIL import Image

from .slide_heads import tissue_pixels

#: What must be in no file: name, number, case, birth, way to the input, who ran it; and parts of a name on their own.
NEEDLES = (
    *("DOE^JANE", "DOE_JANE", "Jane Doe", "Doe, Jane", "8833421", "S61-99871", "1961-03-04", "19610304", "1961:03:04"),
    *("zzoperator77", "SaintPlanted", "JANEDOE", "ward-seven-biopsy", "dr.planted@hospital.example"),
)
STEM = "DOE^JANE_MRN-8833421_1961-03-04"
FOLDER = "Doe, Jane MRN 8833421"
_DESCRIPTION = "Patient: Jane Doe; MRN 8833421; accession S61-99871; born 1961-03-04"
LABEL = (255, 0, 255)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")
_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]")


def tags(mpp: float = 0.5) -> dict[str, Any]:
    """Tags of a TIFF that name a patient."""
    text = [(315, "s", 0, "Dr zzoperator77", True), (316, "s", 0, "zzoperator77-host", True)]
    return {
        "description": _DESCRIPTION,
        "datetime": "1961:03:04 00:00:00",
        "software": "scanner of SaintPlanted",
        "extratags": [*text, (33432, "s", 0, "Jane Doe 8833421", True)],
        "resolution": (1e4 / mpp,) * 2,
        "resolutionunit": "CENTIMETER",
    }


def named_tiff(path: Path, **options: Any) -> Path:
    """A tiled slide whose tags name a patient."""
    with tifffile.TiffWriter(path) as tif:
        tif.write(tissue_pixels(**options), tile=(256, 256), photometric="rgb", metadata=None, **tags())
    return path


def named_ome(path: Path, **options: Any) -> Path:
    """An OME-TIFF whose XML names a patient."""
    metadata = {
        **{
            "axes": "YXS",
            "Name": "Jane Doe 8833421",
            "Description": _DESCRIPTION,
            "AcquisitionDate": "1961-03-04T00:00:00",
        },
        **{"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Experimenter": {"LastName": "zzoperator77"}},
    }
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(tissue_pixels(**options), tile=(256, 256), photometric="rgb", metadata=metadata)
    return path


def named_photo(path: Path, **options: Any) -> Path:
    """A JPEG or PNG with EXIF, XMP and comments that name a patient."""
    from PIL.PngImagePlugin import PngInfo

    image, exif = Image.fromarray(tissue_pixels(**options)), Image.Exif()
    exif[270], exif[315], exif[306], exif[33432] = _DESCRIPTION, "zzoperator77", "1961:03:04 00:00:00", "Jane Doe"
    info = PngInfo()
    info.add_text("Title", _DESCRIPTION)
    info.add_itxt("XML:com.adobe.xmp", f"<x>{_DESCRIPTION}</x>", zip=True)
    more: dict[str, Any] = {"pnginfo": info} if path.suffix == ".png" else {"comment": _DESCRIPTION, "quality": 92}
    image.save(path, exif=exif, **more)
    return path


def named_dicom(folder: Path, **options: Any) -> Path:
    """A folder with a slide in DICOM whose tags name a patient, and its label as a file of the same series."""
    folder.mkdir()
    for kind, pixels in (("VOLUME", tissue_pixels(**options)), ("LABEL", label_picture(250, 250))):
        (folder / f"Jane Doe {kind}.dcm").write_bytes(_dicom(pixels, kind, 256 if kind == "VOLUME" else 250))
    return folder


def _dicom(pixels: np.ndarray, kind: str, tile: int = 256) -> bytes:
    """A file of a whole-slide series: tiles in JPEG, explicit VR, little endian."""
    height, width = pixels.shape[:2]
    down, across = -(-height // tile), -(-width // tile)
    padded = np.full((down * tile, across * tile, 3), 244, np.uint8)
    padded[:height, :width] = pixels
    frames = []
    for number in range(down * across):
        row, column = number // across * tile, number % across * tile
        stream = io.BytesIO()
        Image.fromarray(padded[row : row + tile, column : column + tile]).save(stream, "JPEG", quality=92)
        frames.append(stream.getvalue() + b"\0" * (len(stream.getvalue()) % 2))
    starts = np.cumsum([0, *(len(frame) + 8 for frame in frames[:-1])]).astype("<u4").tobytes()
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in (starts, *frames))
    uid, kinds = "1.2.826.0.1.3680043.8.498.", {"VOLUME": "1", "LABEL": "2"}
    syntax, sop = "1.2.840.10008.1.2.4.50", "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta = b"".join(
        _element(2, number, "UI", value)
        for number, value in ((2, sop), (3, uid + kinds[kind]), (16, syntax), (18, uid + "9"))
    )
    sizes = _item(_element(0x18, 0x50, "DS", "0.001"), _element(0x28, 0x30, "DS", "0.0005\\0.0005"))
    spacing = _element(0x28, 0x9110, "SQ", sizes)
    body = (
        *((8, 8, "CS", f"ORIGINAL\\PRIMARY\\{kind}\\NONE"), (8, 0x16, "UI", sop), (8, 0x18, "UI", uid + kinds[kind])),
        *(
            (8, 0x20, "DA", "19610304"),
            (8, 0x50, "SH", "S61-99871"),
            (8, 0x60, "CS", "SM"),
            (8, 0x80, "LO", "SaintPlanted"),
        ),
        *((8, 0x1070, "PN", "zzoperator77"), (0x10, 0x10, "PN", "DOE^JANE"), (0x10, 0x20, "LO", "8833421")),
        *((0x10, 0x30, "DA", "19610304"), (0x10, 0x4000, "LT", _DESCRIPTION)),
        *((0x20, 0xD, "UI", uid + "3"), (0x20, 0xE, "UI", uid + "4"), (0x20, 0x13, "IS", kinds[kind])),
        *((0x20, 0x52, "UI", uid + "5"), (0x20, 0x9311, "CS", "TILED_FULL"), (0x28, 2, "US", 3)),
        *((0x28, 4, "CS", "YBR_FULL_422"), (0x28, 6, "US", 0), (0x28, 8, "IS", str(len(frames)))),
        *((0x28, 0x10, "US", tile), (0x28, 0x11, "US", tile), (0x28, 0x100, "US", 8), (0x28, 0x101, "US", 8)),
        *((0x28, 0x102, "US", 7), (0x28, 0x103, "US", 0), (0x40, 0x512, "LO", "ward-seven-biopsy")),
        *((0x48, 6, "UL", width), (0x48, 7, "UL", height)),
        *((0x48, 0x105, "SQ", _item(_element(0x48, 0x106, "SH", "1"))), (0x48, 0x302, "UL", 1), (0x48, 0x303, "UL", 1)),
        (0x5200, 0x9229, "SQ", _item(spacing)),
    )
    pixel_data = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = b"".join(_element(*one) for one in body) + pixel_data
    return b"\0" * 128 + b"DICM" + _element(2, 0, "UL", len(meta)) + meta + data


def _element(group: int, number: int, kind: str, value: Any) -> bytes:
    if kind in ("US", "UL"):
        data = struct.pack("<H" if kind == "US" else "<I", value)
    else:
        data = value if isinstance(value, bytes) else value.encode()
    data += (b"\0" if kind == "UI" else b" ") * (len(data) % 2)
    if kind == "SQ":
        return struct.pack("<HH2sHI", group, number, kind.encode(), 0, len(data)) + data
    return struct.pack("<HH2sH", group, number, kind.encode(), len(data)) + data


def _item(*elements: bytes) -> bytes:
    data = b"".join(elements)
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data


def label_picture(height: int, width: int) -> np.ndarray:
    """A label in a colour that no tissue has."""
    return np.broadcast_to(np.array(LABEL, np.uint8), (height, width, 3)).copy()


def forms(planted: str) -> list[bytes]:
    """The ways in which a name may be written in a file, in small letters."""
    found = {
        planted,
        unicodedata.normalize("NFD", planted),
        quote(planted),
        quote(planted, safe=""),
        html.escape(planted),
    }
    found |= {json.dumps(planted)[1:-1], re.sub(r"[^A-Za-z0-9]+", "-", planted).strip("-"), planted.replace("^", "_")}
    return sorted({form.lower().encode() for form in found} | {planted.lower().encode("utf-16-le")})


def holds(data: bytes, form: bytes) -> bool:
    """Whether a name stands in bytes in small letters; a number only where it is not part of a longer one."""
    if form not in data:
        return False
    return not form.isdigit() or re.search(rb"(?<![\d.])" + form + rb"(?!\d)", data) is not None


def leaks(folder: Path, planted: Sequence[str] = NEEDLES) -> list[str]:
    """Where in a folder something planted stands: in names of files, and in anything that can be unpacked of them."""
    wanted = [(name, form) for name in planted for form in forms(name)]
    found = []
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    for path in paths:
        shown = path.relative_to(folder.parent).as_posix() if path != folder else path.name
        if path != folder:
            own = f"{path.name} {unquote(path.name)}".lower().encode()
            found += [f"{shown}: {name!r} in its name" for name, form in wanted if holds(own, form)]
        if path.is_file():
            for where, data in unpacked(path.read_bytes(), path.name):
                small = data.lower()
                found += [f"{shown} ({where}): {name!r}" for name, form in wanted if holds(small, form)]
    return sorted(set(found))


def unpacked(data: bytes, name: str, where: str = "bytes", depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file and of everything packed in it: archives, compressed streams, tables, metadata, base64."""
    yield where, data
    if depth > 4 or not data:
        return
    inner: list[tuple[str, bytes]] = []
    if data[:2] == b"\x1f\x8b":
        inner.append(("gzip", gzip.decompress(data)))
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inner += [(f"zip {one}", one.encode() + b"\n" + archive.read(one)) for one in archive.namelist()]
            inner.append(("zip comment", archive.comment))
    if data[:4] == b"\x28\xb5\x2f\xfd":
        inner.append(("zstd", _zstd(data)))
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        inner += _of_h5(data)
    if data[:4] == b"PAR1":
        inner += _of_parquet(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" or data[:3] == b"\xff\xd8\xff" or data[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
        inner += _of_picture(data)
    inner += [("base64", decoded) for decoded in _of_base64(data)]
    if data[:4] not in (b"PK\x03\x04", b"PAR1"):
        inner += [("zlib", decoded) for decoded in _of_zlib(data)]
    for kind, part in inner:
        yield from unpacked(part, name, f"{where} > {kind}", depth + 1)


def _of_h5(data: bytes) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []

    def visit(name: str, one: Any) -> None:
        found.append(("h5 name", name.encode()))
        for key, value in one.attrs.items():
            found.append((f"h5 attribute of {name}", f"{key} {np.asarray(value).tolist()}".encode()))
        if isinstance(one, h5py.Dataset) and one.dtype.kind in "OSU":
            values = one.asstr()[()] if h5py.check_string_dtype(one.dtype) else one[()]
            found.append((f"h5 {name}", str(np.asarray(values).tolist()).encode()))
        elif isinstance(one, h5py.Dataset) and one.dtype.kind in "iu" and one.dtype.itemsize == 1:
            found.append((f"h5 {name}", np.asarray(one[()]).tobytes()))

    with h5py.File(io.BytesIO(data)) as file:
        visit("/", file)
        file.visititems(visit)
    return found


def _of_parquet(data: bytes) -> list[tuple[str, bytes]]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    metadata = b" ".join(part for pair in (file.metadata.metadata or {}).items() for part in pair)
    return [("parquet", str(file.read().to_pydict()).encode()), ("parquet metadata", metadata)]


def _of_picture(data: bytes) -> list[tuple[str, bytes]]:
    found = []
    try:
        with Image.open(io.BytesIO(data)) as image:
            found.append(("picture", f"{image.info} {dict(image.getexif())} {getattr(image, 'text', '')}".encode()))
    except (OSError, SyntaxError):
        pass
    if data[:2] in (b"II", b"MM"):
        with tifffile.TiffFile(io.BytesIO(data)) as tif:
            for page in tif.pages:
                found += [("tags", f"{tag.name} {tag.value}".encode()) for tag in getattr(page, "tags", [])]
    return found


def _of_base64(data: bytes) -> Iterator[bytes]:
    for found in _BASE64.finditer(data):
        text = found[0].rstrip(b"=")
        for start in range(4 if len(text) < 4000 else 1):
            some = text[start:]
            yield base64.b64decode(some[: len(some) // 4 * 4])


def _of_zlib(data: bytes) -> Iterator[bytes]:
    for found in _ZLIB.finditer(data):
        try:
            decoded = zlib.decompressobj().decompress(data[found.start() :], 1 << 24)
        except zlib.error:
            continue
        if len(decoded) > 3:
            yield decoded


def _zstd(data: bytes) -> bytes:
    from numcodecs import Zstd

    return bytes(Zstd().decode(data))


def pictures(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every picture in a folder, also those in base64 (a viewer's tiles) and in Zarr stores."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".png", ".jpg", ".jpeg"):
            with Image.open(path) as image:
                yield str(path), np.asarray(image.convert("RGB"))
        elif path.suffix == ".js":
            for found in _BASE64.finditer(path.read_bytes()):
                data = base64.b64decode(found[0])
                if data[:3] == b"\xff\xd8\xff":
                    with Image.open(io.BytesIO(data)) as image:
                        yield str(path), np.asarray(image.convert("RGB"))
        elif path.suffix == ".h5ad":
            with h5py.File(path) as file:
                parts: list[np.ndarray] = []
                file.visititems(lambda _, one, into=parts: into.append(one[()]) if _is_picture(one) else None)
            for part in parts:
                yield str(path), part


def _is_picture(one: Any) -> bool:
    return isinstance(one, h5py.Dataset) and one.ndim == 3 and one.dtype == np.uint8 and one.shape[-1] == 3


def shows_label(pixels: np.ndarray) -> bool:
    """Whether a picture has the colour of the planted label."""
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return bool(((red > 190) & (green < 90) & (blue > 190)).any())
