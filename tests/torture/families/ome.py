"""OME-TIFF: what its XML says of the pixels, and several images in one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile

from .. import commands
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes
from ..materials import MPP

FILE = "slide.ome.tif"


def _write(path: Path, pixels: np.ndarray, codec: str, before: np.ndarray | None = None) -> None:
    facts = {
        "axes": "YXS",
        "PhysicalSizeX": MPP,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": MPP,
        "PhysicalSizeYUnit": "µm",
    }
    with tifffile.TiffWriter(path, ome=True) as tif:
        if before is not None:
            tif.write(before, photometric="rgb", tile=(64, 64), compression=codec, metadata={"axes": "YXS"})
        options = {"photometric": "rgb", "tile": (64, 64), "compression": codec}
        tif.write(pixels, subifds=1, metadata=facts, **options)
        tif.write(pixels[::4, ::4], subfiletype=1, metadata=None, **options)


def _role(codec: str) -> Role:
    return Role(
        f"ome-{codec}",
        FILE,
        lambda room, materials: _write(room / FILE, materials.pixels(), codec),
        lambda _room, materials: ["predict", FILE, "--head", str(materials.head), "--out", "out", "--json"],
        lambda _room: commands.map_of("slide.ome"),
        names=("slide",),
    )


def _xml(change: Callable[[str], str | bytes]) -> Damage:
    def apply(path: Path, _rng: np.random.Generator) -> None:
        with tifffile.TiffFile(path, mode="r+") as tif:
            tag = tif.pages.first.tags["ImageDescription"]
            text = change(tif.ome_metadata or "")
            tag.overwrite(text if isinstance(text, bytes) else text.encode("ascii", "xmlcharrefreplace"))

    return apply


def _attribute(name: str, value: str) -> Damage:
    return _xml(lambda text: re.sub(rf'\b{name}="[^"]*"', f'{name}="{value}"', text))


def _entities(text: str) -> str:
    layers = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a0 "lol">{layers}]>' + text.partition("?>")[2].replace(
        "<Pixels", "<Description>&a9;</Description><Pixels"
    )


def _outside(text: str) -> str:
    entity = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    return entity + text.partition("?>")[2].replace("<Pixels", "<Description>&x;</Description><Pixels")


def _with_macro(path: Path, _rng: np.random.Generator) -> None:
    pixels = tifffile.imread(path)
    _write(path, pixels, "zlib", before=pixels[:96, :128][::-1])


def _blue_first(path: Path, _rng: np.random.Generator) -> None:
    tifffile.imwrite(
        path, np.moveaxis(tifffile.imread(path), -1, 0).astype("u2") * 257, ome=True, metadata={"axes": "CYX"}
    )


def cases() -> Iterator[Case]:
    """Cases of OME-TIFF."""
    no_scale = [("PhysicalSizeX", value) for value in ("0", "-0.5", "nan", "inf", "1e300", "text", "")]
    damages: list[tuple[str, Damage, str]] = [
        *((f"{name}={value or 'blank'}", _attribute(name, value), ERROR) for name, value in no_scale),
        ("unit-mm", _attribute("PhysicalSizeXUnit", "mm"), ERROR),
        ("unit-pixel", _attribute("PhysicalSizeXUnit", "pixel"), ERROR),
        ("unit-blank", _attribute("PhysicalSizeXUnit", ""), EITHER),
        ("scale-of-y-other", _attribute("PhysicalSizeY", "5.0"), ERROR),
        *(
            (f"SizeX={value}", _attribute("SizeX", value), EITHER)
            for value in ("4480", "224", "0", "-3", "text", "1e99")
        ),
        *((f"SizeC={value}", _attribute("SizeC", value), EITHER) for value in ("1", "4", "0", "99999999")),
        *((f"SizeZ={value}", _attribute("SizeZ", value), EITHER) for value in ("2", "0", "2000000000")),
        *((f"Type={value}", _attribute("Type", value), EITHER) for value in ("uint16", "float", "bit", "")),
        *(
            (f"DimensionOrder={value}", _attribute("DimensionOrder", value), EITHER)
            for value in ("XYZTC", "CXY", "", "QQQQQ")
        ),
        *((f"IFD={value}", _attribute("IFD", value), EITHER) for value in ("1", "99", "-1", "text")),
        ("cut", _xml(lambda text: text[: len(text) // 2]), EITHER),
        ("blank", _xml(lambda _text: "<OME/>"), EITHER),
        ("not-utf-8", _xml(lambda text: text.encode().replace(b"OME", b"OME\xff\xfe", 1)), EITHER),
        ("deep", _xml(lambda text: text.replace("<Pixels", "<a>" * 50_000 + "</a>" * 50_000 + "<Pixels")), EITHER),
        ("entities", _xml(_entities), EITHER),
        ("entity-of-a-file", _xml(_outside), EITHER),
        ("file-elsewhere", _xml(lambda text: text.replace("<UUID", '<UUID FileName="/etc/hostname"')), EITHER),
        ("macro-first", _with_macro, RIGHT),
        ("sixteen-bits", _blue_first, ERROR),
    ]
    yield from cases_of(_role("zlib"), [*damages, *of_bytes.BROKEN, *of_bytes.flipped(4, UNTOLD)])
    yield from cases_of(_role("jpeg"), [one for one in damages if "=" in one[0]])
