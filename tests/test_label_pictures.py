"""The picture of a slide's label, or of the whole glass with its label, goes into no output."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histomix.errors import SlideError
from histomix.export import export_map
from histomix.heads import Head
from histomix.prediction import Model, Settings, SlideJob, SlideRun
from histomix.report import write_report
from histomix.slides import open_slide
from histomix.spots import inspect_data
from histomix.viewer import viewer_slides, write_viewer

from .planted import label_picture, pictures, shows_label
from .slide_files import block_mean
from .slide_heads import Colours, colour_head, tissue_pixels

pytestmark = pytest.mark.once

TISSUE = tissue_pixels(width=900, height=800)
TILED = {"photometric": "rgb", "metadata": None, "tile": (256, 256)}
SCALE = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}


def _small(factor: int) -> np.ndarray:
    return block_mean(TISSUE, factor).astype(np.uint8)


def aperio(path: Path) -> Path:
    """As scanners of Aperio write it: label and macro behind the levels."""
    words = "Aperio Image Library v12.0.15\r\n900x800 [0,0 900x800] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tif:
        tif.write(TISSUE, compression="jpeg", description=words, **TILED)
        tif.write(label_picture(150, 170), photometric="rgb", metadata=None, description=f"{words}\r\nthumbnail")
        tif.write(_small(4), compression="jpeg", description=words, subfiletype=1, **TILED)
        for kind, number in (("label 300x320", 1), ("macro 500x200", 9)):
            picture = label_picture(320, 300) if number == 1 else label_picture(200, 500)
            about = {"description": f"Aperio Image Library v12.0.15\r\n{kind}", "subfiletype": number}
            tif.write(picture, photometric="rgb", metadata=None, rowsperstrip=50, compression="lzw", **about)
    return path


def label_as_level(path: Path) -> Path:
    """A plain pyramid whose last page is a label in tiles, marked as reduced: OpenSlide takes it for a level."""
    with tifffile.TiffWriter(path) as tif:
        tif.write(TISSUE, **TILED, **SCALE)
        tif.write(_small(4), subfiletype=1, **TILED)
        tif.write(label_picture(40, 120), subfiletype=1, **TILED)
    return path


def label_of_the_same_shape(path: Path) -> Path:
    """The same, with a label in the proportions of the slide, which only its description tells."""
    with tifffile.TiffWriter(path) as tif:
        tif.write(TISSUE, compression="jpeg", **TILED, **SCALE)
        tif.write(_small(4), compression="jpeg", subfiletype=1, **TILED)
        tif.write(label_picture(100, 112), compression="jpeg", subfiletype=1, description="Label image", **TILED)
    return path


def overview_first(path: Path) -> Path:
    """As Bio-Formats converts the slides of Leica: the glass with its label is the first image of the OME-TIFF."""
    scale = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as tif:
        for name, pixels in (("macro", label_picture(120, 200)), ("slide", TISSUE)):
            tif.write(pixels, photometric="rgb", tile=(128, 128), compression="jpeg", metadata={"Name": name, **scale})
    return path


def overview_first_in_planes(path: Path) -> Path:
    """The same with a pyramid in SubIFDs."""
    scale = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(label_picture(120, 200), photometric="rgb", tile=(128, 128), metadata={"Name": "overview", **scale})
        tif.write(TISSUE, photometric="rgb", tile=(128, 128), subifds=1, metadata={"Name": "slide", **scale})
        tif.write(_small(2), photometric="rgb", tile=(128, 128), subfiletype=1, metadata=None)
    return path


def thumbnail_first(path: Path) -> Path:
    """Two pages without a word: a small one in strips, then the slide in tiles."""
    with tifffile.TiffWriter(path) as tif:
        tif.write(label_picture(120, 200), photometric="rgb", metadata=None, subfiletype=1, compression="zlib")
        tif.write(TISSUE, compression="jpeg", **TILED, **SCALE)
    return path


LAYOUTS = [aperio, label_as_level, label_of_the_same_shape, overview_first, overview_first_in_planes, thumbnail_first]


@pytest.fixture(scope="module")
def head() -> Head:
    return colour_head([Colours()], training={"n_spots": 300, "n_donors": 1})


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda one: one.__name__)
def test_no_output_shows_the_label(write: Callable[[Path], Path], head: Head, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    path = write(tmp_path / "slides" / "a.tif")
    with tifffile.TiffFile(path) as tif:
        assert any(shows_label(page.asarray()) for page in tif.pages), "the label is in the file"
    with open_slide(path, 0.5) as slide:
        assert (slide.width_px, slide.height_px) == (900, 800)
        for mpp in (0.5, 1, 2, 4, 8, 16, 40):
            found = slide.thumbnail(mpp)
            assert not shows_label(found), mpp
            # What is shown is the tissue, at every scale: its mean colour is.
            np.testing.assert_allclose(found.mean(axis=(0, 1)), TISSUE.mean(axis=(0, 1)), atol=6)
    inspect_data(path)
    folder = tmp_path / "maps" / "a"
    job, settings = SlideJob(str(path), folder, 0.5), Settings.of(head.card["digest"])
    result = SlideRun(job, settings, Model(head, [Colours()])).run()
    assert result.error is None
    export_map(folder, "anndata", tmp_path / "exports")
    with viewer_slides([tmp_path / "maps"], [tmp_path / "slides"]) as slides:
        write_viewer(slides, tmp_path / "viewer")
    write_report([tmp_path / "maps"], tmp_path / "report")
    shown = [*pictures(tmp_path / "maps"), *pictures(tmp_path / "exports"), *pictures(tmp_path / "viewer")]
    assert len(shown) > 5
    # A report draws in colours of its own, and the label's might be among them: its slides come from the previews.
    assert not [name for name, pixels in shown if shows_label(pixels)]


def test_a_label_alone_is_no_slide(tmp_path: Path) -> None:
    page = {"photometric": "rgb", "metadata": None, "description": "Aperio Image Library v12\r\nlabel 300x320"}
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        tif.write(label_picture(320, 300), **page)
    with pytest.raises(SlideError, match="label"):
        open_slide(tmp_path / "x.tif", 0.5)
    shutil.copy(tmp_path / "x.tif", tmp_path / "y.svs")
    with pytest.raises(SlideError):
        open_slide(tmp_path / "y.svs", 0.5)
