"""Images of some tiles or less: a region of interest, a core, a patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

import histomix as hm
from histomix.errors import SectionError
from histomix.slides import open_slide, tissue_mask
from histomix.spots import check_alignment
from histomix.spots.pseudo_spots import pseudo_spots

MPP = 0.25
TISSUE, NUCLEUS, GLASS = (226, 160, 190), (90, 60, 130), (243, 242, 244)


def region(folder: Path, size_px: tuple[int, int] = (600, 600), glass: int = 0) -> Path:
    """A region of the size (width, height) with nuclei and their table, glass around it, and a sheet."""
    rng = np.random.default_rng(3)
    width, height = size_px
    pixels = np.full((height, width, 3), TISSUE, float) + rng.normal(0, 6, (height, width, 1))
    y, x = np.mgrid[:height, :width]
    cells = []
    for number in range(260):
        at_x, at_y = rng.integers(6, width - 6), rng.integers(6, height - 6)
        pixels[(x - at_x) ** 2 + (y - at_y) ** 2 < 14**2] = NUCLEUS
        cells.append((number, at_x + glass, at_y + glass, "Lymphocytes" if number % 3 else "Epithelial"))
    pixels = np.stack([np.pad(pixels[..., i], glass, constant_values=GLASS[i]) for i in range(3)], axis=-1)
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "roi.png")
    pd.DataFrame(cells, columns=["cell", "x_px", "y_px", "cell_type"]).to_csv(folder / "cells.csv", index=False)
    (folder / "sheet.csv").write_text(
        f"section,donor,spots,image,mpp,format\nroi,D,cells.csv,roi.png,{MPP},cells\n", encoding="utf-8"
    )
    return folder / "sheet.csv"


@pytest.mark.parametrize("size_px", [(600, 600), (520, 460), (1200, 450)])
def test_a_region_that_is_all_tissue_is_tissue(tmp_path: Path, size_px: tuple[int, int]) -> None:
    region(tmp_path, size_px)
    with open_slide(tmp_path / "roi.png", MPP) as slide:
        assert tissue_mask(slide).mask.all()


def test_a_speck_amid_glass_is_still_dust(tmp_path: Path) -> None:
    region(tmp_path, (600, 600), glass=200)
    with open_slide(tmp_path / "roi.png", MPP) as slide:
        assert not tissue_mask(slide).mask.any()


def test_what_reaches_the_edge_may_go_on_beyond_it(tmp_path: Path) -> None:
    region(tmp_path, (600, 600), glass=200)
    whole = np.asarray(Image.open(tmp_path / "roi.png"))
    Image.fromarray(whole[200:]).save(tmp_path / "cut.png")
    with open_slide(tmp_path / "cut.png", MPP) as slide:
        mask = tissue_mask(slide)
    assert mask.mask[0].any() and mask.area_mm2 == pytest.approx(0.15**2, rel=0.25)


@pytest.mark.parametrize("size_px", [(600, 600), (460, 1000), (2000, 700)])
def test_tiles_of_cells_lie_wholly_in_the_image(tmp_path: Path, size_px: tuple[int, int]) -> None:
    section = hm.read_cohort(region(tmp_path, size_px)).section("roi")
    half = section.spot_diameter_um / MPP / 2
    assert len(section.keys) == max(1, size_px[0] // 448) * max(1, size_px[1] // 448)
    assert (section.spots_px >= half).all() and (section.spots_px + half <= size_px).all()


def test_a_tile_larger_than_the_image_is_refused(tmp_path: Path) -> None:
    cells = pd.DataFrame({"x_px": [100.0, 200.0], "y_px": [100.0, 200.0]})
    with pytest.raises(SectionError, match="no spot of 112 um with cells lies wholly in the image of 75 x 150 um"):
        pseudo_spots(cells, 112, mpp=MPP, size_um=112, image_px=(300, 600))


def test_a_region_is_embedded_as_it_stands(tmp_path: Path) -> None:
    cohort = hm.read_cohort(region(tmp_path))
    labels = hm.label(cohort, method="cells")
    features = hm.embed(cohort, out=tmp_path / "features")
    table = features["roi"]
    assert list(table.obs_names) == list(labels["roi"].values.index) == ["r0c0"]
    assert table.obs["tissue"].tolist() == [1.0] and np.isfinite(table.X).all()


@pytest.mark.parametrize("name", ["TCGA-49-6743-01Z-00-DX2_004", "TCGA-IZ-A6M9-01Z-00-DX1_2"])
def test_spots_of_a_region_need_not_fill_its_tissue(data_dir: Path, tmp_path: Path, name: str) -> None:
    """Where the image was cut from tissue, the tissue beside the spots says nothing; amid glass it does."""
    cells = pd.read_csv(data_dir / "monusac" / "cells" / f"{name}.csv")
    picture = Image.open(data_dir / "monusac" / "images" / f"{name}.jpg")
    axes = [np.arange(224, length - 224 + 0.01, 112) for length in picture.size]
    places = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    inside = (np.abs(cells[["x_px", "y_px"]].to_numpy()[None] - places[:, None]) < 224).all(axis=2).sum(axis=1)
    for glass in (0, 600):
        spots = pd.DataFrame(places[inside >= 5] + glass, columns=["x_px", "y_px"]).rename_axis("spot")
        spots.to_csv(tmp_path / "spots.csv")
        ImageOps.expand(picture, glass, GLASS).save(tmp_path / "image.png")
        sheet = tmp_path / "sheet.csv"
        sheet.write_text(f"section,donor,spots,image,mpp\nroi,D,spots.csv,image.png,{MPP}\n", encoding="utf-8")
        found = check_alignment(hm.read_cohort(sheet).section("roi"))
        assert found.on_tissue > 0.97
        assert found.ok == (glass == 0), found.problems
