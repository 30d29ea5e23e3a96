"""The tissue of a slide is divided once: every pixel of it is read, or has one reason why not, and no mm2 is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

import histomix as hm
from histomix.errors import MapError, SlideError, SlideReadError
from histomix.heads import Head
from histomix.maps import CompositionMap
from histomix.maps.areas import (
    BLUR,
    DAMAGED,
    EXCLUDED,
    FAT,
    FOLD,
    OUT_OF_SCOPE,
    PEN,
    READ,
    REASONS,
    TOO_SMALL,
    areas_mm2,
    areas_sentence,
    read_areas,
    write_areas,
)  # fmt: skip
from histomix.prediction import Settings, SlideJob
from histomix.prediction.areas import final_areas, knows_fat, planned_areas
from histomix.prediction.encoders import Model
from histomix.prediction.plan import TILE
from histomix.prediction.run import SlideRun
from histomix.slides import TissueMask, open_slide, tissue, tissue_mask
from histomix.slides.focus import OUT_OF_FOCUS, sharpness

from .conftest import Job, manifest_of
from .slide_heads import TYPES, Colours, colour_head, tissue_pixels, tissue_slide

pytestmark = pytest.mark.once

WHITE, PINK, PEN_BLUE = (244, 243, 244), (205, 130, 175), (60, 85, 190)


@pytest.fixture(scope="module")
def head() -> Head:
    return colour_head([Colours()])


def with_types(head: Head, *types: str) -> Head:
    return Head({**head.card, "cell_types": list(types)}, head.estimator, head.novelty_model)


def run(slide: Path, head: Head, folder: Path, **options: Any) -> tuple[CompositionMap, dict[str, Any]]:
    mpp = options.pop("mpp", None)
    encoders = options.pop("encoders", None) or [Colours()]
    job = SlideJob(str(slide), folder, mpp)
    found = SlideRun(job, Settings.of(head.card["digest"], **options), Model(head, encoders)).run()
    if found.error is not None:
        raise found.error
    one = CompositionMap.open(folder)
    return one, one.status()


def kinds_at_random(rng: np.random.Generator) -> np.ndarray:
    shape = tuple(rng.integers(20, 90, 2))
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    kinds = np.digitize(field, np.quantile(field, [0.4, 0.7, 0.8, 0.87, 0.94])).astype(np.uint8)
    return kinds  # 0 to 5, glass the most


def facts_at_random(rng: np.random.Generator, kinds: np.ndarray, places: str) -> dict[str, Any]:
    mpp = float(rng.uniform(0.2, 1.0))
    size, stride = int(rng.integers(16, 64)), float(rng.uniform(10, 120))
    grid = [int(np.ceil(side * 8.0 / stride)) for side in kinds.shape[::-1]]
    bounds = rng.integers(0, 200, 2).tolist() if rng.random() < 0.5 else [0, 0]
    return {
        "slide": {"mpp": mpp, "bounds_px": bounds},
        "tile": {"size_px": size, "mpp": 1.0},
        "cell_px": (stride if places == "grid" else size) / mpp,
        "grid": grid if places == "grid" else None,
        "places": places,
        "tissue_areas": {"mpp": 8.0},
    }


@pytest.mark.parametrize("places", ["grid", "spots"])
def test_every_pixel_of_tissue_has_one_reason(places: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        kinds = kinds_at_random(rng)
        mask = TissueMask(np.isin(kinds, (tissue.TISSUE, tissue.FAT)), 8.0, kinds)
        facts = facts_at_random(rng, kinds, places)
        tiles = np.zeros(int(rng.integers(1, 30)), TILE)
        outside = np.zeros((2, 0), int)
        if places == "grid":
            columns, rows = facts["grid"]
            chosen = rng.permutation(columns * rows)[: len(tiles)]
            tiles = tiles[: len(chosen)]
            tiles["column"], tiles["row"] = chosen % columns, chosen // columns
            away = rng.permutation(columns * rows)[:10]
            away = away[~np.isin(away, chosen)]
            outside = np.stack([away % columns, away // columns])
        else:
            height, width = kinds.shape
            tiles["x_px"] = rng.uniform(0, width * 8 / facts["slide"]["mpp"], len(tiles))
            tiles["y_px"] = rng.uniform(0, height * 8 / facts["slide"]["mpp"], len(tiles))
        planned = planned_areas(mask, tiles, facts, outside)
        state = rng.choice([READ, OUT_OF_SCOPE, DAMAGED, BLUR], len(tiles)).astype(np.uint8)
        final = final_areas(planned, tiles, facts, state)
        assert ((final == 0) == (kinds == tissue.GLASS)).all() and final.max() <= len(REASONS)
        assert sum(areas_mm2(final, 8.0).values()) == pytest.approx(mask.area_mm2)
        # What the picture shows goes before what a tile says, and nothing but planned places changes.
        assert set(final[kinds == tissue.PEN]) <= {PEN, EXCLUDED} and set(final[kinds == tissue.FOLD]) <= {
            FOLD,
            EXCLUDED,
        }
        assert (final[planned != READ] == planned[planned != READ]).all()
        assert set(final[planned == READ]) <= {READ, OUT_OF_SCOPE, DAMAGED, BLUR}
        assert not (final[kinds == tissue.TISSUE] == FAT).any() and not (final[kinds == tissue.FAT] == TOO_SMALL).any()
        if places == "grid":
            half = facts["tile"]["size_px"] / facts["slide"]["mpp"] / 2
            for y, x in np.argwhere(planned == READ)[::7]:
                place = (np.array([x, y]) + 0.5) * 8 / facts["slide"]["mpp"] - facts["slide"]["bounds_px"] - half
                column, row = np.floor(place / facts["cell_px"] + 0.5).astype(int)
                here = state[(tiles["column"] == column) & (tiles["row"] == row)]
                assert final[y, x] == here[0]


def test_the_raster_is_a_picture_and_its_codes(tmp_path: Path) -> None:
    raster = np.arange(len(REASONS) + 1, dtype=np.uint8).repeat(20).reshape(10, 20)
    write_areas(tmp_path / "not_read.png", raster, 8.0)
    np.testing.assert_array_equal(read_areas(tmp_path / "not_read.png"), raster)
    with Image.open(tmp_path / "not_read.png") as image:
        legend = json.loads(image.info["legend"])
        assert tuple(np.asarray(image.convert("RGB"))[READ, 0]) == REASONS[0].colour
    assert legend["mpp"] == 8.0 and legend["names"] == {
        "0": "glass", **{str(code): one.name for code, one in enumerate(REASONS, 1)},
    }  # fmt: skip
    Image.fromarray(np.full((5, 5, 3), 9, np.uint8)).save(tmp_path / "other.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for name in ("other.png", "broken.png"):
        with pytest.raises(MapError, match="predict again"):
            read_areas(tmp_path / name)
    told = areas_sentence({"read": 9.1, "pen": 0.2, "too_small": 3.0, "fat": 0.0})
    assert told == "9.1 of 12.3 mm2 of tissue were read; 3 too small, 0.2 under pen"


def test_a_map_says_what_became_of_the_tissue(job: Job, tmp_path: Path) -> None:
    from histomix.encoders import load_encoder

    one, status = run(job.image, hm.load_head(job.head), tmp_path / "P", encoders=[load_encoder("builtin")])
    raster = one.not_read()
    assert raster is not None and raster.dtype == np.uint8
    with open_slide(job.image) as slide:
        mask = tissue_mask(slide)
    assert raster.shape == mask.mask.shape and ((raster > 0) == (mask.kinds > 0)).all()
    assert one.areas_mm2 == pytest.approx(areas_mm2(raster, mask.mpp))
    assert one.areas_mm2 == pytest.approx(status["areas_mm2"], abs=1e-5)
    assert sum(one.areas_mm2.values()) == pytest.approx(one.manifest["tissue_mm2"]) == pytest.approx(mask.area_mm2)
    cells = len(one) * (one.cell_px * one.mpp / 1000) ** 2
    assert 0.6 * cells < one.areas_mm2["read"] <= cells
    assert one.adata.obs["in_focus"].all() and one.areas_mm2["blur"] == 0
    tables = hm.cohort_tables(tmp_path / "P", progress=False)
    for name, area in one.areas_mm2.items():
        assert tables.slides[f"{name}_mm2"].tolist() == pytest.approx([area])
    assert tables.slides["tissue_found_mm2"].tolist() == pytest.approx([mask.area_mm2])
    geojson = json.loads((tmp_path / "P" / "tiles.geojson").read_text(encoding="utf-8"))
    assert geojson["tissue_areas_mm2"] == pytest.approx(status["areas_mm2"], abs=1e-5) and len(geojson["features"]) > 9
    page = hm.write_report([tmp_path / "P"], tmp_path / "report", progress=False)
    text = Path(str(page)).read_text(encoding="utf-8")
    assert areas_sentence(one.areas_mm2) in text and "What was read of the tissue" in text
    in_memory = manifest_of(hm.predict(job.image, job.head))
    assert in_memory["tissue_areas"] == one.manifest["tissue_areas"]


def test_adipocytes_are_on_the_map(job: Job) -> None:
    from histomix.encoders import load_encoder

    encoder, head = load_encoder("builtin"), hm.load_head(job.head)
    assert knows_fat(head)
    on_mask, on_map = [], []
    for row in hm.read_cohort(job.sheet).rows:
        cells = pd.read_csv(job.sheet.parent / "truth" / f"{row.section}.cells.csv.gz")
        xy_px = cells.loc[cells["type"] == "Adipocytes", ["x_px", "y_px"]].to_numpy()
        with open_slide(str(row.image)) as slide:
            on_mask += tissue_mask(slide).contains(xy_px, 0.5).tolist()
        one = CompositionMap(hm.predict(str(row.image), head, mpp=0.5, encoders=[encoder], progress=False))
        away = np.abs(xy_px[:, None] - one.xy_px[None]).max(axis=2).min(axis=1)
        on_map += (away <= one.cell_px / 2).tolist()
    # Before fat was looked for, one in ten was on the mask.
    assert len(on_mask) > 40 and np.mean(on_mask) > 0.95 and np.mean(on_map) > 0.85, (np.mean(on_mask), np.mean(on_map))


def test_a_slide_out_of_focus_is_said_to_be(job: Job, tmp_path: Path) -> None:
    from histomix.encoders import load_encoder

    with open_slide(job.image) as slide:
        pixels = slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp)
    blurred = ndimage.gaussian_filter(pixels.astype(np.float32), (5, 5, 0))  # 2.5 um
    edge = 0.4 * pixels.shape[1]
    part = np.where(np.arange(pixels.shape[1])[:, None] < edge, blurred, pixels)
    trained, encoder = hm.load_head(job.head), load_encoder("builtin")
    for name, image in {"all": blurred, "part": part}.items():
        Image.fromarray(np.rint(image).astype(np.uint8)).save(tmp_path / f"{name}.png")
        one, status = run(tmp_path / f"{name}.png", trained, tmp_path / name, mpp=0.5, encoders=[encoder])
        told = any("out of focus" in remark for remark in status["remarks"])
        clear = np.abs(one.xy_px[:, 0] - edge) > 140
        expected = np.zeros(len(one), bool) if name == "all" else one.xy_px[:, 0] > edge
        np.testing.assert_array_equal(one.adata.obs["in_focus"].to_numpy()[clear], expected[clear])
        assert told == (name == "all") and one.areas_mm2["blur"] > 0.05
        assert one.read_ok.all()  # they are read all the same
        # What is blurred looks larger: the um per px alone is not blamed for it.
        if one.manifest["scale_check"]["told"]:
            assert ("the focus" in one.reading.scale) == (name == "all")


def test_sharpness_follows_blur_alone() -> None:
    rng = np.random.default_rng(0)
    pixels = tissue_pixels(600, 600).astype(float)
    for x, y in rng.integers(20, 580, (700, 2)):  # nuclei
        pixels[y - 3 : y + 4, x - 4 : x + 5] *= 0.6

    def tile(image: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)[None, 100:324, 60:284]

    sharp = sharpness(tile(pixels), 0.5)[0]
    assert sharp > OUT_OF_FOCUS + 2
    for change in (pixels * 0.7, 255 - (255 - pixels) * 0.5, pixels[:, ::-1], pixels * [1, 0.8, 0.9]):
        assert sharpness(tile(change), 0.5)[0] == pytest.approx(sharp, abs=1)
    by_sd = [sharpness(tile(ndimage.gaussian_filter(pixels, (sd, sd, 0))), 0.5)[0] for sd in (1, 2, 4, 6, 10)]
    assert (np.diff([sharp, *by_sd]) < 0).all() and by_sd[2] < OUT_OF_FOCUS < by_sd[0]
    assert np.isnan(sharpness(np.full((2, 224, 224, 3), 240, np.uint8), 0.5)).all()
    assert np.isnan(sharpness(tile(pixels), 2.0)).all() and sharpness(tile(pixels)[:0], 0.5).shape == (0,)


def test_tiles_that_could_not_be_decoded_are_damaged(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histomix.embedding import engine

    slide, read = tissue_slide(tmp_path / "A.tif"), engine.read_tile

    def fail_left(slide: hm.Slide, x_px: float, y_px: float, spec: hm.TileSpec) -> np.ndarray:
        if x_px < 800:
            raise SlideReadError("broken", where=slide.path)
        return read(slide, x_px, y_px, spec)

    monkeypatch.setattr(engine, "read_tile", fail_left)
    one, _ = run(slide, head, tmp_path / "out")
    raster = one.not_read()
    assert raster is not None and set(np.unique(raster[:, :48])) <= {0, DAMAGED, TOO_SMALL, FAT}
    assert one.areas_mm2["damaged"] > 0.05 and not (raster[:, 53:] == DAMAGED).any()


def test_what_was_not_asked_for_is_excluded(head: Head, tmp_path: Path) -> None:
    slide = tissue_slide(tmp_path / "A.tif")
    ring = [[0, 0], [800, 0], [800, 1400], [0, 1400], [0, 0]]
    regions = tmp_path / "regions.geojson"
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    regions.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
    one, _ = run(slide, head, tmp_path / "left", regions=regions)
    raster = one.not_read()
    assert raster is not None and set(np.unique(raster[:, 53:])) == {0, EXCLUDED}
    assert not (raster[:, :48] == EXCLUDED).any()
    spots = tmp_path / "spots.csv"
    spots.write_text("spot,x_px,y_px\na,400,700\nb,1200,600\n", encoding="utf-8")
    at, _ = run(slide, head, tmp_path / "at", at=spots)
    assert at.areas_mm2["excluded"] > 0.9 * at.manifest["tissue_mm2"]
    predicted = sum(at.areas_mm2[name] for name in ("read", "out_of_scope"))
    assert predicted == pytest.approx(2 * 0.032**2, rel=0.1)


def fat_pixels(shape: tuple[int, int]) -> np.ndarray:
    """A sheet of fat at 0.5 um per px: lacunae of 80 um between septa of 3 um."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    septum = ((x + 30 * np.sin(y / 50)) % 160 < 6) | ((y + 30 * np.sin(x / 70)) % 160 < 6)
    pixels = np.where(septum[..., None], np.array([215, 160, 190]), 244).astype(float)
    return np.clip(pixels + np.random.default_rng(0).normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def test_fat_is_read_by_a_head_that_knows_it_and_counted_by_another(head: Head, tmp_path: Path) -> None:
    knowing = with_types(head, "Tumour", "Stroma", "Adipocytes")
    assert knows_fat(knowing) and not knows_fat(head) and not knows_fat(with_types(head, "Fatigued T cells", "a", "b"))
    pixels = np.full((1600, 2000, 3), 244, np.uint8)
    pixels[200:1400, 200:1000] = tissue_pixels(800, 1200)[600:601, 200:201]
    pixels[200:1400, 1000:1800] = fat_pixels((1200, 800))
    Image.fromarray(pixels).save(tmp_path / "half.png")
    read, _ = run(tmp_path / "half.png", knowing, tmp_path / "read", mpp=0.5)
    left, _ = run(tmp_path / "half.png", head, tmp_path / "left", mpp=0.5)
    whole, half = 1200 * 1600 * 0.25e-6, 1200 * 800 * 0.25e-6
    assert read.manifest["tissue_areas"]["fat_mm2"] == pytest.approx(half, rel=0.1)
    assert read.areas_mm2["fat"] < 0.1 * half and left.areas_mm2["fat"] == pytest.approx(half, rel=0.1)
    assert len(read) == pytest.approx(whole / 0.032**2, rel=0.1) and len(left) == pytest.approx(len(read) / 2, rel=0.1)
    Image.fromarray(np.pad(fat_pixels((1800, 1800)), ((200, 200), (200, 200), (0, 0)), constant_values=244)).save(
        tmp_path / "fat.png"
    )
    _, status = run(tmp_path / "fat.png", knowing, tmp_path / "fat", mpp=0.5)
    assert any("most of the tissue is fat" in remark for remark in status["remarks"])
    with pytest.raises(SlideError, match=r"no tissue was found.*fat, which this head has no cell type for: 0\.[678]"):
        run(tmp_path / "fat.png", head, tmp_path / "none", mpp=0.5)


def test_slides_without_tissue_say_what_is_there(head: Head, tmp_path: Path) -> None:
    white = np.full((1200, 1200, 3), 244, np.uint8)
    pen, crumbs = white.copy(), white.copy()
    pen[200:400, 100:1100] = PEN_BLUE
    crumbs[::300, ::300] = crumbs[1::300, 1::300] = PINK
    crumbs[500:620, 500:620] = PINK  # 60 um
    said = {"white": r"no tissue was found \([^;]*\)", "pen": r"pen marks or black: 0\.0", "crumbs": "pieces too small"}
    for (name, what), pixels in zip(said.items(), (white, pen, crumbs), strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        with pytest.raises(SlideError, match=what):
            run(tmp_path / f"{name}.png", head, tmp_path / name, mpp=0.5)


def test_cores_of_one_tile_are_said_to_be(tmp_path: Path) -> None:
    wide = colour_head([Colours(size_px=64)])  # 128 um
    pixels = np.full((2048, 2048, 3), 244, np.uint8)
    y, x = np.mgrid[:2048, :2048]
    core = np.hypot(x % 1024 - 384, y % 1024 - 384) < 190  # 190 um across, centred on a tile
    pixels[core] = tissue_pixels(2048, 2048)[1024, 512]
    Image.fromarray(pixels).save(tmp_path / "tma.png")
    one, status = run(tmp_path / "tma.png", wide, tmp_path / "out", mpp=0.5, encoders=[Colours(size_px=64)])
    assert len(one) == 4 and one.fragments == 4
    assert any("each of its 4 pieces of tissue holds one tile" in remark for remark in status["remarks"])
    assert sum(one.areas_mm2.values()) == pytest.approx(4 * np.pi * 0.095**2, rel=0.1)
    assert one.areas_mm2["too_small"] > 0.3 * one.manifest["tissue_mm2"]


def test_kept_features_of_an_earlier_version_say_nothing_of_focus(head: Head, tmp_path: Path) -> None:
    fine = Colours(size_px=64, mpp=0.5)
    trained = colour_head([fine])
    slide = tissue_slide(tmp_path / "A.tif")
    before, _ = run(slide, trained, tmp_path / "A", keep_features=True, encoders=[fine])
    assert "in_focus" in before.adata.obs and before.cell_types == TYPES
    (tmp_path / "A" / "features" / "sharpness.npy").unlink()
    other = colour_head([fine], seed=1)
    embedded = fine.tiles
    after, _ = run(slide, other, tmp_path / "A", keep_features=True, encoders=[fine])
    assert fine.tiles == embedded and "in_focus" not in after.adata.obs and after.areas_mm2["blur"] == 0
