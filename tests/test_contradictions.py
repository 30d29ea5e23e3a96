"""Files that say a thing twice, or one thing here and another there: refused, whichever reader opens them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import simplejpeg
import tifffile
from scipy import sparse

from histomix.common.storage.h5ad import write_h5ad
from histomix.errors import InputError, SectionError, SlideError, SlideReadError
from histomix.evaluation.measured.read_regions import read_regions
from histomix.provenance import read_json
from histomix.slides import open_slide, tissue_mask
from histomix.spots.formats.tenx.matrix import read_matrix
from histomix.spots.formats.tenx.positions import read_positions, read_scalefactors
from histomix.spots.readers import read_section_spots

from .slide_files import write_pyramid
from .test_damaged_tables import spots
from .torture.families.tiff import _coded, _patched, _tile_of

SMOOTH = np.kron(np.random.default_rng(1).integers(60, 200, (28, 56, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
RNG = np.random.default_rng(0)
_SCALE = {"photometric": "rgb", "metadata": None, "tile": (64, 64), "resolution": (2e4, 2e4), "resolutionunit": 3}


@pytest.mark.parametrize("codec", ["jpeg", "zlib", None])
@pytest.mark.parametrize("code", [256, 259, 277, 324])
def test_a_header_that_says_a_thing_twice(tmp_path: Path, codec: str | None, code: int) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, SMOOTH, compression=codec, software="another entry", **_SCALE)
    open_slide(path).close()
    _patched(305, _coded(code, 64))(path, RNG)
    with pytest.raises(SlideError, match=r"its header gives .* more than once|which gives 1 places"):
        open_slide(path)


@pytest.mark.parametrize("factors", [(), (4,)])
@pytest.mark.parametrize(("side", "colours"), [(128, "RGB"), (32, "RGB"), (64, "GRAY")])
def test_a_stream_of_another_size_or_of_other_samples_than_its_tile(
    tmp_path: Path, factors: tuple[int, ...], side: int, colours: str
) -> None:
    def encode(pixels: np.ndarray) -> bytes:
        some = np.ascontiguousarray(pixels[:side, :side, : 1 if colours == "GRAY" else 3])
        return simplejpeg.encode_jpeg(some, 90, colours)

    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tif:
        for factor in (1, *factors):
            tif.write(SMOOTH[::factor, ::factor], compression="jpeg", subfiletype=int(factor > 1), **_SCALE)
    _tile_of(encode)(path, RNG)
    with open_slide(path) as slide, pytest.raises(SlideReadError):
        slide.read(0, 0, 448, 224, 0.5)


@pytest.mark.parametrize("codec", ["jpeg", "zlib", None])
def test_two_images_of_one_size(tmp_path: Path, codec: str | None) -> None:
    """One of two pictures would be taken, by some readers without a word."""
    with tifffile.TiffWriter(tmp_path / "slide.tif") as tif:
        for pixels in (SMOOTH, 255 - SMOOTH):
            tif.write(pixels, compression=codec, **_SCALE)
    with pytest.raises(SlideError, match="is not one grey or RGB image"):
        open_slide(tmp_path / "slide.tif")


@pytest.mark.parametrize("other", [255 - SMOOTH, 255 - SMOOTH[:112]])
def test_a_second_image_of_a_scanner_is_no_level(tmp_path: Path, other: np.ndarray) -> None:
    """Of a stack of focal planes, or of two pictures, the first is the slide."""
    about = "Aperio Image Library v11\r\n448x224 (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(tmp_path / "slide.svs") as tif:
        for pixels in (SMOOTH, other):
            tif.write(pixels, compression="jpeg", description=about, **_SCALE)
    with open_slide(tmp_path / "slide.svs") as slide:
        assert slide.reader == "openslide"
        for mpp in (0.5, 1.0):
            pixels = slide.read(0, 0, 96, 96, mpp).astype(float)
            assert np.abs(pixels.mean((0, 1)) - SMOOTH[: int(192 * mpp), : int(192 * mpp)].mean((0, 1))).max() < 2


def test_levels_of_a_pyramid_stay(tmp_path: Path) -> None:
    with open_slide(write_pyramid(tmp_path / "slide.tif", SMOOTH, factors=(2, 4), compression="jpeg")) as slide:
        assert [round(one) for one in slide._downsamples] == [1, 2, 4]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [(1, "2", "'in_tissue' is 2 .* neither 0 nor 1"), (1, "0.5", "in_tissue"), (2, "1.5", "no place of the array"),
     (3, "1e300", "no place of the array")],
)  # fmt: skip
def test_positions_that_are_none(tmp_path: Path, column: int, value: str, words: str) -> None:
    row = ["AAAG-1", "1", "0", "2", "10", "40"]
    row[column] = value
    path = tmp_path / "tissue_positions_list.csv"
    path.write_text("AAAC-1,1,0,0,10,20\n" + ",".join(row) + "\n", encoding="utf-8")
    with pytest.raises(SectionError, match=words):
        read_positions(path)


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix])
def test_two_numbers_for_one_place_of_a_matrix(tmp_path: Path, layout: Callable[..., sparse.spmatrix]) -> None:
    write_h5ad(tmp_path / "t.h5ad", spots(layout(np.ones((9, 2), np.float32))))
    read_section_spots(tmp_path / "t.h5ad", "h5ad", with_counts=True)
    with h5py.File(tmp_path / "t.h5ad", "r+") as file:
        file["X/indices"][1] = file["X/indices"][0]
    with pytest.raises(SectionError, match="X is no whole sparse matrix: it has two numbers for one place"):
        read_section_spots(tmp_path / "t.h5ad", "h5ad", with_counts=True)


def test_a_spot_in_two_regions(tmp_path: Path) -> None:
    path = tmp_path / "regions.csv"
    path.write_text("spot,region\ns1,Tumour\ns2,Stroma\ns1,Tumour\n", encoding="utf-8")
    assert read_regions(path).keys[0]["s1"] == "Tumour"
    path.write_text("spot,region\ns1,Tumour\ns2,Stroma\ns1,Stroma\n", encoding="utf-8")
    with pytest.raises(InputError, match="the spot 's1' is of 'Tumour' and of 'Stroma'"):
        read_regions(path)


def test_json_that_says_a_thing_twice(tmp_path: Path) -> None:
    text = '{"microns_per_pixel": 0.5, "a": {"b": 1, "b": 1}}'
    for name in ("card.json", "scalefactors_json.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="an object has 'b' twice"):
        read_json(tmp_path / "card.json")
    with pytest.raises(SectionError, match="an object has 'b' twice"):
        read_scalefactors(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"a": [{"b": 1}, {"b": 2}]}), encoding="utf-8")
    assert read_json(tmp_path / "card.json") == {"a": [{"b": 1}, {"b": 2}]}


@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, lambda level: 255 - level, np.zeros_like])
@pytest.mark.parametrize("codec", ["jpeg", "zlib"])
def test_levels_that_show_different_pictures(
    tmp_path: Path, codec: str, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Tissue is found on one level, and read from another."""
    picture = np.repeat(np.repeat(SMOOTH[::8, ::8][:7, :14], 32, axis=0), 32, axis=1)
    for name, change in (("whole", np.asarray), ("other", turn)):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as tif:
            for factor in (1, 4):
                level = np.ascontiguousarray(picture if factor == 1 else change(picture[::4, ::4]))
                tif.write(level, compression=codec, subfiletype=int(factor > 1), **_SCALE)
    with open_slide(tmp_path / "whole.tif") as slide:
        tissue_mask(slide)
    with open_slide(tmp_path / "other.tif") as slide, pytest.raises(SlideError, match="its levels show different"):
        tissue_mask(slide)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("integer", "4", None), ("real", "4.0", None), ("real", "4e0", None),
        ("integer", "4.5", r"'\.' among numbers that are integer"), ("integer", "1e3", "'e' among"),
        ("integer", "1,5", "',' among"), ("real", "1,5", "',' among"), ("real", "0x1F", "'x' among"),
        ("integer", "-4", "'-' among"), ("pattern", "4", "is pattern and general"), ("complex", "4 1", "is complex"),
    ],
)  # fmt: skip
def test_a_matrix_whose_numbers_are_not_of_its_kind(
    tmp_path: Path, kind: str, value: str, words: str | None, packed: bool
) -> None:
    text = f"%%MatrixMarket matrix coordinate {kind} general\n% by 10x, in 2020\n2 2 2\n1 1 {value}\n2 2 5\n"
    for name, content in (("matrix.mtx", text), ("barcodes.tsv", "A-1\nC-1\n"), ("features.tsv", "g1\tG1\ng2\tG2\n")):
        data = content.encode()
        (tmp_path / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(data) if packed else data)
    if words is None:
        assert read_matrix(tmp_path).matrix.toarray().tolist() == [[4, 0], [0, 5]]
        return
    with pytest.raises(SectionError, match=words):
        read_matrix(tmp_path)


@pytest.mark.parametrize("values", [np.ones(18, bool), np.ones(18, np.complex128)])
def test_matrices_that_are_no_counts(tmp_path: Path, values: np.ndarray) -> None:
    write_h5ad(tmp_path / "t.h5ad", spots(layers := sparse.csr_matrix(np.ones((9, 2), np.float32))))
    with h5py.File(tmp_path / "t.h5ad", "r+") as file:
        del file["X/data"]
        file["X/data"] = values
    with pytest.raises(SectionError, match=rf"has no counts \(X is of the type {values.dtype}\)"):
        read_section_spots(tmp_path / "t.h5ad", "h5ad", with_counts=True)
    data = spots(layers, counts=layers)
    data.X = layers.astype(bool)
    write_h5ad(tmp_path / "u.h5ad", data)
    assert read_section_spots(tmp_path / "u.h5ad", "h5ad", with_counts=True).adata.X.sum() == 18
