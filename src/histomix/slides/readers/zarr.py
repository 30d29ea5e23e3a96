"""Images of OME-Zarr and SpatialData stores, read lazily."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.strangers.zarr import check_zarr
from ...errors import MissingExtraError, SlideError, SlideReadError
from ...provenance import parse_json
from .empty import check_white
from .tiff_rules import is_level

if TYPE_CHECKING:
    import zarr

_MARKS = ("zarr.json", ".zgroup", ".zattrs")
_FAULTS = (OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError)
_SPARSE = (
    "Copy the store again; one that leaves out chunks of one colour needs a coarser level, or all of them "
    "(write_empty_chunks)"
)
_UM = {"micrometer": 1.0, "um": 1.0, "µm": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


def is_image_group(path: Path) -> bool:
    """Whether a folder is a multiscale image of OME-Zarr (0.4 in Zarr v2, 0.5 in Zarr v3)."""
    return path.is_dir() and bool(_multiscales(path))


def image_names(store: Path) -> list[str]:
    """Names of the images of a SpatialData store."""
    folder = store / "images"
    return sorted(path.name for path in folder.iterdir() if is_image_group(path)) if folder.is_dir() else []


class ZarrImage:
    """One image of 8-bit RGB(A), as pyramid levels; nothing is read before it is asked for.

    A chunk that is not there is filled by the store's own value, where the next level is of that colour too: a copy
    that was cut short lacks chunks as well.

    It fulfils `histomix.slides.Reader`, and slices like an array of rows x columns x 3
    (``image[100:200, 50:80]``, level 0). Any number of threads may read.

    Attributes
    ----------
    size_px
        Width and height of level 0.
    downsamples
        Of every level, rising from 1.
    mpp_xy
        um per px where a length unit is written to the axes, else None.

    Raises
    ------
    SlideError
        The folder is no such image, or has other pixels than 8-bit RGB(A).
    MissingExtraError
        zarr is not installed.
    """

    name = "zarr"
    bounds_px = (0, 0)

    def __init__(self, path: Path) -> None:
        self.path = path
        multiscales = _multiscales(path)
        if not multiscales:
            raise SlideError(
                "is no image of OME-Zarr", where=path, hint="Name the image itself: STORE.zarr/images/NAME"
            )
        try:
            import zarr
        except ImportError as error:
            raise MissingExtraError("zarr", "st", "reading an image from a Zarr store") from error
        check_zarr(path, SlideError)
        multiscale = multiscales[0]
        try:
            axes = [axis["name"] if isinstance(axis, dict) else str(axis) for axis in multiscale.get("axes", "cyx")]
            group = zarr.open_group(str(path), mode="r")
            self._levels: list[zarr.Array[Any]] | None = [group[item["path"]] for item in multiscale["datasets"]]  # type: ignore[misc]
            self._folders = [path / item["path"] for item in multiscale["datasets"]]
            first, shapes = self._levels[0], [level.shape for level in self._levels]
        except _FAULTS as error:
            # What the language says of a value of another kind tells nobody anything.
            told = error if isinstance(error, OSError | ValueError) else "its metadata are not those of an image"
            raise SlideError(f"cannot be opened ({told})", where=path, hint="Copy the store again") from error
        plain = sorted(axes) == ["c", "x", "y"] and all(len(shape) == 3 and min(shape) > 0 for shape in shapes)
        if not plain or first.shape[axes.index("c")] not in (3, 4) or first.dtype != np.uint8:
            raise SlideError(
                f"is no RGB image of 8 bits: axes {', '.join(axes)} of {first.shape}, {first.dtype}",
                where=path,
                hint="Name the H&E image of the store",
            )
        self._order = tuple(axes.index(axis) for axis in "yxc")
        sizes = [(int(shape[self._order[1]]), int(shape[self._order[0]])) for shape in shapes]
        self.size_px = width, height = sizes[0]
        for number, (before, size) in enumerate(itertools.pairwise(sizes), start=1):
            level, colours = self._levels[number], self._order[2]
            same = level.dtype == first.dtype and level.shape[colours] == first.shape[colours]
            if not (same and size[0] <= before[0] and is_level(size, sizes[0])):
                raise SlideError(
                    f"its level {number}, of {size[0]} x {size[1]} px, is no smaller copy of the first, of {width} x "
                    f"{height} px",
                    where=path,
                    hint="Write the image again with all of its levels",
                )
        self.downsamples = tuple(float(np.sqrt(width * height / (size[0] * size[1]))) for size in sizes)
        try:
            self.mpp_xy = _mpp_xy(multiscale)
        except _FAULTS:
            self.mpp_xy = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and 3 colours of level 0."""
        return (self.size_px[1], self.size_px[0], 3)

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (part.indices(length) for part, length in zip(place, self.shape, strict=False))
        pixels = self.read_level(0, columns[0], rows[0], max(0, columns[1] - columns[0]), max(0, rows[1] - rows[0]))
        return pixels[:: rows[2], :: columns[2]]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, x and y in its own px: uint8 RGB (height, width, 3), white outside and under alpha.

        Raises
        ------
        SlideReadError
            The pixels cannot be decoded.
        """
        if self._levels is None:
            raise SlideError("the slide has been closed", where=self.path)
        source = self._levels[level]
        rows, columns = (source.shape[axis] for axis in self._order[:2])
        result = np.full((height, width, 3), 255, np.uint8)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, columns), min(y + height, rows)
        if left >= right or top >= bottom:
            return result
        for box in self._absent(source, self._folders[level], left, top, right, bottom):
            colour = 255 if source.shape[self._order[2]] == 4 else int(source.fill_value or 0)
            check_white(self, self.path, level, box, colour=colour, hint=_SPARSE)
        place: list[slice] = [slice(None)] * 3
        place[self._order[0]], place[self._order[1]] = slice(top, bottom), slice(left, right)
        try:
            pixels = np.asarray(source[tuple(place)]).transpose(self._order)
        except _FAULTS as error:
            raise SlideReadError(
                f"the pixels at x={left}, y={top} of level {level} cannot be decoded ({error})",
                where=self.path,
                hint="Copy the store again",
            ) from error
        if pixels.shape[2] == 4:
            alpha = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        result[top - y : bottom - y, left - x : right - x] = pixels
        return result

    def _absent(
        self, source: Any, folder: Path, left: int, top: int, right: int, bottom: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Left, top, width and height of chunks under a rectangle of a level that are not in the store."""
        side = source.shards or source.chunks
        spans = [range(-(-size // part)) for size, part in zip(source.shape, side, strict=True)]
        for axis, start, stop in zip(self._order, (top, left), (bottom, right), strict=False):
            spans[axis] = range(start // side[axis], (stop - 1) // side[axis] + 1)
        for place in itertools.product(*spans):
            if not (folder / source.metadata.encode_chunk_key(place)).is_file():
                (y, height), (x, width) = ((place[axis] * side[axis], side[axis]) for axis in self._order[:2])
                yield x, y, min(width, source.shape[self._order[1]] - x), min(height, source.shape[self._order[0]] - y)

    def close(self) -> None:
        """Let go of the files."""
        self._levels = None


def open_spatialdata_image(path: Path, name: str | None = None) -> tuple[ZarrImage, float | None]:
    """Open an image of a SpatialData store (or one that is named by its own folder).

    Parameters
    ----------
    path
        ``STORE.zarr``, or ``STORE.zarr/images/NAME``.
    name
        The image; may be left out when the store has one.

    Returns
    -------
    The image, and its um per px where the store tells it.

    Raises
    ------
    SlideError
        There is no such image, there are several and none is named, or it is not 8-bit RGB.
    """
    if name is None and is_image_group(path):
        image = ZarrImage(path)
    else:
        names = image_names(path)
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            what = f"has no image '{name}'" if name else f"holds {len(names)} images"
            raise SlideError(
                f"{what} (it has: {', '.join(names) or 'none'})", where=path, hint="Name one of its images"
            )
        image = ZarrImage(path / "images" / str(name))
    mpp_xy = image.mpp_xy
    return image, None if mpp_xy is None else float(np.sqrt(mpp_xy[0] * mpp_xy[1]))


def _multiscales(path: Path) -> list[dict[str, Any]]:
    """Image metadata of a group, of Zarr v3 or v2; empty when it is no image."""
    for name in _MARKS:
        try:
            if not (path / name).is_file():  # a pipe would keep its reader waiting
                continue
            content = parse_json((path / name).read_text(encoding="utf-8"))
            attributes = content.get("attributes", {}) if name == "zarr.json" else content
            multiscales = attributes.get("ome", attributes).get("multiscales", [])
            if multiscales and isinstance(multiscales, list) and multiscales[0].get("datasets"):
                return multiscales
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return []


def _mpp_xy(multiscale: dict[str, Any]) -> tuple[float, float] | None:
    """Pixel size of level 0 in um by the scales of its dataset and of all, where x and y have a unit of length."""
    axes = multiscale.get("axes", [])
    if not all(isinstance(axis, dict) for axis in axes):
        return None
    names = [axis["name"] for axis in axes]
    units = {axis["name"]: _UM.get(axis.get("unit"), np.nan) for axis in axes}
    own, shared = (
        [change["scale"] for change in part.get("coordinateTransformations", []) if change.get("type") == "scale"]
        for part in (multiscale["datasets"][0], multiscale)
    )
    if len(own) != 1 or len(shared) > 1 or any(len(scale) != len(names) for scale in own + shared):
        return None
    x, y = (units[axis] * float(np.prod([scale[names.index(axis)] for scale in own + shared])) for axis in "xy")
    return (x, y) if x > 0 and y > 0 else None
