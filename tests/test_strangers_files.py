"""Tables and images of strangers that read other files of this computer, or run a program, are refused unread."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import sparse

from histomix.abundance.tables import read_h5ad as read_labels
from histomix.common.storage.h5ad import read_h5ad, write_h5ad
from histomix.common.strangers import hdf5, zarr
from histomix.common.strangers.annotated import gene_count
from histomix.common.strangers.hdf5 import check_hdf5
from histomix.common.strangers.zarr import check_zarr
from histomix.errors import FeatureError, InputError, LabelError, SectionError, SlideError
from histomix.slides import open_slide
from histomix.slides.files import named_files, slide_digest
from histomix.spots.formats.base import UNREADABLE
from histomix.spots.formats.cells.tables import read_h5ad_cells
from histomix.spots.formats.tenx.matrix import open_h5
from histomix.spots.readers import read_spots

from .extras import extra_module

SECRET = b"SECRET-OF-THIS-USER"


def external_storage(file: h5py.File, other: Path) -> None:
    del file["var/_index"]
    made = file["var"].create_dataset("_index", shape=(2,), dtype="S10", external=[(str(other), 0, 20)])
    made.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def external_link(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as target:
        file.copy("var", target)
    del file["var"]
    file["var"] = h5py.ExternalLink(str(other), "/var")


def virtual_dataset(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as target:
        target["X"] = np.ones((2, 2), np.float32)
    layout = h5py.VirtualLayout((2, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "X", (2, 2))
    del file["X"]
    file.create_virtual_dataset("X", layout).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def behind_a_link(file: h5py.File, other: Path) -> None:
    """A part that no walk over groups comes to: of a group which is reached by a soft link alone."""
    external_storage(file, other)
    file.move("var", "else/where")
    file["var"] = h5py.SoftLink("/else/where")


ATTACKS = (external_storage, external_link, virtual_dataset, behind_a_link)
READERS: dict[str, tuple[type[InputError], Callable[[Path], Any]]] = {
    "features": (FeatureError, lambda path: read_h5ad(path, FeatureError, "is damaged", "Copy it again")),
    "labels": (LabelError, read_labels),
    "cells": (SectionError, lambda path: read_h5ad_cells(path, True)),
    "cells without counts": (SectionError, lambda path: read_h5ad_cells(path, False)),
    "genes": (SectionError, lambda path: gene_count(path, SectionError, *UNREADABLE)),
    "spots": (SectionError, read_spots),
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table that every reader takes."""
    data = ad.AnnData(
        sparse.csr_matrix(np.ones((2, 2), np.float32)).toarray(),
        obs=pd.DataFrame({"cell_type": ["a", "b"]}, index=["s1", "s2"]),
        var=pd.DataFrame(index=["g1", "g2"]),
        obsm={"spatial": np.array([[1.0, 2.0], [300.0, 4.0]])},
    )
    write_h5ad(tmp_path / "table.h5ad", data)
    return tmp_path / "table.h5ad"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_table_reads_no_other_file(table: Path, tmp_path: Path, attack: Callable[..., None], reader: str) -> None:
    kind, read = READERS[reader]
    read(table)
    other = tmp_path / "other"
    other.write_bytes(SECRET + bytes(20))
    with h5py.File(table, "r+") as file:
        attack(file, other)
    with pytest.raises(kind, match="from another file"):
        read(table)


def test_a_matrix_of_10x_reads_no_other_file(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "filtered_feature_bc_matrix.h5"
    other.write_bytes(SECRET + bytes(20))
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["indptr"], matrix["indices"], matrix["data"] = np.array([0, 1]), np.array([0]), np.array([1])
        matrix["shape"] = np.array([1, 1])
        matrix.create_dataset("barcodes", shape=(1,), dtype="S19", external=[(str(other), 0, 19)])
    with pytest.raises(SectionError, match=r"matrix/barcodes from another file"), open_h5(path) as store:
        assert store.barcodes[0] != SECRET


def test_categories_that_only_a_reference_leads_to(table: Path, tmp_path: Path) -> None:
    """C programs can write datasets without a name that stay; h5py keeps them while the file is open."""
    with h5py.File(table, "r+") as file:
        hidden = file.create_dataset(None, shape=(2,), dtype="S10", external=[(str(tmp_path / "other"), 0, 20)])
        assert not list(hdf5._elsewhere(file))
        file["obs/cell_type"].attrs["categories"] = hidden.ref
        assert list(hdf5._elsewhere(file)) == ["obs/cell_type (categories)"]


def test_links_and_views_within_a_file_are_its_own(table: Path) -> None:
    with h5py.File(table, "r+") as file:
        file["layers/same"] = h5py.SoftLink("/X")
        file["layers/twin"] = file["X"]
        layout = h5py.VirtualLayout((2, 2), np.float32)
        layout[:] = h5py.VirtualSource(".", "X", (2, 2))
        view = file["layers"].create_virtual_dataset("view", layout)
        view.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    assert (read_labels(table).layers["view"] == 1).all()
    with h5py.File(table, "r+") as file:
        file["round"] = file["/"]
    check_hdf5(table)


class Program:
    """What a pickle runs when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def _array(folder: Path, data: bytes, dtype: str, **codecs: Any) -> None:
    (folder / "0" / "0").mkdir(parents=True)
    shape = {"shape": [3, 64, 64], "chunks": [3, 64, 64], "dtype": dtype, "fill_value": 0 if dtype == "|u1" else None}
    facts = {"zarr_format": 2, "order": "C", "compressor": None, "filters": None, "dimension_separator": "/"}
    (folder / ".zarray").write_text(json.dumps({**facts, **shape, **codecs}))
    (folder / "0" / "0" / "0").write_bytes(data)


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}]},
        {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]},
    ],
)
def test_no_pickle_in_an_image_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codecs: dict[str, Any]
) -> None:
    extra_module("st", "zarr")
    # Releases before 0.16.6 or so know no such switch, and obey.
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    image, trace = tmp_path / "image.zarr", tmp_path / "it-ran"
    image.mkdir()
    (image / ".zgroup").write_text('{"zarr_format": 2}')
    levels = [
        {"path": name, "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * step, 0.5 * step]}]}
        for name, step in (("0", 1), ("1", 4))
    ]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "cyx"]
    (image / ".zattrs").write_text(json.dumps({"multiscales": [{"axes": axes, "datasets": levels}]}))
    _array(image / "0", bytes(3 * 64 * 64), "|u1")
    check_zarr(image)
    _array(image / "1", pickle.dumps(Program(trace)), "|O", **codecs)
    with pytest.raises(SlideError, match="pickled arrays"):
        open_slide(image).read(0, 0, 16, 16, 2.0)
    assert not trace.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_store_whose_links_lead_back_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    (tmp_path / "again").symlink_to(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(zarr, "_codecs", lambda file: read.append(file) or set())
    check_zarr(tmp_path)
    assert read == [tmp_path / "zarr.json"]


@pytest.mark.parametrize("name", [".zarray", ".zmetadata", "zarr.json"])
@pytest.mark.parametrize("text", ['[{"id": "\\u0070ickle"}]', '{"a": [{"b": {"name": "numcodecs.Pickle"}}]}'])
def test_a_pickle_is_found_wherever_it_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / name).write_text(text)
    with pytest.raises(SectionError, match="pickled arrays"):
        check_zarr(tmp_path, SectionError)


def _ome(other: str) -> str:
    """OME-XML of one picture that lies in another file."""
    picture = 'Type="uint8" SizeX="256" SizeY="192" SizeC="3" SizeZ="1" SizeT="1" DimensionOrder="XYCZT"'
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" {picture} PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1">'
        f'<UUID FileName="{other}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )


@pytest.mark.parametrize("way", ["{}", "../other/patient.tif", "patient.tif"])
@pytest.mark.parametrize("levels", [0, 1])
def test_a_slide_does_not_show_the_pixels_of_another(tmp_path: Path, way: str, levels: int) -> None:
    other, slide = tmp_path / "other" / "patient.tif", tmp_path / "sent" / "slide.ome.tif"
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    for path, colour, text in ((other, 10, None), (slide, 200, _ome(way.format(other)))):
        path.parent.mkdir()
        tiled: dict[str, Any] = {"tile": (64, 64)} if levels or path == other else {}
        with tifffile.TiffWriter(path, ome=False) as tif:
            tif.write(np.full((192, 256, 3), colour, np.uint8), description=text, subifds=levels, **tiled, **options)
            for _ in range(levels):
                tif.write(np.full((96, 128, 3), colour, np.uint8), subfiletype=1, **tiled, **options)
    (slide.parent / other.name).write_bytes(other.read_bytes())
    # tifffile takes the other file's pixels; of late, only where it lies beside or is known by its id.
    try:
        shown: object = open_slide(slide, mpp=0.5).read(0, 0, 8, 8, 0.5).mean()
    except SlideError as error:
        shown = error.what
    assert shown in (200, "takes its pixels from another file")
    assert open_slide(other, mpp=0.5).read(0, 0, 8, 8, 0.5).mean() == 10


def _vms(folder: Path, image: str) -> Path:
    """A slide of Hamamatsu: an index that names pictures."""
    (folder / "sent").mkdir(exist_ok=True)
    (folder / "other").mkdir(exist_ok=True)
    for place, side in (("sent/s-map.jpg", 64), ("sent/s-macro.jpg", 64), ("sent/s.jpg", 256), ("other/s.jpg", 256)):
        pixels = np.full((side, side, 3), 200 if "sent" in place else 10, np.uint8)
        Image.fromarray(pixels).save(folder / place, quality=95, restart_marker_blocks=1, subsampling="4:4:4")
    facts = {"NoLayers": 1, "NoJpegColumns": 1, "NoJpegRows": 1, "ImageFile": image, "MapFile": "s-map.jpg"}
    facts |= {"MacroImage": "s-macro.jpg", "PhysicalWidth": 128000, "PhysicalHeight": 128000, "SourceLens": 20}
    lines = "".join(f"{key}={value}\n" for key, value in facts.items())
    (folder / "sent" / "s.vms").write_text(f"[Virtual Microscope Specimen]\n{lines}")
    return folder / "sent" / "s.vms"


def test_an_index_names_no_picture_of_another_slide(tmp_path: Path) -> None:
    slide = _vms(tmp_path, "s.jpg")
    assert open_slide(slide, mpp=0.5).read(0, 0, 8, 8, 0.5).mean() > 190
    before = slide_digest(slide)
    hostile = _vms(tmp_path, "../other/s.jpg")
    assert openslide.OpenSlide(hostile).read_region((0, 0), 0, (8, 8)).getpixel((0, 0))[0] < 20, "OpenSlide shows it"
    with pytest.raises(SlideError, match="none of its own"):
        open_slide(hostile, mpp=0.5)
    with pytest.raises(SlideError, match="none of its own"):
        slide_digest(hostile)
    plain = _vms(tmp_path, "picture.jpg")
    for content in ("sent/s.jpg", "other/s.jpg"):
        (plain.parent / "picture.jpg").write_bytes((tmp_path / content).read_bytes())
        after = slide_digest(plain)
        assert after != before, "a picture of any name is part of the slide"
        before = after


@pytest.mark.parametrize("line", ["FILE_0 = ../other/Data0000.dat", "INDEXFILE=/etc/passwd", " file_12 =..\\\\x.dat"])
def test_an_index_of_mirax_names_its_own_files(tmp_path: Path, line: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s.mrxs").write_bytes(b"m")
    (tmp_path / "s" / "Slidedat.ini").write_text("[DATAFILE]\nFILE_0 = Data0000.dat\nINDEXFILE = Index.dat\n")
    assert named_files(tmp_path / "s.mrxs") == ["Data0000.dat", "Index.dat"]
    (tmp_path / "s" / "Slidedat.ini").write_text(f"[DATAFILE]\r\n{line}\r\n")
    with pytest.raises(SlideError, match="none of its own"):
        named_files(tmp_path / "s.mrxs")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("what", ["pipe", "device", "link to itself", "link to nowhere"])
def test_a_store_with_a_chunk_that_has_no_end_is_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "X" / "c").mkdir(parents=True)
    chunk = tmp_path / "X" / "c" / "0"
    match what:
        case "pipe":
            os.mkfifo(chunk)
        case "device":
            chunk.symlink_to("/dev/zero")
        case "link to itself":
            chunk.symlink_to("0")
        case _:
            chunk.symlink_to("nowhere")
    if what.startswith("link"):  # whoever reads it is told at once that it is not there
        check_zarr(tmp_path)
        return
    with pytest.raises(SectionError, match="is a pipe, a socket or a device") as caught:
        check_zarr(tmp_path, SectionError)
    assert caught.value.where == str(chunk)
