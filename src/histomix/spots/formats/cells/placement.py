"""From the coordinates of a platform to the px of an image: affine files and landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ....common import tables
from ....errors import SectionError

#: Directions of an affine file.
TO_CELLS, TO_IMAGE = "image-to-cells", "cells-to-image"
#: Column names of landmark tables: the platform's x, y and the image's.
_LANDMARKS = (
    ("x_um", "y_um", "x_px", "y_px"),
    # Keypoints of Xenium Explorer: "fixed" is the morphology image in px, "alignment" the image laid on it.
    ("fixedX", "fixedY", "alignmentX", "alignmentY"),
)
#: Share of the longer extent of the landmarks below which they count as lying on one line.
_COLLINEAR = 0.01
#: Ratio of the larger to the smaller stretch beyond which a map is said to distort.
DISTORTION = 1.1


@dataclass(frozen=True, eq=False)
class Placement:
    """An affine map from a platform's um to level-0 px of an image.

    Attributes
    ----------
    matrix
        (3, 3), last row 0, 0, 1.
    source
        Where it is from, in words.
    residual_um
        Root mean square distance of the landmarks from where the map puts them; None without landmarks, and for three
        of them, which any affine map fits.
    """

    matrix: np.ndarray
    source: str
    residual_um: float | None = None

    @property
    def mpp(self) -> float:
        """Scale of the image in um per px (geometric mean over both axes)."""
        return float(1 / np.sqrt(abs(np.linalg.det(self.matrix[:2, :2]))))

    @property
    def distortion(self) -> float:
        """Larger over smaller stretch: 1 for a map that keeps shapes."""
        stretch = np.linalg.svd(self.matrix[:2, :2], compute_uv=False)
        return float(stretch[0] / stretch[1])

    def apply(self, xy_um: np.ndarray) -> np.ndarray:
        """Places (n, 2) um -> level-0 px."""
        xy_px: np.ndarray = np.asarray(xy_um, dtype=np.float64) @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        return xy_px

    def inverted(self, pixel_um: float) -> Placement:
        """The map that the same file gives when it is read in the other direction; see `read_affine`."""
        unit = np.diag([1 / pixel_um, 1 / pixel_um, 1.0])
        file = np.linalg.inv(self.matrix @ np.linalg.inv(unit))
        return Placement(file @ unit, f"{self.source}, read the other way round")


def uniform(um_per_px: float) -> Placement:
    """Same origin and axes, ``um_per_px`` um per px of the image."""
    return Placement(np.diag([1 / um_per_px, 1 / um_per_px, 1.0]), f"{um_per_px:g} um per px, same origin")


def read_affine(path: Path, pixel_um: float = 1.0, direction: str = TO_CELLS) -> Placement:
    """Read a 3 x 3 matrix, three rows of three numbers without a header.

    Parameters
    ----------
    path
        Text; comma, tab, semicolon or blanks between the numbers.
    pixel_um
        um per unit of the platform's side: the matrix of a Xenium ``*alignment.csv`` speaks of px of its morphology
        image, 0.2125 um each.
    direction
        ``"image-to-cells"``: the matrix maps px of the (H&E) image to the platform, as Xenium Explorer writes it
        (10x Genomics, "How can I convert coordinates between H&E image and Xenium data"); ``"cells-to-image"`` is the
        reverse.

    Raises
    ------
    SectionError
        The file is no such matrix, or maps everything onto a line.
    """
    text = tables.decode(tables.read_bytes(path), path)
    rows = [line.replace(",", " ").replace(";", " ").split() for line in text.splitlines() if line.strip()]
    try:
        matrix = np.array([[float(cell) for cell in row] for row in rows])
    except ValueError:
        matrix = np.empty(0)
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, [0, 0, 1]])
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not np.allclose(matrix[2], [0, 0, 1]):
        raise SectionError(
            "is not an affine matrix (three rows of three numbers, the last one 0, 0, 1)",
            where=path,
            hint="Export it again, for example from Xenium Explorer",
        )
    _require_regular(matrix[:2, :2], path)
    unit = np.diag([1 / pixel_um, 1 / pixel_um, 1.0])
    placed = (np.linalg.inv(matrix) if direction == TO_CELLS else matrix) @ unit
    return Placement(placed, f"{path.name} ({direction})")


def read_landmarks(path: Path, pixel_um: float = 1.0) -> Placement:
    """Fit an affine map to pairs of places.

    Parameters
    ----------
    path
        Table with ``x_um``, ``y_um`` (platform) and ``x_px``, ``y_px`` (image), or keypoints of Xenium Explorer
        (``fixedX``, ``fixedY``, ``alignmentX``, ``alignmentY``; the fixed ones in px of ``pixel_um``).

    Raises
    ------
    SectionError
        The table has other columns or gaps; see also `fit_affine`.
    """
    table = tables.read_table(path)
    columns = next((names for names in _LANDMARKS if set(names) <= set(table.columns)), None)
    if columns is None:
        raise SectionError(
            f"has no landmarks (its columns are: {', '.join(map(str, table.columns[:8]))})",
            where=path,
            hint="Name the columns x_um, y_um (cells) and x_px, y_px (image)",
        )
    positions = np.column_stack([tables.numbers(table, name, path) for name in columns])
    um = positions[:, :2] * (pixel_um if columns[0] == "fixedX" else 1.0)
    return fit_affine(um, positions[:, 2:], where=path)


def fit_affine(xy_um: np.ndarray, xy_px: np.ndarray, where: Path | None = None) -> Placement:
    """The affine map um -> px of least squares over landmarks (n, 2) and (n, 2).

    Raises
    ------
    SectionError
        There are fewer than three pairs, or they lie on one line on either side.
    """
    xy_um, xy_px = np.asarray(xy_um, dtype=np.float64), np.asarray(xy_px, dtype=np.float64)
    count = len(pd.DataFrame(np.column_stack([xy_um, xy_px])).drop_duplicates())
    if count < 3:
        raise SectionError(
            f"has {count} different landmarks; an affine map needs 3",
            where=where,
            hint="Add landmarks, five or more and far apart",
        )
    for side, xy in (("cells", xy_um), ("image", xy_px)):
        spread = np.linalg.svd(xy - xy.mean(axis=0), compute_uv=False)
        if spread[1] <= _COLLINEAR * spread[0]:
            raise SectionError(
                f"has landmarks that lie on one line (those of the {side})",
                where=where,
                hint="Add landmarks beside that line",
            )
    design = np.column_stack([xy_um, np.ones(len(xy_um))])
    solution = np.linalg.lstsq(design, xy_px, rcond=None)[0]
    matrix = np.vstack([solution.T, [0, 0, 1]])
    _require_regular(matrix[:2, :2], where)
    placement = Placement(matrix, f"{count} landmarks")
    if count == 3:
        return placement
    # Measured where the cells are, in um: what the user can judge.
    back = (xy_px - matrix[:2, 2]) @ np.linalg.inv(matrix[:2, :2]).T
    residual_um = float(np.sqrt(np.mean(((back - xy_um) ** 2).sum(axis=1))))
    return Placement(matrix, f"{count} landmarks", residual_um)


def _require_regular(linear: np.ndarray, where: Path | None) -> None:
    stretch = np.linalg.svd(linear, compute_uv=False)
    if not stretch[1] > 1e-6 * stretch[0]:
        raise SectionError("maps everything onto a line", where=where, hint="Export the alignment again")
