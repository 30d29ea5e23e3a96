"""What JPEG 2000 and WebP streams say of themselves: their libraries fill up what is lost without a word."""

from __future__ import annotations

import re
import struct

# A packet of JPEG 2000 without code is one byte of zero, and a tile has a few hundred packets; the code of either is
# never zero for so long.
_HOLE, _WEBP_HOLE = (re.compile(rb"\0{%d}" % longest) for longest in (256, 64))
_START, _END = b"\xff\x4f\xff\x51", b"\xff\xd9"
_PART, _DATA = b"\xff\x90", b"\xff\x93"
# No code holds these pairs; the two that mark packets may stand in it.
_NO_CODE = re.compile(rb"\xff[\x90\x93-\xff]")
_RIFF_HEADER = 12


def check_jpeg2000(data: bytes, *, ends: bool = True) -> None:
    """Refuse a JPEG 2000 stream that is cut, has a hole, or whose parts do not follow each other to its end.

    Without ``ends`` it need not say where it ends, as its encoder never does.

    Raises
    ------
    ValueError
        What is wrong with it.
    """
    start = data.find(_START)
    if start < 0 or (start and not data.startswith(b"\0\0\0\x0cjP  ")):
        raise ValueError("not a JPEG 2000 stream")
    stream = data[start:]
    filled = stream.rstrip(b"\0")
    if ends and not filled.endswith(_END):
        raise ValueError("its JPEG 2000 stream ends early")
    # Zeros after the last part fill up the file; without a mark of the end they may be of the part.
    last = len(filled) - len(_END) if ends else len(filled)
    place, end = _after_segments(stream, 2, _PART), last if ends else len(stream)
    while place < last:
        if not stream.startswith(_PART, place):
            raise ValueError("a part of its JPEG 2000 stream is not where the one before it ends")
        (length,) = struct.unpack_from(">I", stream, place + 6)
        stop = place + length if length else end
        first = _after_segments(stream, place, _DATA) + len(_DATA)
        if stop > end or first > stop or _NO_CODE.search(stream, first, stop) or _HOLE.search(stream, first, stop):
            raise ValueError("its JPEG 2000 stream has bytes that are no code")
        place = stop


def has_end(data: bytes) -> bool | None:
    """Whether a JPEG 2000 stream says where it ends; None where it is no such stream."""
    return data.rstrip(b"\0").endswith(_END) if _START in data else None


def check_webp(data: bytes) -> None:
    """Refuse a WebP stream that is cut, has a hole, or whose chunks do not add up.

    Raises
    ------
    ValueError
        What is wrong with it.
    """
    if not data.startswith(b"RIFF") or data[8:_RIFF_HEADER] != b"WEBP":
        raise ValueError("not a WebP stream")
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ValueError("its WebP stream ends early")
    place, end = _RIFF_HEADER, size + 8
    while place + 8 <= end:
        (length,) = struct.unpack_from("<I", data, place + 4)
        place += 8 + length + length % 2
    if place != end:
        raise ValueError("the chunks of its WebP stream do not add up")
    if _WEBP_HOLE.search(data, 0, end):
        raise ValueError("its WebP stream has a hole")


def _after_segments(stream: bytes, place: int, mark: bytes) -> int:
    """Where the first ``mark`` stands behind the marker segments that begin at ``place``."""
    while not stream.startswith(mark, place):
        if place + 4 > len(stream) or stream[place] != 0xFF:
            raise ValueError("the header of its JPEG 2000 stream is damaged")
        place += 2 + struct.unpack_from(">H", stream, place + 2)[0]
    return place
