"""Manual alignments of Loupe Browser (JSON), with and without CytAssist's second image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ....errors import InputError
from ....provenance import read_json

#: An alignment of 5,000 spots has 1 MB: a larger JSON beside a section is something else, and is not read.
_MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class LoupeAlignment:
    """A manual alignment of Loupe Browser: where it puts the spots in px of the microscope image.

    ``xy_px`` is indexed by (row, col) of the array; ``cytassist`` tells that the places came through the CytAssist
    image, whose px ``transformImages`` maps the microscope's px to.
    """

    path: Path
    slide: str
    cytassist: bool
    xy_px: pd.DataFrame


def find_loupe_alignment(*folders: Path) -> LoupeAlignment | None:
    """The first alignment file of Loupe in these folders; a JSON of another kind is passed over."""
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            if path.stat().st_size > _MOST_BYTES:
                continue
            values = read_json(path)
            spots = values["oligo"]
            rows = [
                (int(spot["row"]), int(spot["col"]), float(spot["imageX"]), float(spot["imageY"])) for spot in spots
            ]
            places = np.array([row[2:] for row in rows], dtype=float).reshape(-1, 2)
            info = values.get("cytAssistInfo")
            if info is not None:
                matrix = np.linalg.inv(np.array(info["transformImages"], dtype=float).reshape(3, 3))
                with np.errstate(all="ignore"):  # places that are none are compared with nothing
                    projected = np.column_stack([places, np.ones(len(places))]) @ matrix.T
                    places = projected[:, :2] / projected[:, 2:]
        except (InputError, ArithmeticError, OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # LinAlgError is a ValueError, and a number that no float holds an ArithmeticError
        index = pd.MultiIndex.from_tuples([row[:2] for row in rows], names=["array_row", "array_col"])
        slide = "-".join(str(values[key]) for key in ("serialNumber", "area") if key in values)
        return LoupeAlignment(
            path, slide, info is not None, pd.DataFrame(places, index=index, columns=["x_px", "y_px"])
        )
    return None


def loupe_notes(positions: pd.DataFrame, folders: tuple[Path, ...], mpp: float, tolerance_um: float) -> list[str]:
    """What a manual alignment beside the section says of the positions, which are in the microscope's image.

    ``positions`` has array_row, array_col, x_px, y_px. The places of an alignment only check them.
    """
    alignment = find_loupe_alignment(*folders)
    if alignment is None:
        return []
    name = f"{alignment.path.name} ({alignment.slide})" if alignment.slide else alignment.path.name
    if not alignment.xy_px.index.is_unique:
        return [f"{name} names an array position more than once, so the spots are not checked against it"]
    placed = alignment.xy_px.reindex(pd.MultiIndex.from_frame(positions[["array_row", "array_col"]]))
    distance_um = np.linalg.norm(placed.to_numpy() - positions[["x_px", "y_px"]].to_numpy(), axis=1) * mpp
    if not np.isfinite(distance_um).any():
        return [f"{name} has none of the array positions of this section"]
    median_um = float(np.nanmedian(distance_um))
    via = "through the CytAssist image " if alignment.cytassist else ""
    start = f"{name} places the spots {via}"
    if median_um > tolerance_um:
        return [
            f"{start}{median_um:.0f} um from where the positions do: it is of another image or section, "
            "or Space Ranger did not use it"
        ]
    return [f"{start}where the positions do"]
