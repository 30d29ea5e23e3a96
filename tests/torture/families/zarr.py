"""Slides in OME-Zarr: metadata that contradict the arrays, chunks that are lost, levels that are none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import commands
from ..case import EITHER, ERROR, RIGHT, UNTOLD, Case, Damage, Role, cases_of
from ..damage import of_bytes, of_json
from ..materials import MPP, Materials

SLIDE = "slide.zarr"


def write(folder: Path, pixels: np.ndarray, version: int = 3, fill: int = 0) -> None:
    """A slide of two levels, in chunks of 64 x 64 px."""
    import zarr

    group = zarr.open_group(str(folder), mode="w", zarr_format=version)  # type: ignore[arg-type]
    datasets = []
    for number, factor in enumerate((1, 4)):
        level = np.moveaxis(pixels[::factor, ::factor], -1, 0)
        array = group.create_array(str(number), shape=level.shape, chunks=(3, 64, 64), dtype="uint8", fill_value=fill)
        array[:] = level
        scale = {"type": "scale", "scale": [1.0, MPP * factor, MPP * factor]}
        datasets.append({"path": str(number), "coordinateTransformations": [scale]})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    multiscales = [{"name": "slide", "axes": axes, "datasets": datasets}]
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": multiscales}} if version == 3 else {"multiscales": multiscales}
    )


def _role(name: str, file: str, version: int = 3) -> Role:
    def make(room: Path, materials: Materials) -> None:
        write(room / SLIDE, materials.pixels(), version)

    def argv(_room: Path, materials: Materials) -> list[str]:
        return ["predict", SLIDE, "--head", str(materials.head), "--out", "out", "--json"]

    return Role(name, f"{SLIDE}/{file}", make, argv, lambda _room: commands.map_of("slide"), names=(SLIDE,))


def _multiscale(change: Callable[[dict[str, Any]], object]) -> Damage:
    def apply(top: dict[str, Any]) -> None:
        change(top["attributes"]["ome"]["multiscales"][0])

    return of_json.by_object(apply)


def _scaled(own: Any, shared: Any = None) -> Damage:
    def change(multiscale: dict[str, Any]) -> None:
        multiscale["datasets"][0]["coordinateTransformations"] = own
        if shared is not None:
            multiscale["coordinateTransformations"] = shared

    return _multiscale(change)


def _scale(*numbers: Any) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": list(numbers)}]


def _unit(unit: Any, scale: float = MPP) -> Damage:
    def change(multiscale: dict[str, Any]) -> None:
        for axis in multiscale["axes"][1:]:
            axis["unit"] = unit
        multiscale["datasets"][0]["coordinateTransformations"] = _scale(1.0, scale, scale)

    return _multiscale(change)


def _path(number: int, path: Any) -> Damage:
    return _multiscale(lambda multiscale: multiscale["datasets"][number].update(path=path))


def _at(*changes: tuple[str, Any]) -> Damage:
    return of_json.by_object(lambda top: top.update(changes))


def _group() -> list[tuple[str, Damage, str]]:
    ways = ("attributes", "ome", "multiscales", 0)
    return [
        ("scale-of-all", _scaled(_scale(1, 1, 1), _scale(1, MPP, MPP)), RIGHT),
        ("scale-in-parts", _scaled(_scale(1, 4 * MPP, 4 * MPP), _scale(1, 0.25, 0.25)), RIGHT),
        ("scale-and-shift", _scaled([*_scale(1, MPP, MPP), {"type": "translation", "translation": [0, 1, 1]}]), RIGHT),
        ("scale-twice", _scaled([*_scale(1, MPP, MPP), *_scale(1, 2, 2)]), EITHER),
        ("scale-short", _scaled(_scale(MPP, MPP)), ERROR),
        ("scale-text", _scaled(_scale(1, "half", "half")), ERROR),
        ("scale-nan", _scaled(_scale(1, float("nan"), MPP)), ERROR),
        ("scale-0", _scaled(_scale(1, 0, 0)), ERROR),
        ("scale-negative", _scaled(_scale(1, -MPP, -MPP)), ERROR),
        ("scale-huge", _scaled(_scale(1, 1e300, 1e300)), ERROR),
        ("scale-not-square", _scaled(_scale(1, MPP, 3 * MPP)), ERROR),
        ("scale-null", _scaled([{"type": "scale"}]), ERROR),
        ("scale-none", _scaled([]), ERROR),
        ("unit-mm", _unit("millimeter", MPP / 1000), RIGHT),
        ("unit-nm", _unit("nanometer", MPP * 1000), RIGHT),
        ("unit-inch", _unit("inch"), ERROR),
        ("unit-none", _unit(None), ERROR),
        ("unit-list", _unit(["micrometer"]), ERROR),
        ("levels-turned", _multiscale(lambda one: one["datasets"].reverse()), EITHER),
        ("level-twice", _path(1, "0"), EITHER),
        ("level-absent", _path(1, "7"), ERROR),
        ("level-group", _path(1, ""), ERROR),
        ("level-number", _path(0, 0), EITHER),
        ("level-null", _path(0, None), ERROR),
        ("level-up", _path(0, "../../other"), ERROR),
        ("level-root", _path(0, "/etc"), ERROR),
        ("axes-turned", _multiscale(lambda one: one["axes"].reverse()), ERROR),
        ("axes-short", _multiscale(lambda one: one["axes"].pop()), ERROR),
        ("axes-text", _multiscale(lambda one: one.update(axes="cyx")), ERROR),
        ("axes-nameless", _multiscale(lambda one: one["axes"][0].pop("name")), ERROR),
        ("axes-null", _multiscale(lambda one: one.update(axes=None)), ERROR),
        ("datasets-text", _multiscale(lambda one: one.update(datasets="0")), ERROR),
        ("datasets-numbers", _multiscale(lambda one: one.update(datasets=[1, 2])), ERROR),
        *((name, damage, EITHER) for name, damage, _ in of_json.values(ways[:1], ways[:2], ways)),
        *((name, damage, EITHER if expect == RIGHT else expect) for name, damage, expect in of_json.WHOLE),
        *of_bytes.LOST,
    ]  # fmt: skip


def _array() -> list[tuple[str, Damage, str]]:
    grid = {"name": "regular", "configuration": {"chunk_shape": [3, 32, 64]}}
    return [
        ("wider", _at(("shape", [3, 224, 4480])), ERROR),
        ("lower", _at(("shape", [3, 112, 448])), ERROR),
        ("vast", _at(("shape", [3, 2**40, 2**40])), ERROR),
        ("flat", _at(("shape", [3, 0, 448])), ERROR),
        ("2d", _at(("shape", [224, 448])), ERROR),
        ("one-channel", _at(("shape", [1, 224, 448])), ERROR),
        ("sixteen-bits", _at(("data_type", "uint16")), ERROR),
        ("signed", _at(("data_type", "int8")), ERROR),
        ("type-unknown", _at(("data_type", "colour")), ERROR),
        ("chunks-lower", _at(("chunk_grid", grid)), EITHER),
        ("codecs-none", _at(("codecs", [{"name": "bytes"}])), EITHER),
        ("codec-unknown", _at(("codecs", [{"name": "bytes"}, {"name": "squeeze"}])), ERROR),
        ("codec-pickle", _at(("codecs", [{"name": "bytes"}, {"name": "numcodecs.pickle"}])), ERROR),
        ("fill-text", _at(("fill_value", "white")), ERROR),
        ("node-group", _at(("node_type", "group")), ERROR),
        *of_json.WHOLE,
        *of_bytes.LOST,
    ]


def _without(*names: str) -> Damage:
    """Chunks of a level that are gone, as of a copy that was cut short."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        for name in names:
            place = path.parent / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    return apply


def cases() -> Iterator[Case]:
    """Cases of OME-Zarr."""
    yield from cases_of(_role("zarr-group", "zarr.json"), _group())
    yield from cases_of(_role("zarr-array", "0/zarr.json"), _array())
    yield from cases_of(_role("zarr-coarse", "1/zarr.json"), _array())
    gone = [
        ("chunk", _without("c/0/1/1"), EITHER),
        ("row", _without("c/0/1"), EITHER),
        ("all", _without("c"), EITHER),
    ]
    yield from cases_of(_role("zarr-gone", "0/zarr.json"), gone)
    yield from cases_of(_role("zarr-gone-coarse", "1/zarr.json"), [*gone[-1:], ("chunk", _without("c/0/0/0"), EITHER)])
    # Zstandard without its checksum: what still decodes to as many pixels is a picture.
    soft = [(name, damage, UNTOLD if name.startswith("noise") else expect) for name, damage, expect in of_bytes.BROKEN]
    lost = [(name, damage, EITHER) for name, damage, _ in of_bytes.LOST]
    yield from cases_of(_role("zarr-chunk", "0/c/0/1/1"), [*soft, *lost, *of_bytes.flipped(4, UNTOLD)])
    old = _role("zarr-v2", ".zattrs", 2)
    yield from cases_of(old, [*of_json.WHOLE, *of_bytes.LOST[:4], ("pipe-beside", _pipe_beside, ERROR)])


def _pipe_beside(path: Path, _rng: np.random.Generator) -> None:
    os.mkfifo(path.with_name("more.json"))
