"""JPEG streams, decoded strictly: what libjpeg only warns of is damage here.

libjpeg fills up a stream that ends early or is broken in the middle with grey, warns, and goes on; Pillow, tifffile and
imagecodecs drop the warning. simplejpeg hands it over.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import simplejpeg

# What libjpeg says of bytes between the last pixel and the end mark. A few are how some encoders fill up a stream.
_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MOST_PADDING = 4
_START, _ADOBE, _SCAN = 0xD8, 0xEE, 0xDA
# An Adobe marker that says: no transform, so the samples are red, green and blue.
_SAYS_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def decode_jpeg(
    data: bytes, *, tables: bytes | None = None, stored_rgb: bool = False, grey: bool = False, of_three: bool = False
) -> np.ndarray:
    """Decode a whole JPEG stream.

    Parameters
    ----------
    data
        The stream.
    tables
        Of a TIFF whose streams are abbreviated: the stream of the tables that they share.
    stored_rgb
        The samples are red, green and blue, whatever the stream's own markers say (Aperio).
    grey
        Give one sample a pixel instead of three.
    of_three
        The file says that there are three samples a pixel; a stream with another number is not its own.

    Returns
    -------
    uint8 (height, width, 3), or (height, width, 1) for ``grey``.

    Raises
    ------
    ValueError
        The stream is no JPEG, ends early, or holds what libjpeg warns of; the message is libjpeg's.
    """
    if not data.startswith(b"\xff\xd8"):
        raise ValueError("not a JPEG stream")
    if tables and tables.startswith(b"\xff\xd8"):
        data = b"\xff\xd8" + tables[2:].rstrip(b"\0").removesuffix(b"\xff\xd9") + data[2:]
    if stored_rgb:
        data = b"\xff\xd8" + _SAYS_RGB + _without_adobe(data)[2:]
    if of_three and says_rgb(data) is None:
        raise ValueError("it has not three samples a pixel, as its header says")
    colours = "GRAY" if grey else "RGB"
    # The exact transforms, as every other reader takes them.
    decode = partial(simplejpeg.decode_jpeg, data, colours, fastdct=False, fastupsample=False)
    try:
        pixels: np.ndarray = decode(strict=True)
    except ValueError as error:
        padding = _PADDING.search(str(error))
        if padding is None or int(padding[1]) > _MOST_PADDING:
            raise
        pixels = decode(strict=False)
    return pixels


def says_rgb(data: bytes) -> bool | None:
    """Whether a stream's own markers say that its three samples are red, green and blue, not YCbCr; None: no colours.

    As libjpeg reads them: a JFIF marker means YCbCr, an Adobe marker says which, else the names of the components tell.
    """
    jfif, transform, names = False, None, b""
    for kind, start, end in _segments(data):
        body = data[start + 4 : end]
        if kind == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif kind == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            names = body[6 : 6 + 3 * body[5] : 3]
    if len(names) != 3:
        return None
    if jfif:
        return False
    return transform == 0 if transform is not None else names == b"RGB"


def _without_adobe(data: bytes) -> bytes:
    for kind, start, end in _segments(data):
        if kind == _ADOBE:
            return data[:start] + _without_adobe(b"\xff\xd8" + data[end:])[2:]
    return data


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """Kind, start and end of every segment before the first scan."""
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == 0xFF:  # fill
            place += 1
            continue
        bare = 0xD0 <= kind <= _START
        end = place + 2 + (0 if bare else int.from_bytes(data[place + 2 : place + 4], "big"))
        segments.append((kind, place, end))
        if kind == _SCAN:
            break
        place = end
    return segments
