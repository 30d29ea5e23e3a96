"""Slides in OME-Zarr: chunks that a copy lost, levels that are none, scales in several parts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histomix.errors import SlideError, SlideReadError
from histomix.slides import open_slide

from .extras import needs_extra
from .torture.families.zarr import write

pytestmark = needs_extra("st", "zarr")
PIXELS = np.kron(np.random.default_rng(1).integers(60, 200, (28, 56, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    write(tmp_path / "slide.zarr", PIXELS)
    return tmp_path / "slide.zarr"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((path / "zarr.json").read_text())
    change(facts["attributes"]["ome"]["multiscales"][0])
    (path / "zarr.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_that_is_lost_is_unreadable(tmp_path: Path, version: int) -> None:
    """Its place would be shown in the colour that the store fills up with: black."""
    write(tmp_path / "slide.zarr", PIXELS, version)
    lost = tmp_path / "slide.zarr" / "0" / ("0.1.1" if version == 2 else "c/0/1/1")
    lost.unlink()
    if version == 3:
        lost.mkdir()
    with open_slide(tmp_path / "slide.zarr") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 64, 64, 0.5), PIXELS[:64, :64])
        with pytest.raises(SlideReadError, match=r"x=64, y=64 .* holds no data, though the next level shows something"):
            slide.read(60, 60, 20, 20, 0.5)
    shutil.rmtree(tmp_path / "slide.zarr" / "1")
    edit_any(tmp_path / "slide.zarr", version, lambda multiscale: multiscale["datasets"].pop())
    with open_slide(tmp_path / "slide.zarr") as slide, pytest.raises(SlideReadError, match="no coarser level tells"):
        slide.read(60, 60, 20, 20, 0.5)


def edit_any(path: Path, version: int, change: Callable[[dict[str, Any]], object]) -> None:
    if version == 3:
        edit(path, change)
        return
    facts = json.loads((path / ".zattrs").read_text())
    change(facts["multiscales"][0])
    (path / ".zattrs").write_text(json.dumps(facts))


@pytest.mark.parametrize("fill", [0, 255])
def test_a_chunk_that_was_left_out_for_its_colour_is_read(tmp_path: Path, fill: int) -> None:
    """Writers leave out chunks that are all of the colour of the store."""
    pixels = PIXELS.copy()
    pixels[64:128, 64:128] = fill
    write(tmp_path / "slide.zarr", pixels, fill=fill)
    assert not (tmp_path / "slide.zarr" / "0" / "c" / "0" / "1" / "1").exists()
    with open_slide(tmp_path / "slide.zarr") as slide:
        np.testing.assert_array_equal(slide.read(32, 32, 128, 128, 0.5), pixels[32:160, 32:160])


def scaled(own: list[float], shared: list[float] | None = None) -> Callable[[dict[str, Any]], None]:
    def change(multiscale: dict[str, Any]) -> None:
        multiscale["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "scale": own}]
        if shared is not None:
            multiscale["coordinateTransformations"] = [{"type": "scale", "scale": shared}]

    return change


@pytest.mark.parametrize(
    ("own", "shared", "unit", "mpp"),
    [
        ([1, 1, 1], [1, 0.25, 0.25], "micrometer", 0.25),
        ([1, 2, 2], [1, 0.25, 0.25], "micrometer", 0.5),
        ([1, 250, 250], None, "nanometer", 0.25),
    ],
)
def test_the_scale_of_all_levels_counts_too(
    slide: Path, own: list[float], shared: list[float] | None, unit: str, mpp: float
) -> None:
    edit(slide, scaled(own, shared))
    edit(slide, lambda multiscale: [axis.update(unit=unit) for axis in multiscale["axes"][1:]])
    with open_slide(slide) as opened:
        assert opened.mpp == pytest.approx(mpp)


@pytest.mark.parametrize(
    "change",
    [
        lambda multiscale: multiscale["axes"][0].pop("name"),
        lambda multiscale: multiscale.update(axes=3),
        lambda multiscale: multiscale["datasets"].reverse(),
        lambda multiscale: multiscale["datasets"][1].update(path="../1"),
        lambda multiscale: multiscale["datasets"][1].update(path=""),
        lambda multiscale: multiscale.update(datasets=[1]),
        lambda multiscale: multiscale["datasets"][0].update(coordinateTransformations=[3]),
    ],
)
def test_metadata_that_contradict_the_arrays_are_refused(
    slide: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(slide, change)
    with pytest.raises(SlideError):
        open_slide(slide)


def test_a_level_of_another_picture_is_refused(slide: Path) -> None:
    facts = json.loads((slide / "1" / "zarr.json").read_text())
    (slide / "1" / "zarr.json").write_text(json.dumps(facts | {"shape": [3, 56, 56]}))
    with pytest.raises(SlideError, match="its level 1, of 56 x 56 px, is no smaller copy of the first"):
        open_slide(slide)


def test_a_pipe_in_the_place_of_metadata_keeps_nobody_waiting(slide: Path) -> None:
    (slide / "zarr.json").unlink()
    os.mkfifo(slide / "zarr.json")
    with pytest.raises(SlideError):
        open_slide(slide)
