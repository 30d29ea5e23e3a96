"""TIFF slides: data of single tiles and strips, headers that contradict them, several images, BigTIFF."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from .. import commands
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes
from ..materials import MPP, Materials

CODECS = ("jpeg", "zlib", "lzw", "zstd", "jpeg2000", "webp", "jpegxl", "png", "packbits", None)
# The coarser level is for the tissue; tiles are read from the finer one.
_FACTORS = (1, 4)


def write(
    path: Path,
    pixels: np.ndarray,
    codec: str | None,
    layout: str,
    coarser: Callable[[np.ndarray], np.ndarray] = np.asarray,
    **options: Any,
) -> None:
    """A slide of one level (``tiles``, ``strips``), or a pyramid (``pyramid`` of pages, ``subifds``, or ``big``).

    ``coarser`` makes something else of its second level.
    """
    lossless = {"compressionargs": {"lossless": True}} if codec == "webp" else {}
    levels = _FACTORS if layout in ("pyramid", "subifds", "big") else (1,)
    with tifffile.TiffWriter(path, bigtiff=layout == "big") as tif:
        for number, factor in enumerate(levels):
            tif.write(
                np.ascontiguousarray(coarser(pixels[::factor, ::factor]) if number else pixels),
                photometric="rgb",
                metadata=None,
                compression=codec,
                resolution=(1e4 / MPP / factor,) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(number > 0),
                subifds=1 if layout == "subifds" and not number else None,
                **({"rowsperstrip": 32} if layout == "strips" else {"tile": (64, 64)}),
                **lossless,
                **options,
            )


def _role(name: str, codec: str | None, layout: str, beside: bool = False, **options: Any) -> Role:
    """With ``beside`` a whole slide is predicted in the same run: its map is there whatever becomes of the other."""

    def make(room: Path, materials: Materials) -> None:
        write(room / "slide.tif", materials.pixels(), codec, layout, **options)
        if beside:
            write(room / "beside.tif", materials.pixels(), "zlib", "tiles")

    def argv(_room: Path, materials: Materials) -> list[str]:
        files = ["slide.tif", *(["beside.tif"] if beside else [])]
        return ["predict", *files, "--head", str(materials.head), "--out", "out", "--json"]

    kept = (lambda _room: commands.map_of("beside")) if beside else None
    return Role(name, "slide.tif", make, argv, lambda _room: commands.map_of("slide"), kept)


def _tiles(change: of_bytes.Bytes, numbers: tuple[int, ...] = (1,), level: int = 0) -> Damage:
    """Other bytes for the data of some tiles, as long as before at most."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        with tifffile.TiffFile(path) as tif:
            page = tif.series[0].levels[level].pages[0]
            last = len(page.dataoffsets) - 1
            those = sorted({min(number, last) for number in numbers})
            places = [(page.dataoffsets[number], page.databytecounts[number]) for number in those]
        data = bytearray(path.read_bytes())
        for offset, count in places:
            changed = change(bytes(data[offset : offset + count]), rng)[:count]
            data[offset : offset + count] = changed + bytes(count - len(changed))
        path.write_bytes(data)

    return apply


def _swap(path: Path, _rng: np.random.Generator) -> None:
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        for name in ("TileOffsets", "TileByteCounts"):
            values = list(tags[name].value)
            values[1], values[2] = values[2], values[1]
            tags[name].overwrite(values)


def tag(name: str, change: Callable[[Any], Any], page: int = 0) -> Damage:
    """Another value for a tag of a page, of the same type."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        with tifffile.TiffFile(path, mode="r+") as tif:
            found = tif.pages[page].tags[name]
            found.overwrite(change(found.value), dtype=found.dtype)

    return apply


def _patched(code: int, patch: Callable[[bytearray, int], None]) -> Damage:
    """A raw change of a 12-byte entry of the first directory of a classic little-endian TIFF."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        data = bytearray(path.read_bytes())
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from("<H", data, entry)[0] == code:
                patch(data, entry)
        path.write_bytes(data)

    return apply


def _next_directory(where: Callable[[int, int], int]) -> Damage:
    """The link from the first directory to the next leads elsewhere; of the directory's start and the file's length."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        data = bytearray(path.read_bytes())
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        struct.pack_into("<I", data, start + 2 + 12 * count, where(start, len(data)))
        path.write_bytes(data)

    return apply


def _coded(code: int, value: int) -> Callable[[bytearray, int], None]:
    """An entry becomes one of another tag, with one value."""
    return lambda data, entry: struct.pack_into("<HHII", data, entry, code, 4, 1, value)


def _typed(kind: int) -> Callable[[bytearray, int], None]:
    return lambda data, entry: struct.pack_into("<H", data, entry + 2, kind)


def _counted(count: int) -> Callable[[bytearray, int], None]:
    return lambda data, entry: struct.pack_into("<I", data, entry + 4, count)


def _pointing(value: int) -> Callable[[bytearray, int], None]:
    return lambda data, entry: struct.pack_into("<I", data, entry + 8, value)


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda value: max(1, int(value * factor))


def _one(value: int, place: int = 3) -> Callable[[Any], Any]:
    return lambda values: [*values[:place], value, *values[place + 1 :]]


def data_damages(codec: str | None) -> list[tuple[str, Damage, str]]:
    """Of the data of tiles. Without a code that checks itself nobody can tell pixels from pixels."""
    # Packbits and LZW have no checksums: what still decodes to as many pixels is a picture.
    blind = UNTOLD if codec in (None, "packbits", "lzw") else EITHER
    soft = UNTOLD if codec in (None, "packbits", "lzw", "jpeg", "jpeg2000", "webp", "jpegxl") else EITHER
    return [
        ("tile-zeros", _tiles(lambda data, _rng: bytes(len(data))), UNTOLD if codec is None else EITHER),
        ("tile-hole", _tiles(of_bytes.zeros(0.3, 0.7)), blind),
        ("tile-end-lost", _tiles(of_bytes.zeros(0.6, 1)), blind),
        ("tile-short", _tiles(of_bytes.cut(0.5)), blind),
        ("tile-noise", _tiles(of_bytes.noise(0.3, 0.7)), soft),
        ("tile-all-noise", _tiles(of_bytes.noise(0, 1)), blind),
        ("tile-bit", _tiles(of_bytes.flips(1)), soft),
        ("tile-swapped-halves", _tiles(of_bytes.swapped), blind),
        ("tile-start-lost", _tiles(of_bytes.zeros(0, 0.2)), blind),
        ("tiles-hole-many", _tiles(of_bytes.zeros(0.4, 0.9), (0, 1, 8)), blind),
    ]


def _tables() -> list[tuple[str, Damage, str]]:
    return [
        ("tiles-in-other-places", _swap, UNTOLD),
        ("tile-without-length", tag("TileByteCounts", _one(0)), EITHER),
        ("tile-without-place", tag("TileOffsets", _one(0)), EITHER),
        ("tile-beyond-the-end", tag("TileOffsets", _one(2**31)), EITHER),
        ("tile-length-beyond", tag("TileByteCounts", _one(2**31)), EITHER),
        ("tile-at-the-header", tag("TileOffsets", _one(0x10)), EITHER),
        ("tile-length-halved", tag("TileByteCounts", lambda values: [values[0] // 2, *values[1:]]), EITHER),
        ("all-tiles-without-length", tag("TileByteCounts", lambda values: [0] * len(values)), EITHER),
    ]


def _headers() -> list[tuple[str, Damage, str]]:
    return [
        ("width-x10", tag("ImageWidth", _scaled(10)), ERROR),
        ("height-x10", tag("ImageLength", _scaled(10)), ERROR),
        ("height-half", tag("ImageLength", _scaled(0.5)), ERROR),
        ("width-half", tag("ImageWidth", _scaled(0.5)), ERROR),
        ("width-huge", tag("ImageWidth", lambda _value: 2**31 - 1), ERROR),
        ("height-huge", tag("ImageLength", lambda _value: 2**31 - 1), ERROR),
        ("width-of-two-values", _patched(256, _counted(2)), ERROR),
        ("height-of-two-values", _patched(257, _counted(2)), ERROR),
        ("width-0", tag("ImageWidth", lambda _value: 0), ERROR),
        ("height-0", tag("ImageLength", lambda _value: 0), ERROR),
        ("tile-width-0", tag("TileWidth", lambda _value: 0), ERROR),
        ("tile-width-huge", tag("TileWidth", lambda _value: 65_520), ERROR),
        ("tile-width-32", tag("TileWidth", lambda _value: 32), ERROR),
        ("tile-width-128", tag("TileWidth", lambda _value: 128), ERROR),
        ("tile-length-17", tag("TileLength", lambda _value: 17), ERROR),
        ("planar-0", tag("PlanarConfiguration", lambda _value: 0), ERROR),
        ("planar-2", tag("PlanarConfiguration", lambda _value: 2), ERROR),
        ("planar-9", tag("PlanarConfiguration", lambda _value: 9), ERROR),
        ("samples-1", tag("SamplesPerPixel", lambda _value: 1), ERROR),
        ("samples-4", tag("SamplesPerPixel", lambda _value: 4), ERROR),
        ("samples-60000", tag("SamplesPerPixel", lambda _value: 60_000), ERROR),
        ("bits-16", tag("BitsPerSample", lambda _value: (16, 16, 16)), ERROR),
        ("bits-4", tag("BitsPerSample", lambda _value: (4, 4, 4)), ERROR),
        ("bits-mixed", tag("BitsPerSample", lambda _value: (8, 8, 4)), ERROR),
        ("bits-0", tag("BitsPerSample", lambda _value: (0, 0, 0)), ERROR),
        ("photometric-grey", tag("PhotometricInterpretation", lambda _value: 1), ERROR),
        ("photometric-cmyk", tag("PhotometricInterpretation", lambda _value: 5), ERROR),
        ("photometric-lab", tag("PhotometricInterpretation", lambda _value: 8), ERROR),
        ("photometric-999", tag("PhotometricInterpretation", lambda _value: 999), ERROR),
        ("codec-other", tag("Compression", lambda value: 5 if value != 5 else 8), ERROR),
        ("codec-unknown", tag("Compression", lambda _value: 65_000), ERROR),
        ("no-scale", tag("ResolutionUnit", lambda _value: 1), ERROR),
        ("scale-0", tag("XResolution", lambda _value: (0, 1)), ERROR),
        ("scale-by-0", tag("XResolution", lambda _value: (1, 0)), ERROR),
        ("scale-x-of-another", tag("XResolution", lambda _value: (1000, 1)), ERROR),
        ("offsets-of-another-type", _patched(324, _typed(3)), ERROR),
        ("offsets-unknown-type", _patched(324, _typed(99)), ERROR),
        ("offsets-too-few", _patched(324, _counted(4)), ERROR),
        ("offsets-too-many", _patched(324, _counted(2**31)), ERROR),
        ("offsets-elsewhere", _patched(324, _pointing(8)), EITHER),
        ("offsets-beyond", _patched(324, _pointing(2**32 - 10)), ERROR),
        ("counts-elsewhere", _patched(325, _pointing(8)), EITHER),
        ("bits-elsewhere", _patched(258, _pointing(2**32 - 10)), ERROR),
        ("next-is-itself", _next_directory(lambda start, _size: start), EITHER),
        ("next-is-the-header", _next_directory(lambda _start, _size: 4), EITHER),
        ("next-beyond", _next_directory(lambda _start, size: size + 1000), ERROR),
        ("first-beyond", lambda path, _rng: _first_directory(path, 2**31), ERROR),
        ("first-is-the-header", lambda path, _rng: _first_directory(path, 0), ERROR),
        ("byte-order-other", of_bytes.of(lambda data, _rng: b"MM" + data[2:]), ERROR),
        ("version-0", of_bytes.of(lambda data, _rng: data[:2] + b"\0\0" + data[4:]), ERROR),
    ]


def _first_directory(path: Path, value: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, value)
    path.write_bytes(data)


def cases() -> Iterator[Case]:
    """Cases of TIFF slides."""
    for codec in CODECS:
        for layout in ("tiles", "strips"):
            if layout == "strips" and codec in ("jpeg2000", "webp"):
                continue
            damages = data_damages(codec)
            yield from cases_of(_role(f"tiff-{codec or 'raw'}-{layout}", codec, layout), damages)
    # OpenSlide itself decodes the tiles of this scanner.
    aperio = {"description": "Aperio Image Library\r\n448x224 (64x64) J2K/KDU Q=30|AppMag = 20|MPP = 0.5"}
    role = _role("tiff-aperio-jpeg2000", "aperio_jp2000_rgb", "tiles", **aperio)
    yield from cases_of(role, data_damages("jpeg2000"))
    # Lengths of raw tiles are given in 16 bits.
    tables = [one for one in _tables() if one[0] != "tile-length-beyond"]
    yield from cases_of(_role("tiff-raw-table", None, "tiles"), tables)
    for codec in ("jpeg", "zlib"):
        yield from cases_of(_role(f"tiff-{codec}-table", codec, "pyramid"), _tables())
        role = _role(f"tiff-{codec}-header", codec, "tiles", beside=True)
        unread = {"samples-4": EITHER, "photometric-lab": EITHER, "photometric-grey": EITHER, "codec-other": EITHER}
        yield from cases_of(role, [(name, damage, unread.get(name, expect)) for name, damage, expect in _headers()])
        for layout in ("pyramid", "subifds", "big"):
            role = _role(f"tiff-{codec}-{layout}", codec, layout)
            levels = [(f"coarse-{name}", damage, expect) for name, damage, expect in _coarse(codec)]
            yield from cases_of(role, [*levels, *of_bytes.BROKEN, *of_bytes.flipped(3, UNTOLD)])
    yield from cases_of(_role("tiff-jpeg-streams", "jpeg", "tiles"), _streams())
    yield from cases_of(_role("tiff-jpeg-streams-big", "jpeg", "pyramid"), _streams())
    twice = [
        (f"tag-{code}-twice", _patched(305, _coded(code, value)), ERROR)
        for code, value in ((256, 64), (259, 1), (277, 1))
    ]
    for codec in ("jpeg", "zlib", None):
        yield from cases_of(_role(f"tiff-{codec or 'raw'}-images", codec, "tiles"), _images(codec))
        role = _role(f"tiff-{codec or 'raw'}-tags", codec, "tiles", software="written by hand")
        channels = [] if codec == "jpeg" else [("channel-unspecified", _channels("unspecified", codec), EITHER)]
        yield from cases_of(role, [*twice, *channels])
    svs = {"description": "Aperio Image Library v11\r\n448x224 (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"}
    yield from cases_of(_role("tiff-aperio-images", "jpeg", "tiles", **svs), _images("jpeg", **svs))
    yield from cases_of(_role("tiff-file", "zlib", "tiles", beside=True), of_bytes.LOST)
    for orientation in range(2, 9):
        tags = [("Orientation", "H", 1, orientation, True)]
        for codec in ("zlib", "lzw"):
            role = _role(f"tiff-{codec}-upright", codec, "tiles")
            damage = _rewritten(codec, extratags=tags)
            yield Case(f"{role.name}/orientation-{orientation}", role, damage, RIGHT)


def _tile_of(encode: Callable[[np.ndarray], bytes], number: int = 1) -> Damage:
    """Another stream for a tile, of the same picture, at the end of the file."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        with tifffile.TiffFile(path) as tif:
            pixels = tif.pages.first.asarray()
            rows, columns = np.divmod(number, -(-tif.pages.first.imagewidth // 64))
            places, lengths = (list(tif.pages.first.tags[name].value) for name in ("TileOffsets", "TileByteCounts"))
        data = encode(pixels[64 * rows : 64 * rows + 128, 64 * columns : 64 * columns + 128])
        places[number], lengths[number] = path.stat().st_size, len(data)
        path.write_bytes(path.read_bytes() + data)
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages.first.tags["TileOffsets"].overwrite(places)
            tif.pages.first.tags["TileByteCounts"].overwrite(lengths, dtype="I")

    return apply


def _streams() -> list[tuple[str, Damage, str]]:
    """Streams of JPEG that are whole, and not what the header of the file says."""
    import simplejpeg

    def jpeg(side: int, grey: bool = False) -> Callable[[np.ndarray], bytes]:
        def encode(pixels: np.ndarray) -> bytes:
            some = np.ascontiguousarray(pixels[:side, :side, :1] if grey else pixels[:side, :side])
            return simplejpeg.encode_jpeg(some, 90, "GRAY" if grey else "RGB")

        return encode

    return [
        ("tile-larger", _tile_of(jpeg(128)), EITHER),
        ("tile-smaller", _tile_of(jpeg(32)), EITHER),
        ("tile-grey", _tile_of(jpeg(64, grey=True)), EITHER),
        ("tile-png", _tile_of(lambda pixels: imagecodecs.png_encode(np.ascontiguousarray(pixels[:64, :64]))), EITHER),
    ]


def _images(codec: str | None, **first: Any) -> list[tuple[str, Damage, str]]:
    """Further images with tiles in one file: of the same size, and of another proportion than a level has."""

    def beside(other: Callable[[np.ndarray], np.ndarray], before: bool = False) -> Damage:
        def apply(path: Path, _rng: np.random.Generator) -> None:
            pixels = tifffile.imread(path, key=0)
            resolution = {"resolution": (1e4 / MPP,) * 2, "resolutionunit": "CENTIMETER"}
            kind = {"photometric": "rgb", "metadata": None, "compression": codec, "tile": (64, 64)}
            with tifffile.TiffWriter(path) as tif:
                images = [(pixels, first), (np.ascontiguousarray(other(pixels)), {})]
                for some, options in images[::-1] if before else images:
                    tif.write(some, **kind, **resolution, **options)

        return apply

    return [
        ("second-image", beside(lambda pixels: 255 - pixels), EITHER),
        ("second-image-smaller", beside(lambda pixels: 255 - pixels[:112]), EITHER),
        ("second-image-larger", beside(lambda pixels: np.full((900, 900, 3), 255, np.uint8)), UNTOLD),
        ("smaller-image-first", beside(lambda pixels: 255 - pixels[:112, :112], before=True), EITHER),
    ]


def _channels(extra: str | int, codec: str | None) -> Damage:
    """A fourth sample that the file says nothing, or something, of."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        pixels = tifffile.imread(path)
        four = np.concatenate([pixels, rng.integers(0, 255, (*pixels.shape[:2], 1), np.uint8)], axis=-1)
        write(path, four, codec, "tiles", extrasamples=(extra,))

    return apply


def _rewritten(codec: str, **options: Any) -> Damage:
    """The same pixels, stored otherwise."""
    return lambda path, _rng: write(path, tifffile.imread(path), codec, "tiles", **options)


def _coarse(codec: str) -> list[tuple[str, Damage, str]]:
    """Of the coarser level, which is read for the tissue."""
    return [
        (name, _tiles(change, (1,), 1), EITHER)
        for name, change in (("hole", of_bytes.zeros(0.3, 0.9)), ("cut", of_bytes.cut(0.4)))
        if codec
    ] + [
        (f"of-{name}", _other_level(codec, change), ERROR)
        for name, change in (("turned", lambda level: level[::-1, ::-1]), ("inverted", lambda level: 255 - level))
    ]


def _other_level(codec: str | None, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """A pyramid whose coarser level shows another picture."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        with tifffile.TiffFile(path) as tif:
            layout = "subifds" if tif.pages.first.subifds else "big" if tif.is_bigtiff else "pyramid"
        write(path, tifffile.imread(path), codec, layout, change)

    return apply
