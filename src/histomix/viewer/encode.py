"""Numbers of a composition map as scripts with packed arrays."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..maps.areas import REASONS

_LONGEST_AREAS = 2048
#: Stands for "no number"; all other values are 0 to 65534, of the layer's greatest value.
MISSING = 65535


def packed(values: np.ndarray, greatest: float) -> str:
    """Values from 0 to ``greatest`` in 16 bits (little endian), base64; NaN becomes `MISSING`."""
    scaled = np.full(values.shape, MISSING, dtype="<u2")
    known = np.isfinite(values)
    fraction = np.clip(values[known] / greatest, 0.0, 1.0) if greatest > 0 else np.zeros(int(known.sum()))
    scaled[known] = np.rint(fraction * (MISSING - 1)).astype("<u2")
    return base64.b64encode(scaled.tobytes()).decode()


def packed_codes(codes: np.ndarray, kinds: int) -> str:
    """Whole numbers below ``kinds``, base64: a byte each where they fit, else two; NaN becomes the greatest."""
    kind = "u1" if kinds < 255 else "<u2"
    whole = np.where(np.isfinite(codes), codes, np.iinfo(kind).max)
    return base64.b64encode(whole.astype(kind).tobytes()).decode()


def packed_bytes(values: np.ndarray) -> str:
    """uint8 as base64."""
    return base64.b64encode(values.tobytes()).decode()


def packed_flags(flags: np.ndarray) -> str:
    """A bit each, the first of a byte its highest, base64."""
    return packed_bytes(np.packbits(np.asarray(flags, bool)))


def packed_positions(values: np.ndarray) -> str:
    """Positions, level-0 px, as 32-bit floats (little endian), base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def write_layer(
    folder: Path,
    key: str,
    name: str,
    arrays: Mapping[str, np.ndarray],
    greatest: float,
    scales: Mapping[str, float] | None = None,
) -> None:
    """Write ``folder/<name>.js`` with packed arrays, all on the scale from 0 to ``greatest``.

    Parameters
    ----------
    folder, key, name
        Where to write, what the page calls the slide, and what it calls the layer.
    arrays
        Arrays of one value per tile: the value, and bounds and label where there are any.
    greatest
        The greatest value of them all.
    scales
        Further numbers, for the legend.
    """
    parts = {part: packed(np.asarray(values, dtype=float), greatest) for part, values in arrays.items()}
    write_script(folder, key, name, {"max": greatest, **(scales or {}), **parts})


def write_script(folder: Path, key: str, name: str, value: Any) -> None:
    """Write ``folder/<name>.js``, which hands a JSON value to the page under ``<key>/<name>``."""
    (folder / f"{name}.js").write_text(f'HX.put("{key}/{name}",{script_json(value)})', encoding="ascii", newline="\n")


def areas_picture(raster: np.ndarray) -> str:
    """The raster of what was read as a PNG, base64: colours of the reasons; glass and what was read are clear.

    Parameters
    ----------
    raster
        uint8 (height, width), codes of `histomix.maps.areas.REASONS`; of a large one every second, third ... pixel.
    """
    step = -(-max(raster.shape) // _LONGEST_AREAS)
    clear = (255, 255, 255, 0)
    colours = [clear, *(clear if one.name == "read" else (*one.colour, 255) for one in REASONS)]
    buffer = io.BytesIO()
    Image.fromarray(np.array(colours, np.uint8)[raster[::step, ::step]]).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def greatest_of(*arrays: np.ndarray) -> float:
    """The greatest finite value, 1 where there is none or it is not positive."""
    top = max((float(np.nanmax(a)) for a in arrays if np.isfinite(a).any()), default=1.0)
    return top if top > 0 and math.isfinite(top) else 1.0


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no ``<``, ``>``, ``&`` nor line separators in strings."""
    text = json.dumps(value, allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
