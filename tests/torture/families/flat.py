"""Flat images: JPEG, PNG, TIFF held whole, and kinds that are not read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import commands
from ..case import EITHER, ERROR, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes
from ..materials import Materials


def _role(name: str, file: str, **options: Any) -> Role:
    def make(room: Path, materials: Materials) -> None:
        Image.fromarray(materials.pixels()).save(room / file, **options)

    return Role(
        name,
        file,
        make,
        lambda _room, materials: commands.predict_with(materials, file),
        lambda _room: commands.map_of("slide"),
    )


def _saved(format: str, **options: Any) -> Damage:
    """The same pixels in another format under the old name."""
    return lambda path, _rng: _opened(path).save(path, format=format, **options)


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image.copy()


def _mode(mode: str) -> Damage:
    return lambda path, _rng: _opened(path).convert(mode).save(path)


def _sixteen(path: Path, _rng: np.random.Generator) -> None:
    import imagecodecs

    grey = np.asarray(_opened(path)).astype(np.uint16) * 257
    path.write_bytes(imagecodecs.png_encode(grey))


def _header(width: int, height: int) -> Damage:
    """Another size in the header of a PNG, with a right checksum."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        data = path.read_bytes()
        head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        path.write_bytes(data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:])

    return apply


def _frame(width: int, height: int) -> Damage:
    """Another size in the frame header of a JPEG."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        data = bytearray(path.read_bytes())
        start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        struct.pack_into(">HH", data, start + 5, height, width)
        path.write_bytes(data)

    return apply


def _marker(old: bytes, new: bytes) -> Damage:
    return of_bytes.of(lambda data, _rng: data.replace(old, new, 1))


def cases() -> Iterator[Case]:
    """Cases of flat images."""
    parts = [
        (f"hole-{start}", of_bytes.of(of_bytes.zeros(start, start + 0.1)), EITHER) for start in (0.3, 0.5, 0.7, 0.85)
    ]
    # Noise that happens to be right code is a picture.
    noisy = [("noise-large", of_bytes.of(of_bytes.noise(0.3, 0.7)), EITHER)]
    for name, options in (("jpeg", {}), ("jpeg-progressive", {"progressive": True})):
        soft = [
            (kind, damage, UNTOLD if kind.startswith("noise") else expect) for kind, damage, expect in of_bytes.BROKEN
        ]
        headers: list[tuple[str, Damage, str]] = [
            ("width-double", _frame(896, 224), ERROR),
            ("height-double", _frame(448, 448), ERROR),
            ("width-0", _frame(0, 224), ERROR),
            ("height-huge", _frame(448, 65_500), ERROR),
            ("tables-lost", _marker(b"\xff\xdb", b"\xff\xe5"), ERROR),
            ("codes-lost", _marker(b"\xff\xc4", b"\xff\xe5"), EITHER),
            ("cmyk", _mode("CMYK"), ERROR),
            ("is-png", _saved("PNG"), UNTOLD),
            ("end-mark-lost", of_bytes.of(lambda data, _rng: data[:-2]), EITHER),
            ("tail", of_bytes.of(lambda data, _rng: data + b"tail" * 99), EITHER),
        ]
        role = _role(f"flat-{name}", "slide.jpg", quality=90, **options)
        yield from cases_of(role, [*parts, *soft, *headers, *of_bytes.flipped(8, UNTOLD), *of_bytes.LOST])
    yield from cases_of(
        _role("flat-png", "slide.png"),
        [*parts, *noisy, *of_bytes.BROKEN, *of_bytes.flipped(8), *of_bytes.LOST,
         ("width-double", _header(896, 224), ERROR), ("height-half", _header(448, 112), EITHER),
         ("size-huge", _header(2**31 - 1, 2**31 - 1), ERROR), ("size-0", _header(0, 0), ERROR),
         ("sixteen-bits", _sixteen, ERROR), ("is-jpeg", _saved("JPEG", quality=99), UNTOLD),
         ("is-bmp", _saved("BMP"), ERROR), ("is-webp", _saved("WEBP"), ERROR), ("is-gif", _saved("GIF"), ERROR),
         ("bomb", lambda path, _rng: path.write_bytes(_bomb()) and None, ERROR)],
    )  # fmt: skip
    yield from cases_of(
        _role("flat-tiff", "slide.tif", compression="tiff_adobe_deflate"),
        [*of_bytes.BROKEN, *of_bytes.flipped(6, UNTOLD), *of_bytes.LOST],
    )


def _bomb() -> bytes:
    """A PNG of 60,000 x 60,000 px in 60 kB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 60_000
    packer = zlib.compressobj(9)
    row = b"\0" + bytes(side // 8)
    body = b"".join(packer.compress(row) for _ in range(side // 8)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
