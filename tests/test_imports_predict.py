"""Heads on features that others computed: trained, evaluated and applied without our embed, and honest about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from typer.testing import CliRunner

import histomix as hm
import histomix.embedding.engine
import histomix.prediction.encoders
from histomix.cli.app import app
from histomix.embedding import slide_features
from histomix.embedding.features import write_features
from histomix.embedding.identity import STATED
from histomix.errors import FeatureError, HistomixError, InputError
from histomix.heads.cards.text import card_terms
from histomix.slides import TileSpec
from histomix.slides.tiles import read_tile, tiles_at_spots, tiles_on_grid

from .conftest import Job, manifest_of
from .extras import extra_module
from .foreign_features import Tiles, hest_bench, places_table, trident

RUN = CliRunner()
UNI = TileSpec(224, 0.5)


def run(*words: object) -> tuple[int, str, str]:
    result = RUN.invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    return small_job


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are at hand: whoever loads an encoder fails."""

    def absent(*_args: object, **_named: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(histomix.prediction.encoders, "load_encoder", absent)
    monkeypatch.setattr(histomix.embedding.engine, "embed_tiles", absent)


@pytest.fixture(scope="module")
def grid(job: Job) -> tuple[Tiles, ad.AnnData]:
    """The tiles of a grid of the first slide through the built-in encoder, and the features as ours."""
    encoder = hm.load_encoder("builtin")
    with hm.open_slide(job.image) as slide:
        table = slide_features(slide, tiles_on_grid(slide, encoder.tile_spec()), encoder)
        side = encoder.tile_spec().size_um / slide.mpp
    keys, centres = np.asarray(table.obs_names, object), np.asarray(table.obsm["spatial"])
    return Tiles(job.image.stem, np.asarray(table.X), centres, side, keys), table


def test_a_map_of_given_features_is_that_of_the_tiles(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path, no_encoder: None
) -> None:
    tiles, table = grid
    path = trident(tmp_path / f"{tiles.name}.h5", tiles)
    found = hm.predict(job.image, job.head, features=path, encoder="builtin")
    expected = hm.load_head(job.head).output(table)
    np.testing.assert_allclose(np.asarray(found.X), expected.values, atol=1e-5)
    np.testing.assert_allclose(found.obs["novelty"], expected.novelty, atol=1e-6)
    np.testing.assert_allclose(found.layers["lower"], expected.lower, atol=1e-5)
    np.testing.assert_allclose(found.obsm["spatial"], table.obsm["spatial"], atol=1.0)
    assert "in_focus" not in found.obs and found.obs["read_ok"].all()
    told = manifest_of(found)["features"]
    assert told["format"] == "TRIDENT h5" and told["stated"] == ["encoder"] and "tile_px" in told["read"]
    assert tiles.name not in json.dumps(told)


def test_the_verb_applies_a_head_without_weights_and_keeps_what_is_up_to_date(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path, no_encoder: None
) -> None:
    tiles, _ = grid
    path = trident(tmp_path / "theirs" / f"{tiles.name}.h5", tiles)
    words = [
        "predict",
        job.image,
        "--head",
        job.head,
        "--mpp",
        "0.5",
        "--features",
        path.parent,
        "--encoder",
        "builtin",
    ]
    code, out, err = run(*words, "--out", tmp_path / "maps", "--keep-features")
    assert code == 0, err
    assert "stated, not verified" in err and f"{len(tiles.keys):,} tiles" in out
    first = pd.read_csv(tmp_path / "maps" / tiles.name / "composition.csv")
    assert (tmp_path / "maps" / tiles.name / "features" / "features.npy").is_file()

    code, out, _ = run(*words, "--out", tmp_path / "maps", "--keep-features")
    assert code == 0 and "kept: nothing has changed" in out
    code, _, err = run(*words, "--out", tmp_path / "again", "--reuse", tmp_path / "maps")
    assert code == 0, err
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / tiles.name / "composition.csv"), first)

    # What others computed never stands for what the encoder gives: it is asked for.
    without = words[: words.index("--features")]
    code, _, err = run(*without, "--out", tmp_path / "own", "--reuse", tmp_path / "maps")
    assert code == 1 and "an encoder was loaded" in err

    trident(path, tiles.but(vectors=tiles.vectors * 2))
    code, out, _ = run(*words, "--out", tmp_path / "maps", "--keep-features")
    assert code == 0 and "kept" not in out
    other = pd.read_csv(tmp_path / "maps" / tiles.name / "composition.csv")
    assert not np.allclose(other["novelty"], first["novelty"])


def test_features_at_given_places_and_in_regions(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path, no_encoder: None
) -> None:
    tiles, table = grid
    path = trident(tmp_path / f"{tiles.name}.h5", tiles)
    spots = pd.DataFrame(tiles.centres[[4, 1]] + 3.0, index=["b", "a"], columns=["x_px", "y_px"])
    spots.loc["far"] = [5.0, 5.0]
    found = hm.predict(job.image, job.head, features=path, encoder="builtin", at=spots)
    expected = hm.load_head(job.head).output(table).values
    assert list(found.obs_names) == ["b", "a", "far"] and found.obs["read_ok"].tolist() == [True, True, False]
    np.testing.assert_allclose(np.asarray(found.X)[:2], expected[[4, 1]], atol=1e-5)

    x, y = tiles.centres[4]
    ring = [[x - 9, y - 9], [x + 9, y - 9], [x + 9, y + 9], [x - 9, y + 9], [x - 9, y - 9]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": shape, "properties": {"name": "one"}}
    (tmp_path / "one.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    found = hm.predict(job.image, job.head, features=path, encoder="builtin", regions=tmp_path / "one.geojson")
    np.testing.assert_allclose(np.asarray(found.X), expected[[4]], atol=1e-5)


def test_features_that_the_head_does_not_know_are_refused(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path, no_encoder: None
) -> None:
    tiles, _ = grid
    path = trident(tmp_path / f"{tiles.name}.h5", tiles)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (path, {}, "which encoder made these features is not in the file"),
        (path, {"encoder": "uni"}, "what the head was trained on: encoder uni, not builtin"),
        (path, {"encoder": "builtin", "tile_um": 56}, "side in um: the file says 112"),
    ]
    for name, change, attributes, words in (
        ("pooling", tiles.but(vectors=tiles.vectors[:, :512]), {}, "512 features, and builtin gives 544"),
        ("tile", tiles.but(side=448.0), {"patch_size": 224}, "224 um wide, and those asked for 112 um"),
        ("scale", tiles, {"target_magnification": 20, "patch_size": 224, "patch_size_level0": 448}, "224 um wide on"),
        ("slide", tiles.but(name="Other"), {}, "is of the slide Other"),
    ):
        one = trident(tmp_path / name / f"{tiles.name}.h5", change, **attributes)
        refused.append((one, {"encoder": "builtin"}, words))
    refused.append(([f"Other={path}"], {"encoder": "builtin"}, "none of the files of features is of this slide"))
    for given, stated, words in refused:
        with pytest.raises(FeatureError, match=words):
            hm.predict(job.image, job.head, features=given, **stated)
    with pytest.raises(InputError, match="stated, and no features"):
        hm.predict(job.image, job.head, encoder="builtin")
    with pytest.raises(InputError, match="a stride already"):
        hm.predict(job.image, job.head, features=path, encoder="builtin", stride_um=56)
    code, _, err = run(
        *("predict", job.image, "--head", job.head, "--mpp", "0.5", "--features", path, "--encoder", "uni"),
        *("--out", tmp_path / "maps"),
    )
    assert code == 1 and "encoder uni, not builtin" in err


def test_features_of_our_own_store_are_verified_by_their_digest(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path, no_encoder: None
) -> None:
    tiles, table = grid
    own = tmp_path / f"{tiles.name}.h5ad"
    write_features(own, table)
    found = hm.predict(job.image, job.head, features=own)
    np.testing.assert_allclose(np.asarray(found.X), hm.load_head(job.head).output(table).values, atol=1e-5)
    other = table.copy()
    facts = manifest_of(table)
    other.uns["manifest"] = json.dumps({**facts, "encoder": {**facts["encoder"], "digest": "abc"}})
    write_features(own, other)
    with pytest.raises(FeatureError, match="digest abc, not"):
        hm.predict(job.image, job.head, features=own)


@pytest.fixture(scope="module")
def uni_like() -> torch.nn.Module:
    """A vision transformer at random weights, of UNI's width and tile, as shallow as a test needs."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(img_size=224, patch_size=16, embed_dim=1024, depth=1, num_heads=16, num_classes=0)
    return network.eval()


def _uni(network: torch.nn.Module, slide: hm.Slide, table: pd.DataFrame) -> Tiles:
    """What TRIDENT would have made of a slide with it."""
    tiles = np.stack([read_tile(slide, x, y, UNI) for x, y in table[["x_px", "y_px"]].to_numpy()])
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    pixels = torch.from_numpy(((tiles / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
    with torch.inference_mode():
        vectors = torch.cat([network(batch) for batch in pixels.split(8)]).numpy().astype(np.float16)
    side = UNI.size_um / slide.mpp
    return Tiles(slide.name, vectors, table[["x_px", "y_px"]].to_numpy(), side, np.asarray(table.index, object))


def test_features_of_a_uni_like_network_are_trained_evaluated_and_predicted_without_our_embed(
    job: Job, uni_like: torch.nn.Module, tmp_path: Path, no_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"patch_size": 224, "target_magnification": 20, "level0_magnification": 20}
    cohort, folder = hm.read_cohort(job.sheet), tmp_path / "features_uni_v1"
    for name in cohort.names:
        section = cohort.section(name, counts=False)
        with section.slide() as slide:
            spots = _uni(uni_like, slide, tiles_at_spots(slide, section.spots_px, section.keys, UNI))
            trident(folder / f"{slide.name}.h5", spots, **facts)
    with hm.open_slide(job.image) as slide:
        grid = _uni(uni_like, slide, tiles_on_grid(slide, UNI))
    path = trident(tmp_path / "grid" / f"{grid.name}.h5", grid, **facts)

    code, out, err = run(
        "import-features", folder, "--sheet", job.sheet, "--encoder", "uni_v1", "--out", tmp_path / "features"
    )
    assert code == 0 and "1024 features each (uni, stated; tiles of 112 um)" in out, err
    table = ["--features", tmp_path / "features", "--labels", job.labels]
    code, _, err = run("evaluate", job.sheet, *table, "--heads", "ridge", "--out", tmp_path / "evaluation")
    assert code == 0, err
    assert {"ridge", "mean"} <= set(pd.read_csv(tmp_path / "evaluation" / "metrics.csv")["head"])
    code, _, err = run("train", job.sheet, *table, "--head", "ridge", "--out", tmp_path / "head")
    assert code == 0, err
    predict = ["predict", job.image, "--head", tmp_path / "head", "--mpp", "0.5", "--features", path]
    code, _, err = run(*predict, "--encoder", "uni_v1", "--out", tmp_path / "maps")
    assert code == 0, err
    found = ad.read_h5ad(tmp_path / "maps" / job.image.stem / "composition.h5ad")
    head = hm.load_head(tmp_path / "head")
    expected = head.apply(grid.vectors.astype(np.float32), grid.centres * 0.5)
    np.testing.assert_allclose(np.asarray(found.X), expected.values, atol=1e-5)
    code, _, err = run("report", tmp_path / "evaluation", tmp_path / "features", "--out", tmp_path / "report")
    assert code == 0, err

    # The head says of itself what it was trained on.
    entry = head.card["encoders"][0]
    assert (entry["name"], entry["size_px"], entry["mpp"], entry["views"]) == ("uni", 224, 0.5, 1)
    assert entry["digest"].startswith(STATED) and entry["imported"]["format"] == "TRIDENT h5"
    assert head.stain_damping is None and head.scale_model is None
    words = "The features of uni were computed by others and imported (TRIDENT h5): nothing of the encoder was verified"
    assert any(words in line for line in card_terms(head.card)) and words.split(" (")[0] in head.card_markdown()
    assert "CC-BY-NC-ND" in head.card["encoder_licences"][0]["licence"]
    code, out, _ = run("head", "show", tmp_path / "head")
    assert code == 0 and words in out


def test_a_head_on_stated_weights_takes_the_encoder_of_that_name(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever gets the weights later may use them; that they are the same stays a statement."""
    cohort = hm.read_cohort(job.sheet)
    own = hm.read_features(job.features)
    for name, table in own.items():
        tiles = Tiles(name, np.asarray(table.X), table.obsm["spatial"], 224.0, np.asarray(table.obs_names, object))
        hest_bench(tmp_path / "theirs" / f"{name}.h5", tiles)
    features = hm.import_features(tmp_path / "theirs", cohort, encoder="builtin", tile_um=112)
    head = hm.train(cohort, features, job.labels, head="ridge")
    assert head.predict_features(own[cohort.names[0]]).shape[0] == own[cohort.names[0]].n_obs
    caplog.set_level("INFO", logger="histomix")
    found = hm.predict(job.image, head)
    assert found.n_obs and "is stated, not verified" in caplog.text
    head.card["encoders"][0]["name"] = "resnet50-imagenet"
    with pytest.raises(HistomixError):
        hm.predict(job.image, head, encoders=[hm.load_encoder("builtin")])


def test_features_without_places_cannot_be_laid_on_a_slide(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path
) -> None:
    tiles, _ = grid
    np.savez(tmp_path / f"{tiles.name}.npz", features=tiles.vectors, barcodes=tiles.keys.astype(str))
    with pytest.raises(FeatureError, match="does not say where they are"):
        hm.predict(job.image, job.head, features=tmp_path, encoder="builtin", tile_um=112)
    places_table(tmp_path / f"{tiles.name}_coords.csv", tiles)
    found = hm.predict(
        job.image, job.head, features=tmp_path, encoder="builtin", tile_um=112, origin="centre", scale=1.0
    )
    assert found.n_obs == len(tiles.keys)


def test_a_head_on_two_encoders_takes_features_of_each(
    job: Job, grid: tuple[Tiles, ad.AnnData], tmp_path: Path, no_encoder: None
) -> None:
    tiles, table = grid
    rng, facts = np.random.default_rng(0), {"patch_size": 224, "target_magnification": 20}
    cohort, dim = hm.read_cohort(job.sheet), 768
    for name, features in hm.read_features(job.features).items():
        keys = np.asarray(features.obs_names, object)
        vectors = rng.normal(size=(len(keys), dim)).astype(np.float16)
        trident(
            tmp_path / "theirs" / f"{name}.h5", Tiles(name, vectors, features.obsm["spatial"], 224.0, keys), **facts
        )
    second = hm.import_features(tmp_path / "theirs", cohort, encoder="phikon")
    head = hm.train(cohort, [hm.read_features(job.features), second], job.labels, head="ridge")

    write_features(tmp_path / f"{tiles.name}.h5ad", table)
    vectors = rng.normal(size=(len(tiles.keys), dim)).astype(np.float32)
    turned = tiles.but(vectors=vectors[::-1], centres=tiles.centres[::-1], keys=tiles.keys[::-1])
    other = trident(tmp_path / f"{tiles.name}.h5", turned, **facts)
    both = [tmp_path / f"{tiles.name}.h5ad", other]
    found = hm.predict(job.image, head, features=both, encoder=["builtin", "phikon"])
    X = np.concatenate([np.asarray(table.X), vectors], axis=1)
    expected = head.apply(X, np.asarray(table.obsm["spatial"]) * 0.5)
    np.testing.assert_allclose(np.asarray(found.X), expected.values, atol=1e-5)
    with pytest.raises(FeatureError, match="features of 1 encoders are given"):
        hm.predict(job.image, head, features=other, encoder="phikon")
    other_places = turned.but(centres=turned.centres + 20.0)
    trident(other, other_places, **facts)
    with pytest.raises(FeatureError, match="not of the same tiles"):
        hm.predict(job.image, head, features=both, encoder=["builtin", "phikon"])


def test_tiles_that_lazyslide_has_cut_are_read_where_they_lie(job: Job, tmp_path: Path) -> None:
    zs = extra_module("dev", "lazyslide")
    from wsidata import open_wsi
    from wsidata.io import add_features

    with hm.open_slide(job.image) as slide:
        pixels = slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp)
    path, store = tmp_path / "slide.tif", tmp_path / "slide.zarr"
    resolution = {"resolution": (1e4 / 0.5, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **resolution)
    wsi = open_wsi(path, store=str(store))
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, 112, mpp=1.0, overlap=0.25)
    bounds = wsi.shapes["tiles"].bounds
    centres = np.stack([bounds["minx"] + bounds["maxx"], bounds["miny"] + bounds["maxy"]], axis=1) / 2
    table = pd.DataFrame(centres, columns=["x_px", "y_px"]).assign(tissue=1.0)
    with hm.open_slide(path) as slide:
        features = slide_features(slide, table, hm.load_encoder("builtin"))
    add_features(wsi, "builtin_tiles", "tiles", np.asarray(features.X))
    add_features(wsi, "uni2_tiles", "tiles", np.ones((len(table), 1536), np.float32))
    wsi.write()
    found = hm.predict(path, job.head, features=store, encoder="builtin")
    expected = hm.load_head(job.head).output(features).values
    rows = [np.flatnonzero(np.abs(centres - place).max(axis=1) < 1.0).item() for place in found.obsm["spatial"]]
    assert len(rows) > 10
    np.testing.assert_allclose(np.asarray(found.X), expected[rows], atol=1e-5)
    told = manifest_of(found)["features"]
    assert told["format"] == "LazySlide zarr" and {"mpp", "side_px0", "tile_px"} <= set(told["read"])
    with pytest.raises(FeatureError, match="features of builtin, uni2, none of conch"):
        hm.predict(path, job.head, features=store, encoder="conch")
