"""A patient planted in the input in every way there is, and a search through everything that a run wrote."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
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
